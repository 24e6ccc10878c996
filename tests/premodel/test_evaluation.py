"""How good the choices are, on tables small enough to do by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from premodel.evaluation import BudgetReport, Costs, apgr, bootstrap_interval, planned_ms, random_mix, report_budget
from premodel.policy import Objective

Array = np.ndarray[Any, Any]
OBJECTIVE = Objective()


def array(values: str) -> Array:
    """Whether each of some inputs was answered rightly, such as ``"1101"``."""
    return np.array([value == "1" for value in values])


def costs(*mean_ms: float, premodel_ms: float = 0.0, std_ms: float = 0.0) -> Costs:
    names = tuple("abcdef"[: len(mean_ms)])
    return Costs(
        variants=names,
        mean_ms=dict(zip(names, mean_ms, strict=True)),
        variance=dict.fromkeys(names, std_ms**2),
        premodel_ms=premodel_ms,
    )


def report(correct: Array, p_right: Array, costs: Costs, budget_ms: float) -> BudgetReport:
    table = dict(zip(costs.variants, correct.mean(axis=0).tolist(), strict=True))
    return report_budget(correct, p_right.astype(float), table, costs, budget_ms, OBJECTIVE)


# --- APGR ---


def test_apgr_of_a_hand_case() -> None:
    weak, strong = array("0011"), array("1111")
    perfect, worst = np.array([4.0, 3, 2, 1]), np.array([1.0, 2, 3, 4])
    # The gain by the share of strong calls is 0, ¼, ½, ½, ½ of the inputs, or 0, 0, 0, ¼, ½; the gap is ½.
    assert apgr(weak, strong, perfect) == pytest.approx(0.75)
    assert apgr(weak, strong, worst) == pytest.approx(0.25)


def test_apgr_with_no_preference_goes_by_the_order_of_the_inputs() -> None:
    assert apgr(array("0011"), array("1111"), np.zeros(4)) == pytest.approx(0.75)
    assert apgr(array("0101"), array("1111"), np.zeros(4)) == pytest.approx(0.625)


def test_apgr_counts_what_only_the_weak_variant_gets_right() -> None:
    weak, strong = array("100"), array("011")
    # Sending the second and third input first gains ⅓ and ⅔, more than the strong variant alone.
    assert apgr(weak, strong, np.array([0.0, 1, 1])) == pytest.approx((1 / 3 + 2 / 3 + 1 / 6) / 3 / (1 / 3))


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1))
def test_apgr_of_a_perfect_preference_beats_every_other(seed: int) -> None:
    generator = np.random.default_rng(seed)
    weak, strong = generator.random(40) < 0.6, generator.random(40) < 0.8
    perfect = apgr(weak, strong, strong.astype(float) - weak)
    if strong.mean() <= weak.mean():
        assert perfect is None
        return
    other = apgr(weak, strong, generator.random(40))
    assert perfect is not None
    assert other is not None
    assert perfect > 0.5
    assert perfect >= other - 1e-9


def test_apgr_of_a_random_preference_is_a_half_on_average() -> None:
    generator = np.random.default_rng(0)
    weak, strong = generator.random(200) < 0.5, generator.random(200) < 0.9
    drawn = [apgr(weak, strong, generator.random(200)) for _ in range(300)]
    assert np.mean([value for value in drawn if value is not None]) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("strong", ["0011", "0001"])
def test_there_is_no_gap_to_recover_where_the_strong_variant_is_no_better(strong: str) -> None:
    assert apgr(array("0011"), array(strong), np.arange(4.0)) is None


# --- random mix ---

HULL_ACCURACY, HULL_MS = np.array([0.5, 0.6, 0.9, 0.7]), np.array([1.0, 2.0, 3.0, 4.0])
"""The second variant lies under the line from the first to the third, and the fourth is dominated."""


@pytest.mark.parametrize(
    ("at_ms", "accuracy"), [(1.0, 0.5), (1.5, 0.6), (2.0, 0.7), (2.5, 0.8), (3.0, 0.9), (3.5, 0.9), (9.0, 0.9)]
)
def test_the_random_mix_follows_the_upper_hull(at_ms: float, accuracy: float) -> None:
    mix = random_mix(HULL_ACCURACY, HULL_ACCURACY, HULL_MS, at_ms)
    assert mix.accuracy == pytest.approx(accuracy)
    assert mix.mean_ms == min(at_ms, 3.0)


def test_the_random_mix_below_the_fastest_variant_is_that_variant_at_its_own_latency() -> None:
    mix = random_mix(HULL_ACCURACY, HULL_ACCURACY, HULL_MS, 0.5)
    assert (mix.accuracy, mix.mean_ms) == (0.5, 1.0)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 10)), min_size=1, max_size=6),
    st.floats(0.1, 12),
    st.floats(0.1, 12),
)
def test_a_slower_random_mix_is_never_worse(
    variants: list[tuple[float, float]], one_ms: float, other_ms: float
) -> None:
    accuracy, mean_ms = map(np.array, zip(*variants, strict=True))
    faster, slower = sorted([one_ms, other_ms])
    if faster >= mean_ms.min():
        fast, slow = (random_mix(accuracy, accuracy, mean_ms, at_ms).accuracy for at_ms in (faster, slower))
        assert slow >= fast - 1e-9


def test_the_random_mix_is_picked_on_other_inputs_than_it_is_scored_on() -> None:
    mix = random_mix(np.array([0.9, 0.5]), np.array([0.6, 1.0]), np.array([1.0, 2.0]), 2.0)
    assert (mix.accuracy, mix.mean_ms) == (0.6, 1.0)


# --- the report of one budget ---

CORRECT = np.array([[1, 1], [1, 1], [0, 1], [1, 0]], bool)
"""Four inputs, a fast variant and a slow one, each right thrice."""


def test_a_premodel_that_knows_is_as_right_as_the_oracle_and_pays_for_itself() -> None:
    made = report(CORRECT, CORRECT, costs(1.0, 3.0, premodel_ms=0.5), budget_ms=10)
    assert made.premodel.accuracy == made.oracle.accuracy == 1.0
    assert made.static_best.accuracy == 0.75
    assert made.static_best.mean_ms == 1.0
    assert made.chosen == {"a": 3, "b": 1}
    assert made.premodel.mean_ms == pytest.approx((1 + 1 + 3 + 1) / 4 + 0.5)
    assert made.oracle.mean_ms == pytest.approx((1 + 1 + 3 + 1) / 4)
    assert made.gain == pytest.approx(0.25)


def test_the_premodel_can_spend_only_what_it_leaves_of_the_budget() -> None:
    made = report(CORRECT, np.array([[0.0, 1.0]] * 4), costs(1.0, 3.0, premodel_ms=0.5), budget_ms=3.4)
    assert made.chosen == {"a": 4}  # the slow variant fits alone, and no longer after the premodel
    assert made.static_best.mean_ms == 1.0
    assert made.oracle.accuracy == 1.0


def test_a_premodel_that_knows_nothing_gains_nothing() -> None:
    made = report(CORRECT, np.full((4, 2), 0.5), costs(1.0, 3.0), budget_ms=10)
    assert made.gain == 0
    assert made.gain_interval == (0, 0)
    assert made.premodel == made.static_best


def test_only_variants_that_keep_the_budget_are_mixed() -> None:
    correct = np.array([[0, 1], [0, 1], [1, 1], [1, 1]], bool)
    knowing = np.array([[0.1, 0.9]] * 4)
    assert report(correct, knowing, costs(1.0, 3.0), budget_ms=2).random_mix.accuracy == 0.5
    assert report(correct, knowing, costs(1.0, 3.0), budget_ms=3).random_mix.accuracy == 1.0


def test_under_a_budget_that_no_variant_keeps_all_ways_serve_the_fastest() -> None:
    made = report(CORRECT, CORRECT, costs(1.0, 3.0), budget_ms=0.5)
    assert made.chosen == {"a": 4}
    assert made.premodel == made.static_best == made.random_mix
    assert made.oracle.accuracy == 0.75


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1.0, 8.0), st.floats(0, 0.5), st.floats(0, 1))
def test_nothing_beats_the_oracle_under_the_same_budget(
    seed: int, budget_ms: float, premodel_ms: float, std_ms: float
) -> None:
    generator = np.random.default_rng(seed)
    correct = generator.random((12, 4)) < 0.7
    charged = costs(*generator.uniform(0.1, 0.5, 1), *generator.uniform(0.5, 6, 3), premodel_ms=premodel_ms)
    charged = charged._replace(variance=dict.fromkeys(charged.variants, std_ms**2 / 100))
    made = report(correct, generator.random((12, 4)), charged, budget_ms)
    assert made.oracle.accuracy >= made.static_best.accuracy
    assert made.oracle.accuracy >= made.premodel.accuracy
    assert sum(made.chosen.values()) == 12


def test_a_variant_is_planned_at_the_quantile_that_the_objective_wants() -> None:
    assert planned_ms(costs(2.0, std_ms=1.0), "a", Objective(confidence=0.5)) == pytest.approx(2.0)
    assert planned_ms(costs(2.0, std_ms=1.0), "a", Objective(confidence=0.95)) == pytest.approx(3.645, abs=1e-3)


# --- the bootstrap ---


@given(st.lists(st.sampled_from([-1.0, 0.0, 1.0]), min_size=5, max_size=60))
@settings(max_examples=40, deadline=None)
def test_the_interval_covers_the_mean_and_is_the_same_every_time(values: list[float]) -> None:
    differences = np.array(values)
    low, high = bootstrap_interval(differences)
    assert low <= differences.mean() <= high
    assert bootstrap_interval(differences) == (low, high)


def test_the_interval_is_as_wide_as_the_normal_approximation_has_it() -> None:
    differences = np.random.default_rng(1).choice([-1.0, 0.0, 1.0], size=400, p=[0.1, 0.7, 0.2])
    low, high = bootstrap_interval(differences)
    half_width = 1.96 * differences.std() / math.sqrt(400)
    assert (high - low) / 2 == pytest.approx(half_width, rel=0.1)


def test_pairs_without_difference_leave_no_doubt() -> None:
    assert bootstrap_interval(np.zeros(20)) == (0.0, 0.0)
