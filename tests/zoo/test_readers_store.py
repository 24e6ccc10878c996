"""What was decoded is kept whole, used again, and made anew when it has to be."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from readerfiles import ROOT, SKIP, pixels, refusal, tar, write_image, write_images

from fleetfoot.errors import DataError
from zoo.datasets import ReadOptions, load_dataset
from zoo.readers import images, store

FOLDERS = {"cat": 6, "dog": 5}


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    write_images(root, FOLDERS)
    return root


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Width and height of the images that are decoded, as it happens."""
    sizes: list[tuple[int, int]] = []
    decode = images.decode

    def counting(image, **options):
        sizes.append(image.size)
        return decode(image, **options)

    monkeypatch.setattr(images, "decode", counting)
    return sizes


def kept(cache: Path) -> list[Path]:
    return sorted(path for path in cache.rglob("*") if path.suffix == ".npy")


def test_images_are_decoded_once(pets: Path, decoded: list[tuple[int, int]], cache: Path) -> None:
    first = load_dataset(f"images:{pets}")
    assert len(decoded) == 11
    again = load_dataset(f"images:{pets}")
    assert len(decoded) == 11
    np.testing.assert_array_equal(first.x, again.x)
    assert (first.classes, first.name, first.fingerprint) == (again.classes, again.name, again.fingerprint)
    assert len(kept(cache)) == 1
    assert Path(again.x.filename) == kept(cache)[0]


def change(root: Path) -> None:
    write_image(root / "cat" / "0.png", pixels(77))


def touch(root: Path) -> None:
    os.utime(root / "cat" / "0.png", ns=(1, 1))


def add(root: Path) -> None:
    write_image(root / "cat" / "new.png", pixels(77))


def rename(root: Path) -> None:
    (root / "cat" / "0.png").rename(root / "dog" / "from-cat.png")


@pytest.mark.parametrize("how", [change, touch, add, rename])
@pytest.mark.parametrize("packed", [False, True])
def test_a_change_of_the_files_is_noticed_and_what_was_kept_goes(
    pets: Path, decoded: list[tuple[int, int]], cache: Path, how, packed: bool, tmp_path: Path
) -> None:
    def load():
        return load_dataset(f"images:{tar(pets, tmp_path / 'a.tar.gz') if packed else pets}")

    load()
    before = kept(cache)
    decoded.clear()
    how(pets)
    dataset = load()
    assert len(decoded) == len(dataset.y) == sum(1 for path in pets.rglob("*.png"))
    assert len(kept(cache)) == 1
    assert kept(cache) != before


def test_an_emptied_class_folder_is_noticed(pets: Path) -> None:
    load_dataset(f"images:{pets}")
    (pets / "emu").mkdir()
    assert "nothing to read in emu" in refusal(f"images:{pets}", DataError)


def test_each_size_is_kept(pets: Path, decoded: list[tuple[int, int]], cache: Path) -> None:
    for size in (None, (4, 4), (6, 4)):
        load_dataset(f"images:{pets}", ReadOptions(size=size))
    assert len(kept(cache)) == 3
    decoded.clear()
    assert load_dataset(f"images:{pets}", ReadOptions(size=(4, 4))).x.shape == (11, 4, 4, 3)
    assert decoded == []


def test_the_same_files_elsewhere_are_another_dataset(tmp_path: Path) -> None:
    """Their times and sizes may be the same by chance, as those of archives often are."""
    for seed, root in enumerate((tmp_path / "a", tmp_path / "b")):
        for number in range(10):
            path = root / ("cat" if number % 2 else "dog") / f"{number}.bmp"
            os.utime(write_image(path, pixels(100 * seed + number)), ns=(0, 0))
    a, b = (load_dataset(f"images:{tmp_path}/{name}") for name in "ab")
    assert a.fingerprint != b.fingerprint


@pytest.mark.parametrize("damage", ["cut", "empty", "no record", "bad record", "other record"])
def test_a_damaged_cache_is_made_anew(pets: Path, decoded: list[tuple[int, int]], cache: Path, damage: str) -> None:
    fingerprint = load_dataset(f"images:{pets}").fingerprint
    array = kept(cache)[0]
    record = array.with_suffix(".json")
    match damage:
        case "cut":
            array.write_bytes(array.read_bytes()[:-100])
        case "empty":
            array.write_bytes(b"")
        case "no record":
            record.unlink()
        case "bad record":
            record.write_bytes(record.read_bytes()[:-100])
        case "other record":
            record.write_bytes(record.read_bytes().replace(b'"cat/0.png",', b"0,"))
    decoded.clear()
    assert load_dataset(f"images:{pets}").fingerprint == fingerprint
    assert len(decoded) == 11


def test_files_found_bad_are_remembered_with_what_is_kept(pets: Path, decoded: list[tuple[int, int]]) -> None:
    (pets / "cat" / "0.png").write_bytes((pets / "cat" / "0.png").read_bytes()[:-30])
    assert len(load_dataset(f"images:{pets}", SKIP).y) == 10
    decoded.clear()
    assert "cat/0.png" in refusal(f"images:{pets}", DataError)
    assert decoded == []


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert str(store.cache_directory()) == os.environ["FLEETFOOT_CACHE"]
    monkeypatch.delenv("FLEETFOOT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert store.cache_directory() == tmp_path / "fleetfoot"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert store.cache_directory() == tmp_path / ".cache" / "fleetfoot"


def test_a_cache_that_cannot_be_written_is_said(pets: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FLEETFOOT_CACHE", str(tmp_path / "file"))
    message = refusal(f"images:{pets}", DataError)
    assert "cannot be written" in message
    assert "FLEETFOOT_CACHE" in message


def test_data_that_does_not_fit_on_the_disk_is_refused_before_it_is_decoded(
    pets: Path, decoded: list[tuple[int, int]]
) -> None:
    message = refusal(f"images:{pets}", DataError, ReadOptions(size=(10**7, 10**7)))
    assert "GB left" in message
    assert decoded == []


def start(root: Path) -> subprocess.Popen[str]:
    program = f"from zoo.datasets import load_dataset; print(load_dataset('images:{root}').fingerprint)"
    return subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def half_written(cache: Path) -> list[Path]:
    return list(cache.rglob(".half-written-*"))


def test_a_process_killed_while_it_fills_the_cache_leaves_nothing_that_is_believed(tmp_path: Path, cache: Path) -> None:
    rows = np.random.default_rng(0).integers(0, 256, (40, 600, 600, 3), np.uint8)
    for number, row in enumerate(rows):
        write_image(tmp_path / "pets" / ("cat" if number % 2 else "dog") / f"{number}.bmp", row)
    process = start(tmp_path / "pets")
    deadline = time.monotonic() + 60
    while not any(path.stat().st_size > 10**6 for path in half_written(cache)):
        assert process.poll() is None, "it finished too soon to be killed"
        assert time.monotonic() < deadline
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert half_written(cache)
    assert kept(cache) == half_written(cache)

    dataset = load_dataset(f"images:{tmp_path}/pets")
    assert sorted(map(bytes, dataset.x)) == sorted(map(bytes, rows))
    assert half_written(cache) == []


def test_processes_that_want_the_same_at_once_decode_it_once(pets: Path, cache: Path) -> None:
    processes = [start(pets) for _ in range(3)]
    answers = [process.communicate(timeout=120) for process in processes]
    assert len({answer for answer, _ in answers}) == 1
    assert sum("is kept decoded" in error for _, error in answers) == 1
    assert len(kept(cache)) == 1
