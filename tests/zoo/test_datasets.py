from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetfoot.errors import DataError, FleetfootError, UsageError
from zoo.catalog import InputSpec
from zoo.datasets import (
    A_HANDFUL,
    MOST,
    SPLITS,
    Dataset,
    Indices,
    ReadOptions,
    load_dataset,
    require_classes,
    split_indices,
    takes_size,
)

Labels = npt.NDArray[np.int64]

SPEC = InputSpec(kind="tensor", shape=(1,), dtype="float32", minimum=0.0, maximum=1.0)


def labels(classes: int, each: int) -> Labels:
    return np.repeat(np.arange(classes), each)


def labelled(y: Labels, test: Indices | None = None) -> Dataset:
    """A dataset with these labels."""
    x = np.arange(len(y), dtype=np.float32)[:, np.newaxis]
    classes = tuple(str(number) for number in range(y.max(initial=-1) + 1))
    return Dataset(name="made", x=x, y=y, classes=classes, input=SPEC, test=test)


def test_digits_are_raw_pixels_as_the_input_spec_says(digits: Dataset) -> None:
    assert digits.name == "digits"
    assert digits.x.shape == (1797, *digits.input.shape)
    assert digits.x.dtype == digits.input.dtype
    assert digits.input.minimum == digits.x.min() == 0
    assert digits.input.maximum == digits.x.max() == 16
    assert digits.y.shape == (1797,)
    assert digits.classes == tuple("0123456789")
    assert set(digits.y) == set(range(10))


def test_an_unknown_dataset_is_refused_naming_those_that_exist() -> None:
    with pytest.raises(UsageError, match="unknown dataset 'digit': there is digits"):
        load_dataset("digit")


def test_the_four_splits_divide_the_data_among_them(digits: Dataset) -> None:
    splits = split_indices(digits, 0)
    assert list(splits) == ["train", "tune", "route", "test"]
    together = np.concatenate(list(splits.values()))
    assert sorted(together.tolist()) == list(range(len(digits.y)))
    for name, fraction in SPLITS.items():
        assert len(splits[name]) == pytest.approx(fraction * len(digits.y), abs=2)


def test_the_shares_are_all_of_the_data() -> None:
    assert sum(SPLITS.values()) == pytest.approx(1)


@given(classes=st.integers(2, 6), each=st.integers(20, 60), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_every_split_has_its_share_of_every_class(classes: int, each: int, seed: int) -> None:
    y = labels(classes, each)
    splits = split_indices(labelled(y), seed)
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(len(y)))
    for name, fraction in SPLITS.items():
        counts = np.bincount(y[splits[name]], minlength=classes)
        assert np.all(np.abs(counts - fraction * each) <= 2)
        assert np.all(np.diff(splits[name]) > 0)


def test_the_same_seed_gives_the_same_splits_and_another_gives_others(digits: Dataset) -> None:
    first, again, other = (split_indices(digits, seed) for seed in (0, 0, 1))
    for name in SPLITS:
        np.testing.assert_array_equal(first[name], again[name])
        assert not np.array_equal(first[name], other[name])


def test_too_few_examples_of_a_class_to_divide_are_refused() -> None:
    y = np.append(labels(3, 50), 3)
    with pytest.raises(DataError, match="cannot be divided into train, tune, route, test") as error:
        split_indices(labelled(y), 0)
    assert "\n" not in str(error.value)


def test_no_data_at_all_is_refused() -> None:
    with pytest.raises(DataError):
        split_indices(labelled(np.array([], dtype=np.int64)), 0)


@given(each=st.integers(20, 40), tests=st.integers(1, 30), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=20, deadline=None)
def test_the_examples_that_a_dataset_sets_apart_are_its_test_split_and_nothing_else(
    each: int, tests: int, seed: int
) -> None:
    y = labels(3, each)
    apart = np.random.default_rng(seed).permutation(len(y))[:tests]
    splits = split_indices(labelled(y, apart), seed)
    np.testing.assert_array_equal(splits["test"], np.sort(apart))
    assert sorted(np.concatenate(list(splits.values())).tolist()) == list(range(len(y)))
    rest = len(y) - tests
    for name in ("train", "tune", "route"):  # in the proportion that they have otherwise
        assert len(splits[name]) == pytest.approx(SPLITS[name] / 0.8 * rest, abs=2)


def test_a_dataset_s_own_test_split_is_the_same_whatever_the_seed() -> None:
    dataset = labelled(labels(3, 40), np.arange(5, 100, 7))
    first, other = split_indices(dataset, 0), split_indices(dataset, 1)
    np.testing.assert_array_equal(first["test"], other["test"])
    assert not np.array_equal(first["train"], other["train"])


def test_of_much_data_no_split_but_train_takes_more_than_is_of_use() -> None:
    splits = split_indices(labelled(labels(2, 50_000)), 0)
    assert {name: len(splits[name]) for name in MOST} == dict(MOST)
    assert len(splits["train"]) == 100_000 - sum(MOST.values())
    for name in SPLITS:
        assert np.bincount(splits[name] // 50_000).tolist() == [len(splits[name]) // 2] * 2


def test_a_test_split_that_the_dataset_sets_apart_is_taken_whole_however_large() -> None:
    apart = np.arange(0, 30_000, 2)
    splits = split_indices(labelled(labels(2, 15_000), apart), 0)
    assert len(splits["test"]) == 15_000 > MOST["test"]


# What is nothing to build a zoo on.


def as_file(directory: Path, y: Labels, test: Labels | None = None) -> str:
    """The name of a dataset in a file."""
    parts = {"x": np.eye(4, dtype=np.float32)[y], "y": y}
    if test is not None:
        parts |= {"x_test": np.eye(4, dtype=np.float32)[test], "y_test": test}
    np.savez(directory / "data.npz", **parts)
    return f"npz:{directory / 'data.npz'}"


@pytest.mark.parametrize(
    ("y", "test", "message"),
    [
        ([], None, "with something in it"),
        ([0] * 50, None, "only one class, 0: there is nothing to tell apart"),
        ([0] * 50 + [1] * 4 + [2] * 3, None, "classes with fewer than 5 examples to learn from: 1 (4), 2 (3)"),
        ([0] * 50 + [1] * 4, [0, 1, 1, 1, 1], "classes with fewer than 5 examples to learn from: 1 (4)"),
        ([0] * 50, [0, 1, 1, 1, 1, 1, 1], "classes with fewer than 5 examples to learn from: 1 (0)"),
    ],
    ids=["empty", "one class", "too few", "too few but for tests", "only for tests"],
)
def test_data_with_nothing_to_learn_is_refused_in_one_line(
    tmp_path: Path, y: list[int], test: list[int] | None, message: str
) -> None:
    name = as_file(tmp_path, np.array(y, np.int64), None if test is None else np.array(test, np.int64))
    with pytest.raises(DataError) as error:
        load_dataset(name)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_data_that_is_for_testing_only_is_refused_whatever_reads_it() -> None:
    with pytest.raises(DataError, match="made has no examples to learn from: all its examples are for testing"):
        require_classes("made", {"a": 0, "b": 0})


def test_a_handful_of_examples_of_a_class_is_enough(tmp_path: Path) -> None:
    y = np.repeat([0, 1], [50, A_HANDFUL])
    assert load_dataset(as_file(tmp_path, y)).classes == ("0", "1")


@pytest.mark.parametrize("name", ["digit", "", ":", "digits2:file", "Digits", "/some/where", "npz"])
def test_what_names_no_kind_of_data_or_no_file_of_it_is_refused_in_one_line(name: str) -> None:
    with pytest.raises(FleetfootError) as error:
        load_dataset(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"size": (0, 32)},
        {"size": (32, -1)},
        {"seconds": 0.0},
        {"seconds": -1.0},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"sampling_rate": 0},
        {"sampling_rate": -8000},
    ],
    ids=str,
)
def test_a_size_length_or_rate_that_is_not_positive_is_refused_by_name(options: dict[str, Any]) -> None:
    ((name, value),) = options.items()
    with pytest.raises(UsageError) as error:
        ReadOptions(**options)
    assert str(error.value) == f"{name} is {value}, and has to be positive"


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("digits", {"size": (5, 5)}, "--image-size is for images:, cifar10:, and digits takes no such option"),
        ("npz:x.npz", {"size": (5, 5)}, "--image-size is for images:, cifar10:, and npz"),
        ("speech:x", {"size": (5, 5)}, "--image-size is for images:, cifar10:, and speech"),
        ("images:x", {"seconds": 1.0}, "--seconds is for speech:, and images"),
        ("mnist:x", {"sampling_rate": 8000}, "sampling_rate is for speech:, and mnist"),
    ],
)
def test_an_option_that_means_nothing_for_the_data_is_refused(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError) as error:
        load_dataset(name, ReadOptions(**options))
    assert said in str(error.value)


def test_only_what_is_read_from_image_files_takes_a_size() -> None:
    assert takes_size("images:x")
    assert takes_size("cifar10:x")
    assert not any(takes_size(name) for name in ("digits", "npz:images", "speech:x", "module:images:cifar10"))


@pytest.mark.parametrize("kind", ["images", "cifar10", "mnist", "speech", "npz"])
@pytest.mark.parametrize("path", ["a" * 300, "~nobody-of-that-name/x", "a\0b", "a\udcff", "loop"])
def test_a_path_that_cannot_be_looked_at_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, path: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(DataError) as error:
        load_dataset(f"{kind}:{path}")
    assert "\n" not in str(error.value)


def test_a_disk_that_fails_is_told_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied", "/data/mnist")

    monkeypatch.setattr("zoo.readers.idx.read_mnist", fail)
    with pytest.raises(DataError, match="/data/mnist cannot be read: Permission denied"):
        load_dataset(f"mnist:{tmp_path}")


def test_sizes_lengths_and_rates_that_are_positive_are_taken() -> None:
    options = ReadOptions(size=(1, 32), seconds=0.01, sampling_rate=1)
    assert (options.size, options.seconds, options.sampling_rate) == ((1, 32), 0.01, 1)


def test_the_fingerprint_is_always_that_of_the_content(digits: Dataset) -> None:
    assert digits.fingerprint == load_dataset("digits").fingerprint
    assert digits.fingerprint == dataclasses.replace(digits, name="other").fingerprint


@pytest.mark.parametrize("where", [(0, 0, 0, 0), (900, 4, 4, 0), (-1, 7, 7, 0)])
def test_one_other_pixel_is_another_fingerprint(digits: Dataset, where: tuple[int, ...]) -> None:
    x = digits.x.copy()
    x[where] += 1
    assert dataclasses.replace(digits, x=x).fingerprint != digits.fingerprint


def test_one_other_label_is_another_fingerprint(digits: Dataset) -> None:
    y = digits.y.copy()
    y[17] = (y[17] + 1) % 10
    assert dataclasses.replace(digits, y=y).fingerprint != digits.fingerprint


def test_another_order_is_another_fingerprint(digits: Dataset) -> None:
    assert dataclasses.replace(digits, x=digits.x[::-1], y=digits.y[::-1]).fingerprint != digits.fingerprint


def test_an_input_is_known_by_its_content_wherever_it_stands(digits: Dataset) -> None:
    ids = digits.input_ids(np.array([3, 1, 2]))
    assert ids == [*digits.input_ids(np.array([3])), *digits.input_ids(np.array([1, 2]))]
    backwards = dataclasses.replace(digits, x=digits.x[::-1])
    assert backwards.input_ids(np.array([1796 - 3])) == ids[:1]


def test_the_inputs_of_a_built_in_dataset_have_ids_of_their_own(digits: Any) -> None:
    ids = digits.input_ids(np.arange(len(digits.x)))
    assert len(set(ids)) == len({image.tobytes() for image in digits.x})
    assert len(set(ids)) == len(ids), "two inputs are the same: a table of outcomes by input would mix them"
