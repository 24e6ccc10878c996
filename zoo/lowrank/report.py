"""What a decomposition comes to, layer by layer."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from fleetfoot.errors import ModelError
from zoo.graph import Call
from zoo.latency import Prices
from zoo.lowrank.costs import Costs, costs_of, decomposable
from zoo.lowrank.factors import at_rank, kept_energy
from zoo.lowrank.forms import groups_of, kernel_of, parts
from zoo.recipe import LayerRank

CostUnit = Literal["macs", "latency"]


class LayerReport(msgspec.Struct, frozen=True, kw_only=True):
    """One layer that can be decomposed.

    Attributes:
        name: the layer's.
        ranks: how it is decomposed, as ``spatial:16``; empty where it stays whole.
        shapes: of the kernels that take the place of its own.
        energy: the share of the energy of its weights that is kept.
        before: what the layer costs whole; None where the network leaves sizes open.
        after: what it costs now.
    """

    name: str
    ranks: str
    shapes: tuple[tuple[int, ...], ...]
    energy: float
    before: float | None
    after: float | None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a decomposition comes to.

    Attributes:
        model: the network's name.
        unit: of the costs: multiply-accumulates, or milliseconds on a device.
        layers: those that can be decomposed.
        rest: what all other layers cost; None where the network leaves sizes open, as all costs then.
        before: what the network costs whole.
        after: what it costs now.
        ratio: how many times as fast it is now.
        parameters_before: of the network as it was.
        parameters_after: of the network as it is now.
        accuracy: on the tune split, by what was done until then; empty without data.
    """

    model: str
    unit: CostUnit
    layers: tuple[LayerReport, ...]
    rest: float | None
    before: float | None
    after: float | None
    ratio: float | None
    parameters_before: int
    parameters_after: int
    accuracy: dict[str, float] = {}


def report_on(model: Any, network: Any, ranks: Mapping[str, LayerRank], prices: Prices | None) -> Report:
    """What a decomposition comes to, in milliseconds if there are prices.

    Args:
        model: the network as it was.
        network: what was made of it.
        ranks: how.
        prices: what tells the times of operators on a device.
    """
    found = decomposable(model)
    costs = _costs(model, found, ranks, prices)
    whole = (
        (None, None)
        if costs is None
        else tuple(costs.rest + sum(of_layer[place] for of_layer in costs.layers.values()) for place in (0, -1))
    )
    before, after = whole
    return Report(
        model=model.name,
        unit="latency" if prices else "macs",
        layers=tuple(
            _of_layer(of_layer[0].layer, ranks.get(name), costs and costs.layers[name])
            for name, of_layer in found.items()
        ),
        rest=costs and costs.rest,
        before=before,
        after=after,
        ratio=before / after if before and after else None,
        parameters_before=model.count_params(),
        parameters_after=network.count_params(),
    )


def _costs(
    model: Any, found: Mapping[str, list[Call]], ranks: Mapping[str, LayerRank], prices: Prices | None
) -> Costs | None:
    """What each layer costs whole, and as it is made now; None where sizes are left open."""
    try:
        ways = {name: (of_layer, [None, *filter(None, [ranks.get(name)])]) for name, of_layer in found.items()}
        return costs_of(model, ways, prices)
    except ModelError:
        return None


def _of_layer(layer: Any, chosen: LayerRank | None, costs: list[float] | None) -> LayerReport:
    shapes: tuple[tuple[int, ...], ...] = (tuple(layer.kernel.shape),)
    energy = 1.0
    if chosen:
        shapes = tuple(part.kernel for part in parts(layer, chosen))
        energy = at_rank(kept_energy(kernel_of(layer), chosen.scheme, groups=groups_of(layer)), chosen.rank)
    return LayerReport(
        name=layer.name,
        ranks=chosen.text if chosen else "",
        shapes=shapes,
        energy=energy,
        before=costs[0] if costs else None,
        after=costs[-1] if costs else None,
    )
