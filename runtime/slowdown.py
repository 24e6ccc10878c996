"""How much slower than its profile the device is at this moment."""

from __future__ import annotations

_WEIGHT = 0.15
_OUTLIER = 3.0


class Slowdown:
    """An exponentially weighted mean and variance of observed over expected latency.

    One outlier counts as at most three times the current mean, so that a single preemption does not
    look like a slow device.
    """

    def __init__(self) -> None:
        self.mean = 1.0
        self.variance = 0.0

    def observe(self, expected_ms: float, observed_ms: float) -> None:
        """Takes note of one run: what the profile promised, and what it took."""
        ratio = min(observed_ms / expected_ms, _OUTLIER * self.mean)
        surprise = ratio - self.mean
        self.mean += _WEIGHT * surprise
        self.variance = (1 - _WEIGHT) * (self.variance + _WEIGHT * surprise**2)

    def mean_ms(self, profiled_ms: float) -> float:
        """The expected latency now of what took ``profiled_ms`` when it was profiled."""
        return profiled_ms * self.mean

    def variance_ms(self, profiled_ms: float, profiled_variance: float) -> float:
        """The variance now, in ms²: that of the profile, scaled, and the slowdown's own."""
        return profiled_variance * self.mean**2 + profiled_ms**2 * self.variance
