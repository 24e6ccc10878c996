"""What single operators take on a device: measured once and kept, or told from the device's table."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Protocol

from msgspec.structs import replace

from fleetfoot.console import note
from fleetfoot.errors import NotAZooError, SchemaError
from fleetfoot.folders import cache_directory
from profiling.device import Device
from profiling.local import LocalDevice
from profiling.operators.operator import Operator
from profiling.operators.prediction import Predictor
from profiling.operators.single import synthesize
from profiling.operators.table import IDLE, OperatorTable, TimedOperator, TimeModels, measure_table, own_ms
from profiling.profile import Conditions, tool_versions

_ANCHORS = 15


class Prices(Protocol):
    """What tells the times of operators on a device."""

    @property
    def call_ms(self) -> float:
        """What a call of a network takes, whatever is in it."""
        ...

    def own_ms(self, operators: Iterable[Operator]) -> dict[Operator, float]:
        """Milliseconds that each operator adds to a network; what cannot be told is not among them.

        Raises:
            DeviceError: the device went away, or runs nothing at all.
        """
        ...


class MeasuredPrices:
    """Times of operators that are measured when they are first asked for, and kept in the cache directory.

    Those asked for together are measured in turns. With later ones, some that are known are measured again: by what
    these took before, the later times are told in the same units, however fast the machine is then.

    Args:
        device_id: the device's.
        conditions: what holds meanwhile.
        versions: of everything that takes part; what others measured is not used.
        time_models: times models of single operators.
        time_call: times a model as whoever measures networks does, with handing it the input; by default that takes
            nothing.
    """

    def __init__(
        self,
        device_id: str,
        conditions: Conditions,
        versions: Mapping[str, str],
        time_models: TimeModels,
        time_call: Callable[[Path], float] | None = None,
    ) -> None:
        self._device_id = device_id
        self._threads = conditions.threads
        self._versions = dict(versions)
        self._time_models = time_models
        self._time_call = time_call
        self._path = cache_directory() / "widths" / f"{'+'.join(filter(None, (device_id, conditions.slug)))}.json"
        self._table = self._kept()

    @property
    def call_ms(self) -> float:
        """What a call of a network takes, whatever is in it."""
        if self._table is None:
            self._measure([])
        assert self._table is not None
        return self._table.call_ms

    def own_ms(self, operators: Iterable[Operator]) -> dict[Operator, float]:
        """Milliseconds that each operator adds to a network; what the device does not run alone is not among them.

        Raises:
            DeviceError: the device runs nothing at all.
        """
        wanted = list(dict.fromkeys(operators))
        known = self._known()
        if missing := [operator for operator in wanted if operator not in known]:
            self._measure(missing)
            known = self._known()
        return {operator: known[operator] for operator in wanted if operator in known}

    def _known(self) -> dict[Operator, float]:
        table = self._table
        return {t.operator: own_ms(t.operator, t.ms, table.overhead_ms) for t in table.timings} if table else {}

    def _kept(self) -> OperatorTable | None:
        with suppress(NotAZooError, SchemaError):
            table = OperatorTable.read(self._path)
            if table.versions == self._versions:
                return table
        return None

    def _measure(self, operators: Sequence[Operator]) -> None:
        note(f"measuring {len(operators)} single operators on {self._device_id}, once")
        anchors = _spread(self._table.timings, _ANCHORS) if self._table else []
        measured = measure_table(
            [*(timed.operator for timed in anchors), *operators],
            self._time_models,
            device_id=self._device_id,
            threads=self._threads,
            versions=self._versions,
        )
        if self._table is None:
            self._table = replace(measured, call_ms=self._timed_call(measured.overhead_ms))
        else:
            self._table = _joined(self._table, measured, anchors)
        self._table.write(self._path)

    def _timed_call(self, overhead_ms: float) -> float:
        if self._time_call is None:
            return overhead_ms
        with tempfile.TemporaryDirectory() as directory:
            idle = Path(directory) / "idle.tflite"
            synthesize(IDLE, idle)
            return self._time_call(idle)


class PredictedPrices:
    """Times of operators as a device's table tells them: of those in it, and learned from them of others.

    Args:
        table: the device's.
    """

    def __init__(self, table: OperatorTable) -> None:
        self._predictor = Predictor(table)
        self._call_ms = table.call_ms

    @property
    def call_ms(self) -> float:
        """What a call of a network takes, whatever is in it."""
        return self._call_ms

    def own_ms(self, operators: Iterable[Operator]) -> dict[Operator, float]:
        """Milliseconds that each operator adds to a network; what the table cannot price is not among them."""
        wanted = list(dict.fromkeys(operators))
        prices = self._predictor.predict(wanted).operator_ms
        return {operator: ms for operator, ms in zip(wanted, prices, strict=True) if ms is not None}


def prices_of(device: Device, conditions: Conditions = Conditions()) -> Prices:  # noqa: B008 (frozen)
    """What tells the times of operators on a device: this machine measures those it is asked for, others tell a table.

    Args:
        device: to price operators on.
        conditions: what holds meanwhile.

    Raises:
        DeviceError: the device went away, or runs nothing at all.
    """
    if not isinstance(device, LocalDevice):
        return PredictedPrices(device.operator_table(conditions))
    return MeasuredPrices(device.info().id, conditions, tool_versions(), *device.operator_timers(conditions))


def _spread(timings: Sequence[TimedOperator], count: int) -> list[TimedOperator]:
    """Some timings from the longer half."""
    longer = sorted(timings, key=lambda timed: -timed.ms)[: max(1, len(timings) // 2)]
    return longer[:: max(1, len(longer) // count)]


def _joined(table: OperatorTable, later: OperatorTable, anchors: Sequence[TimedOperator]) -> OperatorTable:
    """A table with the times of a later one, in units of its own."""
    now = {timed.operator: timed.ms for timed in later.timings}
    ratios = [timed.ms / now[timed.operator] for timed in anchors if timed.operator in now]
    scale = median(ratios) if ratios else 1.0
    known = {timed.operator for timed in table.timings}
    added = [
        replace(timed, ms=max(timed.ms - later.overhead_ms, 0.0) * scale + table.overhead_ms)
        for timed in later.timings
        if timed.operator not in known
    ]
    created = datetime.now(UTC).isoformat(timespec="seconds")
    return replace(table, created=created, timings=[*table.timings, *added])
