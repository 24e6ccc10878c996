from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from readerfiles import Array, refusal

from fleetfoot.errors import DataError
from zoo.datasets import load_dataset, split_indices
from zoo.readers.idx import CLOTHES, DIGITS

LEARNING, TEST = 100, 20


def idx(array: Array, code: int = 8) -> bytes:
    return struct.pack(f">2xBB{array.ndim}I", code, array.ndim, *array.shape) + array.tobytes()


def arrays() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    made = {}
    for part, count in (("train", LEARNING), ("t10k", TEST)):
        made[f"{part}-images-idx3-ubyte"] = rng.integers(0, 256, (count, 28, 28), np.uint8)
        made[f"{part}-labels-idx1-ubyte"] = (np.arange(count) % 10).astype(np.uint8)
    return made


@pytest.fixture(params=["", ".gz"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    for name, array in arrays().items():
        write(tmp_path / f"{name}{request.param}", idx(array))
    return tmp_path


def write(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def file(folder: Path, stem: str) -> Path:
    return next(folder.glob(f"{stem}*"))


@pytest.mark.parametrize(("kind", "classes"), [("mnist", DIGITS), ("fashion-mnist", CLOTHES)])
def test_four_files_are_a_dataset(folder: Path, kind: str, classes: tuple[str, ...]) -> None:
    dataset = load_dataset(f"{kind}:{folder}")
    assert dataset.name == f"{kind}:{folder}"
    assert dataset.classes == classes
    assert dataset.input.shape == (28, 28, 1)
    assert dataset.input.dtype == dataset.x.dtype == "uint8"
    assert dataset.test is not None
    assert dataset.test.tolist() == list(range(LEARNING, LEARNING + TEST))
    expected = arrays()
    np.testing.assert_array_equal(dataset.x[:LEARNING, ..., 0], expected["train-images-idx3-ubyte"])
    np.testing.assert_array_equal(dataset.y[dataset.test], expected["t10k-labels-idx1-ubyte"])
    assert split_indices(dataset, 0)["test"].tolist() == dataset.test.tolist()


def test_names_with_a_dot_are_found_too(folder: Path) -> None:
    for path in list(folder.iterdir()):
        path.rename(folder / path.name.replace("-idx", ".idx"))
    assert len(load_dataset(f"mnist:{folder}").y) == LEARNING + TEST


def test_whether_a_file_is_compressed_is_told_by_its_content(tmp_path: Path) -> None:
    for name, array in arrays().items():
        (tmp_path / name).write_bytes(gzip.compress(idx(array)))
    assert len(load_dataset(f"mnist:{tmp_path}").y) == LEARNING + TEST


def test_missing_files_are_named(folder: Path) -> None:
    file(folder, "t10k-labels").unlink()
    assert "has no t10k-labels-idx1-ubyte, gzipped or not" in refusal(f"mnist:{folder}", DataError)
    assert "does not exist" in refusal(f"mnist:{folder}/gone", DataError)


IMAGES = arrays()["train-images-idx3-ubyte"]
DAMAGED = {
    "empty": (b"", "begins with nothing"),
    "of floats": (idx(IMAGES, 0x0D), "begins with 00 00 0d 03"),
    "of labels": (idx(IMAGES[:, 0, 0].copy()), "begins with 00 00 08 01"),
    "no IDX": (b"<html>not found</html>", "begins with 3c 68 74 6d"),
    "head cut": (idx(IMAGES)[:9], "header ends too early"),
    "cut": (idx(IMAGES)[:-1], "78,399 values where its header says 100×28×28"),
    "too long": (idx(IMAGES) + b"\0", "78,401 values where its header says 100×28×28"),
    "boasting": (struct.pack(">2xBB3I", 8, 3, 2**32 - 1, 2**32 - 1, 2**32 - 1), "0 values where"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_damaged_files_are_refused(folder: Path, damage: str) -> None:
    content, said = DAMAGED[damage]
    path = file(folder, "train-images")
    write(path, content)
    message = refusal(f"mnist:{folder}", DataError)
    assert said in message
    assert f"{path} is damaged, or no IDX file of bytes in 3 dimensions" in message


@pytest.mark.parametrize("share", [0.1, 0.5, 0.99])
def test_a_damaged_gzip_is_refused(tmp_path: Path, share: float) -> None:
    for name, array in arrays().items():
        write(tmp_path / f"{name}.gz", idx(array))
    path = file(tmp_path, "train-labels")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    assert "is damaged" in refusal(f"mnist:{tmp_path}", DataError)
    path.write_bytes(content[:20] + bytes(8) + content[28:])
    assert "is damaged" in refusal(f"mnist:{tmp_path}", DataError)


def test_labels_that_do_not_fit_are_refused(folder: Path) -> None:
    path = file(folder, "train-labels")
    write(path, idx(np.zeros(LEARNING - 1, np.uint8)))
    assert "99 labels for 100 images" in refusal(f"mnist:{folder}", DataError)
    write(path, idx((np.arange(LEARNING) % 11).astype(np.uint8)))
    assert "has the label 10, and there are 10 classes" in refusal(f"mnist:{folder}", DataError)


def test_test_images_of_another_size_are_refused(folder: Path) -> None:
    write(file(folder, "t10k-images"), idx(np.zeros((TEST, 8, 8), np.uint8)))
    assert "to learn from and (8, 8) to test" in refusal(f"mnist:{folder}", DataError)


def test_a_class_without_examples_is_refused(folder: Path) -> None:
    write(file(folder, "train-labels"), idx((np.arange(LEARNING) % 9).astype(np.uint8)))
    assert "9 (0)" in refusal(f"mnist:{folder}", DataError)
