from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS, randomize

from fleetfoot.errors import ModelError, UsageError
from profiling.device import connected
from zoo.backend import keras
from zoo.channels import Counter, analyse, slice_model
from zoo.cost import count_macs
from zoo.importance import Values, importance
from zoo.pruning import (
    SCOPES,
    Scope,
    check_share,
    comparable,
    keep_best,
    priced,
    round_width,
    share_widths,
    width_grid,
    widths_within,
)

layers = keras.layers
every_scope = pytest.mark.parametrize("scope", SCOPES)


def wide() -> Any:
    inputs = keras.Input((8, 8, 3), name="input")
    x = layers.Conv2D(32, 3, activation="relu", name="a")(inputs)
    x = layers.Conv2D(64, 3, activation="relu", name="b")(x)
    x = layers.Conv2D(5, 1, activation="relu", name="narrow")(x)
    model = keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(x)))
    randomize(model, 0)
    return model


@st.composite
def problems(draw: st.DrawFn) -> tuple[dict[str, tuple[int, ...]], dict[str, Values]]:
    """Grids of one to four groups, and the importance of their channels."""
    grid, scores = {}, {}
    for name in "abcd"[: draw(st.integers(1, 4))]:
        size = draw(st.integers(1, 12))
        widths = draw(st.sets(st.integers(1, size), min_size=1))
        grid[name] = tuple(sorted({*widths, size}))
        scores[name] = np.array(draw(st.lists(st.floats(0, 9), min_size=size, max_size=size)))
    return grid, scores


def chain_cost(widths: Mapping[str, int]) -> float:
    """As in a chain of layers: the products of neighbouring widths."""
    return float(sum(one * two for one, two in itertools.pairwise([3, *widths.values(), 10])))


@pytest.mark.parametrize(
    ("width", "size", "rounded"), [(16, 32, 16), (17, 32, 16), (21, 32, 24), (1, 32, 8), (3, 5, 5), (40, 32, 32)]
)
def test_widths_are_rounded_to_what_runtimes_compute_at_once(width: float, size: int, rounded: int) -> None:
    assert round_width(width, size) == rounded


def test_the_grid_goes_from_an_eighth_to_all_channels_in_multiples() -> None:
    grid = width_grid(wide())
    assert grid == {"a": tuple(range(4, 33, 4)), "b": tuple(range(8, 65, 8)), "narrow": (4, 5)}
    assert width_grid(wide(), 8) == {"a": (8, 16, 24, 32), "b": tuple(range(8, 65, 8)), "narrow": (5,)}
    assert width_grid(wide(), 2)["a"] == tuple(range(4, 33, 2))


@pytest.mark.parametrize("ratio", [0, -0.5, 1.1, float("nan")])
def test_a_share_that_cannot_be_meant_is_refused(ratio: float) -> None:
    with pytest.raises(UsageError, match=f"keep ratio must be above 0 and at most 1, and {ratio:g} is not"):
        check_share(ratio)


def test_the_same_share_of_every_group_is_the_nearest_width() -> None:
    assert share_widths(width_grid(wide()), 0.5) == {"a": 16, "b": 32, "narrow": 4}
    assert share_widths(width_grid(wide()), 1) == {"a": 32, "b": 64, "narrow": 5}


@every_scope
@given(problem=problems(), share=st.floats(0.05, 1))
@settings(max_examples=100, deadline=None)
def test_chosen_widths_are_on_the_grid_and_within_the_limit(scope: Scope, problem: Any, share: float) -> None:
    grid, scores = problem
    whole = chain_cost({name: widths[-1] for name, widths in grid.items()})
    try:
        widths = widths_within(grid, scores, chain_cost, share, scope)
    except ModelError as error:
        least = chain_cost({name: widths[0] for name, widths in grid.items()}) / whole
        assert least > share
        assert f"the least possible is {math.ceil(1000 * least) / 1000:.3f}" in str(error)
        return
    assert chain_cost(widths) <= share * whole
    assert list(widths) == list(grid)
    assert all(width in grid[name] for name, width in widths.items())


@given(problem=problems(), share=st.floats(0.3, 1))
@settings(max_examples=100, deadline=None)
def test_nothing_that_was_cut_would_still_fit(problem: Any, share: float) -> None:
    grid, scores = problem
    limit = share * chain_cost({name: widths[-1] for name, widths in grid.items()})
    try:
        widths = widths_within(grid, scores, chain_cost, share)
    except ModelError:
        return
    for name, choices in grid.items():
        for width in choices:
            assert width <= widths[name] or chain_cost({**widths, name: width}) > limit


def test_what_matters_least_goes_first() -> None:
    grid = {"a": (2, 4, 6, 8), "b": (2, 4, 6, 8)}
    scores = {"a": np.full(8, 1.0), "b": np.full(8, 5.0)}
    assert widths_within(grid, scores, lambda widths: sum(widths.values()), 0.75) == {"a": 4, "b": 8}
    assert widths_within(grid, scores, lambda widths: sum(widths.values()), 0.75, "layer") == {"a": 6, "b": 6}


def test_a_stair_that_saves_nothing_is_skipped() -> None:
    def stairs(widths: Mapping[str, int]) -> float:
        return 10 * -(-widths["a"] // 16) + widths["b"]

    scores = {"a": np.full(32, 0.01), "b": np.full(8, 1.0)}
    grid = {"a": (8, 16, 24, 32), "b": (2, 4, 6, 8)}
    assert widths_within(grid, scores, stairs, 18 / 28) == {"a": 16, "b": 8}


def test_the_most_important_channels_stay_in_their_order() -> None:
    scores = {"a": np.array([5.0, 1.0, 4.0, 2.0]), "b": np.array([1.0, 2.0])}
    assert keep_best(scores, {"a": 2, "b": 2}) == {"a": (0, 2)}


def test_scores_of_groups_are_made_comparable_where_their_scales_differ() -> None:
    scores = {"a": np.array([1.0, 3.0]), "b": np.array([100.0, 300.0]), "dead": np.zeros(2)}
    relative = comparable(scores, "l2")
    np.testing.assert_allclose(relative["a"], relative["b"])
    np.testing.assert_array_equal(relative["dead"], 0)
    assert comparable(scores, "taylor") is scores


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
@every_scope
def test_a_network_pruned_by_macs_takes_at_most_that_share(scope: Scope, share: float) -> None:
    model = wide()
    channels = analyse(model)
    grid, cost = priced(channels, "macs")
    scores = comparable(importance(channels, "l1"), "l1")
    widths = widths_within(grid, scores, cost, share, scope)
    pruned = slice_model(channels, keep_best(scores, widths))
    assert count_macs(pruned) == Counter(channels).macs(widths) <= share * count_macs(model)


def test_a_network_pruned_by_channels_keeps_that_share_of_them() -> None:
    channels = analyse(wide())
    grid, cost = priced(channels, "channels")
    widths = widths_within(grid, importance(channels, "random"), cost, 0.5)
    assert sum(widths.values()) <= 0.5 * (32 + 64 + 5)


def test_a_network_pruned_by_time_is_cut_to_widths_at_which_the_device_is_fast() -> None:
    channels = analyse(wide())
    with connected("local") as device:
        grid, cost = priced(channels, "time", device)
    whole = cost({name: widths[-1] for name, widths in grid.items()})
    widths = widths_within(grid, importance(channels, "l2"), cost, 0.6)
    assert 0 < cost(widths) <= 0.6 * whole
    assert min(grid["a"]) >= 4
    assert grid["b"][-1] == 64


def test_a_target_that_no_cut_reaches_says_what_is_possible() -> None:
    channels = analyse(wide())
    grid, cost = priced(channels, "macs")
    with pytest.raises(ModelError, match=r"no widths take 0.01 of the whole network: the least possible is 0.0\d\d"):
        widths_within(grid, importance(channels, "l2"), cost, 0.01)


def test_a_network_with_nothing_to_cut_is_refused() -> None:
    inputs = keras.Input((4,), name="input")
    with pytest.raises(ModelError, match="no channels that can be cut"):
        width_grid(keras.Model(inputs, layers.Dense(2, name="out")(inputs)))


def test_networks_of_every_form_are_pruned() -> None:
    for network in NETWORKS.values():
        model = network.random(0)
        scores = importance(model, "l2")
        widths = share_widths(width_grid(model, 1), 0.5)
        assert slice_model(model, keep_best(scores, widths)).count_params() < model.count_params()
