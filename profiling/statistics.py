"""Latency samples: their summary, and the rule that says when enough of them were taken.

Samples come in *blocks* of consecutive runs, because variants take turns: runs within a block resemble each other
(the same burst, the same clock frequency), blocks are as good as independent. So what is known of a mean follows from
how block means differ, not from how single runs do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

import msgspec
import numpy as np
import numpy.typing as npt

Block = Sequence[float]
Array = npt.NDArray[np.float64]

_ONE_SIDED_95 = NormalDist().inv_cdf(0.95)
_EARLY_STOPPING_CONFIDENCE = 0.99
_HARDLY_SKEWED = 1e-6
_FASTEST_OF = 5


class LatencySummary(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The distribution of one model's latencies, in milliseconds.

    Attributes:
        count: of runs.
        mean_ms: their mean.
        mean_low_ms: the lower end of the mean's 95 % confidence interval; None of a single block.
        mean_high_ms: its upper end.
        std_ms: their standard deviation.
        min_ms: the fastest.
        p5_ms: about what a run takes that nothing disturbs.
        p50_ms: half of the runs took no longer; p90_ms, p95_ms and p99_ms likewise.
        p90_bound_ms: what 90 % of all runs keep with 99 % confidence, by MLPerf's early stopping; None of too few runs.
        p99_bound_ms: what 99 % of all runs keep.
        interpolated: whether the percentiles were put together from summaries, since the device tells no single runs.
    """

    count: int
    mean_ms: float
    mean_low_ms: float | None
    mean_high_ms: float | None
    std_ms: float
    min_ms: float
    p5_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    p90_bound_ms: float | None = None
    p99_bound_ms: float | None = None
    interpolated: bool = False

    @property
    def half_width_ms(self) -> float:
        """Half the width of the mean's interval; infinite of a single block."""
        if self.mean_low_ms is None or self.mean_high_ms is None:
            return math.inf
        return (self.mean_high_ms - self.mean_low_ms) / 2

    @property
    def variance(self) -> float:
        """Variance, in ms², of the normal distribution that has this mean and this 95th percentile.

        Latencies are skewed: a few preempted runs make the plain variance large without making
        the 95th percentile late. Deadlines are about that percentile, so it is what is matched.
        """
        return float((max(self.p95_ms - self.mean_ms, 0.0) / _ONE_SIDED_95) ** 2)


class Ratio(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A latency in units of another's, and its 95 % confidence interval."""

    value: float
    low: float
    high: float


class Effort(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long a measurement goes on: until the mean is known well, within floors and caps.

    Attributes:
        relative_half_width: the mean is known well when half its 95 % confidence interval is under this share of it.
        min_runs: the floor, in recorded runs: where rare ones are slow, few runs without any look settled too soon.
        min_seconds: the floor, in seconds of recorded runs.
        max_runs: the cap, in recorded runs.
        max_seconds: the cap, in seconds of recorded runs.
        percentile: a high percentile, such as 0.99, for which MLPerf's early stopping must have enough runs too.
    """

    relative_half_width: float = 0.05
    min_runs: int = 2000
    min_seconds: float = 0.0
    max_runs: int = 20_000
    max_seconds: float = 4.0
    percentile: float | None = None

    def __post_init__(self) -> None:
        if not (self.relative_half_width > 0 and 0 < self.min_runs <= self.max_runs and self.max_seconds > 0):
            raise ValueError("an effort has positive limits, and its floor is not above its cap")
        if self.percentile is not None and not 0 < self.percentile < 1:
            raise ValueError("a percentile is a share between 0 and 1")


def summarize(blocks: Sequence[Block]) -> LatencySummary:
    """Summarises blocks of latency samples (milliseconds; at least one sample)."""
    samples = _pooled(blocks)
    low, high = mean_interval(blocks) if len(blocks) > 1 else (None, None)
    p5, p50, p90, p95, p99 = (float(value) for value in np.percentile(samples, [5, 50, 90, 95, 99]))
    return LatencySummary(
        count=len(samples),
        mean_ms=float(samples.mean()),
        mean_low_ms=low,
        mean_high_ms=high,
        std_ms=float(samples.std(ddof=1)) if len(samples) > 1 else 0.0,
        min_ms=float(samples.min()),
        p5_ms=p5,
        p50_ms=p50,
        p90_ms=p90,
        p95_ms=p95,
        p99_ms=p99,
        p90_bound_ms=early_stopping_bound(samples, 0.90),
        p99_bound_ms=early_stopping_bound(samples, 0.99),
    )


def mean_interval(blocks: Sequence[Block]) -> tuple[float, float]:
    """The 95 % confidence interval of the mean of all samples, in their unit; without bounds of a single block.

    Student's interval over block means, weighted by their sizes (Cochran, Sampling Techniques, 1977, chapter 6: the
    mean of clusters as a ratio estimate), with Hall's transformation against skewness (Hall, 1992, On the Removal of
    Skewness by Transformation): a few preempted runs far above the others make the plain interval too low.
    """
    count = len(blocks)
    if count < 2:
        return -math.inf, math.inf
    sizes = np.array([len(block) for block in blocks], dtype=float)
    sums = np.array([sum(block) for block in blocks], dtype=float)
    mean = float(sums.sum() / sizes.sum())
    residuals = (sums - mean * sizes) / sizes.mean()
    deviation = math.sqrt(float(residuals @ residuals) / count)
    error = deviation / math.sqrt(count - 1)
    skewness = float((residuals**3).mean()) / deviation**3 if deviation else 0.0
    quantile = student_quantile(count - 1)
    return (
        mean - error * _unskewed(quantile, skewness / math.sqrt(count)),
        mean - error * _unskewed(-quantile, skewness / math.sqrt(count)),
    )


def half_width(blocks: Sequence[Block]) -> float:
    """Half the width of ``mean_interval``; infinite of a single block."""
    low, high = mean_interval(blocks)
    return (high - low) / 2


def _unskewed(quantile: float, skewness: float) -> float:
    """The quantile of a studentised mean whose transform, by Hall's cubic, has this quantile of a symmetric one."""
    if abs(skewness) < _HARDLY_SKEWED:
        return quantile
    return float(3 / skewness * (np.cbrt(1 + skewness * (quantile - skewness / 6)) - 1))


def measured_enough(blocks: Sequence[Block], effort: Effort) -> bool:
    """Whether the samples satisfy ``effort``, as the premodel paper's rule has it (half-width under 5 %)."""
    if exhausted(blocks, effort):
        return True
    runs, total_ms = _totals(blocks)
    if runs < effort.min_runs or total_ms < effort.min_seconds * 1e3:
        return False
    if effort.percentile and early_stopping_bound(_pooled(blocks), effort.percentile) is None:
        return False
    return half_width(blocks) <= effort.relative_half_width * total_ms / runs


def exhausted(blocks: Sequence[Block], effort: Effort) -> bool:
    """Whether a cap of ``effort`` is reached."""
    runs, total_ms = _totals(blocks)
    return runs >= effort.max_runs or total_ms >= effort.max_seconds * 1e3


def early_stopping_bound(samples: Array | Block, percentile: float) -> float | None:
    """What the ``percentile`` of the latencies does not exceed, with 99 % confidence; None of too few samples.

    MLPerf Inference's early stopping for single-stream latency (inference rules, appendix "Early Stopping"): where t
    samples above the bound still leave the confidence intact, the t-th slowest. It takes 64 samples for the 90th
    percentile, and 662 for the 99th.
    """
    ordered = np.sort(np.asarray(samples, dtype=float))[::-1]
    allowed = _slow_samples_allowed(len(ordered), percentile)
    return float(ordered[allowed - 1]) if allowed > 0 else None


def _slow_samples_allowed(count: int, percentile: float) -> int:
    """The most samples that may lie above a bound of the percentile; -1 where even none would prove too little.

    The largest t with P(Binomial(count, 1 - percentile) <= t) <= 1 - confidence: so few slow ones would be
    that unlikely, were the percentile above the bound.
    """
    return _most_unlikely(count, 1 - percentile, 1 - _EARLY_STOPPING_CONFIDENCE)


def _most_unlikely(count: int, share: float, chance: float) -> int:
    """The largest k with P(Binomial(count, share) <= k) <= chance; -1 where there is none."""
    total, largest = 0.0, -1
    for k in range(count + 1):
        logarithm = (
            math.lgamma(count + 1) - math.lgamma(k + 1) - math.lgamma(count - k + 1)
            + k * math.log(share) + (count - k) * math.log(1 - share)
        )  # fmt: skip
        total += math.exp(logarithm)
        if total > chance:
            break
        largest = k
    return largest


def paired_ratio(blocks: Sequence[Block], reference: Sequence[Block]) -> Ratio:
    """How many times as long as the reference a model takes undisturbed, from blocks taken in the same rounds.

    The median over rounds of the ratio of the blocks' fastest runs. What slows a whole round down falls on both alike,
    and what disturbs single runs leaves the fastest of a few alone: beside load that comes and goes this varies a
    tenth as much as a ratio of medians. Rounds of short blocks are taken together. The interval is the sign test's,
    between order statistics.
    """
    rounds = min(len(blocks), len(reference))
    together = -(-_FASTEST_OF // min(min(map(len, blocks)), min(map(len, reference))))
    starts = range(0, max(1, rounds - together + 1), together)
    ratios = np.sort([_fastest(blocks, at, together) / _fastest(reference, at, together) for at in starts])
    rank = _median_rank(len(ratios))
    return Ratio(value=float(np.median(ratios)), low=float(ratios[rank]), high=float(ratios[-1 - rank]))


def _fastest(blocks: Sequence[Block], at: int, together: int) -> float:
    return min(min(block) for block in blocks[at : at + together])


def _median_rank(count: int) -> int:
    """The rank, from 0, of the order statistic that bounds the median from below with 97.5 % confidence."""
    return max(_most_unlikely(count, 0.5, 0.025), 0)


def student_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t distribution, to three digits (Cornish-Fisher, Hill 1970, from 4 degrees)."""
    if degrees < 4:
        return {1: 12.706, 2: 4.303, 3: 3.182}[degrees]
    z = NormalDist().inv_cdf(0.975)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    corrections = (term / degrees**power for power, term in enumerate(terms, start=1))
    return z + math.fsum(corrections)


def _totals(blocks: Sequence[Block]) -> tuple[int, float]:
    """The number of runs and their time, in ms; asked for after each round, so without arrays."""
    return sum(map(len, blocks)), float(sum(map(sum, blocks)))


def _pooled(blocks: Sequence[Block]) -> Array:
    return np.concatenate([np.asarray(block, dtype=float) for block in blocks])
