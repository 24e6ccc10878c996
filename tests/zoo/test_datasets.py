from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fleetfoot.errors import DataError, UsageError
from zoo.datasets import SPLITS, Dataset, load_dataset, split_indices


def labels(classes: int, each: int) -> npt.NDArray[np.int64]:
    return np.repeat(np.arange(classes), each)


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
    splits = split_indices(y, seed)
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


@pytest.mark.parametrize("each", [1, 2])
def test_too_few_examples_of_a_class_are_refused(each: int) -> None:
    y = np.concatenate([labels(3, 50), np.full(each, 3)])
    with pytest.raises(DataError, match="cannot be divided into train, tune, route, test") as error:
        split_indices(y, 0)
    assert "\n" not in str(error.value)


def test_no_data_at_all_is_refused() -> None:
    with pytest.raises(DataError):
        split_indices(np.array([], dtype=np.int64), 0)


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
