"""Whether latencies are one distribution: marks for those that drift, have two modes, or are of a throttled device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from profiling.statistics import Array, Block

Mark = Literal["drift", "two-modes", "throttling"]

_MIN_BLOCKS = 8
_STRETCHES = 16
_MIN_DRIFT = 0.05
_DRIFT_SCORE = 3.0
_MIN_MODE_SHARE = 0.10
_MIN_MODE_DISTANCE = 1.08
_MIN_SEPARATION = 4.0


def marks(blocks: Sequence[Block], *, throttled: bool = False) -> tuple[Mark, ...]:
    """What is wrong with taking blocks of latencies, in the order they were taken, for one distribution.

    Args:
        blocks: of consecutive runs.
        throttled: whether the device lowered its clock meanwhile.
    """
    found: list[Mark] = []
    if throttled:
        found.append("throttling")
    if abs(drift(blocks)) > _MIN_DRIFT:
        found.append("drift")
    if has_two_modes(blocks):
        found.append("two-modes")
    return tuple(found)


def drift(blocks: Sequence[Block]) -> float:
    """By what share the latency rose (or fell) from the first block to the last; 0 where chance explains it.

    Theil and Sen's slope where Mann and Kendall's trend test has |z| > 3, through the blocks' medians, or where there
    are many, through those of 16 stretches of blocks: the test takes its values for independent, and a burst that
    slows a few blocks running leaves the median of a stretch alone.
    """
    medians = _of_stretches(np.array([np.median(block) for block in blocks]))
    count = len(medians)
    if count < _MIN_BLOCKS:
        return 0.0
    earlier, later = np.triu_indices(count, k=1)
    differences = medians[later] - medians[earlier]
    score = np.sign(differences).sum() / np.sqrt(count * (count - 1) * (2 * count + 5) / 18)
    if abs(score) <= _DRIFT_SCORE:
        return 0.0
    steps = count * (1 - 1 / len(blocks))  # from the first block to the last
    return float(np.median(differences / (later - earlier)) * steps / np.median(medians))


def _of_stretches(medians: Array) -> Array:
    if len(medians) <= _STRETCHES:
        return medians
    return np.array([np.median(stretch) for stretch in np.array_split(medians, _STRETCHES)])


def has_two_modes(blocks: Sequence[Block]) -> bool:
    """Whether the latencies gather around two values, as on a processor with two clock rates or two kinds of core.

    They are parted where that explains most of their variance (Otsu, 1979); two modes are at least 8 % apart, hold
    10 % of the samples each, and are separate: Ashman's D (Ashman et al., 1994) above 4.
    """
    samples = np.sort(np.concatenate([np.asarray(block, dtype=float) for block in blocks]))
    low, high = _parted(samples)
    if min(len(low), len(high)) < _MIN_MODE_SHARE * len(samples) or len(samples) < 2 * _MIN_BLOCKS:
        return False
    distance = high.mean() - low.mean()
    separate = np.sqrt(2) * distance > _MIN_SEPARATION * np.sqrt(low.var() + high.var())
    return bool(separate and high.mean() > _MIN_MODE_DISTANCE * low.mean())


def _parted(ordered: Array) -> tuple[Array, Array]:
    """Sorted samples, parted where the variance between both parts is largest."""
    counts = np.arange(1, len(ordered))
    sums = np.cumsum(ordered)[:-1]
    gaps = sums / counts - (ordered.sum() - sums) / (len(ordered) - counts)
    between = counts * (len(ordered) - counts) * gaps**2
    cut = int(between.argmax()) + 1 if len(ordered) > 1 else 0
    return ordered[:cut], ordered[cut:]
