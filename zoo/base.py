"""The base model of a zoo: as it comes, and trained as far as it needs."""

from __future__ import annotations

import io
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

from sklearn.metrics import balanced_accuracy_score

from fleetfoot.console import note
from fleetfoot.errors import ModelError
from zoo.augment import check_augmentations
from zoo.backend import make_deterministic
from zoo.batches import TrainingData
from zoo.datasets import Dataset, split_indices
from zoo.finetune import FINE_TUNING_RATE, FRESH_RATE, recalibrate_batch_norm, train
from zoo.models import Base, base_model
from zoo.paired import sure_gain
from zoo.record import BuildOptions
from zoo.search.strategies import make_strategy
from zoo.search.strategy import Task

_BARELY_BETTER = 0.2
"""Balanced accuracy, from 0 by chance to 1, above which a trained model is taken as it comes."""


def begin_base(options: BuildOptions, dataset: Dataset) -> Base:
    """The base model as it comes; with it, what cannot be meant is found out before anything is written.

    Raises:
        FleetfootError: the model does not fit the data, or the strategy has nothing to propose for it.
    """
    check_augmentations(options.augment, dataset.input)
    make_deterministic(options.seed)
    base = base_model(options.model, dataset, split_indices(dataset, options.seed)["train"])
    with redirect_stderr(io.StringIO()):  # what there is to say of the grid is said when it is made for good
        make_strategy(options.strategy, Task(base.model), options.grid).propose()
    return base


def finish_base(base: Base, data: TrainingData, options: BuildOptions, checkpoint: Path) -> None:
    """Trains a base model in place: one without weights as long as asked; one with weights if asked or needed.

    Raises:
        ModelError: the training gave no usable weights.
    """
    epochs = _prepare_trained(base.model, data, options) if base.trained else options.epochs
    if epochs and not base.model.trainable_variables:
        raise ModelError(f"{options.model} has no weights that can be trained: a SavedModel's are fixed")
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
    answers = data.tune_answers(model)
    right = answers == data.y_tune
    note(f"the base model is right on {right.mean():.1%} of the tune split as it comes")
    if options.train_base == 0:
        return 0
    before = model.get_weights()
    recalibrate_batch_norm(model, data)
    renewed = data.tune_answers(model)
    if sure_gain(right, renewed == data.y_tune) > 0:
        answers = renewed
        note(f"with batch-norm statistics of this data, it is right on {(answers == data.y_tune).mean():.1%}")
    else:
        model.set_weights(before)
    if options.train_base is not None:
        return options.train_base
    if balanced_accuracy_score(data.y_tune, answers, adjusted=True) > _BARELY_BETTER:
        return 0
    note(f"that is hardly better than chance: training it for {options.epochs} epochs")
    return options.epochs
