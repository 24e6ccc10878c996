from __future__ import annotations

import os
import pickle
import shutil
import struct
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from readerfiles import ROOT, Array, labels, real_data, refusal, tar, write_images

from fleetfoot.errors import DataError
from zoo.datasets import Dataset, ReadOptions, load_dataset
from zoo.readers.cifar10 import BATCHES, CLASSES

EACH = 10


def content(number: int, each: int = EACH) -> tuple[Array, list[int]]:
    """The pixels of a batch as the files have them, and its labels."""
    rows = np.random.default_rng(number).integers(0, 256, (each, 3 * 32 * 32), np.uint8)
    return rows, [(number + index) % 10 for index in range(each)]


def python_2_pickle(pixels: Array, y: list[int]) -> bytes:
    """A batch as Python 2 and NumPy 1 wrote it: byte strings, and NumPy under its old names."""

    def text(value: bytes) -> bytes:
        return b"T" + struct.pack("<i", len(value)) + value

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    array = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + integer(0) + b"\x85" + text(b"b") + b"tR"
    dtype = b"cnumpy\ndtype\n(" + text(b"u1") + integer(0) + integer(1) + b"tR("
    dtype += integer(3) + text(b"|") + b"NNN" + integer(-1) * 2 + integer(0) + b"tb"
    shape = integer(pixels.shape[0]) + integer(pixels.shape[1]) + b"\x86"
    data = array + b"(" + integer(1) + shape + dtype + b"\x89" + text(pixels.tobytes()) + b"tb"
    listed = b"](" + b"".join(map(integer, y)) + b"e"
    return b"\x80\x02}(" + text(b"data") + data + text(b"labels") + listed + b"u."


def python_3_pickle(pixels: Array, y: list[int]) -> bytes:
    return pickle.dumps({b"batch_label": b"a batch", b"data": pixels, b"labels": y}, protocol=2)


def binary(pixels: Array, y: list[int]) -> bytes:
    return np.hstack([np.array(y, np.uint8)[:, np.newaxis], pixels]).tobytes()


FORMS = {"Python 2": (python_2_pickle, ""), "Python 3": (python_3_pickle, ""), "binary": (binary, ".bin")}


def write_batches(folder: Path, form: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    write, suffix = FORMS[form]
    for number, name in enumerate(BATCHES):
        (folder / f"{name}{suffix}").write_bytes(write(*content(number)))
    return folder


def require_batches(dataset: Dataset) -> None:
    assert dataset.x.shape == (60, 32, 32, 3)
    assert dataset.x.dtype == np.uint8
    assert dataset.classes == CLASSES
    assert dataset.test is not None
    assert dataset.test.tolist() == list(range(50, 60))
    for number in range(6):
        pixels, y = content(number)
        rows = slice(EACH * number, EACH * (number + 1))
        np.testing.assert_array_equal(dataset.y[rows], y)
        np.testing.assert_array_equal(dataset.x[rows, :, :, 0], pixels[:, :1024].reshape(-1, 32, 32))
        np.testing.assert_array_equal(dataset.x[rows, :, :, 2], pixels[:, 2048:].reshape(-1, 32, 32))


@pytest.mark.parametrize("form", FORMS)
def test_official_batches(tmp_path: Path, form: str) -> None:
    write_batches(tmp_path, form)
    dataset = load_dataset(f"cifar10:{tmp_path}")
    require_batches(dataset)
    assert dataset.name == f"cifar10:{tmp_path}"


@pytest.mark.parametrize("form", ["Python 2", "binary"])
def test_the_official_folder_and_archive_in_a_folder(tmp_path: Path, form: str) -> None:
    kind = "bin" if form == "binary" else "py"
    inner = write_batches(tmp_path / "folder" / f"cifar-10-batches-{kind}", form)
    require_batches(load_dataset(f"cifar10:{tmp_path}/folder"))
    name = f"cifar-10-{'binary' if kind == 'bin' else 'python'}.tar.gz"
    (tmp_path / "packed").mkdir()
    tar(inner, tmp_path / "packed" / name, inner.name)
    require_batches(load_dataset(f"cifar10:{tmp_path}/packed"))
    require_batches(load_dataset(f"cifar10:{tmp_path}/packed/{name}"))


class Attack:
    """Runs a command when it is unpickled."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.reduced = (function, arguments)

    def __reduce__(self) -> Any:
        return self.reduced


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("where", ["whole", "value", "key"])
def test_a_pickle_that_would_run_something_is_refused_and_does_not(tmp_path: Path, where: str, protocol: int) -> None:
    write_batches(tmp_path, "Python 3")
    marker = tmp_path / "was-here"
    for function, arguments in [(os.system, (f"touch {marker}",)), (eval, (f"open({str(marker)!r}, 'w')",))]:
        attack = Attack(function, *arguments)
        pixels, y = content(0)
        bad = {"whole": attack, "value": {b"data": pixels, b"labels": y, b"x": attack}, "key": {attack: 1}}[where]
        (tmp_path / BATCHES[0]).write_bytes(pickle.dumps(bad, protocol))
        message = refusal(f"cifar10:{tmp_path}", DataError)
        assert "it asks for" in message
        assert "nothing in it was run" in message
        assert not marker.exists()


@pytest.mark.parametrize(
    "asked",
    [
        b"cnumpy\nload\n",
        b"cnumpy.testing._private.utils\nrunstring\n",
        b"cbuiltins\ngetattr\n",
        b"c__builtin__\nexec\n",
    ],
)
def test_nothing_else_of_numpy_or_python_is_within_reach(tmp_path: Path, asked: bytes) -> None:
    write_batches(tmp_path, "Python 3")
    (tmp_path / BATCHES[2]).write_bytes(b"\x80\x02" + asked + b".")
    assert "it asks for" in refusal(f"cifar10:{tmp_path}", DataError)


@pytest.mark.parametrize(
    "changed",
    [
        pytest.param(b"cnumpy\nndarray\n}X\x01\x00\x00\x00aX\x01\x00\x00\x00bsb.", id="state of a class"),
        pytest.param(b"c_codecs\nencode\nN}X\x07\x00\x00\x00__new__X\x01\x00\x00\x00bs\x86b.", id="slots of a class"),
        pytest.param(b"c_codecs\nencode\n(X\x01\x00\x00\x00aX\x04\x00\x00\x00utf7tR.", id="another encoding"),
    ],
)
def test_the_stand_ins_cannot_be_changed(tmp_path: Path, changed: bytes) -> None:
    write_batches(tmp_path, "Python 3")
    good = (tmp_path / BATCHES[0]).read_bytes()
    (tmp_path / BATCHES[0]).write_bytes(b"\x80\x02" + changed)
    refusal(f"cifar10:{tmp_path}", DataError)
    (tmp_path / BATCHES[0]).write_bytes(good)
    require_batches(load_dataset(f"cifar10:{tmp_path}"))


def damaged_pickles() -> dict[str, bytes]:
    pixels, y = content(0)
    whole = python_3_pickle(pixels, y)
    return {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "no dict": pickle.dumps([1, 2]),
        "no labels": pickle.dumps({b"data": pixels}, 2),
        "no data": pickle.dumps({b"labels": y, b"data": [1]}, 2),
        "labels of text": python_3_pickle(pixels, ["a"] * EACH),  # type: ignore[list-item]
        "labels too great": python_3_pickle(pixels, [10] * EACH),
        "labels too few": python_3_pickle(pixels, y[:-1]),
        "pixels too few": python_3_pickle(pixels[:, :-1], y),
        "pixels of floats": python_3_pickle(pixels.astype(np.float32), y),
        "shape of another": whole.replace(b"K\x0aM\x00\x0c\x86", b"K\x0bM\x00\x0c\x86"),
        "no array": python_2_pickle(pixels, y).replace(b"tb" + b"T\x06\x00\x00\x00labels", b"tT\x06\x00\x00\x00labels"),
    }


@pytest.mark.parametrize("damage", damaged_pickles())
def test_a_damaged_pickle_is_refused(tmp_path: Path, damage: str) -> None:
    write_batches(tmp_path, "Python 3")
    changed = damaged_pickles()[damage]
    assert changed != python_3_pickle(*content(0))
    (tmp_path / BATCHES[0]).write_bytes(changed)
    assert f"{tmp_path}: {BATCHES[0]} " in refusal(f"cifar10:{tmp_path}", DataError)


def test_damaged_binaries_are_refused(tmp_path: Path) -> None:
    write_batches(tmp_path, "binary")
    path = tmp_path / "test_batch.bin"
    path.write_bytes(path.read_bytes()[:-1])
    assert "30,729 bytes are no multiple of 3,073" in refusal(f"cifar10:{tmp_path}", DataError)
    path.write_bytes(binary(*content(5)).replace(b"\x05", b"\x0a", 1))
    assert "labels from 0 to 10" in refusal(f"cifar10:{tmp_path}", DataError)


@pytest.mark.parametrize("form", ["Python 3", "binary"])
def test_missing_batches_are_named(tmp_path: Path, form: str) -> None:
    write_batches(tmp_path, form)
    for number in (3, 5):
        (tmp_path / f"{BATCHES[number]}{FORMS[form][1]}").unlink()
    assert "lacks data_batch_4, test_batch" in refusal(f"cifar10:{tmp_path}", DataError)


def test_a_batch_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    path = write_batches(tmp_path, "binary") / "data_batch_2.bin"
    path.unlink()
    path.symlink_to("/nowhere")
    assert "data_batch_2.bin cannot be read: no regular file, or a link" in refusal(f"cifar10:{tmp_path}", DataError)


def test_labels_beyond_all_integers_are_refused(tmp_path: Path) -> None:
    write_batches(tmp_path, "Python 3")
    pixels, y = content(0)
    (tmp_path / BATCHES[0]).write_bytes(pickle.dumps({b"data": pixels, b"labels": [10**30, *y[1:]]}, 2))
    assert "it needs data, and labels from 0 to 9" in refusal(f"cifar10:{tmp_path}", DataError)


def test_official_batches_are_not_resized(tmp_path: Path) -> None:
    write_batches(tmp_path, "binary")
    assert "only as files of images" in refusal(f"cifar10:{tmp_path}", DataError, ReadOptions(size=(64, 64)))
    require_batches(load_dataset(f"cifar10:{tmp_path}", ReadOptions(size=(32, 32))))


def test_a_folder_with_nothing_of_it_is_refused(tmp_path: Path) -> None:
    assert "neither data_batch_1 nor data_batch_1.bin" in refusal(f"cifar10:{tmp_path}", DataError)
    assert "does not exist" in refusal(f"cifar10:{tmp_path}/gone", DataError)


def write_tree(root: Path) -> None:
    write_images(root, {f"{part}/{label}": 5 for part in ("train", "test") for label in ("cat", "dog")})


def test_images_in_folders_or_in_two_archives_or_in_one_of_each(tmp_path: Path) -> None:
    write_tree(tmp_path / "both")
    packed, mixed = tmp_path / "packed", tmp_path / "mixed"
    packed.mkdir()
    for part in ("train", "test"):
        tar(tmp_path / "both" / part, packed / f"cifar-{part}.tar.gz", part)
    shutil.copytree(tmp_path / "both" / "train", mixed / "train")
    shutil.copy(packed / "cifar-test.tar.gz", mixed)
    for folder in (tmp_path / "both", packed, mixed):
        dataset = load_dataset(f"cifar10:{folder}")
        assert dataset.classes == ("cat", "dog")
        assert dataset.test is not None
        assert sorted(labels(dataset, dataset.test)) == ["cat"] * 5 + ["dog"] * 5
        assert len(dataset.y) == 20


def test_images_only_to_test_are_refused(tmp_path: Path) -> None:
    write_tree(tmp_path / "both")
    tar(tmp_path / "both" / "test", tmp_path / "test.tar.gz", "test")
    shutil.rmtree(tmp_path / "both")
    assert "no examples to learn from" in refusal(f"cifar10:{tmp_path}", DataError)


MEASURED = """
import re, sys
from pathlib import Path
from zoo.datasets import load_dataset
dataset = load_dataset(sys.argv[1])
assert len(dataset.fingerprint) == 64
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
def test_real_archives_are_read_in_little_memory() -> None:
    path = real_data("cifar10")
    child = subprocess.run(
        [sys.executable, "-c", MEASURED, f"cifar10:{path}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(child.stdout) * 1024 < 600e6

    dataset = load_dataset(f"cifar10:{path}")
    assert isinstance(dataset.x, np.memmap)
    assert dataset.x.shape == (55_000, 32, 32, 3)
    assert dataset.classes == CLASSES
    assert dataset.test is not None
    assert np.bincount(dataset.y[dataset.test]).tolist() == [500] * 10
    assert np.bincount(dataset.y).tolist() == [5500] * 10
    with tarfile.open(path / "cifar10-test-even-jpeg.tar.gz") as archive:
        file = archive.extractfile("test/airplane/0000.jpg")
        assert file is not None
        np.testing.assert_array_equal(dataset.x[dataset.test[0]], np.asarray(Image.open(file)))
