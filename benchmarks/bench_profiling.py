"""What a profile is worth: how well it repeats, and how it compares with LiteRT's own tool on the same files.

Everything is done twice, on the machine as it is and beside processes that come and go, and all that is compared takes
turns. The networks are not trained, which their speed does not depend on.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from results import save

from profiling.invoke import Model
from profiling.load import busy_processes
from profiling.local import LocalDevice
from profiling.process import ModelProcess
from profiling.profile import Conditions, Profile, Target
from profiling.sampling import take_turns
from profiling.statistics import Effort, mean_interval
from zoo.architectures import ARCHITECTURES
from zoo.backend import keras
from zoo.catalog import InputSpec
from zoo.export import export

SIGNATURE = "base"
WIDTHS = (8, 12, 16, 20, 24, 32)
REPEATS = 10
TOOL_RUNS = 2000
TRACE_SECONDS = 60.0
BLOCK_RUNS = 10
RESAMPLES = 1000
DRIFT = 0.2


class State(NamedTuple):
    """What is beside the measurement, and its name."""

    name: str
    loaded: bool


STATES = (State("idle", False), State("loaded", True))


def main() -> None:
    """Measures the profiler and saves the numbers."""
    with tempfile.TemporaryDirectory() as directory:
        targets = list(build(Path(directory)))
        numbers: dict[str, Any] = {}
        for state in STATES:
            with coming_and_going() if state.loaded else machine_as_it_is():
                numbers[state.name] = {
                    "same_variant_twice": same_variant_twice(targets[2]),
                    "child_against_this_process": child_against_this_process(targets[2]),
                    "against_tool": against_tool(targets[2]),
                    "ratio_of_two": ratio_of_two(targets[2], targets[5]),
                    "order": order(targets),
                }
            print(numbers[state.name], flush=True)
        with coming_and_going():
            trace = record(targets[2])
        numbers["coverage"] = coverage(trace)
    save("profiling", numbers)


def build(directory: Path) -> Iterator[Target]:
    """ResNet-8 for 32×32 pictures, of several widths."""
    shape = InputSpec(kind="image", shape=(32, 32, 3), dtype="float32", minimum=0.0, maximum=255.0)
    for width in WIDTHS:
        keras.utils.set_random_seed(0)
        network = ARCHITECTURES["resnet-8"].builder(shape, 10, width=width)
        path = directory / f"width-{width}.tflite"
        export({SIGNATURE: network}, path)
        yield Target(path.stem, path, SIGNATURE)


@contextmanager
def machine_as_it_is() -> Iterator[None]:
    """Adds nothing."""
    yield


@contextmanager
def coming_and_going() -> Iterator[None]:
    """Keeps none to four processes busy, another number every half to four seconds."""
    ended, chance = threading.Event(), random.Random(0)

    def disturb() -> None:
        while not ended.is_set():
            with busy_processes(chance.choice((0, 0, 0, 1, 2, 4))):
                ended.wait(chance.uniform(0.5, 4.0))

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def same_variant_twice(target: Target) -> dict[str, float]:
    """By how much two profiles of one variant, made in one run, differ at the median."""
    twins = [target._replace(name="one"), target._replace(name="other")]
    differences, undisturbed, marked = [], [], 0
    for _ in range(REPEATS):
        one, other = LocalDevice().measure(twins).measurements.values()
        differences.append(abs(one.latency.p50_ms / other.latency.p50_ms - 1))
        undisturbed.append(abs(one.latency.p5_ms / other.latency.p5_ms - 1))
        marked += bool(one.unstable or other.unstable)
    return {"median": float(np.median(differences)), "largest": max(differences),
            "largest_at_5th_percentile": max(undisturbed), "marked_unstable": marked / REPEATS}  # fmt: skip


def child_against_this_process(target: Target) -> dict[str, float]:
    """How the median in a child process compares with timing the same runner here, block by block in turns."""
    runner = Model(target.path).runner(target.signature)
    x = np.random.default_rng(0).uniform(0, 255, runner.input.shape).astype(np.float32)
    ratios = []
    with ModelProcess(target, Conditions()) as child:
        for _ in range(20 * REPEATS):
            here = []
            for _ in range(BLOCK_RUNS + 2):
                start = time.perf_counter_ns()
                runner(x)
                here.append((time.perf_counter_ns() - start) / 1e6)
            ratios.append(np.median(child.run(BLOCK_RUNS)) / np.median(here[2:]))
    return {"median_ratio": float(np.median(ratios))}


def against_tool(target: Target) -> dict[str, float]:
    """The profiled median over that of LiteRT's tool, which rounds to hundredths of a millisecond, in turns."""
    ratios = [_profiled(target).measurements[target.name].latency.p50_ms / _tool_median(target) for _ in range(REPEATS)]
    return {"median_ratio": float(np.median(ratios)), "lowest": min(ratios), "highest": max(ratios)}


def ratio_of_two(narrow: Target, wide: Target) -> dict[str, float]:
    """How much the ratio of two variants' latencies varies from repeat to repeat, here and with LiteRT's tool."""
    ours, tools = [], []
    for _ in range(REPEATS):
        relative = _profiled(narrow, wide).measurements[wide.name].relative
        assert relative is not None
        ours.append(relative.value)
        tools.append(_tool_median(wide) / _tool_median(narrow))
    spread, tool_spread = _variation(ours), _variation(tools)
    return {"variation": spread, "tool_variation": tool_spread, "share": spread / tool_spread,
            "ratio": float(np.median(ours)), "tool_ratio": float(np.median(tools))}  # fmt: skip


def order(targets: Sequence[Target]) -> dict[str, int]:
    """How many pairs whose intervals do not overlap in one profile stand in another order in a later one."""
    profiles = [LocalDevice().measure(targets, effort=Effort(max_seconds=2)) for _ in range(REPEATS // 2)]
    apart = swapped = 0
    for first, later in combinations(profiles, 2):
        for one, other in combinations(first.measurements, 2):
            a, b = first.measurements[one].latency, first.measurements[other].latency
            if a.mean_ms + a.half_width_ms < b.mean_ms - b.half_width_ms:
                apart += 1
                swapped += later.measurements[one].latency.p50_ms > later.measurements[other].latency.p50_ms
            elif b.mean_ms + b.half_width_ms < a.mean_ms - a.half_width_ms:
                apart += 1
                swapped += later.measurements[one].latency.p50_ms < later.measurements[other].latency.p50_ms
    return {"pairs": apart, "swapped": swapped}


def record(target: Target) -> Sequence[float]:
    """The latencies of a variant over a minute."""
    samples: list[float] = []
    with ModelProcess(target, Conditions()) as child:
        end = time.monotonic() + TRACE_SECONDS
        while time.monotonic() < end:
            samples += child.run(BLOCK_RUNS)
    return samples


def coverage(samples: Sequence[float]) -> dict[str, Any]:
    """How often the stated interval holds the trace's mean, when blocks of it are taken until that is enough.

    Blocks lie anywhere in the trace, as the turns of a long measurement do; once as recorded, and once with a drift
    laid over it, of a fifth from start to end.
    """
    trace = np.array(samples)
    drifting = trace * np.linspace(1, 1 + DRIFT, len(trace))
    p50, p99 = np.percentile(trace, [50, 99])
    about = {"mean_ms": trace.mean(), "p50_ms": p50, "p99_ms": p99, "max_ms": trace.max()}
    return {
        "trace": {"runs": len(trace)} | {name: float(value) for name, value in about.items()},
        "recorded": _share_covered(trace),
        "drifting": _share_covered(drifting),
    }


def _share_covered(trace: np.ndarray) -> float:
    chance, covered = np.random.default_rng(0), 0

    def run(runs: int) -> Sequence[float]:
        start = chance.integers(0, len(trace) - runs)
        return [float(ms) for ms in trace[start : start + runs]]

    for _ in range(RESAMPLES):
        blocks = take_turns({"trace": run}, {"trace": float(trace.mean())}, Effort())["trace"]
        low, high = mean_interval(blocks)
        covered += low <= trace.mean() <= high
    return float(covered / RESAMPLES)


def _profiled(*targets: Target) -> Profile:
    """A profile of as many runs as LiteRT's tool is given."""
    return LocalDevice().measure(targets, effort=Effort(min_runs=TOOL_RUNS, max_runs=TOOL_RUNS))


def _tool_median(target: Target) -> float:
    with tempfile.NamedTemporaryFile(suffix=".json") as result:
        subprocess.run(
            [sys.executable, "-m", "ai_edge_litert.tools.benchmark_litert_model", "--model", target.path,
             "--signature", target.signature, "--num_runs", str(TOOL_RUNS), "--result_json", result.name],
            check=True, capture_output=True,
        )  # fmt: skip
        found = json.loads(Path(result.name).read_text())
    return float(found["latency"]["median_ms"])


def _variation(values: Sequence[float]) -> float:
    """The coefficient of variation."""
    return float(np.std(values, ddof=1) / np.mean(values))


if __name__ == "__main__":
    main()
