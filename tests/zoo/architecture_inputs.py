"""Inputs that the built-in networks are tried with."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.catalog import InputSpec


def image(size: int, channels: int = 3, dtype: str = "uint8") -> InputSpec:
    return InputSpec(kind="image", shape=(size, size, channels), dtype=dtype, minimum=0, maximum=255)


def waveform(samples: int = 8000, dtype: str = "float32") -> InputSpec:
    peak = 1 if dtype == "float32" else 32768
    return InputSpec(kind="audio", shape=(samples,), dtype=dtype, minimum=-peak, maximum=max(1, peak - 1))


def tensor(*shape: int) -> InputSpec:
    return InputSpec(kind="tensor", shape=shape, dtype="float32", minimum=-4, maximum=4)


SPECS = {"image": image(32), "audio": waveform(), "tensor": tensor(6, 5)}


def examples(spec: InputSpec, count: int = 2, seed: int = 0) -> npt.NDArray[Any]:
    random = np.random.default_rng(seed)
    return random.uniform(spec.minimum, spec.maximum, (count, *spec.shape)).astype(spec.dtype)


def settle(model: Any, x: npt.NDArray[Any]) -> Any:
    """Gives batch norm the statistics of its inputs, so that answers differ from input to input."""
    normalized = [layer for layer in model.layers if hasattr(layer, "momentum")]
    for layer in normalized:
        layer.momentum = 0.3
    for _ in range(8 if normalized else 0):
        model(x, training=True)
    return model
