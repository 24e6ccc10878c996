"""Training a base model, and fine-tuning what was cut out of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fleetfoot.console import progress
from fleetfoot.errors import ModelError
from fleetfoot.files import write_bytes
from zoo.augment import augment
from zoo.backend import keras, tf
from zoo.datasets import Dataset, Indices, Split
from zoo.graph import copy_layer, rebuild

SMALL_BATCH, LARGE_BATCH = 32, 128
_LARGE_DATA = 10_000
TEACHER_WEIGHT = 0.5
"""How much of the target is the teacher's answer; the rest is the label (Hinton et al., 2015, at T = 1)."""

_PREDICTION_BATCH = 256
_RECALIBRATION_BATCHES = 64
_PATIENCE_SHARE = 0.5

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class TrainingData:
    """What weights may see: the train split, and the tune split to stop by, of a dataset that stays on the disk.

    Attributes:
        dataset: the dataset.
        train: indices of the train split.
        tune: indices of the tune split.
        augmentations: how train inputs are changed at random, of ``zoo.augment.AUGMENTATIONS``.
    """

    dataset: Dataset
    train: Indices
    tune: Indices
    augmentations: tuple[str, ...] = ()

    @classmethod
    def of(cls, dataset: Dataset, splits: Mapping[Split, Indices], augmentations: tuple[str, ...] = ()) -> TrainingData:
        """The train and tune splits of a dataset."""
        return cls(dataset, splits["train"], splits["tune"], augmentations)

    @property
    def x_tune(self) -> Array:
        """Raw inputs of the tune split."""
        return self.dataset.x[self.tune]

    @property
    def y_tune(self) -> npt.NDArray[np.int64]:
        """Class indices of the tune split."""
        return self.dataset.y[self.tune]

    @property
    def batch(self) -> int:
        """Examples per batch: more where there are many, because an epoch is then shorter and has steps enough."""
        return SMALL_BATCH if len(self.train) < _LARGE_DATA else LARGE_BATCH

    def train_batches(self, teacher: Any = None, seed: int = 0, batch: int | None = None) -> Batches:
        """Shuffled batches of the train split, whose targets are blended with a teacher's answers if given."""
        targets = self._targets(self.train, teacher)
        return Batches(self.dataset.x, self.train, targets, batch or self.batch, seed, self.augmentations)

    def tune_batches(self) -> Batches:
        """The tune split in order."""
        return Batches(self.dataset.x, self.tune, self._targets(self.tune, None), _PREDICTION_BATCH)

    def _targets(self, indices: Indices, teacher: Any) -> Array:
        """Targets of shape (examples, classes)."""
        one_hot = np.eye(len(self.dataset.classes), dtype=np.float32)[self.dataset.y[indices]]
        if teacher is None:
            return one_hot
        answers = teacher.predict(Batches(self.dataset.x, indices, one_hot, _PREDICTION_BATCH), verbose=0)
        blended: Array = TEACHER_WEIGHT * answers + (1 - TEACHER_WEIGHT) * one_hot
        return blended


class Batches(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of some of a dataset's examples, read when they are wanted.

    The order of an epoch, and how its inputs are changed, depend on the seed and the epoch's number alone, so
    a run that is resumed sees what it would have seen.

    Args:
        x: raw inputs of the whole dataset, which may be a memory map.
        indices: the examples to take.
        targets: a row for each of them.
        batch: examples per batch.
        seed: of the order and the changes; None keeps the order given.
        augmentations: how inputs are changed at random.
    """

    def __init__(
        self,
        x: Array,
        indices: Indices,
        targets: Array,
        batch: int,
        seed: int | None = None,
        augmentations: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self._x, self._indices, self._targets, self._batch, self._seed = x, indices, targets, batch, seed
        self._augmentations = augmentations
        self._epoch = 0
        self._order = np.arange(len(indices))
        self.start_epoch(0)

    def __len__(self) -> int:
        return -(-len(self._indices) // self._batch)

    def __getitem__(self, number: int) -> tuple[Array, Array]:
        rows = self._order[number * self._batch : (number + 1) * self._batch]
        x = self._x[self._indices[rows]]
        if self._augmentations:
            x = augment(x, self._augmentations, np.random.default_rng([self._seed or 0, self._epoch, number]))
        return x, self._targets[rows]

    def __iter__(self) -> Iterator[tuple[Array, Array]]:
        """One epoch."""
        return (self[number] for number in range(len(self)))

    def start_epoch(self, epoch: int) -> None:
        """Puts the examples in the order of an epoch."""
        self._epoch = epoch
        if self._seed is not None:
            self._order = np.random.default_rng([self._seed, epoch]).permutation(len(self._indices))


def train(
    model: Any,
    data: TrainingData,
    *,
    epochs: int,
    learning_rate: float = 1e-3,
    teacher: Any = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    name: str = "model",
) -> None:
    """Trains a network in place and leaves it with the weights that were best on the tune split.

    It stops early when the tune loss has not improved for half of the epochs. On a GPU that has it, arithmetic
    is in mixed precision.

    Args:
        model: a network that answers with probabilities.
        data: train and tune splits.
        epochs: passes over the train split.
        learning_rate: where the cosine schedule starts; it ends at zero.
        teacher: a network whose answers are half of the target.
        seed: of the order of the examples.
        checkpoint: a directory in which the run is kept after every epoch, so that it can go on when it was
            stopped; it is emptied at the end.
        name: what the progress bar calls it.

    Raises:
        ModelError: the loss became NaN.
    """
    trained = _in_precision(model, training_precision())
    batches = data.train_batches(teacher, seed)
    trained.compile(
        optimizer=keras.optimizers.Adam(schedule(learning_rate, epochs, batches)), loss="categorical_crossentropy"
    )
    best = _KeepBest(checkpoint / "best.weights.h5" if checkpoint else None)
    patience = max(2, round(_PATIENCE_SHARE * epochs))
    callbacks = [
        best,
        keras.callbacks.EarlyStopping(patience=patience),
        keras.callbacks.TerminateOnNaN(raise_error=False),
    ]
    if checkpoint:
        callbacks.append(keras.callbacks.BackupAndRestore(checkpoint / "state"))
    with progress(f"training {name}", epochs) as advance:
        callbacks.append(
            keras.callbacks.LambdaCallback(
                on_epoch_begin=lambda epoch, _logs=None: batches.start_epoch(epoch), on_epoch_end=_steps(advance)
            )
        )
        trained.fit(
            batches, validation_data=data.tune_batches(), epochs=epochs, verbose=0, callbacks=callbacks, shuffle=False
        )
    best.restore(trained, name)
    if trained is not model:
        model.set_weights(trained.get_weights())


def recalibrate_batch_norm(model: Any, data: TrainingData) -> None:
    """Replaces the statistics of all batch normalisations by those of train inputs, in place.

    After channels were cut, the statistics are of inputs that no longer come; taking them anew costs
    seconds, and often most of what was lost comes back.
    """
    state = model.non_trainable_variables
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    moving = {id(v): norm.momentum for norm in norms for v in (norm.moving_mean, norm.moving_variance)}
    zeros = [tf.zeros_like(v.value) if id(v) in moving else v.value for v in state]
    trainable = [v.value for v in model.trainable_variables]
    sums = [np.zeros(v.shape, np.float64) for v in state]
    batches = data.train_batches(batch=_PREDICTION_BATCH)
    count = min(len(batches), _RECALIBRATION_BATCHES)
    for number in range(count):
        _, after = model.stateless_call(trainable, zeros, batches[number][0], training=True)
        for total, value in zip(sums, after, strict=True):
            total += np.asarray(value)
    for variable, total in zip(state, sums, strict=True):
        if id(variable) in moving:  # from zero, a step leaves (1 - momentum) of the batch's statistic
            variable.assign(total / count / (1 - moving[id(variable)]))


def schedule(learning_rate: float, epochs: int, batches: Batches) -> Any:
    """A cosine from ``learning_rate`` to zero over all steps."""
    return keras.optimizers.schedules.CosineDecay(learning_rate, epochs * len(batches))


def training_precision() -> str:
    """The arithmetic to train in: mixed where there is a GPU, on which it is about twice as fast."""
    return "mixed_float16" if tf.config.list_physical_devices("GPU") else "float32"


def _in_precision(model: Any, precision: str) -> Any:
    """The network with its layers computing in that precision, all but the last; itself, for float32."""
    if precision == "float32":
        return model
    last = model.layers[-1].name
    mixed = rebuild(model, lambda layer: copy_layer(layer, dtype="float32" if layer.name == last else precision))
    mixed.set_weights(model.get_weights())
    return mixed


class _KeepBest(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the weights of the epoch with the least tune loss, in a file too, if one is named."""

    def __init__(self, path: Path | None) -> None:
        super().__init__()
        self._path = path
        self._loss = float("inf")
        self._weights: list[Array] | None = None

    def set_model(self, model: Any) -> None:
        """Takes up what an earlier, interrupted run had found."""
        super().set_model(model)
        if self._path and self._loss_file.exists() and self._path.exists():
            current = model.get_weights()
            model.load_weights(self._path)
            self._loss, self._weights = json.loads(self._loss_file.read_text()), model.get_weights()
            model.set_weights(current)

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Takes the weights if they are the best so far."""
        loss = (logs or {}).get("val_loss", float("inf"))
        if loss < self._loss:
            self._loss, self._weights = loss, self.model.get_weights()
            if self._path:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                self.model.save_weights(self._path)
                write_bytes(self._loss_file, json.dumps(loss).encode())

    def restore(self, model: Any, name: str) -> None:
        """Gives a network the best weights, and removes the files."""
        if self._weights is None:
            raise ModelError(f"training {name} gave no usable weights, its loss is NaN: are inputs and labels sound?")
        model.set_weights(self._weights)
        if self._path:
            self._path.unlink(missing_ok=True)
            self._loss_file.unlink(missing_ok=True)

    @property
    def _loss_file(self) -> Path:
        assert self._path is not None
        return self._path.with_suffix(".json")


def _steps(advance: Callable[[int], None]) -> Callable[..., None]:
    return lambda _epoch, _logs=None: advance(1)
