"""The shapes of the tensors in a slice of a network, from the labels that its channels have on their way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import ModelError
from zoo.channels import Channels, Flow, Keep, Labels
from zoo.channels.rules import follow
from zoo.graph import calls

Mask = npt.NDArray[np.bool_]


class Tracks:
    """Which labels each tensor of a network carries.

    Args:
        channels: the network's analysis.
    """

    def __init__(self, channels: Channels) -> None:
        self.channels = channels
        flow = Flow()
        self._labels: dict[int, Labels] = {}
        for call in calls(channels.model):
            outgoing = follow(call, [self._labels[id(tensor)] for tensor in call.inputs], flow)
            self._labels |= {id(tensor): row for tensor, row in zip(call.outputs, outgoing, strict=True)}
        self._group_of = np.full(len(flow.producers) + 1, -1)  # the last stands for what can never be cut
        for number, group in enumerate(channels.groups.values()):
            self._group_of[group.members] = -1 if group.fixed else number

    def groups(self, tensors: Iterable[Any]) -> tuple[str, ...]:
        """The names of the groups that can be cut and whose channels some tensors carry."""
        numbers = [self._group_of[np.unique(self._labels[id(tensor)])] for tensor in tensors]
        found = np.unique(np.concatenate([*numbers, [-1]]))
        names = tuple(self.channels.groups)
        return tuple(names[number] for number in found.tolist() if number >= 0)

    def sizes(self, keep: Keep) -> Sizes:
        """The shapes in a slice.

        Raises:
            ModelError: an unknown or fixed group, or channels that it does not have.
        """
        self.channels.positions(keep)  # for its complaints
        stays = np.ones(len(self._group_of), bool)
        for name, chosen in keep.items():
            members = self.channels.groups[name].members
            stays[members] = False
            stays[members[np.arange(chosen) if isinstance(chosen, int) else np.asarray(chosen)]] = True
        return Sizes(self._labels, stays)


class Sizes:
    """The shapes of tensors in one slice.

    Args:
        labels: by the id of each tensor, its labels.
        stays: by label, whether it stays.
    """

    def __init__(self, labels: dict[int, Labels], stays: Mask) -> None:
        self._labels = labels
        self._stays = stays

    def __call__(self, tensor: Any) -> tuple[int, ...]:
        """The shape of a tensor without its batch.

        Raises:
            ModelError: a size that the network leaves open.
        """
        shape = tuple(tensor.shape[1:])
        if None in shape:
            raise ModelError(f"{tensor.name} has no fixed shape, and without one no time can be told: {shape}")
        stays = self._stays[self._labels[id(tensor)]]
        return tuple(size if stays.shape[axis] == 1 else _count(stays, axis) for axis, size in enumerate(shape))


def _count(stays: Mask, axis: int) -> int:
    others = tuple(other for other in range(stays.ndim) if other != axis)
    return int(stays.any(axis=others).sum())
