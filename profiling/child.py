"""The process that holds one model while it is measured: ``python -m profiling.child FILE SIGNATURE THREADS``.

It answers each line on standard input, a number of runs, with a line of JSON; 0 ends it.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fleetfoot.errors import FleetfootError
from profiling.invoke import Model, Runner

_UNRECORDED_RUNS = 2


class Opened(msgspec.Struct):
    """The model is loaded and warm."""

    load_ms: float
    first_ms: float


class Samples(msgspec.Struct):
    """The latencies of the runs asked for."""

    samples_ms: list[float]


class Done(msgspec.Struct):
    """The most memory that loading and running the model added."""

    peak_memory_bytes: int


def main(path: Path, signature: str, threads: int) -> None:
    """Serves the parent until it says 0 or goes away."""
    import ai_edge_litert.interpreter  # noqa: F401 (its memory and time are not the model's)

    idle_bytes = _peak_bytes()
    start = time.perf_counter()
    runner = Model(path, threads).runner(signature)
    loaded = time.perf_counter()
    x = _random_input(runner)
    runner(x)
    _answer(Opened(load_ms=(loaded - start) * 1e3, first_ms=(time.perf_counter() - loaded) * 1e3))
    runner.warm_up()
    for line in sys.stdin:
        runs = int(line)
        if runs == 0:
            break
        _answer(Samples(samples_ms=_time_runs(runner, x, runs)))
    _answer(Done(peak_memory_bytes=_peak_bytes() - idle_bytes))


def _time_runs(runner: Runner, x: np.ndarray[Any, Any], runs: int) -> list[float]:
    for _ in range(_UNRECORDED_RUNS):  # another process had the core and its caches in between
        runner(x)
    samples = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        runner(x)
        samples.append((time.perf_counter_ns() - start) / 1e6)
    return samples


def _random_input(runner: Runner) -> np.ndarray[Any, Any]:
    values = np.random.default_rng(0).uniform(0, 1, runner.input.shape)
    return values.astype(runner.input.dtype)


def _peak_bytes() -> int:
    status = Path("/proc/self/status")
    if status.exists():  # unlike getrusage, this does not remember the parent's size
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _answer(message: msgspec.Struct) -> None:
    sys.stdout.write(msgspec.json.encode(message).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
    except FleetfootError as error:
        sys.exit(str(error))
