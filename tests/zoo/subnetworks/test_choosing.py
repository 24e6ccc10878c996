"""The widths of nested subnetworks: the best that there are, nested, and never more than was granted."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS
from test_costs import CHANNELS, IN_BLOCKS, timed

from fleetfoot.errors import ModelError, UsageError
from zoo.backend import keras
from zoo.blocks import drop_blocks
from zoo.channels import Channels, slice_model
from zoo.cost import count_macs
from zoo.memory import peak_activation_bytes
from zoo.subnetworks import choosing, problem
from zoo.subnetworks.choosing import ORDERS, WEIGHINGS, Order, Weighing
from zoo.subnetworks.costs import Costs, Unit, count_costs, peak_bytes, time_costs
from zoo.subnetworks.ladder import Ladder, check_fractions
from zoo.subnetworks.skipping import widths_without

layers = keras.layers
FRACTIONS = (0.4, 0.6, 0.8)
SMALL = ("chain", "residual", "concatenate", "separable", "gate")
Scores = Mapping[str, Any]
choose_widths = partial(choosing.choose_widths, weighing="sum")


def scores_of(channels: Channels, seed: int) -> Scores:
    random = np.random.default_rng(seed)
    return {name: random.exponential(size=group.size) for name, group in channels.cuttable.items()}


def costs_of(channels: Channels, unit: Unit, *, step: int = 2, skip_blocks: bool = False) -> Costs:
    if unit == "latency":
        return time_costs(channels, timed(channels, step), skip_blocks=skip_blocks)
    return count_costs(channels, unit, step=step, skip_blocks=skip_blocks)


def all_widths(costs: Costs) -> list[dict[str, int]]:
    """Every choice of widths that there is, blocks whole or skipped."""
    choices = (dict(zip(costs.grid, one, strict=True)) for one in itertools.product(*costs.grid.values()))
    return [widths for widths in choices if np.isfinite(costs.of_widths(widths))]


def worth(scores: Scores, widths: Mapping[str, int], weighing: Weighing = "sum") -> float:
    if weighing == "balanced":
        shares = [np.sort(values)[::-1][: widths[name]].sum() / values.sum() for name, values in scores.items()]
        return float(np.prod(shares) ** (1 / len(shares)))
    kept = sum(float(np.sort(values)[::-1][: widths[name]].sum()) for name, values in scores.items())
    return kept / sum(float(values.sum()) for values in scores.values())


def lies_in(narrow: Mapping[str, int], wide: Mapping[str, int]) -> bool:
    return all(narrow[name] <= wide[name] for name in wide)


def check_best(
    costs: Costs, scores: Scores, order: Order, cap: int | None = None, weighing: Weighing = "sum"
) -> Ladder:
    """Each rung is the best of all widths that are nested with those chosen before."""
    ladder = choose_widths(costs, scores, FRACTIONS, order=order, peak_bytes=cap, weighing=weighing)
    left = [(widths, costs.of_widths(widths), worth(scores, widths, weighing)) for widths in all_widths(costs)]
    if cap is not None:
        left = [one for one in left if peak_bytes(costs, one[0]) <= cap]
    for rung in ladder.rungs if order == "bottom-up" else ladder.rungs[::-1]:
        best = max(kept for _, cost, kept in left if cost <= rung.fraction * costs.whole)
        assert rung.proven
        assert rung.importance == pytest.approx(best, rel=1e-6)
        assert rung.importance == pytest.approx(worth(scores, rung.widths, weighing), rel=1e-6)
        assert rung.free_bound >= rung.bound - 1e-9
        assert rung.cost == pytest.approx(costs.of_widths(rung.widths))
        assert rung.cost <= rung.limit
        if order == "bottom-up":
            left = [one for one in left if lies_in(rung.widths, one[0])]
        else:
            left = [one for one in left if lies_in(one[0], rung.widths)]
    return ladder


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("unit", ["macs", "latency", "size"])
@pytest.mark.parametrize("name", ["chain", "residual", "gate"])
def test_every_rung_is_the_best_of_all(name: str, unit: Unit, order: Order) -> None:
    costs = costs_of(CHANNELS[name], unit, step=1 if name == "residual" else 2)
    for seed, weighing in itertools.product(range(2), WEIGHINGS):
        check_best(costs, scores_of(CHANNELS[name], seed), order, weighing=weighing)


def test_balanced_widths_give_no_group_up_for_others() -> None:
    channels = CHANNELS["chain"]
    costs = count_costs(channels, "macs")
    first, *others = channels.cuttable.values()
    scores = {first.name: np.full(first.size, 0.001)} | {group.name: np.ones(group.size) for group in others}
    (by_sum,) = choose_widths(costs, scores, [0.5]).rungs
    (balanced,) = choose_widths(costs, scores, [0.5], weighing="balanced").rungs
    assert balanced.widths[first.name] > by_sum.widths[first.name]


def test_channels_without_any_importance_have_widths_too() -> None:
    channels = CHANNELS["chain"]
    scores = {name: np.zeros(group.size) for name, group in channels.cuttable.items()}
    for weighing in WEIGHINGS:
        (rung,) = choose_widths(count_costs(channels, "macs"), scores, [0.5], weighing=weighing).rungs
        assert rung.cost <= rung.limit


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["chain", "residual", "concatenate"])
def test_every_rung_is_the_best_of_all_within_a_memory_cap(name: str, order: Order) -> None:
    costs = costs_of(CHANNELS[name], "macs")
    peaks = sorted(peak_bytes(costs, widths) for widths in all_widths(costs))
    for part in (0.1, 0.5):
        ladder = check_best(costs, scores_of(CHANNELS[name], 0), order, cap := peaks[int(part * len(peaks))])
        for rung in ladder.rungs:
            assert peak_activation_bytes(slice_model(CHANNELS[name], rung.widths)) <= cap


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("capped", [False, True])
@pytest.mark.parametrize("name", IN_BLOCKS)
def test_every_rung_is_the_best_of_all_with_blocks_to_skip(name: str, capped: bool, order: Order) -> None:
    channels = IN_BLOCKS[name]
    costs = costs_of(channels, "macs", step=3, skip_blocks=True)
    scores = {group: values * (0.1 if group.startswith(("first", "expand")) else 1) for group, values in
              scores_of(channels, 1).items()}  # fmt: skip
    cap = int(0.8 * peak_bytes(costs, {})) if capped else None
    ladder = check_best(costs, scores, order, cap)
    assert ladder.rungs[0].skipped
    for rung in ladder.rungs:
        shorter = drop_blocks(channels.model, rung.skipped) if rung.skipped else channels.model
        network = slice_model(shorter, widths_without(channels, shorter, rung.kept))
        assert count_macs(network) == rung.cost
        assert cap is None or peak_activation_bytes(network) <= cap
    for narrow, wide in itertools.pairwise(ladder.rungs):
        assert set(wide.skipped) <= set(narrow.skipped)


@given(
    name=st.sampled_from(SMALL),
    seed=st.integers(0, 10**6),
    fractions=st.sets(st.floats(0.35, 1), min_size=1, max_size=4).map(sorted),
    order=st.sampled_from(ORDERS),
)
@settings(max_examples=30, deadline=None)
def test_rungs_lie_in_each_other_within_their_limits(
    name: str, seed: int, fractions: list[float], order: Order
) -> None:
    costs = costs_of(CHANNELS[name], "macs", step=1)
    ladder = choose_widths(costs, scores_of(CHANNELS[name], seed), fractions, order=order)
    assert [rung.fraction for rung in ladder.rungs] == fractions
    for rung in ladder.rungs:
        assert count_macs(slice_model(CHANNELS[name], rung.widths)) == rung.cost <= rung.fraction * ladder.whole
    assert all(lies_in(narrow.widths, wide.widths) for narrow, wide in itertools.pairwise(ladder.rungs))


@pytest.mark.parametrize("order", ORDERS)
def test_without_time_there_is_a_ladder_with_bounds_that_hold(order: Order) -> None:
    channels = CHANNELS["residual"]
    costs = costs_of(channels, "macs", step=1)
    for seed in range(5):
        scores = scores_of(channels, seed)
        best = choose_widths(costs, scores, FRACTIONS)
        ladder = choose_widths(costs, scores, FRACTIONS, order=order, seconds=0)
        for rung, other in zip(ladder.rungs, best.rungs, strict=True):
            assert rung.importance <= rung.bound
            assert rung.cost <= rung.limit
            assert rung.free_bound >= other.importance - 1e-9
        assert all(lies_in(narrow.widths, wide.widths) for narrow, wide in itertools.pairwise(ladder.rungs))


@pytest.mark.parametrize("factors", [(1.0, 3.0), (3.0, 1.0)])
@pytest.mark.parametrize("order", ORDERS)
def test_times_that_were_calibrated_are_kept_to(order: Order, factors: tuple[float, float]) -> None:
    channels = CHANNELS["residual"]
    times = timed(channels, 1)
    narrow = {group: widths[0] for group, widths in times.grid.items()}
    measured = [(keep, factor * times.ms(keep)) for keep, factor in zip((narrow, {}), factors, strict=True)]
    times.calibrate(measured)
    costs = time_costs(channels, times)
    scores = scores_of(channels, 0)
    fractions = [fraction for fraction in (0.7, 0.9) if fraction * costs.whole > times.ms(narrow)] or [1.0]
    ladder = choose_widths(costs, scores, fractions, order=order)
    for number, rung in enumerate(ladder.rungs):
        assert times.ms(rung.widths) == pytest.approx(rung.cost)
        assert rung.cost <= rung.limit
        within = [worth(scores, widths) for widths in all_widths(costs) if costs.of_widths(widths) <= rung.limit]
        assert rung.importance <= max(within) + 1e-9
        assert max(within) <= rung.free_bound + 1e-9
        if number == (0 if order == "bottom-up" else len(ladder.rungs) - 1):
            assert max(within) <= rung.bound + 1e-9


def test_all_of_the_cost_is_the_whole_network_whatever_channels_are_worth() -> None:
    channels = CHANNELS["chain"]
    scores = {name: np.zeros(group.size) for name, group in channels.cuttable.items()}
    (rung,) = choose_widths(count_costs(channels, "macs", step=4), scores, [1.0]).rungs
    assert rung.widths == {name: group.size for name, group in channels.cuttable.items()}


@pytest.mark.parametrize("unit", ["macs", "latency", "size"])
def test_too_small_a_fraction_is_refused_naming_one_that_can_be_typed(unit: Unit) -> None:
    for name in SMALL:
        costs, scores = costs_of(CHANNELS[name], unit, step=1), scores_of(CHANNELS[name], 0)
        with pytest.raises(ModelError, match=r"no widths take 0\.0001 of .*: the least possible is 0\.\d{3}$") as error:
            choose_widths(costs, scores, [0.0001, 1.0], order="top-down")
        (least,) = re.findall(r"0\.\d{3}$", str(error.value))
        assert choose_widths(costs, scores, [float(least)]).rungs
        with pytest.raises(ModelError, match="the least possible is"):
            choose_widths(costs, scores, [float(least) - 0.001])


def test_too_small_a_memory_cap_is_refused_naming_one_that_can_be_kept() -> None:
    costs, scores = costs_of(CHANNELS["chain"], "macs", step=1), scores_of(CHANNELS["chain"], 0)
    with pytest.raises(ModelError, match=r"within 10 bytes: the least possible is \d+ bytes") as error:
        choose_widths(costs, scores, [1.0], peak_bytes=10)
    (least,) = re.findall(r"(\d+) bytes$", str(error.value))
    (rung,) = choose_widths(costs, scores, [1.0], peak_bytes=int(least)).rungs
    assert peak_bytes(costs, rung.widths) == int(least)


@pytest.mark.parametrize("fractions", [[], [0.0], [-0.5], [1.5], [float("nan")], [0.5, 0.25], [0.5, 0.5]])
@pytest.mark.parametrize(("unit", "words"), [("macs", "the MACs"), ("latency", "the latency"), ("size", "the size")])
def test_fractions_that_cannot_be_meant_are_refused(fractions: list[float], unit: Unit, words: str) -> None:
    with pytest.raises(UsageError, match=f"fractions of {words} must"):
        check_fractions(fractions, unit)


def test_what_cannot_be_meant_is_refused() -> None:
    channels = CHANNELS["chain"]
    costs, scores = count_costs(channels, "macs"), scores_of(channels, 0)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"order": "sideways"}, "no order 'sideways'"),
        ({"seconds": -1.0}, "within some seconds"),
        ({"seconds": float("nan")}, "within some seconds"),
        ({"peak_bytes": 0}, "activations take some bytes"),
    ]
    for options, message in wrong:
        with pytest.raises(UsageError, match=message):
            choose_widths(costs, scores, [0.5], **options)
    with pytest.raises(UsageError, match="fractions of the MACs must ascend"):
        choose_widths(costs, scores, [0.5, 0.25])
    with pytest.raises(UsageError, match="no importance of group a"):
        choose_widths(costs, {name: scores[name] for name in ("b", "hidden")}, [0.5])
    for values in (np.ones(3), -np.ones(6), np.full(6, np.nan)):
        with pytest.raises(UsageError, match="importance of group a is one number for each of its 6 channels"):
            choose_widths(costs, {**scores, "a": values}, [0.5])


def test_groups_that_hang_together_too_much_have_fewer_widths(capsys: pytest.CaptureFixture[str],
                                                               monkeypatch: pytest.MonkeyPatch) -> None:  # fmt: skip
    costs, scores = costs_of(CHANNELS["concatenate"], "macs", step=1), scores_of(CHANNELS["concatenate"], 0)
    monkeypatch.setattr(problem, "MOST_ENTRIES", 12)
    ladder = choose_widths(costs, scores, FRACTIONS)
    assert "fewer widths to choose from" in capsys.readouterr().err
    assert all(rung.proven and rung.cost <= rung.limit for rung in ladder.rungs)
    monkeypatch.setattr(problem, "MOST_ENTRIES", 2)
    with pytest.raises(ModelError, match="channel groups depend on each other"):
        choose_widths(costs, scores, FRACTIONS)


def test_a_ladder_is_told_in_lines() -> None:
    channels = IN_BLOCKS["residual"]
    costs = count_costs(channels, "macs", skip_blocks=True)
    scores = {name: np.full(group.size, 1e-3 if name == "first1" else 1.0) for name, group in channels.cuttable.items()}
    first, second = choose_widths(costs, scores, [0.25, 1.0]).lines()
    assert re.fullmatch(r"sub-0\.25: 2\d\.\d % of the MACs, importance \d+ %, the best possible, without sum1", first)
    assert second == "sub-1: 100.0 % of the MACs, importance 100 %, the best possible"


def test_every_network_has_a_ladder() -> None:
    for name in NETWORKS:
        costs = count_costs(CHANNELS[name], "macs")
        assert choose_widths(costs, scores_of(CHANNELS[name], 0), [1.0]).rungs[0].importance == 1
