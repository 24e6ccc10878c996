"""Built-in base networks, each a builder of an untrained network for given classes and inputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zoo.backend import keras
from zoo.catalog import InputSpec

layers = keras.layers


def digits_cnn(spec: InputSpec, classes: int, *, width: int = 176) -> Any:
    """Four 3×3 convolutions with batch normalisation, for small images (about 1 ms on a laptop core).

    Args:
        spec: the raw input, of shape (height, width, channels).
        classes: how many classes there are.
        width: channels of the middle convolutions; the first has half, the last twice as many.
    """
    inputs = keras.Input(spec.shape, dtype=spec.dtype, name="input")
    x = layers.Rescaling(1 / (spec.maximum - spec.minimum), -spec.minimum, name="scale")(inputs)
    for index, (filters, pool) in enumerate([(width // 2, False), (width, False), (width, True), (2 * width, False)]):
        x = layers.Conv2D(filters, 3, padding="same", use_bias=False, name=f"conv{index}")(x)
        x = layers.BatchNormalization(momentum=0.9, name=f"norm{index}")(x)
        x = layers.ReLU(name=f"relu{index}")(x)
        if pool:
            x = layers.MaxPooling2D(name=f"pool{index}")(x)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    x = layers.Dense(width, activation="relu", name="hidden")(x)
    outputs = layers.Dense(classes, activation="softmax", name="probabilities")(x)
    return keras.Model(inputs, outputs, name="digits-cnn")


ARCHITECTURES: Mapping[str, Callable[..., Any]] = {"digits-cnn": digits_cnn}
"""Builders by name: ``(input spec, number of classes, **parameters) → untrained network``."""

DEFAULT_ARCHITECTURE: Mapping[str, str] = {"digits": "digits-cnn"}
"""The built-in network for each built-in dataset."""
