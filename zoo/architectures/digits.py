"""The small network that the digits are learnt with."""

from __future__ import annotations

from typing import Any

from zoo.architectures.blocks import MOMENTUM, image_input
from zoo.backend import keras
from zoo.catalog import InputSpec

layers = keras.layers


def digits_cnn(spec: InputSpec, classes: int, *, width: int = 176) -> Any:
    """Four 3×3 convolutions with batch normalisation, for small images (about 1 ms on a laptop core).

    Args:
        spec: the raw input, of shape (height, width, channels), from 2×2.
        classes: how many classes there are.
        width: channels of the middle convolutions; the first has half, the last twice as many.

    Raises:
        ModelError: no image, or one that is too small.
    """
    inputs, x = image_input(spec, least=2)
    for index, (filters, pool) in enumerate([(width // 2, False), (width, False), (width, True), (2 * width, False)]):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{index}")(x)
        x = layers.BatchNormalization(momentum=MOMENTUM, name=f"norm{index}")(x)
        x = layers.ReLU(name=f"relu{index}")(x)
        if pool:
            x = layers.MaxPooling2D(name=f"pool{index}")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    x = layers.Dense(width, activation="relu", name="hidden")(x)
    outputs = layers.Dense(classes, activation="softmax", name="probabilities")(x)
    return keras.Model(inputs, outputs, name="digits-cnn")
