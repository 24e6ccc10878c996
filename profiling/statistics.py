"""Latency samples: their summary, and the rule that says when enough of them were taken."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist

import msgspec
import numpy as np

_TWO_SIDED_95 = NormalDist().inv_cdf(0.975)
_ONE_SIDED_95 = NormalDist().inv_cdf(0.95)


class LatencySummary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The distribution of one model's latencies, in milliseconds."""

    count: int
    mean_ms: float
    std_ms: float
    min_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float

    @property
    def half_width_ms(self) -> float:
        """Half the width of the mean's 95 % confidence interval, samples taken as independent."""
        return float(_TWO_SIDED_95 * self.std_ms / np.sqrt(self.count))

    @property
    def variance(self) -> float:
        """Variance, in ms², of the normal distribution that has this mean and this 95th percentile.

        Latencies are skewed: a few preempted runs make the plain variance large without making
        the 95th percentile late. Deadlines are about that percentile, so it is what is matched.
        """
        return float((max(self.p95_ms - self.mean_ms, 0.0) / _ONE_SIDED_95) ** 2)


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """How long a measurement goes on: until the mean is known well, within a floor and two caps."""

    relative_half_width: float = 0.05
    min_runs: int = 200
    max_runs: int = 2000
    max_seconds: float = 4.0


def summarize(samples_ms: Sequence[float]) -> LatencySummary:
    """Summarises latency samples (milliseconds, at least one)."""
    samples = np.asarray(samples_ms, dtype=float)
    p50, p90, p95, p99 = (float(value) for value in np.percentile(samples, [50, 90, 95, 99]))
    return LatencySummary(
        count=len(samples),
        mean_ms=float(samples.mean()),
        std_ms=float(samples.std(ddof=1)) if len(samples) > 1 else 0.0,
        min_ms=float(samples.min()),
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
    )


def measured_enough(samples_ms: Sequence[float], effort: Effort) -> bool:
    """Whether the samples satisfy ``effort``, as the premodel paper's rule has it (half-width under 5 %)."""
    if len(samples_ms) < effort.min_runs:
        return False
    if len(samples_ms) >= effort.max_runs or sum(samples_ms) >= effort.max_seconds * 1e3:
        return True
    summary = summarize(samples_ms)
    return summary.half_width_ms <= effort.relative_half_width * summary.mean_ms
