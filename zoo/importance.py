"""How important each channel of a network is, by its weights or by what it does to the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fleetfoot.console import progress
from fleetfoot.errors import ModelError, UsageError, offer
from zoo.backend import keras, tf
from zoo.batches import TrainingData
from zoo.channels import Channels, Labels, Place, analyse
from zoo.channels.rules.passing import channel_axis
from zoo.graph import Call, calls

Values = npt.NDArray[np.float64]
"""The importance of each channel of a group, of shape (channels,)."""

CRITERIA = ("taylor", "l1", "l2", "bn-scale", "activation", "random")
OF_DATA = ("taylor", "activation")

_Weight = tuple[str, str]
"""The names of a layer and of one of its weights."""


def importance(
    model: Any | Channels, criterion: str, data: TrainingData | None = None, *, batches: int = 100, seed: int = 0
) -> dict[str, Values]:
    """The importance of every channel that can be cut.

    In what follows, a channel's own weights are those that make it (its part of kernels and biases, in all layers
    that make it) and those that carry it along (scale and shift of batch norms, depthwise kernels, slopes). They go
    when it is cut. What other channels read it with is theirs.

    ``taylor``: Σ |w · Σ ∂L/∂w|, the inner sum over the cross-entropies L of the minibatches, the outer one over the
        channel's own weights w: what the loss changes by, to first order, as each becomes zero (Corti et al., "REDS:
        Resource-Efficient Deep Subnetworks", 2023; Molchanov et al., "Importance estimation for neural network
        pruning", CVPR 2019, who square each term). The scale and shift of a batch norm count, because what is silent
        behind it is silent without both, and the shift is the only bias that a channel before it has. Batch norms
        compute with their moving statistics, as they do in use: with those of the batch the loss would not depend on
        the scale of the kernels before them, and would on which examples share a batch.
    ``l1``, ``l2``: the norm of the kernels that make the channel, biases left out (Li et al., "Pruning filters for
        efficient ConvNets", ICLR 2017).
    ``bn-scale``: |γ| of the batch norms that carry the channel, the mean of several (Liu et al., "Learning efficient
        convolutional networks through network slimming", ICCV 2017). Groups without any go by ``l2``.
    ``activation``: the mean of |x| of the channel as the layers get it that read it, over all positions and inputs;
        of several layers, the mean.
    ``random``: uniform between 0 and 1, by the seed and the name of the group alone.

    Args:
        model: a functional or sequential model, or its analysis; ``taylor`` takes its answers for probabilities.
        criterion: one of ``CRITERIA``.
        data: what ``taylor`` and ``activation`` look at: the train split, shuffled, with its augmentations.
        batches: how many minibatches of it, or all if there are fewer.
        seed: of the order of the examples, and of ``random``.

    Returns:
        Per channel group an array of shape (channels,), of finite numbers that are not negative. Scales differ
        between criteria and between layers.

    Raises:
        UsageError: an unknown criterion, no batches, or none to take for one that looks at data.
        ModelError: no channels that can be cut, weights or gradients that are NaN or infinite.
    """
    _check_options(criterion, data, batches)
    channels = analyse(model)
    channels.require_cuttable()
    _check_weights(channels.model)
    match criterion:
        case "taylor":
            scores = _taylor(channels, _drawn(data, batches, seed))
        case "l1" | "l2":
            scores = _norms(channels, int(criterion[1]))
        case "bn-scale":
            scores = _batch_norm_scales(channels)
        case "activation":
            scores = _activations(channels, _drawn(data, batches, seed))
        case _:
            scores = {name: _uniform(name, group.size, seed) for name, group in channels.cuttable.items()}
    _check_scores(scores, criterion, channels.model)
    return scores


def order(scores: Mapping[str, Values]) -> dict[str, list[int]]:
    """Per channel group all its channels, the most important first; equal ones in the order that they have."""
    return {name: np.argsort(-values, kind="stable").tolist() for name, values in scores.items()}


def _check_options(criterion: str, data: TrainingData | None, batches: int) -> None:
    if criterion not in CRITERIA:
        raise UsageError(f"there is no criterion {criterion!r}: {offer(criterion, CRITERIA)}")
    if batches < 1:
        raise UsageError(f"importance is taken of at least one batch, and {batches} is none")
    if criterion in OF_DATA and (data is None or not len(data.train)):
        raise UsageError(f"the criterion {criterion} looks at training data, and there is none: give some, or l2")


def _check_weights(model: Any) -> None:
    for layer in model.layers:
        for weight in layer.weights:
            if not np.isfinite(weight).all():
                raise ModelError(f"{model.name} has weights that are no numbers in layer {layer.name}: {weight.name}")


def _check_scores(scores: Mapping[str, Values], criterion: str, model: Any) -> None:
    for name, values in scores.items():
        if not np.isfinite(values).all():
            raise ModelError(
                f"{model.name} gives {criterion} importances that are no numbers in group {name}: "
                "are inputs and labels sound?"
            )


def _weights(model: Any) -> dict[_Weight, Any]:
    """All weights of a network."""
    return {(layer.name, weight.name): weight for layer in model.layers for weight in layer.weights}


def _learnt(model: Any) -> dict[_Weight, Any]:
    """The weights that training changes where a layer is not frozen: all but statistics."""
    learnt = {
        id(weight) for layer in model.layers for part in layer._flatten_layers() for weight in part._trainable_variables
    }
    return {key: weight for key, weight in _weights(model).items() if id(weight) in learnt}


def _drawn(data: TrainingData | None, batches: int, seed: int) -> Iterator[tuple[Any, Any]]:
    """The first minibatches of the shuffled train split: inputs, and targets of shape (examples, classes)."""
    assert data is not None
    shuffled = data.train_batches(seed=seed)
    count = min(batches, len(shuffled))
    with progress("weighing channels", count) as advance:
        for number in range(count):
            x, targets = shuffled[number]
            yield tf.convert_to_tensor(x), tf.convert_to_tensor(targets)
            advance(1)


# By weights.


def _norms(channels: Channels, power: int) -> dict[str, Values]:
    """The norms of the kernels that make each channel."""
    kernels = {key: weight for key, weight in _weights(channels.model).items() if len(weight.shape) > 1}
    powers = {key: np.abs(_float64(kernel)) ** power for key, kernel in kernels.items()}
    return {
        name: _summed(channels, name, powers, lambda place: place.role == "makes") ** (1 / power)
        for name in channels.cuttable
    }


def _batch_norm_scales(channels: Channels) -> dict[str, Values]:
    """The mean |γ| of each channel; the norm where it has none."""
    norms = [layer for layer in channels.model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    scales = {(norm.name, "gamma"): np.abs(_float64(norm.gamma)) for norm in norms if norm.scale}
    ones = {key: np.ones_like(scale) for key, scale in scales.items()}
    fall_back = _norms(channels, 2)
    scores = {}
    for name in channels.cuttable:
        total, count = (_summed(channels, name, values) for values in (scales, ones))
        scores[name] = total / count if count.all() else fall_back[name]
    return scores


def _uniform(name: str, size: int, seed: int) -> Values:
    return np.random.default_rng([seed, *name.encode()]).random(size)


# By gradients.


def _taylor(channels: Channels, drawn: Iterator[tuple[Any, Any]]) -> dict[str, Values]:
    """What the loss changes by, to first order, without the weights that are a channel's own."""
    own = _own_weights(channels)
    weights = {key: weight for key, weight in _learnt(channels.model).items() if key in own}
    gradients = _gradients(channels.model, list(weights.values()), drawn)
    changes = {
        key: np.abs(_float64(weight) * gradient)
        for (key, weight), gradient in zip(weights.items(), gradients, strict=True)
    }
    return {name: _summed(channels, name, changes, _is_own) for name in channels.cuttable}


def _gradients(model: Any, weights: Sequence[Any], drawn: Iterator[tuple[Any, Any]]) -> list[Values]:
    """The gradients of the cross-entropy, added up over minibatches; of frozen weights too."""
    variables = [weight.value for weight in weights]

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def add(totals: Any, x: Any, targets: Any) -> Any:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(variables)
            answers = model(x, training=False)
            loss = tf.reduce_mean(keras.losses.categorical_crossentropy(targets, answers))
        gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        return [total + gradient for total, gradient in zip(totals, gradients, strict=True)]

    totals = [tf.zeros_like(variable) for variable in variables]
    for x, targets in drawn:
        totals = add(totals, x, targets)
    return [_float64(total) for total in totals]


# By activations.


class _Reader(NamedTuple):
    """A layer's call that reads channels: the tensor, and the axis of it that has them."""

    layer: str
    tensor: Any
    axis: int


def _activations(channels: Channels, drawn: Iterator[tuple[Any, Any]]) -> dict[str, Values]:
    """The mean |x| of each channel as it is read."""
    read = {name: _read(channels, name) for name in channels.cuttable}
    if unread := [name for name, rows in read.items() if not rows]:
        raise ModelError(f"no layer says that it reads group {unread[0]}, so its activation is not known: take l2")
    layers = {layer for rows in read.values() for layer in rows}
    readers = [_reader(call) for call in calls(channels.model) if call.layer.name in layers]
    means = _mean_magnitudes(channels.model, readers, drawn)
    return {
        name: np.mean(
            [
                _mean_by_channel(mean, read[name][reader.layer], group.size)
                for reader, mean in zip(readers, means, strict=True)
                if reader.layer in read[name]
            ],
            axis=0,
        )
        for name, group in channels.cuttable.items()
    }


def _read(channels: Channels, group: str) -> dict[str, Labels]:
    """For each layer that reads a group, the channels that it reads, in turn."""
    rows: dict[str, Labels] = {}
    for place in channels.places(group):
        if place.role == "reads":
            rows.setdefault(place.layer, place.channels)
    return rows


def _reader(call: Call) -> _Reader:
    (tensor, *_) = call.inputs
    return _Reader(call.layer.name, tensor, 1 + channel_axis(call.layer, len(tensor.shape) - 1))


def _mean_magnitudes(model: Any, readers: Sequence[_Reader], drawn: Iterator[tuple[Any, Any]]) -> list[Values]:
    """For what each reader gets, the mean of |x| at each position of its axis."""
    inner = keras.Model(model.input, [reader.tensor for reader in readers])

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def magnitudes(x: Any) -> Any:
        tensors = keras.tree.flatten(inner(x, training=False))
        return [_mean_magnitude(tensor, reader.axis) for tensor, reader in zip(tensors, readers, strict=True)]

    totals, examples = [np.zeros(()) for _ in readers], 0
    for x, _ in drawn:
        examples += len(x)
        totals = [total + len(x) * _float64(mean) for total, mean in zip(totals, magnitudes(x), strict=True)]
    return [total / examples for total in totals]


def _mean_magnitude(tensor: Any, axis: int) -> Any:
    others = [other for other in range(len(tensor.shape)) if other != axis]
    return tf.reduce_mean(tf.abs(tf.cast(tensor, tf.float32)), axis=others)


def _mean_by_channel(values: Values, row: Labels, size: int) -> Values:
    """Values of positions as those of channels; a layer in blocks that are cut alike names the first block's."""
    row = np.tile(row, len(values) // len(row))
    return _by_channel(values, row, size) / _by_channel(np.ones_like(values), row, size)


# Sums over the places that a channel has.


def _is_own(place: Place) -> bool:
    """Whether a weight is there for this channel alone."""
    return place.role != "reads"


def _own_weights(channels: Channels) -> set[_Weight]:
    places = (place for name in channels.cuttable for place in channels.places(name))
    return {(place.layer, place.weight) for place in places if _is_own(place)}


def _summed(
    channels: Channels,
    group: str,
    values: Mapping[_Weight, Values],
    wanted: Callable[[Place], bool] = lambda place: True,
) -> Values:
    """For each channel of a group, the sum of values in the shape of weights, over the places wanted."""
    size = channels.groups[group].size
    total = np.zeros(size)
    for place in filter(wanted, channels.places(group)):
        of_weight = values.get((place.layer, place.weight))
        if of_weight is not None:  # a layer may do without it, as without a bias
            rows = np.moveaxis(of_weight, place.axis, -1).reshape(-1, len(place.channels))
            total += _by_channel(rows.sum(axis=0), place.channels, size)
    return total


def _by_channel(values: Values, row: Labels, size: int) -> Values:
    """The sum of the values that each channel has; those of other groups, numbered -1, are left out."""
    ours = row >= 0
    total = np.zeros(size)
    np.add.at(total, row[ours], values[ours])
    return total


def _float64(weight: Any) -> Values:
    return np.asarray(weight.numpy(), np.float64)
