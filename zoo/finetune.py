"""Training a base model, and fine-tuning what was cut out of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fleetfoot.console import progress
from fleetfoot.errors import ModelError
from fleetfoot.files import atomic_path, write_bytes
from zoo.backend import keras, tf
from zoo.batches import PREDICTION_BATCH, Batches, TrainingData
from zoo.fused import fused
from zoo.graph import compute_in

FRESH_RATE, FINE_TUNING_RATE = 1e-3, 5e-4
"""Where the learning rate starts, of a network without weights and of one that was trained before."""
CUT_RATE = 4e-3
"""Where it starts of a network that channels or blocks were cut out of, and that batch norms keep steady."""
_RECALIBRATION_BATCHES = 64
_PATIENCE_SHARE = 0.5
_RUN = ".run.weights.h5"

Array = npt.NDArray[Any]


def train(
    model: Any,
    data: TrainingData,
    *,
    epochs: int,
    learning_rate: float = FRESH_RATE,
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
        ModelError: no epoch ended with weights and a loss that are numbers.
    """
    trained = fused(_in_precision(model, training_precision()))
    batches = data.train_batches(teacher, seed)
    trained.compile(
        optimizer=keras.optimizers.Adam(schedule(learning_rate, epochs, batches)), loss="categorical_crossentropy"
    )
    patience = max(2, round(_PATIENCE_SHARE * epochs))
    best = _KeepBest(patience, checkpoint)
    start = best.resume(trained, epochs)
    with progress(f"training {name}", epochs) as advance:
        advance(start)

        def begin(epoch: int, _logs: Any = None) -> None:
            batches.start_epoch(epoch)
            _reseed(trained, seed, epoch)

        callbacks = [
            keras.callbacks.LambdaCallback(on_epoch_begin=begin, on_epoch_end=_steps(advance)),
            best,
            keras.callbacks.TerminateOnNaN(raise_error=False),
        ]
        trained.fit(
            batches,
            validation_data=data.tune_batches(),
            initial_epoch=start,
            epochs=epochs,
            verbose=0,
            callbacks=callbacks,
            shuffle=False,
        )
    best.restore(trained, name)
    if trained is not model:
        model.set_weights(trained.get_weights())


def recalibrate_batch_norm(model: Any, data: TrainingData) -> None:
    """Replaces the statistics of all batch normalisations by those of train inputs, in place.

    After channels were cut, the statistics are of inputs that no longer come; taking them anew costs
    seconds, and often most of what was lost comes back.
    """
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    if not norms:
        return
    frozen = [norm for norm in norms if not norm.trainable]
    for norm in frozen:  # which otherwise take no statistics
        norm.trainable = True
    state = model.non_trainable_variables
    moving = {id(v): norm.momentum for norm in norms for v in (norm.moving_mean, norm.moving_variance)}
    zeros = [tf.zeros_like(v.value) if id(v) in moving else v.value for v in state]
    trainable = [v.value for v in model.trainable_variables]
    sums = [np.zeros(v.shape, np.float64) for v in state]
    batches = data.train_batches(batch=PREDICTION_BATCH)
    count = min(len(batches), _RECALIBRATION_BATCHES)
    for number in range(count):
        _, after = model.stateless_call(trainable, zeros, batches[number][0], training=True)
        for total, value in zip(sums, after, strict=True):
            total += np.asarray(value)
    for variable, total in zip(state, sums, strict=True):
        if id(variable) in moving:  # from zero, a step leaves (1 - momentum) of the batch's statistic
            variable.assign(total / count / (1 - moving[id(variable)]))
    for norm in frozen:
        norm.trainable = False


def schedule(learning_rate: float, epochs: int, batches: Batches) -> Any:
    """A cosine from ``learning_rate`` to zero over all steps."""
    return keras.optimizers.schedules.CosineDecay(learning_rate, max(1, epochs * len(batches)))


def cut_rate(model: Any) -> float:
    """Where the learning rate starts of a network that channels or blocks were cut out of.

    Hardly anything in it is as it was, so that it needs more than a touch.
    """
    steady = any(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers)
    return CUT_RATE if steady else FRESH_RATE


def training_precision() -> str:
    """The arithmetic to train in: mixed where there is a GPU, on which it is about twice as fast."""
    return "mixed_float16" if tf.config.list_physical_devices("GPU") else "float32"


def _in_precision(model: Any, precision: str) -> Any:
    """The network with its layers computing in that precision, all but the last; itself, for float32, or a family."""
    if precision == "float32" or not getattr(model, "inputs", None):
        return model
    last = model.layers[-1].name
    return compute_in(model, lambda layer: "float32" if layer.name == last else precision)


class _Best(NamedTuple):
    """The epoch with the least tune loss so far."""

    epoch: int
    loss: float


class _KeepBest(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps the weights of the epoch with the least tune loss, and stops when there is none for long.

    With a directory, the whole run is kept there after every epoch. Each file is written atomically and the
    run's is named by its epoch and written last, so that a kill at any moment leaves a state to go on from.
    """

    def __init__(self, patience: int, directory: Path | None) -> None:
        super().__init__()
        self._patience, self._directory = patience, directory
        self._best = _Best(-1, float("inf"))
        self._weights: list[Array] | None = None

    def resume(self, model: Any, epochs: int) -> int:
        """Takes up an earlier, interrupted run; returns the epoch to go on with, ``epochs`` if it was over."""
        runs = self._runs()
        if not runs or self._directory is None:
            return 0
        model.optimizer.build(model.trainable_variables)
        if self._best_record.exists():
            self._best = _Best(*json.loads(self._best_record.read_bytes()))
            model.load_weights(self._best_weights)
            self._weights = model.get_weights()
        done = max(runs)
        model.load_weights(runs[done])
        return epochs if self._is_over(done - 1) else done

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
        """Takes the weights if they are the best so far."""
        loss, weights = (logs or {}).get("val_loss", float("inf")), self.model.get_weights()
        sound = all(np.isfinite(weight).all() for weight in weights)  # a ReLU may make zeros of what is NaN
        if sound and loss < self._best.loss:
            self._best, self._weights = _Best(epoch, loss), weights
            if self._directory:
                _save_weights(self.model, self._best_weights)
                write_bytes(self._best_record, json.dumps(self._best).encode())
        if self._directory:
            before = self._runs().values()
            _save_weights(self.model, self._directory / f"{epoch + 1}{_RUN}")
            for path in before:
                path.unlink()
        if not sound or self._is_over(epoch):
            self.model.stop_training = True

    def restore(self, model: Any, name: str) -> None:
        """Gives a network the best weights, and removes the files."""
        if self._directory:
            for path in (*self._runs().values(), self._best_record, self._best_weights):
                path.unlink(missing_ok=True)
        if self._weights is None:
            raise ModelError(f"training {name} gave no usable weights, only NaN: are inputs and labels sound?")
        model.set_weights(self._weights)

    def _is_over(self, epoch: int) -> bool:
        return epoch - self._best.epoch >= self._patience

    def _runs(self) -> dict[int, Path]:
        """The runs that were kept, by how many epochs they had."""
        paths = self._directory.glob(f"[0-9]*{_RUN}") if self._directory else ()
        return {int(path.name.removesuffix(_RUN)): path for path in paths}

    @property
    def _best_weights(self) -> Path:
        assert self._directory is not None
        return self._directory / "best.weights.h5"

    @property
    def _best_record(self) -> Path:
        return self._best_weights.with_name("best.json")


def _save_weights(model: Any, path: Path) -> None:
    with atomic_path(path) as temporary:
        model.save_weights(temporary)


def _reseed(model: Any, seed: int, epoch: int) -> None:
    """Has what is random in a network, such as dropout, depend on the seed and the epoch's number alone."""
    states = [variable for variable in model.variables if variable.name == "seed_generator_state"]
    for number, state in enumerate(states):
        state.assign(np.random.default_rng([seed, epoch, number]).integers(2**32, size=2, dtype=np.uint32))


def _steps(advance: Callable[[int], None]) -> Callable[..., None]:
    return lambda _epoch, _logs=None: advance(1)
