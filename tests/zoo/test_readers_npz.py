from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from readerfiles import refusal

from fleetfoot.errors import DataError, UsageError
from zoo.datasets import load_dataset, split_indices

RNG = np.random.default_rng(0)
X = RNG.normal(size=(30, 4)).astype(np.float32)
Y = np.arange(30) % 3


def save(path: Path, **arrays: Any) -> str:
    np.savez(path / "data.npz", **arrays)
    return f"npz:{path / 'data.npz'}"


def test_x_and_y_are_a_dataset(tmp_path: Path) -> None:
    name = save(tmp_path, x=X, y=Y)
    dataset = load_dataset(name)
    assert dataset.name == name
    assert dataset.classes == ("0", "1", "2")
    assert dataset.input.kind == "tensor"
    assert dataset.input.shape == (4,)
    assert (dataset.input.minimum, dataset.input.maximum) == (X.min(), X.max())
    assert dataset.test is None
    np.testing.assert_array_equal(dataset.x, X)
    np.testing.assert_array_equal(dataset.y, Y)
    assert dataset.y.dtype == np.int64


def test_arrays_named_as_keras_names_them_are_a_dataset(tmp_path: Path) -> None:
    dataset = load_dataset(save(tmp_path, x_train=X, y_train=Y, x_test=X[:5], y_test=Y[:5]))
    np.testing.assert_array_equal(dataset.x, np.concatenate([X, X[:5]]))
    assert dataset.test is not None
    assert dataset.test.tolist() == [30, 31, 32, 33, 34]


@pytest.mark.parametrize("shape", [(30, 5, 6), (30, 5, 6, 1), (30, 5, 6, 3)])
def test_bytes_in_the_shape_of_images_are_images(tmp_path: Path, shape: tuple[int, ...]) -> None:
    dataset = load_dataset(save(tmp_path, x=RNG.integers(0, 9, shape, np.uint8), y=Y))
    assert dataset.input.kind == "image"
    assert dataset.input.shape == (5, 6, shape[3] if len(shape) == 4 else 1)
    assert dataset.input.dtype == dataset.x.dtype == "uint8"
    assert (dataset.input.minimum, dataset.input.maximum) == (0, 255)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int16, np.int64, ">f4"])
def test_other_numbers_become_float32(tmp_path: Path, dtype: Any) -> None:
    x = (10 * X).astype(dtype)
    dataset = load_dataset(save(tmp_path, x=x, y=Y))
    assert dataset.input.dtype == dataset.x.dtype == "float32"
    np.testing.assert_array_equal(dataset.x, x.astype(np.float32))


def test_labels_may_be_text_in_the_order_of_text(tmp_path: Path) -> None:
    dataset = load_dataset(save(tmp_path, x=X, y=np.array(["low", "mid", "high"])[Y]))
    assert dataset.classes == ("high", "low", "mid")
    assert dataset.y[:3].tolist() == [1, 2, 0]


def test_classes_name_integers_and_order_text(tmp_path: Path) -> None:
    names = np.array(["low", "mid", "high"])
    for y in (Y, names[Y]):
        dataset = load_dataset(save(tmp_path, x=X, y=y, classes=names))
        assert dataset.classes == ("low", "mid", "high")
        np.testing.assert_array_equal(dataset.y, Y)


def test_a_test_split_is_kept(tmp_path: Path) -> None:
    dataset = load_dataset(save(tmp_path, x=X, y=Y, x_test=X[:6] + 1, y_test=Y[:6]))
    assert dataset.test is not None
    assert dataset.test.tolist() == list(range(30, 36))
    np.testing.assert_array_equal(dataset.x[30:], X[:6] + 1)
    assert split_indices(dataset, 0)["test"].tolist() == dataset.test.tolist()


def test_the_range_is_that_of_what_is_learnt_from(tmp_path: Path) -> None:
    """What lies in the test split decides nothing."""
    dataset = load_dataset(save(tmp_path, x=X, y=Y, x_test=100 * X[:6], y_test=Y[:6]))
    assert (dataset.input.minimum, dataset.input.maximum) == (X.min(), X.max())
    assert dataset.x.max() > dataset.input.maximum


def with_nan() -> Any:
    x = X.copy()
    x[[7, 9, 11, 13], 1] = np.nan, np.inf, -np.inf, np.nan
    return x


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "nothing": ({}, "holds nothing: it needs x and y too"),
    "other names": ({"images": X, "labels": Y}, "holds images, labels: it needs x and y too"),
    "no labels": ({"x": X}, "holds x: it needs y too"),
    "no test labels": ({"x": X, "y": Y, "x_test": X}, "it needs y_test too"),
    "no test inputs": ({"x": X, "y": Y, "y_test": Y}, "it needs x_test too"),
    "too few labels": ({"x": X, "y": Y[:-1]}, "30 inputs and 29 labels"),
    "empty": ({"x": X[:0], "y": Y[:0]}, "x of shape (0, 4)"),
    "flat x": ({"x": X[:, 0], "y": Y}, "x of shape (30,)"),
    "text in x": ({"x": X.astype(str), "y": Y}, "it needs to be numbers"),
    "complex x": ({"x": X + 1j, "y": Y}, "x of type complex64"),
    "truth in x": ({"x": X > 0, "y": Y}, "x of type bool"),
    "one-hot y": ({"x": X, "y": np.eye(3)[Y]}, "y of shape (30, 3)"),
    "float y": ({"x": X, "y": Y / 2}, "y of type float64"),
    "negative y": ({"x": X, "y": Y - 1}, "the labels -1, 0, 1, and its 3 classes are numbered from 0 to 2"),
    "y with a gap": ({"x": X, "y": Y * 5}, "the labels 0, 5, 10, and its 3 classes"),
    "y beyond classes": ({"x": X, "y": Y, "classes": ["a", "b"]}, "its 2 classes are numbered from 0 to 1"),
    "unknown text": ({"x": X, "y": Y.astype(str), "classes": ["0", "1"]}, "not among its classes: 2"),
    "a class twice": ({"x": X, "y": Y, "classes": ["a", "b", "a"]}, "a class name twice"),
    "a class without examples": ({"x": X, "y": Y, "classes": list("abcd")}, "d (0)"),
    "one class": ({"x": X, "y": Y * 0}, "only one class"),
    "too few of a class": ({"x": X, "y": np.where(np.arange(30) < 4, 1, 0)}, "1 (4)"),
    "NaN": ({"x": with_nan(), "y": Y}, "NaN or infinity in 4 inputs, at 7, 9, 11 and 1 more"),
    "too great for float32": ({"x": X.astype(np.float64) * 1e300, "y": Y}, "NaN or infinity"),
    "constant": ({"x": X * 0, "y": Y}, "nothing but 0 in x"),
    "tests unlike": ({"x": X, "y": Y, "x_test": X[:, :2], "y_test": Y}, "x_test of float32 and shape (30, 2), unlike"),
    "labels of tests to make up": ({"x": X, "y": Y[:-1], "x_test": X[:5], "y_test": Y[:6]}, "30 inputs and 29 labels"),
    "nothing to learn from": ({"x": X[:0], "y": Y[:0], "x_test": X, "y_test": Y}, "all its examples are for testing"),
    "tests of no bytes": (
        {"x": X.astype(np.uint8), "y": Y, "x_test": X.astype(np.uint16), "y_test": Y},
        "x_test of uint16 and shape",
    ),
    "no tests": ({"x": X, "y": Y, "x_test": X[:0], "y_test": Y[:0]}, "a test split apart that is empty"),
    "test labels unlike": ({"x": X, "y": Y, "x_test": X, "y_test": Y.astype(str)}, "y_test of "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_dataset_is_refused(tmp_path: Path, case: str) -> None:
    arrays, said = REFUSED[case]
    assert said in refusal(save(tmp_path, **arrays), DataError)


def test_objects_are_not_unpickled(tmp_path: Path) -> None:
    class Attack:
        def __reduce__(self) -> Any:
            return (Path(tmp_path / "was-here").touch, ())

    name = save(tmp_path, x=X, y=np.array([Attack()] * 30))
    assert "no .npz file of plain arrays" in refusal(name, DataError)
    assert not (tmp_path / "was-here").exists()


def test_other_files_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    save(tmp_path, x=X, y=Y)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "data.npz").read_bytes()[:300])
    (tmp_path / "text.npz").write_text("x,y")
    (tmp_path / "empty.npz").write_bytes(b"")
    for other in ("x.npy", "cut.npz", "text.npz", "empty.npz"):
        assert "no .npz file of plain arrays" in refusal(f"npz:{tmp_path / other}", DataError)
    assert "no .npz file" in refusal(f"npz:{tmp_path}", DataError)
    assert "does not exist" in refusal(f"npz:{tmp_path}/gone.npz", DataError)
    assert "npz:PATH" in refusal("npz:", UsageError)
