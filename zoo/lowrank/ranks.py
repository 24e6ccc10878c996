"""Choosing the ranks of a network's layers within a cost."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fleetfoot.console import progress
from fleetfoot.errors import ModelError, UsageError
from zoo.graph import Call, inlined
from zoo.knapsack import Term, solve, undominated
from zoo.latency import Prices
from zoo.lowrank.costs import costs_of, decomposable, macs_of
from zoo.lowrank.factors import Patches, at_rank, full_rank, kept_energy
from zoo.lowrank.forms import groups_of, kernel_of, kernel_per_group, schemes_for
from zoo.lowrank.responses import patches_of, varying
from zoo.recipe import LayerRank, Scheme

Wanted = Literal["auto", "spatial", "channel", "tucker"]
WANTED: tuple[Wanted, ...] = ("auto", "spatial", "channel", "tucker")
"""What convolutions are decomposed as: the best of all for each layer, or one scheme."""

_ROUNDING = 1e-12
"""Of a cost: what sums of milliseconds may differ by, and less than one multiply-accumulate."""

MOST_TIMED = 32
"""How many ways to make a layer are timed on a device, of all that there are."""

_MULTIPLES = ((64, 8), (16, 4))
"""Of which ranks are, from a full rank on: runtimes compute channels in blocks, so odd ranks cost as much."""

Array = npt.NDArray[Any]


class Selection(NamedTuple):
    """The ranks that were chosen.

    Attributes:
        ranks: by the name of a layer; those that stay whole are not there.
        energy: by the name of a layer that can be decomposed, the share of its energy that is kept.
        share: of the network's cost that is left.
    """

    ranks: dict[str, LayerRank]
    energy: dict[str, float]
    share: float


class _Ways(NamedTuple):
    """The ways that a layer may be made.

    Attributes:
        ranks: None leaves it whole.
        energy: the share of it that each keeps.
        cost: of each.
    """

    ranks: list[LayerRank | None]
    energy: npt.NDArray[np.float64]
    cost: npt.NDArray[np.float64]

    def at(self, places: Sequence[int] | npt.NDArray[np.intp]) -> _Ways:
        """Some of the ways."""
        return _Ways([self.ranks[place] for place in places], self.energy[places], self.cost[places])


class RankChoices:
    """The ranks that a network's layers may have, what they keep and what they cost; then the best within a cost.

    Args:
        model: a functional or sequential model.
        scheme: what convolutions are decomposed as.
        x: raw inputs. With these, energy is that of the layers' responses to them; without, that of the weights.
        prices: what tells the times of operators on a device. With these, cost is milliseconds there; without, it is
            multiply-accumulates.
        multiple: of which ranks are; by default of 8, and of less where there are few.

    Raises:
        ModelError: nothing can be decomposed, or a size that the network leaves open.
        DeviceError: the device went away, or runs nothing at all.
    """

    def __init__(
        self,
        model: Any,
        *,
        scheme: Wanted = "auto",
        x: Array | None = None,
        prices: Prices | None = None,
        multiple: int | None = None,
    ) -> None:
        model = inlined(model)
        found = _found(model, scheme)
        self._name = model.name
        self._ways: dict[str, _Ways] = {}
        with progress("looking at layers", len(found)) as advance:
            for name, of_layer in found.items():
                seen = None if x is None else _seen(model, of_layer, x)
                self._ways[name] = _ways(of_layer, _schemes(of_layer[0].layer, scheme), multiple, seen, prices is None)
                advance(1)
        costs = costs_of(model, {name: (found[name], ways.ranks) for name, ways in self._ways.items()}, prices)
        self._ways = {name: _best(ways, costs.layers[name]) for name, ways in self._ways.items()}
        self._rest = costs.rest
        self._whole = costs.rest + sum(float(ways.cost[-1]) for ways in self._ways.values())

    @property
    def least(self) -> float:
        """The least share of the network's cost that any ranks take."""
        return float((self._rest + sum(ways.cost.min() for ways in self._ways.values())) / self._whole)

    def within(self, share: float) -> Selection:
        """The ranks that keep most of the energy within a share of what the network costs.

        The sum over layers of the logarithm of the share of the energy (Σσ²) that is kept is the greatest that any of
        the ranks have (Zhang et al., arXiv:1411.4229, equation 14); a layer may also stay whole.

        Raises:
            UsageError: a share outside (0, 1].
            ModelError: no ranks cost so little; it says how little they can.
        """
        if not 0 < share <= 1:
            raise UsageError(f"a share to keep must be above 0 and at most 1, and {share:g} is not")
        worth = [np.log(ways.energy) for ways in self._ways.values()]
        terms = [Term((layer,), ways.cost) for layer, ways in enumerate(self._ways.values())]
        choice = solve(worth, terms, share * self._whole * (1 + _ROUNDING) - self._rest)
        if choice is None:
            raise ModelError(
                f"no ranks bring {self._name} to {share:.3g} of its cost: the least possible is "
                f"{math.ceil(1e4 * self.least) / 1e4:g}, a ratio of {math.floor(100 / self.least) / 100:g}"
            )
        chosen = {
            name: (ways.ranks[place], float(ways.energy[place]))
            for (name, ways), place in zip(self._ways.items(), choice.chosen, strict=True)
        }
        return Selection(
            ranks={name: way for name, (way, _) in chosen.items() if way},
            energy={name: energy for name, (_, energy) in chosen.items()},
            share=(self._rest + choice.cost) / self._whole,
        )


def _found(model: Any, scheme: Wanted) -> dict[str, list[Call]]:
    """The layers to choose for, with their calls.

    Raises:
        ModelError: there are none.
    """
    found = {name: of_layer for name, of_layer in decomposable(model).items() if _schemes(of_layer[0].layer, scheme)}
    if not found:
        others = ", ".join(f"{layer.name} ({type(layer).__name__})" for layer in model.layers if layer.weights)
        raise ModelError(
            f"{model.name} has nothing to decompose{'' if scheme == 'auto' else f' as {scheme}'}: plain convolutions "
            f"and dense layers can be, and it has {others or 'no layer with weights'}"
        )
    return found


def _schemes(layer: Any, wanted: Wanted) -> tuple[Scheme, ...]:
    """The schemes to choose from for a layer; dense ones, and convolutions of one position, have but one."""
    able = schemes_for(layer)
    if wanted == "auto" or len(able) == 1:
        return able
    return tuple(scheme for scheme in able if scheme == wanted)


def _seen(model: Any, of_layer: Sequence[Call], x: Array) -> Patches:
    return varying(patches_of(model, of_layer, of_layer[0].layer, x))


def _ways(
    of_layer: Sequence[Call], schemes: Sequence[Scheme], multiple: int | None, seen: Patches | None, by_macs: bool
) -> _Ways:
    """The ways to make a layer that no other beats in both energy and multiply-accumulates, whole at the end.

    Where multiply-accumulates are not what counts, the ways of each scheme are compared with each other alone, and a
    few of them stay.
    """
    layer = of_layer[0].layer
    ranks: list[LayerRank | None] = []
    energy: list[float] = []
    scheme_of: list[int] = []
    for number, scheme in enumerate(schemes):
        full = full_rank(kernel_per_group(layer), scheme)
        kept = kept_energy(kernel_of(layer), scheme, seen, groups_of(layer))
        for rank in _ranks(full, multiple):
            ranks.append(LayerRank(scheme=scheme, rank=rank))
            energy.append(at_rank(kept, rank))
            scheme_of.append(0 if by_macs else number)
    ways = _Ways([*ranks, None], np.array([*energy, 1.0]), np.array(macs_of(of_layer, [*ranks, None])))
    able = np.flatnonzero((ways.cost < ways.cost[-1]) & (ways.energy > 0))
    best = able[undominated(ways.energy[able], ways.cost[able], np.array(scheme_of, np.int64)[able])]
    if not by_macs:
        best = best[_thinned(len(best), MOST_TIMED)]
    return ways.at([*best, len(ranks)])


def _best(ways: _Ways, cost: Sequence[float]) -> _Ways:
    """The ways that no other beats in both energy and cost, whole at the end."""
    priced = ways._replace(cost=np.array(cost))
    able = np.flatnonzero(priced.cost[:-1] < priced.cost[-1])
    return priced.at([*able[undominated(priced.energy[able], priced.cost[able])], len(priced.ranks) - 1])


def _ranks(full: int | tuple[int, int], multiple: int | None) -> Iterator[int | tuple[int, int]]:
    """The ranks to choose from, up to the full one."""
    if isinstance(full, tuple):
        yield from product(*(_multiples(most, multiple) for most in full))
    else:
        yield from _multiples(full, multiple)


def _multiples(full: int, multiple: int | None) -> Sequence[int]:
    step = multiple or next((step for least, step in _MULTIPLES if full >= least), 1)
    return sorted({*range(step, full + 1, step), full})


def _thinned(count: int, most: int) -> npt.NDArray[np.intp]:
    """Places of at most ``most`` of so many ways, evenly, the last among them."""
    return np.unique(np.linspace(0, max(0, count - 1), min(count, most)).round().astype(np.intp))
