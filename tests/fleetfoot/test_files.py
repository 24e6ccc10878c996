from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetfoot.errors import NotAZooError, SchemaError
from fleetfoot.files import Document, atomic_path, remove_temporaries, sha256, write_bytes


class Note(Document, frozen=True, kw_only=True):
    SCHEMA_VERSION: ClassVar[int] = 3
    OLDEST_READ: ClassVar[int] = 2

    text: str
    numbers: tuple[int, ...] = ()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = shutil.which("mount")
    if not mount or os.geteuid() != 0:
        pytest.skip("only root can mount a file system to fill")
    mounted = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "none", disk], capture_output=True, check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine lets nobody mount a file system")
    yield disk
    subprocess.run(["umount", disk], check=True)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_a_block_that_succeeds_replaces_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert names(tmp_path) == ["file.txt"]


def test_a_block_that_raises_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyError), atomic_path(path) as temporary:
        temporary.write_text("ne")
        raise KeyError
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_an_interrupted_block_leaves_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as temporary:
        temporary.write_text("ne")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_temporary_keeps_the_suffix_by_which_writers_choose_the_format(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "model.keras") as temporary:
        assert temporary.suffix == ".keras"
        assert temporary.parent == tmp_path
        temporary.touch()


def test_folders_are_made_on_the_way(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a" / "b" / "file", b"content")
    assert (tmp_path / "a" / "b" / "file").read_bytes() == b"content"


def test_a_process_killed_while_it_writes_leaves_the_old_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    program = """
import os, signal, sys
from pathlib import Path
from fleetfoot.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("ne")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    killed = subprocess.run([sys.executable, "-c", program, path], timeout=60, check=False)
    assert killed.returncode == -9
    assert path.read_text() == "old"
    assert len(names(tmp_path)) == 2
    remove_temporaries(tmp_path)
    assert names(tmp_path) == ["file.txt"]


def test_temporaries_are_removed_from_every_folder_below_and_nothing_else_is(tmp_path: Path) -> None:
    below = tmp_path / "variants"
    below.mkdir()
    (below / ".half-written-0a1b2c3d-base.tflite").write_text("half")
    (below / "base.tflite").write_text("whole")
    (tmp_path / ".hidden").write_text("somebody's")
    remove_temporaries(tmp_path)
    assert names(below) == ["base.tflite"]
    assert names(tmp_path) == [".hidden", "variants"]


def test_a_full_disk_leaves_the_old_file_and_no_temporary(small_disk: Path) -> None:
    path = small_disk / "note.json"
    Note(text="old").write(path)
    with pytest.raises(OSError, match="No space left"):
        Note(text="new" * 100_000).write(path)
    assert Note.read(path).text == "old"
    assert names(small_disk) == ["note.json"]


@given(data=st.binary(max_size=1000))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_hash_is_that_of_the_content(tmp_path: Path, data: bytes) -> None:
    write_bytes(tmp_path / "file", data)
    assert sha256(tmp_path / "file") == hashlib.sha256(data).hexdigest()


@given(text=st.text(), numbers=st.lists(st.integers(-(2**63), 2**63 - 1)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_document_reads_as_it_was_written(tmp_path: Path, text: str, numbers: list[int]) -> None:
    note = Note(text=text, numbers=tuple(numbers))
    note.write(tmp_path / "note.json")
    assert Note.read(tmp_path / "note.json") == msgspec.structs.replace(note, schema_version=3)


def test_a_document_is_written_under_the_current_schema_version(tmp_path: Path) -> None:
    Note(text="hello", schema_version=1).write(tmp_path / "note.json")
    assert msgspec.json.decode((tmp_path / "note.json").read_bytes())["schema_version"] == 3


def test_an_older_document_is_read(tmp_path: Path) -> None:
    (tmp_path / "note.json").write_text('{"schema_version": 2, "text": "hello"}')
    assert Note.read(tmp_path / "note.json").text == "hello"


@pytest.mark.parametrize("version", [1, 0, -1])
def test_a_document_that_is_too_old_is_refused_even_if_its_fields_are_others(tmp_path: Path, version: int) -> None:
    path = tmp_path / "note.json"
    path.write_text(f'{{"schema_version": {version}, "words": []}}')
    with pytest.raises(SchemaError, match=r"note\.json was written by an older Fleetfoot.*: make it anew$"):
        Note.read(path)


def test_a_newer_document_is_refused_even_if_its_fields_are_others(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    path.write_text('{"schema_version": 4, "words": []}')
    with pytest.raises(SchemaError) as error:
        Note.read(path)
    assert str(path) in str(error.value)
    assert "schema_version 4" in str(error.value)
    assert "upgrade" in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b'{"schema_version": 3, "text": "hel',
        b'{"schema_version": 3, "text": "hello", "numbers": [1, "two"]}',
        b'{"schema_version": 3}',
        b'{"text": "hello"}',
        b'{"schema_version": "3", "text": "hello"}',
        b'{"schema_version": 3, "text": "hello", "colour": "red"}',
        b"[]",
        b"null",
        b"\x89PNG\r\n\x1a\n",
        b'{"schema_version": 3, "text": "\xff"}',
    ],
)
def test_what_is_no_such_document_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "note.json"
    path.write_bytes(content)
    with pytest.raises(SchemaError) as error:
        Note.read(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_document_is_named(tmp_path: Path) -> None:
    path = tmp_path / "note.json"
    with pytest.raises(NotAZooError) as error:
        Note.read(path)
    assert str(path) in str(error.value)


def test_a_document_below_a_file_is_missing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotAZooError, match="does not exist"):
        Note.read(tmp_path / "file" / "note.json")


@given(cut=st.integers(min_value=0))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_no_truncated_document_is_taken_for_a_whole_one(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "note.json"
    Note(text="hello", numbers=(1, 2, 3)).write(path)
    whole = path.read_bytes().rstrip()
    path.write_bytes(whole[: cut % len(whole)])
    with pytest.raises(SchemaError):
        Note.read(path)
