"""This machine as a device: each model runs in a child process, so that memory and crashes are its own."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from msgspec.structs import replace

from fleetfoot.console import note, progress
from fleetfoot.errors import DeviceError
from fleetfoot.files import sha256
from profiling.energy import energy_of
from profiling.load import busy_processes
from profiling.process import ModelProcess
from profiling.profile import Conditions, DeviceInfo, Measurement, Profile, Target, this_device, tool_versions
from profiling.sampling import Turns, take_turns
from profiling.stability import marks
from profiling.statistics import Effort, paired_ratio, summarize
from profiling.thermals import Clock, heat_up

if TYPE_CHECKING:
    from profiling.operators.table import OperatorTable, TimeModels

_RUNTIME_BYTES = 60 << 20  # of a process with LiteRT and NumPy, before it opens a model
_MOST_AT_ONCE = 100  # each takes a few of the files that a process may have open
_A_CALL = Effort(max_seconds=1.0)
_FILE_COPIES = 4  # a model's memory in sizes of its file: the file, packed weights, activations

Interrupt = Callable[[], None]


class LocalDevice:
    """The machine that this process runs on.

    Args:
        max_memory_bytes: what a model may take; 0 for no limit but the machine's.
        interrupt: called between runs while measuring; what it raises ends the measurement.
    """

    def __init__(self, max_memory_bytes: int = 0, interrupt: Interrupt = lambda: None) -> None:
        self._max_memory_bytes = max_memory_bytes
        self._interrupt = interrupt

    def info(self) -> DeviceInfo:
        """The machine's hardware."""
        return this_device()

    def measure(
        self,
        targets: Sequence[Target],
        *,
        conditions: Conditions = Conditions(),  # noqa: B008 (frozen)
        effort: Effort = Effort(),  # noqa: B008 (frozen)
        operators: bool = False,
    ) -> Profile:
        """Measures the targets in turns of a few runs, the order shuffled each round, one at a time.

        Of more models than memory holds, as many at a time as it does, the first of all among them each time.

        Raises:
            DeviceError: ``conditions`` ask for what this machine has not.
        """
        _check(conditions)
        device = self.info()
        measurements: dict[str, Measurement] = {}
        failures: dict[str, str] = {}
        with ExitStack() as stack:
            if conditions.state == "contended":
                stack.enter_context(busy_processes(device.cores))
            advance = stack.enter_context(progress("profiling", len(targets)))
            for number, group in enumerate(_groups(targets, device.memory_bytes)):
                measured, failed = self._measure_group(group, conditions, effort)
                measurements = measured | measurements  # the first of all keeps its first measurement
                failures |= failed
                advance(len(group) - (number > 0))
            if operators:
                measurements = self._with_operators(measurements, targets, conditions)
        return Profile(
            device_id=device.id,
            device=device,
            conditions=conditions,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=tool_versions(),
            measurements={target.name: measurements[target.name] for target in targets if target.name in measurements},
            failures={name: why for name, why in failures.items() if name not in measurements},
        )

    def answer(self, target: Target, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Runs a target in a child process on inputs of shape (n, …); returns its outputs, of shape (n, classes)."""
        with tempfile.TemporaryDirectory() as directory:
            inputs, outputs = Path(directory, "inputs.npy"), Path(directory, "outputs.npy")
            np.save(inputs, x)
            with ModelProcess(target, Conditions(), self._max_memory_bytes) as process:
                process.answer(inputs, outputs)
            answers: npt.NDArray[np.float32] = np.load(outputs)
        return answers

    def operator_table(self, conditions: Conditions) -> OperatorTable:
        """The times of single operators here, from the cache or measured now."""
        from profiling.operators.table import kept_table

        return kept_table(self.info().id, conditions, tool_versions(), *self.operator_timers(conditions))

    def operator_timers(self, conditions: Conditions) -> tuple[TimeModels, Callable[[Path], float]]:
        """What times models of single operators here, and what times one with handing it the input.

        Raises:
            DeviceError: ``conditions`` ask for what this machine has not.
        """
        from profiling.operators.single import SIGNATURE
        from profiling.operators.timing import in_child

        _check(conditions)

        def time_call(path: Path) -> float:
            target = Target("a call", path, SIGNATURE)
            measured = self.measure([target], conditions=conditions, effort=_A_CALL)
            if why := measured.failures.get(target.name):
                raise DeviceError(why)
            return measured.measurements[target.name].latency.p5_ms

        return in_child(conditions, self._interrupt), time_call

    def close(self) -> None:
        """Nothing is left to end."""

    def _measure_group(
        self, targets: Sequence[Target], conditions: Conditions, effort: Effort
    ) -> tuple[dict[str, Measurement], dict[str, str]]:
        with ExitStack() as stack:
            processes, failures = self._open(targets, conditions, stack)
            runs = {name: process.run for name, process in processes.items()}
            if conditions.state == "sustained":
                heat_up(runs, self._interrupt)
            clock = Clock()

            def after_round(_: Turns[str]) -> None:
                clock.read()
                self._interrupt()

            run_ms = {name: process.opened.run_ms for name, process in processes.items()}
            turns = take_turns(runs, run_ms, effort, after_round=after_round)
            failures |= turns.failures
            throttled = clock.throttled
            measurements = {}
            for target in targets:
                if target.name in processes and target.name not in failures:
                    try:
                        measurements[target.name] = _measurement(
                            target, processes[target.name], turns, targets[0].name, throttled
                        )
                    except DeviceError as error:
                        failures[target.name] = str(error)
        return measurements, failures

    def _with_operators(
        self, measurements: Mapping[str, Measurement], targets: Sequence[Target], conditions: Conditions
    ) -> dict[str, Measurement]:
        """The measurements, with times of operators cut out of the models, as LiteRT does not tell them here."""
        from profiling.operators.timing import operators_in_child

        timed = dict(measurements)
        for target in targets:
            if target.name in measurements:
                try:
                    times = operators_in_child(target, conditions, self._max_memory_bytes, self._interrupt)
                    timed[target.name] = replace(measurements[target.name], operators=times)
                except DeviceError as error:
                    note(f"{target.name}: no times of single operators: {error}")
        return timed

    def _open(
        self, targets: Sequence[Target], conditions: Conditions, stack: ExitStack
    ) -> tuple[dict[str, ModelProcess], dict[str, str]]:
        """The processes of the targets that can be opened, which the stack ends, and why the others cannot."""
        processes: dict[str, ModelProcess] = {}
        failures: dict[str, str] = {}
        for target in targets:
            self._interrupt()
            try:
                process = stack.enter_context(ModelProcess(target, conditions, self._max_memory_bytes, self._interrupt))
                processes[target.name] = process
            except DeviceError as error:
                failures[target.name] = str(error)
        return processes, failures


def _measurement(
    target: Target, process: ModelProcess, turns: Turns[str], reference: str, throttled: bool
) -> Measurement:
    blocks = turns[target.name]
    comparable = reference != target.name and reference not in turns.failures and reference in turns
    return Measurement(
        file_sha256=sha256(target.path),
        signature=target.signature,
        latency=summarize(blocks),
        relative=paired_ratio(blocks, turns[reference]) if comparable else None,
        load_ms=process.opened.load_ms,
        first_ms=process.opened.first_ms,
        unstable=marks(blocks, throttled=throttled),
        energy=energy_of(process.run, process.opened.run_ms),
        peak_memory_bytes=process.finish().peak_memory_bytes,
    )


def _check(conditions: Conditions) -> None:
    if conditions.delegate not in ("cpu", "xnnpack"):
        raise DeviceError(f"this machine has no delegate {conditions.delegate}: it computes on its processor")
    if missing := set(conditions.cpus) - set(range(os.cpu_count() or 1)):
        raise DeviceError(f"there is no core {min(missing)} here: cores are numbered 0 to {(os.cpu_count() or 1) - 1}")


def _groups(targets: Sequence[Target], memory_bytes: int) -> Iterator[list[Target]]:
    """The targets, as many at once as half of the memory holds, each time with the first of all in front."""
    if not targets:
        return
    reference, group = targets[0], [targets[0]]
    for target in targets[1:]:
        full = sum(_expected_bytes(one) for one in (*group, target)) > memory_bytes / 2 or len(group) == _MOST_AT_ONCE
        if full and len(group) > 1:
            yield group
            group = [reference]
        group.append(target)
    yield group


def _expected_bytes(target: Target) -> int:
    size = target.path.stat().st_size if target.path.exists() else 0
    return _RUNTIME_BYTES + _FILE_COPIES * size
