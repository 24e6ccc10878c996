"""The files that were sent to a board."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from fleetfoot.errors import DeviceError
from profiling.board.messages import MOST_CHUNK_BYTES
from profiling.board.modelstore import ModelStore

MODEL = b"\x1c\0\0\0TFL3" + bytes(range(256)) * 4
NAME = hashlib.sha256(MODEL).hexdigest()
SIZE = len(MODEL)


@pytest.fixture
def store(tmp_path: Path) -> ModelStore:
    return ModelStore(tmp_path / "models", 4096)


def numbered(number: int) -> tuple[str, bytes]:
    data = b"\x1c\0\0\0TFL3" + bytes([number]) * 4000
    return hashlib.sha256(data).hexdigest(), data


def send(store: ModelStore, name: str, data: bytes) -> bool:
    offset = store.begin(name, len(data))
    if offset < len(data):
        store.add(name, len(data), offset, data[offset:])
    return store.finish(name)


def test_a_file_that_was_sent_in_parts_is_there(store: ModelStore) -> None:
    assert not store.has(NAME)
    assert store.begin(NAME, SIZE) == 0
    assert store.add(NAME, SIZE, 0, MODEL[:100]) == 100
    assert not store.has(NAME)
    assert store.add(NAME, SIZE, 100, MODEL[100:]) == SIZE
    assert store.finish(NAME)
    assert store.has(NAME)
    assert store.path(NAME).read_bytes() == MODEL


def test_a_file_that_is_there_need_not_be_sent_again(store: ModelStore) -> None:
    send(store, NAME, MODEL)
    assert store.begin(NAME, SIZE) == SIZE
    assert store.add(NAME, SIZE, 0, MODEL) == SIZE
    assert store.finish(NAME)


def test_an_interrupted_file_goes_on_where_it_ended_after_a_restart_too(store: ModelStore, tmp_path: Path) -> None:
    store.begin(NAME, SIZE)
    store.add(NAME, SIZE, 0, MODEL[:100])
    again = ModelStore(tmp_path / "models", 4096)
    assert again.begin(NAME, SIZE) == 100
    assert again.add(NAME, SIZE, 100, MODEL[100:]) == SIZE
    assert again.finish(NAME)


def test_a_part_that_comes_twice_or_too_early_changes_nothing(store: ModelStore) -> None:
    store.begin(NAME, SIZE)
    assert store.add(NAME, SIZE, 0, MODEL[:100]) == 100
    assert store.add(NAME, SIZE, 0, MODEL[:100]) == 100
    assert store.add(NAME, SIZE, 500, MODEL[500:]) == 100
    assert store.add(NAME, SIZE, 100, MODEL[100:]) == SIZE
    assert store.finish(NAME)


def test_what_is_not_as_its_hash_says_is_dropped(store: ModelStore, tmp_path: Path) -> None:
    store.begin(NAME, SIZE)
    store.add(NAME, SIZE, 0, MODEL[:-1] + b"x")
    assert not store.finish(NAME)
    assert list((tmp_path / "models").iterdir()) == []
    assert store.begin(NAME, SIZE) == 0


def test_what_was_begun_larger_starts_anew(store: ModelStore) -> None:
    store.add(NAME, 2 * SIZE, 0, MODEL * 2)
    assert send(store, NAME, MODEL)


@pytest.mark.parametrize("data", [b"", b"PK\x03\x04", b"\x7fELF" + bytes(100), b"not a model at all", b"TFL3" * 1])
def test_only_litert_files_are_taken(store: ModelStore, tmp_path: Path, data: bytes) -> None:
    name = hashlib.sha256(data).hexdigest()
    store.begin(name, len(data))
    with pytest.raises(DeviceError, match="no LiteRT file"):
        store.add(name, len(data), 0, data)
    assert not store.finish(name)
    assert list((tmp_path / "models").iterdir()) == []


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "a" * 63, "A" * 64, f"{NAME}\n", None, 3, ["a"]])
def test_only_hashes_name_files(store: ModelStore, name: Any) -> None:
    for ask in (store.path, store.has, store.finish, lambda name: store.begin(name, 8)):
        with pytest.raises(DeviceError, match="no SHA-256"):
            ask(name)


def test_what_is_too_large_is_refused_before_it_is_sent(store: ModelStore) -> None:
    with pytest.raises(DeviceError, match="has 4097 bytes, and the agent takes 4096: see --max-bytes"):
        store.begin(NAME, 4097)
    with pytest.raises(DeviceError, match="the agent takes 4096"):
        store.add(NAME, 4097, 0, MODEL)


def test_more_than_was_announced_is_refused(store: ModelStore, tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match="more was sent than was announced"):
        store.add(NAME, SIZE, 0, MODEL + b"x")
    large = ModelStore(tmp_path / "large", 1 << 30)
    with pytest.raises(DeviceError, match="more was sent than was announced"):
        large.add(NAME, 1 << 30, 0, MODEL + bytes(MOST_CHUNK_BYTES))


def test_the_least_recently_used_make_room(store: ModelStore) -> None:
    names = [numbered(number) for number in range(9)]
    for age, (name, data) in enumerate(names[:8]):
        assert send(store, name, data)
        os.utime(store.path(name), (age, age))
    assert store.has(names[0][0])  # which uses it
    assert send(store, *names[8])
    assert [store.has(name) for name, _ in names] == [True, False, *[True] * 7]


def test_what_else_lies_there_is_somebody_elses(store: ModelStore, tmp_path: Path) -> None:
    mine, part = tmp_path / "models" / "mine.tflite", tmp_path / "models" / "download.part"
    for file in (mine, part):
        file.write_bytes(bytes(40_000))
        os.utime(file, (0, 0))
    for number in range(9):
        assert send(store, *numbered(number))
    assert mine.exists()
    assert part.exists()


def test_the_files_of_jobs_stay(tmp_path: Path) -> None:
    used: set[str] = set()
    store = ModelStore(tmp_path / "models", 4096, lambda: used)
    for number in range(8):
        name, data = numbered(number)
        assert send(store, name, data)
        used.add(name)
    with pytest.raises(DeviceError, match="the models of unfinished jobs fill the agent's"):
        store.begin(*_announced(8))
    used.remove(numbered(3)[0])
    assert send(store, *numbered(8))


def _announced(number: int) -> tuple[str, int]:
    name, data = numbered(number)
    return name, len(data)


def test_parts_that_nobody_went_on_with_make_room_first(store: ModelStore, tmp_path: Path) -> None:
    name, data = numbered(0)
    store.begin(name, len(data))
    store.add(name, len(data), 0, data[:2000])
    (part,) = (tmp_path / "models").iterdir()
    os.utime(part, (0, 0))
    assert send(store, NAME, MODEL)
    assert not part.exists()


class Disk(NamedTuple):
    """What a full disk has."""

    total: int = 1 << 40
    used: int = 1 << 40
    free: int = 1000


def test_a_full_disk_is_said_before_anything_is_sent(store: ModelStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk())
    with pytest.raises(DeviceError, match=f"no room for {SIZE} bytes in the agent's .+: see --cache"):
        store.begin(NAME, SIZE)
