"""Small networks of every form that channels can flow in, described by hand.

The descriptions say what the analysis under test must find by itself: which channels belong together, and
whose channels the rows of each kernel are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.backend import keras

layers = keras.layers
Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Network:
    """A network and what is true of it.

    Attributes:
        build: makes it, with Keras's initial weights.
        groups: the channel groups that can be cut, with their producers and size.
        rows: for each layer that reads such groups, the groups that its kernel's input rows belong to, in turn.
        fixed: the channel groups that cannot be cut.
    """

    build: Callable[[], Any]
    groups: Mapping[str, tuple[Sequence[str], int]]
    rows: Mapping[str, Sequence[str]]
    fixed: Sequence[str] = ("out",)

    def random(self, seed: int) -> Any:
        """The network with random weights, the statistics of its batch norms included."""
        model = self.build()
        randomize(model, seed)
        return model

    def silenced(self, model: Any, kept: Mapping[str, Sequence[int]]) -> Any:
        """The network as it is, but that nobody listens to the channels that are not kept."""
        silent = copied(model)
        for name, groups in self.rows.items():
            heard = [index in kept.get(group, range(self.groups[group][1])) for group in groups
                     for index in range(self.groups[group][1])]  # fmt: skip
            kernel = silent.get_layer(name).kernel
            assert kernel.shape[-2] == len(heard)
            kernel.assign(kernel.numpy() * np.array(heard, np.float32)[:, np.newaxis])
        return silent


def randomize(model: Any, seed: int) -> None:
    random = np.random.default_rng(seed)
    for layer in model.layers:
        for weight in layer.weights:
            shape = tuple(weight.shape)
            if weight.name in ("moving_variance", "gamma"):
                values = random.uniform(0.5, 2, shape) * (
                    random.choice([-1, 1], shape) if weight.name == "gamma" else 1
                )
            else:
                fan_in = max(1, int(np.prod(shape[:-1]))) if len(shape) > 1 else 1
                values = random.normal(0, 1, shape) / np.sqrt(fan_in)
            weight.assign(values.astype(np.float32))


def copied(model: Any) -> Any:
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def inputs_for(model: Any, seed: int = 0, count: int = 5) -> Array:
    shape = (count, *model.inputs[0].shape[1:])
    return np.random.default_rng(seed).normal(0, 1, shape).astype(np.float32)


def answers(model: Any, x: Array) -> Array:
    result: Array = model(x, training=False).numpy()
    return result


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
    x = layers.LayerNormalization(name="strange")(layers.Conv2D(5, 3, name="a")(inputs))
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
