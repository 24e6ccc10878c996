"""The best option of each layer within a limit: as good as trying all of them, and quickly."""

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

from zoo.lowrank import selection
from zoo.lowrank.selection import Options, select, undominated

Numbers = npt.NDArray[np.float64]

WHOLE_NUMBERS = st.integers(0, 12).map(float)
ANY = st.floats(2**-10, 100, width=32) | WHOLE_NUMBERS
WORTHS = st.floats(-20, -(2**-10), width=32) | st.integers(-5, 0).map(float)


def layers_of(costs: st.SearchStrategy[float]) -> st.SearchStrategy[list[Options]]:
    option = st.tuples(WORTHS, costs)
    return st.lists(st.lists(option, min_size=1, max_size=6), min_size=1, max_size=5).map(
        lambda layers: [Options(*np.array(layer, float).T) for layer in layers]
    )


def all_choices(layers: list[Options]) -> tuple[Numbers, Numbers]:
    """Worth and cost of every choice there is."""
    worth, cost = (
        np.array([sum(choice) for choice in itertools.product(*sums)])
        for sums in ([layer.worth for layer in layers], [layer.cost for layer in layers])
    )
    return worth, cost


def check_best(layers: list[Options], limit: float) -> None:
    worth, cost = all_choices(layers)
    choice = select(layers, limit)
    if cost.min() > limit:
        assert choice is None
        return
    assert choice is not None
    assert choice.cost <= limit * (1 + 1e-12)
    assert choice.worth == pytest.approx(worth[cost <= limit].max(), rel=1e-9, abs=1e-9)
    chosen = list(zip(layers, choice.chosen, strict=True))
    assert choice.worth == pytest.approx(sum(layer.worth[option] for layer, option in chosen))
    assert choice.cost == pytest.approx(sum(layer.cost[option] for layer, option in chosen))


@given(layers=layers_of(WHOLE_NUMBERS), limit=st.integers(0, 60))
@settings(max_examples=100, deadline=None)
def test_a_choice_is_the_best_of_all_with_whole_numbers_and_ties(layers: list[Options], limit: int) -> None:
    check_best(layers, float(limit))


@given(layers=layers_of(ANY), part=st.floats(0, 1.2))
@settings(max_examples=100, deadline=None)
def test_a_choice_is_the_best_of_all_with_any_costs(layers: list[Options], part: float) -> None:
    least, most = (sum(float(end(layer.cost)) for layer in layers) for end in (np.min, np.max))
    check_best(layers, least + part * (most - least))


@given(layers=layers_of(ANY), data=st.data())
@settings(max_examples=50, deadline=None)
def test_what_costs_exactly_the_limit_is_within(layers: list[Options], data: st.DataObject) -> None:
    check_best(layers, float(data.draw(st.sampled_from(all_choices(layers)[1].tolist()))))


@given(seed=st.integers(0, 1000), part=st.floats(0, 1))
@settings(max_examples=60, deadline=None)
def test_smooth_curves_as_spectra_have_them(seed: int, part: float) -> None:
    random = np.random.default_rng(seed)
    layers = []
    for _ in range(3):
        energy = np.sort(random.random(20))[::-1].cumsum()
        layers.append(Options(np.log(energy / energy[-1]), random.integers(1, 9) * np.arange(1.0, 21)))
    most = sum(float(layer.cost.max()) for layer in layers)
    check_best(layers, part * most)


def test_with_nothing_to_gain_by_cost_the_cheapest_is_chosen() -> None:
    choice = select([Options(np.zeros(3), np.array([3.0, 1.0, 2.0]))] * 2, 10.0)
    assert choice == ((1, 1), 0.0, 2.0)


def test_no_limit_that_matters_takes_the_best_of_each() -> None:
    layer = Options(np.array([-1.0, 0.0, -2.0]), np.array([5.0, 9.0, 1.0]))
    assert select([layer] * 3, 1e9) == ((1, 1, 1), 0.0, 27.0)


def test_where_the_cheapest_cost_too_much_there_is_no_choice() -> None:
    assert select([Options(np.array([0.0]), np.array([5.0]))] * 3, 14.999) is None


def test_the_greedy_choice_is_not_taken_where_another_is_better() -> None:
    one = Options(np.array([0.0, 10.0, 12.0]), np.array([0.0, 5.0, 9.0]))
    other = Options(np.array([0.0, 6.0]), np.array([0.0, 4.0]))
    assert select([one, other], 9.0) == ((1, 1), 16.0, 9.0)
    assert select([one, other], 8.0) == ((1, 0), 10.0, 5.0)


@given(options=st.lists(st.tuples(WHOLE_NUMBERS, WHOLE_NUMBERS), max_size=12))
def test_what_is_undominated_has_nothing_better_and_as_cheap(options: list[tuple[float, float]]) -> None:
    worth, cost = np.array(options, float).reshape(-1, 2).T
    stay = undominated(worth, cost)
    assert (np.diff(worth[stay]) > 0).all()
    assert (np.diff(cost[stay]) > 0).all()
    for one in range(len(options)):
        assert any(worth[place] >= worth[one] and cost[place] <= cost[one] for place in stay)


CHILD = Path(__file__).with_name("selection_child.py")


@pytest.mark.parametrize("spectrum", ["flat", "exponential", "power", "random"])
def test_a_network_like_vgg_16_takes_less_than_a_second_and_200_mb(spectrum: str) -> None:
    done = subprocess.run(
        [sys.executable, str(CHILD), selection.__file__, spectrum],
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
