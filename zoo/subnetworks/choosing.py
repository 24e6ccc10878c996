"""Choosing the widths of nested subnetworks: as much importance as each budget allows, proven or with a bound.

A subnetwork keeps a prefix of every channel group (Corti et al., "REDS: Resource-Efficient Deep Subnetworks", 2023).
The ladder is chosen rung by rung. From the narrowest up, each rung contains the one before it; from the widest down,
each lies in it. So the first rung chosen is the best that there is, and the others are the best beside it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

from fleetfoot.errors import ModelError, UsageError, offer
from zoo.knapsack import Choice, Numbers
from zoo.pruning import Scores
from zoo.subnetworks.costs import IN_WORDS, Costs
from zoo.subnetworks.ladder import Ladder, Rung, check_fractions
from zoo.subnetworks.problem import Problem, problem_of

Order = Literal["bottom-up", "top-down"]
ORDERS: tuple[Order, ...] = ("bottom-up", "top-down")

Weighing = Literal["balanced", "sum"]
WEIGHINGS: tuple[Weighing, ...] = ("balanced", "sum")

SECONDS = 60.0
"""How long all rungs together are searched for where nothing else is said."""

_LEAST_SHARE = 1e-9
_DIGITS = 1000


def choose_widths(
    costs: Costs,
    scores: Scores,
    fractions: Sequence[float],
    *,
    weighing: Weighing = "balanced",
    order: Order = "bottom-up",
    peak_bytes: int | None = None,
    bytes_per_value: int = 4,
    seconds: float = SECONDS,
) -> Ladder:
    """The widths of nested subnetworks that keep most importance within fractions of what the whole network costs.

    Args:
        costs: what widths cost.
        scores: the importance of channels, comparable between groups.
        weighing: what is made as large as possible: ``sum``, as in REDS, the importance of all kept channels;
            ``balanced``, the product of the shares that the groups keep of theirs. A network is as good as its
            narrowest place, and a sum gives up some groups for others.
        fractions: ascending, each once.
        order: which rung is chosen first, and is therefore the best possible.
        peak_bytes: the most that the activations alive at once may take in every subnetwork, that of 1.0 included.
        bytes_per_value: of activations: 4 for float32, 1 for int8.
        seconds: for all rungs together; then the best that was found is taken, with the bound that holds by then.

    Raises:
        UsageError: fractions, an order or a limit that cannot be meant, or scores that are not those of the channels.
        ModelError: no widths cost so little, or need so little memory; it says how little they can.
    """
    check_fractions(fractions, costs.unit)
    _check_options(weighing, order, seconds)
    worth_of = _worths(costs, scores, weighing)
    until = time.monotonic() + seconds
    problem = problem_of(costs, worth_of, peak_bytes, bytes_per_value)
    _check_possible(problem, fractions[0])
    share_of = _Shares(sum(float(own[-1]) for own in worth_of), len(worth_of), weighing)
    found: list[Rung] = []
    nested = problem
    for number, fraction in enumerate(fractions if order == "bottom-up" else fractions[::-1]):
        limit = fraction * costs.whole
        share = max(0.0, until - time.monotonic()) / (len(fractions) - number)
        choice = nested.best(limit, share)
        if choice is None:
            raise _impossible(nested, fraction)
        free = problem.best(limit, 0.0) if found else choice
        assert free is not None, "what is possible when nested is so without"
        found.append(_rung(problem, choice, free, fraction, limit, share_of))
        nested = problem.above(choice.chosen) if order == "bottom-up" else problem.below(choice.chosen)
    return Ladder(costs.unit, costs.whole, tuple(sorted(found, key=lambda rung: rung.fraction)))


def least_fraction(costs: Costs, peak_bytes: int | None = None, bytes_per_value: int = 4) -> float:
    """The least fraction of what the whole network costs that widths can take, rounded up to three digits.

    Raises:
        UsageError: a peak that cannot be meant.
        ModelError: no widths need so little memory; it says how little they can.
    """
    worthless = [np.zeros(len(widths)) for widths in costs.grid.values()]
    return _least_fraction(problem_of(costs, worthless, peak_bytes, bytes_per_value))


class _Shares(NamedTuple):
    """What sums of worths say of the importance that is kept.

    Attributes:
        total: the worth of the whole network.
        groups: how many channel groups there are.
        weighing: of worths.
    """

    total: float
    groups: int
    weighing: Weighing

    def __call__(self, worth: float) -> float:
        """The share of all importance."""
        if self.weighing == "sum":
            return worth / (self.total or 1.0)
        return math.exp((worth - self.total) / self.groups)


def _worths(costs: Costs, scores: Scores, weighing: Weighing) -> list[Numbers]:
    """For each group, what the prefixes of its widths are worth."""
    if missing := [name for name in costs.grid if name not in scores]:
        raise UsageError(f"there is no importance of group {missing[0]}: {offer(missing[0], scores)}")
    worths = []
    for name, widths in costs.grid.items():
        values = np.asarray(scores[name], np.float64)
        if values.shape != (widths[-1],) or not (np.isfinite(values) & (values >= 0)).all():
            raise UsageError(
                f"the importance of group {name} is one number for each of its {widths[-1]} channels, not below 0"
            )
        prefixes = np.concatenate([[0.0], np.cumsum(np.sort(values)[::-1])])
        worth = prefixes if weighing == "sum" else _logarithms(prefixes)
        worths.append(worth[list(widths)])
    return worths


def _logarithms(prefixes: Numbers) -> Numbers:
    """The logarithms of importance; of none, where a block is skipped, one less than that of the first channel."""
    kept = np.log(prefixes[1:] + (_LEAST_SHARE * prefixes[-1] or 1.0))
    return np.concatenate([[0.0], kept - kept[0] + 1.0])


def _check_options(weighing: str, order: str, seconds: float) -> None:
    if weighing not in WEIGHINGS:
        raise UsageError(f"there is no weighing {weighing!r} of importance: {offer(weighing, WEIGHINGS)}")
    if order not in ORDERS:
        raise UsageError(f"there is no order {order!r} of choosing: {offer(order, ORDERS)}")
    if not seconds >= 0:
        raise UsageError(f"widths are chosen within some seconds, and not {seconds:g}")


def _check_possible(problem: Problem, fraction: float) -> None:
    if problem.least() > fraction * problem.costs.whole:
        raise _impossible(problem, fraction)


def _impossible(problem: Problem, fraction: float) -> ModelError:
    return ModelError(
        f"no widths take {fraction:g} of {IN_WORDS[problem.costs.unit]}: the least possible is "
        f"{_least_fraction(problem):.3f}"
    )


def _least_fraction(problem: Problem) -> float:
    """Rounded up, so that it can be asked for."""
    least, whole = problem.least(), problem.costs.whole
    digits = math.ceil(_DIGITS * least / whole)
    while digits / _DIGITS * whole < least:
        digits += 1
    return digits / _DIGITS


def _rung(problem: Problem, choice: Choice, free: Choice, fraction: float, limit: float, share_of: _Shares) -> Rung:
    widths = {name: own[number] for (name, own), number in zip(problem.grid.items(), choice.chosen, strict=True)}
    skipped = tuple(block for block, inner in problem.costs.inner.items() if not widths[inner[0]])
    return Rung(
        fraction,
        widths,
        skipped,
        importance=share_of(choice.worth),
        cost=choice.cost,
        limit=limit,
        bound=share_of(choice.bound),
        free_bound=share_of(max(free.bound, choice.worth)),
    )
