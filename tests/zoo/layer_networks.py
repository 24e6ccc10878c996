"""More small networks, described by hand like those of ``networks``: one for each kind of layer."""

from __future__ import annotations

from typing import Any

import numpy as np
from keras.src.applications.convnext import LayerScale
from networks import Network

from zoo.backend import keras

layers = keras.layers


def _image(channels: int = 3) -> Any:
    return keras.Input((6, 6, channels), name="input")


def _ending(inputs: Any, x: Any) -> Any:
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(x)))


def between(*between: Any, size: int = 8) -> Any:
    """Layers between a convolution named ``a`` and the end."""
    inputs = _image()
    x = layers.Conv2D(size, 3, padding="same", name="a")(inputs)
    for layer in between:
        x = layer(x)
    return _ending(inputs, x)


def volume() -> Any:
    inputs = keras.Input((6, 6, 4, 2), name="input")
    x = layers.Conv3D(4, 3, padding="same", name="a")(inputs)
    x = layers.MaxPooling3D()(layers.SpatialDropout3D(0.1)(layers.BatchNormalization()(x)))
    x = layers.Cropping3D(((1, 0), (0, 0), (0, 0)))(layers.ZeroPadding3D(1)(layers.UpSampling3D((1, 1, 2))(x)))
    x = layers.Conv3D(3, 2, activation="silu", name="b")(x)
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalMaxPooling3D()(x)))


def transposed() -> Any:
    inputs = _image()
    x = layers.Conv2D(5, 3, strides=2, padding="same", activation="elu", name="a")(inputs)
    x = layers.Conv2DTranspose(6, 3, strides=2, padding="same", activation="relu", name="b")(x)
    return _ending(inputs, layers.Conv2D(4, 1, name="c")(x))


def transposed_line() -> Any:
    inputs = keras.Input((7, 3), name="input")
    x = layers.Conv1DTranspose(5, 3, use_bias=False, name="a")(inputs)
    x = layers.Conv1DTranspose(6, 3, strides=2, activation="tanh", name="b")(layers.LeakyReLU()(x))
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling1D()(x)))


def transposed_volume() -> Any:
    inputs = keras.Input((3, 3, 3, 3), name="input")
    x = layers.Conv3DTranspose(4, 2, activation="gelu", name="a")(inputs)
    x = layers.Conv3DTranspose(5, 2, name="b")(x)
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling3D()(x)))


def separable_layers() -> Any:
    inputs = _image()
    x = layers.SeparableConv2D(5, 3, depth_multiplier=2, activation="relu", name="a")(inputs)
    x = layers.SeparableConv2D(6, 3, depth_multiplier=3, use_bias=False, name="b")(x)
    return _ending(inputs, layers.BatchNormalization()(x))


def separable_line() -> Any:
    inputs = keras.Input((9, 3), name="input")
    x = layers.SeparableConv1D(5, 3, activation="relu", name="a")(inputs)
    x = layers.SeparableConv1D(6, 3, depth_multiplier=2, activation="relu", name="b")(x)
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.Flatten()(layers.AveragePooling1D(2)(x))))


def multiplied() -> Any:
    """Depthwise convolutions that make two channels of each, and three of each of these."""
    inputs = keras.Input((9, 3), name="input")
    x = layers.Conv1D(4, 3, name="a")(inputs)
    x = layers.DepthwiseConv1D(3, depth_multiplier=2, activation="relu", name="two")(x)
    x = layers.BatchNormalization()(x)
    x = layers.DepthwiseConv1D(3, depth_multiplier=3, name="six")(x)
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling1D()(x)))


def convnext_block() -> Any:
    inputs = _image()
    x = layers.LayerNormalization(name="first")(layers.Conv2D(6, 2, strides=2, name="stem")(inputs))
    arm = layers.Conv2D(6, 3, padding="same", groups=6, name="spatial")(x)
    arm = layers.LayerNormalization(epsilon=1e-6, name="second")(arm)
    arm = layers.Dense(6, name="narrow")(layers.Dense(12, activation="gelu", name="wide")(arm))
    arm = LayerScale(0.5, 6, name="factors")(arm)
    return _ending(inputs, layers.Add()([x, layers.Dropout(0.1, noise_shape=(None, 1, 1, 1))(arm)]))


def shuffle() -> Any:
    """Every channel j of the first half goes next to channel j of the second."""
    inputs = _image()
    x = layers.Conv2D(8, 1, activation="relu", name="a")(inputs)
    x = layers.Permute((1, 2, 4, 3))(layers.Reshape((6, 6, 2, 4))(x))
    x = layers.Conv2D(5, 3, activation="relu", name="b")(layers.Reshape((6, 6, -1))(x))
    return _ending(inputs, x)


def shuffled_groups() -> Any:
    """A unit of ShuffleNet: grouped, shuffled, depthwise, grouped, added to what came in."""
    inputs = _image()
    stem = layers.Conv2D(8, 1, activation="relu", name="stem")(inputs)
    x = layers.Conv2D(6, 1, groups=2, activation="relu", name="first")(stem)
    x = layers.Reshape((6, 6, 6))(layers.Permute((1, 2, 4, 3))(layers.Reshape((6, 6, 2, 3))(x)))
    x = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = layers.Conv2D(8, 1, groups=2, name="second")(x)
    return _ending(inputs, layers.ReLU()(layers.Add()([stem, x])))


def written_out() -> Any:
    """Arithmetic as one writes it."""
    inputs = _image()
    x = layers.Conv2D(5, 3, padding="same", name="a")(inputs)
    y = layers.Conv2D(5, 3, padding="same", name="b")(x * 0.5)
    x = keras.ops.relu(x + y) - 1 / (2 + keras.ops.absolute(y))
    return _ending(inputs, layers.Conv2D(6, 3, name="c")(-x))


def merges() -> Any:
    inputs = _image()
    kinds = (layers.Add, layers.Subtract, layers.Average, layers.Maximum, layers.Minimum, layers.Multiply)
    x = layers.Conv2D(5, 3, padding="same", name="a")(inputs)
    for number, kind in enumerate(kinds):
        x = kind()([x, layers.Conv2D(5, 1, name=f"arm{number}")(inputs)])
    return _ending(inputs, x)


def joined_and_added() -> Any:
    """Two maps side by side, added to one that is as wide as both."""
    inputs = _image()
    both = layers.Concatenate()([layers.Conv2D(4, 3, name="left")(inputs), layers.Conv2D(6, 3, name="right")(inputs)])
    return _ending(inputs, layers.Add()([both, layers.Conv2D(10, 3, name="whole")(inputs)]))


def flattened_and_added() -> Any:
    """A dense layer, of whose channels each four are added to the four pixels of one channel."""
    inputs = keras.Input((2, 2, 3), name="input")
    flat = layers.Flatten()(layers.Conv2D(4, 1, name="a")(inputs))
    dense = layers.Dense(16, name="b")(layers.Flatten()(inputs))
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.ReLU()(layers.Add()([flat, dense]))))


def one_above_the_other() -> Any:
    """Maps put together along an axis that is not the channels'."""
    inputs = _image()
    maps = [layers.Conv2D(5, 3, name=name)(inputs) for name in "ab"]
    return _ending(inputs, layers.Conv2D(6, 3, activation="relu", name="c")(layers.Concatenate(axis=1)(maps)))


def attention_map() -> Any:
    """A map of one channel that all channels of another are multiplied with."""
    inputs = _image()
    body = layers.Conv2D(5, 3, padding="same", activation="relu", name="body")(inputs)
    attention = layers.Conv2D(1, 3, padding="same", activation="sigmoid", name="map")(body)
    return _ending(inputs, layers.Multiply()([body, attention]))


def gate_of_vectors() -> Any:
    """A gate that is made of vectors, and then shaped like a picture of one pixel."""
    inputs = _image()
    body = layers.Conv2D(6, 3, padding="same", name="body")(inputs)
    gates = layers.Dense(3, activation="relu", name="squeeze")(layers.GlobalAveragePooling2D()(body))
    gates = layers.Reshape((1, 1, 6))(layers.Dense(6, activation="hard_sigmoid", name="excite")(gates))
    return _ending(inputs, layers.Multiply()([gates, body]))


def nested() -> Any:
    inside = keras.Input((6, 6, 5), name="inner_input")
    inner = keras.Model(inside, layers.ReLU()(layers.Conv2D(4, 3, name="hidden")(inside)), name="inner")
    inputs = _image()
    x = inner(layers.Conv2D(5, 3, padding="same", name="a")(inputs))
    return _ending(inputs, keras.Sequential([layers.Conv2D(6, 3, name="b"), layers.ReLU()], name="last")(x))


def several_inputs() -> Any:
    image, features = keras.Input((6, 6, 3), name="image"), keras.Input((5,), name="features")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3, name="a")(image))
    y = layers.Dense(7, activation="relu", name="b")(features)
    return keras.Model([image, features], layers.Dense(4, name="out")(layers.Concatenate()([x, y, features])))


def several_outputs() -> Any:
    """One of the answers is read inside, too."""
    inputs = _image()
    x = layers.Conv2D(6, 3, padding="same", activation="relu", name="a")(inputs)
    early = layers.Conv2D(4, 3, name="early")(x)
    late = layers.Conv2D(5, 3, activation="relu", name="late")(early)
    return keras.Model(inputs, [early, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(late))])


def u_shaped() -> Any:
    inputs = _image()
    down = layers.Conv2D(5, 3, padding="same", activation="relu", name="down")(inputs)
    low = layers.Conv2D(6, 3, padding="same", activation="relu", name="low")(layers.MaxPooling2D()(down))
    up = layers.UpSampling2D(interpolation="bilinear")(low)
    x = layers.Concatenate(axis=-1)(
        [layers.Resizing(4, 4)(up), layers.Cropping2D(1)(down), layers.CenterCrop(4, 4)(up)]
    )
    return _ending(inputs, layers.Conv2D(7, 3, name="last")(layers.ZeroPadding2D(1)(x)))


def repeated() -> Any:
    inputs = keras.Input((5,), name="input")
    x = layers.RepeatVector(4)(layers.Dense(6, activation="softplus", name="a")(inputs))
    x = layers.ZeroPadding1D(1)(layers.UpSampling1D(2)(layers.Cropping1D(1)(x)))
    x = layers.Conv1D(5, 2, padding="causal", dilation_rate=2, activation="mish", name="b")(x)
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalMaxPooling1D(keepdims=True)(x)))


def given_numbers() -> Any:
    """Vectors of numbers for each channel that are no weights."""
    numbers = np.linspace(0.5, 2, 6)
    return between(
        layers.Rescaling(numbers.tolist(), offset=(numbers / 3).tolist()),
        layers.Normalization(mean=numbers.tolist(), variance=(numbers**2).tolist()),
        layers.Normalization(mean=0.5, variance=2.0, axis=None),
        layers.Rescaling(2, offset=1),
        size=6,
    )


def learnt_numbers() -> Any:
    scale = layers.Normalization(name="scale")
    scale.adapt(np.random.default_rng(0).normal(3, 2, (50, 6, 6, 6)))
    return between(scale, layers.Normalization(mean=0.5, variance=2.0), size=6)


def slopes() -> Any:
    return between(layers.PReLU(), layers.PReLU(shared_axes=[1, 2]), layers.PReLU(shared_axes=[1, 2, 3]), size=6)


def shared_reshape() -> Any:
    """What is shaped by the same layer keeps the same channels."""
    inputs = keras.Input((5,), name="input")
    reshape = layers.Reshape((1, 6))
    maps = [reshape(layers.Dense(6, name=name)(inputs)) for name in "ab"]
    convolutions = [layers.Conv1D(3, 1, name=f"conv_{name}")(x) for name, x in zip("ab", maps, strict=True)]
    x = layers.Flatten()(layers.Concatenate()(convolutions))
    return keras.Model(inputs, layers.Dense(4, name="out")(x))


def half_of_an_input() -> Any:
    """Groups of a convolution, of which some read the network's input."""
    inputs = _image(4)
    x = layers.Concatenate()([inputs, layers.Conv2D(6, 3, padding="same", name="a")(inputs)])
    return _ending(inputs, layers.Conv2D(10, 1, groups=5, name="b")(x))


def channels_first() -> Any:
    inputs = keras.Input((3, 6, 6), name="input")
    x = layers.Conv2D(6, 3, data_format="channels_first", name="a")(inputs)
    x = layers.ReLU()(layers.BatchNormalization(axis=1)(x))
    x = layers.Conv2D(5, 3, data_format="channels_first", name="b")(x)
    x = layers.Flatten(data_format="channels_first")(x)
    return keras.Model(inputs, layers.Dense(4, name="out")(x))


def in_halves(size: int) -> list[int]:
    """The channels of a group on an axis whose halves have the same."""
    return [*range(size), *range(size)]


def in_pairs(size: int, count: int = 2) -> list[int]:
    """The channels of a group on an axis where several places after each other have the same."""
    return np.repeat(range(size), count).tolist()


def normalized(layer: Any) -> Network:
    """A normalisation over all channels between a convolution and the end."""
    return Network(
        lambda: between(type(layer).from_config(layer.get_config() | {"name": "norm"}), size=6),
        {"a": (["a"], 6)},
        {"out": ["a"]},
        norms={"norm": ["a"]},
    )


A_OF_EIGHT = {"a": (["a"], 8)}
LAYER_NETWORKS = {
    "volume": Network(volume, {"a": (["a"], 4), "b": (["b"], 3)}, {"b": ["a"], "out": ["b"]}),
    "transposed": Network(
        transposed,
        {"a": (["a"], 5), "b": (["b"], 6), "c": (["c"], 4)},
        {"b": ["a"], "c": ["b"], "out": ["c"]},
    ),
    "transposed-line": Network(transposed_line, {"a": (["a"], 5), "b": (["b"], 6)}, {"b": ["a"], "out": ["b"]}),
    "transposed-volume": Network(transposed_volume, {"a": (["a"], 4), "b": (["b"], 5)}, {"b": ["a"], "out": ["b"]}),
    "separable-layers": Network(separable_layers, {"a": (["a"], 5), "b": (["b"], 6)}, {"b": ["a"], "out": ["b"]}),
    "separable-line": Network(separable_line, {"a": (["a"], 5), "b": (["b"], 6)}, {"b": ["a"], "out": ["b"] * 2}),
    "multiplied": Network(multiplied, {"a": (["a"], 4)}, {"out": [("a", in_pairs(4, 6))]}),
    "few-groups": Network(
        lambda: between(layers.Conv2D(6, 3, groups=2, activation="relu", name="b")),
        {"a": (["a"], 4), "b": (["b"], 3)},
        {"b": ["a"], "out": [("b", in_halves(3))]},
    ),
    "many-groups": Network(
        lambda: between(layers.Conv2D(12, 3, groups=4, activation="relu", name="b")),
        {"a": (["a", "b"], 4)},
        {"out": [("a", in_pairs(4, 3))]},
    ),
    "channel-groups": Network(
        lambda: between(layers.Conv2D(16, 3, groups=8, name="b"), layers.BatchNormalization()),
        {"a": (["a", "b"], 8)},
        {"out": [("a", in_pairs(8))]},
    ),
    "convnext": Network(
        convnext_block,
        {"stem": (["stem", "spatial", "narrow"], 6), "wide": (["wide"], 12)},
        {"wide": ["stem"], "narrow": ["wide"], "out": ["stem"]},
        norms={"first": ["stem"], "second": ["stem"]},
    ),
    "layer-norm": normalized(layers.LayerNormalization()),
    "layer-norm-over-pictures": normalized(layers.LayerNormalization(axis=[1, 2, 3])),
    "layer-norm-without-shift": normalized(layers.LayerNormalization(center=False)),
    "rms-norm": normalized(layers.RMSNormalization()),
    "unit-norm": normalized(layers.UnitNormalization()),
    "layer-norm-over-rows": Network(lambda: between(layers.LayerNormalization(axis=1)), A_OF_EIGHT, {"out": ["a"]}),
    "instance-norm": Network(lambda: between(layers.GroupNormalization(groups=-1)), A_OF_EIGHT, {"out": ["a"]}),
    "few-norm-groups": Network(
        lambda: between(layers.GroupNormalization(2, name="norm")),
        {"a": (["a"], 4)},
        {"out": [("a", in_halves(4))]},
        norms={"norm": [("a", in_halves(4))]},
    ),
    "many-norm-groups": Network(
        lambda: between(layers.GroupNormalization(4)), {"a": (["a"], 4)}, {"out": [("a", in_pairs(4))]}
    ),
    "one-norm-group": Network(
        lambda: between(layers.GroupNormalization(1, scale=False, name="norm"), size=6),
        {"a": (["a"], 6)},
        {"out": ["a"]},
        norms={"norm": ["a"]},
    ),
    "shuffle": Network(
        shuffle,
        {"a": (["a"], 4), "b": (["b"], 5)},
        {"b": [("a", in_pairs(4))], "out": ["b"]},
    ),
    "shuffled-groups": Network(
        shuffled_groups,
        {"stem": (["stem", "second"], 4)},
        {"first": ["stem"], "out": [("stem", in_halves(4))]},
        fixed=("first", "out"),
    ),
    "written-out": Network(
        written_out,
        {"a": (["a", "b"], 5), "c": (["c"], 6)},
        {"b": ["a"], "c": ["a"], "out": ["c"]},
    ),
    "merges": Network(merges, {"a": (["a", *(f"arm{number}" for number in range(6))], 5)}, {"out": ["a"]}),
    "joined-and-added": Network(
        joined_and_added,
        {"left": (["left", "whole"], 4), "right": (["right", "whole"], 6)},
        {"out": ["left", "right"]},
    ),
    "flattened-and-added": Network(flattened_and_added, {"a": (["a", "b"], 4)}, {"out": ["a"] * 4}),
    "one-above-the-other": Network(
        one_above_the_other,
        {"a": (["a", "b"], 5), "c": (["c"], 6)},
        {"c": ["a"], "out": ["c"]},
    ),
    "attention-map": Network(
        attention_map, {"body": (["body"], 5)}, {"map": ["body"], "out": ["body"]}, fixed=("map", "out")
    ),
    "gate-of-vectors": Network(
        gate_of_vectors,
        {"body": (["body", "excite"], 6), "squeeze": (["squeeze"], 3)},
        {"squeeze": ["body"], "excite": ["squeeze"], "out": ["body"]},
    ),
    "nested": Network(
        nested,
        {"a": (["a"], 5), "hidden": (["hidden"], 4), "b": (["b"], 6)},
        {"hidden": ["a"], "b": ["hidden"], "out": ["b"]},
    ),
    "several-inputs": Network(
        several_inputs,
        {"a": (["a"], 6), "b": (["b"], 7)},
        {"out": ["a", "b", ("input", range(5))]},
    ),
    "several-outputs": Network(
        several_outputs,
        {"a": (["a"], 6), "late": (["late"], 5)},
        {"early": ["a"], "out": ["late"]},
        fixed=("early", "out"),
    ),
    "u-shaped": Network(
        u_shaped,
        {"down": (["down"], 5), "low": (["low"], 6), "last": (["last"], 7)},
        {"low": ["down"], "last": ["low", "down", "low"], "out": ["last"]},
    ),
    "repeated": Network(repeated, {"a": (["a"], 6), "b": (["b"], 5)}, {"b": ["a"], "out": ["b"]}),
    "given-numbers": Network(given_numbers, {"a": (["a"], 6)}, {"out": ["a"]}),
    "learnt-numbers": Network(learnt_numbers, {"a": (["a"], 6)}, {"out": ["a"]}),
    "slopes": Network(slopes, {"a": (["a"], 6)}, {"out": ["a"]}),
    "shared-reshape": Network(
        shared_reshape,
        {"b": (["b", "a"], 6), "conv_a": (["conv_a"], 3), "conv_b": (["conv_b"], 3)},
        {"conv_a": ["b"], "conv_b": ["b"], "out": ["conv_a", "conv_b"]},
    ),
    "half-of-an-input": Network(
        half_of_an_input,
        {"a": (["a", "b"], 3)},
        {"out": [("input", range(4)), ("a", in_pairs(3))]},
        fixed=("b", "b#2", "out"),
    ),
    "channels-first": Network(
        channels_first,
        {"a": (["a"], 6), "b": (["b"], 5)},
        {"b": ["a"], "out": ["b"] * 4},
    ),
}
