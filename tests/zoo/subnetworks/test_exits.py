from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from networks import answers, inputs_for

from fleetfoot.errors import ModelError, UsageError
from zoo.backend import keras, make_deterministic
from zoo.batches import Batches, TrainingData
from zoo.cost import count_macs
from zoo.datasets import Dataset, split_indices
from zoo.subnetworks.exits import Exits, deepest_within, exit_points, exit_shares, train_exits, with_exits

layers = keras.layers


@pytest.fixture(scope="module")
def data(digits: Dataset) -> TrainingData:
    full = TrainingData.of(digits, split_indices(digits, 0))
    return dataclasses.replace(full, train=full.train[:512])


@pytest.fixture(scope="module")
def base(base_file: Any) -> Any:
    return keras.saving.load_model(base_file, compile=False)


def residual(seed: int = 0) -> Any:
    """Two residual blocks and a short way around a layer, with a hidden layer before the end."""
    make_deterministic(seed)
    inputs = keras.Input((8, 8, 1), name="input")
    x = layers.Conv2D(8, 3, padding="same", name="stem")(layers.Rescaling(1 / 16)(inputs))
    for number in (1, 2):
        arm = layers.Conv2D(8, 3, padding="same", activation="relu", name=f"arm{number}")(x)
        x = layers.ReLU(name=f"block{number}")(layers.Add()([x, layers.BatchNormalization()(arm)]))
    x = layers.Dense(16, activation="relu", name="hidden")(layers.Flatten(name="flat")(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="out")(x))


def accuracy(model: Any, data: TrainingData) -> float:
    return float((data.tune_answers(model) == data.y_tune).mean())


def test_points_are_where_everything_passes_and_the_last_between_two_kernels() -> None:
    points = exit_points(residual())
    assert [point.layer for point in points] == ["stem", "block1", "flat", "hidden"]
    assert [point.macs for point in points] == [72 * 64, 648 * 64, 1224 * 64, 1224 * 64 + 512 * 16]


def test_what_a_later_layer_reads_past_a_point_takes_it_away() -> None:
    inputs = keras.Input((8, 8, 1))
    early = layers.Conv2D(4, 3, padding="same", name="early")(inputs)
    middle = layers.Conv2D(4, 3, padding="same", name="middle")(early)
    late = layers.Conv2D(4, 3, padding="same", name="late")(middle)
    x = layers.GlobalAveragePooling2D(name="average")(layers.Concatenate()([early, late]))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    assert [point.layer for point in exit_points(model)] == ["early", "average"]


def test_points_of_a_network_in_a_network_are_seen(base: Any) -> None:
    outer = keras.Input(base.inputs[0].shape[1:], dtype=base.inputs[0].dtype)
    inner = [(point.layer, point.macs) for point in exit_points(base)]
    assert [(point.layer, point.macs) for point in exit_points(keras.Model(outer, base(outer)))] == inner


def test_a_sequential_network_has_exits_too() -> None:
    stack = [layers.Conv2D(4, 3, name="conv"), layers.Flatten(), layers.Dense(8), layers.Dense(3, activation="softmax")]
    model = keras.Sequential([keras.Input((8, 8, 1)), *stack])
    share = exit_shares(model)[0]
    early, whole = with_exits(model, [share]).networks
    assert count_macs(early) == pytest.approx(share * count_macs(whole))
    x = np.ones((2, 8, 8, 1), np.float32)
    np.testing.assert_allclose(whole(x), model(x), rtol=1e-5)


def test_sizes_that_are_left_open_are_refused() -> None:
    inputs = keras.Input((None, None, 1))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(inputs))
    with pytest.raises(ModelError, match="give the input a size"):
        exit_points(keras.Model(inputs, layers.Dense(3)(x)))


SHARES = st.lists(st.floats(0.01, 0.99), min_size=1, max_size=6, unique=True).map(sorted)


@given(SHARES, SHARES)
def test_each_fraction_has_the_deepest_exit_within_it_of_its_own(shares: list[float], fractions: list[float]) -> None:
    expected = [sum(share <= fraction for share in shares) - 1 for fraction in fractions]
    if expected[0] < 0:
        with pytest.raises(ModelError, match="no exit takes"):
            deepest_within(shares, fractions)
    elif len(set(expected)) < len(expected):
        with pytest.raises(ModelError, match="are the same exit: give only one of them, exits take 0"):
            deepest_within(shares, fractions)
    else:
        assert deepest_within(shares, fractions) == expected


def test_exits_are_within_their_fractions_and_the_whole_network_is_the_last() -> None:
    model = residual()
    whole = count_macs(model)
    for fractions in ([0.6, 0.97], [0.6, 0.97, 1.0]):
        exits = with_exits(model, fractions)
        early, late, last = (count_macs(network) / whole for network in exits.networks)
        assert 0.4 < early <= 0.6 < late <= 0.97
        assert last == 1
        assert [features.shape[1:] for features in exits.features] == [(8, 8, 8), (512,)]


def test_a_fraction_below_the_first_exit_is_refused_naming_what_there_is() -> None:
    with pytest.raises(ModelError, match=r"no exit takes 0\.01 of the MACs: they take 0\.\d+, "):
        with_exits(residual(), [0.01, 1.0])
    with pytest.raises(UsageError, match="must ascend"):
        with_exits(residual(), [0.8, 0.5])


def test_a_network_without_a_place_to_stop_is_refused() -> None:
    inputs = keras.Input((4,))
    with pytest.raises(ModelError, match="there is none"):
        with_exits(keras.Model(inputs, layers.Dense(3, activation="softmax")(inputs)), [0.5])


def test_the_last_network_is_the_whole_one_with_weights_of_its_own(base: Any) -> None:
    exits = with_exits(base, [0.5])
    x = inputs_for(base)
    np.testing.assert_array_equal(answers(exits.networks[-1], x), answers(base, x))
    before = base.get_weights()
    exits.networks[-1].set_weights([weight + 1 for weight in before])
    for weight, kept in zip(base.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, kept)


@pytest.mark.parametrize("shape", [(12, 3), (7, 5, 3), (4, 4, 4, 2)])
def test_heads_fit_features_of_any_number_of_directions(shape: tuple[int, ...]) -> None:
    convolution = {2: layers.Conv1D, 3: layers.Conv2D, 4: layers.Conv3D}[len(shape)]
    inputs = keras.Input(shape)
    x = layers.Flatten()(convolution(4, 3, padding="same")(convolution(4, 3, padding="same")(inputs)))
    model = keras.Model(inputs, layers.Dense(3, activation="softmax")(x))
    early, _ = with_exits(model, [0.9]).networks
    np.testing.assert_allclose(answers(early, inputs_for(model)).sum(axis=1), 1, rtol=1e-5)


@pytest.fixture(scope="module", params=["reds", "distilled"])
def trained(request: pytest.FixtureRequest, base: Any, data: TrainingData) -> Exits:
    """The exits of a trained network, trained for a few epochs."""
    make_deterministic(0)
    exits = with_exits(base, [0.2, 0.6])
    train_exits(exits, data, epochs=4, learning_rate=3e-3, loss=request.param)
    return exits


def test_training_makes_all_exits_right(trained: Exits, data: TrainingData) -> None:
    early, middle, whole = (accuracy(network, data) for network in trained.networks)
    assert early > 0.7
    assert min(middle, whole) > 0.9


def test_exits_share_the_trunk_that_was_trained(trained: Exits, base: Any) -> None:
    early, *later = trained.networks
    trunk = early.get_layer("conv0")
    assert all(network.get_layer("conv0") is trunk for network in later)
    assert not np.allclose(trunk.kernel.numpy(), base.get_layer("conv0").kernel.numpy())


def test_a_teacher_s_answers_are_part_of_the_targets(data: TrainingData) -> None:
    """A teacher that always says the same draws the answers towards it."""
    make_deterministic(0)
    inputs = keras.Input((8, 8, 1))
    constant = layers.Dense(10, kernel_initializer="zeros", bias_initializer=lambda shape, dtype: [9.0] + [0.0] * 9)
    teacher = keras.Model(inputs, layers.Softmax()(constant(layers.Flatten()(inputs))))
    exits = with_exits(residual(), [0.5])
    train_exits(exits, data, epochs=2, learning_rate=1e-3, teacher=teacher, loss="reds")
    for network in exits.networks:
        assert (data.tune_answers(network) == 0).mean() > 0.5


def test_the_same_training_gives_the_same_exits_also_when_it_is_taken_up_again(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def trained(folder: Path) -> list[Any]:
        make_deterministic(1)
        exits = with_exits(residual(1), [0.5])
        train_exits(exits, data, epochs=3, learning_rate=1e-3, checkpoint=folder)
        return [weight for network in exits.networks for weight in network.get_weights()]

    class KilledError(Exception):
        pass

    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    expected = trained(folders[0])
    start = Batches.start_epoch

    def stop_at_the_third(self: Batches, epoch: int) -> None:
        if epoch == 2:
            raise KilledError
        start(self, epoch)

    with monkeypatch.context() as patch, pytest.raises(KilledError):
        patch.setattr(Batches, "start_epoch", stop_at_the_third)
        trained(folders[1])
    assert list(folders[1].iterdir())
    for one, other in zip(expected, trained(folders[1]), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)
