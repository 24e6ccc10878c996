"""VGG-16 (Simonyan and Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015)."""

from __future__ import annotations

from typing import Any

from zoo.architectures.blocks import classifier, convolution, hidden, image_input
from zoo.backend import keras
from zoo.catalog import InputSpec

layers = keras.layers

LEAST = 8
_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


def vgg16(spec: InputSpec, classes: int, *, width: float = 1.0, normalize: bool = True, resolution: float = 1.0) -> Any:
    """Thirteen 3×3 convolutions in five stages, a max-pooling after each, and hidden layers.

    There are two hidden layers of 4,096 units; under 128 pixels there is one of 512, as is usual for CIFAR
    (Liu and Deng, "Very deep convolutional neural network based image classification using small training sample
    size", ACPR 2015). All five poolings stay: 32×32 pixels end as one.

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
    units = (4096, 4096) if min(x.shape[1:3]) >= 128 else (512,)
    for stage, (filters, count) in enumerate(_STAGES, start=1):
        for number in range(1, count + 1):
            x = convolution(x, max(1, round(filters * width)), 3, f"stage{stage}_step{number}", normalize=normalize)
        x = layers.MaxPooling2D(padding="same", name=f"stage{stage}_pool")(x)
    x = layers.Flatten(name="flat")(x)
    for number, size in enumerate(units, start=1):
        x = hidden(x, round(size * width), f"hidden{number}", normalize=normalize, dropout=0.5)
    return classifier(inputs, x, classes, "vgg-16")
