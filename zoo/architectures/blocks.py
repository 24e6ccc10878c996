"""What several networks are made of: raw inputs, normalised convolutions, strides that fit small images."""

from __future__ import annotations

from typing import Any

from fleetfoot.errors import ModelError
from zoo.architectures.grouped import GroupedConv2D
from zoo.backend import keras
from zoo.catalog import InputSpec

layers = keras.layers

MOMENTUM = 0.9
"""Of batch-norm statistics: datasets are small and fine-tuning is short, so that 0.99 would lag behind."""


def scaled_input(spec: InputSpec) -> tuple[Any, Any]:
    """The raw input, and the same as floats: from 0 to 1, or of a waveform from -1 to 1.

    Where the raw values begin at 0, the scale goes into the weights of the first layer when the network is exported.
    """
    inputs = keras.Input(spec.shape, dtype=spec.dtype, name="input")
    if spec.kind == "audio":
        middle = 0.0 if spec.minimum < 0 else (spec.minimum + spec.maximum) / 2
        scale, offset = 1 / (spec.maximum - middle), -middle
    else:
        scale, offset = 1 / (spec.maximum - spec.minimum), -spec.minimum
    return inputs, layers.Rescaling(scale, scale * offset, name="scale")(inputs)


def image_input(spec: InputSpec, least: int, resolution: float = 1.0) -> tuple[Any, Any]:
    """The raw image, and the same as floats from 0 to 1, resized.

    Args:
        spec: the raw input.
        least: the smallest height and width that the network can take.
        resolution: height and width relative to the raw image's; bilinear where it changes them.

    Raises:
        ModelError: no image, or one that is too small.
    """
    height, width, _ = check_image(spec.shape, least, resolution)
    inputs, x = scaled_input(spec)
    if (height, width) != spec.shape[:2]:
        x = layers.Resizing(height, width, interpolation="bilinear", name="resize")(x)
    return inputs, x


def check_image(shape: tuple[int, ...], least: int, resolution: float = 1.0) -> tuple[int, int, int]:
    """Height and width of an image after resizing, and its channels.

    Raises:
        ModelError: no image, or one that is too small.
    """
    if len(shape) != 3:
        raise ModelError(f"an image has shape (height, width, channels), and this input has {shape}")
    height, width = round(resolution * shape[0]), round(resolution * shape[1])
    if min(height, width) < least:
        raise ModelError(f"images of {height}×{width} pixels are too small: it takes {least}×{least} or more")
    return height, width, shape[2]


def strides(x: Any, halvings: int, least: int = 3) -> tuple[int, ...]:
    """The strides of stages that each halve the image, of which small images skip the first.

    Networks made for 224×224 pixels halve them five times; for 32×32 they are commonly used with the first
    strides set to 1, so that enough of the image is left for the last stages.

    Args:
        x: what comes into the first stage, of shape (batch, height, width, channels).
        halvings: how many stages there are.
        least: the height or width that must be left after the last one.

    Returns:
        A stride for each stage: ones, then twos.
    """
    size = min(x.shape[1:3])
    kept = max(count for count in range(halvings + 1) if count == 0 or -(-size // 2**count) >= least)
    return (1,) * (halvings - kept) + (2,) * kept


def activation(x: Any, kind: str, name: str) -> Any:
    """An activation as the layer ``<name>_<kind>``: ``relu``, ``relu6``, or a Keras activation's name."""
    if kind in ("relu", "relu6"):
        return layers.ReLU(6.0 if kind == "relu6" else None, name=f"{name}_{kind}")(x)
    return layers.Activation(kind, name=f"{name}_{kind}")(x)


def convolution(
    x: Any,
    filters: int,
    kernel: int | tuple[int, int],
    name: str,
    *,
    stride: int | tuple[int, int] = 1,
    padding: str = "same",
    groups: int = 1,
    bias: bool = False,
    normalize: bool = True,
    kind: str | None = "relu",
) -> Any:
    """Convolution, batch norm and activation: the layers ``<name>_conv``, ``<name>_norm`` and ``<name>_<kind>``.

    Args:
        x: a tensor of shape (batch, height, width, channels).
        filters: channels of the result.
        kernel: height and width of the kernel, or both in one.
        name: what the layers' names begin with.
        stride: in both directions, or in each.
        padding: ``"same"`` or ``"valid"``.
        groups: into how many groups the channels fall that do not see each other.
        bias: whether the convolution has one; without batch norm it always has.
        normalize: whether there is batch norm.
        kind: the activation, or None.
    """
    layer = layers.Conv2D if groups == 1 else GroupedConv2D
    x = layer(
        filters,
        kernel,
        strides=stride,
        padding=padding,
        groups=groups,
        use_bias=bias or not normalize,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    if normalize:
        x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(x)
    return activation(x, kind, name) if kind else x


def depthwise(
    x: Any,
    kernel: int,
    name: str,
    *,
    stride: int | tuple[int, int] = 1,
    multiplier: int = 1,
    bias: bool = False,
    kind: str | None = "relu",
) -> Any:
    """Depthwise convolution, batch norm and activation: ``<name>_depthwise``, ``<name>_norm``, ``<name>_<kind>``.

    Args:
        x: a tensor of shape (batch, height, width, channels).
        kernel: height and width of the kernel.
        name: what the layers' names begin with.
        stride: in both directions, or in each.
        multiplier: how many channels are made of each.
        bias: whether the convolution has one.
        kind: the activation, or None.
    """
    x = layers.DepthwiseConv2D(
        kernel, strides=stride, padding="same", depth_multiplier=multiplier, use_bias=bias, name=f"{name}_depthwise"
    )(x)
    x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(x)
    return activation(x, kind, name) if kind else x


def hidden(x: Any, units: int, name: str, *, normalize: bool = True, dropout: float = 0.0) -> Any:
    """A dense layer with ReLU: ``<name>_dense``, ``<name>_norm``, ``<name>_relu`` and ``<name>_dropout``."""
    x = layers.Dense(units, use_bias=not normalize, kernel_initializer="he_normal", name=f"{name}_dense")(x)
    if normalize:
        x = layers.BatchNormalization(momentum=MOMENTUM, name=f"{name}_norm")(x)
    x = layers.ReLU(name=f"{name}_relu")(x)
    return layers.Dropout(dropout, name=f"{name}_dropout")(x) if dropout else x


def classifier(inputs: Any, x: Any, classes: int, name: str) -> Any:
    """The network that ends in a dense layer with softmax, the layer ``probabilities``."""
    return keras.Model(inputs, layers.Dense(classes, activation="softmax", name="probabilities")(x), name=name)


def round_channels(channels: float, multiple: int = 8) -> int:
    """The nearest multiple, at least one of them and not less than 90 % of what was asked for.

    So MobileNetV2 and V3 round (Sandler et al., 2018); hardware likes multiples of 8.
    """
    rounded = max(multiple, int(channels + multiple / 2) // multiple * multiple)
    return rounded + multiple if rounded < 0.9 * channels else rounded
