"""Residual networks in the form for small images (He et al., "Deep residual learning", CVPR 2016, section 4.2)."""

from __future__ import annotations

import math
from typing import Any

from fleetfoot.errors import UsageError
from zoo.architectures.blocks import activation, classifier, convolution, image_input
from zoo.backend import keras
from zoo.catalog import InputSpec

layers = keras.layers

LEAST = 4
_STAGE_SIZE = 64
"""The most pixels in height or width that the first stage works on."""


def resnet(spec: InputSpec, classes: int, *, depth: int = 20, width: int = 16, resolution: float = 1.0) -> Any:
    """Three stages of residual blocks; the second and third double the channels and halve the image.

    As in the networks of Keras's examples and of MLPerf Tiny, the convolutions have biases, and where a stage
    begins, the shortcut is a 1×1 convolution instead of padding with zeros. Images above 64 pixels are halved
    by the first convolution, those above 128 again by pooling, as in the form for ImageNet.

    Args:
        spec: the raw image, from 4×4 pixels.
        classes: how many classes there are.
        depth: how many layers with weights, shortcuts apart: 6n + 2 for n blocks per stage.
        width: channels of the first stage.
        resolution: height and width that it works on, relative to the raw image's.

    Raises:
        UsageError: a depth that no number of blocks gives.
        ModelError: no image, or one that is too small.
    """
    if depth < 8 or depth % 6 != 2:
        raise UsageError(f"a residual network of this form has 6n + 2 layers, such as 8, 14 or 20, not {depth}")
    inputs, x = image_input(spec, LEAST, resolution)
    x = _stem(x, width)
    for stage in range(3):
        for block in range(depth // 6):
            stride = 2 if stage > 0 and block == 0 else 1
            x = _block(x, width * 2**stage, stride, f"stage{stage + 1}_block{block + 1}")
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return classifier(inputs, x, classes, f"resnet-{depth}")


def resnet8(spec: InputSpec, classes: int, *, width: int = 16, resolution: float = 1.0) -> Any:
    """The image classifier of MLPerf Tiny (Banbury et al., 2021): ``resnet`` with one block per stage.

    Args:
        spec: the raw image, from 4×4 pixels.
        classes: how many classes there are.
        width: channels of the first stage.
        resolution: height and width that it works on, relative to the raw image's.

    Raises:
        ModelError: no image, or one that is too small.
    """
    return resnet(spec, classes, depth=8, width=width, resolution=resolution)


def _stem(x: Any, width: int) -> Any:
    halvings = math.ceil(math.log2(max(*x.shape[1:3], _STAGE_SIZE) / _STAGE_SIZE))
    x = convolution(x, width, 3, "stem", stride=2 if halvings else 1, bias=True)
    if halvings > 1:
        x = layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    return x


def _block(x: Any, filters: int, stride: int, name: str) -> Any:
    residual = convolution(x, filters, 3, f"{name}_first", stride=stride, bias=True)
    residual = convolution(residual, filters, 3, f"{name}_second", bias=True, kind=None)
    if stride > 1:
        x = layers.Conv2D(filters, 1, strides=stride, padding="same", name=f"{name}_shortcut")(x)
    return activation(layers.Add(name=f"{name}_add")([x, residual]), "relu", name)
