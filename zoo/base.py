"""The base model of a zoo: as it comes, and trained as far as it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fleetfoot.console import note
from zoo.augment import check_augmentations
from zoo.backend import make_deterministic
from zoo.batches import TrainingData
from zoo.channels import can_be_cut
from zoo.datasets import Dataset, split_indices
from zoo.finetune import FINE_TUNING_RATE, FRESH_RATE, recalibrate_batch_norm, train
from zoo.models import Base, base_model
from zoo.paired import sure_gain
from zoo.record import BuildOptions
from zoo.search.strategies import make_strategy

_BARELY_BETTER = 1.5
"""How many times chance a trained model must be right to be taken as it comes."""


def begin_base(options: BuildOptions, dataset: Dataset) -> Base:
    """The base model as it comes; with it, what cannot be meant is found out before anything is written.

    Raises:
        FleetfootError: the model does not fit the data, or the strategy has nothing to propose for it.
    """
    check_augmentations(options.augment, dataset.input)
    make_deterministic(options.seed)
    base = base_model(options.model, dataset, split_indices(dataset, options.seed)["train"])
    make_strategy(options.strategy, base.model, options.grid, "" if can_be_cut(base.model) else None)
    return base


def finish_base(base: Base, data: TrainingData, options: BuildOptions, checkpoint: Path) -> None:
    """Trains a base model in place: one without weights as long as asked; one with weights if asked or needed.

    Raises:
        ModelError: the training gave no usable weights.
    """
    epochs = _prepare_trained(base.model, data, options) if base.trained else options.epochs
    if epochs:
        train(
            base.model,
            data,
            epochs=epochs,
            learning_rate=FINE_TUNING_RATE if base.trained else FRESH_RATE,
            seed=options.seed,
            checkpoint=checkpoint,
            name="the base model",
        )


def _prepare_trained(model: Any, data: TrainingData, options: BuildOptions) -> int:
    """Says how good a model is that came with weights; returns for how many epochs it is to be trained on.

    Its batch-norm statistics are taken anew where that surely helps: it may be all that other data asks for.
    """
    right = _right(model, data)
    note(f"the base model is right on {right.mean():.1%} of the tune split as it comes")
    if options.train_base == 0:
        return 0
    before = model.get_weights()
    recalibrate_batch_norm(model, data)
    renewed = _right(model, data)
    if sure_gain(right, renewed) > 0:
        note(f"with batch-norm statistics of this data, it is right on {renewed.mean():.1%}")
        right = renewed
    else:
        model.set_weights(before)
    if options.train_base is not None:
        return options.train_base
    chance = float(np.bincount(data.y_tune).max() / len(data.y_tune))
    if right.mean() > _BARELY_BETTER * chance:
        return 0
    note(f"that is hardly better than the most frequent class ({chance:.1%}): training it for {options.epochs} epochs")
    return options.epochs


def _right(model: Any, data: TrainingData) -> npt.NDArray[np.bool_]:
    right: npt.NDArray[np.bool_] = model.predict(data.tune_batches(), verbose=0).argmax(axis=1) == data.y_tune
    return right
