"""Polynomials of the widths of channel groups, and their values as tables.

A monomial may also be there only while a block is: then it names a group inside that block, whose width is 0 where the
block is skipped.
"""

from __future__ import annotations

import math
from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

import numpy as np

from zoo.knapsack import Numbers, Term
from zoo.latency import WidthGrid
from zoo.pruning import Widths

Monomial = tuple[tuple[str, ...], str]
"""The groups whose widths are multiplied, and the one that must not be empty, or nothing."""

CONSTANT: Monomial = ((), "")

Form = Mapping[Monomial, int]
"""A polynomial of widths: how often each monomial is in it."""


def multiplied(factors: Sequence[Mapping[tuple[str, ...], int]]) -> Tally[tuple[str, ...]]:
    """The product of sums, each of numbers times groups' widths: by the groups, how often it has their product."""
    total = Tally[tuple[str, ...]]()
    for parts in product(*(factor.items() for factor in factors)):
        groups = tuple(sorted(name for names, _ in parts for name in names))
        total[groups] += math.prod(count for _, count in parts)
    return Tally({groups: count for groups, count in total.items() if count})


def monomial(groups: tuple[str, ...], switch: str) -> Monomial:
    """The product of the widths of groups, there while another group is not empty; without one, always."""
    return groups, "" if switch in groups else switch


def value(form: Form, widths: Widths) -> int:
    """The value of a polynomial; every group that it depends on has a width."""
    return sum(
        count * math.prod(widths[name] for name in groups) * (not switch or widths[switch] > 0)
        for (groups, switch), count in form.items()
    )


def scope(groups: Iterable[str], switch: str, grid: WidthGrid) -> tuple[str, ...]:
    """Groups, and the one that must not be empty, in the order of the grid."""
    wanted = {*groups, switch}
    return tuple(name for name in grid if name in wanted)


def scope_of(form: Form, grid: WidthGrid) -> tuple[str, ...]:
    """The groups that a polynomial depends on, in the order of the grid."""
    return scope({name for groups, switch in form for name in (*groups, switch)}, "", grid)


def tables_of(form: Form, grid: WidthGrid) -> dict[tuple[str, ...], Numbers]:
    """A polynomial as the sum of tables, by the groups that each depends on; without what depends on none."""
    parts: dict[tuple[str, ...], dict[Monomial, int]] = {}
    for (groups, switch), count in form.items():
        parts.setdefault(scope(groups, switch, grid), {})[groups, switch] = count
    return {on: table_of(part, on, grid) for on, part in parts.items()}


def table_of(form: Form, on: tuple[str, ...], grid: WidthGrid) -> Numbers:
    """The values of a polynomial for all widths of some groups."""
    total = np.zeros([len(grid[name]) for name in on])
    for (groups, switch), count in form.items():
        values = _switched(switch, on, grid) * count
        for name in groups:
            values = values * _along(np.array(grid[name], np.float64), name, on)
        total += values
    return total


def _switched(switch: str, on: tuple[str, ...], grid: WidthGrid) -> Numbers:
    """1, but 0 where the group is empty."""
    return (
        _along(np.array([float(width > 0) for width in grid[switch]]), switch, on) if switch else np.ones([1] * len(on))
    )


def _along(values: Numbers, name: str, on: tuple[str, ...]) -> Numbers:
    return values.reshape([-1 if other == name else 1 for other in on])


def as_terms(tables: Mapping[tuple[str, ...], Numbers], grid: WidthGrid) -> tuple[Term, ...]:
    """Tables as terms, whose variables are the groups in the order of the grid."""
    number = {name: place for place, name in enumerate(grid)}
    return tuple(Term(tuple(number[name] for name in on), table) for on, table in tables.items())


class Sums:
    """Sums of tables, by the groups that they depend on."""

    def __init__(self, grid: WidthGrid) -> None:
        self._grid = grid
        self.tables: dict[tuple[str, ...], Numbers] = {}

    def add(self, costs: Mapping[tuple[int, ...], float], groups: tuple[str, ...], switch: str) -> None:
        """Adds what widths of groups cost, and nothing where one is empty: what has its channels goes with it."""
        grid = self._grid
        choices = product(*(grid[name] for name in groups))
        values = np.array([costs[widths] if all(widths) else 0.0 for widths in choices], np.float64)
        on = scope(groups, switch, grid)
        table = values.reshape([len(grid[name]) for name in groups])
        ordered = table.transpose([groups.index(name) for name in on if name in groups])
        spread = ordered.reshape([len(grid[name]) if name in groups else 1 for name in on])
        before = self.tables.setdefault(on, np.zeros([len(grid[name]) for name in on]))
        self.tables[on] = before + spread * _switched(switch, on, grid)
