"""How good the choices are, on recorded outcomes, beside the lines that are easy to draw without a premodel."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from premodel.policy import Objective, choose

_RESAMPLES = 2000

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class Costs(NamedTuple):
    """Latencies on one device: per variant their means and variances, and the mean cost of the premodel."""

    variants: tuple[str, ...]
    mean_ms: dict[str, float]
    variance: dict[str, float]
    premodel_ms: float

    def means(self) -> Floats:
        """The variants' mean latencies, in their order."""
        return np.array([self.mean_ms[name] for name in self.variants])


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """Accuracy and mean latency, premodel included, of one way to choose."""

    accuracy: float
    mean_ms: float


class BudgetReport(msgspec.Struct, frozen=True, kw_only=True):
    """What each way to choose achieves under one budget, on the same inputs.

    ``gain`` is the premodel's accuracy minus the static best's, with its paired 95 % bootstrap interval;
    ``chosen`` counts the premodel's choices.
    """

    budget_ms: float
    static_best: Line
    random_mix: Line
    premodel: Line
    oracle: Line
    gain: float
    gain_interval: tuple[float, float]
    chosen: dict[str, int]


def report_budget(
    correct: Bools,
    p_right: Floats,
    table: dict[str, float],
    costs: Costs,
    budget_ms: float,
    objective: Objective,
) -> BudgetReport:
    """Compares the ways to choose under one budget.

    Args:
        correct: whether each variant is right, of shape (inputs, variants).
        p_right: the premodel's probabilities, of the same shape.
        table: the accuracy of each variant on inputs that are not these; the static best goes by it.
        costs: latencies on the device.
        budget_ms: the budget of every input.
        objective: what is wanted within it.
    """
    index = {name: position for position, name in enumerate(costs.variants)}
    means, known = costs.means(), np.array([table[name] for name in costs.variants])
    fitting = np.array([planned_ms(costs, name, objective) <= budget_ms for name in costs.variants])
    if not fitting.any():
        fitting[means.argmin()] = True  # the fastest serves, late

    static = index[choose(table, costs.mean_ms, costs.variance, budget_ms, objective).variant]
    chosen, asking_ms = _served(p_right, static, costs, budget_ms, objective)
    right = correct[np.arange(len(correct)), chosen]
    premodel = Line(accuracy=float(right.mean()), mean_ms=float(means[chosen].mean()) + asking_ms)
    difference = right.astype(float) - correct[:, static]
    return BudgetReport(
        budget_ms=budget_ms,
        static_best=Line(accuracy=float(correct[:, static].mean()), mean_ms=float(means[static])),
        random_mix=random_mix(known[fitting], correct[:, fitting].mean(axis=0), means[fitting], premodel.mean_ms),
        premodel=premodel,
        oracle=_oracle(correct, costs, budget_ms, objective),
        gain=float(difference.mean()),
        gain_interval=bootstrap_interval(difference),
        chosen={costs.variants[position]: int(count) for position, count in sorted(Counter(chosen.tolist()).items())},
    )


def _served(
    p_right: Floats, static: int, costs: Costs, budget_ms: float, objective: Objective
) -> tuple[npt.NDArray[np.intp], float]:
    """The variant that the service runs for each input, and the milliseconds that it spends on asking first.

    It asks the premodel only where some variant still keeps the budget after that, and else goes by the table.
    """
    left_ms = budget_ms - costs.premodel_ms
    if all(planned_ms(costs, name, objective) > left_ms for name in costs.variants):
        return np.full(len(p_right), static), 0.0
    chosen = [
        choose(dict(zip(costs.variants, row, strict=True)), costs.mean_ms, costs.variance, left_ms, objective).variant
        for row in p_right.tolist()
    ]
    index = {name: position for position, name in enumerate(costs.variants)}
    return np.array([index[name] for name in chosen]), costs.premodel_ms


def random_mix(known: Floats, accuracy: Floats, mean_ms: Floats, at_ms: float) -> Line:
    """The best coin between two variants that takes at most ``at_ms`` on average.

    Args:
        known: accuracies on inputs that are not these, by which the two are picked.
        accuracy: accuracies on these inputs, which the coin gets.
        mean_ms: mean latencies.
        at_ms: the mean latency to match; if nothing is that fast, the fastest is the line.
    """
    best = int(mean_ms.argmin())
    fast, slow, share = best, best, 0.0
    for one in np.flatnonzero(mean_ms <= at_ms).tolist():
        for other in np.flatnonzero(mean_ms >= mean_ms[one]).tolist():
            span = mean_ms[other] - mean_ms[one]
            reached = 1.0 if span == 0 else min(1.0, float((at_ms - mean_ms[one]) / span))
            if _mixed(known, one, other, reached) > _mixed(known, fast, slow, share):
                fast, slow, share = one, other, reached
    return Line(accuracy=_mixed(accuracy, fast, slow, share), mean_ms=_mixed(mean_ms, fast, slow, share))


def _mixed(values: Floats, one: int, other: int, share: float) -> float:
    return float((1 - share) * values[one] + share * values[other])


def apgr(weak: Bools, strong: Bools, preference: Floats) -> float | None:
    """Average performance gap recovered, when ever more inputs go to the strong variant, most preferred first.

    Ong et al., "RouteLLM", 2024: the area between the accuracy curve and the weak variant's, over the same
    area for the strong one; 0.5 is random. None where the strong variant is not the better one.
    """
    gap = strong.mean() - weak.mean()
    if gap <= 0:
        return None
    order = np.argsort(-preference, kind="stable")
    gained = np.concatenate([[0.0], np.cumsum(strong[order].astype(float) - weak[order])]) / len(weak)
    return float(np.trapezoid(gained, dx=1 / len(weak)) / gap)


def bootstrap_interval(differences: Floats) -> tuple[float, float]:
    """95 % interval of the mean of paired differences, by the percentiles of resampled means."""
    drawn = np.random.default_rng(0).choice(differences, size=(_RESAMPLES, len(differences)))
    low, high = np.percentile(drawn.mean(axis=1), [2.5, 97.5])
    return float(low), float(high)


def planned_ms(costs: Costs, variant: str, objective: Objective) -> float:
    """The latency that a variant needs to be granted."""
    return costs.mean_ms[variant] + objective.deviations * float(np.sqrt(costs.variance[variant]))


def _oracle(correct: Bools, costs: Costs, budget_ms: float, objective: Objective) -> Line:
    """Per input the fastest variant that is right and keeps the budget; where none is, the fastest."""
    means = costs.means()
    accuracy, spent = [], []
    for row in correct:
        knows = {name: float(right) for name, right in zip(costs.variants, row, strict=True)}
        wanted = Objective(goal="latency", wanted_accuracy=1.0, confidence=objective.confidence)
        choice = choose(knows, costs.mean_ms, costs.variance, budget_ms, wanted)
        accuracy.append(choice.p_right)
        spent.append(choice.expected_ms if choice.p_right else means.min())
    return Line(accuracy=float(np.mean(accuracy)), mean_ms=float(np.mean(spent)))
