from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import NETWORKS, randomize

from fleetfoot.errors import ModelError, UsageError
from zoo.backend import keras
from zoo.channels import channel_groups, cuttable_groups, slice_model
from zoo.pruning import WIDTH_MULTIPLE, filter_norms, keep_by_norm, round_width

layers = keras.layers


def wide() -> Any:
    """Two residual convolutions of 32 channels around one of 24, and a hidden layer of 16."""
    inputs = keras.Input((4, 4, 3), name="input")
    stem = layers.Conv2D(32, 3, padding="same", name="stem")(inputs)
    arm = layers.Conv2D(24, 3, padding="same", name="inner")(stem)
    arm = layers.Conv2D(32, 3, padding="same", name="outer")(arm)
    x = layers.GlobalAveragePooling2D()(layers.Add()([stem, arm]))
    x = layers.Dense(16, name="hidden")(x)
    model = keras.Model(inputs, layers.Dense(4, name="out")(x), name="wide")
    randomize(model, 0)
    return model


@given(width=st.floats(0, 2000), size=st.integers(1, 1000))
def test_a_width_is_rounded_to_what_runtimes_compute_at_once(width: float, size: int) -> None:
    rounded = round_width(width, size)
    assert 1 <= rounded <= size
    assert rounded % WIDTH_MULTIPLE == 0 or rounded == size
    if WIDTH_MULTIPLE <= width <= size - WIDTH_MULTIPLE:
        assert abs(rounded - width) <= WIDTH_MULTIPLE / 2


@given(size=st.integers(1, 1000))
def test_wider_is_never_narrower_once_rounded(size: int) -> None:
    widths = [round_width(size * step / 32, size) for step in range(1, 33)]
    assert widths == sorted(widths)


@given(size=st.integers(1, 1000))
def test_the_whole_width_stays_whole(size: int) -> None:
    assert round_width(size, size) == size


def test_the_norm_of_a_channel_is_over_all_layers_that_make_it() -> None:
    model = wide()
    stem, outer = (model.get_layer(name).kernel.numpy() for name in ("stem", "outer"))
    norms = filter_norms(model, channel_groups(model)["stem"])
    assert norms.shape == (32,)
    for channel in (0, 17, 31):
        expected = np.linalg.norm(np.concatenate([stem[..., channel].ravel(), outer[..., channel].ravel()]))
        assert norms[channel] == pytest.approx(expected)


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.75])
def test_the_channels_with_the_largest_norms_are_kept(ratio: float) -> None:
    model = wide()
    keep = keep_by_norm(model, ratio)
    assert {"stem", "inner"} <= keep.keys()
    for name, group in cuttable_groups(model).items():
        norms = filter_norms(model, group)
        kept = list(keep.get(name, range(group.size)))
        assert len(kept) == round_width(ratio * group.size, group.size)
        if len(kept) == group.size:
            continue
        assert kept == sorted(kept)
        assert norms[kept].min() >= np.delete(norms, kept).max()
    slice_model(model, keep)


def test_keeping_everything_names_no_group() -> None:
    assert keep_by_norm(wide(), 1.0) == {}


def test_groups_as_narrow_as_the_narrowest_width_are_left_whole() -> None:
    assert keep_by_norm(NETWORKS["chain"].random(0), 0.25) == {}


def test_keeping_everything_names_no_group_of_an_odd_size_either() -> None:
    inputs = keras.Input((4,), name="input")
    model = keras.Model(inputs, layers.Dense(2, name="out")(layers.Dense(20, name="hidden")(inputs)))
    assert keep_by_norm(model, 1.0) == {}


def test_equal_norms_are_kept_in_order() -> None:
    model = wide()
    for layer in model.layers:
        layer.set_weights([np.ones_like(weight) for weight in layer.get_weights()])
    assert keep_by_norm(model, 0.5)["stem"] == tuple(range(16))


@pytest.mark.parametrize("ratio", [0, -0.5, 1.01, float("nan"), float("inf")])
def test_a_ratio_that_cannot_be_meant_is_refused(ratio: float) -> None:
    with pytest.raises(UsageError, match=f"keep ratio must be above 0 and at most 1, and {ratio:g} is not"):
        keep_by_norm(wide(), ratio)


def test_a_network_with_nothing_to_cut_is_refused() -> None:
    inputs = keras.Input((4,), name="input")
    with pytest.raises(ModelError, match="no channels that can be cut"):
        keep_by_norm(keras.Model(inputs, layers.Dense(2, name="out")(inputs)), 0.5)
