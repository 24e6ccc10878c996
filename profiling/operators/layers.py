"""Operators written by hand, as LiteRT's converters make them of layers: for networks that were never built.

The number format ``numbers`` is ``"float32"``, ``"int8"``, ``"dynamic"`` (float activations, int8 weights) or
``"float16"`` (weights only). Sizes and kernels are a number, or height and width. The batch is 1.
"""

from __future__ import annotations

import msgspec

from profiling.operators.operator import Operator, Tensor, Value

Size = int | tuple[int, int]


def convolution(
    size: Size, channels: int, filters: int, kernel: Size = 3, stride: int = 1, *,
    numbers: str = "float32", padding: str = "SAME", activation: str = "RELU",
) -> Operator:  # fmt: skip
    """A convolution of an input of ``size`` with ``channels``, with bias."""
    height, width = _pair(kernel)
    weights = _weights((filters, height, width, channels), filters, numbers)
    outputs = (_activation((1, *_windows(size, kernel, stride, padding), filters), numbers),)
    inputs = (_activation((1, *_pair(size), channels), numbers), weights, _bias(filters, numbers))
    options = _options(strideH=stride, strideW=stride, padding=padding, fusedActivationFunction=activation)
    return Operator("CONV_2D", inputs, outputs, options)


def depthwise(
    size: Size, channels: int, kernel: Size = 3, stride: int = 1, *,
    numbers: str = "float32", padding: str = "SAME", activation: str = "RELU",
) -> Operator:  # fmt: skip
    """A convolution of each channel by itself, with bias."""
    weights = _weights((1, *_pair(kernel), channels), channels, numbers)
    inputs = (_activation((1, *_pair(size), channels), numbers), weights, _bias(channels, numbers))
    outputs = (_activation((1, *_windows(size, kernel, stride, padding), channels), numbers),)
    options = _options(
        strideH=stride, strideW=stride, depthMultiplier=1, padding=padding, fusedActivationFunction=activation
    )
    return Operator("DEPTHWISE_CONV_2D", inputs, outputs, options)


def fully_connected(
    features: int, units: int, rows: int = 1, *, numbers: str = "float32", activation: str = "NONE"
) -> Operator:
    """A matrix product with ``rows`` vectors of ``features``, with bias."""
    weights = _weights((units, features), units, numbers)
    inputs = (_activation((rows, features), numbers), weights, _bias(units, numbers))
    outputs = (_activation((rows, units), numbers),)
    return Operator("FULLY_CONNECTED", inputs, outputs, _options(fusedActivationFunction=activation))


def pooling(kind: str, size: Size, channels: int, kernel: Size, stride: int, *, numbers: str = "float32") -> Operator:
    """``"AVERAGE_POOL_2D"`` or ``"MAX_POOL_2D"`` without padding."""
    height, width = _pair(kernel)
    inputs = (_activation((1, *_pair(size), channels), numbers),)
    outputs = (_activation((1, *_windows(size, kernel, stride, "VALID"), channels), numbers),)
    options = _options(filterHeight=height, filterWidth=width, padding="VALID", strideH=stride, strideW=stride)
    return Operator(kind, inputs, outputs, options)


def global_average(size: Size, channels: int, *, numbers: str = "float32") -> Operator:
    """The mean of each channel."""
    inputs = (_activation((1, *_pair(size), channels), numbers), _indices(1, 2))
    return Operator("MEAN", inputs, (_activation((1, channels), numbers),))


def elementwise(kind: str, shape: tuple[int, ...], *, numbers: str = "float32") -> Operator:
    """What gives a value for each value: ``"HARD_SWISH"``, ``"LOGISTIC"``, …; and ``"SOFTMAX"`` over the last axis."""
    options = _options(beta=1.0) if kind == "SOFTMAX" else ()
    return Operator(kind, (_activation(shape, numbers),), (_activation(shape, numbers),), options)


def arithmetic(
    kind: str, shape: tuple[int, ...], *, constant: tuple[int, ...] | None = None,
    numbers: str = "float32", activation: str = "NONE",
) -> Operator:  # fmt: skip
    """``"ADD"``, ``"SUB"`` or ``"MUL"`` of two inputs of a shape, or of one and a constant of another shape."""
    first = _activation(shape, numbers)
    second = first if constant is None else msgspec.structs.replace(_activation(constant, numbers), constant=True)
    return Operator(kind, (first, second), (first,), _options(fusedActivationFunction=activation))


def conversion(kind: str, shape: tuple[int, ...], *, numbers: str = "float32") -> Operator:
    """``"QUANTIZE"`` (float32 or int8 to int8), ``"DEQUANTIZE"`` (int8 to float32) or ``"CAST"`` (uint8 to float32)."""
    real, integer, byte = Tensor(shape), Tensor(shape, "int8", scales=1), Tensor(shape, "uint8")
    given, made = {
        "QUANTIZE": (_activation(shape, numbers), integer),
        "DEQUANTIZE": (integer, real),
        "CAST": (byte, real),
    }[kind]
    return Operator(kind, (given,), (made,))


def concatenation(size: Size, channels: tuple[int, ...], *, numbers: str = "float32") -> Operator:
    """Channels of several inputs side by side."""
    inputs = tuple(_activation((1, *_pair(size), count), numbers) for count in channels)
    outputs = (_activation((1, *_pair(size), sum(channels)), numbers),)
    return Operator("CONCATENATION", inputs, outputs, _options(axis=3))


def reshape(shape: tuple[int, ...], new_shape: tuple[int, ...], *, numbers: str = "float32") -> Operator:
    """The same values in another shape."""
    inputs = (_activation(shape, numbers), _indices(*new_shape))
    return Operator("RESHAPE", inputs, (_activation(new_shape, numbers),))


def transpose(shape: tuple[int, ...], order: tuple[int, ...], *, numbers: str = "float32") -> Operator:
    """Axes in another order."""
    outputs = (_activation(tuple(shape[axis] for axis in order), numbers),)
    return Operator("TRANSPOSE", (_activation(shape, numbers), _indices(*order)), outputs)


def reverse(shape: tuple[int, ...], axis: int, *, numbers: str = "float32") -> Operator:
    """An axis backwards."""
    return Operator("REVERSE_V2", (_activation(shape, numbers), _indices(axis)), (_activation(shape, numbers),))


def pad(size: Size, channels: int, around: int, *, numbers: str = "float32") -> Operator:
    """Zeros around an image."""
    height, width = _pair(size)
    paddings = Tensor((4, 2), "int32", constant=True, values=(0, 0, around, around, around, around, 0, 0))
    outputs = (_activation((1, height + 2 * around, width + 2 * around, channels), numbers),)
    return Operator("PAD", (_activation((1, height, width, channels), numbers), paddings), outputs)


def strided_slice(
    shape: tuple[int, ...], begin: tuple[int, ...], end: tuple[int, ...], *, numbers: str = "float32"
) -> Operator:
    """The part of a tensor from ``begin`` to before ``end``."""
    inputs = (_activation(shape, numbers), _indices(*begin), _indices(*end), _indices(*[1] * len(shape)))
    outputs = (_activation(tuple(last - first for first, last in zip(begin, end, strict=True)), numbers),)
    return Operator("STRIDED_SLICE", inputs, outputs)


def split(size: Size, channels: int, parts: int, *, numbers: str = "float32") -> Operator:
    """The channels of an image in equal parts."""
    axis = Tensor((), "int32", constant=True, values=(3,))
    outputs = (_activation((1, *_pair(size), channels // parts), numbers),) * parts
    inputs = (axis, _activation((1, *_pair(size), channels), numbers))
    return Operator("SPLIT", inputs, outputs, _options(numSplits=parts))


def _pair(size: Size) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else size


def _windows(size: Size, kernel: Size, stride: int, padding: str) -> tuple[int, int]:
    height, width = (
        -(-(extent if padding == "SAME" else extent - window + 1) // stride)
        for extent, window in zip(_pair(size), _pair(kernel), strict=True)
    )
    return height, width


def _activation(shape: tuple[int, ...], numbers: str) -> Tensor:
    return Tensor(shape, "int8", scales=1) if numbers == "int8" else Tensor(shape)


def _weights(shape: tuple[int, ...], channels: int, numbers: str) -> Tensor:
    if numbers in ("int8", "dynamic"):
        return Tensor(shape, "int8", scales=channels, constant=True)
    return Tensor(shape, numbers, constant=True, unpacked=numbers == "float16")


def _bias(channels: int, numbers: str) -> Tensor:
    if numbers == "int8":
        return Tensor((channels,), "int32", scales=channels, constant=True)
    return Tensor((channels,), constant=True)


def _indices(*values: int) -> Tensor:
    return Tensor((len(values),), "int32", constant=True, values=values)


def _options(**options: Value) -> tuple[tuple[str, Value], ...]:
    defaults = {"padding": "SAME", "fusedActivationFunction": "NONE"}
    return tuple(sorted((name, value) for name, value in options.items() if defaults.get(name) != value))
