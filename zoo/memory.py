"""The memory that activations take while a network runs, operator by operator as a runtime has them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fleetfoot.errors import ModelError
from zoo.backend import keras
from zoo.channels import Channels, Counter
from zoo.graph import Call
from zoo.latency.lowering import Lowering, Piece

_FLOAT_BYTES = 4
_SCALING = (keras.layers.Rescaling, keras.layers.Normalization)
_FIRST_HALVES = ("DEPTHWISE_CONV_2D", "SPLIT")
_GATE = ("LOGISTIC", "MUL")
_UNKNOWN = "of a layer that no operator is known for"


def steps(model: Any | Channels) -> list[tuple[Any, ...]]:
    """The tensors that are alive while each operator runs: what it reads and makes, and what later ones still read.

    Batch norms and ReLUs that are folded or fused, copies, views and the scaling of the raw input take no memory.
    What is made between the operators of one layer stands as a tensor of its size, so that one may be there twice.

    Args:
        model: a functional or sequential model, or its analysis.

    Returns:
        By operator, symbolic tensors of ``zoo.channels.analyse(model).model``.
    """
    lowering = Lowering(Counter(model))
    flow = _Flow(lowering)
    answers = [flow.memory[id(tensor)] for tensor in lowering.channels.model.outputs]
    operators = [*flow.operators, _Operator(answers, [])]
    last = {buffer: number for number, operator in enumerate(operators) for buffer in operator.reads}
    alive = [flow.memory[id(tensor)] for tensor in lowering.channels.model.inputs]
    found = []
    for number, operator in enumerate(operators):
        alive += operator.makes
        found.append(tuple(buffer.tensor for buffer in alive))
        alive = [buffer for buffer in alive if last.get(buffer, 0) > number]
    return found[:-1] or found


def peak_activation_bytes(model: Any | Channels, bytes_per_value: int = _FLOAT_BYTES) -> int:
    """The most bytes of activations alive at once, when the operators run in the network's order.

    Args:
        model: a functional or sequential model, or its analysis.
        bytes_per_value: 4 for float32, 1 for int8.

    Raises:
        ModelError: a size that the network leaves open.
    """
    return bytes_per_value * max(sum(map(_size, alive)) for alive in steps(model))


@dataclass(frozen=True, eq=False)
class _Buffer:
    """A piece of memory, of the size of a tensor."""

    tensor: Any


class _Operator(NamedTuple):
    reads: Sequence[_Buffer]
    makes: Sequence[_Buffer]


class _Flow:
    """A network's operators in their order, and for the id of each tensor the memory that it is in."""

    def __init__(self, lowering: Lowering) -> None:
        self.operators: list[_Operator] = []
        self.memory: dict[int, _Buffer] = {}
        self._left_out = lowering.left_out
        self._raw: set[int] = set()
        for call, pieces in lowering.by_call:
            made = self._run(call, pieces)
            self.memory |= {id(tensor): buffer for tensor, buffer in zip(call.outputs, made, strict=True)}

    def _run(self, call: Call, pieces: Sequence[Piece]) -> list[_Buffer]:
        """Adds the operators of a call, and says where its outputs are."""
        read = [self.memory[id(tensor)] for tensor in call.inputs]
        scales = isinstance(call.layer, _SCALING) and id(call.inputs[0]) in self._raw
        if not read or scales:
            self._raw |= {id(tensor) for tensor in call.outputs}
        kinds = [piece.kind for piece in pieces] + [_UNKNOWN] * (call.layer.name in self._left_out)
        made = [_Buffer(tensor) for tensor in call.outputs]
        if not read:
            return made
        if scales or not kinds:
            return read[:1]
        if len(kinds) == 1:
            self.operators.append(_Operator(read, made))
        else:
            self._chain(call, read, kinds, made)
        return made

    def _chain(self, call: Call, read: Sequence[_Buffer], kinds: Sequence[str], made: Sequence[_Buffer]) -> None:
        """Adds operators of which each reads what the one before it made."""
        source: Sequence[_Buffer] = read[:1]
        earlier: Sequence[_Buffer] = []
        for number, kind in enumerate(kinds):
            others = [*read[number + 1 : number + 2], *(earlier if (kinds[number - 1], kind) == _GATE else [])]
            results = made if number == len(kinds) - 1 else _between(call, kind)
            self.operators.append(_Operator([*source, *others], results))
            earlier, source = source, results


def _between(call: Call, kind: str) -> list[_Buffer]:
    """What an operator makes that is not the last of its layer's."""
    if kind not in _FIRST_HALVES:
        return [_Buffer(call.outputs[0])]
    return [_Buffer(call.inputs[0]) for _ in range(getattr(call.layer, "depth_multiplier", 1))]


def _size(tensor: Any) -> int:
    if None in tensor.shape[1:]:
        raise ModelError(f"{tensor.name} has no fixed shape {tuple(tensor.shape[1:])}: give the input a size")
    return math.prod(tensor.shape[1:])
