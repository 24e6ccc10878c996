"""Times of single operators on a device: of some that were described, as a table, or of those of a network."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from fleetfoot.console import note
from fleetfoot.errors import DeviceError, NotAZooError, SchemaError
from fleetfoot.files import Document
from fleetfoot.folders import cache_directory
from profiling.nested import alone
from profiling.operators import layers
from profiling.operators.design import design
from profiling.operators.operator import Operator
from profiling.operators.single import cut_operator, read_operators, synthesize
from profiling.profile import Conditions, OperatorTime

IDLE = layers.reshape((1, 16), (1, 16))
"""An operator that does nothing: its model takes what a call costs."""

FREE = frozenset({"RESHAPE", "SQUEEZE", "EXPAND_DIMS"})
"""Kinds that only say how values are to be seen: inside a network nothing is done for them."""


class Timing(NamedTuple):
    """How long one run of a model takes, and how many runs that is from.

    Attributes:
        ms: milliseconds of a run that nothing else on the machine slowed, such as a low percentile of all.
        runs: how many were timed.
    """

    ms: float
    runs: int


TimeModels = Callable[[Sequence[Path]], Sequence[Timing | None]]
"""Times model files on a device, interleaved; None for what does not run there."""


class TimedOperator(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The time of a model of one operator: the operator's own, and that of the call."""

    operator: Operator
    ms: float
    runs: int


class OperatorTable(Document, frozen=True, kw_only=True):
    """Times of operators on one device.

    Attributes:
        device_id: the device.
        threads: how many threads the models ran on.
        created: when, in ISO 8601.
        versions: of everything that took part.
        overhead_ms: what running a model takes whatever is in it.
        call_ms: that, and handing it the input and taking its output, as whoever measures models does.
        timings: the operators, each once.
    """

    device_id: str
    threads: int
    created: str
    versions: dict[str, str]
    overhead_ms: float
    call_ms: float
    timings: list[TimedOperator]


def kept_table(
    device_id: str,
    conditions: Conditions,
    versions: Mapping[str, str],
    time_models: TimeModels,
    time_call: Callable[[Path], float] | None = None,
) -> OperatorTable:
    """The table of a device, from the cache, or else measured and kept there: that takes minutes, once.

    Args:
        device_id: the device's.
        conditions: what holds meanwhile.
        versions: of everything that takes part.
        time_models: times models of single operators.
        time_call: times a model as whoever measures models does, with what it takes to hand it the input; by default
            that takes nothing.

    It is measured anew with other versions of what takes part, and for other threads, cores or delegates.

    Raises:
        DeviceError: the device runs nothing at all.
    """
    path = cache_directory() / "operators" / f"{'+'.join(filter(None, (device_id, conditions.slug)))}.json"
    with suppress(NotAZooError, SchemaError):
        table = OperatorTable.read(path)
        if table.versions == versions:
            return table
    note(f"measuring single operators on {device_id}, once: this takes a minute or more")
    table = measure_table(design(), time_models, device_id=device_id, threads=conditions.threads, versions=versions)
    if time_call is not None:
        table = msgspec.structs.replace(table, call_ms=_time_idle(time_call))
    table.write(path)
    return table


def _time_idle(time_call: Callable[[Path], float]) -> float:
    with tempfile.TemporaryDirectory() as directory:
        idle = Path(directory) / "idle.tflite"
        synthesize(IDLE, idle)
        return time_call(idle)


def operator_times(path: Path, signature: str, time_models: TimeModels) -> tuple[OperatorTime, ...]:
    """The times of a network's operators, as ``time_operators`` has them, for a profile."""
    with alone(path, signature) as file:  # else a nested network is put together for each of its operators
        return tuple(
            OperatorTime(name=operator.title, kind=operator.kind, ms=ms)
            for operator, ms in time_operators(file, signature, time_models)
        )


def measure_table(
    operators: Iterable[Operator],
    time_models: TimeModels,
    *,
    device_id: str,
    threads: int,
    versions: Mapping[str, str],
) -> OperatorTable:
    """Times operators as models of their own; what the device does not run is left out.

    Raises:
        ModelError: an operator that no model can be made of.
        DeviceError: the device runs nothing at all.
    """
    wanted = list(dict.fromkeys([IDLE, *operators]))
    with tempfile.TemporaryDirectory() as directory:
        paths = [Path(directory) / f"{number}.tflite" for number in range(len(wanted))]
        for operator, path in zip(wanted, paths, strict=True):
            synthesize(operator, path)
        timings = time_models(paths)
    timed = [
        TimedOperator(operator=operator, ms=timing.ms, runs=timing.runs)
        for operator, timing in zip(wanted, timings, strict=True)
        if timing is not None
    ]
    return OperatorTable(
        device_id=device_id,
        threads=threads,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=dict(versions),
        overhead_ms=_overhead(timings[0]),
        call_ms=_overhead(timings[0]),
        timings=timed,
    )


def time_operators(path: Path, signature: str, time_models: TimeModels) -> list[tuple[Operator, float | None]]:
    """Milliseconds of each operator of a network, cut out of it and run alone; equal ones are timed once.

    Where a runtime tells the times of operators itself, ask it: alone, an operator finds its data in faster memory.

    Args:
        path: the model file.
        signature: the signature in it.
        time_models: times files on the device.

    Returns:
        The operators in their order with their own time, without that of the call; None where the device does not
        run one alone.

    Raises:
        ModelError: a file that cannot be read, or has no such signature.
        DeviceError: the device runs nothing at all.
    """
    operators = read_operators(path, signature)
    places = {operator: index for index, operator in reversed(list(enumerate(operators)))}
    with tempfile.TemporaryDirectory() as directory:
        idle = Path(directory) / "idle.tflite"
        synthesize(IDLE, idle)
        cuts = [Path(directory) / f"{index}.tflite" for index in places.values()]
        for index, cut in zip(places.values(), cuts, strict=True):
            cut_operator(path, signature, index, cut)
        idle_timing, *timings = time_models([idle, *cuts])
    overhead_ms = _overhead(idle_timing)
    times = {
        operator: own_ms(operator, timing.ms, overhead_ms) if timing is not None else None
        for operator, timing in zip(places, timings, strict=True)
    }
    return [(operator, times[operator]) for operator in operators]


def own_ms(operator: Operator, ms: float, overhead_ms: float) -> float:
    """What an operator adds to a network, of what a model of it alone takes."""
    return 0.0 if operator.kind in FREE else max(ms - overhead_ms, 0.0)


def _overhead(idle: Timing | None) -> float:
    if idle is None:
        raise DeviceError("the device does not run a model of one RESHAPE: is LiteRT there?")
    return idle.ms
