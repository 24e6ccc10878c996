"""How slow the device is right now, from what runs took."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.slowdown import Slowdown


def after(ratios: list[float], slowdown: Slowdown | None = None) -> Slowdown:
    """A slowdown that has seen runs that took these multiples of what was expected."""
    slowdown = slowdown or Slowdown()
    for ratio in ratios:
        slowdown.observe(2.0, 2.0 * ratio)
    return slowdown


def test_nothing_observed_means_as_profiled() -> None:
    slowdown = Slowdown()
    assert slowdown.mean_ms(3.0) == 3.0
    assert slowdown.variance_ms(3.0, 0.25) == 0.25


@pytest.mark.parametrize("ratio", [0.5, 1.0, 1.7, 2.9])
def test_a_sustained_ratio_is_found_within_thirty_runs(ratio: float) -> None:
    assert after([ratio] * 30).mean == pytest.approx(ratio, rel=0.02)


@pytest.mark.parametrize("ratio", [5.0, 20.0])
def test_a_much_slower_device_is_found_too(ratio: float) -> None:
    assert after([ratio] * 40).mean == pytest.approx(ratio, rel=0.05)


def test_a_noisy_ratio_is_found_on_average() -> None:
    noise = np.random.default_rng(0).lognormal(np.log(1.5), 0.1, 200)
    assert after(noise.tolist()).mean == pytest.approx(1.5, rel=0.1)


@pytest.mark.parametrize("outlier", [10.0, 1000.0])
def test_one_outlier_counts_as_at_most_three_times_the_mean(outlier: float) -> None:
    settled = after([1.0] * 30)
    assert after([outlier], settled).mean <= 1.31


def test_an_outlier_is_forgotten_within_thirty_runs() -> None:
    slowdown = after([1.0] * 30 + [100.0] + [1.0] * 30)
    assert slowdown.mean == pytest.approx(1.0, abs=0.01)
    assert slowdown.variance < 0.01


def test_when_the_device_recovers_so_does_the_estimate() -> None:
    slowdown = after([4.0] * 60)
    assert after([1.0] * 40, slowdown).mean == pytest.approx(1.0, rel=0.02)


def test_a_device_that_wavers_is_less_certain_than_a_steady_one() -> None:
    steady, wavering = after([1.5] * 60), after([1.0, 2.0] * 30)
    assert steady.variance_ms(4.0, 0.1) < wavering.variance_ms(4.0, 0.1)


def test_the_variance_found_is_that_of_the_runs() -> None:
    drawn = np.random.default_rng(1).normal(2.0, 0.2, 400)
    variances = []
    slowdown = Slowdown()
    for ratio in drawn:
        slowdown.observe(1.0, ratio)
        variances.append(slowdown.variance)
    assert np.mean(variances[100:]) == pytest.approx(0.04, rel=0.3)


@given(st.lists(st.floats(0.01, 100), max_size=50))
def test_the_slowdown_stays_within_what_was_observed(ratios: list[float]) -> None:
    slowdown = after(ratios)
    assert min([1.0, *ratios]) * (1 - 1e-9) <= slowdown.mean <= max([1.0, *ratios]) * (1 + 1e-9)
    assert slowdown.variance >= 0


@given(st.lists(st.floats(0.01, 100), max_size=30), st.floats(0.01, 10), st.floats(0, 10))
def test_all_variants_slow_down_alike(ratios: list[float], profiled_ms: float, variance: float) -> None:
    slowdown = after(ratios)
    assert slowdown.mean_ms(2 * profiled_ms) == pytest.approx(2 * slowdown.mean_ms(profiled_ms))
    assert slowdown.variance_ms(2 * profiled_ms, 4 * variance) == pytest.approx(
        4 * slowdown.variance_ms(profiled_ms, variance)
    )
