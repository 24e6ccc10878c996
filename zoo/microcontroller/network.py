"""The graph of a quantised LiteRT model, and what makes it one of integers from end to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from fleetfoot.errors import ExportError
from profiling.operators.flatmodel import kind_of

_FLOATS = (schema.TensorType.FLOAT32, schema.TensorType.FLOAT16)
_ELEMENT_TYPES = {
    schema.TensorType.FLOAT32: np.float32, schema.TensorType.INT8: np.int8, schema.TensorType.INT32: np.int32,
}  # fmt: skip
_CONVERSIONS = ("CAST", "QUANTIZE")
_SCALINGS = ("MUL", "DIV", "ADD", "SUB")
_WITHIN_THEIR_INPUT = ("LEAKY_RELU", "ELU", "RELU", "RELU6")
_OF_THEIR_INPUT = ("REDUCE_MAX",)
"""Operators that compute in the scale of their input only."""
_PROBABILITY = (1 / 256, -128)

Array = npt.NDArray[Any]


class Quantization(NamedTuple):
    """What integers stand for: ``(integer - zero_point) * scale``."""

    scale: float
    zero_point: int


class Network:
    """A graph of a model, being changed; tensors are known by their index.

    Attributes:
        tensors: all that the graph has.
        operators: what it computes, in order.
        input: the tensor that it takes.
        output: the tensor that it answers with.
    """

    def __init__(self, model: Any, graph: Any) -> None:
        self._model = model
        self.tensors = graph.tensors
        self.operators: list[Any] = list(graph.operators)
        (self.input,), (self.output,) = map(int, graph.inputs), map(int, graph.outputs)

    def kind(self, operator: Any) -> str:
        """The name of its kind."""
        return kind_of(self._model, operator)

    def quantization(self, tensor: int) -> Quantization:
        """What its integers stand for."""
        parameters = self.tensors[tensor].quantization
        return Quantization(float(parameters.scale[0]), int(parameters.zeroPoint[0]))

    def code(self, operator: Any) -> Any:
        """Which operator it is in the file, and of which version."""
        return self._model.operatorCodes[operator.opcodeIndex]

    def constant(self, tensor: int) -> Array | None:
        """The bytes of a constant, None for an activation."""
        data = self._model.buffers[self.tensors[tensor].buffer].data
        return None if data is None else np.asarray(data, np.uint8)

    def bare_input(self) -> tuple[float, float]:
        """Makes the first int8 tensor the input, where all before it is linear and the same for all values.

        Returns:
            The factor and the offset that made that of the raw input.
        """
        factor, offset = 1.0, 0.0
        while (operator := self._only_reader(self.input)) is not None:
            kind = self.kind(operator)
            if kind in _CONVERSIONS:
                number = None
            elif kind in _SCALINGS and (number := self._number(operator)) is not None:
                factor, offset = _scaled(kind, number, factor, offset)
            else:
                break
            self.operators.remove(operator)
            self.input = int(operator.outputs[0])
        return factor, offset

    def fill_float_islands(self) -> None:
        """Has int8 computed what was turned to float and back for lack of a rule of the quantizer."""
        for operator in self.operators:
            kind = self.kind(operator)
            if kind in (*_WITHIN_THEIR_INPUT, *_OF_THEIR_INPUT) and self._is_float(operator.outputs[0]):
                self._fill(operator, [] if kind in _OF_THEIR_INPUT else self._readers(operator.outputs[0]))

    def bare_output(self) -> None:
        """Makes the last int8 tensor the output, after a softmax in int8."""
        producer = self._producer(self.output)
        if producer and self.kind(producer) == "SOFTMAX" and self._is_float(self.output):
            producer.inputs = [self._as_integers(producer.inputs[0])]
            self._make_int8(self.output, *_PROBABILITY)
        self.output = self._as_integers(self.output)

    def drop_unread(self) -> None:
        """Removes the operators that the output does not need."""
        needed, kept = {self.output}, []
        for operator in reversed(self.operators):
            if needed & {int(tensor) for tensor in operator.outputs}:
                needed |= {int(tensor) for tensor in operator.inputs}
                kept.append(operator)
        self.operators = kept[::-1]

    def require_integers(self) -> None:
        """Makes sure that no float is left.

        Raises:
            ExportError: there is.
        """
        in_float = dict.fromkeys(
            self.kind(operator)
            for operator in self.operators
            if any(tensor >= 0 and self._is_float(tensor) for tensor in (*operator.inputs, *operator.outputs))
        )
        if in_float:
            raise ExportError(
                f"cannot be made of integers only: {', '.join(in_float)} would stay in float, as in the front "
                "end of an audio network or where int8 lost too much accuracy"
            )

    def _readers(self, tensor: int) -> list[Any]:
        return [operator for operator in self.operators if int(tensor) in map(int, operator.inputs)]

    def _only_reader(self, tensor: int) -> Any | None:
        readers = self._readers(tensor)
        return readers[0] if len(readers) == 1 and tensor != self.output else None

    def _producer(self, tensor: int) -> Any | None:
        return next((operator for operator in self.operators if int(tensor) in map(int, operator.outputs)), None)

    def _is_float(self, tensor: int) -> bool:
        return self.tensors[tensor].type in _FLOATS

    def _as_integers(self, tensor: int) -> int:
        """The int8 tensor that one was made of, or itself."""
        producer = self._producer(tensor)
        return int(producer.inputs[0]) if producer and self.kind(producer) == "DEQUANTIZE" else int(tensor)

    def _number(self, operator: Any) -> float | None:
        """The one number that an operator scales by, or adds."""
        constants = [self._values(int(tensor)) for tensor in operator.inputs]
        if self.kind(operator) in ("SUB", "DIV") and constants[0] is not None:
            return None
        fused = operator.builtinOptions.fusedActivationFunction if operator.builtinOptions else 0
        for values in constants:
            if values is not None and len(np.unique(values)) == 1 and not fused:
                return float(values.ravel()[0])
        return None

    def _values(self, tensor: int) -> Array | None:
        """The real numbers of a constant."""
        data = self.constant(tensor)
        if data is None:
            return None
        stored = np.frombuffer(data.tobytes(), _ELEMENT_TYPES[self.tensors[tensor].type])
        if self._is_float(tensor):
            return stored
        scale, zero_point = self.quantization(tensor)
        return (stored.astype(np.float64) - zero_point) * scale

    def _fill(self, operator: Any, readers: Sequence[Any]) -> None:
        """Makes an operator one of int8, in the scale that its readers turn its answer to, or else in its input's."""
        source, made = self._as_integers(operator.inputs[0]), int(operator.outputs[0])
        if self._is_float(source):
            return
        operator.inputs = [source, *operator.inputs[1:]]
        turned = [int(reader.outputs[0]) for reader in readers if self.kind(reader) == "QUANTIZE"]
        scale = self.quantization(turned[0] if turned else source)
        self._make_int8(made, *scale)
        for tensor in turned:
            if self.quantization(tensor) == scale:
                self._replace(tensor, made)

    def _replace(self, old: int, new: int) -> None:
        for reader in self._readers(old):
            reader.inputs = [new if int(tensor) == old else int(tensor) for tensor in reader.inputs]

    def _make_int8(self, tensor: int, scale: float, zero_point: int) -> None:
        self.tensors[tensor].type = schema.TensorType.INT8
        self.tensors[tensor].quantization = schema.QuantizationParametersT(scale=[scale], zeroPoint=[zero_point])


def _scaled(kind: str, number: float, factor: float, offset: float) -> tuple[float, float]:
    """The factor and the offset after one more operation by a number."""
    match kind:
        case "MUL":
            return factor * number, offset * number
        case "DIV":
            return factor / number, offset / number
        case "ADD":
            return factor, offset + number
        case _:
            return factor, offset - number
