from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from networks import copied

from zoo.backend import keras, make_deterministic
from zoo.datasets import Dataset, split_indices
from zoo.finetune import BATCH, TEACHER_WEIGHT, TrainingData, schedule, train

layers = keras.layers


@pytest.fixture(scope="module")
def data(digits: Dataset) -> TrainingData:
    """A quarter of the digits."""
    full = TrainingData.of(digits, split_indices(digits, 0))
    return full._replace(x_train=full.x_train[:256], y_train=full.y_train[:256])


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
    np.testing.assert_array_equal(data.x_train, digits.x[splits["train"]])
    np.testing.assert_array_equal(data.y_train, digits.y[splits["train"]])
    np.testing.assert_array_equal(data.x_tune, digits.x[splits["tune"]])
    np.testing.assert_array_equal(data.y_tune, digits.y[splits["tune"]])
    assert data.classes == 10


def test_without_a_teacher_the_targets_are_the_labels(data: TrainingData) -> None:
    targets = data.targets()
    assert targets.shape == (256, 10)
    np.testing.assert_array_equal(targets.argmax(axis=1), data.y_train)
    np.testing.assert_array_equal(targets.sum(axis=1), 1)
    assert set(np.unique(targets)) == {0, 1}


def test_a_teacher_s_answers_are_their_share_of_the_targets(data: TrainingData, untrained: Any) -> None:
    targets = data.targets(untrained)
    answers = untrained.predict(data.x_train, verbose=0)
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(targets - (1 - TEACHER_WEIGHT) * data.targets(), TEACHER_WEIGHT * answers, atol=1e-6)
    assert targets.min() >= 0


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


def test_the_weights_that_were_best_on_the_tune_split_are_restored_after_all_epochs(
    data: TrainingData, untrained: Any
) -> None:
    model = copied(untrained)
    wrong = data._replace(y_train=(data.y_train + 1) % 10)  # so that each epoch makes it worse
    train(model, wrong, epochs=5, learning_rate=0.01)
    losses = model.history.history["val_loss"]
    assert len(losses) == 5
    assert losses.index(min(losses)) < 4
    assert losses[-1] > 1.2 * min(losses)
    assert tune_loss(model, data) == pytest.approx(min(losses), rel=1e-3)


def test_the_learning_rate_falls_from_its_start_to_zero(data: TrainingData) -> None:
    rates = schedule(1e-3, 4, data)
    steps = 4 * 256 // BATCH
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
