from __future__ import annotations

import math

import numpy as np
import pytest

from profiling.android.benchmark_log import Runs
from profiling.android.summaries import invoked_enough, summarize_invocations, used_up
from profiling.statistics import Effort, half_width


def told_of(samples: np.ndarray, percentiles: bool = True) -> Runs:
    p5, median, p95 = (float(value) for value in np.percentile(samples, [5, 50, 95]))
    return Runs(
        count=len(samples),
        first_ms=float(samples[0]),
        min_ms=float(samples.min()),
        max_ms=float(samples.max()),
        mean_ms=float(samples.mean()),
        std_ms=float(samples.std()),
        **({"p5_ms": p5, "median_ms": median, "p95_ms": p95} if percentiles else {}),
    )


def blocks(count: int = 8) -> list[np.ndarray]:
    random = np.random.default_rng(0)
    return [random.gamma(20, 0.5 + 0.01 * number, size=100 + 20 * number) for number in range(count)]


@pytest.mark.parametrize("percentiles", [True, False])
def test_summaries_amount_to_what_the_runs_do(percentiles: bool) -> None:
    samples = np.concatenate(blocks())
    summary = summarize_invocations([told_of(block, percentiles) for block in blocks()])
    assert summary.count == len(samples)
    assert summary.mean_ms == pytest.approx(samples.mean())
    assert summary.std_ms == pytest.approx(samples.std(ddof=1))
    assert summary.min_ms == samples.min()
    assert summary.half_width_ms == pytest.approx(half_width([list(block) for block in blocks()]))
    assert summary.p50_ms == pytest.approx(np.median(samples), rel=0.03)
    assert summary.p95_ms == pytest.approx(np.percentile(samples, 95), rel=0.03)
    assert summary.p90_bound_ms is summary.p99_bound_ms is None
    assert summary.interpolated


def test_percentiles_of_a_mixture_are_not_means_of_percentiles() -> None:
    fast, slow = np.linspace(1, 2, 1001), np.linspace(10, 11, 334)
    summary = summarize_invocations([told_of(fast), told_of(slow)])
    assert summary.p50_ms == pytest.approx(np.median(np.concatenate([fast, slow])), rel=0.01)
    assert summary.p90_ms == pytest.approx(10.6, rel=0.01)


def test_single_runs_are_summarised_too() -> None:
    runs = [told_of(np.array([value])) for value in (3.0, 5.0)]
    summary = summarize_invocations(runs)
    assert (summary.count, summary.mean_ms, summary.min_ms) == (2, 4.0, 3.0)
    assert summary.p95_ms == pytest.approx(5.0)
    assert math.isinf(summarize_invocations(runs[:1]).half_width_ms)


def test_enough_is_when_invocations_agree_or_a_cap_is_reached() -> None:
    effort = Effort(relative_half_width=0.05, min_runs=100, max_runs=1000, max_seconds=100.0)
    alike = [told_of(np.full(30, 10.0 + 0.1 * (number % 2))) for number in range(5)]
    apart = [told_of(np.full(30, 10.0 + 5.0 * (number % 2))) for number in range(5)]
    assert not invoked_enough(alike[:4], effort)
    assert invoked_enough(alike, effort)
    assert not invoked_enough(apart, effort)
    assert invoked_enough(apart * 12, effort)
    assert not used_up([told_of(np.full(2000, 0.01))] * 59, effort)
    assert used_up([told_of(np.full(2000, 0.01))] * 60, effort)
    assert used_up([told_of(np.full(1, 100_000.0))], effort)
