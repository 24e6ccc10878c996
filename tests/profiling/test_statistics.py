from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from profiling.statistics import (
    Effort,
    LatencySummary,
    early_stopping_bound,
    exhausted,
    half_width,
    mean_interval,
    measured_enough,
    paired_ratio,
    student_quantile,
    summarize,
)

Blocks = list[list[float]]

latencies = st.floats(min_value=1e-4, max_value=1e4)
samples = st.lists(latencies, min_size=1, max_size=200)
some_blocks = st.lists(st.lists(latencies, min_size=1, max_size=10), min_size=2, max_size=40)


def in_blocks(values: Sequence[float], size: int = 10) -> Blocks:
    return [list(values[start : start + size]) for start in range(0, len(values), size)]


# --- the summary ---


@given(values=samples, size=st.integers(1, 10))
def test_a_summary_is_what_numpy_says_of_the_samples(values: list[float], size: int) -> None:
    summary = summarize(in_blocks(values, size))
    assert summary.count == len(values)
    assert summary.mean_ms == pytest.approx(np.mean(values))
    assert summary.min_ms == min(values)
    for percent in (50, 90, 95, 99):
        assert getattr(summary, f"p{percent}_ms") == pytest.approx(np.percentile(values, percent))
    if len(values) > 1:
        assert summary.std_ms == pytest.approx(np.std(values, ddof=1), abs=1e-9)
    assert not summary.interpolated


@given(values=samples)
def test_percentiles_ascend(values: list[float]) -> None:
    summary = summarize([values])
    ordered = [summary.min_ms, summary.p50_ms, summary.p90_ms, summary.p95_ms, summary.p99_ms, max(values)]
    assert all(lower <= higher * (1 + 1e-12) for lower, higher in itertools.pairwise(ordered))


@given(blocks=some_blocks, factor=st.floats(min_value=0.1, max_value=10))
def test_a_device_that_is_twice_as_slow_has_a_summary_twice_as_large(blocks: Blocks, factor: float) -> None:
    once, scaled = summarize(blocks), summarize([[factor * value for value in block] for block in blocks])
    for name in ("mean_ms", "std_ms", "min_ms", "p50_ms", "p99_ms", "half_width_ms"):
        expected = factor * getattr(once, name)
        assert getattr(scaled, name) == pytest.approx(expected, rel=1e-5, abs=1e-8 * factor * once.mean_ms + 1e-8)


def test_one_sample_is_its_own_summary_and_says_nothing_of_how_sure_the_mean_is() -> None:
    summary = summarize([[3.5]])
    assert summary == LatencySummary(
        count=1, mean_ms=3.5, mean_low_ms=None, mean_high_ms=None, std_ms=0.0, min_ms=3.5, p5_ms=3.5,
        p50_ms=3.5, p90_ms=3.5, p95_ms=3.5, p99_ms=3.5,
    )  # fmt: skip
    assert summary.half_width_ms == math.inf
    assert summary.variance == 0


@given(mean=latencies, above=st.floats(min_value=0, max_value=100))
def test_the_variance_is_that_of_the_normal_distribution_with_this_mean_and_95th_percentile(
    mean: float, above: float
) -> None:
    summary = LatencySummary(
        count=60, mean_ms=mean, mean_low_ms=mean, mean_high_ms=mean, std_ms=1e9, min_ms=mean, p5_ms=mean,
        p50_ms=mean, p90_ms=mean, p95_ms=mean + above, p99_ms=mean,
    )  # fmt: skip
    # 1.6448536269514722 is the 95th percentile of the standard normal distribution.
    assert mean + 1.6448536269514722 * math.sqrt(summary.variance) == pytest.approx(mean + above)


def test_a_few_preempted_runs_leave_the_variance_small() -> None:
    quiet = [1.0 + 0.001 * (index % 10) for index in range(1000)]
    preempted = [*quiet[:-5], 40.0, 40.0, 40.0, 40.0, 40.0]
    assert np.var(preempted) > 5
    assert summarize(in_blocks(preempted)).variance < 0.01


def test_a_mean_above_the_95th_percentile_has_no_variance() -> None:
    assert summarize([[1.0] * 99 + [1000.0]]).variance == 0


# --- the mean's interval ---


@given(blocks=some_blocks)
def test_the_interval_holds_the_mean_of_all_samples(blocks: Blocks) -> None:
    low, high = mean_interval(blocks)
    mean = np.mean(list(itertools.chain(*blocks)))
    rounding = 1e-9 * mean
    assert low - rounding <= mean <= high + rounding
    summary = summarize(blocks)
    assert (summary.mean_low_ms, summary.mean_high_ms) == (low, high)
    assert summary.half_width_ms == half_width(blocks) == (high - low) / 2


@given(offsets=st.lists(st.floats(0.01, 9), min_size=1, max_size=40), size=st.integers(1, 10))
def test_of_symmetric_block_means_it_is_student_s_interval(offsets: list[float], size: int) -> None:
    means = [10 + sign * offset for offset in offsets for sign in (1, -1)]
    low, high = mean_interval([[mean] * size for mean in means])
    expected = stats.t.interval(0.95, len(means) - 1, loc=np.mean(means), scale=stats.sem(means))
    assert (low, high) == pytest.approx(expected, abs=1e-3 * (expected[1] - expected[0]))


@pytest.mark.parametrize("degrees", [1, 2, 3, 4, 5, 7, 10, 20, 59, 199, 5000])
def test_the_quantile_is_student_s(degrees: int) -> None:
    assert student_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), rel=1e-3)


def test_where_slow_runs_are_rare_the_interval_reaches_further_up_than_down() -> None:
    blocks = in_blocks(([1.0] * 49 + [5.0]) * 10)
    low, high = mean_interval(blocks)
    mean = summarize(blocks).mean_ms
    assert high - mean > 1.2 * (mean - low) > 0


def test_equal_samples_leave_nothing_open() -> None:
    assert mean_interval([[2.0] * 10] * 5) == (2.0, 2.0)


def test_a_single_block_leaves_everything_open() -> None:
    assert mean_interval([[1.0, 2.0]]) == (-math.inf, math.inf)


def skewed_trace(random: np.random.Generator, runs: int = 200_000) -> Any:
    """Latencies of a busy device, in ms: skewed, with bursts in which all is slower, and drifting by a tenth."""
    times = random.gamma(4, 0.05, runs) + 0.8
    bursts = np.zeros(runs, bool)
    for start in random.integers(0, runs, runs // 2000):
        bursts[start : start + int(random.exponential(40))] = True
    preempted = random.random(runs) < 0.002
    return (times * np.where(bursts, 1.6, 1) + preempted * random.exponential(4, runs)) * np.linspace(1, 1.1, runs)


def sampled_until_enough(trace: Any, random: np.random.Generator, effort: Effort) -> Blocks:
    """Blocks of ten consecutive runs at random positions of a trace, as many as ``effort`` asks for."""
    blocks: Blocks = []
    while len(blocks) * 10 < effort.min_runs or not measured_enough(blocks, effort):
        start = int(random.integers(0, len(trace) - 10))
        blocks.append(trace[start : start + 10].tolist())
    return blocks


def test_the_interval_holds_the_true_mean_95_times_of_100_when_measuring_ends_by_the_rule() -> None:
    random = np.random.default_rng(0)
    trace = skewed_trace(random)
    truth, effort = float(trace.mean()), Effort()
    covered = 0
    for _ in range(1000):
        blocks = sampled_until_enough(trace, random, effort)
        low, high = mean_interval(blocks)
        assert high - low <= 2 * effort.relative_half_width * summarize(blocks).mean_ms or exhausted(blocks, effort)
        covered += low <= truth <= high
    assert 0.93 <= covered / 1000 <= 0.97


def test_runs_of_a_block_that_resemble_each_other_are_not_taken_for_independent() -> None:
    random = np.random.default_rng(1)
    covered, naive = 0, 0
    for _ in range(500):
        blocks = [[float(level)] * 10 for level in random.normal(10, 2, 30)]
        low, high = mean_interval(blocks)
        covered += low <= 10 <= high
        plain = 1.96 * np.std(blocks) / math.sqrt(300)
        naive += abs(np.mean(blocks) - 10) <= plain
    assert 0.92 <= covered / 500 <= 0.98
    assert naive / 500 < 0.6


# --- how long a measurement goes on ---


def ends(values: Sequence[float], **limits: Any) -> bool:
    return measured_enough(in_blocks(values), Effort(**limits))


@given(values=samples, floor=st.integers(min_value=1, max_value=300))
def test_no_measurement_ends_below_the_floor_of_runs(values: list[float], floor: int) -> None:
    assume(len(values) < floor)
    assert not ends(values, min_runs=floor, max_seconds=1e9, relative_half_width=1e9)


@given(values=st.lists(latencies, min_size=20, max_size=50))
def test_every_measurement_ends_at_the_cap_of_runs(values: list[float]) -> None:
    assert ends(values, min_runs=10, max_runs=20, relative_half_width=1e-12, max_seconds=1e9)


def test_a_measurement_ends_at_the_cap_of_time_whatever_the_floor() -> None:
    wild = [10.0, 1000.0] * 10
    limits = {"min_runs": 2000, "relative_half_width": 0.001, "max_seconds": 10.1}
    assert ends(wild, **limits)
    assert not ends(wild[:-1], **limits)


def test_no_measurement_ends_below_the_floor_of_time() -> None:
    limits = {"min_runs": 20, "relative_half_width": 0.05, "min_seconds": 0.1}
    assert not ends([1.0] * 99, **limits)
    assert ends([1.0] * 100, **limits)


def test_a_measurement_ends_when_the_mean_is_known_within_the_half_width() -> None:
    limits = {"min_runs": 2, "max_seconds": 1e9, "relative_half_width": 0.05}
    steady = [[1.0, 1.1], [1.1, 1.0], [1.05, 1.0]] * 10
    wild = [[1.0, 1.1], [3.0, 3.1]] * 10
    assert measured_enough(steady, Effort(**limits))
    assert summarize(wild).half_width_ms > 0.05 * summarize(wild).mean_ms
    assert not measured_enough(wild, Effort(**limits))
    assert measured_enough(wild * 40, Effort(**limits))


@given(values=st.lists(latencies, min_size=60, max_size=120))
def test_the_rule_is_the_half_width_between_floor_and_caps(values: list[float]) -> None:
    effort = Effort(min_runs=60, relative_half_width=0.05, max_seconds=1e9)
    blocks = in_blocks(values)
    assert measured_enough(blocks, effort) == (half_width(blocks) <= 0.05 * summarize(blocks).mean_ms)


def test_a_percentile_asks_for_as_many_runs_as_its_bound_takes() -> None:
    limits = {"min_runs": 10, "percentile": 0.99}
    assert not ends([1.0] * 661, **limits)
    assert ends([1.0] * 662, **limits)
    assert ends([1.0] * 100, **limits | {"max_runs": 100})


def test_nothing_was_measured_enough_before_it_began() -> None:
    assert not measured_enough([], Effort())


@pytest.mark.parametrize(
    "wrong",
    [
        {"relative_half_width": 0.0}, {"relative_half_width": math.nan}, {"min_runs": 0}, {"max_seconds": 0.0},
        {"min_runs": 11, "max_runs": 10}, {"percentile": 1.0}, {"percentile": 0.0}, {"percentile": -0.5},
    ],
)  # fmt: skip
def test_an_effort_that_makes_no_sense_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="an effort has|a percentile is"):
        Effort(**wrong)  # type: ignore[arg-type]


# --- bounds of percentiles ---


@pytest.mark.parametrize(("percentile", "needed"), [(0.90, 64), (0.99, 662)])
def test_a_bound_takes_as_many_samples_as_mlperf_says(percentile: float, needed: int) -> None:
    values = list(range(needed))
    assert early_stopping_bound(values[:-1], percentile) is None
    assert early_stopping_bound(values, percentile) == needed - 1


def test_the_summary_has_the_bounds_once_there_are_enough_samples() -> None:
    few, some, many = (summarize(in_blocks([float(value) for value in range(1, count + 1)])) for count in (63, 64, 662))
    assert (few.p90_bound_ms, few.p99_bound_ms) == (None, None)
    assert (some.p90_bound_ms, some.p99_bound_ms) == (64, None)
    assert many.p99_bound_ms == 662
    assert many.p90_ms < many.p90_bound_ms < 662


@pytest.mark.parametrize(("percentile", "count"), [(0.90, 64), (0.90, 300), (0.99, 662), (0.99, 2000)])
def test_99_of_100_bounds_are_above_the_percentile(percentile: float, count: int) -> None:
    random = np.random.default_rng(0)
    bounds = [early_stopping_bound(values, percentile) for values in random.random((2000, count))]
    assert np.mean([bound >= percentile for bound in bounds if bound is not None]) >= 0.99
    assert None not in bounds


@given(values=st.lists(latencies, min_size=64, max_size=700))
def test_a_bound_is_one_of_the_samples_and_not_below_the_percentile(values: list[float]) -> None:
    bound = early_stopping_bound(values, 0.9)
    assert bound in values
    assert bound >= np.percentile(values, 90, method="lower")


# --- ratios ---


def rounds_of(random: np.random.Generator, count: int, ratio: float) -> Iterator[tuple[list[float], list[float]]]:
    """Blocks of two models in rounds whose slowness is common to both."""
    slowness = 1 + np.cumsum(random.normal(0, 0.02, count)) ** 2 + 3 * (random.random(count) < 0.1)
    for slow in slowness:
        mine = slow * ratio * random.normal(1, 0.02, 10)
        yield mine.tolist(), (slow * random.normal(1, 0.02, 10)).tolist()


def test_what_slows_both_down_leaves_their_ratio_within_one_percent() -> None:
    pairs = list(rounds_of(np.random.default_rng(0), 200, 2.5))
    mine, other = zip(*pairs, strict=True)
    ratio = paired_ratio(mine, other)
    assert ratio.value == pytest.approx(2.5, rel=0.01)
    assert ratio.low <= ratio.value <= ratio.high
    assert (ratio.high - ratio.low) / ratio.value < 0.01
    assert abs(np.std([np.mean(block) for block in mine]) / 2.5) > 0.2  # while neither's own latency is steady


def test_the_ratio_s_interval_holds_the_true_one_95_times_of_100() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        mine, other = zip(*rounds_of(random, 25, 0.4), strict=True)
        ratio = paired_ratio(mine, other)
        covered += ratio.low <= 0.4 <= ratio.high
    assert covered / 400 >= 0.93


def test_rounds_that_only_one_took_part_in_are_left_out_of_the_ratio() -> None:
    assert paired_ratio([[2.0], [4.0]], [[1.0], [2.0], [100.0]]).value == 2.0


@pytest.mark.parametrize("rounds", [1, 2, 5, 6, 1000, 1100, 2000])
def test_ratios_of_few_and_of_many_rounds_have_an_interval(rounds: int) -> None:
    random = np.random.default_rng(0)
    ratio = paired_ratio(
        (2 * random.uniform(1, 1.1, (rounds, 10))).tolist(), random.uniform(1, 1.1, (rounds, 10)).tolist()
    )
    assert 1.8 < ratio.low <= ratio.value <= ratio.high < 2.2
    if rounds >= 1000:
        assert 0 < ratio.high - ratio.low < 0.01
