"""Energy of a run from a phone's battery, where its charge counter tells: unplugged, and in steps that are fine enough.

The counter is in µAh, and steps every few seconds. What was used is taken from one step to a later one, so that how
coarse the steps are matters little.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

from profiling.android.adb import Adb
from profiling.android.facts import parse_battery
from profiling.profile import Energy

_SOURCE = "battery's charge counter"
_MAX_READINGS = 40
_MIN_STEPS = 5
_MJ_PER_UAH_AND_V = 3.6
_VOLTS_MV = range(2500, 30_000)


class Reading(NamedTuple):
    """The charge left, in µAh, the battery's voltage, in mV, and how many runs there were until then."""

    charge_uah: int
    voltage_mv: int
    runs: int


def energy_of(adb: Adb, run: Callable[[], int]) -> Energy | None:
    """What one run takes from the battery; None where the battery cannot tell.

    Args:
        adb: the connection.
        run: runs the model for some seconds and tells how often.
    """
    readings: list[Reading] = []
    runs = 0
    while len(readings) < _MAX_READINGS:
        reading = read_battery(parse_battery(adb.run("dumpsys battery").output), runs)
        if reading is None:
            return None
        readings.append(reading)
        if len(_steps(readings)) > _MIN_STEPS:
            break
        runs += run()
    return energy_between(readings)


def read_battery(told: Mapping[str, str], runs: int) -> Reading | None:
    """A reading; None of a phone that is powered from elsewhere, or does not tell its charge and voltage.

    Args:
        told: what the battery service tells.
        runs: how many there were until then.
    """
    if any(value == "true" for name, value in told.items() if name.endswith("powered")):
        return None
    charge, voltage = told.get("Charge counter", ""), told.get("voltage", "")
    if not charge.isdecimal() or not voltage.isdecimal() or int(voltage) not in _VOLTS_MV or charge == "0":
        return None
    return Reading(int(charge), int(voltage), runs)


def energy_between(readings: Sequence[Reading]) -> Energy | None:
    """The energy of one run, from the first step of the counter to the last; None where it made too few steps."""
    steps = _steps(readings)
    if len(steps) <= _MIN_STEPS:
        return None
    first, last = steps[0], steps[-1]
    volts = sum(step.voltage_mv for step in steps) / len(steps) / 1e3
    used_mj = (first.charge_uah - last.charge_uah) * _MJ_PER_UAH_AND_V * volts
    return Energy(mj=used_mj / (last.runs - first.runs), source=_SOURCE) if last.runs > first.runs else None


def _steps(readings: Sequence[Reading]) -> list[Reading]:
    """The readings at which the charge had just fallen."""
    return [after for before, after in pairwise(readings) if after.charge_uah < before.charge_uah]
