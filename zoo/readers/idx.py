"""MNIST and Fashion-MNIST, and what else comes as four IDX files of 28×28 grey images in ten classes."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import DataError
from zoo.catalog import InputSpec
from zoo.datasets import Dataset, ReadOptions
from zoo.readers.faults import reason
from zoo.readers.tree import resolve

DIGITS = tuple("0123456789")
CLOTHES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"
)  # fmt: skip
"""The classes of Fashion-MNIST (Xiao et al., 2017)."""

_BYTES_CODE = 8
_GZIP_MAGIC = b"\x1f\x8b"

Bytes = npt.NDArray[np.uint8]


def read_mnist(argument: str, _options: ReadOptions) -> Dataset:
    """Reads MNIST: ``train-*`` to learn from and ``t10k-*`` as the test split.

    Raises:
        UsageError: no path.
        DataError: files that are missing, damaged or do not fit each other.
    """
    return _read("mnist", argument, DIGITS)


def read_fashion_mnist(argument: str, _options: ReadOptions) -> Dataset:
    """Reads Fashion-MNIST: ``train-*`` to learn from and ``t10k-*`` as the test split.

    Raises:
        UsageError: no path.
        DataError: files that are missing, damaged or do not fit each other.
    """
    return _read("fashion-mnist", argument, CLOTHES)


def _read(kind: str, argument: str, classes: Sequence[str]) -> Dataset:
    folder = resolve(kind, argument)
    learning, test = (_read_part(folder, part, len(classes)) for part in ("train", "t10k"))
    if learning[0].shape[1:] != test[0].shape[1:]:
        raise DataError(f"{folder} has images of {learning[0].shape[1:]} to learn from and {test[0].shape[1:]} to test")
    x, y = (np.concatenate(parts) for parts in zip(learning, test, strict=True))
    return Dataset(
        name=f"{kind}:{folder}",
        x=x[..., np.newaxis],
        y=y.astype(np.int64),
        classes=tuple(classes),
        input=InputSpec(kind="image", shape=(*x.shape[1:], 1), dtype="uint8", minimum=0.0, maximum=255.0),
        test=np.arange(len(learning[0]), len(x)),
    )


def _read_part(folder: Path, part: str, classes: int) -> tuple[Bytes, Bytes]:
    """Images of shape (examples, height, width) and labels of shape (examples,)."""
    images = _read_idx(_find(folder, f"{part}-images", 3), 3)
    path = _find(folder, f"{part}-labels", 1)
    labels = _read_idx(path, 1)
    if len(images) != len(labels):
        raise DataError(f"{path} has {len(labels):,} labels for {len(images):,} images: get both files anew")
    if len(labels) and labels.max() >= classes:
        raise DataError(f"{path} has the label {labels.max()}, and there are {classes} classes: get it anew")
    return images, labels


def _find(folder: Path, stem: str, dimensions: int) -> Path:
    """The file of that name, gzipped or not, with the hyphen or the dot that both are in use."""
    names = [f"{stem}{mark}idx{dimensions}-ubyte{suffix}" for mark in "-." for suffix in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder} has no {names[0]}, gzipped or not: put the four files of the dataset there")


def _read_idx(path: Path, dimensions: int) -> Bytes:
    """Reads an array of bytes.

    Raises:
        DataError: the file is damaged, or holds something else.
    """
    try:
        with _open(path) as file:
            return _parse_idx(file, dimensions)
    except (OSError, EOFError, zlib.error, ValueError) as error:
        raise DataError(
            f"{path} is damaged, or no IDX file of bytes in {dimensions} dimensions: {reason(error)}; get it anew"
        ) from None


def _open(path: Path) -> BinaryIO:
    with path.open("rb") as file:
        is_gzipped = file.read(2) == _GZIP_MAGIC
    return cast(BinaryIO, gzip.open(path)) if is_gzipped else path.open("rb")


def _parse_idx(file: BinaryIO, dimensions: int) -> Bytes:
    """Two zeros, the type, the number of dimensions, each dimension as a big-endian integer, the values."""
    head = file.read(4)
    if head != bytes((0, 0, _BYTES_CODE, dimensions)):
        raise ValueError(f"it begins with {head.hex(' ') or 'nothing'}")
    sizes = file.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise ValueError("its header ends too early")
    shape = tuple(np.frombuffer(sizes, ">u4").tolist())
    content = file.read()
    if len(content) != prod(shape):
        raise ValueError(f"{len(content):,} values where its header says {'×'.join(map(str, shape))}")
    return np.frombuffer(content, np.uint8).reshape(shape)
