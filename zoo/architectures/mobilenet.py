"""MobileNets, version 1, version 2 and version 3 small.

Images under 96 pixels skip some of the five halvings, as the networks adapted to CIFAR do: see ``strides``.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from zoo.architectures.blocks import (
    activation,
    classifier,
    convolution,
    depthwise,
    image_input,
    round_channels,
    strides,
)
from zoo.backend import keras
from zoo.catalog import InputSpec

layers = keras.layers

LEAST = 8


def mobilenet_v1(
    spec: InputSpec, classes: int, *, width: float = 1.0, depth_multiplier: int = 1, resolution: float = 1.0
) -> Any:
    """Thirteen depthwise separable convolutions (Howard et al., "MobileNets", 2017).

    Args:
        spec: the raw image, from 8×8 pixels; at 32×32, the first convolution does not halve it.
        classes: how many classes there are.
        width: the share α of each layer's channels.
        depth_multiplier: how many channels a depthwise convolution makes of each.
        resolution: ρ: height and width that it works on, relative to the raw image's.

    Raises:
        ModelError: no image, or one that is too small.
    """
    inputs, x = image_input(spec, LEAST, resolution)
    first, *later = strides(x, 5, least=2)
    x = convolution(x, _scaled(32, width), 3, "stem", stride=first, kind="relu6")
    repeats = ((64, 1), (128, 2), (256, 2), (512, 6), (1024, 2))
    stages = zip(repeats, (1, *later), strict=True)
    blocks = [(filters, stride if index == 0 else 1) for (filters, n), stride in stages for index in range(n)]
    for number, (filters, stride) in enumerate(blocks, start=1):
        x = depthwise(x, 3, f"block{number}_spatial", stride=stride, multiplier=depth_multiplier, kind="relu6")
        x = convolution(x, _scaled(filters, width), 1, f"block{number}_pointwise", kind="relu6")
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return classifier(inputs, x, classes, "mobilenet-v1")


def _scaled(filters: int, width: float) -> int:
    return max(1, int(filters * width))


class _Stage(NamedTuple):
    """Blocks of version 2: how much they expand, their channels, and how many there are."""

    expansion: int
    filters: int
    blocks: int
    halves: bool


_V2 = (
    _Stage(1, 16, 1, False),
    _Stage(6, 24, 2, True),
    _Stage(6, 32, 3, True),
    _Stage(6, 64, 4, True),
    _Stage(6, 96, 3, False),
    _Stage(6, 160, 3, True),
    _Stage(6, 320, 1, False),
)


def mobilenet_v2(spec: InputSpec, classes: int, *, width: float = 1.0, resolution: float = 1.0) -> Any:
    """Inverted residuals with linear bottlenecks (Sandler et al., "MobileNetV2", CVPR 2018).

    Args:
        spec: the raw image, from 8×8 pixels; at 32×32, the first two of the five halvings are left out.
        classes: how many classes there are.
        width: the share of each layer's channels; the last convolution has 1,280 or more.
        resolution: height and width that it works on, relative to the raw image's.

    Raises:
        ModelError: no image, or one that is too small.
    """
    inputs, x = image_input(spec, LEAST, resolution)
    first, *later = strides(x, 5)
    x = convolution(x, round_channels(32 * width), 3, "stem", stride=first, kind="relu6")
    number = 0
    for stage in _V2:
        stage_stride = later.pop(0) if stage.halves else 1
        for index in range(stage.blocks):
            number += 1
            x = _inverted_residual(
                x,
                expanded=x.shape[-1] * stage.expansion,
                filters=round_channels(stage.filters * width),
                stride=stage_stride if index == 0 else 1,
                name=f"block{number}",
            )
    x = convolution(x, round_channels(1280 * max(1.0, width)), 1, "last", kind="relu6")
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return classifier(inputs, x, classes, "mobilenet-v2")


class _Bottleneck(NamedTuple):
    """A block of version 3: channels inside and out, before scaling, and how it computes."""

    expansion: float
    filters: int
    kernel: int
    halves: bool
    squeezes: bool
    kind: str


_V3_SMALL = (
    _Bottleneck(1, 16, 3, True, True, "relu"),
    _Bottleneck(72 / 16, 24, 3, True, False, "relu"),
    _Bottleneck(88 / 24, 24, 3, False, False, "relu"),
    _Bottleneck(4, 40, 5, True, True, "hard_silu"),
    _Bottleneck(6, 40, 5, False, True, "hard_silu"),
    _Bottleneck(6, 40, 5, False, True, "hard_silu"),
    _Bottleneck(3, 48, 5, False, True, "hard_silu"),
    _Bottleneck(3, 48, 5, False, True, "hard_silu"),
    _Bottleneck(6, 96, 5, True, True, "hard_silu"),
    _Bottleneck(6, 96, 5, False, True, "hard_silu"),
    _Bottleneck(6, 96, 5, False, True, "hard_silu"),
)


def mobilenet_v3_small(spec: InputSpec, classes: int, *, width: float = 1.0, resolution: float = 1.0) -> Any:
    """Inverted residuals with squeeze-and-excitation and hard-swish (Howard et al., "MobileNetV3", ICCV 2019).

    Args:
        spec: the raw image, from 8×8 pixels; at 32×32, the first two of the five halvings are left out.
        classes: how many classes there are.
        width: the share of each layer's channels; the last hidden layer has 1,024 or more.
        resolution: height and width that it works on, relative to the raw image's.

    Raises:
        ModelError: no image, or one that is too small.
    """
    inputs, x = image_input(spec, LEAST, resolution)
    first, *later = strides(x, 5)
    x = convolution(x, 16, 3, "stem", stride=first, kind="hard_silu")
    for number, block in enumerate(_V3_SMALL, start=1):
        x = _inverted_residual(
            x,
            expanded=round_channels(x.shape[-1] * block.expansion) if number > 1 else x.shape[-1],
            filters=round_channels(block.filters * width),
            stride=later.pop(0) if block.halves else 1,
            name=f"block{number}",
            kernel=block.kernel,
            kind=block.kind,
            squeezes=block.squeezes,
        )
    x = convolution(x, round_channels(6 * x.shape[-1]), 1, "last", kind="hard_silu")
    x = layers.GlobalAveragePooling2D(name="average")(x)
    x = layers.Dense(round_channels(1024 * max(1.0, width)), name="hidden_dense")(x)
    x = activation(x, "hard_silu", "hidden")
    x = layers.Dropout(0.2, name="hidden_dropout")(x)
    return classifier(inputs, x, classes, "mobilenet-v3-small")


def _inverted_residual(
    x: Any,
    *,
    expanded: int,
    filters: int,
    stride: int,
    name: str,
    kernel: int = 3,
    kind: str = "relu6",
    squeezes: bool = False,
) -> Any:
    """Expansion, depthwise convolution, excitation where wanted, projection; a shortcut where shapes allow."""
    shortcut = x
    if expanded != x.shape[-1]:
        x = convolution(x, expanded, 1, f"{name}_expand", kind=kind)
    x = depthwise(x, kernel, f"{name}_spatial", stride=stride, kind=kind)
    if squeezes:
        x = _excite(x, round_channels(expanded / 4), f"{name}_excite")
    x = convolution(x, filters, 1, f"{name}_project", kind=None)
    if stride == 1 and shortcut.shape[-1] == filters:
        x = layers.Add(name=f"{name}_add")([shortcut, x])
    return x


def _excite(x: Any, squeezed: int, name: str) -> Any:
    """Squeeze and excitation: weighs channels by what all of them are on average."""
    gate = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_average")(x)
    gate = layers.Conv2D(squeezed, 1, activation="relu", name=f"{name}_squeeze")(gate)
    gate = layers.Conv2D(x.shape[-1], 1, activation="hard_sigmoid", name=f"{name}_gate")(gate)
    return layers.Multiply(name=f"{name}_scale")([x, gate])
