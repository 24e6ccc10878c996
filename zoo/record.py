"""``build.json``: what a zoo is built from and how, so that an unfinished build can go on."""

from __future__ import annotations

import platform
from importlib.metadata import version

import msgspec
import numpy as np

from fleetfoot import __version__
from fleetfoot.files import Document
from zoo.catalog import InputSpec
from zoo.datasets import Dataset, Indices, Split, split_indices
from zoo.search.strategies import GridOptions


class BuildOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a zoo is built from and how; a build is resumed with the same options only."""

    data: str = "digits"
    model: str | None = None
    device: str = "local"
    strategy: str = "grid"
    epochs: int = 12
    grid: GridOptions = GridOptions()
    seed: int = 0


class BuildRecord(Document, frozen=True, kw_only=True):
    """``build.json``: written first, so that an unfinished build knows what it is."""

    options: BuildOptions
    data_fingerprint: str
    classes: tuple[str, ...]
    input: InputSpec
    splits: dict[Split, list[int]]
    versions: dict[str, str]

    FILE = "build.json"

    @classmethod
    def new(cls, options: BuildOptions, dataset: Dataset) -> BuildRecord:
        """The record of a build that begins now: divides the data, and notes what it is made with."""
        splits = split_indices(dataset.y, options.seed)
        return cls(
            options=options,
            data_fingerprint=dataset.fingerprint,
            classes=dataset.classes,
            input=dataset.input,
            splits={name: indices.tolist() for name, indices in splits.items()},
            versions=tool_versions(),
        )

    def indices(self) -> dict[Split, Indices]:
        """The splits as index arrays."""
        return {name: np.array(indices, dtype=np.intp) for name, indices in self.splits.items()}


def tool_versions() -> dict[str, str]:
    """The versions of everything that decides what a build makes."""
    packages = {name: version(name) for name in ("tensorflow", "keras", "ai-edge-litert", "numpy")}
    return packages | {"fleetfoot": __version__, "python": platform.python_version()}
