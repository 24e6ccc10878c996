from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from profiling.stability import drift, has_two_modes, marks


def in_blocks(values: Any, size: int = 10) -> list[list[float]]:
    return [list(values[start : start + size]) for start in range(0, len(values), size)]


def skewed(random: np.random.Generator, runs: int = 2000) -> Any:
    """Latencies around 1 ms, with a long tail."""
    return 0.8 + random.gamma(2, 0.1, runs)


# --- drift ---


@pytest.mark.parametrize("rise", [0.12, 0.3, -0.3])
def test_a_latency_that_rises_or_falls_drifts_by_about_so_much(rise: float) -> None:
    random = np.random.default_rng(0)
    blocks = in_blocks(skewed(random) * np.linspace(1, 1 + rise, 2000))
    assert drift(blocks) == pytest.approx(rise / (1 + rise / 2), abs=0.1)
    assert marks(blocks) == ("drift",)


def test_latencies_that_do_not_change_hardly_ever_drift() -> None:
    random = np.random.default_rng(1)
    alarms = sum(drift(in_blocks(skewed(random, 400))) != 0 for _ in range(1000))
    assert alarms / 1000 < 0.02


@pytest.mark.parametrize("length", [1, 5, 20])
def test_neither_do_those_with_bursts_of_some_blocks_here_and_there(length: int) -> None:
    random = np.random.default_rng(2)
    alarms = 0
    for _ in range(300):
        level = np.ones(200)
        for start in random.integers(0, 200, random.poisson(40 / length)):
            level[start : start + 1 + int(random.exponential(length))] = 1.3
        alarms += "drift" in marks(in_blocks(skewed(random) * np.repeat(level, 10)))
    assert alarms / 300 < 0.03


def test_a_drift_that_matters_to_nobody_is_no_mark() -> None:
    blocks = in_blocks(np.linspace(1, 1.03, 1000))
    assert drift(blocks) == pytest.approx(0.03, rel=0.1)
    assert marks(blocks) == ()


def test_a_few_blocks_tell_of_no_drift() -> None:
    assert drift(in_blocks(np.linspace(1, 2, 70))) == 0
    assert drift(in_blocks(np.linspace(1, 2, 80))) > 0.5


def test_very_many_blocks_are_looked_at_within_seconds() -> None:
    values = np.linspace(1, 1.5, 20_000)
    assert drift(in_blocks(values, 1)) == pytest.approx(0.4, abs=0.05)


# --- two modes ---


@pytest.mark.parametrize("share", [0.15, 0.5, 0.85])
def test_two_clock_rates_are_two_modes(share: float) -> None:
    random = np.random.default_rng(0)
    fast = random.random(2000) < share
    blocks = in_blocks(random.normal(1, 0.02, 2000) * np.where(fast, 1, 1.5))
    assert has_two_modes(blocks)
    assert "two-modes" in marks(blocks)


@pytest.mark.parametrize(
    "values",
    [
        np.random.default_rng(0).normal(10, 1, 2000),
        np.random.default_rng(0).uniform(1, 2, 2000),
        np.random.default_rng(0).exponential(1, 2000),
        np.random.default_rng(0).lognormal(0, 0.5, 2000),
        np.ones(2000),
    ],
    ids=["normal", "uniform", "exponential", "lognormal", "constant"],
)
def test_one_mode_of_whatever_form_is_not_two(values: Any) -> None:
    assert not has_two_modes(in_blocks(values))


def test_one_mode_with_a_few_bursts_is_not_two() -> None:
    random = np.random.default_rng(0)
    slow = np.repeat(random.random(200) < 0.05, 10)
    assert 0.02 < slow.mean() < 0.1
    assert not has_two_modes(in_blocks(random.normal(1, 0.02, 2000) * np.where(slow, 3, 1)))


def test_two_modes_that_are_nearly_one_are_one() -> None:
    random = np.random.default_rng(0)
    assert not has_two_modes(in_blocks(random.normal(1, 0.001, 2000) * np.where(random.random(2000) < 0.5, 1, 1.05)))


@pytest.mark.parametrize("blocks", [[[1.0]], [[1.0, 2.0]], [[1.0] * 5, [2.0] * 5]])
def test_a_handful_of_samples_has_no_marks(blocks: list[list[float]]) -> None:
    assert marks(blocks) == ()


# --- throttling ---


def test_a_device_that_lowered_its_clock_is_marked_first() -> None:
    blocks = in_blocks(np.linspace(1, 2, 1000))
    assert marks(blocks, throttled=True) == ("throttling", "drift")
    assert marks([[1.0] * 10] * 10, throttled=True) == ("throttling",)
