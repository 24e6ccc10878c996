"""Nested subnetworks after REDS (Corti et al., "REDS: Resource-Efficient Deep Subnetworks", 2023).

Each channel group is ordered once by importance; a subnetwork keeps a prefix of every group, so that the
narrower ones lie inside the wider ones. All are trained together on shared weights, each with batch-norm
statistics of its own (Yu et al., "Slimmable neural networks", ICLR 2019).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fleetfoot.console import progress
from fleetfoot.errors import ModelError, UsageError
from zoo.backend import keras, tf
from zoo.batches import TrainingData
from zoo.channels import cuttable_groups, kept_positions, slice_model, take
from zoo.cost import count_macs
from zoo.finetune import schedule
from zoo.pruning import round_width

Widths = Mapping[str, int]

_WIDTH_STEPS = 32


def width_ladder(model: Any, fractions: Sequence[float]) -> list[dict[str, int]]:
    """For each fraction of the MACs the widest uniform widths within it: channel group → prefix length.

    Raises:
        UsageError: fractions outside (0, 1], unsorted or repeated.
        ModelError: a fraction below what the narrowest widths take.
    """
    check_fractions(fractions)
    return [_widest_within(model, fraction) for fraction in fractions]


def check_fractions(fractions: Sequence[float]) -> None:
    """Makes sure that these can be the fractions of a ladder.

    Raises:
        UsageError: fractions outside (0, 1], unsorted or repeated.
    """
    if not fractions or any(not 0 < fraction <= 1 for fraction in fractions):
        raise UsageError("fractions of the MACs must be above 0 and at most 1")
    if list(fractions) != sorted(set(fractions)):
        raise UsageError("fractions of the MACs must ascend, each once")


def least_fraction(model: Any) -> float:
    """The fraction of the MACs that the narrowest subnetwork takes."""
    return count_macs(slice_model(model, _uniform_widths(model, 1))) / count_macs(model)


def _uniform_widths(model: Any, step: int) -> dict[str, int]:
    """The same share of every channel group."""
    groups = cuttable_groups(model)
    return {name: round_width(group.size * step / _WIDTH_STEPS, group.size) for name, group in groups.items()}


def _widest_within(model: Any, fraction: float) -> dict[str, int]:
    limit = fraction * count_macs(model)

    def macs(step: int) -> int:
        return count_macs(slice_model(model, _uniform_widths(model, step)))

    low, high = 1, _WIDTH_STEPS
    if macs(low) > limit:
        raise ModelError(f"no widths take {fraction:g} of the MACs: the least is {macs(low) / count_macs(model):.3f}")
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if macs(middle) <= limit else (low, middle - 1)
    return _uniform_widths(model, low)


def train_jointly(
    model: Any,
    ladder: Sequence[Widths],
    data: TrainingData,
    *,
    epochs: int,
    learning_rate: float,
    teacher: Any = None,
    seed: int = 0,
) -> list[Any]:
    """Fine-tunes nested subnetworks of an ordered network together and returns them, one per rung.

    The loss is REDS's: the subnetworks' cross-entropies, each weighted by the root of its share of the
    parameters. The shared weights live in ``model``, which is changed.

    Args:
        model: the network, its channels in order of importance.
        ladder: the widths of each subnetwork, the widest included where it is wanted.
        data: train and tune splits.
        epochs: passes over the train split.
        learning_rate: where the cosine schedule starts.
        teacher: a network whose answers are half of the target.
        seed: of the order of the examples.
    """
    family = [_Subnetwork(model, widths) for widths in ladder]
    weights = [math.sqrt(member.model.count_params() / model.count_params()) for member in family]
    batches = data.train_batches(teacher, seed)
    optimizer = keras.optimizers.Adam(schedule(learning_rate, epochs, batches))
    optimizer.build(model.trainable_variables)

    @tf.function  # type: ignore[untyped-decorator]
    def step(x: Any, targets: Any) -> None:
        with tf.GradientTape() as tape:
            losses = [member.loss(x, targets) for member in family]
            loss = tf.add_n([weight * loss for weight, loss in zip(weights, losses, strict=True)]) / sum(weights)
        gradients = tape.gradient(loss, model.trainable_variables)
        # What no subnetwork reaches has no gradient, and stays as it is.
        optimizer.apply(
            [
                tf.zeros_like(v) if g is None else tf.convert_to_tensor(g)
                for g, v in zip(gradients, model.trainable_variables, strict=True)
            ],
            model.trainable_variables,
        )

    with progress("training subnetworks", epochs) as advance:
        for epoch in range(epochs):
            batches.start_epoch(epoch)
            for x, targets in batches:
                step(tf.convert_to_tensor(x), tf.convert_to_tensor(targets))
            advance(1)
    for member in family:
        member.take_weights()
    return [member.model for member in family]


class _Subnetwork:
    """A sliced network that computes with slices of the shared weights, and its own batch-norm statistics."""

    def __init__(self, shared: Any, widths: Widths) -> None:
        self.model = slice_model(shared, widths)
        positions = kept_positions(shared, widths)
        self._sources = []
        for layer in (layer for layer in shared.layers if layer.weights):
            own = self.model.get_layer(layer.name)
            for source, target in zip(layer.trainable_variables, own.trainable_variables, strict=True):
                self._sources.append((source, target, positions.get(layer.name, {}).get(source.name, {})))

    def _slices(self) -> dict[int, Any]:
        return {id(target): take(source.value, axes, tf.gather) for source, target, axes in self._sources}

    def loss(self, x: Any, targets: Any) -> Any:
        """Cross-entropy of this subnetwork on a batch; its batch-norm statistics take note of the batch."""
        slices = self._slices()
        trainable = [slices[id(variable)] for variable in self.model.trainable_variables]
        state = self.model.non_trainable_variables
        answers, new_state = self.model.stateless_call(trainable, [v.value for v in state], x, training=True)
        for variable, value in zip(state, new_state, strict=True):
            variable.assign(value)
        return tf.reduce_mean(keras.losses.categorical_crossentropy(targets, answers))

    def take_weights(self) -> None:
        """Makes the slices this subnetwork's own weights."""
        for source, target, axes in self._sources:
            target.assign(take(source.numpy(), axes, np.take))
