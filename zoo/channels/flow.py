"""Labels on their way through a network, and what is learnt about them.

The labels of a tensor are an array of its shape without the batch, or of size 1 along axes on which they do not
depend: behind a convolution of c channels, of shape (1, 1, c).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.int64]
Counts = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
Positions = npt.NDArray[np.intp]
Positioned = Callable[[Labels], Positions]
"""Which positions of a row of labels stay, and in which order."""

FIXED = -1
"""The label of every channel that can never be cut, such as the network's inputs."""


@dataclass
class Part:
    """How one layer takes part.

    Attributes:
        weights: per weight, by name: which of its axes carry channels, and which.
        made: the channels that the layer makes, or None.
        shaped_by: the labels that its configuration depends on besides, or None.
        resize: what changes in the layer's configuration when only some positions of its channels stay.
    """

    weights: Mapping[str, Mapping[int, Labels]]
    made: Labels | None
    shaped_by: Labels | None
    resize: Callable[[Positioned], dict[str, Any]]


@dataclass
class Flow:
    """What is known of a network's labels.

    Attributes:
        producers: the layer that made each label.
        ties: rows of labels that are the same channels, position by position.
        fixed: labels that can never be cut, with the reason.
        parts: layers whose weights or configuration depend on labels.
    """

    producers: list[str] = field(default_factory=list)
    ties: list[tuple[Labels, Labels]] = field(default_factory=list)
    fixed: dict[int, str] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)

    def make(self, layer: Any, count: int) -> Labels:
        """New labels for the channels that a layer makes; the same ones when it is called again."""
        known = self.parts.get(layer.name)
        if known is not None and known.made is not None:
            return known.made
        self.producers += [layer.name] * count
        return np.arange(len(self.producers) - count, len(self.producers))

    def tie(self, one: Labels, other: Labels, reason: str) -> None:
        """Notes that two rows of labels are the same channels; those tied to fixed ones are fixed for that reason."""
        if one.shape != other.shape:
            self.fix(np.concatenate([one, other]), reason)
        elif not np.array_equal(one, other):
            self.ties.append((one, other))
            self.fix(np.concatenate([one[other == FIXED], other[one == FIXED]]), reason)

    def fix(self, labels: Labels, reason: str) -> None:
        """Notes that labels can never be cut."""
        for label in np.unique(labels[labels != FIXED]).tolist():
            self.fixed.setdefault(label, reason)

    def take_part(
        self,
        layer: Any,
        weights: Mapping[str, Mapping[int, Labels]],
        *,
        made: Labels | None = None,
        shaped_by: Labels | None = None,
        resize: Callable[[Positioned], dict[str, Any]] = lambda positions: {},
    ) -> None:
        """Notes how a layer takes part; called again, it must get the same channels again.

        Args:
            layer: the layer.
            weights: per weight that it may have, by name: which of its axes carry channels, and which.
            made: the channels that it makes.
            shaped_by: the labels that its configuration depends on, if they are not on the axes of its weights.
            resize: what changes in its configuration when only some positions of these stay.
        """
        names = {weight.name for weight in layer.weights}
        weights = {name: axes for name, axes in weights.items() if name in names}
        known = self.parts.setdefault(layer.name, Part(weights, made, shaped_by, resize))
        reason = f"{layer.name} is shared with channels that are fixed"
        for name, axes in known.weights.items():
            for axis, labels in axes.items():
                self.tie(labels, weights[name][axis], reason)
        if known.shaped_by is not None and shaped_by is not None:
            self.tie(known.shaped_by.ravel(), shaped_by.ravel(), reason)

    def along(self, labels: Labels, axis: int, shape: Sequence[int | None], layer: Any) -> Labels:
        """The labels along one axis of a tensor for a layer that treats all positions of the other axes alike.

        Labels that differ along the others are tied to each other.

        Args:
            labels: the tensor's.
            axis: of the tensor without its batch.
            shape: of the tensor without its batch.
            layer: the layer that treats them so.
        """
        rows = np.unique(np.moveaxis(labels, axis, -1).reshape(-1, labels.shape[axis]), axis=0)
        for row in rows[1:]:
            self.tie(rows[0], row, f"{layer.name} treats it like channels that are fixed")
        return np.broadcast_to(rows[0], (int(shape[axis] or 1),))


def lying(row: Labels, axis: int, rank: int) -> Labels:
    """A row of labels as those of a tensor of that rank, along one of its axes."""
    return row.reshape([-1 if index == axis % rank else 1 for index in range(rank)])


def fixed(rank: int) -> Labels:
    """The labels of a tensor whose channels are all fixed."""
    return np.full((1,) * rank, FIXED)


def compressed(labels: Labels) -> Labels:
    """The labels with size 1 along every axis on which they do not depend."""
    for axis in range(labels.ndim):
        first = labels.take([0], axis)
        if (labels == first).all():
            labels = first
    return labels
