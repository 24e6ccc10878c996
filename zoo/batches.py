"""What networks are trained on: batches of the train and tune splits, read from the disk when they are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from zoo.augment import augment
from zoo.backend import keras
from zoo.datasets import Dataset, Indices, Split, spread

SMALL_BATCH, LARGE_BATCH = 32, 64
_LARGE_DATA = 10_000
PREDICTION_BATCH = 256
TEACHER_WEIGHT = 0.5
"""How much of the target is the teacher's answer; the rest is the label (Hinton et al., 2015, at T = 1)."""

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

    def some_inputs(self, count: int) -> Array:
        """Raw inputs of the train split, that many at most, spread over it."""
        inputs: Array = self.dataset.x[spread(self.train, count)]
        return inputs

    def tune_answers(self, model: Any) -> npt.NDArray[np.int64]:
        """The class indices that a network answers with on the tune split."""
        answers: npt.NDArray[np.int64] = model.predict(self.tune_batches(), verbose=0).argmax(axis=1)
        return answers

    @property
    def batch(self) -> int:
        """Examples per batch: more where there are many, because an epoch is then shorter and has steps enough."""
        return SMALL_BATCH if len(self.train) < _LARGE_DATA else LARGE_BATCH

    @property
    def steps(self) -> int:
        """Batches of an epoch."""
        return -(-len(self.train) // self.batch)

    def train_batches(self, teacher: Any = None, seed: int = 0, batch: int | None = None) -> Batches:
        """Shuffled batches of the train split, whose targets are blended with a teacher's answers if given."""
        targets = self._targets(self.train, teacher)
        return Batches(self.dataset.x, self.train, targets, batch or self.batch, seed, self.augmentations)

    def tune_batches(self) -> Batches:
        """The tune split in order."""
        return Batches(self.dataset.x, self.tune, self._targets(self.tune, None), PREDICTION_BATCH)

    def _targets(self, indices: Indices, teacher: Any) -> Array:
        """Targets of shape (examples, classes)."""
        one_hot = np.eye(len(self.dataset.classes), dtype=np.float32)[self.dataset.y[indices]]
        if teacher is None:
            return one_hot
        answers = teacher.predict(Batches(self.dataset.x, indices, one_hot, PREDICTION_BATCH), verbose=0)
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
