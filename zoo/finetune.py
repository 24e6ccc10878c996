"""Training a base model, and fine-tuning what was cut out of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fleetfoot.console import progress
from zoo.backend import keras
from zoo.datasets import Dataset, Indices, Split

BATCH = 32
TEACHER_WEIGHT = 0.5
"""How much of the target is the teacher's answer; the rest is the label (Hinton et al., 2015, at T = 1)."""

Array = npt.NDArray[Any]


class TrainingData(NamedTuple):
    """What weights may see: the train split, and the tune split to stop by, as inputs and class indices."""

    x_train: Array
    y_train: Array
    x_tune: Array
    y_tune: Array
    classes: int

    @classmethod
    def of(cls, dataset: Dataset, splits: dict[Split, Indices]) -> TrainingData:
        """The train and tune splits of a dataset."""
        train, tune = splits["train"], splits["tune"]
        return cls(dataset.x[train], dataset.y[train], dataset.x[tune], dataset.y[tune], len(dataset.classes))

    def targets(self, teacher: Any = None) -> Array:
        """Train targets of shape (examples, classes): the labels, blended with a teacher's answers if given."""
        one_hot = np.eye(self.classes, dtype=np.float32)[self.y_train]
        if teacher is None:
            return one_hot
        answers = teacher.predict(self.x_train, verbose=0)
        blended: Array = TEACHER_WEIGHT * answers + (1 - TEACHER_WEIGHT) * one_hot
        return blended


def train(
    model: Any,
    data: TrainingData,
    *,
    epochs: int,
    learning_rate: float = 1e-3,
    teacher: Any = None,
    name: str = "model",
) -> None:
    """Trains a network in place and leaves it with the weights that were best on the tune split.

    Args:
        model: a network that answers with probabilities.
        data: train and tune splits.
        epochs: passes over the train split.
        learning_rate: where the cosine schedule starts; it ends at zero.
        teacher: a network whose answers are half of the target.
        name: what the progress bar calls it.
    """
    model.compile(
        optimizer=keras.optimizers.Adam(schedule(learning_rate, epochs, data)),
        loss="categorical_crossentropy",
    )
    best = keras.callbacks.EarlyStopping(patience=epochs, restore_best_weights=True)
    with progress(f"training {name}", epochs) as advance:
        model.fit(
            data.x_train,
            data.targets(teacher),
            validation_data=(data.x_tune, np.eye(data.classes, dtype=np.float32)[data.y_tune]),
            batch_size=BATCH,
            epochs=epochs,
            verbose=0,
            callbacks=[best, keras.callbacks.LambdaCallback(on_epoch_end=_steps(advance))],
        )


def schedule(learning_rate: float, epochs: int, data: TrainingData) -> Any:
    """A cosine from ``learning_rate`` to zero over all steps."""
    steps = epochs * -(-len(data.x_train) // BATCH)
    return keras.optimizers.schedules.CosineDecay(learning_rate, steps)


def _steps(advance: Callable[[int], None]) -> Callable[..., None]:
    return lambda _epoch, _logs=None: advance(1)
