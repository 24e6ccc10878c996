"""LiteRT files of one operator, to measure it alone: cut out of a network, or made from its description."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from fleetfoot.errors import ModelError
from profiling.nested import nested_signatures
from profiling.operators.flatmodel import (
    KINDS,
    TYPES,
    damage_explained,
    describe,
    graph_of,
    options_for,
    read_model,
    unpackers,
    write_model,
)
from profiling.operators.operator import Operator, Tensor

SIGNATURE = "operator"

_KIND_NUMBERS = {name: number for number, name in KINDS.items()}
_TYPE_NUMBERS = {name: number for number, name in TYPES.items()}
_SCALE, _ZERO = 1 / 64, 3
_WEIGHT_SCALE = 0.01
_FIXED_CODES = {"SOFTMAX": (1 / 256, -128), "LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}


def read_operators(path: Path, signature: str) -> list[Operator]:
    """The operators that a signature runs, in their order; not those that only unpack constants at loading.

    Raises:
        ModelError: a file that cannot be read, or has no such signature.
    """
    with _reading(path, signature) as (model, graph):
        unpacked = unpackers(model, graph)
        return [describe(model, graph, operator, unpacked) for operator in _running(graph, unpacked)]


@contextmanager
def _reading(path: Path, signature: str) -> Iterator[tuple[Any, Any]]:
    """The objects of the network behind a signature, and its graph, for a block that reads them."""
    model = read_model(path, signature)
    with damage_explained(path):
        yield model, graph_of(model, signature, nested_signatures(path))


def _running(graph: Any, unpacked: dict[int, Any]) -> list[Any]:
    return [operator for operator in graph.operators if int(operator.outputs[0]) not in unpacked]


def cut_operator(path: Path, signature: str, index: int, out: Path) -> None:
    """Writes the operator at ``index`` of ``read_operators`` as a file of its own, with its constants.

    What it takes and gives is quantised as in the network. Its signature is ``SIGNATURE``.

    Raises:
        ModelError: a file that cannot be read, or has no such signature or operator.
    """
    with _reading(path, signature) as (model, graph):
        unpacked = unpackers(model, graph)
        running = _running(graph, unpacked)
        if not 0 <= index < len(running):
            raise ModelError(f"{path} has no operator {index}: there are {len(running)}")
        operator = running[index]
        before = dict.fromkeys(unpacked[int(tensor)] for tensor in operator.inputs if int(tensor) in unpacked)
        write_model(_extract(model, graph, [*before, operator]), out)


def _extract(model: Any, graph: Any, operators: Sequence[Any]) -> Any:
    """A model of some operators of a graph, the last of which gives its outputs."""
    used = sorted({int(i) for operator in operators for i in (*operator.inputs, *operator.outputs) if i >= 0})
    place = {old: new for new, old in enumerate(used)} | {-1: -1}
    tensors, buffers = [], [schema.BufferT()]
    for old in used:
        tensor = copy.copy(graph.tensors[old])
        data = model.buffers[tensor.buffer].data
        tensor.buffer = len(buffers) if data is not None else 0
        if data is not None:
            buffers.append(schema.BufferT(data=data))
        tensors.append(tensor)
    made, codes = [], []
    for position, operator in enumerate(operators):
        moved = copy.copy(operator)
        codes.append(model.operatorCodes[operator.opcodeIndex])
        moved.opcodeIndex = position
        moved.inputs = [place[int(i)] for i in operator.inputs]
        moved.outputs = [place[int(i)] for i in operator.outputs]
        made.append(moved)
    return _assemble(made, codes, tensors, buffers)


def _assemble(operators: list[Any], codes: list[Any], tensors: list[Any], buffers: list[Any]) -> Any:
    given = {i for operator in operators for i in operator.outputs}
    wanted = dict.fromkeys(i for operator in operators for i in operator.inputs if i >= 0 and i not in given)
    inputs = [i for i in wanted if not tensors[i].buffer]
    outputs = list(operators[-1].outputs)
    graph = schema.SubGraphT(tensors=tensors, inputs=inputs, outputs=outputs, operators=operators, name=b"main")
    signature = schema.SignatureDefT(
        inputs=[schema.TensorMapT(name=f"input{n}".encode(), tensorIndex=i) for n, i in enumerate(inputs)],
        outputs=[schema.TensorMapT(name=f"output{n}".encode(), tensorIndex=i) for n, i in enumerate(outputs)],
        signatureKey=SIGNATURE.encode(),
        subgraphIndex=0,
    )
    return schema.ModelT(
        version=3, operatorCodes=codes, subgraphs=[graph], buffers=buffers, signatureDefs=[signature], description=b""
    )


def synthesize(operator: Operator, out: Path) -> None:
    """Writes an operator that was only described as a file, with random weights and plausible scales.

    Raises:
        ModelError: a kind that cannot be made from its description: one that is not built into LiteRT, or has an
            option that it does not know.
    """
    if operator.kind not in _KIND_NUMBERS:
        raise ModelError(f"{operator.kind} cannot be made from its description: it is not built into LiteRT")
    maker = _Maker(operator.kind)
    inputs = [maker.add(tensor, f"input{n}") for n, tensor in enumerate(operator.inputs)]
    outputs = [maker.add(tensor, f"output{n}", output=True) for n, tensor in enumerate(operator.outputs)]
    options_type, options = options_for(operator.kind, operator.options)
    main = schema.OperatorT(
        opcodeIndex=len(maker.operators),
        inputs=inputs,
        outputs=outputs,
        builtinOptionsType=options_type,
        builtinOptions=options,
    )
    kinds = ["DEQUANTIZE"] * len(maker.operators) + [operator.kind]
    write_model(_assemble([*maker.operators, main], [*map(_code, kinds)], maker.tensors, maker.buffers), out)


class _Maker:
    """The tensors and buffers of a model that is being made, and the operators that unpack its constants."""

    def __init__(self, kind: str) -> None:
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [schema.BufferT()]
        self.operators: list[Any] = []
        self._kind = kind
        self._random = np.random.default_rng(0)

    def add(self, tensor: Tensor | None, name: str, *, output: bool = False) -> int:
        """Adds a tensor, and returns the index by which the operator refers to it."""
        if tensor is None:
            return -1
        index = self._append(tensor, name, self._quantization(tensor, output))
        if not tensor.unpacked:
            return index
        unpacked = self._append(Tensor(tensor.shape), f"{name} unpacked", None)
        unpack = schema.OperatorT(opcodeIndex=len(self.operators), inputs=[index], outputs=[unpacked])
        self.operators.append(unpack)
        return unpacked

    def _append(self, tensor: Tensor, name: str, quantization: Any) -> int:
        buffer = 0
        if tensor.constant:
            buffer = len(self.buffers)
            self.buffers.append(schema.BufferT(data=np.frombuffer(self._constant(tensor).tobytes(), np.uint8)))
        made = schema.TensorT(
            shape=list(tensor.shape), type=_TYPE_NUMBERS[tensor.dtype], buffer=buffer, name=name.encode(),
            quantization=quantization, hasRank=True,
        )  # fmt: skip
        self.tensors.append(made)
        return len(self.tensors) - 1

    def _constant(self, tensor: Tensor) -> npt.NDArray[Any]:
        if tensor.values:
            return np.array(tensor.values, tensor.dtype)
        if tensor.dtype in ("float32", "float16"):
            return self._random.normal(0, 0.1, tensor.shape).astype(tensor.dtype)
        if not tensor.scales:  # indices, of which 0 is always one
            return np.zeros(tensor.bytes, np.int8)
        return self._random.integers(-100, 101, tensor.bytes).astype(np.int8)

    def _quantization(self, tensor: Tensor, output: bool) -> Any:
        if not tensor.scales:
            return None
        if tensor.constant:
            scale, zero = (_WEIGHT_SCALE * _SCALE if tensor.dtype == "int32" else _WEIGHT_SCALE), 0
        else:
            scale, zero = _FIXED_CODES.get(self._kind, (_SCALE, _ZERO)) if output else (_SCALE, _ZERO)
        channels_last = tensor.constant and self._kind == "DEPTHWISE_CONV_2D" and len(tensor.shape) == 4
        return schema.QuantizationParametersT(
            scale=[scale] * tensor.scales,
            zeroPoint=[zero] * tensor.scales,
            quantizedDimension=3 if channels_last else 0,
        )


def _code(kind: str) -> Any:
    number = _KIND_NUMBERS[kind]
    return schema.OperatorCodeT(deprecatedBuiltinCode=min(number, 127), builtinCode=number, version=1)
