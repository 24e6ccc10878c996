"""Training nested subnetworks together, on shared weights.

Every subnetwork computes with slices of the same kernels, but has batch normalisation of its own: statistics, scales
and shifts, which converters fold into the kernels anyway (Yu et al., "Slimmable neural networks", ICLR 2019).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from zoo.backend import keras, tf
from zoo.batches import TrainingData
from zoo.blocks import drop_blocks
from zoo.channels import Channels, analyse, kept_positions, slice_model, take
from zoo.finetune import train
from zoo.fused import fused
from zoo.subnetworks.loss import JointLoss, Together
from zoo.subnetworks.skipping import widths_without

Widths = Mapping[str, int]
"""Per channel group, how many of its first channels a subnetwork has."""


class Member(NamedTuple):
    """What a subnetwork has of the whole network.

    Attributes:
        widths: prefix lengths by channel group; groups that are missing stay whole.
        drop: the blocks that it skips.
    """

    widths: Widths
    drop: tuple[str, ...] = ()


def cut_member(model: Any, member: Member) -> Any:
    """A subnetwork of an ordered network, as a network of its own.

    Raises:
        ModelError: groups, widths or blocks that the network does not have.
    """
    return slice_model(*_left(model, member))


def _left(model: Any, member: Member) -> tuple[Channels, Widths]:
    """The network without the blocks that are skipped, and the widths of the groups that are left."""
    channels = analyse(model)
    channels.positions(member.widths)
    left = analyse(drop_blocks(channels.model, member.drop)) if member.drop else channels
    return left, widths_without(channels, left, member.widths) if member.drop else member.widths


def train_jointly(
    model: Any,
    members: Sequence[Member],
    data: TrainingData,
    *,
    epochs: int,
    learning_rate: float,
    loss: JointLoss = "distilled",
    teacher: Any = None,
    seed: int = 0,
    checkpoint: Path | None = None,
) -> list[Any]:
    """Fine-tunes nested subnetworks of an ordered network together and returns them, one per member.

    Args:
        model: the network, its channels in order of importance; its weights, which are shared, change.
        members: the subnetworks, the widest last, and the whole network included where it is wanted.
        data: train and tune splits.
        epochs: passes over the train split; none leaves the weights as they are.
        learning_rate: where the cosine schedule starts.
        loss: what is made small, of ``zoo.subnetworks.loss``.
        teacher: a network whose answers are half of the target.
        seed: of the order of the examples.
        checkpoint: a directory in which the run is kept after every epoch, so that it can go on.

    Raises:
        UsageError: an unknown loss.
        ModelError: what a member names is not there, or no epoch ended with weights that are numbers.
    """
    family = _Family(model, members, loss)
    if epochs:
        train(
            family,
            data,
            epochs=epochs,
            learning_rate=learning_rate,
            teacher=teacher,
            seed=seed,
            checkpoint=checkpoint,
            name="subnetworks",
        )
    return family.networks()


class _Family(keras.Model):  # type: ignore[misc]
    """Subnetworks as one model: its weights are the shared ones, and what each subnetwork has of its own."""

    def __init__(self, shared: Any, members: Sequence[Member], loss: JointLoss) -> None:
        super().__init__()
        self.shared = shared
        self._members = _Hidden([_Subnetwork(shared, member) for member in members])
        self.own = [variable for member in self._members.each for variable in member.own]
        self._loss = Together([member.model.count_params() for member in self._members.each], loss)
        self._mean_loss = keras.metrics.Mean(name="loss")
        self.built = True

    @property
    def metrics(self) -> list[Any]:
        """The loss alone, for Keras to reset before each epoch."""
        return [self._mean_loss]

    def train_step(self, batch: Any) -> dict[str, Any]:
        """One step of all subnetworks together."""
        x, targets = batch
        with tf.GradientTape() as tape:
            answers = [member.train_on(x) for member in self._members.each]
            loss = self._loss.training(answers, targets)
        variables = self.trainable_variables
        gradients = tape.gradient(
            loss, [v.value for v in variables], unconnected_gradients=tf.UnconnectedGradients.ZERO
        )
        self.optimizer.apply([tf.convert_to_tensor(gradient) for gradient in gradients], variables)
        self._mean_loss.update_state(loss)
        return {"loss": self._mean_loss.result()}

    def test_step(self, batch: Any) -> dict[str, Any]:
        """The subnetworks' cross-entropies, weighted by their shares."""
        x, targets = batch
        self._mean_loss.update_state(self._loss.plain([member.answer(x) for member in self._members.each], targets))
        return {"loss": self._mean_loss.result()}

    def networks(self) -> list[Any]:
        """The subnetworks, the slices as weights of their own."""
        return [member.taken() for member in self._members.each]


class _Hidden:
    """Things that Keras shall not take for parts of a model."""

    def __init__(self, each: Sequence[Any]) -> None:
        self.each = each


class _Subnetwork:
    """A cut network that computes with slices of the shared weights, and with batch normalisation of its own.

    Attributes:
        model: the cut network.
        own: its variables that are not slices.
    """

    def __init__(self, shared: Any, member: Member) -> None:
        left, widths = _left(shared, member)
        self.model = slice_model(left, widths)
        self._trained = fused(self.model)
        positions = kept_positions(left, widths)
        self._sources = []
        for layer in self._trained.layers:
            if not isinstance(layer, keras.layers.BatchNormalization):
                whole = shared.get_layer(layer.name)
                for source, target in zip(whole.trainable_variables, layer.trainable_variables, strict=True):
                    self._sources.append((source, target, positions.get(layer.name, {}).get(source.name, {})))
        sliced = {id(target) for _, target, _ in self._sources}
        self.own = [variable for variable in self._trained.variables if id(variable) not in sliced]

    def train_on(self, x: Any) -> Any:
        """The answers to a batch; the batch-norm statistics take note of it."""
        state = self._trained.non_trainable_variables
        answers, after = self._trained.stateless_call(self._weights(), [v.value for v in state], x, training=True)
        for variable, value in zip(state, after, strict=True):
            variable.assign(value)
        return answers

    def answer(self, x: Any) -> Any:
        """The answers to a batch."""
        state = [variable.value for variable in self._trained.non_trainable_variables]
        return self._trained.stateless_call(self._weights(), state, x, training=False)[0]

    def taken(self) -> Any:
        """The network, the slices made its own weights."""
        for source, target, axes in self._sources:
            target.assign(take(source.numpy(), axes, np.take))
        self.model.set_weights(self._trained.get_weights())
        return self.model

    def _weights(self) -> list[Any]:
        slices = {id(target): take(source.value, axes, tf.gather) for source, target, axes in self._sources}
        return [slices.get(id(variable), variable.value) for variable in self._trained.trainable_variables]
