"""Small networks of every form that channels can flow in, described by hand.

The descriptions say what the analysis under test must find by itself: which channels belong together, and
whose channels the rows of each kernel are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.backend import keras
from zoo.channels import Channels, kept_positions
from zoo.graph import copy_layer, inlined, rebuild, set_weights

layers = keras.layers
Array = npt.NDArray[Any]
Rows = Sequence[str | tuple[str, Sequence[int]]]
"""Groups, of each all channels in turn; or with the indices of its channels that are there."""


@dataclass(frozen=True)
class Network:
    """A network and what is true of it.

    Attributes:
        build: makes it, with Keras's initial weights.
        groups: the channel groups that can be cut, with their producers and size.
        rows: for each layer that reads such groups, the groups that its kernel's input rows belong to, in turn.
        fixed: the channel groups that cannot be cut.
        norms: for each layer that takes statistics over several channels, the groups that these belong to, in turn.
    """

    build: Callable[[], Any]
    groups: Mapping[str, tuple[Sequence[str], int]]
    rows: Mapping[str, Rows]
    fixed: Sequence[str] = ("out",)
    norms: Mapping[str, Rows] = field(default_factory=dict)

    def random(self, seed: int) -> Any:
        """The network with random weights, the statistics of its batch norms included."""
        model = self.build()
        randomize(model, seed)
        return model

    def silenced(self, model: Any, kept: Mapping[str, Sequence[int]]) -> Any:
        """The network as it is, but that nobody listens to the channels that are not kept."""
        silent = without_statistics(model, {name: self._heard(rows, kept) for name, rows in self.norms.items()})
        for name, rows in self.rows.items():
            kernel, axis = _read_kernel(silent.get_layer(name))
            silence(kernel, axis, self._heard(rows, kept))
        return silent

    def _heard(self, rows: Rows, kept: Mapping[str, Sequence[int]]) -> list[bool]:
        """For each row, whether its channel is kept."""
        heard = []
        for row in rows:
            group, indices = (row, range(self.groups[row][1])) if isinstance(row, str) else row
            heard += [index in kept.get(group, indices) for index in indices]
        return heard


def silence(kernel: Any, axis: int, heard: Sequence[bool]) -> None:
    """Sets to zero what is not heard along an axis of a kernel."""
    assert kernel.shape[axis] == len(heard)
    shape = [1] * len(kernel.shape)
    shape[axis] = -1
    kernel.assign(kernel.numpy() * np.reshape(heard, shape))


def _read_kernel(layer: Any) -> tuple[Any, int]:
    """The kernel that a layer reads its input with, and the axis of the input's channels."""
    if "Transpose" in type(layer).__name__:
        return layer.kernel, -1
    return (layer.depthwise_kernel if "Separable" in type(layer).__name__ else layer.kernel), -2


class Heard(keras.layers.Layer):  # type: ignore[misc]
    """A normalisation that takes its statistics of some channels only."""

    def __init__(self, norm: Any, heard: Sequence[bool]) -> None:
        super().__init__(name=norm.name, dtype=norm.dtype_policy)
        self.norm_type = type(norm)
        self.config = norm.get_config()
        self.values = {weight.name: weight.numpy() for weight in norm.weights}
        self.heard = np.array(heard)

    def call(self, x: Any) -> Any:
        """With the weights that the normalisation had."""
        if self.norm_type is layers.GroupNormalization:
            return self._normalized_in_blocks(x)
        axes = [int(axis) for axis in np.atleast_1d(self.config["axis"])]
        mask = keras.ops.broadcast_to(keras.ops.cast(self.heard, x.dtype), keras.ops.shape(x))
        y = self._normalized(x, mask, axes)
        shape = [size if axis - len(x.shape) in axes or axis in axes else 1 for axis, size in enumerate(x.shape)]
        return self._affine(y, shape)

    def _normalized(self, x: Any, mask: Any, axes: list[int]) -> Any:
        ops = keras.ops
        count = ops.sum(mask, axes, keepdims=True)
        if self.norm_type is layers.UnitNormalization:
            return x / ops.sqrt(ops.sum(mask * x * x, axes, keepdims=True))
        if self.norm_type is not layers.RMSNormalization:
            x = x - ops.sum(mask * x, axes, keepdims=True) / count
        return x / ops.sqrt(ops.sum(mask * x * x, axes, keepdims=True) / count + self.config["epsilon"])

    def _normalized_in_blocks(self, x: Any) -> Any:
        """The blocks on an axis of their own; one of which nothing is kept stays as it is."""
        blocks = self.config["groups"]
        shape = (-1, *x.shape[1:-1], blocks, x.shape[-1] // blocks)
        heard = self.heard.reshape(blocks, -1)
        mask = keras.ops.cast(heard | ~heard.any(axis=1, keepdims=True), x.dtype)
        inside = keras.ops.reshape(x, shape)
        mask = keras.ops.broadcast_to(mask, keras.ops.shape(inside))
        y = self._normalized(inside, mask, [*range(1, len(x.shape) - 1), len(x.shape)])
        return self._affine(keras.ops.reshape(y, (-1, *x.shape[1:])), [1] * (len(x.shape) - 1) + [x.shape[-1]])

    def _affine(self, y: Any, shape: Sequence[int]) -> Any:
        values = {name: keras.ops.cast(value.reshape(shape), y.dtype) for name, value in self.values.items()}
        scale = values.get("gamma", values.get("scale"))
        y = y if scale is None else y * scale
        return y + values["beta"] if "beta" in values else y


def without_statistics(model: Any, heard: Mapping[str, Sequence[bool]]) -> Any:
    """A copy of a network, models inside it opened up, whose normalisations do not hear some channels."""
    model = inlined(model)

    def new_layer(layer: Any) -> Any:
        return Heard(layer, heard[layer.name]) if layer.name in heard else copy_layer(layer)

    copy = rebuild(model, new_layer)
    for layer in model.layers:
        if layer.weights and layer.name not in heard:
            set_weights(copy.get_layer(layer.name), layer.get_weights())
    return copy


def silenced(channels: Channels, kept: Mapping[str, Sequence[int]]) -> Any:
    """As ``Network.silenced``, of any network, going by what the analysis says of its kernels."""
    positions = kept_positions(channels, kept)
    heard = {}
    for layer in channels.model.layers:
        axes = next(iter(positions[layer.name].values()), {}) if isinstance(layer, STATISTICS) else {}
        if -1 in axes:
            heard[layer.name] = np.isin(range(layer.input.shape[-1]), axes[-1]).tolist()
    silent = without_statistics(channels.model, heard)
    for name, indices in kept.items():
        for place in channels.places(name):
            if place.role == "reads":
                (weight,) = (w for w in silent.get_layer(place.layer).weights if w.name == place.weight)
                silence(weight, place.axis, ((place.channels < 0) | np.isin(place.channels, indices)).tolist())
    return silent


STATISTICS = (layers.LayerNormalization, layers.RMSNormalization, layers.GroupNormalization)
"""Normalisations over several channels that have a weight for each."""


def randomize(model: Any, seed: int) -> None:
    """Gives a network random weights that keep values of the same size, the statistics of its batch norms included."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        weights = [_random_weight(weight, random) for weight in layer.weights]
        if weights:
            set_weights(layer, weights)


def _random_weight(weight: Any, random: np.random.Generator) -> Array:
    shape = tuple(weight.shape)
    if not weight.dtype.startswith("float"):
        return np.asarray(weight.numpy())
    if weight.name in ("gamma", "scale"):
        values = random.uniform(0.5, 2, shape) * random.choice([-1, 1], shape)
    elif weight.name in ("moving_variance", "variance"):
        values = random.uniform(0.5, 2, shape)
    else:
        fan_in = max(1, int(np.prod(shape[:-1]))) if len(shape) > 1 else 1
        values = random.normal(0, 1, shape) / np.sqrt(fan_in)
    return np.asarray(values, dtype=weight.dtype)


def copied(model: Any) -> Any:
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def inputs_for(model: Any, seed: int = 0, count: int = 5) -> Any:
    """Random inputs: an array, or one for each input of the network."""
    random = np.random.default_rng(seed)
    arrays = [random.normal(0, 1, (count, *tensor.shape[1:])).astype(np.float32) for tensor in model.inputs]
    return arrays[0] if len(arrays) == 1 else arrays


def answers(model: Any, x: Any) -> Array:
    """What a network answers; several answers side by side."""
    results = [result.numpy() for result in keras.tree.flatten(model(x, training=False))]
    if len(results) > 1:
        results = [np.concatenate([result.reshape(len(result), -1) for result in results], axis=1)]
    answer: Array = results[0]
    return answer


def relative_difference(one: Array, other: Array) -> float:
    return float(np.abs(one - other).max() / np.abs(other).max())


def _norm_relu(x: Any) -> Any:
    return layers.ReLU()(layers.BatchNormalization()(x))


def chain() -> Any:
    inputs = keras.Input((6, 6, 3), name="input")
    x = _norm_relu(layers.Conv2D(6, 3, padding="same", name="a")(inputs))
    x = layers.BatchNormalization(scale=False)(layers.Conv2D(5, 2, strides=2, use_bias=False, name="b")(x))
    x = layers.GlobalAveragePooling2D()(layers.MaxPooling2D()(layers.LeakyReLU()(x)))
    x = layers.Dropout(0.5)(layers.Dense(7, activation="relu", name="hidden")(x))
    return keras.Model(inputs, layers.Dense(4, name="out")(x))


def residual() -> Any:
    inputs = keras.Input((6, 6, 3), name="input")
    stem = _norm_relu(layers.Conv2D(6, 3, padding="same", name="stem")(inputs))
    arm = _norm_relu(layers.Conv2D(5, 3, padding="same", use_bias=False, name="first")(stem))
    arm = layers.BatchNormalization()(layers.Conv2D(6, 3, padding="same", use_bias=False, name="second")(arm))
    x = layers.ReLU()(layers.Add()([stem, arm]))
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(x)))


def concatenate() -> Any:
    inputs = keras.Input((6, 6, 3), name="input")
    left = _norm_relu(layers.Conv2D(4, 3, padding="same", name="left")(inputs))
    right = layers.Conv2D(6, 1, activation="relu", name="right")(inputs)
    x = layers.Conv2D(5, 3, activation="relu", name="mix")(layers.Concatenate()([right, left]))
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(x)))


def flatten() -> Any:
    inputs = keras.Input((6, 6, 3), name="input")
    x = _norm_relu(layers.Conv2D(4, 3, padding="same", name="a")(inputs))
    x = layers.Flatten()(layers.AveragePooling2D((3, 2))(x))
    x = layers.Dense(6, activation="relu", name="hidden")(x)
    return keras.Model(inputs, layers.Dense(4, name="out")(x))


def separable() -> Any:
    inputs = keras.Input((6, 6, 3), name="input")
    x = _norm_relu(layers.Conv2D(6, 3, padding="same", name="stem")(inputs))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(layers.ZeroPadding2D(1)(x))
    x = _norm_relu(x)
    x = _norm_relu(layers.Conv2D(5, 1, name="pointwise")(x))
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalMaxPooling2D()(x)))


def shared() -> Any:
    inputs = keras.Input((6, 6, 3), name="input")
    twice = layers.Conv2D(5, 3, padding="same", activation="relu", name="twice")
    x = layers.Conv2D(5, 3, padding="same", name="first")(inputs)
    x = twice(twice(x))
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(x)))


def gate() -> Any:
    inputs = keras.Input((6, 6, 3), name="input")
    body = _norm_relu(layers.Conv2D(6, 3, padding="same", name="body")(inputs))
    gates = layers.GlobalAveragePooling2D(keepdims=True)(body)
    gates = layers.Dense(3, activation="relu", name="squeeze")(gates)
    gates = layers.Dense(6, activation="sigmoid", name="excite")(gates)
    x = layers.Conv2D(5, 3, activation="relu", name="head")(layers.Multiply()([body, gates]))
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(x)))


def frozen() -> Any:
    inputs = keras.Input((6, 6, 3), name="input")
    x = layers.Softmax(name="strange")(layers.Conv2D(5, 3, name="a")(inputs))
    x = _norm_relu(layers.Conv2D(6, 3, name="b")(x))
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(x)))


def pooled() -> Any:
    inputs = keras.Input((6, 6, 3), name="input")
    a = layers.Conv2D(5, 3, activation="relu", name="a")(inputs)
    b = _norm_relu(layers.Conv2D(6, 3, name="b")(a))
    pools = [layers.GlobalAveragePooling2D()(a), layers.GlobalAveragePooling2D()(b), layers.GlobalMaxPooling2D()(a)]
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.Concatenate()(pools)))


def waveform() -> Any:
    inputs = keras.Input((16, 2), name="input")
    x = _norm_relu(layers.Conv1D(4, 3, strides=2, name="a")(layers.Rescaling(0.5)(inputs)))
    x = layers.DepthwiseConv1D(3, padding="same", use_bias=False, name="depthwise")(x)
    x = layers.Activation("tanh")(layers.Conv1D(6, 3, name="b")(x))
    x = layers.Flatten()(layers.MaxPooling1D()(x))
    return keras.Model(inputs, layers.Dense(4, name="out")(x))


NETWORKS = {
    "chain": Network(
        chain,
        {"a": (["a"], 6), "b": (["b"], 5), "hidden": (["hidden"], 7)},
        {"b": ["a"], "hidden": ["b"], "out": ["hidden"]},
    ),
    "residual": Network(
        residual,
        {"stem": (["stem", "second"], 6), "first": (["first"], 5)},
        {"first": ["stem"], "second": ["first"], "out": ["stem"]},
    ),
    "concatenate": Network(
        concatenate,
        {"left": (["left"], 4), "right": (["right"], 6), "mix": (["mix"], 5)},
        {"mix": ["right", "left"], "out": ["mix"]},
    ),
    "flatten": Network(
        flatten,
        {"a": (["a"], 4), "hidden": (["hidden"], 6)},
        {"hidden": ["a"] * 6, "out": ["hidden"]},
    ),
    "separable": Network(
        separable,
        {"stem": (["stem"], 6), "pointwise": (["pointwise"], 5)},
        {"pointwise": ["stem"], "out": ["pointwise"]},
    ),
    "shared": Network(
        shared,
        {"first": (["first", "twice"], 5)},
        {"twice": ["first"], "out": ["first"]},
    ),
    "gate": Network(
        gate,
        {"body": (["body", "excite"], 6), "squeeze": (["squeeze"], 3), "head": (["head"], 5)},
        {"squeeze": ["body"], "excite": ["squeeze"], "head": ["body"], "out": ["head"]},
    ),
    "frozen": Network(frozen, {"b": (["b"], 6)}, {"out": ["b"]}, fixed=("a", "out")),
    "pooled": Network(
        pooled,
        {"a": (["a"], 5), "b": (["b"], 6)},
        {"b": ["a"], "out": ["a", "b", "a"]},
    ),
    "waveform": Network(
        waveform,
        {"a": (["a"], 4), "b": (["b"], 6)},
        {"b": ["a"], "out": ["b", "b"]},
    ),
}
