"""How much slower than its profile the device is at this moment."""

from __future__ import annotations

_WEIGHT = 0.15
_OUTLIER = 2.0
_FORGETTING = 0.02
_MOST = 100.0


class Slowdown:
    """An exponentially weighted mean and variance of observed over expected latency.

    One observation counts as at most twice the current mean, so that a single preemption
    hardly moves it; a device that stays slow is believed within a few runs.
    """

    def __init__(self) -> None:
        self.mean = 1.0
        self.variance = 0.0

    def observe(self, expected_ms: float, observed_ms: float) -> None:
        """Takes note of one run: what the profile promised, and what it took."""
        ratio = min(observed_ms / expected_ms, _OUTLIER * self.mean, _MOST)
        surprise = ratio - self.mean
        self.mean += _WEIGHT * surprise
        self.variance = (1 - _WEIGHT) * (self.variance + _WEIGHT * surprise**2)

    def forget(self) -> None:
        """Goes a little back towards the profile, when a request was refused and so nothing was observed.

        Without it, a device once taken for too slow would never be tried again.
        """
        self.mean += _FORGETTING * (1.0 - self.mean)
        self.variance *= 1 - _FORGETTING

    def mean_ms(self, profiled_ms: float) -> float:
        """The expected latency now of what took ``profiled_ms`` when it was profiled."""
        return profiled_ms * self.mean

    def variance_ms(self, profiled_ms: float, profiled_variance: float) -> float:
        """The variance now, in ms²: the larger of the profile's, scaled, and the slowdown's own."""
        return max(profiled_variance * self.mean**2, profiled_ms**2 * self.variance)
