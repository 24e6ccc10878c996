"""CIFAR-10 as the benchmarks train on it, and what they keep of trainings that take long.

Data is taken from ``$FLEETFOOT_DATA`` or ``../shared/data``. What takes long is kept in ``benchmarks/.work`` and not
made again; delete that folder to start anew.
"""

from __future__ import annotations

import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from fleetfoot.files import write_bytes
from zoo.batches import TrainingData
from zoo.datasets import Indices, load_dataset, split_indices

ROOT = Path(__file__).parent.parent
DATA = Path(os.environ.get("FLEETFOOT_DATA", ROOT.parent / "shared" / "data"))
WORK = ROOT / "benchmarks" / ".work"
IMAGES = ("cifar10-train-jpeg.tar.gz", "cifar10-test-even-jpeg.tar.gz")
SEEDS = (0, 1, 2)
EVERY = 2
"""Every how many of the training images are used, for all networks alike: all of them would take hours."""


class Cache:
    """What a benchmark made, in files of JSON by name.

    Args:
        name: the benchmark's.
    """

    def __init__(self, name: str) -> None:
        self.folder = WORK / name

    def once(self, key: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What was made under a key, now or in an earlier run."""
        path = self._path(key)
        if not self.has(key):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(path, msgspec.json.encode(make()))
            print(f"made {key}", file=sys.stderr, flush=True)
        return self.read(key)

    def read(self, key: str) -> dict[str, Any]:
        """What was made under a key."""
        return msgspec.json.decode(self._path(key).read_bytes(), type=dict[str, Any])

    def has(self, key: str) -> bool:
        """Whether something was made under a key."""
        return self._path(key).exists()

    def by_seed(self, name: str) -> dict[int, dict[str, Any]]:
        """What was made under a name, for each seed that it was made for."""
        return {seed: self.read(f"{name}-{seed}") for seed in SEEDS if self.has(f"{name}-{seed}")}

    def _path(self, key: str) -> Path:
        return self.folder / f"{key}.json"


def training_data() -> TrainingData:
    """CIFAR-10 as JPEG, unpacked once; the same splits for every seed."""
    folder = WORK / "cifar10"
    if not folder.exists():
        for name in IMAGES:
            with tarfile.open(DATA / "cifar10" / name) as archive:
                archive.extractall(WORK / "unpacking", filter="data")
        (WORK / "unpacking").rename(folder)
    dataset = load_dataset(f"images:{folder}")
    splits = split_indices(dataset, 0)
    return TrainingData.of(dataset, splits | {"train": splits["train"][::EVERY]}, ("flip",))


def test_indices(data: TrainingData) -> Indices:
    """Indices of the 5,000 test images, which no decision has read."""
    return split_indices(data.dataset, 0)["test"]


def right(network: Any, data: TrainingData) -> list[bool]:
    """Which test images a network answers rightly."""
    indices = test_indices(data)
    answers = network.predict(data.dataset.x[indices], verbose=0, batch_size=256).argmax(axis=1)
    return [bool(value) for value in answers == data.dataset.y[indices]]
