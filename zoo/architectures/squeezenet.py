"""SqueezeNet (Iandola et al., "SqueezeNet: AlexNet-level accuracy with 50× fewer parameters", 2016)."""

from __future__ import annotations

from typing import Any

from zoo.architectures.blocks import convolution, image_input, strides
from zoo.backend import keras
from zoo.catalog import InputSpec

layers = keras.layers

LEAST = 8
_FIRES = 8
_POOLED_AFTER = (3, 7)


def squeezenet(
    spec: InputSpec,
    classes: int,
    *,
    base_expand: int = 128,
    expansion_increment: int = 128,
    expansion_filter_ratio: float = 0.5,
    filter_expansion_freq: int = 2,
    squeeze_ratio: float = 0.125,
    normalize: bool = True,
    resolution: float = 1.0,
) -> Any:
    """Eight fire modules between two convolutions, in version 1.0 of the network.

    Fire module i, from 0, makes base_expand + expansion_increment · ⌊i / filter_expansion_freq⌋ channels
    (section 5.1 of the paper). At 32×32 pixels the first convolution is 3×3 and does not halve the image.

    Args:
        spec: the raw image, from 8×8 pixels.
        classes: how many classes there are.
        base_expand: channels that the first fire module makes.
        expansion_increment: by how much they grow.
        expansion_filter_ratio: the share of them that 3×3 filters make; 1×1 filters make the others.
        filter_expansion_freq: after how many modules they grow.
        squeeze_ratio: channels that a module squeezes its input to, as a share of those that it makes.
        normalize: whether there is batch norm, without which training from nothing is delicate; the original has none.
        resolution: height and width that it works on, relative to the raw image's.

    Raises:
        ModelError: no image, or one that is too small.
    """
    inputs, x = image_input(spec, LEAST, resolution)
    first, second, *later = strides(x, 4)
    x = convolution(x, 96, 7 if first == 2 else 3, "stem", stride=first, normalize=normalize)
    x = _pool(x, second, "stem_pool")
    for index in range(_FIRES):
        made = base_expand + expansion_increment * (index // filter_expansion_freq)
        wide = round(made * expansion_filter_ratio)
        squeezed = max(1, round(made * squeeze_ratio))
        name = f"fire{index + 2}"
        x = convolution(x, squeezed, 1, f"{name}_squeeze", normalize=normalize)
        narrow = convolution(x, made - wide, 1, f"{name}_expand1", normalize=normalize)
        x = convolution(x, wide, 3, f"{name}_expand3", normalize=normalize)
        x = layers.Concatenate(name=f"{name}_join")([narrow, x])
        if index + 1 in _POOLED_AFTER:
            x = _pool(x, later.pop(0), f"{name}_pool")
    x = layers.Dropout(0.5, name="dropout")(x)
    x = layers.Conv2D(classes, 1, name="classes")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return keras.Model(inputs, layers.Activation("softmax", name="probabilities")(x), name="squeezenet")


def _pool(x: Any, stride: int, name: str) -> Any:
    return layers.MaxPooling2D(3, strides=2, padding="same", name=name)(x) if stride == 2 else x
