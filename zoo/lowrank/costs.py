"""What a layer costs as it is, and decomposed at each rank: in multiply-accumulates, or in milliseconds on a device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from fleetfoot.errors import ModelError
from profiling.operators.operator import Operator
from zoo.backend import keras
from zoo.graph import Call, calls, copy_layer
from zoo.latency import Prices, operators_of
from zoo.lowrank.forms import Part, Where, new_layers, parts, schemes_for
from zoo.recipe import LayerRank

Ways = Sequence[LayerRank | None]
"""The ways that a layer may be made; None leaves it whole."""


def decomposable(model: Any) -> dict[str, list[Call]]:
    """The calls of each layer of a network that can be decomposed, in the order in which they run."""
    found: dict[str, list[Call]] = {}
    for call in calls(model):
        if schemes_for(call.layer):
            found.setdefault(call.layer.name, []).append(call)
    return found


def macs_of(of_layer: Sequence[Call], ways: Ways) -> list[float]:
    """Multiply-accumulates of each way to make a layer, in all of its calls.

    Raises:
        ModelError: a size that the network leaves open.
    """
    layer = of_layer[0].layer
    times = {where: sum(_positions(call, where) for call in of_layer) for where in _WHERE}
    whole = [Part({}, layer.kernel.shape)]
    return [
        float(sum(math.prod(part.kernel) * times[part.works_on] for part in (parts(layer, way) if way else whole)))
        for way in ways
    ]


_WHERE: tuple[Where, ...] = ("input", "output", "between")


def _positions(call: Call, works_on: Where) -> int:
    """How often a kernel is used in a call."""
    first = getattr(call.layer, "data_format", None) == "channels_first"
    given, made = (tensors[0].shape[2:] if first else tensors[0].shape[1:-1] for tensors in (call.inputs, call.outputs))
    if None in (*given, *made):
        raise ModelError(
            f"{call.layer.name} works on {call.inputs[0].shape}: what that costs is not known, give the input a size"
        )
    on = {"input": given, "output": made, "between": (*made[:1], *given[1:])}
    return math.prod(on[works_on])


def network_ms(model: Any, prices: Prices) -> float:
    """Milliseconds of a network as it is, as the sum of its operators' on a device.

    Raises:
        ModelError: a size that the network leaves open.
        DeviceError: the device went away, or runs nothing at all.
    """
    operators = operators_of(model)
    own = prices.own_ms(operators)
    return prices.call_ms + sum(own.get(operator, 0.0) for operator in operators)


def ms_of(layers: Mapping[str, tuple[Sequence[Call], Ways]], prices: Prices) -> dict[str, list[float]]:
    """Milliseconds of each way to make some layers, in all of their calls, on a device.

    Args:
        layers: by name, the calls of a layer and the ways that it may be made.
        prices: what tells the times of operators there; what it cannot tell costs nothing.

    Raises:
        ModelError: a size that the network leaves open.
        DeviceError: the device went away, or runs nothing at all.
    """
    operators = {
        name: [[operator for call in of_layer for operator in _operators(call, way)] for way in ways]
        for name, (of_layer, ways) in layers.items()
    }
    own = prices.own_ms(op for of_layer in operators.values() for of_way in of_layer for op in of_way)
    return {name: [sum(own.get(op, 0.0) for op in of_way) for of_way in ways] for name, ways in operators.items()}


def _operators(call: Call, way: LayerRank | None) -> list[Operator]:
    """The operators that a call of a layer becomes."""
    inputs = keras.Input(call.inputs[0].shape[1:])
    tensor = inputs
    for layer in new_layers(call.layer, way) if way else [copy_layer(call.layer)]:
        tensor = layer(tensor)
    return operators_of(keras.Model(inputs, tensor))
