"""The problem of choosing widths: how much each is worth, and what all together may cost."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fleetfoot.console import note
from fleetfoot.errors import ModelError, UsageError
from zoo.knapsack import Choice, Numbers, Term, cheapest, largest_table, solve
from zoo.latency import WidthGrid
from zoo.subnetworks.costs import Costs, memory_scopes, memory_terms

MOST_ENTRIES = 2**20
"""Groups lose widths to choose from where the solver's tables would have more numbers."""

_TIGHTENINGS = 4
_FEWEST = 3


@dataclass(frozen=True)
class Problem:
    """Widths to choose from, each group's from one place in the grid to another.

    Attributes:
        costs: what they cost, by places in the grid.
        grid: of ``costs``, or thinned.
        places: by group, the places in the grid of ``costs`` of the widths in ``grid``.
        worth: what each of these is worth.
        terms: what they cost.
        start: by group, the number of the first width that may be chosen.
    """

    costs: Costs
    grid: WidthGrid
    places: tuple[Sequence[int], ...]
    worth: tuple[Numbers, ...]
    terms: tuple[Term, ...]
    start: tuple[int, ...]

    def above(self, chosen: Sequence[int]) -> Problem:
        """Only what contains these widths."""
        return self._sliced([slice(number, None) for number in chosen])

    def below(self, chosen: Sequence[int]) -> Problem:
        """Only what lies within these widths."""
        return self._sliced([slice(0, number + 1) for number in chosen])

    def best(self, limit: float, seconds: float) -> Choice | None:
        """The best choice within a limit that is found in some seconds; costs are those of whole networks."""
        widest = [len(own) - 1 for own in self.worth]
        worth = sum(float(own[-1]) for own in self.worth)
        if self._allowed(widest) and self.cost(widest) <= limit:
            return self._named(Choice(tuple(widest), worth, self.cost(widest), worth))
        calibration = self.costs.calibration
        if calibration is None:
            return self._named(solve(self.worth, self.terms, limit - self.costs.rest, seconds=seconds))
        return self._named(self._best_calibrated(limit, seconds, calibration.least, calibration.most))

    def least(self) -> float:
        """What the cheapest widths cost."""
        return self.cost(cheapest(self.worth, self.terms).chosen)

    def cost(self, chosen: Sequence[int]) -> float:
        """What a choice costs as a whole network."""
        places = [
            own[self_start + number] for own, self_start, number in zip(self.places, self.start, chosen, strict=True)
        ]
        return self.costs.of(places)

    def _sliced(self, slices: Sequence[slice]) -> Problem:
        terms = tuple(Term(term.on, term.cost[tuple(slices[variable] for variable in term.on)]) for term in self.terms)
        worth = tuple(own[part] for own, part in zip(self.worth, slices, strict=True))
        start = tuple(part.start for part in slices)
        return Problem(self.costs, self.grid, self.places, worth, terms, start)

    def _allowed(self, chosen: Sequence[int]) -> bool:
        return all(np.isfinite(term.cost[tuple(chosen[variable] for variable in term.on)]) for term in self.terms)

    def _best_calibrated(self, limit: float, seconds: float, least: float, most: float) -> Choice | None:
        """With sums brought to times by a factor that depends on the choice.

        Whatever is within the limit has a sum of at most the limit over the least factor: so the bound there holds.
        Where what is found has a larger factor, sums are limited anew by that one, at last by the most.
        """
        factor, bound = least, math.inf
        for number in range(_TIGHTENINGS):
            tried = solve(self.worth, self.terms, limit / factor - self.costs.rest, seconds=seconds / _TIGHTENINGS)
            if tried is None:
                break
            bound = tried.bound if number == 0 else bound
            cost = self.cost(tried.chosen)
            if cost <= limit:
                return tried._replace(cost=cost, bound=bound)
            of_this = cost / (tried.cost + self.costs.rest)
            factor = most if number >= _TIGHTENINGS - 2 else max(factor, of_this)
        narrow = cheapest(self.worth, self.terms)
        return narrow._replace(bound=bound) if self.cost(narrow.chosen) <= limit else None

    def _named(self, choice: Choice | None) -> Choice | None:
        """A choice by numbers in the grid, with what it costs as a network."""
        if choice is None:
            return None
        chosen = tuple(start + number for start, number in zip(self.start, choice.chosen, strict=True))
        return choice._replace(chosen=chosen, cost=self.cost(choice.chosen))


def problem_of(costs: Costs, worth: Sequence[Numbers], peak_bytes: int | None, bytes_per_value: int) -> Problem:
    """All widths to choose from, of which there are fewer where tables would be too large."""
    if peak_bytes is not None and peak_bytes < 1:
        raise UsageError(f"activations take some bytes, and not {peak_bytes}: give how many they may")
    names = list(costs.grid)
    numbers = {name: number for number, name in enumerate(names)}
    scopes = [term.on for term in costs.terms]
    if peak_bytes is not None:
        scopes += [tuple(numbers[name] for name in on) for on in memory_scopes(costs)]
    places = _thinned([len(widths) for widths in costs.grid.values()], scopes, names)
    grid = {name: tuple(costs.grid[name][place] for place in own) for name, own in zip(names, places, strict=True)}
    terms = [Term(term.on, term.cost[np.ix_(*(places[variable] for variable in term.on))]) for term in costs.terms]
    if peak_bytes is not None:
        terms += memory_terms(costs, grid, peak_bytes, bytes_per_value)
    kept = tuple(own[list(own_places)] for own, own_places in zip(worth, places, strict=True))
    return Problem(costs, grid, tuple(places), kept, tuple(terms), (0,) * len(names))


def _thinned(sizes: Sequence[int], scopes: Sequence[tuple[int, ...]], names: Sequence[str]) -> list[list[int]]:
    """The places in the grid that are left: groups with the most lose every second one while tables are too large."""
    places = [list(range(size)) for size in sizes]
    while True:
        table = largest_table([len(own) for own in places], scopes)
        if math.prod(len(places[number]) for number in table) <= MOST_ENTRIES:
            break
        number = max(table, key=lambda number: len(places[number]))
        own = places[number]
        if len(own) <= _FEWEST:
            raise ModelError(
                f"{len(table)} channel groups depend on each other, {names[number]} among them: too many to choose "
                "their widths exactly"
            )
        places[number] = sorted({*own[:2], *own[::-2]})
    if fewer := [name for name, own, size in zip(names, places, sizes, strict=True) if len(own) < size]:
        note(f"fewer widths to choose from of {len(fewer)} groups, {fewer[0]} among them, or tables would be too large")
    return places
