"""``build.json``: what a zoo is built from and how, so that an unfinished build can go on."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import version
from pathlib import Path

import msgspec
import numpy as np

from fleetfoot import __version__
from fleetfoot.errors import DataError
from fleetfoot.files import Document, sha256
from zoo.architectures import ARCHITECTURES
from zoo.catalog import InputSpec
from zoo.datasets import Dataset, Indices, ReadOptions, Split, load_dataset, split_indices
from zoo.search.options import GridOptions


class BuildOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a zoo is built from and how; a build is resumed with the same options only.

    Attributes:
        data: the dataset's name.
        model: the base model's name, or None for the dataset's own.
        device: where the variants are measured.
        strategy: how recipes are proposed.
        epochs: of the training of a base model that comes without weights.
        finetune_epochs: of each variant's fine-tuning; None for as many as the size of the data asks for.
        train_base: epochs by which a base model that comes with weights is trained on; None if only needed.
        augment: how train inputs are changed at random, of ``zoo.augment.AUGMENTATIONS``.
        custom_objects: the module that registers the base model's own layers.
        read: how the dataset is read.
        grid: what the grid is made of.
        seed: of the splits and of the base model's training.
    """

    data: str = "digits"
    model: str | None = None
    device: str = "local"
    strategy: str = "grid"
    epochs: int = 12
    finetune_epochs: int | None = None
    train_base: int | None = None
    augment: tuple[str, ...] = ()
    custom_objects: str | None = None
    read: ReadOptions = ReadOptions()
    grid: GridOptions = GridOptions()
    seed: int = 0


class BuildRecord(Document, frozen=True, kw_only=True):
    """``build.json``: written first, so that an unfinished build knows what it is."""

    options: BuildOptions
    data_fingerprint: str
    model_sha256: str | None = None
    classes: tuple[str, ...]
    input: InputSpec
    splits: dict[Split, list[int]]
    versions: dict[str, str]

    FILE = "build.json"

    @classmethod
    def new(cls, options: BuildOptions, dataset: Dataset) -> BuildRecord:
        """The record of a build that begins now: divides the data, and notes what it is made with."""
        splits = split_indices(dataset, options.seed)
        return cls(
            options=options,
            data_fingerprint=dataset.fingerprint,
            model_sha256=model_sha256(options.model),
            classes=dataset.classes,
            input=dataset.input,
            splits={name: indices.tolist() for name, indices in splits.items()},
            versions=tool_versions(),
        )

    def load_data(self) -> Dataset:
        """The data that the zoo was built on.

        Raises:
            DataError: what is there now is other data.
        """
        dataset = load_dataset(self.options.data, self.options.read)
        if dataset.fingerprint != self.data_fingerprint:
            raise DataError(f"{self.options.data} is not the data that the zoo was built on: build the zoo anew")
        return dataset

    def indices(self) -> dict[Split, Indices]:
        """The splits as index arrays."""
        return {name: np.array(indices, dtype=np.intp) for name, indices in self.splits.items()}


def model_sha256(name: str | None) -> str | None:
    """The hash of the file, or of the files of the directory, that a base model is read from, if it is there."""
    path = Path(name) if name and name not in ARCHITECTURES else None
    if path is None or not path.exists():
        return None
    if path.is_file():
        return sha256(path)
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return hashlib.sha256("".join(sha256(file) for file in files).encode()).hexdigest()


def tool_versions() -> dict[str, str]:
    """The versions of everything that decides what a build makes."""
    packages = {
        name: version(name)
        for name in ("tensorflow", "keras", "ai-edge-litert", "ai-edge-quantizer", "numpy", "scikit-learn")
    }
    return packages | {"fleetfoot": __version__, "python": platform.python_version()}
