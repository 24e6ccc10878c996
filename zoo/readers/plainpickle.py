"""Pickles of plain values and byte arrays, read without building anything else: a pickle may run whatever it likes."""

from __future__ import annotations

import pickle
from math import prod
from typing import Any, BinaryIO

import numpy as np

from fleetfoot.errors import DataError
from zoo.readers.faults import reason


def read_plain_pickle(file: BinaryIO, where: str) -> dict[str, Any]:
    """Reads a pickle of a dict with text for keys.

    Nothing of the running program is within the pickle's reach: what it asks for is refused, or is one of the
    stand-ins below, which keep what they are given.

    Args:
        file: the pickle, of Python 2 or 3.
        where: what to call it in errors.

    Returns:
        The dict; its values are plain, bytes where Python 2 had text, or arrays of uint8.

    Raises:
        DataError: the pickle is damaged, of something else, or asks for anything but that.
    """
    try:
        content = _Unpickler(file, encoding="bytes").load()
        return {_text(key): _plain(value) for key, value in content.items()}
    except Exception as error:  # a damaged pickle raises anything
        raise DataError(
            f"{where} is damaged, or no pickle of plain data: {reason(error)}; nothing in it was run, get it anew"
        ) from None


class _Array:
    """In place of ``numpy.ndarray``, and of the function that makes one to be filled."""

    def __init__(self, *_arguments: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state

    def value(self) -> np.ndarray[Any, np.dtype[np.uint8]]:
        _version, shape, dtype, in_fortran_order, content = self.state
        if dtype.name != "u1" or in_fortran_order or len(content) != prod(shape):
            raise ValueError(f"an array of {dtype.name} and shape {shape} in {len(content)} bytes")
        return np.frombuffer(content, np.uint8).reshape(shape)


class _DType:
    """In place of ``numpy.dtype``."""

    def __init__(self, name: str | bytes, *_arguments: object) -> None:
        self.name = _text(name)

    def __setstate__(self, state: object) -> None:
        pass


class _Bytes:
    """In place of ``_codecs.encode``, by which Python 3 holds bytes in pickles of older protocols."""

    def __new__(cls, text: str, encoding: str) -> bytes:  # type: ignore[misc]
        if encoding not in ("latin1", b"latin1"):
            raise ValueError(f"bytes as {encoding}")
        return text.encode("latin1")

    # Without it the class itself could be given attributes.
    def __setstate__(self, state: object) -> None:
        pass


_STAND_INS = {
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _Bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        if (module, name) not in _STAND_INS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return _STAND_INS[module, name]


def _text(name: Any) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def _plain(value: Any) -> Any:
    return value.value() if isinstance(value, _Array) else value
