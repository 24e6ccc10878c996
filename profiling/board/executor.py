"""What a board's agent runs: measurements, and inference in a process that stays while it is needed."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

from fleetfoot.errors import DeviceError
from fleetfoot.wire import pack_array, unpack_array
from profiling.board.jobs import Job
from profiling.board.messages import JobState, Measuring, SentTarget, Tabulating
from profiling.local import LocalDevice
from profiling.process import ModelProcess
from profiling.profile import Conditions, Target

_IDLE_SECONDS = 60.0

Interrupt = Callable[[], None]


class Executor:
    """Runs one job after the other; the model that answered last stays open for a minute, or until one is measured.

    Args:
        path: where the file with a hash is.
        max_memory_bytes: what a model may take; 0 for no limit but the machine's.
    """

    def __init__(self, path: Callable[[str], Path], max_memory_bytes: int = 0) -> None:
        self._path, self._max_memory_bytes = path, max_memory_bytes
        self._process: ModelProcess | None = None
        self._open_target: Target | None = None
        self._used_at = 0.0

    def run(self, job: Job, interrupt: Interrupt) -> JobState:
        """Does a job's work.

        Raises:
            DeviceError: it cannot be done.
            InputError: what came with it is no array.
        """
        work = job.work
        if isinstance(work, Measuring):
            self.close()
            device = LocalDevice(self._max_memory_bytes, interrupt)
            profile = device.measure(
                [self._target(target) for target in work.targets],
                conditions=work.conditions,
                effort=work.effort,
                operators=work.operators,
            )
            return JobState(state="done", profile=msgspec.to_builtins(profile))
        if isinstance(work, Tabulating):
            self.close()
            table = LocalDevice(self._max_memory_bytes, interrupt).operator_table(work.conditions)
            return JobState(state="done", table=msgspec.to_builtins(table))
        outputs, latencies_ms = self._answer(self._target(work.target), unpack_array(job.packed), interrupt)
        return JobState(state="done", outputs=pack_array(outputs), latencies_ms=tuple(latencies_ms))

    def close_if_idle(self) -> None:
        """Ends the open model's process when it has not been used for a minute."""
        if time.monotonic() - self._used_at > _IDLE_SECONDS:
            self.close()

    def close(self) -> None:
        """Ends the open model's process."""
        if self._process is not None:
            self._process.__exit__(None, None, None)
        self._process = self._open_target = None

    def _target(self, sent: SentTarget) -> Target:
        return Target(sent.name, self._path(sent.sha256), sent.signature)

    def _answer(
        self, target: Target, x: npt.NDArray[Any], interrupt: Interrupt
    ) -> tuple[npt.NDArray[np.float32], list[float]]:
        stayed = self._open_target is not None and self._open_target[1:] == target[1:]
        try:
            return _answer_each(self._opened(target, interrupt), x)
        except DeviceError:
            self.close()
            if not stayed:
                raise
            return _answer_each(self._opened(target, interrupt), x)  # it may have died while it waited
        except BaseException:
            self.close()
            raise
        finally:
            self._used_at = time.monotonic()

    def _opened(self, target: Target, interrupt: Interrupt) -> ModelProcess:
        if self._process is None or self._open_target is None or self._open_target[1:] != target[1:]:
            self.close()
            self._process = ModelProcess(target, Conditions(), self._max_memory_bytes, interrupt).__enter__()
            self._open_target = target
        self._process.interrupt = interrupt
        return self._process


def _answer_each(process: ModelProcess, x: npt.NDArray[Any]) -> tuple[npt.NDArray[np.float32], list[float]]:
    """The outputs of inputs of shape (n, …), and what each took, in ms."""
    if x.ndim < 1 or not len(x):
        raise DeviceError("there are no inputs to answer")
    with tempfile.TemporaryDirectory() as directory:
        given, got = Path(directory, "inputs.npy"), Path(directory, "outputs.npy")
        np.save(given, x)
        latencies_ms = process.answer(given, got)
        return np.load(got), latencies_ms
