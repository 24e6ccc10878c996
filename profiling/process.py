"""A child process that holds one model, seen from the process that measures."""

from __future__ import annotations

import math
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from fleetfoot.errors import DeviceError
from profiling.child import Answer, Answered, Done, Finish, Opened, Opening, Run, Samples
from profiling.profile import Conditions, Target
from profiling.statistics import Block

_REPLY_SECONDS = 120.0
_SHORT_RUN_MS = 5.0
_UNRECORDED_RUNS = 2
_TICK_SECONDS = 0.5

Reply = TypeVar("Reply", Opened, Samples, Answered, Done)


class ModelProcess:
    """A process that holds one model and runs it when told to.

    Args:
        target: the model.
        conditions: its threads and cores.
        max_memory_bytes: what loading and running it may take; 0 for no limit but the machine's.
        interrupt: called while an answer is waited for; what it raises ends the process.

    Raises:
        DeviceError: no process can be started.
    """

    def __init__(
        self,
        target: Target,
        conditions: Conditions,
        max_memory_bytes: int = 0,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        self._target = target
        self.interrupt = interrupt
        self._end = ""
        opening = Opening(
            path=str(target.path),
            signature=target.signature,
            threads=conditions.threads,
            cpus=conditions.cpus,
            max_memory_bytes=max_memory_bytes,
        )
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (closed with the process); a full pipe would stop it
        try:
            self._process = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
                [sys.executable, "-m", "profiling.child", msgspec.json.encode(opening).decode()],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
            )
        except OSError as error:
            self._stderr.close()
            raise DeviceError(f"no process can be started for {target.name}: {error.strerror}") from None
        self.opened: Opened

    def __enter__(self) -> Self:
        """Waits until the model is open and warm.

        Raises:
            DeviceError: it cannot be opened or run.
        """
        try:
            self.opened = self._reply(Opened, _REPLY_SECONDS)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def run(self, runs: int) -> Block:
        """The latencies of ``runs`` runs, in ms, after a few that are not recorded."""
        unrecorded = _UNRECORDED_RUNS if self.opened.run_ms < _SHORT_RUN_MS else 0
        self._send(Run(runs, unrecorded))
        return self._reply(Samples, _REPLY_SECONDS).samples_ms

    def answer(self, inputs: Path, outputs: Path) -> list[float]:
        """Runs the inputs of one .npy file, one by one, into another; returns what each took, in ms."""
        self._send(Answer(str(inputs), str(outputs)))
        return self._reply(Answered).latencies_ms

    def finish(self) -> Done:
        """Asks for the peak memory; the process ends."""
        self._send(Finish())
        return self._reply(Done, _REPLY_SECONDS)

    def _send(self, message: msgspec.Struct) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):  # the latter once it was found dead
            raise self._died() from None

    def _reply(self, kind: type[Reply], seconds: float = math.inf) -> Reply:
        assert self._process.stdout is not None
        until = time.monotonic() + seconds
        while not self._end and not select.select([self._process.stdout], [], [], _TICK_SECONDS)[0]:
            self.interrupt()
            if time.monotonic() > until:
                self._end = f"it did not answer in {seconds:.0f} s"
                self._close()  # lest it goes on beside what is measured next
        line = b"" if self._end else self._process.stdout.readline()
        if not line:
            raise self._died()
        return msgspec.json.decode(line, type=kind)

    def _died(self) -> DeviceError:
        """Why the process ended, each time the same."""
        if not self._end:
            self._process.communicate()
            self._stderr.seek(0)
            lines = self._stderr.read().decode(errors="replace").strip().splitlines()
            self._end = _reason(self._process.returncode, lines)
        return DeviceError(f"{self._target.name} cannot be measured here: {self._end}")

    def _close(self) -> None:
        self._process.kill()
        with suppress(BrokenPipeError, ValueError):  # what it was not told, and streams that are closed already
            self._process.communicate()
        self._stderr.close()


def _reason(status: int, said: list[str]) -> str:
    if any("bad_alloc" in line or "MemoryError" in line for line in said):
        return "it needs more memory than it may have"
    if status == -signal.SIGKILL:
        return "its process was killed, as the system does when memory runs out"
    if status < 0:
        return f"its process died of {signal.Signals(-status).name}"
    return said[-1] if said else f"its process ended with status {status}"
