"""What choosing and serving cost beside the variant itself, all called in turns in one run.

Compares, on the demo's input: the variant alone, ``choose``, ``infer`` in process, ``infer`` over Pyro5, and
a bare Pyro5 call. Medians are over all calls; the order is shuffled each round.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from Pyro5.api import Proxy
from results import save

from fleetfoot.wire import SERIALIZER
from runtime import Selector, connect
from runtime.client import RemoteSelector
from runtime.engine import Engine
from zoo.catalog import Zoo

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import demo

ROUNDS = 2000
BUDGET_MS = 50.0


def main() -> None:
    """Builds a small zoo and times the five calls on it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "zoo"
        families = ["--prune", "0.25", "--low-rank", "", "--subnetworks", "", "--quantize", ""]
        demo.run("build-zoo", "--out", path, "--epochs", "3", *families)
        demo.run("train-premodel", path)
        with demo.serving(path) as uri, connect(uri) as remote:
            bare = Proxy(uri.replace("selector@", "Pyro.Daemon@"))
            bare._pyroSerializer = SERIALIZER
            save("overhead", {"median_us": time_calls(path, remote, bare), "rounds": ROUNDS})


def time_calls(path: Path, remote: RemoteSelector, bare: Proxy) -> dict[str, float]:
    """Median microseconds of each call."""
    zoo = Zoo.open(path)
    spec = zoo.manifest.input
    x = np.random.default_rng(0).uniform(spec.minimum, spec.maximum, spec.shape).astype(spec.dtype)
    engine, selector = Engine(zoo), Selector.open(path)
    chosen = selector.choose(x, BUDGET_MS).variant
    calls: dict[str, Callable[[], object]] = {
        "variant": lambda: engine.run(chosen, x[np.newaxis]),
        "choose": lambda: selector.choose(x, BUDGET_MS),
        "infer": lambda: selector.infer(x, BUDGET_MS),
        "infer_over_pyro5": lambda: remote.infer(x, BUDGET_MS),
        "bare_pyro5": bare.ping,
    }
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name in random.sample(list(calls), len(calls)):
            start = time.perf_counter_ns()
            calls[name]()
            samples[name].append((time.perf_counter_ns() - start) / 1e3)
    return {name: round(float(np.median(values)), 1) for name, values in samples.items()}


if __name__ == "__main__":
    main()
