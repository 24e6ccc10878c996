"""LeNet-5 (LeCun et al., "Gradient-based learning applied to document recognition", Proc. IEEE 1998)."""

from __future__ import annotations

from typing import Any

from zoo.architectures.blocks import classifier, image_input
from zoo.backend import keras
from zoo.catalog import InputSpec

layers = keras.layers

LEAST = 12


def lenet5(spec: InputSpec, classes: int, *, form: str = "classic") -> Any:
    """Two 5×5 convolutions with pooling, and dense layers.

    Made for 32×32 pixels; the first convolution of the classic form is padded where there are fewer, such as 28×28.

    Args:
        spec: the raw image, from 12×12 pixels.
        classes: how many classes there are.
        form: ``"classic"``: tanh and average pooling, 6 and 16 channels, all connected, dense layers of 120 and 84
            and a softmax instead of radial basis functions; ``"relu"``: DeepCL's network for MNIST,
            8c5z-relu-mp2-16c5z-relu-mp3-152n-tanh-10n.

    Raises:
        ModelError: no image, or one that is too small.
    """
    inputs, x = image_input(spec, LEAST)
    x = _classic(x) if form == "classic" else _relu(x)
    return classifier(inputs, x, classes, "lenet-5")


def _classic(x: Any) -> Any:
    padding = "valid" if min(x.shape[1:3]) >= 32 else "same"
    x = layers.Conv2D(6, 5, padding=padding, activation="tanh", name="conv1")(x)
    x = layers.AveragePooling2D(2, name="pool1")(x)
    x = layers.Conv2D(16, 5, activation="tanh", name="conv2")(x)
    x = layers.AveragePooling2D(2, name="pool2")(x)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(120, activation="tanh", name="hidden1")(x)
    return layers.Dense(84, activation="tanh", name="hidden2")(x)


def _relu(x: Any) -> Any:
    x = layers.Conv2D(8, 5, padding="same", activation="relu", name="conv1")(x)
    x = layers.MaxPooling2D(2, name="pool1")(x)
    x = layers.Conv2D(16, 5, padding="same", activation="relu", name="conv2")(x)
    x = layers.MaxPooling2D(3, name="pool2")(x)
    x = layers.Flatten(name="flat")(x)
    return layers.Dense(152, activation="tanh", name="hidden1")(x)
