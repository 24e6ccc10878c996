"""Where what was read is kept decoded, so that it is read once and takes no memory: a folder of array files."""

from __future__ import annotations

import fcntl
import hashlib
import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Self

import msgspec
import numpy as np
import numpy.typing as npt

from fleetfoot.console import note
from fleetfoot.errors import DataError, ZooError
from fleetfoot.files import Document, atomic_path, remove_temporaries
from fleetfoot.folders import CACHE_VARIABLE, cache_directory
from zoo.catalog import InputSpec
from zoo.readers.tree import Stamp

DECODING = 2
"""How files are decoded; to be raised with any change of the values that come of it."""

Array = npt.NDArray[Any]


class Example(msgspec.Struct, frozen=True, array_like=True):
    """What is known of an example beside its values.

    Attributes:
        path: where it is below the tree.
        label: the name of its class.
        test: whether it is set apart for testing.
        group: what it has in common with others, such as the speaker.
    """

    path: str
    label: str
    test: bool = False
    group: str | None = None


class Record(Document, frozen=True, kw_only=True):
    """What was read, beside the values: an example per row of the array.

    Attributes:
        examples: what each row is an example of.
        faults: the files that cannot be used, and why.
        notes: what the user should know of the others.
        input: what each row is.
    """

    examples: tuple[Example, ...]
    faults: dict[str, str]
    notes: tuple[str, ...]
    input: InputSpec


class RowFile:
    """An ``.npy`` file that is written row by row, whose number is known at the end; without any it is empty.

    Memory that is mapped for writing counts as this process's until it is on the disk, so the rows
    are written as to any file.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._first: Array | None = None
        self._rows = 0

    @classmethod
    @contextmanager
    def create(cls, path: Path) -> Iterator[Self]:
        """Opens a new file; it is an array once the block is left."""
        with path.open("wb", buffering=2**20) as file:
            rows = cls(file)
            yield rows
            if rows._first is not None:
                file.seek(0)
                rows._write_header(rows._first)

    def append(self, row: Array) -> None:
        """Writes one more row, of the shape and type of the others."""
        if self._first is None:
            self._first = row
            self._write_header(row)
        if row.shape != self._first.shape or row.dtype != self._first.dtype:
            raise ValueError(f"{row.shape} of {row.dtype} is no row of {self._first.shape} of {self._first.dtype}")
        self._file.write(np.ascontiguousarray(row).data)
        self._rows += 1

    def _write_header(self, row: Array) -> None:
        # NumPy pads the header so that its length does not depend on the number of rows.
        np.lib.format.write_array_header_1_0(
            self._file,
            {
                "descr": np.lib.format.dtype_to_descr(row.dtype),
                "fortran_order": False,
                "shape": (self._rows, *row.shape),
            },
        )


def fetch(
    name: str, stamps: Iterable[Stamp], settings: msgspec.Struct, make: Callable[[Path], Record]
) -> tuple[Array, Record]:
    """What was read before of the same files in the same way; or else reads it, and keeps it.

    What was kept of earlier states of the files is deleted.

    Args:
        name: the dataset's.
        stamps: the state of all files.
        settings: how they are read.
        make: writes an array file, a row per example, and returns what the rows are.

    Returns:
        The array, mapped from the disk and read-only, and its record.

    Raises:
        DataError: the cache cannot be written, or whatever ``make`` raises.
    """
    folder = cache_directory() / f"{_slug(name)}-{_hash(name)}"
    state = _hash(stamps)
    path = folder / f"{state}-{_hash(settings)}.npy"
    if (kept := _load(path)) is not None:
        return kept
    with _reporting_trouble(folder), _locked(folder):
        if (kept := _load(path)) is None:
            remove_temporaries(folder)
            with atomic_path(path) as temporary:
                record = make(temporary)
            record.write(_record_path(path))
            _forget(folder, state)
            note(f"{name} is kept decoded in {path} ({path.stat().st_size / 1e6:,.0f} MB)")
            kept = _load(path)
    assert kept is not None
    return kept


def require_space(path: Path, size: int) -> None:
    """Checks that a file fits on the disk before it is begun.

    Raises:
        DataError: it does not.
    """
    free = shutil.disk_usage(path.parent).free
    if size > free:
        raise DataError(
            f"decoded, the data takes {size / 1e9:,.1f} GB and {path.parent} has {free / 1e9:,.1f} GB left: "
            f"read it smaller, or set {CACHE_VARIABLE} to a folder with more room"
        )


def _load(path: Path) -> tuple[Array, Record] | None:
    """What is kept, unless it is not there or not whole: it is made anew then."""
    try:
        record = Record.read(_record_path(path))
        array: Array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ZooError, ValueError, EOFError, OSError):
        return None
    return (array, record) if len(array) == len(record.examples) else None


def _record_path(path: Path) -> Path:
    return path.with_suffix(".json")


def _forget(folder: Path, state: str) -> None:
    """Deletes what was made of other states of the same files."""
    for path in folder.iterdir():
        if path.suffix in (".npy", ".json") and not path.name.startswith(state):
            path.unlink()


def _hash(content: object) -> str:
    return hashlib.sha256(msgspec.json.encode((DECODING, content))).hexdigest()[:16]


def _slug(name: str) -> str:
    """The last part of a name as one of a folder, for people who look for it."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", name.rpartition("/")[2])[-40:].strip("-.")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process fills a folder at a time; the others wait, and find what they came for."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("wb") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note(f"waiting for another process that fills {folder}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@contextmanager
def _reporting_trouble(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{error.filename or folder} cannot be written: {error.strerror or error}; set {CACHE_VARIABLE} to a "
            "folder that can"
        ) from None
