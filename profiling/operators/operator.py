"""The vocabulary for a network's operators: what is computed, on which shapes and types, but not with which weights."""

from __future__ import annotations

import math

import msgspec

Value = bool | int | float | str | tuple[int, ...]

_BYTES = {
    "float64": 8, "int64": 8, "uint64": 8, "complex64": 8, "float32": 4, "int32": 4, "uint32": 4,
    "float16": 2, "bfloat16": 2, "int16": 2, "uint16": 2, "int4": 0.5, "uint4": 0.5, "int2": 0.25,
}  # fmt: skip


class Tensor(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """What goes into an operator or comes out of it.

    Attributes:
        shape: its sizes; of activations the first is the batch.
        dtype: as in NumPy; of constants, as they are stored.
        scales: how many scales its integers are quantised with: 0 where they are what they are, 1 for the whole
            tensor, or one per channel.
        constant: whether its values are in the file.
        unpacked: whether it is a constant that a DEQUANTIZE makes float32 when the model is loaded.
        values: of small integer constants, such as the axes of a sum: they say what is computed.
    """

    shape: tuple[int, ...]
    dtype: str = "float32"
    scales: int = 0
    constant: bool = False
    unpacked: bool = False
    values: tuple[int, ...] = ()

    @property
    def size(self) -> int:
        """How many values it has."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """The memory of its values."""
        return math.ceil(self.size * _BYTES.get(self.dtype, 1))


class Operator(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One operator of a network; equal operators take equal time.

    Attributes:
        kind: its name in LiteRT, such as ``"CONV_2D"``.
        inputs: activations and constants in LiteRT's order; None where an optional one is left out.
        outputs: what it gives.
        options: LiteRT's options by name, sorted, where they are not the default; paddings and activations by name.
    """

    kind: str
    inputs: tuple[Tensor | None, ...]
    outputs: tuple[Tensor, ...]
    options: tuple[tuple[str, Value], ...] = ()

    @property
    def activations(self) -> tuple[Tensor, ...]:
        """The inputs that are not constant."""
        return tuple(tensor for tensor in self.inputs if tensor is not None and not tensor.constant)

    @property
    def weights(self) -> Tensor | None:
        """The kernel of a convolution, or the matrix of a fully connected layer."""
        if self.kind not in _MACS or len(self.inputs) < 2:
            return None
        tensor = self.inputs[1]
        return tensor if tensor is not None and tensor.constant else None

    @property
    def numbers(self) -> str:
        """The number format that it computes in: ``"float32"``, ``"int8"``, ``"dynamic"``, or another type's name.

        Float16 weights are float32 by the time that it runs; dynamic is float activations with int8 weights.
        """
        if not self.activations:
            return self.outputs[0].dtype
        dtype = self.activations[0].dtype
        weights = self.weights
        if dtype == "float32" and weights is not None and weights.scales and not weights.unpacked:
            return "dynamic"
        return dtype

    def option(self, name: str, default: Value) -> Value:
        """An option, or what holds where it is absent."""
        return dict(self.options).get(name, default)

    @property
    def title(self) -> str:
        """What it makes of what, such as ``32×32×16 → 16×16×32, 3×3``."""
        shapes = ["×".join(map(str, tensor.shape[1:])) or "1" for tensor in (*self.activations[:1], *self.outputs[:1])]
        kernel = "×".join(map(str, self.kernel))
        return " → ".join(shapes) + (f", {kernel}" if kernel != "1×1" else "")

    @property
    def stride(self) -> tuple[int, int]:
        """Steps of a window, down and across."""
        return self._pair("stride")

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width of the window of a convolution or of a pooling; 1×1 for others."""
        weights = self.weights
        if weights is not None and len(weights.shape) == 4:
            return weights.shape[1], weights.shape[2]
        return int(self._number("filterHeight")), int(self._number("filterWidth"))

    def _pair(self, name: str) -> tuple[int, int]:
        return int(self._number(f"{name}H")), int(self._number(f"{name}W"))

    def _number(self, name: str) -> float:
        value = self.option(name, 1)
        return value if isinstance(value, int | float) else 1

    @property
    def macs(self) -> int:
        """Multiply-accumulates; 0 for what computes no weighted sums."""
        if self.kind == "BATCH_MATMUL":
            return self.outputs[0].size * self.activations[0].shape[-1]
        weights = self.weights
        return _MACS[self.kind](self) * weights.size if weights is not None else 0

    @property
    def bytes(self) -> int:
        """Bytes of everything that it reads and writes, each once."""
        return sum(tensor.bytes for tensor in (*self.inputs, *self.outputs) if tensor is not None)


def _window_positions(operator: Operator) -> int:
    return math.prod(operator.outputs[0].shape[:-1])


def _input_positions(operator: Operator) -> int:
    return math.prod(operator.activations[-1].shape[:-1])


_MACS = {
    "CONV_2D": _window_positions,
    "DEPTHWISE_CONV_2D": _window_positions,
    "TRANSPOSE_CONV": _input_positions,
    "FULLY_CONNECTED": _window_positions,
}
"""Of operators with weights: how many times each weight is used."""

WEIGHTED = frozenset(_MACS)
"""Kinds that have weights, in the file or computed."""
