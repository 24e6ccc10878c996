from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import answers, copied, inputs_for

import zoo.subnetworks.training
from fleetfoot.errors import ModelError, UsageError
from zoo.backend import keras, make_deterministic
from zoo.batches import TrainingData
from zoo.blocks import drop_blocks
from zoo.channels import permute_model, slice_model
from zoo.datasets import Dataset, split_indices
from zoo.importance import importance, order
from zoo.subnetworks import JOINT_LOSSES, Member, cut_member, train_jointly

layers = keras.layers

LADDER = (
    Member({"conv1": 8, "conv2": 16, "conv3": 24}),
    Member({"conv1": 16, "conv2": 24, "conv3": 32}),
)


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
    return float((data.tune_answers(model) == data.y_tune).mean())


def test_an_ordered_network_is_in_order(base: Any, ordered: Any) -> None:
    assert all(indices == sorted(indices) for indices in order(importance(ordered, "l2")).values())
    x = inputs_for(base)
    np.testing.assert_allclose(answers(ordered, x), answers(base, x), atol=1e-5)


def slices(model: Any) -> dict[str, Any]:
    """The weights that subnetworks share: those of all layers but batch norms."""
    return {
        f"{layer.name}/{weight.name}": weight.numpy()
        for layer in model.layers
        if not isinstance(layer, layers.BatchNormalization)
        for weight in layer.trainable_weights
    }


@pytest.fixture(scope="module", params=JOINT_LOSSES)
def trained(request: pytest.FixtureRequest, ordered: Any, data: TrainingData) -> tuple[Any, list[Any]]:
    """The shared network and its subnetworks, trained for a few epochs with the base as teacher."""
    make_deterministic(0)
    shared = copied(ordered)
    family = train_jointly(
        shared, LADDER, data, epochs=6, learning_rate=2e-3, teacher=ordered, loss=request.param
    )  # fmt: skip
    return shared, family


def test_subnetworks_share_the_weights_of_the_network_they_lie_in(ordered: Any, trained: Any) -> None:
    shared, family = trained
    before, after = slices(ordered), slices(shared)
    assert all(not np.array_equal(before[name], after[name]) for name in before)
    for member, network in zip(LADDER, family, strict=True):
        expected = slices(slice_model(shared, member.widths))
        for name, weight in slices(network).items():
            np.testing.assert_array_equal(weight, expected[name])
        for name, width in member.widths.items():
            assert network.get_layer(name).kernel.shape[-1] == width


@pytest.mark.parametrize("variable", ["moving_mean", "gamma"])
def test_subnetworks_have_batch_normalisation_of_their_own(trained: Any, variable: str) -> None:
    _, (narrow, wide) = trained
    narrow, wide = (getattr(network.get_layer("norm2"), variable).numpy() for network in (narrow, wide))
    assert not np.allclose(narrow, wide[: len(narrow)], rtol=1e-3)


def test_training_together_makes_narrow_subnetworks_better_than_the_mere_slices(
    ordered: Any, trained: Any, data: TrainingData
) -> None:
    _, family = trained
    for member, network in zip(LADDER, family, strict=True):
        assert accuracy(network, data) > accuracy(slice_model(ordered, member.widths), data) + 0.1


def test_without_epochs_subnetworks_are_the_mere_slices(ordered: Any, data: TrainingData) -> None:
    x = inputs_for(ordered)
    family = train_jointly(copied(ordered), LADDER, data, epochs=0, learning_rate=1e-3)
    for member, network in zip(LADDER, family, strict=True):
        np.testing.assert_array_equal(answers(network, x), answers(cut_member(ordered, member), x))


def residual(seed: int = 0) -> Any:
    make_deterministic(seed)
    inputs = keras.Input((8, 8, 1), name="input")
    stem = layers.Dense(16, activation="relu", name="stem")(layers.Flatten()(layers.Rescaling(1 / 16)(inputs)))
    arm = layers.BatchNormalization(momentum=0.8)(layers.Dense(16, name="arm")(layers.Dropout(0.2)(stem)))
    x = layers.ReLU()(layers.Add(name="sum")([stem, arm]))
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="out")(x))


def test_what_no_subnetwork_reaches_stays_as_it_is(data: TrainingData) -> None:
    old, shared = residual(), residual()
    train_jointly(shared, [Member({"stem": 8})], data, epochs=1, learning_rate=1e-3)
    kernel, before = (model.get_layer("arm").kernel.numpy() for model in (shared, old))
    np.testing.assert_array_equal(kernel[:, 8:], before[:, 8:])
    np.testing.assert_array_equal(kernel[8:], before[8:])
    assert not np.allclose(kernel[:8, :8], before[:8, :8])


def test_a_subnetwork_that_skips_a_block_is_the_network_without_it(data: TrainingData) -> None:
    shared = residual()
    narrow, wide = train_jointly(
        shared, [Member({"stem": 8}, drop=("sum",)), Member({"stem": 16})], data, epochs=2, learning_rate=1e-3
    )
    assert "arm" not in {layer.name for layer in narrow.layers}
    assert "arm" in {layer.name for layer in wide.layers}
    expected = slice_model(drop_blocks(shared, ["sum"]), {"stem": 8})
    x = inputs_for(shared)
    np.testing.assert_allclose(answers(narrow, x), answers(expected, x), atol=1e-6)


def small_training(data: TrainingData, seed: int = 3, **options: Any) -> list[Any]:
    ladder = [Member({"stem": 8}), Member({"stem": 16})]
    return train_jointly(residual(seed), ladder, data, epochs=3, learning_rate=1e-3, **options)


def assert_same(one: list[Any], other: list[Any]) -> None:
    for network, same in zip(one, other, strict=True):
        for weight, expected in zip(network.get_weights(), same.get_weights(), strict=True):
            np.testing.assert_array_equal(weight, expected)


def test_the_same_training_gives_the_same_subnetworks(data: TrainingData) -> None:
    assert_same(small_training(data), small_training(data))


def test_a_training_that_was_stopped_goes_on_and_ends_the_same(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = small_training(data)

    class StoppedError(Exception):
        pass

    class Batches(zoo.batches.Batches):
        def start_epoch(self, epoch: int) -> None:
            if epoch == 2:
                raise StoppedError
            super().start_epoch(epoch)

    with monkeypatch.context() as patched, pytest.raises(StoppedError):
        patched.setattr(zoo.batches, "Batches", Batches)
        small_training(data, checkpoint=tmp_path)
    assert list(tmp_path.glob("2.run*"))
    assert_same(small_training(data, checkpoint=tmp_path), expected)
    assert not list(tmp_path.iterdir())


def test_a_network_with_dropout_and_a_residual_sum_learns(data: TrainingData) -> None:
    ladder = [Member({"stem": 8}), Member({"stem": 16})]
    family = train_jointly(residual(), ladder, data, epochs=10, learning_rate=0.03)
    assert all(accuracy(network, data) > 0.5 for network in family)


def test_what_a_network_does_not_have_is_refused(ordered: Any, data: TrainingData) -> None:
    def train(member: Member, **options: Any) -> None:
        train_jointly(copied(ordered), [member], data, epochs=1, learning_rate=1e-3, **options)

    with pytest.raises(ModelError, match="group conv1 has 32 channels"):
        train(Member({"conv1": 64}))
    with pytest.raises(ModelError, match="there is no channel group 'conv9'"):
        train(Member({"conv9": 8}))
    with pytest.raises(ModelError, match="block"):
        train(Member({}, drop=("conv1",)))
    with pytest.raises(UsageError, match="there is no joint loss 'sum': did you mean|there is no joint loss 'sum'"):
        train(Member({}), loss="sum")
