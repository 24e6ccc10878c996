"""The one rule by which a variant is chosen, the same when training, evaluating and serving.

It is pure: slowdown only changes its latencies, personalisation only its probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property
from numbers import Real
from statistics import NormalDist
from typing import Any, Literal

import msgspec

from fleetfoot.errors import BudgetError, UsageError


class Objective(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, dict=True):
    """What is wanted within the budget.

    Attributes:
        goal: ``"accuracy"``, the variant most likely right; or ``"latency"``, the fastest of those
            that are right with a probability of at least ``wanted_accuracy``.
        wanted_accuracy: probability of being right, for ``"latency"``.
        confidence: probability with which the budget must be kept.
    """

    goal: Literal["accuracy", "latency"] = "accuracy"
    wanted_accuracy: float = 0.0
    confidence: float = 0.95

    def __post_init__(self) -> None:
        if self.goal not in ("accuracy", "latency"):
            raise UsageError(f"the goal is 'accuracy' or 'latency', not {self.goal!r}")
        if not 0 <= self.wanted_accuracy <= 1:
            raise UsageError(f"a wanted accuracy is from 0 to 1, not {self.wanted_accuracy}")
        if not 0 < self.confidence < 1:
            raise UsageError(f"a confidence is between 0 and 1, not {self.confidence}")

    @cached_property
    def deviations(self) -> float:
        """By how many standard deviations above the mean a latency is planned."""
        return NormalDist().inv_cdf(self.confidence)


class Choice(msgspec.Struct, frozen=True, kw_only=True):
    """The variant to run, what is expected of it, and why it; it is granted ``planned_ms`` of the budget."""

    variant: str
    p_right: float
    expected_ms: float
    planned_ms: float
    fits: bool
    why: str


def check_budget(budget_ms: Any) -> float:
    """The budget as a float; infinity means that there is no hurry.

    Raises:
        BudgetError: it is no number, NaN, zero or negative.
    """
    if isinstance(budget_ms, bool) or not isinstance(budget_ms, Real):
        raise BudgetError(f"a budget is a number of milliseconds, not {budget_ms!r}")
    try:
        budget = float(budget_ms)
    except OverflowError:
        raise BudgetError("a budget is a number of milliseconds, and this one is too large to be one") from None
    if math.isnan(budget) or budget <= 0:
        raise BudgetError(f"a budget is a positive number of milliseconds, not {budget_ms}")
    return budget


def choose(
    p_right: Mapping[str, float],
    latency_mean_ms: Mapping[str, float],
    latency_var: Mapping[str, float],
    budget_ms: float,
    objective: Objective,
) -> Choice:
    """Chooses the variant to run.

    Args:
        p_right: probability of being right, per variant.
        latency_mean_ms: expected latency now, per variant.
        latency_var: variance of that latency in ms², per variant.
        budget_ms: what is left of the budget.
        objective: what is wanted within it.

    Returns:
        The choice; where no variant keeps the budget, the fastest, with ``fits`` false.
    """
    planned_ms = {name: latency_mean_ms[name] + objective.deviations * math.sqrt(latency_var[name]) for name in p_right}
    fitting = [name for name in p_right if planned_ms[name] <= budget_ms]
    if fitting:
        best, why = _best(fitting, p_right, planned_ms, objective)
    else:
        best = min(p_right, key=planned_ms.__getitem__)
        why = (
            f"no variant keeps the {max(budget_ms, 0.0):.3g} ms that are left: "
            f"this is the fastest, and needs {planned_ms[best]:.3g} ms"
        )
    return Choice(
        variant=best,
        p_right=p_right[best],
        expected_ms=latency_mean_ms[best],
        planned_ms=planned_ms[best],
        fits=bool(fitting),
        why=why,
    )


def _best(
    fitting: list[str], p_right: Mapping[str, float], planned_ms: Mapping[str, float], objective: Objective
) -> tuple[str, str]:
    sure_enough = [name for name in fitting if p_right[name] >= objective.wanted_accuracy]
    if objective.goal == "latency" and sure_enough:
        return min(sure_enough, key=planned_ms.__getitem__), "the fastest that is right often enough"
    best = max(fitting, key=lambda name: (p_right[name], -planned_ms[name]))
    return best, "the most likely right within the budget"
