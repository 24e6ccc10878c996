"""Random small networks: pictures of 4×4 pixels that are convolved, normalised, joined, gated and shuffled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from zoo.backend import keras

layers = keras.layers
Draw = Callable[[st.SearchStrategy[Any]], Any]
Pictures = list[Any]
SIDE = 4
WIDTHS = (4, 6, 8)
ACTIVATIONS = ("relu", "tanh", "gelu", "leaky_relu", "sigmoid")
MERGES = (layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum)
NORMS = (
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.RMSNormalization,
    lambda: layers.LayerNormalization(axis=[1, 2, 3], center=False),
    lambda: layers.GroupNormalization(2),
    lambda: layers.GroupNormalization(-1),
    lambda: layers.PReLU(shared_axes=[1, 2]),
)


def random_network(draw: Draw) -> Any:
    """A network of a few random steps, whose answer goes by the last of its pictures.

    Args:
        draw: draws of a strategy. (The network is made outside of one, which may not use random numbers of its own.)
    """
    inputs = keras.Input((SIDE, SIDE, draw(st.sampled_from((2, 4)))), name="input")
    pictures = [inputs, _convolution(draw, inputs)]
    for _ in range(draw(st.integers(1, 7))):
        pictures.append(draw(st.sampled_from(STEPS))(draw, pictures))
    vectors = [_vector(draw, picture) for picture in pictures[-draw(st.integers(1, 3)) :]]
    x = vectors[0] if len(vectors) == 1 else layers.Concatenate()(vectors)
    if draw(st.booleans()):
        x = layers.Dense(6, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(3, name="out")(x))


def _any(draw: Draw, pictures: Pictures) -> Any:
    """A picture of the network, late ones first."""
    return draw(st.sampled_from(pictures[::-1]))


def _convolution(draw: Draw, x: Any, width: int | None = None) -> Any:
    width = width or draw(st.sampled_from(WIDTHS))
    groups = draw(st.sampled_from([count for count in (1, 2, 4, 8) if width % count == 0 and x.shape[-1] % count == 0]))
    return layers.Conv2D(
        width,
        draw(st.sampled_from((1, 3))),
        padding="same",
        groups=groups,
        activation=draw(st.sampled_from(ACTIVATIONS)),
    )(x)


def _convolved(draw: Draw, pictures: Pictures) -> Any:
    return _convolution(draw, _any(draw, pictures))


def _other_convolution(draw: Draw, pictures: Pictures) -> Any:
    width = draw(st.sampled_from(WIDTHS))
    layer = draw(st.sampled_from((
        layers.Dense(width, activation="tanh"),
        layers.Conv2DTranspose(width, 3, padding="same"),
        layers.SeparableConv2D(width, 3, depth_multiplier=2, padding="same"),
    )))  # fmt: skip
    return layer(_any(draw, pictures))


def _depthwise(draw: Draw, pictures: Pictures) -> Any:
    return layers.DepthwiseConv2D(3, padding="same", depth_multiplier=draw(st.integers(1, 2)))(_any(draw, pictures))


def _normalized(draw: Draw, pictures: Pictures) -> Any:
    x = _any(draw, pictures)
    return draw(st.sampled_from(NORMS))()(x)


def _alike(draw: Draw, pictures: Pictures, x: Any) -> Any:
    """A picture with as many channels as another, if need be a new one."""
    others = [other for other in pictures if other.shape == x.shape and other is not x]
    return draw(st.sampled_from(others)) if others and draw(st.booleans()) else _convolution(draw, x, x.shape[-1])


def _merged(draw: Draw, pictures: Pictures) -> Any:
    x = _any(draw, pictures)
    return draw(st.sampled_from(MERGES))()([x, _alike(draw, pictures, x)])


def _written(draw: Draw, pictures: Pictures) -> Any:
    x = _any(draw, pictures)
    return keras.ops.relu(x * 0.5) - _alike(draw, pictures, x)


def _joined(draw: Draw, pictures: Pictures) -> Any:
    return layers.Concatenate()([_any(draw, pictures), _any(draw, pictures)])


def _stacked(draw: Draw, pictures: Pictures) -> Any:
    x = _any(draw, pictures)
    return layers.MaxPooling2D((2, 1))(layers.Concatenate(axis=1)([x, _alike(draw, pictures, x)]))


def _gated(draw: Draw, pictures: Pictures) -> Any:
    x = _any(draw, pictures)
    gate = layers.GlobalAveragePooling2D()(x)
    gate = layers.Dense(x.shape[-1], activation="sigmoid")(layers.Dense(4, activation="relu")(gate))
    return layers.Multiply()([layers.Reshape((1, 1, x.shape[-1]))(gate), x])


def _attended(draw: Draw, pictures: Pictures) -> Any:
    x = _any(draw, pictures)
    return layers.Multiply()([x, layers.Conv2D(1, 3, padding="same", activation="sigmoid")(x)])


def _shuffled(draw: Draw, pictures: Pictures) -> Any:
    x = _any(draw, pictures)
    width = x.shape[-1]
    x = layers.Permute((1, 2, 4, 3))(layers.Reshape((SIDE, SIDE, 2, width // 2))(x))
    return layers.Reshape((SIDE, SIDE, width))(x)


def _twice(draw: Draw, pictures: Pictures) -> Any:
    x = _any(draw, pictures)
    layer = layers.Conv2D(x.shape[-1], 3, padding="same", activation="tanh")
    return layer(layer(x))


def _residual(draw: Draw, pictures: Pictures) -> Any:
    x = _any(draw, pictures)
    return x + layers.BatchNormalization()(_convolution(draw, _convolution(draw, x), x.shape[-1]))


STEPS = (
    _convolved, _other_convolution, _depthwise, _normalized, _merged, _written, _joined, _stacked, _gated, _attended,
    _shuffled, _twice, _residual,
)  # fmt: skip


def _vector(draw: Draw, picture: Any) -> Any:
    return draw(st.sampled_from((layers.Flatten, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling2D)))()(picture)
