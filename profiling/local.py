"""This machine as a device: each model runs in a child process, so that memory and crashes are its own."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from fleetfoot.console import progress
from fleetfoot.errors import DeviceError
from fleetfoot.files import sha256
from profiling.child import Done, Opened, Samples
from profiling.profile import DeviceInfo, Measurement, Profile, Target, this_device, tool_versions
from profiling.statistics import Effort, measured_enough, summarize

_BLOCK_RUNS = 20
_SHUFFLE_SEED = 0

Reply = TypeVar("Reply", Opened, Samples, Done)


class LocalDevice:
    """The machine that this process runs on."""

    def info(self) -> DeviceInfo:
        """The machine's hardware."""
        return this_device()

    def measure(self, targets: Sequence[Target], *, threads: int = 1, effort: Effort | None = None) -> Profile:
        """Measures the targets in turns of a few runs, the order shuffled each round, one at a time.

        Raises:
            DeviceError: a child could not load its model, or died.
        """
        effort = effort or Effort()
        with ExitStack() as stack:
            children = {target: stack.enter_context(_Child(target, threads)) for target in targets}
            samples = _sample_interleaved(children, effort)
            measurements = {
                target.name: Measurement(
                    file_sha256=sha256(target.path),
                    signature=target.signature,
                    latency=summarize(samples[target]),
                    load_ms=child.opened.load_ms,
                    first_ms=child.opened.first_ms,
                    peak_memory_bytes=child.finish().peak_memory_bytes,
                )
                for target, child in children.items()
            }
        device = self.info()
        return Profile(
            device_id=device.id,
            device=device,
            threads=threads,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=tool_versions(),
            measurements=measurements,
        )


def _sample_interleaved(children: dict[Target, _Child], effort: Effort) -> dict[Target, list[float]]:
    samples: dict[Target, list[float]] = {target: [] for target in children}
    unfinished = list(children)
    shuffle = random.Random(_SHUFFLE_SEED).shuffle  # noqa: S311 (an order, not a secret)
    with progress("profiling", len(children)) as advance:
        while unfinished:
            shuffle(unfinished)
            for target in unfinished:
                samples[target] += children[target].run(_BLOCK_RUNS).samples_ms
            remaining = [target for target in unfinished if not measured_enough(samples[target], effort)]
            advance(len(unfinished) - len(remaining))
            unfinished = remaining
    return samples


class _Child:
    """A process that holds one model and runs it when told to."""

    def __init__(self, target: Target, threads: int) -> None:
        self._target = target
        self._process = subprocess.Popen(  # noqa: S603 (our own interpreter and module)
            [sys.executable, "-m", "profiling.child", str(target.path), target.signature, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.opened: Opened

    def __enter__(self) -> Self:
        try:
            self.opened = self._reply(Opened)
        except BaseException:
            self._close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close()

    def run(self, runs: int) -> Samples:
        """Times ``runs`` runs."""
        self._send(str(runs))
        return self._reply(Samples)

    def finish(self) -> Done:
        """Asks for the peak memory; the child ends."""
        self._send("0")
        return self._reply(Done)

    def _send(self, line: str) -> None:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._died() from None

    def _reply(self, kind: type[Reply]) -> Reply:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._died()
        return msgspec.json.decode(line, type=kind)

    def _died(self) -> DeviceError:
        _, stderr = self._process.communicate()
        lines = stderr.decode(errors="replace").strip().splitlines()
        reason = lines[-1] if lines else f"its process ended with status {self._process.returncode}"
        return DeviceError(f"{self._target.name} cannot be measured here: {reason}")

    def _close(self) -> None:
        self._process.kill()
        self._process.communicate()
