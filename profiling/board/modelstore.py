"""The model files that were sent to a board: by their hashes, whole or not there, and not too many."""

from __future__ import annotations

import os
import re
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

from fleetfoot.errors import DeviceError
from fleetfoot.files import sha256 as hash_of
from profiling.board.messages import MOST_CHUNK_BYTES

_IDENTIFIER = b"TFL3"
_HEADER_BYTES = 8
_HASH = "[0-9a-f]{64}"
_RESERVE_BYTES = 64 << 20
_CACHED_FILES = 8
_PART_SECONDS = 3600.0


def is_litert(header: bytes) -> bool:
    """Whether a file that begins so says that it is a LiteRT file."""
    return header[4:_HEADER_BYTES] == _IDENTIFIER


class ModelStore:
    """A directory of LiteRT files that are sent in chunks.

    Args:
        directory: made where there is none.
        max_bytes: of one file; all together have eight times that, and the least recently used make room.
        in_use: the hashes of files that must stay.
    """

    def __init__(self, directory: Path, max_bytes: int, in_use: Callable[[], set[str]] = set) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self._max_bytes, self._in_use = directory, max_bytes, in_use
        self._lock = threading.RLock()

    def path(self, sha256: str) -> Path:
        """Where a file is, or would be.

        Raises:
            DeviceError: that is no hash.
        """
        if not isinstance(sha256, str) or not re.fullmatch(_HASH, sha256):
            raise DeviceError(f"{str(sha256)[:80]!r} is no SHA-256")
        return self._directory / f"{sha256}.tflite"

    def has(self, sha256: str) -> bool:
        """Whether a file is there, which counts as using it."""
        path = self.path(sha256)
        with self._lock:
            if not path.exists():
                return False
            os.utime(path)
        return True

    def begin(self, sha256: str, size: int) -> int:
        """Prepares for a file of ``size`` bytes; returns from which byte on it is to be sent.

        Raises:
            DeviceError: it is too large, or there is no room.
        """
        with self._lock:
            if self.has(sha256):
                return size
            self._check_size(size)
            part = self._part(sha256)
            there = part.stat().st_size if part.exists() else 0
            if there > size:
                part.unlink()
                there = 0
            self._make_room(size - there, {sha256} | self._in_use())
            return there

    def add(self, sha256: str, size: int, offset: int, data: bytes) -> int:
        """Takes a part of a file of ``size`` bytes; returns from which byte on more is to be sent.

        What does not continue what is there is not taken, so that a part that is sent twice does no harm.

        Raises:
            DeviceError: it is no LiteRT file, or more than was announced, or there is no room.
        """
        self._check_size(size)
        with self._lock:
            if self.has(sha256):
                return size
            part = self._part(sha256)
            there = part.stat().st_size if part.exists() else 0
            if offset != there:
                return there
            if len(data) > MOST_CHUNK_BYTES or there + len(data) > size:
                raise DeviceError("more was sent than was announced")
            if there == 0 and not is_litert(data):
                raise DeviceError("this is no LiteRT file, and nothing else is taken")
            try:
                with part.open("ab") as file:
                    file.write(data)
            except OSError as error:
                raise DeviceError(f"the agent cannot write to {self._directory}: {error.strerror}") from None
            return there + len(data)

    def finish(self, sha256: str) -> bool:
        """Whether all of a file has come, as its hash says; what is otherwise is dropped."""
        with self._lock:
            if self.has(sha256):
                return True
            part = self._part(sha256)
            whole = part.exists() and part.stat().st_size >= _HEADER_BYTES and hash_of(part) == sha256
            if whole:
                with part.open("rb") as written:
                    os.fsync(written.fileno())
                part.replace(self.path(sha256))
            else:
                part.unlink(missing_ok=True)
            return whole

    def _check_size(self, size: int) -> None:
        if size > self._max_bytes:
            raise DeviceError(f"the file has {size} bytes, and the agent takes {self._max_bytes}: see --max-bytes")

    def _part(self, sha256: str) -> Path:
        return self.path(sha256).with_suffix(".part")

    def _make_room(self, wanted: int, keep: set[str]) -> None:
        """Removes parts that nobody went on with, and then the files that were not used for longest."""
        now = time.time()
        for part in self._ours("part"):
            if part.stem not in keep and now - part.stat().st_mtime > _PART_SECONDS:
                part.unlink()
        files = sorted(self._ours("tflite"), key=lambda path: path.stat().st_mtime)
        unused = [path for path in files if path.stem not in keep]
        while self._lacks(wanted) and unused:
            unused.pop(0).unlink()
        if shutil.disk_usage(self._directory).free < wanted + _RESERVE_BYTES:
            raise DeviceError(f"there is no room for {wanted} bytes in the agent's {self._directory}: see --cache")
        if self._lacks(wanted):
            raise DeviceError(f"the models of unfinished jobs fill the agent's {self._directory}: try again later")

    def _ours(self, kind: str) -> list[Path]:
        """The files that were sent; others that lie there are somebody else's."""
        return [path for path in self._directory.glob(f"*.{kind}") if re.fullmatch(_HASH, path.stem)]

    def _lacks(self, wanted: int) -> bool:
        there = sum(path.stat().st_size for path in (*self._ours("tflite"), *self._ours("part")))
        free = shutil.disk_usage(self._directory).free
        return there + wanted > _CACHED_FILES * self._max_bytes or free < wanted + _RESERVE_BYTES
