"""The ranks that lose least within a cost: one option of each layer, exactly."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Places = npt.NDArray[np.intp]
_PARTS = tuple(4.0**-power for power in range(6, -1, -1))
"""Of the way from the bound down to a known choice: how far from the bound the best is looked for."""
_SLACK = 1e-9
"""Relative to what is compared: what may be rounding does not rule anything out."""


class Options(NamedTuple):
    """What there is to choose from for one layer: of each option its worth and its cost, of shape (options,)."""

    worth: Numbers
    cost: Numbers


class Choice(NamedTuple):
    """The best options.

    Attributes:
        chosen: by layer, the index of the option.
        worth: the sum of theirs.
        cost: the sum of theirs.
    """

    chosen: tuple[int, ...]
    worth: float
    cost: float


def select(layers: Sequence[Options], limit: float) -> Choice | None:
    """Chooses an option of each layer so that the sum of their worth is greatest and that of their costs is within.

    This is the multiple-choice knapsack problem, solved exactly. Mixtures of options, which are linear programming,
    give an upper bound and a price of cost, and that a choice near it. Partial choices are then joined layer by layer,
    of which those stay that no other beats in both worth and cost, and from which mixtures of the rest still come near
    enough to the bound (Kellerer, Pferschy and Pisinger, "Knapsack problems", 2004, chapter 11). Near enough is first
    very near, where there is little to join; only while nothing is found there, it is further away, up to the choice
    that is known.

    Args:
        layers: the options of each layer.
        limit: the most that all may cost.

    Returns:
        The best choice; None if even the cheapest options cost more.
    """
    cheapest = _sum_of(layers, [int(options.cost.argmin()) for options in layers])
    if cheapest.cost > limit:
        return None
    hulls = [_hull(options) for options in layers]
    mixed = [_mixed(hulls[place:]) for place in range(len(layers) + 1)]
    price = _price(mixed[0], limit)
    near = _sum_of(layers, [_at_price(options, price * (1 + _SLACK)) for options in layers])
    best = _filled(layers, near if near.cost <= limit else cheapest, limit)
    ceilings = [options.worth - price * options.cost for options in layers]
    bound = sum(float(ceiling.max()) for ceiling in ceilings) + price * limit
    lost = [ceiling.max() - ceiling for ceiling in ceilings]
    slack = _SLACK * max(1.0, abs(bound))
    for part in _PARTS:
        least = bound - part * (bound - best.worth)
        joined = _joined(layers, lost, mixed, limit, bound, least - slack)
        if joined is not None and joined.worth >= max(least, best.worth):
            return joined
    return best


class _Curve(NamedTuple):
    """What is worth most at each cost, if options can be mixed: straight lines between these points."""

    cost: Numbers
    worth: Numbers

    def at(self, cost: Numbers) -> Numbers:
        """The most worth within some costs; below the cheapest there is nothing."""
        return np.interp(cost, self.cost, self.worth, left=-np.inf)


def _hull(options: Options) -> _Curve:
    """The mixtures of one layer's options."""
    hull: list[tuple[float, float]] = []
    for place in undominated(options.worth, options.cost):
        cost, worth = float(options.cost[place]), float(options.worth[place])
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) <= _slope(hull[-1], (cost, worth)):
            hull.pop()
        hull.append((cost, worth))
    return _Curve(*np.array(hull).T)


def _slope(one: tuple[float, float], other: tuple[float, float]) -> float:
    return (other[1] - one[1]) / (other[0] - one[0])


def _mixed(hulls: Sequence[_Curve]) -> _Curve:
    """The mixtures of several layers' options: what gains most for its cost comes first."""
    if not hulls:
        return _Curve(np.zeros(1), np.zeros(1))
    cost = np.concatenate([np.diff(hull.cost) for hull in hulls])
    worth = np.concatenate([np.diff(hull.worth) for hull in hulls])
    order = np.argsort(-worth / cost, kind="stable")
    start = [sum(hull.cost[0] for hull in hulls)], [sum(hull.worth[0] for hull in hulls)]
    return _Curve(*(np.cumsum([*first, *steps[order]]) for first, steps in zip(start, (cost, worth), strict=True)))


def _price(mixed: _Curve, limit: float) -> float:
    """What a little more cost than the limit would be worth."""
    place = int(np.searchsorted(mixed.cost, limit, side="right"))
    if place in (0, len(mixed.cost)):
        return 0.0
    return float((mixed.worth[place] - mixed.worth[place - 1]) / (mixed.cost[place] - mixed.cost[place - 1]))


def _at_price(options: Options, price: float) -> int:
    """The option that is worth most after its cost is paid; of several, the cheapest."""
    left = options.worth - price * options.cost
    return int(np.where(left == left.max(), options.cost, np.inf).argmin())


def _filled(layers: Sequence[Options], choice: Choice, limit: float) -> Choice:
    """A choice with what is left of the limit spent on the layers one after the other."""
    for place, (worth, cost) in enumerate(layers):
        chosen = list(choice.chosen)
        within = cost - cost[chosen[place]] <= limit - choice.cost
        chosen[place] = int(np.where(within, worth, -np.inf).argmax())
        better = _sum_of(layers, chosen)
        if better.worth > choice.worth and better.cost <= limit:
            choice = better
    return choice


class _States(NamedTuple):
    """Choices for some of the layers: of each what it is worth, what it costs, and what it loses of the bound."""

    worth: Numbers
    cost: Numbers
    lost: Numbers


def _joined(
    layers: Sequence[Options],
    lost: Sequence[Numbers],
    mixed: Sequence[_Curve],
    limit: float,
    bound: float,
    least: float,
) -> Choice | None:
    """The best choice within the limit; None if no choice is worth the least that it is to be.

    Args:
        layers: the options of each layer.
        lost: of each option, by how much the bound is lower with it.
        mixed: for each layer, the mixtures of it and those after it; one more of none.
        limit: the most that all may cost.
        bound: no choice is worth more.
        least: what a choice is to be worth.
    """
    states = _States(np.zeros(1), np.zeros(1), np.zeros(1))
    history: list[tuple[Places, Places]] = []
    for layer, own, rest in zip(layers, lost, mixed[1:], strict=True):
        by_lost = np.argsort(states.lost)
        counts = np.searchsorted(states.lost[by_lost], bound - least - own, side="right")
        before = np.concatenate([by_lost[:count] for count in counts])
        option = np.repeat(np.arange(len(own)), counts)
        worth, cost = states.worth[before] + layer.worth[option], states.cost[before] + layer.cost[option]
        able = np.flatnonzero(worth + rest.at(limit * (1 + _SLACK) - cost) >= least)
        stay = able[undominated(worth[able], cost[able])]
        before, option = before[stay], option[stay]
        states = _States(worth[stay], cost[stay], states.lost[before] + own[option])
        history.append((before, option))
    within = np.where(states.cost <= limit, states.worth, -np.inf)
    if not np.isfinite(within).any():
        return None
    state = int(within.argmax())
    chosen = []
    for before, option in reversed(history):
        chosen.append(int(option[state]))
        state = int(before[state])
    return _sum_of(layers, chosen[::-1])


def undominated(worth: Numbers, cost: Numbers) -> npt.NDArray[np.intp]:
    """Those that are worth more than all that cost no more."""
    by_cost = np.lexsort((-worth, cost))
    before = np.maximum.accumulate(np.concatenate([[-np.inf], worth[by_cost][:-1]])) if len(worth) else worth
    return by_cost[worth[by_cost] > before]


def _sum_of(layers: Sequence[Options], chosen: Sequence[int]) -> Choice:
    pairs = list(zip(layers, chosen, strict=True))
    worth = sum(float(layer.worth[option]) for layer, option in pairs)
    return Choice(tuple(chosen), worth, sum(float(layer.cost[option]) for layer, option in pairs))
