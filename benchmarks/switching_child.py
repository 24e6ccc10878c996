"""What a process that has nothing but LiteRT takes to open and run networks; answers in JSON.

Usage: python benchmarks/switching_child.py warm.tflite FILE SIGNATURE RUN [FILE SIGNATURE RUN ...]

The file ``warm.tflite`` is opened and closed before anything is measured. With an empty signature a whole file is
opened, otherwise one network of it; RUN names the signatures that are run, with commas between them.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from pathlib import Path

from profiling.invoke import Model


def main(warm: str, *asked: str) -> None:
    """Opens and runs, and prints the growth of memory in bytes and the milliseconds to the first answers."""
    model = Model(Path(warm))
    model.runner(model.signatures[0]).warm_up()
    del model
    gc.collect()
    before = memory()
    kept = []
    start = time.perf_counter()
    for file, signature, runs in zip(asked[::3], asked[1::3], asked[2::3], strict=True):
        model = Model(Path(file), 1, signature)
        runners = [model.runner(name) for name in runs.split(",")]
        for runner in runners:
            runner.warm_up(1)
        kept.append((model, runners))
    first_ms = (time.perf_counter() - start) * 1e3
    for _, runners in kept:
        for runner in runners:
            runner.warm_up(20)
    gc.collect()
    grown = {name: value - before[name] for name, value in memory().items()}
    print(json.dumps({**grown, "first_ms": round(first_ms, 2)}))


def memory() -> dict[str, int]:
    """Bytes of this process: resident, its share of what others have too, and what no file stands for."""
    words = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]]
    fields = {name.rstrip(":"): int(size) * 1024 for name, size, _ in words}
    return {"resident": fields["Rss"], "proportional": fields["Pss"], "anonymous": fields["Anonymous"]}


if __name__ == "__main__":
    main(*sys.argv[1:])
