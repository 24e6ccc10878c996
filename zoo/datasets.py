"""Datasets of labelled raw inputs, and the four splits that every zoo is made with."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from fleetfoot.errors import DataError, UsageError
from zoo.catalog import InputSpec

Split = Literal["train", "tune", "route", "test"]
SPLITS: Mapping[Split, float] = {"train": 0.5, "tune": 0.1, "route": 0.2, "test": 0.2}
"""What each split is for, and its share of the data: *train* weights; *tune* early stopping, importance, reward,
calibration; *route* the premodel, on inputs that no variant has seen; *test* reporting, which no decision reads."""

MOST: Mapping[Split, int] = {"tune": 2_000, "route": 5_000, "test": 10_000}
"""The most examples that a split takes; of larger data, the rest is worth more as train."""

A_HANDFUL = 5
"""How many examples to learn from a class needs at the least."""

_HASHED_AT_ONCE = 1024

Indices = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Dataset:
    """Raw inputs with their labels.

    Attributes:
        name: how ``load_dataset`` finds it again.
        x: inputs, of shape (examples, *input.shape) and type ``input.dtype``.
        y: class indices, of shape (examples,).
        classes: the names of the classes.
        input: what one input is.
        test: indices of the examples that the dataset itself sets apart for testing, if it does.
        groups: for each example what it has in common with others, such as its speaker, if that is known.
    """

    name: str
    x: npt.NDArray[Any]
    y: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    input: InputSpec
    test: Indices | None = None
    groups: tuple[str, ...] | None = None

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all inputs and labels, in hexadecimal."""
        digest = hashlib.sha256()
        for start in range(0, len(self.x), _HASHED_AT_ONCE):
            digest.update(np.ascontiguousarray(self.x[start : start + _HASHED_AT_ONCE]).data)
        digest.update(self.y.tobytes())
        return digest.hexdigest()

    def rows(self, indices: Indices) -> Rows:
        """Some of the inputs, which stay on the disk until they are taken."""
        return Rows(self.x, indices)

    def input_ids(self, indices: Indices) -> list[str]:
        """A content hash for each of the inputs."""
        return [hashlib.sha256(self.x[index].tobytes()).hexdigest()[:16] for index in indices]


class Rows:
    """Some rows of an array that may be a memory map; a slice of them is read when it is taken."""

    def __init__(self, x: npt.NDArray[Any], indices: Indices) -> None:
        self._x, self._indices = x, indices

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, part: slice) -> npt.NDArray[Any]:
        return self._x[self._indices[part]]


def require_classes(name: str, counts: Mapping[str, int]) -> None:
    """Checks that there is something to learn.

    Args:
        name: the dataset's.
        counts: how many examples of each class there are outside its test split.

    Raises:
        DataError: there are no examples, only one class, or too few examples of one.
    """
    if not any(counts.values()):
        raise DataError(f"{name} has no examples to learn from: all its examples are for testing, or it is empty")
    if len(counts) == 1:
        raise DataError(f"{name} has only one class, {', '.join(counts)}: there is nothing to tell apart")
    if few := [f"{label} ({count})" for label, count in counts.items() if count < A_HANDFUL]:
        raise DataError(f"{name} has classes with fewer than {A_HANDFUL} examples to learn from: {', '.join(few)}")


def split_indices(dataset: Dataset, seed: int) -> dict[Split, Indices]:
    """Divides examples into the four splits at random, each with the same share of every class.

    Where the dataset sets a test split apart, that is it, and the others share the rest in proportion.

    Raises:
        DataError: a class has too few examples for that.
    """
    from sklearn.model_selection import train_test_split

    splits: dict[Split, Indices] = {}
    remaining = np.arange(len(dataset.y))
    wanted = list(MOST)
    if dataset.test is not None:
        splits["test"] = np.sort(dataset.test)
        remaining = np.setdiff1d(remaining, dataset.test)
        wanted.remove("test")
    whole, shares = len(remaining), sum(SPLITS[name] for name in ("train", *wanted))
    for name in wanted:
        size = min(MOST[name], round(SPLITS[name] / shares * whole))
        try:
            remaining, chosen = train_test_split(
                remaining, test_size=size, stratify=dataset.y[remaining], random_state=seed
            )
        except ValueError as error:
            raise DataError(f"{dataset.name} cannot be divided into {', '.join(SPLITS)}: {error}") from None
        splits[name] = np.sort(chosen)
    splits["train"] = np.sort(remaining)
    return {name: splits[name] for name in SPLITS}


class ReadOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a dataset is read.

    Attributes:
        size: height and width that images are brought to; by default the most common size in the data.
        on_bad: what to do with files that cannot be read or are unlike the others: ``"refuse"`` the dataset,
            naming them, or ``"skip"`` them, saying how many.
        seconds: the length that recordings are brought to; by default that of the longest.
        sampling_rate: the rate that recordings are brought to; by default the most common in the data.
    """

    size: tuple[int, int] | None = None
    on_bad: Literal["refuse", "skip"] = "refuse"
    seconds: float | None = None
    sampling_rate: int | None = None

    def __post_init__(self) -> None:
        """Refuses what cannot be meant.

        Raises:
            UsageError: a size, length or rate that is not positive.
        """
        for what, value in ("size", self.size), ("seconds", self.seconds), ("sampling_rate", self.sampling_rate):
            numbers = value if isinstance(value, tuple) else () if value is None else (value,)
            if not all(0 < number < math.inf for number in numbers):
                raise UsageError(f"{what} is {value}, and has to be positive")


Reader = Callable[[str, ReadOptions], Dataset]
"""Reads what is behind the colon of a dataset's name, such as the directory of ``images:DIR``."""

READERS: Mapping[str, str] = {
    "digits": "zoo.readers.digits:read",
    "images": "zoo.readers.images:read",
    "cifar10": "zoo.readers.cifar10:read",
    "fashion-mnist": "zoo.readers.idx:read_fashion_mnist",
    "mnist": "zoo.readers.idx:read_mnist",
    "speech": "zoo.readers.speech:read",
    "npz": "zoo.readers.npz:read",
    "module": "zoo.readers.module:read",
}
"""Where each kind of dataset is read: module and function, imported when first wanted."""

_TAKEN_BY: Mapping[str, tuple[str, ...]] = {
    "size": ("images", "cifar10"),
    "seconds": ("speech",),
    "sampling_rate": ("speech",),
}
"""The kinds of data that a read option means something for."""

_CALLED = {"size": "--image-size", "seconds": "--seconds"}


def takes_size(name: str) -> bool:
    """Whether the images of a dataset can be brought to a size."""
    return name.partition(":")[0] in _TAKEN_BY["size"]


def load_dataset(name: str, options: ReadOptions | None = None) -> Dataset:
    """Loads a dataset by name: a kind, and for most kinds a colon and what to read.

    Raises:
        UsageError: no such kind, or an option that means nothing for it.
        DataError: what is behind the name cannot be read, or is no dataset to build a zoo on.
    """
    kind, _, argument = name.partition(":")
    if kind not in READERS:
        raise UsageError(f"unknown dataset {name!r}: there is {', '.join(READERS)}")
    options = options or ReadOptions()
    _require_options_of(kind, options)
    module, function = READERS[kind].split(":")
    read: Reader = getattr(import_module(module), function)
    try:
        dataset = read(argument, options)
    except OSError as error:  # a folder that may not be entered, a disk that fails
        raise DataError(f"{error.filename or name} cannot be read: {error.strerror or error}") from None
    require_classes(dataset.name, _learning_counts(dataset))
    if dataset.test is not None and not len(dataset.test):
        raise DataError(f"{dataset.name} sets a test split apart that is empty: fill it, or leave it out")
    return dataset


def _require_options_of(kind: str, options: ReadOptions) -> None:
    for option, kinds in _TAKEN_BY.items():
        if getattr(options, option) is not None and kind not in kinds:
            takers = ", ".join(f"{one}:" for one in kinds)
            raise UsageError(f"{_CALLED.get(option, option)} is for {takers}, and {kind} takes no such option")


def _learning_counts(dataset: Dataset) -> dict[str, int]:
    """How many examples of each class are outside the dataset's own test split."""
    labels = dataset.y if dataset.test is None else np.delete(dataset.y, dataset.test)
    counts = np.bincount(labels, minlength=len(dataset.classes))
    return dict(zip(dataset.classes, counts.tolist(), strict=True))


def spread(x: npt.NDArray[Any], count: int) -> npt.NDArray[Any]:
    """At most so many of some examples, from first to last: data is often in the order of its classes."""
    chosen: npt.NDArray[Any] = x[np.linspace(0, len(x) - 1, min(count, len(x))).round().astype(int)]
    return chosen
