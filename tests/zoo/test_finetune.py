from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from networks import copied

from fleetfoot.errors import ModelError
from zoo import finetune
from zoo.backend import keras, make_deterministic
from zoo.batches import SMALL_BATCH, TEACHER_WEIGHT, Batches, TrainingData
from zoo.datasets import Dataset, split_indices
from zoo.finetune import recalibrate_batch_norm, schedule, train

layers = keras.layers

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def data(digits: Dataset) -> TrainingData:
    return quarter(digits)


def quarter(digits: Dataset) -> TrainingData:
    """A quarter of the digits to train on."""
    full = TrainingData.of(digits, split_indices(digits, 0))
    return dataclasses.replace(full, train=full.train[:256])


def relabelled(data: TrainingData, y: Array) -> TrainingData:
    """The same inputs with other labels in the train split."""
    labels = data.dataset.y.copy()
    labels[data.train] = y
    return dataclasses.replace(data, dataset=dataclasses.replace(data.dataset, y=labels))


def gathered(batches: Batches) -> tuple[Array, Array]:
    """All inputs and targets of an epoch."""
    x, targets = zip(*batches, strict=True)
    return np.concatenate(x), np.concatenate(targets)


def small(seed: int = 0) -> Any:
    make_deterministic(seed)
    inputs = keras.Input((8, 8, 1), name="input")
    x = layers.Dense(16, activation="relu", name="hidden")(layers.Flatten()(layers.Rescaling(1 / 16)(inputs)))
    x = layers.Dropout(0.1)(layers.BatchNormalization(momentum=0.8)(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="out")(x))


@pytest.fixture(scope="module")
def untrained() -> Any:
    return small()


def tune_loss(model: Any, data: TrainingData) -> float:
    answers = model.predict(data.x_tune, verbose=0)[np.arange(len(data.y_tune)), data.y_tune]
    return float(-np.log(np.maximum(answers, 1e-7)).mean())


def test_training_data_are_the_train_and_tune_splits_and_nothing_else(digits: Dataset) -> None:
    splits = split_indices(digits, 3)
    data = TrainingData.of(digits, splits)
    x, targets = gathered(data.train_batches())
    chosen = digits.input_ids(splits["train"])
    assert sorted(digest(row) for row in x) == sorted(digest(row) for row in digits.x[splits["train"]])
    assert len(x) == len(chosen) == len(targets)
    x, targets = gathered(data.tune_batches())
    np.testing.assert_array_equal(x, digits.x[splits["tune"]])
    np.testing.assert_array_equal(targets.argmax(axis=1), digits.y[splits["tune"]])
    np.testing.assert_array_equal(data.x_tune, digits.x[splits["tune"]])
    np.testing.assert_array_equal(data.y_tune, digits.y[splits["tune"]])


def digest(row: Array) -> bytes:
    return row.tobytes()


def test_an_epoch_has_every_example_once_with_its_own_target_in_batches(data: TrainingData) -> None:
    batches = data.train_batches()
    assert [len(x) for x, _ in batches] == [SMALL_BATCH] * (256 // SMALL_BATCH)
    label = {digest(data.dataset.x[index]): data.dataset.y[index] for index in data.train}
    for epoch in range(2):
        batches.start_epoch(epoch)
        x, targets = gathered(batches)
        assert {digest(row) for row in x} == label.keys()
        assert [label[digest(row)] for row in x] == targets.argmax(axis=1).tolist()


def test_a_last_batch_that_is_not_full_is_trained_on_too(data: TrainingData) -> None:
    batches = dataclasses.replace(data, train=data.train[:70]).train_batches()
    assert [len(x) for x, _ in batches] == [32, 32, 6]


def test_every_epoch_is_in_another_order_which_depends_on_seed_and_number_only(data: TrainingData) -> None:
    def order(seed: int, *epochs: int) -> bytes:
        batches = data.train_batches(seed=seed)
        for epoch in epochs:
            batches.start_epoch(epoch)
        return gathered(batches)[0].tobytes()

    assert order(0, 5) == order(0, 1, 2, 5)
    assert order(0) == order(0, 0)
    assert len({order(0, 0), order(0, 1), order(1, 0), order(1, 1)}) == 4


def test_without_a_teacher_the_targets_are_the_labels(data: TrainingData) -> None:
    _, targets = gathered(data.train_batches())
    assert targets.shape == (256, 10)
    np.testing.assert_array_equal(np.bincount(targets.argmax(axis=1)), np.bincount(data.dataset.y[data.train]))
    np.testing.assert_array_equal(targets.sum(axis=1), 1)
    assert set(np.unique(targets)) == {0, 1}


def test_a_teacher_s_answers_are_their_share_of_the_targets(data: TrainingData, untrained: Any) -> None:
    x, targets = gathered(data.train_batches(untrained))
    _, labels = gathered(data.train_batches())
    answers = untrained.predict(x, verbose=0)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(targets - (1 - TEACHER_WEIGHT) * labels, TEACHER_WEIGHT * answers, atol=1e-6)
    assert targets.min() >= 0


def test_a_data_set_on_the_disk_is_read_batch_by_batch(data: TrainingData, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", data.dataset.x)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    on_disk = dataclasses.replace(data, dataset=dataclasses.replace(data.dataset, x=mapped))
    np.testing.assert_array_equal(gathered(on_disk.train_batches())[0], gathered(data.train_batches())[0])


def test_the_same_seed_trains_the_same_weights_and_another_seed_others(data: TrainingData) -> None:
    def trained(seed: int) -> list[Any]:
        model = small(seed)
        train(model, data, epochs=2)
        weights: list[Any] = model.get_weights()
        return weights

    first, again, other = trained(0), trained(0), trained(1)
    for one, two in zip(first, again, strict=True):
        np.testing.assert_array_equal(one, two)
    assert any(not np.array_equal(one, two) for one, two in zip(first, other, strict=True))


def test_training_makes_a_network_better(data: TrainingData, untrained: Any) -> None:
    model = copied(untrained)
    before = tune_loss(model, data)
    train(model, data, epochs=6, learning_rate=0.01)
    assert tune_loss(model, data) < 0.7 * before


def test_training_that_makes_a_network_worse_stops_early_and_leaves_it_with_the_best_weights(
    data: TrainingData, untrained: Any
) -> None:
    model = copied(untrained)
    wrong = relabelled(data, (data.dataset.y[data.train] + 1) % 10)  # so that each epoch makes it worse
    train(model, wrong, epochs=12, learning_rate=0.01)
    losses = model.history.history["val_loss"]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + 6  # half of the epochs are waited for something better
    assert losses[-1] > 1.2 * min(losses)
    assert tune_loss(model, data) == pytest.approx(min(losses), rel=1e-3)


def test_the_weights_that_were_best_on_the_tune_split_are_restored_after_all_epochs(
    data: TrainingData, untrained: Any
) -> None:
    model = copied(untrained)
    wrong = relabelled(data, (data.dataset.y[data.train] + 1) % 10)
    train(model, wrong, epochs=2, learning_rate=0.01)
    losses = model.history.history["val_loss"]
    assert len(losses) == 2
    assert losses[0] < losses[1]
    assert tune_loss(model, data) == pytest.approx(losses[0], rel=1e-3)


def test_training_that_makes_a_network_better_is_not_stopped(data: TrainingData, untrained: Any) -> None:
    model = copied(untrained)
    train(model, data, epochs=6)
    assert len(model.history.history["val_loss"]) == 6


def test_the_learning_rate_falls_from_its_start_to_zero(data: TrainingData) -> None:
    rates = schedule(1e-3, 4, data.train_batches())
    steps = 4 * 256 // SMALL_BATCH
    values = [float(rates(step)) for step in range(steps + 1)]
    assert values[0] == pytest.approx(1e-3)
    assert values[steps // 2] == pytest.approx(5e-4)
    assert values[-1] == pytest.approx(0, abs=1e-9)
    assert values == sorted(values, reverse=True)


def test_a_student_of_a_teacher_learns_the_teacher_s_doubts(data: TrainingData) -> None:
    inputs = keras.Input((8, 8, 1), name="input")
    teacher = keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.Flatten()(inputs)))
    teacher.set_weights([np.zeros_like(weight) for weight in teacher.get_weights()])  # it holds all for equally likely
    make_deterministic(0)
    inputs = keras.Input((8, 8, 1), name="input")
    x = layers.Flatten()(layers.Rescaling(1 / 16)(inputs))
    student = keras.Model(inputs, layers.Dense(10, activation="softmax", name="out")(x))
    alone = copied(student)
    train(student, data, epochs=10, learning_rate=0.05, teacher=teacher)
    train(alone, data, epochs=10, learning_rate=0.05)
    confidence = [float(model.predict(data.x_tune, verbose=0).max(axis=1).mean()) for model in (student, alone)]
    assert confidence[0] < 0.65 < confidence[1]


# A training that was stopped goes on.


class KilledError(Exception):
    """What stands for a kill."""


def stop_in(monkeypatch: pytest.MonkeyPatch, epoch: int) -> None:
    """Has training stop in the middle of an epoch."""

    def on_epoch_begin(callback: Any, number: int, logs: Any = None) -> None:
        callback.epoch = number

    def on_train_batch_end(callback: Any, number: int, logs: Any = None) -> None:
        if (callback.epoch, number) == (epoch, 3):
            raise KilledError

    monkeypatch.setattr(finetune._KeepBest, "on_epoch_begin", on_epoch_begin)
    monkeypatch.setattr(finetune._KeepBest, "on_train_batch_end", on_train_batch_end)


def assert_same_weights(one: Any, other: Any) -> None:
    for mine, its in zip(one.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(mine, its)


@pytest.mark.parametrize(
    ("moments", "augmentations"),
    [
        pytest.param([0], (), marks=pytest.mark.slow),
        pytest.param([2], (), marks=pytest.mark.slow),
        ([1, 4], ("shift",)),
    ],
    ids=["at once", "later", "twice, augmented"],
)
def test_a_training_that_was_stopped_ends_with_the_weights_of_one_that_was_not(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moments: list[int], augmentations: tuple[str]
) -> None:
    data = dataclasses.replace(data, augmentations=augmentations)
    undisturbed = small()
    train(undisturbed, data, epochs=5, learning_rate=0.01)
    for moment in moments:
        with monkeypatch.context() as patch:
            stop_in(patch, moment)
            with pytest.raises(KilledError):
                train(small(), data, epochs=5, learning_rate=0.01, checkpoint=tmp_path)
    resumed = small()
    train(resumed, data, epochs=5, learning_rate=0.01, checkpoint=tmp_path)
    assert_same_weights(resumed, undisturbed)
    assert len(resumed.history.history["val_loss"]) == 5 - moments[-1]
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_was_stopped_after_its_best_epoch_keeps_that_and_stops_as_early(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = relabelled(data, (data.dataset.y[data.train] + 1) % 10)
    undisturbed, resumed = small(), small()
    train(undisturbed, wrong, epochs=6, learning_rate=0.01)
    assert len(undisturbed.history.history["val_loss"]) == 4
    with monkeypatch.context() as patch:
        stop_in(patch, 2)
        with pytest.raises(KilledError):
            train(small(), wrong, epochs=6, learning_rate=0.01, checkpoint=tmp_path)
    train(resumed, wrong, epochs=6, learning_rate=0.01, checkpoint=tmp_path)
    assert len(resumed.history.history["val_loss"]) == 2
    assert_same_weights(resumed, undisturbed)


def test_a_training_that_was_stopped_when_it_was_over_is_not_begun_again(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, resumed = small(), small()
    train(undisturbed, data, epochs=2)
    with monkeypatch.context() as patch:
        patch.setattr(finetune._KeepBest, "restore", lambda *_: None)
        train(small(), data, epochs=2, checkpoint=tmp_path)
    assert list(tmp_path.iterdir())
    train(resumed, data, epochs=2, checkpoint=tmp_path)
    assert_same_weights(resumed, undisturbed)
    assert list(tmp_path.iterdir()) == []


KILLED = """
import sys
from pathlib import Path
from zoo.datasets import load_dataset
from zoo.finetune import train

sys.path.insert(0, "tests/zoo")
from test_finetune import quarter, small

train(small(), quarter(load_dataset("digits")), epochs=400, checkpoint=Path(sys.argv[1]))
"""


@pytest.mark.slow
def test_whenever_a_training_is_killed_there_is_a_whole_state_to_go_on_from(data: TrainingData, tmp_path: Path) -> None:
    wanted = 0
    for _ in range(2):
        wanted += 3
        with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stderr=subprocess.DEVNULL) as process:
            deadline = time.monotonic() + 120
            while not any(epochs >= wanted for epochs in kept(tmp_path)):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.001)
            process.send_signal(signal.SIGKILL)
        done = max(kept(tmp_path))
        wanted = done
    model = small()
    train(model, data, epochs=done + 1, checkpoint=tmp_path)
    assert len(model.history.history["val_loss"]) == 1
    assert tune_loss(model, data) < tune_loss(small(), data) - 0.1


def kept(directory: Path) -> list[int]:
    return [int(path.name.partition(".")[0]) for path in directory.glob("[0-9]*.run.weights.h5")]


def test_a_state_that_a_kill_left_half_written_is_no_state(
    data: TrainingData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed, resumed = small(), small()
    train(undisturbed, data, epochs=3)
    with monkeypatch.context() as patch:
        stop_in(patch, 1)
        with pytest.raises(KilledError):
            train(small(), data, epochs=3, checkpoint=tmp_path)
    for name in ("2.run.weights.h5", "best.weights.h5", "best.json"):
        (tmp_path / f".half-written-0a1b2c3d-{name}").write_bytes(b"half")
    train(resumed, data, epochs=3, checkpoint=tmp_path)
    assert_same_weights(resumed, undisturbed)


# What cannot be learnt.


def test_a_loss_that_is_no_number_is_said_in_one_line_and_is_no_trap(data: TrainingData, tmp_path: Path) -> None:
    x = np.full_like(data.dataset.x, np.nan)
    broken = dataclasses.replace(data, dataset=dataclasses.replace(data.dataset, x=x))
    model = small()
    with pytest.raises(ModelError, match="training the base model gave no usable weights, only NaN") as error:
        train(model, broken, epochs=5, checkpoint=tmp_path, name="the base model")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    train(small(), data, epochs=1, checkpoint=tmp_path)  # mended, it is not begun from what was ruined


def test_what_was_best_before_the_loss_became_no_number_is_kept(
    data: TrainingData, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Batches.__getitem__

    def get(batches: Batches, number: int) -> tuple[Array, Array]:
        x, targets = original(batches, number)
        return (x * np.nan if batches._epoch == 2 else x), targets

    expected, model = small(), small()
    train(expected, data, epochs=6)
    monkeypatch.setattr(Batches, "__getitem__", get)
    train(model, data, epochs=6)
    assert all(np.isfinite(weight).all() for weight in model.get_weights())
    assert len(model.history.history["loss"]) == 3
    np.testing.assert_allclose(model.history.history["val_loss"][:2], expected.history.history["val_loss"][:2])


# Statistics of batch normalisation.


def normalized(**options: Any) -> Any:
    """A network whose first batch norm sees the inputs themselves."""
    make_deterministic(0)
    inputs = keras.Input((8, 8, 1), name="input")
    x = layers.BatchNormalization(name="norm", **options)(inputs)
    x = layers.Dense(10, activation="softmax", name="out")(layers.Flatten()(x))
    return keras.Model(inputs, x)


def ruin(model: Any) -> None:
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.moving_mean.assign(layer.moving_mean * 0 + 7)
            layer.moving_variance.assign(layer.moving_variance * 0 + 0.01)


@pytest.mark.parametrize("options", [{}, {"momentum": 0.5}, {"trainable": False}], ids=str)
def test_recalibration_takes_the_statistics_of_the_train_inputs(data: TrainingData, options: dict[str, Any]) -> None:
    model = normalized(**options)
    ruin(model)
    recalibrate_batch_norm(model, data)
    norm, x = model.get_layer("norm"), data.dataset.x[data.train]
    assert float(norm.moving_mean[0]) == pytest.approx(x.mean(), rel=1e-4)
    assert float(norm.moving_variance[0]) == pytest.approx(x.var(), rel=1e-3)
    assert norm.trainable == options.get("trainable", True)


def test_recalibration_over_several_batches_is_nearly_that_of_all_inputs(digits: Dataset) -> None:
    data = TrainingData.of(digits, split_indices(digits, 0))
    model = normalized()
    recalibrate_batch_norm(model, data)
    norm, x = model.get_layer("norm"), data.dataset.x[data.train]
    assert float(norm.moving_mean[0]) == pytest.approx(x.mean(), rel=0.01)
    assert float(norm.moving_variance[0]) == pytest.approx(x.var(), rel=0.02)


@pytest.fixture(scope="module")
def trained(data: TrainingData) -> Any:
    model = small()
    train(model, data, epochs=8, learning_rate=0.01)
    return model


def accuracy(model: Any, data: TrainingData) -> float:
    return float((model.predict(data.x_tune, verbose=0).argmax(axis=1) == data.y_tune).mean())


def test_recalibration_gives_back_the_accuracy_that_ruined_statistics_cost(data: TrainingData, trained: Any) -> None:
    model = copied(trained)
    ruin(model)
    assert accuracy(model, data) < 0.5
    recalibrate_batch_norm(model, data)
    assert accuracy(model, data) > accuracy(trained, data) - 0.05 > 0.75


def test_recalibration_changes_nothing_but_the_statistics(data: TrainingData, trained: Any) -> None:
    model = copied(trained)
    recalibrate_batch_norm(model, data)
    for one, other in zip(model.trainable_variables, trained.trainable_variables, strict=True):
        np.testing.assert_array_equal(one, other)


def test_a_network_without_batch_norms_is_left_as_it_is(data: TrainingData) -> None:
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(layers.Flatten()(inputs)))
    before = copied(model)
    recalibrate_batch_norm(model, data)
    assert_same_weights(model, before)


# Mixed precision, as on a GPU.


def test_in_mixed_precision_a_network_answers_nearly_the_same_and_in_float32(data: TrainingData, trained: Any) -> None:
    mixed = finetune._in_precision(trained, "mixed_float16")
    assert mixed.get_layer("hidden").compute_dtype == "float16"
    assert mixed.get_layer("hidden").variable_dtype == "float32"
    assert mixed.get_layer("out").compute_dtype == "float32"
    assert mixed.output.dtype == "float32"
    expected = trained.predict(data.x_tune, verbose=0)
    np.testing.assert_allclose(mixed.predict(data.x_tune, verbose=0), expected, atol=0.02)
    assert_same_weights(mixed, trained)


def test_in_float32_a_network_is_itself(trained: Any) -> None:
    assert finetune._in_precision(trained, "float32") is trained


@pytest.mark.slow
def test_a_network_trained_in_mixed_precision_stays_float32_and_learns(
    data: TrainingData, untrained: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finetune, "training_precision", lambda: "mixed_float16")
    model = copied(untrained)
    train(model, data, epochs=6, learning_rate=0.01)
    assert model.get_layer("hidden").compute_dtype == "float32"
    assert tune_loss(model, data) < 0.7 * tune_loss(untrained, data)


# Inputs that are changed at random.


@pytest.fixture(scope="module")
def augmented(data: TrainingData) -> TrainingData:
    return dataclasses.replace(data, augmentations=("flip", "shift"))


def test_train_inputs_are_changed_and_their_targets_are_not(data: TrainingData, augmented: TrainingData) -> None:
    plain, changed = gathered(data.train_batches()), gathered(augmented.train_batches())
    np.testing.assert_array_equal(changed[1], plain[1])
    assert changed[0].shape == plain[0].shape
    assert changed[0].dtype == plain[0].dtype
    assert (changed[0] != plain[0]).any(axis=(1, 2, 3)).mean() > 0.5


def test_the_dataset_and_its_tune_inputs_are_never_changed(data: TrainingData, augmented: TrainingData) -> None:
    before = data.dataset.x.copy()
    gathered(augmented.train_batches())
    np.testing.assert_array_equal(augmented.dataset.x, before)
    np.testing.assert_array_equal(gathered(augmented.tune_batches())[0], before[data.tune])
    np.testing.assert_array_equal(augmented.x_tune, before[data.tune])


def test_a_teacher_is_asked_about_the_inputs_as_they_are(
    data: TrainingData, augmented: TrainingData, untrained: Any
) -> None:
    one, other = (gathered(some.train_batches(untrained))[1] for some in (data, augmented))
    np.testing.assert_array_equal(one, other)


def test_the_same_epoch_has_the_same_changes_and_another_has_others(augmented: TrainingData) -> None:
    def epoch(number: int, seed: int = 0) -> dict[bytes, bytes]:
        batches = augmented.train_batches(seed=seed)
        batches.start_epoch(number)
        return {digest(targets): digest(x) for x, targets in batches}

    assert epoch(3) == epoch(3)
    assert set(epoch(3).values()).isdisjoint(epoch(4).values())
    assert set(epoch(3).values()).isdisjoint(epoch(3, seed=1).values())
