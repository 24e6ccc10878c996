"""Files that are whole or absent: atomic writes, hashes, and JSON documents with a schema version."""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import ClassVar, Self

import msgspec

from fleetfoot.errors import NotAZooError, SchemaError

_TEMPORARY = ".half-written-"


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yields a temporary path beside ``path`` that replaces it when the block succeeds.

    When the block fails, or the process is killed, ``path`` is as it was before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays, because writers such as Keras choose the format by it.
    temporary = path.with_name(f"{_TEMPORARY}{secrets.token_hex(4)}-{path.name}")
    try:
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def is_temporary(path: Path) -> bool:
    """Whether a file is one that a killed process left half-written."""
    return path.name.startswith(_TEMPORARY)


def remove_temporaries(directory: Path) -> None:
    """Deletes what a killed process left half-written below ``directory``."""
    for leftover in directory.rglob(f"{_TEMPORARY}*"):
        leftover.unlink()


def write_bytes(path: Path, data: bytes) -> None:
    """Writes ``data`` to ``path`` atomically."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(data)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A JSON file with a schema version; subclasses declare the fields, and the versions they write and read."""

    SCHEMA_VERSION: ClassVar[int] = 1
    OLDEST_READ: ClassVar[int] = 1

    schema_version: int = 0

    def write(self, path: Path) -> None:
        """Writes this document atomically, under the current schema version."""
        current = msgspec.structs.replace(self, schema_version=self.SCHEMA_VERSION)
        write_bytes(path, msgspec.json.format(msgspec.json.encode(current), indent=1) + b"\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Reads and validates a document.

        Raises:
            NotAZooError: there is no such file.
            SchemaError: the file is no such document, or was written by a newer version, or by one too old.
        """
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise NotAZooError(f"{path} does not exist") from None
        try:
            version = msgspec.json.decode(data, type=_Versioned).schema_version
            if version > cls.SCHEMA_VERSION:
                raise SchemaError(
                    f"{path} has schema_version {version}, and this Fleetfoot reads up to "
                    f"{cls.SCHEMA_VERSION}: upgrade fleetfoot"
                )
            if version < cls.OLDEST_READ:
                raise SchemaError(
                    f"{path} was written by an older Fleetfoot, whose form is no longer read: make it anew"
                )
            return msgspec.json.decode(data, type=cls)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise SchemaError(f"{path} is damaged or not what its name says: {error}") from None


def is_document(path: Path) -> bool:
    """Whether a file is a JSON document with a schema version, of whatever kind and version."""
    try:
        msgspec.json.decode(path.read_bytes(), type=_Versioned)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        return False
    return True


class _Versioned(msgspec.Struct):
    """What is read of any document before the rest of it is trusted."""

    schema_version: int
