from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fleetfoot.errors import UsageError
from zoo.augment import AUGMENTATIONS, augment, check_augmentations, flip, shift
from zoo.catalog import InputSpec

Array = npt.NDArray[Any]


def random(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def numbered(count: int, *shape: int) -> Array:
    """Examples in which every value tells its place."""
    return np.broadcast_to(np.arange(np.prod(shape), dtype=np.int32).reshape(shape), (count, *shape)).copy()


images = arrays.arrays(
    st.sampled_from([np.uint8, np.float32]),
    st.tuples(st.integers(1, 5), st.integers(1, 40), st.integers(1, 40), st.sampled_from([1, 3])),
    elements=st.integers(0, 255),
)
recordings = arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.integers(1, 100)), elements=st.integers(0, 9))
seeds = st.integers(0, 2**32 - 1)


@given(x=images, seed=seeds)
@settings(deadline=None)
def test_a_flip_leaves_an_image_as_it_is_or_mirrors_all_its_rows(x: Array, seed: int) -> None:
    flipped = flip(x, random(seed))
    for before, after in zip(x, flipped, strict=True):
        assert np.array_equal(after, before) or np.array_equal(after, before[:, ::-1])


def test_about_half_of_the_images_are_mirrored_each_by_a_coin_of_its_own() -> None:
    x = numbered(1000, 4, 4, 3)
    mirrored = (flip(x, random()) != x).any(axis=(1, 2, 3))
    assert 0.4 < mirrored.mean() < 0.6
    np.testing.assert_array_equal(flip(x, random())[mirrored], x[mirrored][:, :, ::-1])


def moved_by(x: Array, *by: int) -> Array:
    """An example moved by that much along its first axes, its edges repeated."""
    for axis, steps in enumerate(by):
        x = np.take(x, np.clip(np.arange(x.shape[axis]) + steps, 0, x.shape[axis] - 1), axis)
    return x


@given(x=images, seed=seeds)
@settings(deadline=None)
def test_a_shift_moves_an_image_by_a_sixteenth_at_most_and_repeats_its_edges(x: Array, seed: int) -> None:
    vertical, horizontal = (range(-most, most + 1) for most in (max(1, round(size / 16)) for size in x.shape[1:3]))
    for before, after in zip(x, shift(x, random(seed)), strict=True):
        assert any(np.array_equal(after, moved_by(before, up, left)) for up in vertical for left in horizontal)


@given(x=recordings, seed=seeds)
@settings(deadline=None)
def test_a_shift_moves_a_recording_in_time_and_repeats_its_edges(x: Array, seed: int) -> None:
    most = max(1, round(x.shape[1] / 16))
    for before, after in zip(x, shift(x, random(seed)), strict=True):
        assert any(np.array_equal(after, moved_by(before, by)) for by in range(-most, most + 1))


def test_every_shift_up_to_the_most_comes_in_every_direction() -> None:
    x = numbered(500, 32, 48, 1)
    shifted = shift(x, random())
    found = {(up, left) for up in range(-2, 3) for left in range(-3, 4)
             if any(np.array_equal(image, moved_by(x[0], up, left)) for image in shifted)}  # fmt: skip
    assert len(found) == 5 * 7
    assert len({image.tobytes() for image in shifted}) == 5 * 7


def test_colours_are_never_mixed() -> None:
    x = np.zeros((50, 16, 16, 3), np.uint8)
    x[...] = (10, 20, 30)
    np.testing.assert_array_equal(augment(x, ("flip", "shift"), random()), x)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@given(x=images, seed=seeds)
@settings(deadline=None)
def test_the_same_generator_makes_the_same_changes_and_spares_the_original(name: str, x: Array, seed: int) -> None:
    before = x.copy()
    one, other = (AUGMENTATIONS[name](x, random(seed)) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    np.testing.assert_array_equal(x, before)
    assert (one.dtype, one.shape) == (x.dtype, x.shape)
    assert not np.shares_memory(one, x)


def test_changes_are_made_in_the_order_given() -> None:
    x = numbered(20, 16, 16, 1)
    generator = random(3)
    expected = shift(flip(x, generator), generator)
    np.testing.assert_array_equal(augment(x, ("flip", "shift"), random(3)), expected)
    assert augment(x, (), random()) is x


def spec(kind: Any, *shape: int) -> InputSpec:
    return InputSpec(kind=kind, shape=shape, dtype="float32", minimum=0.0, maximum=1.0)


IMAGE, AUDIO, TENSOR = spec("image", 8, 8, 3), spec("audio", 16000), spec("tensor", 4)


@pytest.mark.parametrize(
    ("names", "kind"),
    [((), TENSOR), (("flip",), IMAGE), (("shift",), IMAGE), (("shift",), AUDIO), (("flip", "shift"), IMAGE)],
    ids=str,
)
def test_what_inputs_allow_is_taken(names: tuple[str, ...], kind: InputSpec) -> None:
    check_augmentations(names, kind)


@pytest.mark.parametrize(
    ("names", "kind", "message"),
    [
        (("rotate",), IMAGE, "unknown augmentation 'rotate': there is flip, shift"),
        (("flip", "Shift"), IMAGE, "unknown augmentation 'Shift': there is flip, shift"),
        (("flip",), AUDIO, "'flip' is for inputs of kind image, and these are audio"),
        (("shift", "flip"), TENSOR, "'shift' is for inputs of kind image and audio, and these are tensor"),
    ],
    ids=str,
)
def test_what_there_is_not_or_is_for_other_inputs_is_refused(
    names: tuple[str, ...], kind: InputSpec, message: str
) -> None:
    with pytest.raises(UsageError) as error:
        check_augmentations(names, kind)
    assert str(error.value) == message
