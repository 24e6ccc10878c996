"""CIFAR-10, in whichever of its forms is there: official batches for Python or as binaries, or a tree of images."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import DataError
from zoo.catalog import InputSpec
from zoo.datasets import Dataset, ReadOptions
from zoo.readers import images
from zoo.readers.faults import listed, reason
from zoo.readers.plainpickle import read_plain_pickle
from zoo.readers.tree import Tree, is_archive, open_tree, resolve

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
BATCHES = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")

_BINARY = ".bin"
_SIDE, _CHANNELS = 32, 3
_PIXELS = _CHANNELS * _SIDE * _SIDE
_OFFICIAL = ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-10-python.tar.gz", "cifar-10-binary.tar.gz")
"""The folders and archives that the dataset's site gives out."""

Bytes = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


class Batch(NamedTuple):
    """Pixels of shape (examples, 32, 32, 3) and labels of shape (examples,)."""

    x: Bytes
    y: Labels


def read(argument: str, options: ReadOptions) -> Dataset:
    """Reads the official batches, the official archives, or ``train`` and ``test`` as folders or archives of images.

    Raises:
        UsageError: no path.
        DataError: none of these is there, or it is damaged.
    """
    path = resolve("cifar10", argument)
    name = f"cifar10:{path}"
    if (batches := _official_tree(path)) is not None:
        if options.size not in (None, (_SIDE, _SIDE)):
            raise DataError(f"{name} has batches of {_SIDE}×{_SIDE} pixels: only as files of images are they resized")
        return _read_batches(name, batches)
    if trees := _image_trees(path):
        return images.read_trees(name, trees, options)
    raise DataError(
        f"{path} has neither {BATCHES[0]} nor {BATCHES[0]}.bin, and no folders or archives of images named train and "
        "test: put the dataset's files there"
    )


def _official_tree(path: Path) -> Tree | None:
    """Where the official batches are, if they are."""
    if is_archive(path):
        return open_tree(path) if path.name in _OFFICIAL else None
    if any((path / f"{BATCHES[0]}{suffix}").exists() for suffix in ("", _BINARY)):
        return open_tree(path)
    return next((open_tree(path / name) for name in _OFFICIAL if (path / name).exists()), None)


def _image_trees(path: Path) -> list[Tree]:
    """The folders and archives of images, whose own folders tell which are for testing."""
    if not path.is_dir():
        return [open_tree(path)]
    folders = [part for part in ("train", "test") if (path / part).is_dir()]
    archives = [file for file in sorted(path.iterdir()) if is_archive(file)]
    return [open_tree(tree) for tree in ([path] if folders else []) + (archives if len(folders) < 2 else [])]


def _read_batches(name: str, tree: Tree) -> Dataset:
    found: dict[str, Batch] = {}
    for member in tree.members(lambda path: _batch_of(path) is not None):
        batch = _batch_of(member.path)
        if batch is not None and batch not in found:
            where = f"{tree.path}: {member.path}"
            read_batch = _read_binary if member.path.endswith(_BINARY) else _read_pickle
            try:
                with member.open() as file:
                    found[batch] = read_batch(file, where)
            except OSError as error:
                raise DataError(f"{where} cannot be read: {reason(error)}; get it anew") from None
    if missing := [batch for batch in BATCHES if batch not in found]:
        raise DataError(f"{tree.path} lacks {', '.join(missing)}: get all of the dataset's files")
    sizes = [len(found[batch].y) for batch in BATCHES]
    return Dataset(
        name=name,
        x=np.concatenate([found[batch].x for batch in BATCHES]),
        y=np.concatenate([found[batch].y for batch in BATCHES]),
        classes=CLASSES,
        input=InputSpec(kind="image", shape=(_SIDE, _SIDE, _CHANNELS), dtype="uint8", minimum=0.0, maximum=255.0),
        test=np.arange(sum(sizes) - sizes[-1], sum(sizes)),
    )


def _batch_of(path: str) -> str | None:
    """Which batch a file is by its name, if it is one."""
    stem = PurePosixPath(path).name.removesuffix(_BINARY)
    return stem if stem in BATCHES else None


def _read_pickle(file: BinaryIO, where: str) -> Batch:
    content = read_plain_pickle(file, where)
    pixels, labels = content.get("data"), content.get("labels")
    if not isinstance(pixels, np.ndarray) or not isinstance(labels, list) or not all(map(_is_label, labels)):
        raise DataError(
            f"{where} is no batch of CIFAR-10: it needs data, and labels from 0 to 9, and has {listed(content)}"
        )
    return _batch(where, pixels, np.array(labels, np.int64))


def _is_label(value: object) -> bool:
    return type(value) is int and 0 <= value < len(CLASSES)


def _read_binary(file: BinaryIO, where: str) -> Batch:
    content = np.frombuffer(file.read(), np.uint8)
    if content.size % (1 + _PIXELS):
        raise DataError(f"{where} is damaged: {content.size:,} bytes are no multiple of {1 + _PIXELS:,}; get it anew")
    rows = content.reshape(-1, 1 + _PIXELS)
    return _batch(where, rows[:, 1:], rows[:, 0].astype(np.int64))


def _batch(where: str, pixels: Bytes, labels: Labels) -> Batch:
    """Puts the colours of a pixel beside each other; in the files all red ones come first, then green, then blue."""
    if pixels.shape != (len(labels), _PIXELS):
        raise DataError(f"{where} has {len(labels):,} labels for pixels of shape {pixels.shape}; get it anew")
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise DataError(f"{where} has labels from {labels.min()} to {labels.max()}: CIFAR-10's are 0 to 9; get it anew")
    planes = pixels.reshape(-1, _CHANNELS, _SIDE, _SIDE)
    return Batch(np.ascontiguousarray(planes.transpose(0, 2, 3, 1)), labels)
