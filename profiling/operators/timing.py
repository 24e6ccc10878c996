"""Times many small models on this machine, in turns, in one process: ``python -m profiling.operators.timing``.

It is told what to time as a line of JSON on standard input, and answers with one on standard output.
"""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fleetfoot.console import progress
from fleetfoot.errors import DeviceError, FleetfootError, ModelError
from profiling.invoke import Model, pin, time_runs
from profiling.memory import be_first_to_go, limit_memory
from profiling.operators.single import SIGNATURE
from profiling.operators.table import TimeModels, Timing, operator_times
from profiling.profile import Conditions, OperatorTime, Target

QUIET = 0.05
"""The share of runs below the time that is taken.

What else runs on a machine makes all models slower for seconds at a time: a median falls into either state by chance,
a low percentile into the quiet one.
"""

_PASSES, _ROUNDS = 3, 7
_AT_ONCE = 64
_SECONDS_A_ROUND = 0.005
_FEWEST, _MOST = 2, 10
_UNRECORDED = 1
_TICK_SECONDS = 0.5

Run = Callable[[], object]


class _Request(msgspec.Struct):
    """What the process is told: to time these models, or, of one with a signature, its operators."""

    paths: list[str]
    threads: int
    cpus: tuple[int, ...]
    max_memory_bytes: int = 0
    signature: str | None = None


def in_child(conditions: Conditions, interrupt: Callable[[], None] = lambda: None) -> TimeModels:
    """What times models under these conditions, in a process of its own; ``interrupt`` ends it by what it raises."""

    def time_there(paths: Sequence[Path]) -> list[Timing | None]:
        request = _Request([str(path) for path in paths], conditions.threads, conditions.cpus)
        return msgspec.json.decode(_told_by_child(request, interrupt), type=list[Timing | None])

    return time_there


def operators_in_child(
    target: Target, conditions: Conditions, max_memory_bytes: int = 0, interrupt: Callable[[], None] = lambda: None
) -> tuple[OperatorTime, ...]:
    """The times of a network's operators, cut out of it and timed in a process of its own, which reads the file too.

    Raises:
        DeviceError: they cannot be timed.
    """
    request = _Request([str(target.path)], conditions.threads, conditions.cpus, max_memory_bytes, target.signature)
    return msgspec.json.decode(_told_by_child(request, interrupt), type=tuple[OperatorTime, ...])


def _told_by_child(request: _Request, interrupt: Callable[[], None]) -> bytes:
    with tempfile.TemporaryFile() as asked, tempfile.TemporaryFile() as answer, tempfile.TemporaryFile() as said:
        asked.write(msgspec.json.encode(request))
        asked.seek(0)
        process = subprocess.Popen(
            [sys.executable, "-m", "profiling.operators.timing"], stdin=asked, stdout=answer, stderr=said
        )
        _wait(process, interrupt)
        answer.seek(0)
        said.seek(0)
        if process.returncode:
            lines = said.read().decode(errors="replace").strip().splitlines()
            reason = lines[-1] if lines else f"their process ended with status {process.returncode}"
            raise DeviceError(f"single operators cannot be timed here: {reason}")
        return answer.read()


def _wait(process: subprocess.Popen[bytes], interrupt: Callable[[], None]) -> None:
    """Waits for a process, which does not outlive what ``interrupt`` raises."""
    try:
        while process.poll() is None:
            interrupt()
            with suppress(subprocess.TimeoutExpired):
                process.wait(_TICK_SECONDS)
    finally:
        process.kill()
        process.wait()


def time_models(paths: Sequence[Path], threads: int = 1) -> list[Timing | None]:
    """Times models of any inputs, filled once with random values; None for those that cannot be opened."""
    return [
        Timing(float(np.quantile(samples, QUIET)), len(samples)) if samples else None
        for samples in sample_models(paths, threads)
    ]


def sample_models(paths: Sequence[Path], threads: int = 1) -> list[list[float]]:
    """Milliseconds of runs of each model, of which there are none where it cannot be opened.

    A few models are open at a time. They take turns of a few runs, the order shuffled; all come up in several
    passes with other neighbours, so that a slow spell falls on no model alone.
    """
    samples: dict[Path, list[float]] = {path: [] for path in paths}
    shuffle = random.Random(0).shuffle  # noqa: S311 (an order, not a secret)
    order = list(samples)
    with progress("timing models", _PASSES * len(order)) as advance:
        for _ in range(_PASSES):
            shuffle(order)
            for start in range(0, len(order), _AT_ONCE):
                together = order[start : start + _AT_ONCE]
                _time_together(together, threads, samples, shuffle)
                advance(len(together))
    return [samples[path] for path in paths]


def _time_together(
    paths: Sequence[Path], threads: int, samples: dict[Path, list[float]], shuffle: Callable[[list[Any]], None]
) -> None:
    runs = {path: run for path in paths if (run := open_model(path, threads)) is not None}
    counts = {path: _runs_a_round(run) for path, run in runs.items()}
    turns = list(runs)
    for _ in range(_ROUNDS):
        shuffle(turns)
        for path in turns:
            samples[path] += time_runs(runs[path], counts[path], _UNRECORDED)


def _runs_a_round(run: Run) -> int:
    seconds = min(time_runs(run, _FEWEST, _UNRECORDED)) / 1e3
    return int(np.clip(_SECONDS_A_ROUND / seconds, _FEWEST, _MOST))


def open_model(path: Path, threads: int) -> Run | None:
    """A run of a model on random inputs; None where it cannot be opened here."""
    try:
        run = Model(path, threads).invocation(SIGNATURE)
        run()
    except (ModelError, RuntimeError, ValueError):
        return None
    return run


def main() -> None:
    """Times what standard input asks for."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=_Request)
    be_first_to_go()
    limit_memory(request.max_memory_bytes)
    pin(request.cpus)
    paths = [Path(path) for path in request.paths]
    if request.signature is None:
        told: object = time_models(paths, request.threads)
    else:
        told = operator_times(paths[0], request.signature, lambda cuts: time_models(cuts, request.threads))
    sys.stdout.buffer.write(msgspec.json.encode(told))


if __name__ == "__main__":
    try:
        main()
    except FleetfootError as error:
        sys.exit(str(error))
    except MemoryError:
        sys.exit("they need more memory than they may have")
