"""How fast images are read, first from their files and then as they are kept decoded, and in how much memory.

Reads the CIFAR-10 training images, 50,000 JPEG files in a folder per class, from ``$FLEETFOOT_DATA`` or
``../shared/data``. Each round reads them in a process of its own into an empty cache, then from that cache in another.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
from results import save

from zoo.datasets import load_dataset

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("FLEETFOOT_DATA", ROOT.parent / "shared" / "data")) / "cifar10"
TRAIN = "cifar10-train-jpeg.tar.gz"
ROUNDS = 5
BATCH = 32


class Reading(msgspec.Struct):
    """What one process measured."""

    load_seconds: float
    images: int
    batched_per_second: float
    peak_bytes: int


def main() -> None:
    """Reads the images from a folder and from the archive, from files and from the cache."""
    if not (DATA / TRAIN).exists():
        print(f"readers: not measured, {DATA / TRAIN} is absent")
        return
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(DATA / TRAIN) as archive:
            archive.extractall(directory, filter="data")
        numbers = {kind: measure(name) for kind, name in names(Path(directory)).items()}
    save("readers", {**numbers, "rounds": ROUNDS, "batch": BATCH})


def names(directory: Path) -> dict[str, str]:
    """The datasets to read, by what they are."""
    return {"folder": f"images:{directory / 'train'}", "archive": f"images:{DATA / TRAIN}"}


def measure(name: str) -> dict[str, float]:
    """Medians over all rounds, and the greatest memory of any."""
    uncached, cached = zip(*(one_round(name) for _ in range(ROUNDS)), strict=True)
    return {
        "uncached_images_per_second": median([reading.images / reading.load_seconds for reading in uncached]),
        "cached_load_seconds": round(float(np.median([reading.load_seconds for reading in cached])), 3),
        "batched_images_per_second": median([reading.batched_per_second for reading in cached]),
        "uncached_peak_bytes": max(reading.peak_bytes for reading in uncached),
        "cached_peak_bytes": max(reading.peak_bytes for reading in cached),
    }


def one_round(name: str) -> tuple[Reading, Reading]:
    """Reads with an empty cache, and again."""
    with tempfile.TemporaryDirectory() as cache:
        first, again = (in_a_process(name, cache) for _ in range(2))
    return first, again


def in_a_process(name: str, cache: str) -> Reading:
    """Runs ``report`` elsewhere, so that its memory is its own."""
    environment = {**os.environ, "FLEETFOOT_CACHE": cache}
    command = [sys.executable, __file__, name]
    child = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return msgspec.json.decode(child.stdout, type=Reading)


def report(name: str) -> None:
    """Loads a dataset, takes all of it in shuffled batches, and prints what that took."""
    start = time.perf_counter()
    dataset = load_dataset(name)
    load_seconds = time.perf_counter() - start
    order = np.random.default_rng(0).permutation(len(dataset.x))
    start = time.perf_counter()
    for first in range(0, len(order), BATCH):
        dataset.x[order[first : first + BATCH]]
    batched_seconds = time.perf_counter() - start
    reading = Reading(load_seconds, len(order), len(order) / batched_seconds, peak_bytes())
    print(msgspec.json.encode(reading).decode())


def peak_bytes() -> int:
    """The greatest memory that this process had; unlike ``getrusage`` it does not count that of its parent."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def median(values: list[float]) -> int:
    """The median, as a whole number."""
    return round(float(np.median(values)))


if __name__ == "__main__":
    report(sys.argv[1]) if len(sys.argv) > 1 else main()
