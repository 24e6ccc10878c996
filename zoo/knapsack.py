"""The choices that are worth most within a limit, where what one costs depends on others.

Each variable has one of some choices. Costs are sums of terms, each a table over the choices of a few variables: the
multiply-accumulates of a layer are a product of the widths on both of its sides. This is the multiple-choice knapsack
problem with interactions. A Lagrange multiplier takes the limit into what is maximised, and then variables can be
eliminated one after the other (Dechter, "Bucket elimination", Artificial Intelligence 113, 1999): that bounds what any
choices are worth, and, for each choice of some variables, what all completions of it are worth. Partial choices are
then extended variable by variable. Of those that agree in all that matters to the rest, the ones stay that no other
beats in both worth and cost, and that the bound does not rule out (Kellerer, Pferschy and Pisinger, "Knapsack
problems", 2004, chapter 11). Where they are still too many the most promising stay, and the bound of the others says
how much better an answer could at most be.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

MOST_PARTIAL = 50_000
"""How many partial choices are kept at once."""

_PARTS = (1 / 64, 1 / 8, 1.0)
"""Of the way from the bound down to what is known: how far down is searched at first, and then."""
_HALVINGS = 60
_HIGHEST = 1e30
"""A price beyond which only rounding can keep what is best above the limit."""
_COMPLETED = 64
"""How many of the most promising partial choices are completed after each step, in search of a better answer."""
_SLACK = 1e-9
"""Relative to what is compared: what may be rounding does not rule anything out."""


class Term(NamedTuple):
    """What some variables cost together.

    Attributes:
        on: the variables, each once.
        cost: by their choices, in that order; infinite where choices do not go together.
    """

    on: tuple[int, ...]
    cost: Numbers


class Choice(NamedTuple):
    """An answer.

    Attributes:
        chosen: for each variable, the index of its choice.
        worth: the sum of what these are worth.
        cost: what they cost together.
        bound: no choices within the limit are worth more; equal to ``worth`` where these are proven to be the best.
    """

    chosen: tuple[int, ...]
    worth: float
    cost: float
    bound: float

    @property
    def gap(self) -> float:
        """How much better an answer could at most be, as a share of the bound."""
        return (self.bound - self.worth) / abs(self.bound) if self.bound != self.worth else 0.0


def solve(
    worth: Sequence[Numbers],
    terms: Sequence[Term],
    limit: float,
    *,
    seconds: float = math.inf,
    most: int = MOST_PARTIAL,
) -> Choice | None:
    """Chooses for each variable so that the sum of worths is greatest and the sum of terms is within a limit.

    Args:
        worth: for each variable, what each of its choices is worth.
        terms: what they cost.
        limit: the most that all may cost.
        seconds: after which the best that was found is returned, with the bound that holds by then.
        most: how many partial choices are kept at once.

    Returns:
        The best choices, or the best that was found; None if none are within the limit.
    """
    until = time.monotonic() + seconds
    problem = _Problem(worth, terms)
    costs = problem.eliminated(None)
    cheapest = problem.best_of(costs)
    if problem.cost(cheapest)[0] > limit:
        return None
    price, found = _priced(problem, limit, cheapest)
    dual = problem.eliminated(price)
    bound = dual.best + price * limit
    slack, most_worth, least_cost = _slack(bound), problem.ceilings(dual), problem.ceilings(costs)
    for part in _PARTS:  # near the bound there is least to search, and mostly the answer
        floor = bound - part * (bound - found.worth)
        left = [
            np.flatnonzero((ceiling + price * limit >= floor - slack) & (-cost <= limit))
            for ceiling, cost in zip(most_worth, least_cost, strict=True)
        ]
        search = _Search(problem.restricted(left), price, limit, found, left, floor, most)
        found, ceiling = search.run(until)
        bound = min(bound, ceiling)
        if found.worth >= bound - _slack(bound):
            return found._replace(bound=found.worth)
    return found._replace(bound=bound)


def cheapest(worth: Sequence[Numbers], terms: Sequence[Term]) -> Choice:
    """The choices that cost least of all, with what these are worth; their cost is infinite where none go together.

    Args:
        worth: for each variable, what each of its choices is worth.
        terms: what they cost.
    """
    problem = _Problem(worth, terms)
    return problem.choice(problem.best_of(problem.eliminated(None))[0])


def largest_table(sizes: Sequence[int], scopes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """The variables of the largest table that ``solve`` makes, which has a number for each of their choices.

    Args:
        sizes: how many choices each variable has.
        scopes: the variables of each term.
    """
    beside = _order(len(sizes), scopes, sizes)[1]
    tables = [(variable, *sorted(near)) for variable, near in beside.items()]
    return max(tables, key=lambda table: math.prod(sizes[variable] for variable in table))


class _Problem:
    """Variables in the order in which they are eliminated.

    Attributes:
        worth: of each variable's choices.
        order: the variables, first the one that is eliminated first.
        beside: for each variable, those that are left and bound to it when it is eliminated, in the order.
        bucket: for each variable, the terms that it is the first of to be eliminated.
    """

    def __init__(self, worth: Sequence[Numbers], terms: Sequence[Term]) -> None:
        self.worth = [np.asarray(own, np.float64) for own in worth]
        self.terms = list(terms)
        self.order, neighbours = _order(len(worth), [term.on for term in terms], [len(own) for own in worth])
        place = {variable: number for number, variable in enumerate(self.order)}
        self.beside = {variable: tuple(sorted(near, key=place.__getitem__)) for variable, near in neighbours.items()}
        self.bucket: dict[int, list[Term]] = {variable: [] for variable in self.order}
        for term in terms:
            self.bucket[min(term.on, key=place.__getitem__)].append(term)

    def eliminated(self, price: float | None) -> _Elimination:
        """What the best completions of choices are worth after paying for them; without a price, their costs alone."""
        joints, messages, best = {}, {}, 0.0
        arrived: dict[int, list[tuple[tuple[int, ...], Numbers]]] = {variable: [] for variable in self.order}
        for variable in self.order:
            axes = (variable, *self.beside[variable])
            joint = np.zeros([len(self.worth[axis]) for axis in axes])
            if price is not None:
                joint += _aligned(self.worth[variable], (variable,), axes)
            for term in self.bucket[variable]:
                joint -= _aligned(_paid(term.cost, price), term.on, axes)
            for on, message in arrived[variable]:
                joint += _aligned(message, on, axes)
            joints[variable], messages[variable] = joint, joint.max(axis=0)
            if self.beside[variable]:
                arrived[self.beside[variable][0]].append((self.beside[variable], messages[variable]))
            else:
                best += float(messages[variable])
        return _Elimination(joints, messages, best)

    def ceilings(self, elimination: _Elimination) -> list[Numbers]:
        """For each variable, the most that can come of each of its choices, by an elimination."""
        beliefs: dict[int, Numbers] = {}
        for variable in self.order[::-1]:
            beside, joint = self.beside[variable], elimination.joints[variable]
            if not beside:
                beliefs[variable] = joint - joint.max() + elimination.best
                continue
            clique = (beside[0], *self.beside[beside[0]])
            others = tuple(place for place, other in enumerate(clique) if other not in beside)
            around = beliefs[beside[0]].max(axis=others)
            around = _aligned(around, tuple(other for other in clique if other in beside), beside)
            with np.errstate(invalid="ignore"):  # of what is impossible anyhow
                beliefs[variable] = np.nan_to_num(joint - elimination.messages[variable] + around, nan=-np.inf)
        return [
            beliefs[variable].max(axis=tuple(range(1, beliefs[variable].ndim))) for variable in range(len(self.worth))
        ]

    def restricted(self, left: Sequence[Indices]) -> _Problem:
        """The problem with some choices only."""
        terms = [Term(term.on, term.cost[np.ix_(*(left[variable] for variable in term.on))]) for term in self.terms]
        return _Problem([own[chosen] for own, chosen in zip(self.worth, left, strict=True)], terms)

    def best_of(self, elimination: _Elimination) -> Indices:
        """What is best by an elimination, as a row."""
        return self.completed(elimination, np.zeros((1, len(self.worth)), np.intp), 0)

    def completed(self, elimination: _Elimination, chosen: Indices, start: int) -> Indices:
        """Partial choices, a row each, with what is best by an elimination of the variables after the first ones.

        Args:
            elimination: by which.
            chosen: of shape (rows, variables); of the last ``start`` variables of the order, the choices.
            start: how many are chosen.
        """
        chosen = chosen.copy()
        for variable in self.order[::-1][start:]:
            at: tuple[Any, ...] = tuple(chosen[:, near] for near in self.beside[variable])
            joint = elimination.joints[variable]
            rows = joint[(slice(None), *at)].T if at else np.broadcast_to(joint, (len(chosen), len(joint)))
            chosen[:, variable] = rows.argmax(axis=1)
        return chosen

    def choice(self, chosen: Indices) -> Choice:
        """Complete choices as an answer that nothing is known of but what it is."""
        row = chosen[np.newaxis]
        worth, cost = float(self.worths(row)[0]), float(self.cost(row)[0])
        return Choice(tuple(chosen.tolist()), worth, cost, math.inf)

    def cost(self, chosen: Indices) -> Numbers:
        """What complete choices cost, a row each."""
        total = np.zeros(len(chosen))
        for term in self.terms:
            total += term.cost[tuple(chosen[:, variable] for variable in term.on)]
        return total

    def worths(self, chosen: Indices) -> Numbers:
        """What complete choices are worth, a row each."""
        total = np.zeros(len(chosen))
        for variable, worth in enumerate(self.worth):
            total += worth[chosen[:, variable]]
        return total


class _Elimination(NamedTuple):
    """What came of an elimination.

    Attributes:
        joints: for each variable, by its choice and those of the variables beside it, the most that can come of it.
        messages: the same by the choices beside it alone.
        best: the most that can come of all.
    """

    joints: dict[int, Numbers]
    messages: dict[int, Numbers]
    best: float


def _order(
    count: int, scopes: Sequence[tuple[int, ...]], sizes: Sequence[int]
) -> tuple[list[int], dict[int, set[int]]]:
    """An order of elimination that leaves the smallest table each time, and who is beside whom in it.

    Of several, the variable with the most choices goes first: it is then the last by which partial choices multiply.
    """
    near: dict[int, set[int]] = {variable: set() for variable in range(count)}
    for scope in scopes:
        for variable in scope:
            near[variable] |= set(scope) - {variable}
    order, beside = [], {}
    while near:
        variable = min(near, key=lambda one: (math.prod(sizes[other] for other in near[one]), -sizes[one], one))
        beside[variable] = near.pop(variable)
        for other in beside[variable]:
            near[other] |= beside[variable] - {other}
            near[other].discard(variable)
        order.append(variable)
    return order, beside


def _aligned(table: Numbers, on: tuple[int, ...], axes: tuple[int, ...]) -> Numbers:
    """A table over some variables, as one that broadcasts over others."""
    places = [axes.index(variable) for variable in on]
    shape = [1] * len(axes)
    for place, size in zip(places, table.shape, strict=True):
        shape[place] = size
    return table.transpose(np.argsort(places)).reshape(shape)


def _paid(cost: Numbers, price: float | None) -> Numbers:
    """What a cost takes from what something is worth; what is impossible takes all at any price."""
    if price is None:
        return cost
    return np.where(np.isinf(cost), np.inf, price * np.where(np.isinf(cost), 0.0, cost))


def _priced(problem: _Problem, limit: float, cheapest: Indices) -> tuple[float, Choice]:
    """The price at which what is best just stays within the limit, and a choice within it."""

    def at(price: float) -> Indices:
        return problem.best_of(problem.eliminated(price))

    def within(price: float) -> bool:
        return bool(problem.cost(at(price))[0] <= limit)

    if within(0.0):
        return 0.0, problem.choice(_filled(problem, at(0.0)[0], limit))
    low, high = 0.0, 1.0
    while not within(high) and high < _HIGHEST:
        low, high = high, 4 * high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if within(middle) else (middle, high)
    best = at(high) if within(high) else cheapest
    return high, problem.choice(_filled(problem, best[0], limit))


def _filled(problem: _Problem, chosen: Indices, limit: float) -> Indices:
    """A choice with what is left of the limit spent, and nothing spent for nothing, one variable after the other."""
    better, changed = chosen.copy(), True
    while changed:
        changed = False
        for variable, worth in enumerate(problem.worth):
            tried = np.repeat(better[np.newaxis], len(worth), axis=0)
            tried[:, variable] = np.arange(len(worth))
            cost = problem.cost(tried)
            within = np.flatnonzero(cost <= limit)
            option = int(within[np.lexsort((cost[within], -worth[within]))[0]])
            now = better[variable]
            if (worth[option], -cost[option]) > (worth[now], -cost[now]):
                better[variable] = option
                changed = True
    return better


class _Search:
    """Extends partial choices, variable by variable, in the reverse of the order of elimination.

    Args:
        problem: the variables and their terms.
        price: of cost.
        limit: the most that all may cost.
        found: a choice within the limit.
        names: for each variable, what its choices are called in what is found.
        floor: what is worth less is not looked for.
        most: how many partial choices are kept at once.
    """

    def __init__(
        self,
        problem: _Problem,
        price: float,
        limit: float,
        found: Choice,
        names: Sequence[Indices],
        floor: float,
        most: int,
    ) -> None:
        self._problem, self._price, self._limit, self._names, self._most = problem, price, limit, names, most
        self._floor = floor
        self._dual, self._cheapest = problem.eliminated(price), problem.eliminated(None)
        self._best = found
        self._bound = self._dual.best + price * limit
        self._slack = _slack(self._bound)
        self._left_out = -math.inf  # what the partial choices that were given up could at most come to

    def run(self, until: float) -> tuple[Choice, float]:
        """The best choice that is found until then, and what no choice is worth more than."""
        chosen = np.zeros((1, len(self._problem.worth)), np.intp)
        bound, least = np.array([self._bound]), np.array([-self._cheapest.best])
        for start, variable in enumerate(self._problem.order[::-1]):
            if time.monotonic() > until:
                return self._best, max(self._left_out, float(bound.max(initial=self._least_wanted)))
            chosen, bound, least = self._extended(variable, chosen, bound, least)
            chosen, bound, least = self._worth_keeping(start + 1, chosen, bound, least)
            last = start + 1 == chosen.shape[1]
            self._complete(chosen if last else chosen[np.argsort(-bound)[:_COMPLETED]], start + 1)
        return self._best, max(self._left_out, self._least_wanted)

    @property
    def _least_wanted(self) -> float:
        """What partial choices must be able to come to."""
        return max(self._floor, self._best.worth)

    def _extended(
        self, variable: int, chosen: Indices, bound: Numbers, least: Numbers
    ) -> tuple[Indices, Numbers, Numbers]:
        """All choices of one more variable that may come to more than the best, within the limit."""
        at: tuple[Any, ...] = tuple(chosen[:, near] for near in self._problem.beside[variable])

        def after(before: Numbers, elimination: _Elimination, sign: int) -> Numbers:
            joint, message = elimination.joints[variable], elimination.messages[variable]
            gained = (joint[(slice(None), *at)] - message[at]).T if at else (joint - message)[np.newaxis]
            extended: Numbers = before[:, np.newaxis] + sign * gained
            return extended

        bounds, leasts = after(bound, self._dual, 1), after(least, self._cheapest, -1)
        rows, options = np.nonzero((bounds >= self._least_wanted - self._slack) & (leasts <= self._limit))
        extended = chosen[rows]
        extended[:, variable] = options
        return extended, bounds[rows, options], leasts[rows, options]

    def _worth_keeping(
        self, count: int, chosen: Indices, bound: Numbers, least: Numbers
    ) -> tuple[Indices, Numbers, Numbers]:
        """Without those that another one beats, whatever comes; and the most promising of the rest."""
        done, left = self._problem.order[::-1][:count], self._problem.order[::-1][count:]
        active = sorted({near for variable in left for near in self._problem.beside[variable]} & set(done))
        key = np.zeros(len(chosen), np.int64)
        for variable in active:
            key = key * len(self._problem.worth[variable]) + chosen[:, variable]
        stay = undominated(bound + self._price * least, least, key)  # up to what only the key decides
        if len(stay) > self._most:
            by_bound = stay[np.argsort(-bound[stay], kind="stable")]
            stay = by_bound[: self._most]
            self._left_out = max(self._left_out, float(bound[by_bound[self._most]]))
        return chosen[stay], bound[stay], least[stay]

    def _complete(self, chosen: Indices, count: int) -> None:
        """Completes partial choices by the elimination, and takes the best of them that is within the limit."""
        if not len(chosen):
            return
        for elimination in (self._dual, self._cheapest):
            complete = self._problem.completed(elimination, chosen, count)
            worth = np.where(self._problem.cost(complete) <= self._limit, self._problem.worths(complete), -np.inf)
            if worth.max() > self._best.worth:
                best = self._problem.choice(complete[int(worth.argmax())])
                named = (int(names[option]) for names, option in zip(self._names, best.chosen, strict=True))
                self._best = best._replace(chosen=tuple(named))


def _slack(bound: float) -> float:
    return _SLACK * max(1.0, abs(bound))


def undominated(worth: Numbers, cost: Numbers, key: npt.NDArray[np.int64] | None = None) -> Indices:
    """Those that are worth more than all others, of the same key if there are keys, that cost no more."""
    key = np.zeros(len(worth), np.int64) if key is None else key
    by_cost = np.lexsort((-worth, cost, key))
    sorted_key, sorted_worth = key[by_cost], worth[by_cost]
    span = float(np.ptp(worth)) + 1.0 if len(worth) else 1.0
    apart = sorted_worth - worth.min(initial=0.0) + span * np.cumsum(np.diff(sorted_key, prepend=sorted_key[:1]) != 0)
    before = np.maximum.accumulate(np.concatenate([[-np.inf], apart[:-1]])) if len(worth) else apart
    stay: Indices = by_cost[apart > before]
    return stay
