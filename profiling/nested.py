"""Networks nested in one LiteRT file, whose weights are mostly slices of the widest network's.

The widest network is the file; behind it is a ZIP archive with an entry for each of the others, named after its
signature. A converter folds batch normalisation into the weights, so those of a narrower network are a slice of the
wider one's times a factor for each channel. That foretells them but for rounding: the entry holds the factors and what
is left, and compresses to little. A network is put together from it when it is opened, to the last bit.
"""

from __future__ import annotations

import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from fleetfoot.errors import ModelError

Array = npt.NDArray[Any]

Number = Literal["float32", "float16", "int8"]

FOLDER = "nested/"
"""What the names of the entries begin with; others may keep something else in an archive behind a LiteRT file."""

_DAMAGE = (zipfile.BadZipFile, zlib.error, msgspec.MsgspecError, OSError, EOFError, RuntimeError, ValueError)
"""What reading an archive raises, RuntimeError where damage looks like a feature that the reader does not have."""


class Slice(msgspec.Struct, frozen=True, array_like=True):
    """Weights of a nested network, and those of the widest that foretell them.

    Attributes:
        at: where they begin in the file of the nested network by itself.
        source_at: where those of the widest begin in its file.
        dtype: the type of both.
        shape: what is kept: of each axis a prefix.
        source_shape: of what.
        runs: into how many equal runs the last axis falls, of each of which a prefix is kept; more than one where
            positions and channels were made one axis.
        axis: the axis of the channels that have a factor each.
        factors: those, in float32.
    """

    at: int
    source_at: int
    dtype: Number
    shape: tuple[int, ...]
    source_shape: tuple[int, ...]
    runs: int
    axis: int
    factors: bytes

    def foretold(self, source: Array) -> Array:
        """The weights as far as those of the widest network, whose file is ``source``, tell them."""
        dtype = np.dtype(self.dtype)
        size = int(np.prod(self.source_shape)) * dtype.itemsize
        whole = source[self.source_at : self.source_at + size].view(dtype).reshape(self.source_shape)
        columns = [-1 if axis == self.axis else 1 for axis in range(len(self.shape))]
        product = prefix(whole, self.shape, self.runs) * np.frombuffer(self.factors, np.float32).reshape(columns)
        if dtype.kind == "f":
            with np.errstate(over="ignore"):
                return product.astype(dtype, copy=False)
        limits = np.iinfo(dtype)
        return np.rint(product).clip(limits.min, limits.max).astype(dtype)

    def within(self, content: Array) -> Array:
        """The weights in the file of the nested network, a view of them as integers without sign."""
        dtype = np.dtype(self.dtype)
        size = int(np.prod(self.shape)) * dtype.itemsize
        return content[self.at : self.at + size].view(f"u{dtype.itemsize}").reshape(self.shape)


class Nested(msgspec.Struct, frozen=True, array_like=True):
    """A network in terms of the widest: its file, less what the slices foretell, and the checksum of it whole."""

    slices: tuple[Slice, ...]
    rest: memoryview
    crc32: int

    def whole(self, source: Array) -> bytearray:
        """The network's file by itself.

        Raises:
            ValueError: the widest network, whose file is ``source``, is not the one that it was nested in.
        """
        whole = bytearray(self.rest)
        content = np.frombuffer(whole, np.uint8)
        for part in self.slices:
            values = part.within(content)
            values += part.foretold(source).view(values.dtype)
        if zlib.crc32(whole) != self.crc32:
            raise ValueError("its checksum is another")
        return whole


def prefix(whole: Array, shape: tuple[int, ...], runs: int) -> Array:
    """Of each axis the first positions, of the last those of each run."""
    in_runs = whole.reshape(*whole.shape[:-1], runs, -1)
    kept = (*(slice(size) for size in shape[:-1]), slice(None), slice(shape[-1] // runs))
    return in_runs[kept].reshape(shape)


def nested_signatures(path: Path) -> tuple[str, ...]:
    """The signatures of the networks that are nested in a LiteRT file; its own are not among them."""
    try:
        with zipfile.ZipFile(path) as archive:
            return tuple(name.removeprefix(FOLDER) for name in archive.namelist() if name.startswith(FOLDER))
    except _DAMAGE:
        return ()


def standalone(path: Path, signature: str) -> bytes | None:
    """The LiteRT file that a nested network is by itself; None where no such signature is nested in the file.

    Raises:
        ModelError: the file is damaged.
    """
    if signature not in nested_signatures(path):
        return None
    try:
        return bytes(_put_together(path, signature))
    except _DAMAGE as error:
        raise ModelError(f"{path} is damaged, so that {signature} cannot be put together: {error}") from None


def _put_together(path: Path, signature: str) -> bytearray:
    with zipfile.ZipFile(path) as archive:
        nested = msgspec.msgpack.decode(archive.read(FOLDER + signature), type=Nested)
    return nested.whole(np.memmap(path, np.uint8, "r"))


@contextmanager
def alone(path: Path, signature: str) -> Iterator[Path]:
    """A file that has a signature as its own: a temporary one where it is nested in ``path``, else ``path``.

    Raises:
        ModelError: the file is damaged.
    """
    content = standalone(path, signature)
    if content is None:
        yield path
        return
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / path.name
        file.write_bytes(content)
        yield file
