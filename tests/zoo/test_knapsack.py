"""The best choices within a limit: as good as trying all of them, with a bound that holds, and quickly."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo import knapsack
from zoo.knapsack import Term, cheapest, largest_table, solve, undominated

Numbers = npt.NDArray[np.float64]
Problem = tuple[list[Numbers], list[Term]]

WHOLE_NUMBERS = st.integers(0, 12).map(float)


def made(seed: int, *, whole: bool, most: int = 4, apart: bool = False) -> Problem:
    """A random problem: some variables, terms over one to three of them, ties, and choices that do not go together."""
    random = np.random.default_rng(seed)
    sizes = random.integers(1, most + 1, random.integers(1, 6))
    worth = [np.sort(random.integers(-5, 6, size) if whole else random.normal(size=size)) * 1.0 for size in sizes]
    terms = []
    for _ in range(random.integers(1, 7)):
        count = 1 if apart else min(len(sizes), random.integers(1, 4))
        on = tuple(int(variable) for variable in random.permutation(len(sizes))[:count])
        shape = [sizes[variable] for variable in on]
        cost = random.integers(0, 20, shape) * 1.0 if whole else random.uniform(0, 20, shape)
        terms.append(Term(on, np.where(random.random(shape) < 0.1, np.inf, cost)))
    return worth, terms


def all_choices(problem: Problem) -> tuple[Numbers, Numbers]:
    """Worth and cost of every choice there is."""
    worth, terms = problem
    choices = list(itertools.product(*(range(len(own)) for own in worth)))
    worths = [sum(own[option] for own, option in zip(worth, choice, strict=True)) for choice in choices]
    costs = [sum(term.cost[tuple(choice[variable] for variable in term.on)] for term in terms) for choice in choices]
    return np.array(worths, float), np.array(costs, float)


def check_best(problem: Problem, limit: float) -> None:
    worths, costs = all_choices(problem)
    choice = solve(*problem, limit)
    if costs.min() > limit:
        assert choice is None
        return
    assert choice is not None
    best = worths[costs <= limit].max()
    assert choice.cost <= limit
    assert choice.worth == pytest.approx(best, rel=1e-9, abs=1e-9)
    assert choice.gap == 0
    worth, terms = problem
    assert choice.worth == pytest.approx(sum(own[at] for own, at in zip(worth, choice.chosen, strict=True)))
    chosen = (term.cost[tuple(choice.chosen[variable] for variable in term.on)] for term in terms)
    assert choice.cost == pytest.approx(sum(chosen))


@given(seed=st.integers(0, 10**6), limit=st.integers(0, 60), apart=st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_choice_is_the_best_of_all_with_whole_numbers_and_ties(seed: int, limit: int, apart: bool) -> None:
    check_best(made(seed, whole=True, apart=apart), float(limit))


@given(seed=st.integers(0, 10**6), limit=st.floats(0, 60), apart=st.booleans())
@settings(max_examples=100, deadline=None)
def test_a_choice_is_the_best_of_all_with_any_costs(seed: int, limit: float, apart: bool) -> None:
    check_best(made(seed, whole=False, apart=apart), limit)


@given(seed=st.integers(0, 10**6), data=st.data())
@settings(max_examples=50, deadline=None)
def test_what_costs_exactly_the_limit_is_within(seed: int, data: st.DataObject) -> None:
    problem = made(seed, whole=True)
    costs = all_choices(problem)[1]
    if np.isfinite(costs).any():
        check_best(problem, float(data.draw(st.sampled_from(costs[np.isfinite(costs)].tolist()))))


@given(seed=st.integers(0, 10**6), limit=st.floats(0, 60), most=st.integers(1, 3))
@settings(max_examples=100, deadline=None)
def test_a_bound_holds_where_not_all_is_searched(seed: int, limit: float, most: int) -> None:
    problem = made(seed, whole=False, most=8)
    worths, costs = all_choices(problem)
    choice = solve(*problem, limit, most=most)
    if choice is None:
        assert costs.min() > limit
        return
    best = worths[costs <= limit].max()
    assert choice.worth <= best + 1e-9
    assert choice.bound >= best - 1e-9


@given(seed=st.integers(0, 10**6))
@settings(max_examples=20, deadline=None)
def test_a_bound_holds_when_there_is_no_time(seed: int) -> None:
    problem = made(seed, whole=False, most=8)
    worths, costs = all_choices(problem)
    choice = solve(*problem, 30.0, seconds=0.0)
    if choice is not None:
        assert choice.worth <= worths[costs <= 30].max() + 1e-9
        assert choice.bound >= worths[costs <= 30].max() - 1e-9


@given(seed=st.integers(0, 1000), part=st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_many_choices_of_a_few_variables(seed: int, part: float) -> None:
    """More partial choices than are completed on the way, so that the last step has to look at all."""
    random = np.random.default_rng(seed)
    worth = [np.sort(random.exponential(size=60))[::-1].cumsum() for _ in range(3)]
    price = [float(random.integers(1, 9)) for _ in range(3)]
    terms = [Term((variable,), price[variable] * np.arange(1.0, 61)) for variable in range(3)]
    limit = sum(price) + part * 59 * sum(price)
    worths = worth[0][:, None, None] + worth[1][:, None] + worth[2]
    costs = terms[0].cost[:, None, None] + terms[1].cost[:, None] + terms[2].cost
    choice = solve(worth, terms, limit)
    assert choice is not None
    assert choice.worth == pytest.approx(worths[costs <= limit].max())
    assert choice.gap == 0


def test_products_of_widths_along_a_chain_are_solved_exactly_and_soon() -> None:
    """As many channels and blocks as the keyword network DS-CNN S has, at steps of a single channel."""
    random = np.random.default_rng(0)
    widths = np.arange(1.0, 65)
    worth = [np.sort(random.exponential(size=64))[::-1].cumsum() for _ in range(5)]
    terms = [Term((0,), 40 * widths), *(Term((block,), 9 * widths) for block in range(4))]
    terms += [Term((block, block + 1), np.outer(widths, widths)) for block in range(4)]
    whole = sum(float(term.cost.max()) for term in terms)
    for share in (0.75, 0.5, 0.25, 0.1):
        choice = solve(worth, terms, share * whole, seconds=10)
        assert choice is not None
        assert choice.gap == 0
        assert 0.98 * share * whole < choice.cost <= share * whole


@given(seed=st.integers(0, 10**6))
@settings(max_examples=30, deadline=None)
def test_the_cheapest_costs_least_of_all(seed: int) -> None:
    problem = made(seed, whole=True)
    costs = all_choices(problem)[1]
    assert cheapest(*problem).cost == costs.min()


def test_the_largest_table_is_over_what_hangs_together() -> None:
    assert set(largest_table([4, 9, 2, 3], [(0,), (0, 1), (2, 3)])) == {0, 1}
    assert set(largest_table([4, 3, 2, 3], [(0, 1), (1, 2), (2, 3), (3, 0)])) in ({0, 1, 3}, {1, 2, 3}, {0, 1, 2})


def test_with_nothing_to_gain_by_cost_the_cheapest_is_chosen() -> None:
    term = np.array([3.0, 1.0, 2.0])
    choice = solve([np.zeros(3)] * 2, [Term((0,), term), Term((1,), term)], 10.0)
    assert choice == ((1, 1), 0.0, 2.0, 0.0)


def test_no_limit_that_matters_takes_the_best_of_each() -> None:
    term = np.array([5.0, 9.0, 1.0])
    choice = solve([np.array([-1.0, 0.0, -2.0])] * 3, [Term((variable,), term) for variable in range(3)], 1e9)
    assert choice == ((1, 1, 1), 0.0, 27.0, 0.0)


def test_the_greedy_choice_is_not_taken_where_another_is_better() -> None:
    worth = [np.array([0.0, 10.0, 12.0]), np.array([0.0, 6.0])]
    terms = [Term((0,), np.array([0.0, 5.0, 9.0])), Term((1,), np.array([0.0, 4.0]))]
    assert solve(worth, terms, 9.0) == ((1, 1), 16.0, 9.0, 16.0)
    assert solve(worth, terms, 8.0) == ((1, 0), 10.0, 5.0, 10.0)


@given(options=st.lists(st.tuples(WHOLE_NUMBERS, WHOLE_NUMBERS, st.integers(0, 2)), max_size=12))
def test_what_is_undominated_has_nothing_better_and_as_cheap(options: list[tuple[float, float, int]]) -> None:
    worth, cost, key = np.array(options, float).reshape(-1, 3).T
    stay = undominated(worth, cost, key.astype(np.int64))
    for one in range(len(options)):
        beaten = [
            place
            for place in stay
            if key[place] == key[one] and worth[place] >= worth[one] and cost[place] <= cost[one]
        ]
        assert beaten == [one] if one in stay else beaten


CHILD = Path(__file__).with_name("knapsack_child.py")


@pytest.mark.parametrize("spectrum", ["flat", "exponential", "power", "random"])
def test_a_network_like_vgg_16_takes_less_than_a_second_and_200_mb(spectrum: str) -> None:
    done = subprocess.run(
        [sys.executable, str(CHILD), knapsack.__file__, spectrum],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    measured = json.loads(done.stdout)
    assert measured["layers"] == 16
    assert measured["most_options"] == 4097
    assert measured["found"] == measured["asked"]
    assert measured["seconds"] < 1
    assert measured["megabytes"] < 200
