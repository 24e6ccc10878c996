"""The one rule, held against brute force."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetfoot.errors import BudgetError, UsageError
from premodel.policy import Choice, Objective, check_budget, choose

ACCURACY = Objective()


class Table(NamedTuple):
    """What ``choose`` goes by, and each variant's latency as it is planned."""

    p_right: dict[str, float]
    mean_ms: dict[str, float]
    variance: dict[str, float]

    def planned_ms(self, variant: str, deviations: float) -> float:
        return self.mean_ms[variant] + deviations * math.sqrt(self.variance[variant])

    def choose(self, budget_ms: float, objective: Objective = ACCURACY) -> Choice:
        return choose(self.p_right, self.mean_ms, self.variance, budget_ms, objective)


# Few distinct values, so that ties are common.
probabilities = st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0]) | st.floats(0, 1)
latencies = st.sampled_from([1.0, 2.0, 5.0]) | st.floats(0.01, 20)
variances = st.sampled_from([0.0, 1.0]) | st.floats(0, 9)
budgets = st.floats(0.01, 40)
confidences = st.floats(0.5, 0.999)


@st.composite
def tables(draw: st.DrawFn) -> Table:
    names = [f"v{number}" for number in range(draw(st.integers(1, 6)))]
    return Table(*({name: draw(values) for name in names} for values in (probabilities, latencies, variances)))


@given(tables(), budgets, confidences)
def test_for_accuracy_the_likeliest_right_of_those_that_fit_is_chosen(
    table: Table, budget_ms: float, confidence: float
) -> None:
    objective = Objective(confidence=confidence)
    planned = {name: table.planned_ms(name, objective.deviations) for name in table.p_right}
    choice = table.choose(budget_ms, objective)

    fitting = [name for name in planned if planned[name] <= budget_ms]
    assert choice.fits == bool(fitting)
    if fitting:
        assert choice.p_right == max(table.p_right[name] for name in fitting)
        equally_likely = [name for name in fitting if table.p_right[name] == choice.p_right]
        assert planned[choice.variant] == min(planned[name] for name in equally_likely)
    else:
        assert planned[choice.variant] == min(planned.values())


@given(tables(), budgets, st.floats(0, 1))
def test_for_latency_the_fastest_that_is_right_often_enough_is_chosen(
    table: Table, budget_ms: float, wanted: float
) -> None:
    objective = Objective(goal="latency", wanted_accuracy=wanted)
    planned = {name: table.planned_ms(name, objective.deviations) for name in table.p_right}
    choice = table.choose(budget_ms, objective)

    sure_enough = [name for name in planned if planned[name] <= budget_ms and table.p_right[name] >= wanted]
    if sure_enough:
        assert choice.p_right >= wanted
        assert planned[choice.variant] == min(planned[name] for name in sure_enough)
    else:
        assert choice.variant == table.choose(budget_ms).variant


@given(tables(), budgets, budgets, st.sampled_from(["accuracy", "latency"]), st.floats(0, 1))
def test_a_larger_budget_never_lowers_the_chosen_probability(
    table: Table, one_ms: float, other_ms: float, goal: Any, wanted: float
) -> None:
    objective = Objective(goal=goal, wanted_accuracy=wanted)
    small, large = sorted([one_ms, other_ms])
    assert table.choose(small, objective).p_right <= table.choose(large, objective).p_right


@given(tables(), budgets)
def test_a_choice_reports_the_table_it_was_made_from(table: Table, budget_ms: float) -> None:
    choice = table.choose(budget_ms)
    assert choice.p_right == table.p_right[choice.variant]
    assert choice.expected_ms == table.mean_ms[choice.variant]
    assert choice.why


def test_ties_in_accuracy_go_to_the_faster() -> None:
    table = Table({"slow": 0.9, "fast": 0.9}, {"slow": 3.0, "fast": 2.0}, {"slow": 0.0, "fast": 0.0})
    assert table.choose(10).variant == "fast"


def test_when_nothing_fits_the_fastest_serves_and_says_what_it_needs() -> None:
    table = Table({"slow": 0.9, "fast": 0.1}, {"slow": 8.0, "fast": 4.0}, {"slow": 0.0, "fast": 0.0})
    choice = table.choose(1)
    assert choice.variant == "fast"
    assert not choice.fits
    assert "no variant keeps the 1 ms" in choice.why
    assert "needs 4 ms" in choice.why


def test_a_budget_overdrawn_already_is_told_as_nothing_left() -> None:
    table = Table({"only": 0.9}, {"only": 4.0}, {"only": 0.0})
    assert "the 0 ms that are left" in table.choose(-0.5).why


def test_a_latency_that_varies_is_planned_above_its_mean() -> None:
    table = Table({"steady": 0.5, "wild": 0.9}, {"steady": 5.0, "wild": 5.0}, {"steady": 0.0, "wild": 1.0})
    assert table.choose(6.6).variant == "steady"  # the 95th percentile of the wild one is 6.64 ms
    assert table.choose(6.7).variant == "wild"
    assert table.choose(5.1, Objective(confidence=0.5)).variant == "wild"


@pytest.mark.parametrize("budget", [1, 0.25, np.float64(8), math.inf])
def test_a_budget_is_any_positive_number_of_milliseconds(budget: float) -> None:
    assert check_budget(budget) == budget
    assert type(check_budget(budget)) is float


@pytest.mark.parametrize("budget", [math.nan, 0, 0.0, -0.0, -1, -math.inf, True, False, "8", None, [8], 8j])
def test_anything_else_is_no_budget(budget: Any) -> None:
    with pytest.raises(BudgetError, match=r"^a budget is a (positive )?number of milliseconds, not "):
        check_budget(budget)


def test_a_number_too_large_for_a_float_is_no_budget() -> None:
    with pytest.raises(BudgetError):
        check_budget(10**400)


@pytest.mark.parametrize("number", [np.float32(8), np.int64(8), np.uint8(8)])
def test_numbers_of_numpy_are_budgets_too(number: Any) -> None:
    assert check_budget(number) == 8.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"goal": "speed"}, "the goal is 'accuracy' or 'latency', not 'speed'"),
        ({"wanted_accuracy": 1.5}, "a wanted accuracy is from 0 to 1"),
        ({"wanted_accuracy": -0.1}, "a wanted accuracy is from 0 to 1"),
        ({"wanted_accuracy": math.nan}, "a wanted accuracy is from 0 to 1"),
        ({"confidence": 0}, "a confidence is between 0 and 1"),
        ({"confidence": 1}, "a confidence is between 0 and 1"),
        ({"confidence": math.nan}, "a confidence is between 0 and 1"),
    ],
)
def test_an_objective_that_cannot_be_meant_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Objective(**fields)


def test_an_objective_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        ACCURACY.goal = "latency"  # type: ignore[misc]
