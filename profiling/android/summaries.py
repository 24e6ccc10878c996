"""Latencies of which only summaries are known, one of each invocation of a tool: when enough, and what they amount to.

An invocation is a block: runs within it resemble each other, so what is known of a mean follows from how the means of
invocations differ.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import numpy as np

from profiling.android.benchmark_log import Runs
from profiling.statistics import Array, Block, Effort, LatencySummary, mean_interval

MIN_INVOCATIONS = 5
_MAX_INVOCATIONS = 60
_PROBABILITIES = (0.0, 0.05, 0.5, 0.95, 1.0)
_NORMAL_5_TO_95 = NormalDist().inv_cdf(0.95)
_POINTS = 1000


def summarize_invocations(invocations: Sequence[Runs]) -> LatencySummary:
    """What invocations (at least one) amount to, in milliseconds.

    Count, mean, minimum and standard deviation are those of all runs; the percentiles are of the mixture of the
    invocations' distributions, each of which is drawn straight between the points that are known of it.
    """
    counts = np.array([one.count for one in invocations], dtype=float)
    means = np.array([one.mean_ms for one in invocations])
    count, mean = counts.sum(), float(counts @ means / counts.sum())
    squares = counts @ np.array([one.std_ms**2 + (one.mean_ms - mean) ** 2 for one in invocations])
    low, high = _mean_interval(invocations) if len(invocations) > 1 else (None, None)
    p5, p50, p90, p95, p99 = _percentiles(invocations, (0.05, 0.50, 0.90, 0.95, 0.99))
    return LatencySummary(
        count=int(count),
        mean_ms=mean,
        mean_low_ms=low,
        mean_high_ms=high,
        std_ms=math.sqrt(squares / (count - 1)) if count > 1 else 0.0,
        min_ms=min(one.min_ms for one in invocations),
        p5_ms=p5,
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        interpolated=True,
    )


def invoked_enough(invocations: Sequence[Runs], effort: Effort) -> bool:
    """Whether invocations satisfy ``effort``, but for its percentile, which needs single runs, and its cap of runs."""
    if used_up(invocations, effort):
        return True
    count, seconds = _amount(invocations)
    if len(invocations) < MIN_INVOCATIONS or count < effort.min_runs or seconds < effort.min_seconds:
        return False
    low, high = _mean_interval(invocations)
    return (high - low) / 2 <= effort.relative_half_width * seconds * 1e3 / count


def used_up(invocations: Sequence[Runs], effort: Effort) -> bool:
    """Whether a cap is reached: of seconds, or of invocations. Runs have none, since they come by the invocation."""
    return _amount(invocations)[1] >= effort.max_seconds or len(invocations) >= _MAX_INVOCATIONS


def typical_ms(invocation: Runs) -> float:
    """The median run, or the mean one where that is all that is known."""
    return invocation.mean_ms if invocation.median_ms is None else invocation.median_ms


def as_blocks(invocations: Sequence[Runs]) -> list[Block]:
    """Each invocation as a block of as many runs as its fastest, for what compares blocks by those."""
    return [[one.min_ms] * one.count for one in invocations]


def _mean_interval(invocations: Sequence[Runs]) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of all runs, in ms; without bounds of one invocation."""
    return mean_interval([[one.mean_ms] * one.count for one in invocations])


def _amount(invocations: Sequence[Runs]) -> tuple[int, float]:
    """Runs, and their seconds."""
    return sum(one.count for one in invocations), sum(one.count * one.mean_ms for one in invocations) / 1e3


def _percentiles(invocations: Sequence[Runs], probabilities: Sequence[float]) -> list[float]:
    """Quantiles of the mixture, in ms: of each distribution at a thousand equal steps, weighted by its runs."""
    steps = (np.arange(_POINTS) + 0.5) / _POINTS
    values = np.concatenate([np.interp(steps, _PROBABILITIES, _known_points(one)) for one in invocations])
    weights = np.repeat([one.count for one in invocations], _POINTS).astype(float)
    order = np.argsort(values)
    below = np.cumsum(weights[order]) - weights[order] / 2
    return [float(np.interp(share * weights.sum(), below, values[order])) for share in probabilities]


def _known_points(one: Runs) -> Array:
    """Minimum, 5 %, median, 95 % and maximum, in ms; where older versions do not tell, as of a normal distribution."""
    spread = _NORMAL_5_TO_95 * one.std_ms
    points = [
        one.min_ms,
        one.mean_ms - spread if one.p5_ms is None else one.p5_ms,
        typical_ms(one),
        one.mean_ms + spread if one.p95_ms is None else one.p95_ms,
        one.max_ms,
    ]
    return np.maximum.accumulate(np.clip(points, one.min_ms, one.max_ms))
