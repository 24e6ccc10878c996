"""Energy, where the machine can tell: Intel's and AMD's RAPL counters, and the INA sensors of Jetson boards."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from profiling.profile import Energy
from profiling.statistics import Block

_SECONDS = 1.0
_SENSOR_PERIOD_S = 0.01
# By how much of the board they feed.
_JETSON_RAILS = ("VDD_IN", "POM_5V_IN", "5V_IN", "VIN_SYS_5V0", "VDD_GPU_SOC")


class Meter(Protocol):
    """Something that tells how much energy was used."""

    source: str

    def measure_mj(self, work: Callable[[], None]) -> float:
        """The energy used while ``work`` runs, in millijoules."""
        ...


class RaplMeter:
    """The package's energy counter, which the kernel shows under ``/sys/class/powercap``."""

    source = "RAPL package"

    def __init__(self, zone: Path) -> None:
        self._counter = zone / "energy_uj"
        self._range_uj = int((zone / "max_energy_range_uj").read_text())

    def measure_mj(self, work: Callable[[], None]) -> float:
        """The counter's difference; it wraps at its range."""
        before = int(self._counter.read_text())
        work()
        return (int(self._counter.read_text()) - before) % (self._range_uj + 1) / 1e3


class InaMeter:
    """An INA3221 or INA219 power monitor on a board's supply rail, in the kernel's hwmon form: mV, and mA."""

    def __init__(self, volts: Path, amperes: Path, rail: str) -> None:
        self._millivolts, self._milliamperes = volts, amperes
        self.source = f"INA {rail}"

    def measure_mj(self, work: Callable[[], None]) -> float:
        """The power, sampled beside the work, over time."""
        samples_mw, ended = [self._power_mw()], threading.Event()

        def sample() -> None:
            while not ended.wait(_SENSOR_PERIOD_S):
                with suppress(OSError, ValueError):  # a bus that is busy for a moment
                    samples_mw.append(self._power_mw())

        sampler = threading.Thread(target=sample)
        start = time.perf_counter()
        sampler.start()
        try:
            work()
        finally:
            seconds = time.perf_counter() - start
            ended.set()
            sampler.join()
        return sum(samples_mw) / len(samples_mw) * seconds

    def _power_mw(self) -> float:
        return int(self._millivolts.read_text()) * int(self._milliamperes.read_text()) / 1e3


def find_meter(sys: Path = Path("/sys")) -> Meter | None:
    """The meter of the whole board, or else of the processor's package, if there is one that may be read."""
    return _ina(sys) or _rapl(sys)


def energy_of(run: Callable[[int], Block], run_ms: float, meter: Meter | None = None) -> Energy | None:
    """What one run takes, over about a second of them; None where nothing can tell.

    Args:
        run: runs the model so many times.
        run_ms: about what a run takes.
        meter: what tells; by default what this machine has.
    """
    meter = meter or find_meter()
    if meter is None:
        return None
    runs = max(1, round(_SECONDS * 1e3 / run_ms))
    try:
        return Energy(mj=meter.measure_mj(lambda: _do(run, runs)) / runs, source=meter.source)
    except (OSError, ValueError):  # it stopped telling
        return None


def _do(run: Callable[[int], Block], runs: int) -> None:
    run(runs)


def _rapl(sys: Path) -> Meter | None:
    for zone in sorted((sys / "class/powercap").glob("intel-rapl:[0-9]")):
        try:
            meter = RaplMeter(zone)
            meter.measure_mj(lambda: None)
        except (OSError, ValueError):
            continue  # since 2020 only root may read it
        return meter
    return None


def _ina(sys: Path) -> Meter | None:
    labels = {_text(label): label for label in sorted((sys / "class/hwmon").glob("hwmon*/in*_label"))}
    for rail in (rail for rail in _JETSON_RAILS if rail in labels):
        number = labels[rail].name.removeprefix("in").removesuffix("_label")
        meter = InaMeter(
            labels[rail].with_name(f"in{number}_input"), labels[rail].with_name(f"curr{number}_input"), rail
        )
        try:
            meter.measure_mj(lambda: None)
        except (OSError, ValueError):
            continue
        return meter
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""
