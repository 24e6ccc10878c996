"""ShuffleNet, version 1 (Zhang et al., "ShuffleNet: an extremely efficient CNN for mobile devices", CVPR 2018)."""

from __future__ import annotations

from typing import Any

from zoo.architectures.blocks import activation, classifier, convolution, depthwise, image_input, strides
from zoo.backend import keras
from zoo.catalog import InputSpec

layers = keras.layers

LEAST = 8
CHANNELS = {1: 144, 2: 200, 3: 240, 4: 272, 8: 384}
"""Channels of the first stage by number of groups, so that all cost about the same (table 1 of the paper)."""
_UNITS = (4, 8, 4)


def shufflenet(
    spec: InputSpec, classes: int, *, groups: int = 3, complexity: float = 1.0, resolution: float = 1.0
) -> Any:
    """Three stages of units whose 1×1 convolutions see one group of channels each, and shuffle them between.

    At 32×32 pixels neither the first convolution nor the pooling after it halves the image.

    Args:
        spec: the raw image, from 8×8 pixels.
        classes: how many classes there are.
        groups: how many groups there are; with one, nothing is shuffled.
        complexity: the share s of each layer's channels, rounded to multiples of the groups.
        resolution: height and width that it works on, relative to the raw image's.

    Raises:
        ModelError: no image, or one that is too small.
    """
    inputs, x = image_input(spec, LEAST, resolution)
    first, second, *later = strides(x, 5)
    x = convolution(x, _multiple(24 * complexity, groups), 3, "stem", stride=first)
    if second == 2:
        x = layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    for stage, (units, stride) in enumerate(zip(_UNITS, later, strict=True)):
        filters = _multiple(CHANNELS[groups] * complexity * 2**stage, groups)
        for unit in range(units):
            name = f"stage{stage + 2}_unit{unit + 1}"
            if unit == 0:
                x = _widen(x, filters, groups, stride, name, first_groups=groups if stage else 1)
            else:
                added = layers.Add(name=f"{name}_add")([x, _branch(x, filters, filters, groups, name)])
                x = activation(added, "relu", name)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return classifier(inputs, x, classes, "shufflenet")


def _widen(x: Any, filters: int, groups: int, stride: int, name: str, first_groups: int) -> Any:
    """A unit that adds channels beside those that come in, and halves the image (figure 2c)."""
    branch = _branch(x, filters, filters - x.shape[-1], groups, name, stride=stride, first_groups=first_groups)
    if stride == 2:
        x = layers.AveragePooling2D(3, strides=2, padding="same", name=f"{name}_shortcut")(x)
    return activation(layers.Concatenate(name=f"{name}_join")([x, branch]), "relu", name)


def _branch(
    x: Any, filters: int, made: int, groups: int, name: str, stride: int = 1, first_groups: int | None = None
) -> Any:
    """Squeezes to a quarter of ``filters``, shuffles, convolves each channel, and makes ``made`` of them."""
    squeezed = _multiple(filters / 4, groups)
    x = convolution(x, squeezed, 1, f"{name}_squeeze", groups=first_groups or groups)
    x = _shuffle(x, groups, f"{name}_shuffle")
    x = depthwise(x, 3, f"{name}_spatial", stride=stride, kind=None)
    return convolution(x, made, 1, f"{name}_expand", groups=groups, kind=None)


def _shuffle(x: Any, groups: int, name: str) -> Any:
    """Deals the channels of each group out to all groups."""
    if groups == 1:
        return x
    height, width, channels = x.shape[1:]
    x = layers.Reshape((height, width, groups, channels // groups), name=f"{name}_split")(x)
    x = layers.Permute((1, 2, 4, 3), name=f"{name}_deal")(x)
    return layers.Reshape((height, width, channels), name=f"{name}_join")(x)


def _multiple(channels: float, groups: int) -> int:
    return max(1, round(channels / groups)) * groups
