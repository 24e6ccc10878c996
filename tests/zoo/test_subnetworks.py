from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest
from networks import NETWORKS, answers, copied, inputs_for

from fleetfoot.errors import ModelError, UsageError
from zoo.architectures import digits_cnn
from zoo.backend import keras, make_deterministic
from zoo.batches import TrainingData
from zoo.channels import cuttable_groups, permute_model, slice_model
from zoo.cost import count_macs
from zoo.datasets import Dataset, split_indices
from zoo.importance import importance, order
from zoo.subnetworks import train_jointly, width_ladder

layers = keras.layers


@pytest.fixture(scope="module")
def data(digits: Dataset) -> TrainingData:
    full = TrainingData.of(digits, split_indices(digits, 0))
    return dataclasses.replace(full, train=full.train[:256])


@pytest.fixture(scope="module")
def base(base_file: Any) -> Any:
    return keras.saving.load_model(base_file, compile=False)


@pytest.fixture(scope="module")
def ordered(base: Any) -> Any:
    return permute_model(base, order(importance(base, "l2")))


def accuracy(model: Any, data: TrainingData) -> float:
    return float((model.predict(data.x_tune, verbose=0).argmax(axis=1) == data.y_tune).mean())


def test_an_ordered_network_is_in_order(base: Any, ordered: Any) -> None:
    assert all(indices == sorted(indices) for indices in order(importance(ordered, "l2")).values())
    x = inputs_for(base)
    np.testing.assert_allclose(answers(ordered, x), answers(base, x), atol=1e-5)


def test_a_ladder_s_rungs_are_within_their_fractions_and_nested(base: Any) -> None:
    fractions = [0.1, 0.25, 0.5, 0.75, 1.0]
    ladder = width_ladder(base, fractions)
    for fraction, widths in zip(fractions, ladder, strict=True):
        assert widths.keys() == cuttable_groups(base).keys()
        assert count_macs(slice_model(base, widths)) <= fraction * count_macs(base)
    for narrow, wide in itertools.pairwise(ladder):
        assert all(narrow[name] <= wide[name] for name in narrow)
        assert narrow != wide
    assert ladder[-1] == {name: group.size for name, group in cuttable_groups(base).items()}


def test_a_rung_is_the_widest_within_its_fraction(digits: Dataset) -> None:
    model = digits_cnn(digits.input, 10, width=64)
    (half,) = width_ladder(model, [0.5])
    assert count_macs(slice_model(model, half)) > 0.35 * count_macs(model)


def test_all_of_the_multiply_accumulates_are_the_whole_network_whatever_its_widths() -> None:
    inputs = keras.Input((4,), name="input")
    model = keras.Model(inputs, layers.Dense(2, name="out")(layers.Dense(20, name="hidden")(inputs)))
    assert width_ladder(model, [1.0]) == [{"hidden": 20}]


@pytest.mark.parametrize("fractions", [[], [0.0], [-0.5], [1.5], [float("nan")], [0.5, 0.25], [0.5, 0.5]])
def test_fractions_that_cannot_be_meant_are_refused(base: Any, fractions: list[float]) -> None:
    with pytest.raises(UsageError, match="fractions of the MACs must"):
        width_ladder(base, fractions)


def test_a_fraction_below_the_narrowest_widths_is_refused_naming_what_they_take(base: Any) -> None:
    with pytest.raises(ModelError, match=r"no widths take 0\.001 of the MACs: the least is 0\.\d+"):
        width_ladder(base, [0.001])


def test_a_network_with_nothing_to_cut_is_refused() -> None:
    inputs = keras.Input((4,), name="input")
    model = keras.Model(inputs, layers.Dense(2, name="out")(inputs))
    with pytest.raises(ModelError, match="no channels that can be cut"):
        width_ladder(model, [0.5])
    with pytest.raises(ModelError, match="no channels that can be cut"):
        importance(model, "l2")


def trainable(model: Any) -> dict[str, Any]:
    return {
        f"{layer.name}/{weight.name}": weight.numpy() for layer in model.layers for weight in layer.trainable_weights
    }


@pytest.fixture(scope="module")
def trained(ordered: Any, data: TrainingData) -> tuple[Any, list[dict[str, int]], list[Any]]:
    """The shared network, its ladder, and the subnetworks, trained for a few epochs with the base as teacher."""
    make_deterministic(0)
    shared = copied(ordered)
    ladder = width_ladder(shared, [0.25, 0.5])
    return shared, ladder, train_jointly(shared, ladder, data, epochs=6, learning_rate=2e-3, teacher=ordered)


def test_subnetworks_share_the_weights_of_the_network_they_lie_in(ordered: Any, trained: Any) -> None:
    shared, ladder, family = trained
    assert len(family) == len(ladder) == 2
    before, after = trainable(ordered), trainable(shared)
    assert all(not np.array_equal(before[name], after[name]) for name in before)
    for widths, member in zip(ladder, family, strict=True):
        expected = trainable(slice_model(shared, widths))
        for name, weight in trainable(member).items():
            np.testing.assert_array_equal(weight, expected[name])
        for name, width in widths.items():
            assert member.get_layer(name).kernel.shape[-1] == width


def test_subnetworks_have_batch_norm_statistics_of_their_own(trained: Any) -> None:
    *_, (narrow, wide) = trained
    narrow, wide = (member.get_layer("norm2").moving_mean.numpy() for member in (narrow, wide))
    assert not np.allclose(narrow, wide[: len(narrow)], rtol=1e-3)


def test_training_together_makes_narrow_subnetworks_better_than_the_mere_slices(
    ordered: Any, trained: Any, data: TrainingData
) -> None:
    _, ladder, family = trained
    for widths, member in zip(ladder, family, strict=True):
        assert accuracy(member, data) > accuracy(slice_model(ordered, widths), data) + 0.1


def residual(seed: int = 0) -> Any:
    make_deterministic(seed)
    inputs = keras.Input((8, 8, 1), name="input")
    stem = layers.Dense(16, activation="relu", name="stem")(layers.Flatten()(layers.Rescaling(1 / 16)(inputs)))
    arm = layers.BatchNormalization(momentum=0.8)(layers.Dense(16, name="arm")(layers.Dropout(0.2)(stem)))
    x = layers.ReLU()(layers.Add()([stem, arm]))
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="out")(x))


def test_what_no_subnetwork_reaches_stays_as_it_is(data: TrainingData) -> None:
    old, shared = residual(), residual()
    train_jointly(shared, [{"stem": 8}], data, epochs=1, learning_rate=1e-3)
    kernel, before = (model.get_layer("arm").kernel.numpy() for model in (shared, old))
    np.testing.assert_array_equal(kernel[:, 8:], before[:, 8:])
    np.testing.assert_array_equal(kernel[8:], before[8:])
    assert not np.allclose(kernel[:8, :8], before[:8, :8])


def test_the_same_training_gives_the_same_subnetworks(data: TrainingData) -> None:
    def trained(seed: int) -> Any:
        return train_jointly(residual(seed), [{"stem": 8}, {"stem": 16}], data, epochs=1, learning_rate=1e-3)

    for one, other in zip(trained(3), trained(3), strict=True):
        for weight, same in zip(one.get_weights(), other.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, same)


def test_a_network_with_dropout_and_a_residual_sum_learns(data: TrainingData) -> None:
    shared = residual()
    family = train_jointly(shared, [{"stem": 8}, {"stem": 16}], data, epochs=10, learning_rate=0.03)
    assert all(accuracy(member, data) > 0.5 for member in family)


def test_widths_that_a_group_does_not_have_are_refused(ordered: Any, data: TrainingData) -> None:
    with pytest.raises(ModelError, match="group conv1 has 32 channels"):
        train_jointly(copied(ordered), [{"conv1": 64}], data, epochs=1, learning_rate=1e-3)
    with pytest.raises(ModelError, match="there is no channel group 'conv9'"):
        train_jointly(copied(ordered), [{"conv9": 8}], data, epochs=1, learning_rate=1e-3)


def test_every_network_has_an_order(base: Any) -> None:
    for network in NETWORKS.values():
        assert importance(network.random(0), "l2").keys() == network.groups.keys()
