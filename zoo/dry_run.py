"""What a build would make, how long it would take and how big it would be, without building."""

from __future__ import annotations

import time
from typing import Any, NamedTuple

from fleetfoot.console import note
from zoo.backend import keras
from zoo.base import begin_base
from zoo.batches import TrainingData
from zoo.build import prepare
from zoo.candidates import cut
from zoo.cost import count_macs
from zoo.datasets import split_indices
from zoo.record import BuildOptions
from zoo.search.options import counted
from zoo.search.strategies import make_strategy
from zoo.search.strategy import Task

_EXPORT_SECONDS = 3.0
_MEASURE_SECONDS = 2.0
_BYTES_PER_PARAMETER = {None: 4, "int8": 1, "dynamic": 1, "float16": 2}


class Forecast(NamedTuple):
    """What is expected of one variant."""

    name: str
    macs: int
    parameters: int
    size: int
    seconds: float


def forecast(options: BuildOptions) -> list[Forecast]:
    """Forecasts every variant that a build would make; the base model's line includes its training.

    Times come from a few training steps of the base model, scaled by multiply-accumulates.

    Raises:
        FleetfootError: the data, the model or the options do not fit.
    """
    options, dataset = prepare(options)
    base, trained = begin_base(options, dataset)
    data = TrainingData.of(dataset, split_indices(dataset, options.seed), options.augment)
    if not trained:
        note("the base model is not trained yet: where weights decide, the final variants will differ")
    grid = options.grid
    if counted(grid) != grid:
        note("a dry run times nothing: widths by MACs stand in for those by time")
    base_epochs = (options.train_base or 0) if trained else options.epochs
    epoch_seconds = _epoch_seconds(base, data) if base.trainable_variables else 0.0
    lines = []
    strategy = make_strategy(options.strategy, Task(base, data if trained else None), counted(grid))
    for proposal in strategy.propose():
        for name, recipe in proposal.recipes.items():
            network = cut(base, recipe)
            share = count_macs(network) / (count_macs(base) or 1)
            epochs = recipe.training.epochs if recipe.training else base_epochs * (name == "base")
            lines.append(
                Forecast(
                    name=name,
                    macs=count_macs(network),
                    parameters=network.count_params(),
                    size=network.count_params() * _BYTES_PER_PARAMETER[recipe.quantize],
                    seconds=epochs * share * epoch_seconds + _EXPORT_SECONDS + _MEASURE_SECONDS,
                )
            )
    return lines


def _epoch_seconds(model: Any, data: TrainingData) -> float:
    """How long one epoch of the train split takes, from three steps after two that compile."""
    batches = data.train_batches()
    x, targets = batches[0]
    trial = keras.models.clone_model(model)
    trial.compile(optimizer="adam", loss="categorical_crossentropy")
    for _ in range(2):
        trial.train_on_batch(x, targets)
    start = time.perf_counter()
    for _ in range(3):
        trial.train_on_batch(x, targets)
    return (time.perf_counter() - start) / 3 * len(batches)
