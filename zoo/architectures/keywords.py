"""Keyword-spotting networks (Zhang et al., "Hello Edge: keyword spotting on microcontrollers", 2017).

They look at a waveform's cepstral coefficients or mel bands over time, normalised per coefficient; or at an image
in place of that, as REDS does (Corti et al., "REDS: Resource-Efficient Deep Subnetworks", 2023).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fleetfoot.errors import ModelError
from zoo.architectures.blocks import MOMENTUM, check_image, classifier, convolution, depthwise, scaled_input
from zoo.architectures.frontend import log_mel, mfcc, sampling_rate_of
from zoo.backend import keras
from zoo.catalog import InputSpec

layers = keras.layers

FRONT_ENDS = {"mfcc": mfcc, "log-mel": log_mel}
SIZES = ("S", "M", "L")
_DNN_HOP_MS = 40


def dnn(spec: InputSpec, classes: int, *, size: str = "S", features: str = "mfcc") -> Any:
    """Three hidden layers of 144, 256 or 436 units; frames of a waveform do not overlap.

    Args:
        spec: a waveform from 40 ms, an image, or a tensor of any shape.
        classes: how many classes there are.
        size: ``"S"``, ``"M"`` or ``"L"``.
        features: of a waveform: ``"mfcc"``, 10 per frame, or ``"log-mel"``, 40.

    Raises:
        ModelError: a waveform that is too short, or has several channels.
    """
    inputs, x = scaled_input(spec)
    if spec.kind == "audio":
        x = _spectrum(x, features, sampling_rate_of(spec), _DNN_HOP_MS)
    if len(x.shape) > 2:
        x = layers.Flatten(name="flat")(x)
    units = {"S": 144, "M": 256, "L": 436}[size]
    for number in (1, 2, 3):
        x = layers.Dense(units, activation="relu", name=f"hidden{number}")(x)
    return classifier(inputs, x, classes, "dnn")


class _CnnSize(NamedTuple):
    """Channels of the two convolutions, and units of the linear layer."""

    first: int
    second: int
    linear: int


_CNN_SIZES = {"S": _CnnSize(28, 30, 16), "M": _CnnSize(64, 48, 16), "L": _CnnSize(60, 76, 58)}


def cnn(spec: InputSpec, classes: int, *, size: str = "S", features: str = "mfcc") -> Any:
    """Two convolutions of 10×4, a linear layer and one of 128 units.

    Args:
        spec: a waveform from 400 ms, or an image from 19×7 pixels.
        classes: how many classes there are.
        size: ``"S"``, ``"M"`` or ``"L"``.
        features: of a waveform: ``"mfcc"``, 10 per frame, or ``"log-mel"``, 40.

    Raises:
        ModelError: an input that is too small, or of another shape.
    """
    inputs, x = _map(spec, features, least=(19, 7))
    chosen = _CNN_SIZES[size]
    x = convolution(x, chosen.first, (10, 4), "step1", padding="valid", bias=True)
    x = convolution(x, chosen.second, (10, 4), "step2", stride=(2, 1), padding="valid", bias=True)
    x = layers.Flatten(name="flat")(x)
    x = layers.Dense(chosen.linear, name="linear")(x)
    x = layers.Dense(128, name="hidden_dense")(x)
    x = layers.BatchNormalization(momentum=MOMENTUM, name="hidden_norm")(x)
    x = layers.ReLU(name="hidden_relu")(x)
    return classifier(inputs, x, classes, "cnn")


class _DsCnnSize(NamedTuple):
    """Channels, separable blocks, and the strides of the first convolution and the first block."""

    channels: int
    blocks: int
    first_stride: tuple[int, int]
    block_stride: int


_DS_CNN_SIZES = {
    "S": _DsCnnSize(64, 4, (2, 2), 1),
    "M": _DsCnnSize(172, 4, (2, 1), 2),
    "L": _DsCnnSize(276, 5, (2, 1), 2),
}


def ds_cnn(spec: InputSpec, classes: int, *, size: str = "S", features: str = "mfcc") -> Any:
    """A convolution of 10×4 and four or five depthwise separable ones of 3×3, with 64, 172 or 276 channels.

    Args:
        spec: a waveform from 40 ms, or an image.
        classes: how many classes there are.
        size: ``"S"``, ``"M"`` or ``"L"``.
        features: of a waveform: ``"mfcc"``, 10 per frame, or ``"log-mel"``, 40.

    Raises:
        ModelError: an input that is too small, or of another shape.
    """
    inputs, x = _map(spec, features, least=(1, 1))
    chosen = _DS_CNN_SIZES[size]
    x = convolution(x, chosen.channels, (10, 4), "stem", stride=chosen.first_stride, bias=True)
    for number in range(1, chosen.blocks + 1):
        stride = chosen.block_stride if number == 1 else 1
        x = depthwise(x, 3, f"block{number}_spatial", stride=stride, bias=True)
        x = convolution(x, chosen.channels, 1, f"block{number}_pointwise", bias=True)
    x = layers.GlobalAveragePooling2D(name="average")(x)
    return classifier(inputs, x, classes, "ds-cnn")


def _map(spec: InputSpec, features: str, least: tuple[int, int]) -> tuple[Any, Any]:
    """The raw input, and what the convolutions look at, of shape (batch, height, width, channels)."""
    if spec.kind != "audio":
        check_image(spec.shape, least=1)
    inputs, x = scaled_input(spec)
    if spec.kind == "audio":
        x = _spectrum(x, features, sampling_rate_of(spec))
        x = layers.Reshape((*x.shape[1:], 1), name="features_map")(x)
    height, width = x.shape[1:3]
    if height < least[0] or width < least[1]:
        what = f"recordings of {height} frames" if spec.kind == "audio" else f"images of {height}×{width} pixels"
        raise ModelError(f"{what} are too small: it takes {least[0]}×{least[1]} or more")
    return inputs, x


def _spectrum(x: Any, features: str, sampling_rate: int, hop_ms: int | None = None) -> Any:
    """Coefficients over time, of shape (batch, frames, coefficients), each normalised on its own."""
    x = FRONT_ENDS[features](x, sampling_rate, **({"hop_ms": hop_ms} if hop_ms else {}))
    return layers.BatchNormalization(momentum=MOMENTUM, name="features_norm")(x)
