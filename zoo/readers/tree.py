"""Trees of files that datasets come as: a folder, or an archive of one, which is read without being unpacked."""

from __future__ import annotations

import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path, PurePosixPath
from typing import BinaryIO, NamedTuple, Protocol, cast

from fleetfoot.errors import DataError, UsageError
from zoo.readers.faults import reason

ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar", ".zip")

Wanted = Callable[[str], bool]

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError)
_NOT_DATA = ("__MACOSX", "Thumbs.db", "desktop.ini")


class Stamp(NamedTuple):
    """What tells whether a file has changed: its path below the tree, bytes, and time of change."""

    path: str
    size: int
    mtime_ns: int


class Member(NamedTuple):
    """A file in a tree, or a folder.

    Attributes:
        path: where it is below the tree, with ``/`` between folders; that of a folder ends with one.
        size: bytes.
        open: opens a file for reading; it raises OSError where there is nothing to read.
    """

    path: str
    size: int
    open: Callable[[], BinaryIO]

    def read(self) -> bytes:
        """All that is in the file."""
        with self.open() as file:
            return file.read()

    @property
    def is_folder(self) -> bool:
        """Whether this is a folder."""
        return self.path.endswith("/")


class Tree(Protocol):
    """Files in folders. Hidden files, and what operating systems leave beside data, are not in it."""

    @property
    def path(self) -> Path:
        """Where it is."""

    def stamps(self) -> list[Stamp]:
        """What changes when something in the tree does, sorted."""

    def members(self, wanted: Wanted) -> Iterator[Member]:
        """All files and folders, in an order that stays the same as long as the stamps do.

        Args:
            wanted: whether the file of a path will be opened; the others cannot be.

        Raises:
            DataError: the tree cannot be read.
        """

    def count(self) -> int | None:
        """How many files and folders there are, if that is known without reading all of them."""


class Folder:
    """A folder and all below it, as it is when first looked at; links are followed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamps(self) -> list[Stamp]:
        """The stamps of all files, and the names of the folders."""
        return [Stamp(path, *_size_and_time(entry)) for path, entry in self._entries]

    def members(self, wanted: Wanted) -> Iterator[Member]:
        """Files and folders, sorted by name."""
        for path, entry in self._entries:
            yield Member(path, _size_and_time(entry)[0], partial(_open_entry, entry))

    def count(self) -> int:
        """How many files and folders there are."""
        return len(self._entries)

    @cached_property
    def _entries(self) -> list[tuple[str, os.DirEntry[str]]]:
        try:
            return list(_walk(self.path, "", frozenset()))
        except OSError as error:
            raise DataError(f"{error.filename or self.path} cannot be read: {error.strerror}") from None


class TarArchive:
    """A tar archive, compressed or not; links in it are not followed."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamps(self) -> list[Stamp]:
        """The stamp of the archive."""
        return _stamps_of(self.path)

    def members(self, wanted: Wanted) -> Iterator[Member]:
        """Files and folders as they follow each other."""
        with _reporting_damage(self.path), tarfile.open(self.path) as archive:
            for info in archive:
                path = _member_path(self.path, info.name, is_folder=info.isdir())
                if path is None:
                    continue
                if info.isfile() and wanted(path):
                    yield Member(path, info.size, partial(io.BytesIO, _content(archive, info)))
                else:
                    yield Member(path, info.size, partial(_cannot_open, "a link; those in archives are not followed"))
            _read_to_end(archive)

    def count(self) -> None:
        """Only reading all of it would tell."""


class ZipArchive:
    """A zip archive."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def stamps(self) -> list[Stamp]:
        """The stamp of the archive."""
        return _stamps_of(self.path)

    def members(self, wanted: Wanted) -> Iterator[Member]:
        """Files and folders in the order of the archive's directory."""
        with _reporting_damage(self.path), zipfile.ZipFile(self.path) as archive:
            for info in archive.infolist():
                path = _member_path(self.path, info.filename, is_folder=info.is_dir())
                if path is not None:
                    opener = _opener(archive, info) if wanted(path) else partial(_cannot_open, "not wanted")
                    yield Member(path, info.file_size, opener)

    def count(self) -> int:
        """How many files and folders there are."""
        with _reporting_damage(self.path), zipfile.ZipFile(self.path) as archive:
            return len(archive.infolist())


def resolve(kind: str, argument: str) -> Path:
    """The absolute path that a dataset's name gives.

    Raises:
        UsageError: it gives none.
        DataError: there is nothing, or nothing that can be looked at.
    """
    if not argument:
        raise UsageError(f"{kind} needs to know what to read: {kind}:PATH")
    try:
        path = Path(argument).expanduser().resolve()
        exists = path.exists()
        str(path).encode()
    except (OSError, RuntimeError, ValueError) as error:  # no such user, links in a circle, bytes that no name has
        raise DataError(f"{argument!r} cannot be looked at: {reason(error)}") from None
    if not exists:
        raise DataError(f"{path} does not exist: {kind}:PATH names the data on this machine")
    return path


def is_archive(path: Path) -> bool:
    """Whether this is a file with the suffix of an archive."""
    return path.name.lower().endswith(ARCHIVE_SUFFIXES) and path.is_file()


def open_tree(path: Path) -> Tree:
    """The tree in a folder or in an archive.

    Raises:
        DataError: something else is there.
    """
    if path.is_dir():
        return Folder(path)
    if not is_archive(path):
        raise DataError(f"{path} is neither a folder nor an archive ({', '.join(ARCHIVE_SUFFIXES)}): name one of those")
    return ZipArchive(path) if path.name.lower().endswith(".zip") else TarArchive(path)


def all_members(trees: Iterable[Tree], wanted: Wanted) -> Iterator[Member]:
    """The members of several trees, as if they were in one.

    Raises:
        DataError: a file is there twice, or a tree cannot be read.
    """
    seen: set[str] = set()
    for tree in trees:
        for member in tree.members(wanted):
            if member.path in seen and not member.is_folder:
                raise DataError(f"{tree.path} holds {member.path}, which was there before: remove one of the two")
            seen.add(member.path)
            yield member


def _walk(folder: Path | str, prefix: str, above: frozenset[tuple[int, int]]) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Everything below a folder; a link back to a folder above is not followed, which would never end."""
    with os.scandir(folder) as listing:
        entries = sorted(listing, key=lambda entry: entry.name)
    status = Path(folder).stat()
    above |= {(status.st_dev, status.st_ino)}
    for entry in entries:
        if _is_data(entry.name):
            path = prefix + _readable(entry.name)
            if not _is_folder(entry):
                yield path, entry
            elif (entry.stat().st_dev, entry.stat().st_ino) not in above:
                yield f"{path}/", entry
                yield from _walk(entry.path, f"{path}/", above)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle, which are reported when they are opened
        return False


def _is_data(name: str) -> bool:
    return not name.startswith(".") and name not in _NOT_DATA


def _readable(name: str) -> str:
    """A name as text that every file format takes: bytes that are no UTF-8 are replaced."""
    return os.fsencode(name).decode(errors="replace")


def _size_and_time(entry: os.DirEntry[str]) -> tuple[int, int]:
    """Bytes and time of change of a file; a folder changes with what is in it, so its own do not matter."""
    try:
        status = entry.stat()
    except OSError:  # a link to nowhere, which is reported when it is opened
        return 0, 0
    return (0, 0) if entry.is_dir() else (status.st_size, status.st_mtime_ns)


def _open_entry(entry: os.DirEntry[str]) -> BinaryIO:
    if not entry.is_file():  # opening a pipe would wait for somebody to write to it
        raise OSError("no regular file, or a link to nowhere")
    return Path(entry.path).open("rb")


def _cannot_open(why: str) -> BinaryIO:
    raise OSError(why)


def _stamps_of(archive: Path) -> list[Stamp]:
    status = archive.stat()
    return [Stamp(archive.name, status.st_size, status.st_mtime_ns)]


def _member_path(archive: Path, name: str, *, is_folder: bool) -> str | None:
    """The path of an archive's member, or None for what is no data.

    Raises:
        DataError: the path leads out of the archive, so somebody made it to do harm.
    """
    path = PurePosixPath(_readable(name))
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{archive} holds {name!r}, which leads out of it: do not trust this archive")
    if not path.parts or not all(_is_data(part) for part in path.parts):
        return None
    return f"{path}/" if is_folder else str(path)


def _content(archive: tarfile.TarFile, info: tarfile.TarInfo) -> bytes:
    with cast(BinaryIO, archive.extractfile(info)) as file:
        content = file.read()
    if len(content) < info.size:
        raise EOFError("it ends too early")
    return content


def _read_to_end(archive: tarfile.TarFile) -> None:
    """Reads what is after the last member: a compressed file is compared with its checksum at its end only."""
    file = cast(BinaryIO, archive.fileobj)
    while file.read(2**20):
        pass


def _opener(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Callable[[], BinaryIO]:
    """How a member is opened that is read already, because the archive is closed when others are still read."""
    try:
        return partial(io.BytesIO, archive.read(info))
    except (*_DAMAGE, RuntimeError) as error:  # RuntimeError: it is encrypted
        return partial(_cannot_open, reason(error))


@contextmanager
def _reporting_damage(archive: Path) -> Iterator[None]:
    try:
        yield
    except (*_DAMAGE, OSError) as error:
        raise DataError(f"{archive} is damaged, or no archive: {reason(error)}; get it anew") from None
