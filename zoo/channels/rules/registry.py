"""The rule of each layer type, and what happens where there is none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from zoo.backend import keras
from zoo.channels.flow import Flow, Labels, fixed
from zoo.graph import Call

Rule = Callable[[Call, list[Labels], Flow], Labels | None]


class _Known(NamedTuple):
    rule: Rule
    most_inputs: float


_LAYERS: dict[type, _Known] = {}
_OPERATIONS: dict[str, _Known] = {}


def rule(*types: type, most_inputs: float = 1) -> Callable[[Rule], Rule]:
    """Registers a rule for layers of exactly these types: what a subclass changes is not known.

    Args:
        types: the types of layers.
        most_inputs: with how many tensors the rule can deal; a call with more, such as a mask, is not known.
    """

    def register(function: Rule) -> Rule:
        _LAYERS.update(dict.fromkeys(types, _Known(function, most_inputs)))
        return function

    return register


def operation_rule(*names: str, most_inputs: float = 1) -> Callable[[Rule], Rule]:
    """Registers a rule for Keras's operations of these names, such as the ``Add`` that a plus between tensors makes."""

    def register(function: Rule) -> Rule:
        _OPERATIONS.update(dict.fromkeys(names, _Known(function, most_inputs)))
        return function

    return register


def follow(call: Call, incoming: list[Labels], flow: Flow) -> list[Labels]:
    """The labels of a call's outputs; what comes into a layer without a rule is fixed from then on."""
    known = _known(call.layer)
    outgoing = known.rule(call, incoming, flow) if known and _is_plain(call, known.most_inputs) else None
    if outgoing is not None and _accounts_for_weights(call.layer, flow):
        return [outgoing]
    for labels in [*incoming, *([] if outgoing is None else [outgoing])]:
        flow.fix(
            labels, f"it comes into {call.layer.name}, and how {type(call.layer).__name__} treats channels is not known"
        )
    return [fixed(len(tensor.shape) - 1) for tensor in call.outputs]


def _known(layer: Any) -> _Known | None:
    if isinstance(layer, keras.layers.Layer):
        return _LAYERS.get(type(layer))
    return _OPERATIONS.get(type(layer).__name__) if type(layer).__module__.startswith("keras.") else None


def _is_plain(call: Call, most_inputs: float) -> bool:
    """Whether a call makes one tensor of as many as a rule can deal with, and of no arrays, which are never cut."""
    arrays = any(map(_has_array, _given(call)))
    return len(call.outputs) == 1 and len(call.inputs) <= most_inputs and not arrays


def _given(call: Call) -> list[Any]:
    """What a call was given, and what an operation was made with."""
    _, node, _ = call.outputs[0]._keras_history
    arguments = call.layer._inbound_nodes[node].arguments
    given = [*arguments.args, *arguments.kwargs.values()]
    if not isinstance(call.layer, keras.layers.Layer):
        given += [value for name, value in vars(call.layer).items() if not name.startswith("_")]
    return given


def _has_array(value: Any) -> bool:
    """Whether there are several numbers in a value, as an array or a list, apart from tensors of the network."""
    if isinstance(value, keras.KerasTensor):
        return False
    if isinstance(value, list | tuple | dict):
        parts = list(value.values()) if isinstance(value, dict) else list(value)
        tensors = any(isinstance(part, keras.KerasTensor) for part in keras.tree.flatten(parts))
        return any(map(_has_array, parts)) if tensors else len(parts) > 1
    return bool(np.size(value) > 1)


def _accounts_for_weights(layer: Any, flow: Flow) -> bool:
    """Whether the rule spoke of all of a layer's weights: quantised layers, for one, have more than the plain ones."""
    part = flow.parts.get(layer.name)
    return {weight.name for weight in getattr(layer, "weights", ())} <= set(part.weights if part else ())
