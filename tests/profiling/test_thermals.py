from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fleetfoot.errors import DeviceError
from profiling.statistics import Block
from profiling.thermals import Clock, heat_up


class Machine:
    """The files of ``/sys`` that tell of clocks."""

    def __init__(self, root: Path, cores: int = 2, throttle_counts: bool = True) -> None:
        self.root = root
        self._cpus = [root / f"devices/system/cpu/cpu{core}" for core in range(cores)]
        self.set_clock(*[2_000_000] * cores)
        if throttle_counts:
            self.set_throttled(0)

    def set_clock(self, *frequencies: int) -> None:
        for cpu, frequency in zip(self._cpus, frequencies, strict=True):
            (cpu / "cpufreq").mkdir(parents=True, exist_ok=True)
            (cpu / "cpufreq/scaling_cur_freq").write_text(f"{frequency}\n")

    def set_throttled(self, count: int) -> None:
        for cpu in self._cpus:
            (cpu / "thermal_throttle").mkdir(parents=True, exist_ok=True)
            (cpu / "thermal_throttle/core_throttle_count").write_text(f"{count}\n")


# --- the clock ---


def test_a_clock_that_stays_is_not_throttled(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    clock = Clock(tmp_path)
    machine.set_clock(1_950_000, 600_000)  # idle cores are clocked down
    clock.read()
    assert not clock.throttled


def test_a_clock_that_falls_by_more_than_a_tenth_is_throttled(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    clock = Clock(tmp_path)
    machine.set_clock(1_700_000, 600_000)
    clock.read()
    assert clock.throttled


def test_a_clock_that_only_rose_is_not_throttled(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.set_clock(600_000, 600_000)
    clock = Clock(tmp_path)
    machine.set_clock(2_000_000, 600_000)
    clock.read()
    assert not clock.throttled


def test_what_the_system_counts_since_the_start_is_throttling(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    machine.set_throttled(7)
    clock = Clock(tmp_path)
    assert not clock.throttled
    machine.set_throttled(8)
    assert clock.throttled


@pytest.mark.parametrize("content", ["", "unknown", None])
def test_a_machine_that_does_not_tell_is_not_throttled(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        Machine(tmp_path)
        for path in tmp_path.rglob("*"):
            if path.is_file():
                path.write_text(content)
    clock = Clock(tmp_path)
    clock.read()
    assert not clock.throttled


def test_this_machine_can_be_asked() -> None:
    clock = Clock()
    clock.read()
    assert clock.throttled in (True, False)


# --- heating up ---


class Oven:
    """A model whose latency follows the time, which passes while it runs only."""

    def __init__(self, latency_ms: Callable[[float], float]) -> None:
        self.seconds = 0.0
        self._latency_ms = latency_ms

    def run(self, runs: int) -> Block:
        latency = self._latency_ms(self.seconds)
        self.seconds += 1.0
        return [latency] * runs

    def clock(self) -> float:
        return self.seconds


def test_heating_ends_once_the_latency_was_steady_for_20_seconds() -> None:
    oven = Oven(lambda seconds: 10.0)
    heat_up({"a": oven.run}, clock=oven.clock)
    assert 40 <= oven.seconds <= 42


def test_heating_goes_on_while_it_gets_slower() -> None:
    oven = Oven(lambda seconds: 10.0 + min(seconds, 200) / 20)
    heat_up({"a": oven.run}, clock=oven.clock)
    assert 200 <= oven.seconds < 300


def test_heating_ends_after_ten_minutes_at_the_latest() -> None:
    oven = Oven(lambda seconds: 1.01**seconds)
    heat_up({"a": oven.run}, clock=oven.clock)
    assert 600 <= oven.seconds < 650


def test_all_models_are_run_in_turn() -> None:
    oven, others = Oven(lambda seconds: 10.0), []

    def other(runs: int) -> Block:
        others.append(runs)
        return [1.0] * runs

    heat_up({"a": oven.run, "b": other}, clock=oven.clock)
    assert len(others) == oven.seconds


def test_a_model_that_fails_is_left_out_of_the_heating() -> None:
    oven = Oven(lambda seconds: 10.0)

    def broken(_: int) -> Block:
        raise DeviceError("it broke")

    models = {"broken": broken, "a": oven.run}
    heat_up(models, clock=oven.clock)
    assert 40 <= oven.seconds <= 42
    assert list(models) == ["broken", "a"]
    heat_up({"broken": broken}, clock=oven.clock)
    heat_up({}, clock=oven.clock)


def test_heating_can_be_interrupted() -> None:
    oven = Oven(lambda seconds: 10.0)

    def interrupt() -> None:
        if oven.seconds > 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        heat_up({"a": oven.run}, interrupt, oven.clock)
    assert oven.seconds < 10
