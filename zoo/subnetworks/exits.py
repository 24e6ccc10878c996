"""Early exits: networks of growing depth on one trunk, each of which can go on where the one before it stopped.

At a few points that everything passes through, a small head answers already (Teerapittayanon et al., "BranchyNet: fast
inference via early exiting from deep neural networks", 2016). All heads are trained together with the trunk.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fleetfoot.errors import ModelError
from zoo.backend import keras
from zoo.batches import TrainingData
from zoo.cost import count_macs
from zoo.finetune import train
from zoo.fused import fused
from zoo.graph import calls, copy_layer, copy_weights, inlined, rebuild
from zoo.subnetworks.ladder import check_fractions
from zoo.subnetworks.loss import JointLoss, Together

layers = keras.layers

_POOLINGS = {3: layers.AveragePooling1D, 4: layers.AveragePooling2D, 5: layers.AveragePooling3D}
"""By the rank of what is pooled."""
_POSITIONS = (4, 2, 1)
"""To how many positions in each direction a head may pool."""
_HEAD_SHARE = 0.01
"""The most of the whole network's multiply-accumulates that a head takes, unless one position takes more."""


class ExitPoint(NamedTuple):
    """A place in a network that everything passes through.

    Attributes:
        layer: the name of the layer that makes what passes.
        macs: multiply-accumulates up to there.
        features: what passes, as a symbolic tensor of the network.
    """

    layer: str
    macs: int
    features: Any


@dataclass(frozen=True)
class Exits:
    """A network with early exits.

    Attributes:
        networks: from the raw input to probabilities, the shallowest first, the whole network last; layers are shared.
        features: what each but the last hands on to the next, as symbolic tensors.
    """

    networks: tuple[Any, ...]
    features: tuple[Any, ...]


def exit_points(model: Any) -> list[ExitPoint]:
    """The places in a network after which nothing earlier is read, in order; of those between two kernels, the last.

    Args:
        model: a functional or sequential model of one input and one output; the layers of models inside it are named
            as by ``zoo.graph.inlined``.

    Raises:
        ModelError: a convolution that works on sizes which the network leaves open.
    """
    model = inlined(model)
    whole = count_macs(model)
    points: dict[int, ExitPoint] = {}
    for layer, features in _passages(model):
        macs = count_macs(keras.Model(model.inputs[0], features))
        points[macs] = ExitPoint(layer, macs, features)
    return [point for point in points.values() if 0 < point.macs < whole]


def exit_shares(model: Any) -> tuple[float, ...]:
    """The shares of a network's multiply-accumulates that exits of it take, with their heads, ascending.

    Raises:
        ModelError: a convolution that works on sizes which the network leaves open.
    """
    return tuple(candidate.share for candidate in _candidates(inlined(model)))


def with_exits(model: Any, fractions: Sequence[float]) -> Exits:
    """The network with an exit for each fraction of its multiply-accumulates, as deep as fits in it with its head.

    Args:
        model: a functional or sequential classification network. It stays as it is: the trunk has weights of its own.
        fractions: ascending; 1 is the whole network, which is there whether it is named or not.

    Raises:
        UsageError: fractions outside (0, 1], unsorted or repeated.
        ModelError: a fraction below what the first exit takes, or two fractions of the same exit.
    """
    check_fractions(fractions)
    trunk = inlined(model)
    if trunk is model:
        trunk = rebuild(model, copy_layer)
        copy_weights(model, trunk)
    candidates = _candidates(trunk)
    numbers = deepest_within([candidate.share for candidate in candidates], [share for share in fractions if share < 1])
    chosen = [candidates[number] for number in numbers]
    return Exits(
        (*(candidate.network for candidate in chosen), trunk), tuple(candidate.features for candidate in chosen)
    )


def train_exits(
    exits: Exits,
    data: TrainingData,
    *,
    epochs: int,
    learning_rate: float,
    loss: JointLoss = "distilled",
    teacher: Any = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    name: str = "exits",
) -> None:
    """Trains all exits together, in place, by one pass through the trunk for each batch.

    Args:
        exits: the networks.
        data: train and tune splits.
        epochs: passes over the train split.
        learning_rate: where the cosine schedule starts.
        loss: what is made small, of ``zoo.subnetworks.loss``; an exit's share is that of the multiply-accumulates.
        teacher: a network whose answers are half of the target.
        seed: of the order of the examples.
        checkpoint: a directory in which the run is kept, as by ``zoo.finetune.train``.
        name: what the progress bar calls it.

    Raises:
        ModelError: no epoch ended with weights and a loss that are numbers.
    """
    answers = keras.Model(exits.networks[-1].input, [network.outputs[0] for network in exits.networks])
    trained = fused(answers)
    train(
        _Family(trained, Together([count_macs(network) for network in exits.networks], loss)),
        data,
        epochs=epochs,
        learning_rate=learning_rate,
        teacher=teacher,
        seed=seed,
        checkpoint=checkpoint,
        name=name,
    )
    if trained is not answers:
        answers.set_weights(trained.get_weights())


def _passages(model: Any) -> Iterator[tuple[str, Any]]:
    """The tensors that everything passes through, each with the name of the layer that makes it, in order.

    After the call that makes one, no other tensor is still to be read.
    """
    steps = list(calls(model))
    last_read = {id(tensor): step for step, call in enumerate(steps) for tensor in call.inputs}
    unread: set[int] = set()
    for step, call in enumerate(steps):
        unread |= {id(tensor) for tensor in call.outputs if id(tensor) in last_read}
        unread -= {id(tensor) for tensor in call.inputs if last_read[id(tensor)] == step}
        if len(call.outputs) == 1 and unread == {id(call.outputs[0])}:
            yield call.layer.name, call.outputs[0]


class _Candidate(NamedTuple):
    """An exit that there could be: its share of the multiply-accumulates, its network and what it hands on."""

    share: float
    network: Any
    features: Any


def _candidates(trunk: Any) -> list[_Candidate]:
    """The exits that a network can have, deeper ones taking more; none that takes more than a deeper one."""
    whole = count_macs(trunk)
    found: list[_Candidate] = []
    for point in reversed(exit_points(trunk)):
        network = _with_head(trunk, point, _HEAD_SHARE * whole)
        share = count_macs(network) / whole
        if share < (found[-1].share if found else 1):
            found.append(_Candidate(share, network, point.features))
    return found[::-1]


def _with_head(trunk: Any, point: ExitPoint, most_macs: float) -> Any:
    """The network that ends at a point in averages of a few positions, a dense layer and a softmax.

    Of four positions in each direction where these take no more than so many multiply-accumulates, else of fewer:
    features that the rest of the network was to look at together are badly summed up by an average of all.
    """
    name, x = f"{point.layer}_exit", point.features
    classes = trunk.outputs[0].shape[-1]
    if len(x.shape) in _POOLINGS:
        directions = len(x.shape) - 2
        costs = {positions: positions**directions * x.shape[-1] * classes for positions in _POSITIONS}
        positions = next((positions for positions in _POSITIONS if costs[positions] <= most_macs), 1)
        sizes = tuple(-(-size // positions) for size in x.shape[1:-1])
        x = _POOLINGS[len(x.shape)](sizes, padding="same", name=f"{name}_average")(x)
        x = layers.Flatten(name=f"{name}_flat")(x)
    probabilities = layers.Dense(classes, activation="softmax", name=f"{name}_probabilities")(x)
    return keras.Model(trunk.inputs[0], probabilities, name=f"{trunk.name}-{point.layer}")


def deepest_within(shares: Sequence[float], fractions: Sequence[float]) -> list[int]:
    """For each fraction, the number of the deepest exit whose share of the multiply-accumulates is within it.

    Args:
        shares: of the exits, ascending.
        fractions: ascending.

    Raises:
        ModelError: there is none, or it is another fraction's.
    """
    there = ", ".join(f"{share:.3f}" for share in shares)
    chosen: dict[int, float] = {}
    for fraction in fractions:
        number = bisect_right(shares, fraction) - 1
        if number < 0:
            raise ModelError(f"no exit takes {fraction:g} of the MACs: they take {there or 'nothing, there is none'}")
        if number in chosen:
            raise ModelError(
                f"{chosen[number]:g} and {fraction:g} of the MACs are the same exit: give only one of them, "
                f"exits take {there}"
            )
        chosen[number] = fraction
    return list(chosen)


class _Family(keras.Model):  # type: ignore[misc]
    """A network with the answers of all exits, and their loss."""

    def __init__(self, network: Any, loss: Together) -> None:
        super().__init__(name="exits")  # its own begins with an underscore, which TensorFlow refuses
        self.network = network
        self._together = loss
        self.built = True

    def call(self, x: Any, training: bool | None = None) -> Any:
        """The answers, by one pass through the trunk."""
        return self.network(x, training=training)

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None, training: bool = True
    ) -> Any:
        """The loss of all answers to a batch."""
        return self._together.training(y_pred, y) if training else self._together.plain(y_pred, y)
