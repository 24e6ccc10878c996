"""AlexNet in one column (Krizhevsky, "One weird trick for parallelizing convolutional neural networks", 2014)."""

from __future__ import annotations

import math
from typing import Any

from zoo.architectures.blocks import classifier, convolution, hidden, image_input, strides
from zoo.backend import keras
from zoo.catalog import InputSpec

layers = keras.layers

LEAST = 8
_KERNELS = {4: 11, 2: 7, 1: 5}


def alexnet(
    spec: InputSpec, classes: int, *, width: float = 1.0, normalize: bool = True, resolution: float = 1.0
) -> Any:
    """Five convolutions and two hidden layers, without local response normalisation.

    Images under 96 pixels skip some of the first halvings: at 32×32 the first convolution is 5×5 with stride 1,
    and all three poolings stay. Under 128 pixels the hidden layers have 512 units instead of 4,096.

    Args:
        spec: the raw image, from 8×8 pixels.
        classes: how many classes there are.
        width: the share of each layer's channels.
        normalize: whether there is batch norm, without which training from nothing is delicate; the original has none.
        resolution: height and width that it works on, relative to the raw image's.

    Raises:
        ModelError: no image, or one that is too small.
    """
    inputs, x = image_input(spec, LEAST, resolution)
    units = round((4096 if min(x.shape[1:3]) >= 128 else 512) * width)
    *first, pool1, pool2, pool5 = strides(x, 5)
    stride = math.prod(first)
    steps = ((64, _KERNELS[stride], pool1), (192, 5, pool2), (384, 3, 1), (256, 3, 1), (256, 3, pool5))
    for number, (filters, kernel, pool) in enumerate(steps, start=1):
        x = convolution(
            x,
            max(1, round(filters * width)),
            kernel,
            f"step{number}",
            stride=stride if number == 1 else 1,
            normalize=normalize,
        )
        if pool == 2:
            x = layers.MaxPooling2D(3, strides=2, name=f"step{number}_pool")(x)
    x = layers.Flatten(name="flat")(x)
    for number in (1, 2):
        x = hidden(x, units, f"hidden{number}", normalize=normalize, dropout=0.5)
    return classifier(inputs, x, classes, "alexnet")
