"""Writing a network of integers as a LiteRT file, with a plan of its memory."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from zoo.microcontroller.network import Network
from zoo.microcontroller.plan import ALIGNMENT, Plan, Span, plan

_PLAN = b"OfflineMemoryAllocation"
_PLAN_VERSION = 1
_UNPLANNED = -1
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV")
# What TensorFlow Lite Micro was seen to allocate on a 64-bit machine, and a little more.
_FIXED, _PER_TENSOR, _PER_OPERATOR, _PER_CHANNEL, _PER_PLANNED = 832, 33, 160, 8, 176
_BYTES = {schema.TensorType.INT8: 1, schema.TensorType.INT16: 2, schema.TensorType.INT32: 4}


class Packed(NamedTuple):
    """A file's content, what its activations take in memory, and what TensorFlow Lite Micro takes in all."""

    data: bytes
    activation_bytes: int
    arena_bytes: int


def pack(network: Network) -> Packed:
    """A network as a file: its constants aligned, without names, and with the offsets of its activations.

    TensorFlow Lite Micro takes these as they are, so that a view lies where what it is a view of does.
    """
    used = dict.fromkeys(
        int(tensor) for operator in network.operators for tensor in (*operator.inputs, *operator.outputs)
    )
    place = {old: new for new, old in enumerate(tensor for tensor in used if tensor >= 0)}
    buffers: list[Any] = [schema.BufferT()]
    tensors = [_moved(network, old, buffers) for old in place]
    planned, offsets = _planned(network, place)
    buffers.append(_AlignedBuffer(data=np.array([_PLAN_VERSION, 0, len(offsets), *offsets], "<i4").view(np.uint8)))
    codes = {int(operator.opcodeIndex): network.code(operator) for operator in network.operators}
    graph = schema.SubGraphT(
        tensors=tensors,
        inputs=[place[network.input]],
        outputs=[place[network.output]],
        operators=[_renumbered(operator, place, list(codes)) for operator in network.operators],
        name=b"",
    )
    model = schema.ModelT(
        version=3,
        operatorCodes=list(codes.values()),
        subgraphs=[graph],
        buffers=buffers,
        metadata=[schema.MetadataT(name=_PLAN, buffer=len(buffers) - 1)],
        description=b"",
    )
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return Packed(bytes(builder.Output()), planned.size, max(planned.size, _planning(network)) + _structures(network))


def _planned(network: Network, place: Mapping[int, int]) -> tuple[Plan, list[int]]:
    """A plan of the activations, and the offset of each tensor in its new place."""
    home = {tensor: tensor for tensor in place}
    times: dict[int, list[int]] = {network.input: [0]}
    for number, operator in enumerate(network.operators):
        if network.kind(operator) == "RESHAPE":
            home[int(operator.outputs[0])] = home[int(operator.inputs[0])]
        for tensor in map(int, (*operator.inputs, *operator.outputs)):
            if tensor >= 0 and network.constant(tensor) is None:
                times.setdefault(home[tensor], []).append(number)
    times[home[network.output]].append(len(network.operators))
    spans = {tensor: Span(_size(network.tensors[tensor]), min(t), max(t)) for tensor, t in times.items()}
    made = plan(list(spans.values()))
    offsets = dict(zip(spans, made.offsets, strict=True))
    return made, [offsets.get(home[tensor], _UNPLANNED) for tensor in place]


def _planning(network: Network) -> int:
    """Bytes that TensorFlow Lite Micro takes, where activations are later, while it reads the plan."""
    return _PER_PLANNED * (len(network.operators) + 2)


def _structures(network: Network) -> int:
    """Bytes that TensorFlow Lite Micro takes beside the activations: at most, on a 64-bit machine."""
    operators = network.operators
    tensors = {int(tensor) for operator in operators for tensor in (*operator.inputs, *operator.outputs)}
    channels = sum(int(network.tensors[op.outputs[0]].shape[-1]) for op in operators if network.kind(op) in _WEIGHTED)
    needed = _FIXED + _PER_TENSOR * len(tensors) + _PER_OPERATOR * len(operators) + _PER_CHANNEL * channels
    return -(-needed // ALIGNMENT) * ALIGNMENT


def _size(tensor: Any) -> int:
    return int(np.prod(tensor.shape)) * _BYTES[tensor.type]


def _moved(network: Network, tensor: int, buffers: list[Any]) -> Any:
    """A tensor without a name, whose constant is among ``buffers`` then."""
    moved, data = copy.copy(network.tensors[tensor]), network.constant(tensor)
    moved.name, moved.buffer = b"", 0
    if data is not None:
        moved.buffer = len(buffers)
        buffers.append(_AlignedBuffer(data=data))
    return moved


def _renumbered(operator: Any, place: Mapping[int, int], codes: Sequence[int]) -> Any:
    """An operator of tensors in their new places."""
    moved = copy.copy(operator)
    moved.opcodeIndex = codes.index(int(operator.opcodeIndex))
    moved.inputs = [place.get(int(tensor), _UNPLANNED) for tensor in operator.inputs]
    moved.outputs = [place[int(tensor)] for tensor in operator.outputs]
    return moved


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """A constant that begins where vector instructions like to load from."""

    def Pack(self, builder: Any) -> int:  # noqa: N802 - as the schema calls it
        """Adds it to a file."""
        builder.StartVector(1, len(self.data), ALIGNMENT)
        builder.head -= len(self.data)
        builder.Bytes[builder.head : builder.head + len(self.data)] = self.data.tobytes()
        data = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, data)
        return int(schema.BufferEnd(builder))
