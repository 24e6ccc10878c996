from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from profiling.statistics import Effort, LatencySummary, measured_enough, summarize

latencies = st.floats(min_value=1e-4, max_value=1e4)
samples = st.lists(latencies, min_size=1, max_size=200)


@given(values=samples)
def test_a_summary_is_what_numpy_says_of_the_samples(values: list[float]) -> None:
    summary = summarize(values)
    assert summary.count == len(values)
    assert summary.mean_ms == pytest.approx(np.mean(values))
    assert summary.min_ms == min(values)
    for percent in (50, 90, 95, 99):
        assert getattr(summary, f"p{percent}_ms") == pytest.approx(np.percentile(values, percent))
    if len(values) > 1:
        assert summary.std_ms == pytest.approx(np.std(values, ddof=1), abs=1e-9)


@given(values=samples)
def test_percentiles_ascend(values: list[float]) -> None:
    summary = summarize(values)
    ordered = [summary.min_ms, summary.p50_ms, summary.p90_ms, summary.p95_ms, summary.p99_ms, max(values)]
    assert all(lower <= higher * (1 + 1e-12) for lower, higher in itertools.pairwise(ordered))


@given(values=samples, factor=st.floats(min_value=0.1, max_value=10))
def test_a_device_that_is_twice_as_slow_has_a_summary_twice_as_large(values: list[float], factor: float) -> None:
    once, scaled = summarize(values), summarize([factor * value for value in values])
    for name in ("mean_ms", "std_ms", "min_ms", "p50_ms", "p99_ms"):
        assert getattr(scaled, name) == pytest.approx(factor * getattr(once, name), rel=1e-6, abs=1e-8)


def test_one_sample_is_its_own_summary() -> None:
    summary = summarize([3.5])
    assert summary == LatencySummary(
        count=1, mean_ms=3.5, std_ms=0.0, min_ms=3.5, p50_ms=3.5, p90_ms=3.5, p95_ms=3.5, p99_ms=3.5
    )
    assert summary.half_width_ms == 0
    assert summary.variance == 0


def test_the_half_width_is_that_of_the_mean_s_95_percent_interval() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(500):
        summary = summarize(random.normal(10, 2, size=100).tolist())
        covered += abs(summary.mean_ms - 10) <= summary.half_width_ms
    assert 0.92 <= covered / 500 <= 0.98


@given(mean=latencies, above=st.floats(min_value=0, max_value=100))
def test_the_variance_is_that_of_the_normal_distribution_with_this_mean_and_95th_percentile(
    mean: float, above: float
) -> None:
    summary = LatencySummary(
        count=60, mean_ms=mean, std_ms=1e9, min_ms=mean, p50_ms=mean, p90_ms=mean, p95_ms=mean + above, p99_ms=mean
    )
    # 1.6448536269514722 is the 95th percentile of the standard normal distribution.
    assert mean + 1.6448536269514722 * math.sqrt(summary.variance) == pytest.approx(mean + above)


def test_a_few_preempted_runs_leave_the_variance_small() -> None:
    quiet = [1.0 + 0.001 * (index % 10) for index in range(1000)]
    preempted = [*quiet[:-5], 40.0, 40.0, 40.0, 40.0, 40.0]
    assert np.var(preempted) > 5
    assert summarize(preempted).variance < 0.01


def test_a_mean_above_the_95th_percentile_has_no_variance() -> None:
    assert summarize([1.0] * 99 + [1000.0]).variance == 0


@given(values=samples, floor=st.integers(min_value=1, max_value=300))
def test_no_measurement_ends_below_the_floor_of_runs(values: list[float], floor: int) -> None:
    assume(len(values) < floor)
    assert not measured_enough(values, Effort(min_runs=floor, max_runs=0, max_seconds=0, relative_half_width=1e9))


@given(values=st.lists(latencies, min_size=20, max_size=50))
def test_every_measurement_ends_at_the_cap_of_runs(values: list[float]) -> None:
    assert measured_enough(values, Effort(min_runs=10, max_runs=20, relative_half_width=0, max_seconds=1e9))


def test_a_measurement_ends_at_the_cap_of_time() -> None:
    wild = [10.0, 1000.0] * 10
    effort = Effort(min_runs=10, max_runs=10_000, relative_half_width=0.001, max_seconds=10.1)
    assert measured_enough(wild, effort)
    assert not measured_enough(wild[:-1], effort)


def test_a_measurement_ends_when_the_mean_is_known_within_the_half_width() -> None:
    effort = Effort(min_runs=2, max_runs=10_000, max_seconds=1e9, relative_half_width=0.05)
    steady = [1.0, 1.1] * 20
    wild = [1.0, 3.0] * 20
    assert measured_enough(steady, effort)
    assert summarize(wild).half_width_ms > 0.05 * summarize(wild).mean_ms
    assert not measured_enough(wild, effort)
    assert measured_enough(wild * 20, effort)


@given(values=st.lists(latencies, min_size=60, max_size=120))
def test_the_rule_is_the_half_width_between_floor_and_caps(values: list[float]) -> None:
    effort = Effort(min_runs=60, relative_half_width=0.05, max_seconds=1e9)
    summary = summarize(values)
    assert measured_enough(values, effort) == (summary.half_width_ms <= 0.05 * summary.mean_ms)
