"""What a layer costs as it is, and decomposed at each rank: in multiply-accumulates, or in milliseconds on a device."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from profiling.operators.operator import Operator
from zoo.backend import keras
from zoo.cost import count_macs, positions
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


class Costs(NamedTuple):
    """What a network costs, layer by layer.

    Attributes:
        layers: by the name of a layer that can be decomposed, what each of its ways costs.
        rest: what all other layers cost.
    """

    layers: dict[str, list[float]]
    rest: float


def costs_of(model: Any, layers: Mapping[str, tuple[Sequence[Call], Ways]], prices: Prices | None) -> Costs:
    """What a network costs: multiply-accumulates or, with prices, milliseconds on a device.

    Args:
        model: a functional model.
        layers: by name, the calls of a layer and the ways that it may be made, of which one is whole.
        prices: what tells the times of operators on the device. A way of which it cannot tell all is never the
            better one: it takes for ever.

    Raises:
        ModelError: a size that the network leaves open.
        DeviceError: the device went away, or runs nothing at all.
    """
    if prices is None:
        costs = {name: macs_of(of_layer, ways) for name, (of_layer, ways) in layers.items()}
        whole = float(count_macs(model))
    else:
        costs = _ms_of(layers, prices)
        whole = _network_ms(model, prices)
    of_layers = sum(costs[name][list(ways).index(None)] for name, (_, ways) in layers.items())
    return Costs(costs, max(0.0, whole - of_layers))


def macs_of(of_layer: Sequence[Call], ways: Ways) -> list[float]:
    """Multiply-accumulates of each way to make a layer, in all of its calls.

    Raises:
        ModelError: a size that the network leaves open.
    """
    layer = of_layer[0].layer
    times = {where: sum(_times(call, where) for call in of_layer) for where in _WHERE}
    whole = [Part({}, layer.kernel.shape)]
    return [
        float(sum(math.prod(part.kernel) * times[part.works_on] for part in (parts(layer, way) if way else whole)))
        for way in ways
    ]


_WHERE: tuple[Where, ...] = ("input", "output", "between")


def _times(call: Call, works_on: Where) -> int:
    """How often a kernel is used in a call."""
    given, made = (positions(call.layer, tensors[0]) for tensors in (call.inputs, call.outputs))
    return math.prod({"input": given, "output": made, "between": (*made[:1], *given[1:])}[works_on])


def _network_ms(model: Any, prices: Prices) -> float:
    """Milliseconds of a network as it is, as the sum of its operators' that can be told."""
    operators = operators_of(model)
    own = prices.own_ms(operators)
    return prices.call_ms + sum(own.get(operator, 0.0) for operator in operators)


def _ms_of(layers: Mapping[str, tuple[Sequence[Call], Ways]], prices: Prices) -> dict[str, list[float]]:
    """Milliseconds of each way to make some layers, in all of their calls."""
    operators = {
        name: [[operator for call in of_layer for operator in _operators(call, way)] for way in ways]
        for name, (of_layer, ways) in layers.items()
    }
    own = prices.own_ms(op for of_layer in operators.values() for of_way in of_layer for op in of_way)
    return {
        name: [
            sum(own.get(op, math.inf if way else 0.0) for op in of_way)
            for way, of_way in zip(layers[name][1], of_layer, strict=True)
        ]
        for name, of_layer in operators.items()
    }


def _operators(call: Call, way: LayerRank | None) -> list[Operator]:
    """The operators that a call of a layer becomes."""
    inputs = keras.Input(call.inputs[0].shape[1:])
    tensor = inputs
    for layer in new_layers(call.layer, way) if way else [copy_layer(call.layer)]:
        tensor = layer(tensor)
    return operators_of(keras.Model(inputs, tensor))
