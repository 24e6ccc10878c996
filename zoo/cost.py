"""What a network costs, counted from its structure: multiply-accumulates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

from fleetfoot.errors import ModelError
from zoo.backend import keras
from zoo.graph import Call, calls, inlined

layers = keras.layers

_PER_OUTPUT = (
    layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D, layers.DepthwiseConv1D, layers.DepthwiseConv2D,
)  # fmt: skip
_PER_INPUT = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_SEPARABLE = (layers.SeparableConv1D, layers.SeparableConv2D)


class Use(NamedTuple):
    """A weight that a call multiplies with: each of its elements ``times`` in one inference."""

    layer: str
    weight: str
    size: int
    times: int


def uses(model: Any) -> list[Use]:
    """The kernels of a network's convolutions and dense layers, by call."""
    return [use for call in calls(inlined(model)) for use in _uses(call)]


def count_macs(model: Any) -> int:
    """Multiply-accumulates of one inference, in convolutions and dense layers.

    Each weight of a kernel is used once per position of the output, of a transposed convolution's input.
    """
    return sum(use.size * use.times for use in uses(model))


def _uses(call: Call) -> Iterator[Use]:
    layer = call.layer
    if isinstance(layer, _PER_OUTPUT):
        yield _use(layer, "kernel", call.outputs[0])
    elif isinstance(layer, _PER_INPUT):
        yield _use(layer, "kernel", call.inputs[0])
    elif isinstance(layer, _SEPARABLE):
        yield _use(layer, "depthwise_kernel", call.outputs[0])
        yield _use(layer, "pointwise_kernel", call.outputs[0])


def _use(layer: Any, weight: str, tensor: Any) -> Use:
    """One use of each element of the weight per position of the tensor."""
    return Use(layer.name, weight, math.prod(getattr(layer, weight).shape), math.prod(positions(layer, tensor)))


def positions(layer: Any, tensor: Any) -> tuple[int, ...]:
    """The sizes, without batch and channels, of a tensor that a layer reads or makes.

    Raises:
        ModelError: a size that the network leaves open.
    """
    first = getattr(layer, "data_format", None) == "channels_first"
    sizes = tuple(tensor.shape[2:] if first else tensor.shape[1:-1])
    if None in sizes:
        raise ModelError(f"{layer.name} works on {tensor.shape}: what that costs is not known, give the input a size")
    return sizes
