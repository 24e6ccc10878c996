"""How fast images are read, first from their files and then as they are kept decoded, and in how much memory.

Reads the CIFAR-10 training images, 50,000 JPEG files in a folder per class, from ``$FLEETFOOT_DATA`` or
``../shared/data``, from folders and from their archive, and a fifth of them, to see whether memory depends on their
number. Each round reads them in a process of its own into an empty cache, then from that cache in another.
"""

from __future__ import annotations

import os
import re
import shutil
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
    """What one process measured.

    Attributes:
        images: how many there are.
        load_seconds: how long loading took.
        cpu_seconds: how long all its threads worked on that, which other programs on the machine change less.
        batched_per_second: images taken in batches.
        load_peak_bytes: the greatest memory until it was loaded.
        private_bytes: memory after all images were taken, without the mapped file, which the system drops at will.
    """

    images: int
    load_seconds: float
    cpu_seconds: float
    batched_per_second: float
    load_peak_bytes: int
    private_bytes: int


def main() -> None:
    """Reads the images from a folder and from the archive, from files and from the cache."""
    if not (DATA / TRAIN).exists():
        print(f"readers: not measured, {DATA / TRAIN} is absent")
        return
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(DATA / TRAIN) as archive:
            archive.extractall(directory, filter="data")
        whole = Path(directory) / "train"
        trees = {"folder": whole, "archive": DATA / TRAIN, "fifth": a_fifth(whole, Path(directory) / "fifth")}
        numbers = {kind: measure(f"images:{tree}") for kind, tree in trees.items()}
    save("readers", {**numbers, "rounds": ROUNDS, "batch": BATCH})


def a_fifth(whole: Path, part: Path) -> Path:
    """Copies every fifth image."""
    for file in sorted(whole.rglob("*.jpg"))[::5]:
        copy = part / file.relative_to(whole)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    return part


def measure(name: str) -> dict[str, float]:
    """Medians over all rounds, and the greatest memory of any."""
    uncached, cached = zip(*(one_round(name) for _ in range(ROUNDS)), strict=True)
    return {
        "images": uncached[0].images,
        "uncached_images_per_second": median([reading.images / reading.load_seconds for reading in uncached]),
        "uncached_images_per_cpu_second": median([reading.images / reading.cpu_seconds for reading in uncached]),
        "uncached_peak_bytes": max(reading.load_peak_bytes for reading in uncached),
        "cached_load_seconds": round(float(np.median([reading.load_seconds for reading in cached])), 3),
        "cached_images_per_second": median([reading.batched_per_second for reading in cached]),
        "cached_peak_bytes": max(reading.load_peak_bytes for reading in cached),
        "cached_private_bytes": max(reading.private_bytes for reading in cached),
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
    start, cpu_start = time.perf_counter(), time.process_time()
    dataset = load_dataset(name)
    load_seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    load_peak = memory("VmHWM")
    order = np.random.default_rng(0).permutation(len(dataset.x))
    start = time.perf_counter()
    for first in range(0, len(order), BATCH):
        dataset.x[order[first : first + BATCH]]
    batched_seconds = time.perf_counter() - start
    speed = len(order) / batched_seconds
    reading = Reading(len(order), load_seconds, cpu_seconds, speed, load_peak, memory("RssAnon"))
    print(msgspec.json.encode(reading).decode())


def memory(kind: str) -> int:
    """Bytes of memory of this process alone: its greatest (``VmHWM``), or what is mapped from no file (``RssAnon``)."""
    found = re.search(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * 1024


def median(values: list[float]) -> int:
    """The median, as a whole number."""
    return round(float(np.median(values)))


if __name__ == "__main__":
    report(sys.argv[1]) if len(sys.argv) > 1 else main()
