"""Small datasets as files, and where the real ones are."""

from __future__ import annotations

import os
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image
from scipy.io import wavfile

from fleetfoot.errors import FleetfootError
from zoo.datasets import Dataset, ReadOptions, load_dataset

ROOT = Path(__file__).parents[2]
SIZE = (8, 6)
SKIP = ReadOptions(on_bad="skip")

Array = npt.NDArray[Any]


def real_data(*parts: str) -> Path:
    """A path in the real data, whose absence skips the test."""
    path = Path(os.environ.get("FLEETFOOT_DATA", ROOT.parent / "shared" / "data")).joinpath(*parts)
    if not path.exists():
        pytest.skip(f"{path} is absent: the data is for development, and not in the repository")
    return path


def refusal(name: str, kind: type[FleetfootError], options: ReadOptions | None = None) -> str:
    """The one line that a dataset is refused with."""
    with pytest.raises(kind) as error:
        load_dataset(name, options)
    assert type(error.value) is kind
    assert "\n" not in str(error.value)
    return str(error.value)


def pixels(seed: int, size: tuple[int, int] = SIZE, channels: int = 3) -> Array:
    shape = (*size, channels) if channels > 1 else size
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def write_image(path: Path, array: Array) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def write_images(root: Path, folders: Mapping[str, int], channels: int = 3, suffix: str = ".png") -> dict[str, Array]:
    """So many images in each folder; returns the pixels by path."""
    written: dict[str, Array] = {}
    for folder, count in folders.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            path = f"{folder}/{number}{suffix}"
            written[path] = pixels(len(written), channels=channels)
            write_image(root / path, written[path])
    return written


def write_wav(path: Path, samples: Array, rate: int = 8000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wavfile.write(path, rate, samples)
    return path


def tone(seconds: float = 0.1, rate: int = 8000, frequency: float = 440.0) -> Array:
    """Half as loud as can be, of float32."""
    return (0.5 * np.sin(2 * np.pi * frequency * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def tar(root: Path, path: Path, top: str = ".") -> Path:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(root, top)
    return path


def zipped(root: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, file.relative_to(root))
    return path


def labels(dataset: Dataset, indices: Iterable[int] | None = None) -> list[str]:
    chosen = range(len(dataset.y)) if indices is None else indices
    return [dataset.classes[dataset.y[index]] for index in chosen]
