"""Datasets of labelled raw inputs, and the four splits that every zoo is made with."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import DataError, UsageError
from zoo.catalog import InputSpec

Split = Literal["train", "tune", "route", "test"]
SPLITS: Mapping[Split, float] = {"train": 0.5, "tune": 0.1, "route": 0.2, "test": 0.2}
"""What each split is for: *train* weights; *tune* early stopping, importance, reward, calibration;
*route* the premodel, on inputs that no variant has seen; *test* reporting, which no decision reads."""

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
    """

    name: str
    x: npt.NDArray[Any]
    y: npt.NDArray[np.int64]
    classes: tuple[str, ...]
    input: InputSpec

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all inputs and labels, in hexadecimal."""
        digest = hashlib.sha256(np.ascontiguousarray(self.x).tobytes())
        digest.update(self.y.tobytes())
        return digest.hexdigest()

    def input_ids(self, indices: Indices) -> list[str]:
        """A content hash for each of the inputs."""
        return [hashlib.sha256(self.x[index].tobytes()).hexdigest()[:16] for index in indices]


def split_indices(y: npt.NDArray[np.int64], seed: int) -> dict[Split, Indices]:
    """Divides examples into the four splits at random, each with the same share of every class.

    Raises:
        DataError: a class has too few examples for that.
    """
    from sklearn.model_selection import train_test_split

    remaining = np.arange(len(y))
    share = 1.0
    splits: dict[Split, Indices] = {}
    for name, fraction in list(SPLITS.items())[:-1]:
        try:
            chosen, remaining = train_test_split(
                remaining, train_size=fraction / share, stratify=y[remaining], random_state=seed
            )
        except ValueError as error:
            raise DataError(f"the data cannot be divided into {', '.join(SPLITS)}: {error}") from None
        splits[name] = np.sort(chosen)
        share -= fraction
    splits["test"] = np.sort(remaining)
    return splits


def load_dataset(name: str) -> Dataset:
    """Loads a dataset by name.

    Raises:
        UsageError: no such dataset.
    """
    if name not in _READERS:
        raise UsageError(f"unknown dataset {name!r}: there is {', '.join(_READERS)}")
    return _READERS[name]()


def _digits() -> Dataset:
    """1,797 scans of handwritten digits, 8×8 pixels of 0 to 16, inside scikit-learn."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return Dataset(
        name="digits",
        x=digits.images.astype(np.float32)[..., np.newaxis],
        y=digits.target.astype(np.int64),
        classes=tuple(str(name) for name in digits.target_names),
        input=InputSpec(kind="image", shape=(8, 8, 1), dtype="float32", minimum=0.0, maximum=16.0),
    )


_READERS: Mapping[str, Callable[[], Dataset]] = {"digits": _digits}
