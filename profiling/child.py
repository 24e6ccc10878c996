"""The process that holds one model while it is measured: ``python -m profiling.child JSON``.

It is told what to open as its argument, and answers each line of JSON on standard input with one on standard output.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from fleetfoot.errors import FleetfootError
from profiling.invoke import Model, Runner, pin, time_runs
from profiling.memory import be_first_to_go, limit_memory, peak_bytes

_WARM_UP_RUNS = 3
_WARM_UP_SECONDS = 0.2


class Opening(msgspec.Struct, kw_only=True):
    """What the process is started with; no memory limit is 0."""

    path: str
    signature: str
    threads: int
    cpus: tuple[int, ...]
    max_memory_bytes: int = 0


class Opened(msgspec.Struct, tag=True):
    """The model is loaded and warm; a run takes about ``run_ms``."""

    load_ms: float
    first_ms: float
    run_ms: float


class Run(msgspec.Struct, tag=True):
    """Time so many runs, after some that are not recorded."""

    runs: int
    unrecorded: int


class Samples(msgspec.Struct, tag=True):
    """The latencies of the runs asked for."""

    samples_ms: list[float]


class Answer(msgspec.Struct, tag=True):
    """Run the inputs in one .npy file, one by one, and write the outputs to another."""

    inputs: str
    outputs: str


class Answered(msgspec.Struct, tag=True):
    """The outputs are written; what each input took."""

    latencies_ms: list[float]


class Finish(msgspec.Struct, tag=True):
    """Say what was used, and end."""


class Done(msgspec.Struct, tag=True):
    """The most memory that loading and running the model added."""

    peak_memory_bytes: int


def main(opening: Opening) -> None:
    """Serves the parent until it has enough or goes away."""
    import ai_edge_litert.interpreter  # noqa: F401 (its memory and time are not the model's)

    be_first_to_go()
    pin(opening.cpus)
    idle_bytes = peak_bytes()
    limit_memory(opening.max_memory_bytes)
    start = time.perf_counter()
    model = Model(Path(opening.path), opening.threads, opening.signature)
    run = model.exercise(opening.signature)
    loaded = time.perf_counter()
    run()
    first = time.perf_counter()
    _reply(Opened(load_ms=(loaded - start) * 1e3, first_ms=(first - loaded) * 1e3, run_ms=_warm_up(run)))
    for line in sys.stdin:
        match msgspec.json.decode(line, type=Run | Answer | Finish):
            case Run(runs, unrecorded):
                _reply(Samples(time_runs(run, runs, unrecorded)))
            case Answer(inputs, outputs):
                _reply(Answered(_answer(model.runner(opening.signature), Path(inputs), Path(outputs))))
            case Finish():
                break
    _reply(Done(peak_memory_bytes=peak_bytes() - idle_bytes))


def _warm_up(run: Callable[[], object]) -> float:
    """Runs a few times, and for as long as clocks take to rise; returns about what a run takes, in ms."""
    samples = time_runs(run, _WARM_UP_RUNS, 0)
    while sum(samples) < _WARM_UP_SECONDS * 1e3:
        samples += time_runs(run, 1, 0)
    return float(np.median(samples))


def _answer(runner: Runner, inputs: Path, outputs: Path) -> list[float]:
    answers, latencies_ms = [], []
    x = np.load(inputs)
    for index in range(len(x)):
        start = time.perf_counter_ns()
        answers.append(runner(x[index : index + 1]))
        latencies_ms.append((time.perf_counter_ns() - start) / 1e6)
    with outputs.open("wb") as file:
        np.save(file, np.concatenate(answers).astype(np.float32, copy=False))
    return latencies_ms


def _reply(message: msgspec.Struct) -> None:
    sys.stdout.write(msgspec.json.encode(message).decode() + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    told = msgspec.json.decode(sys.argv[1], type=Opening)
    limited = f"within {told.max_memory_bytes >> 20} MB of memory, " if told.max_memory_bytes else ""
    try:
        main(told)
    except FleetfootError as error:
        sys.exit(f"{limited}{error}")
    except MemoryError:
        sys.exit("it needs more memory than it may have")
