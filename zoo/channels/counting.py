"""What a network costs with fewer channels, counted without building it."""

from __future__ import annotations

from typing import Any

import numpy as np

from fleetfoot.errors import ModelError, offer
from zoo.channels.analysis import Channels, Keep, analyse, indices_of
from zoo.channels.flow import Counts
from zoo.cost import uses


class Counter:
    """Counts multiply-accumulates and parameters of slices of one network.

    The size of a weight along an axis is a sum over the groups that lie on it: how many channels each keeps, times
    how often each of its channels is there.

    Args:
        model: a functional or sequential model, or its analysis.
    """

    def __init__(self, model: Any | Channels) -> None:
        self.channels = analyse(model)
        groups = self.channels.groups
        self._number = {name: number for number, name in enumerate(groups)}
        self._whole = np.array([group.size for group in groups.values()], np.int64)
        self._shapes = {
            (layer.name, weight.name): tuple(weight.shape)
            for layer in self.channels.model.layers
            for weight in layer.weights
        }
        row = {key: number for number, key in enumerate(self._shapes)}
        rank = max(map(len, self._shapes.values()), default=0)
        self._per_channel = np.zeros((len(row), rank, len(groups)), np.int64)
        for (layer, weight), shape in self._shapes.items():
            for axis, labels in self.channels.axes(layer).get(weight, {}).items():
                self._per_channel[row[layer, weight], axis % len(shape)] = self.channels.counts(labels) // self._whole
        whole = np.array([shape + (1,) * (rank - len(shape)) for shape in self._shapes.values()], np.int64)
        self._rest = whole.reshape(len(row), rank) - self._per_channel @ self._whole
        self._times = np.zeros(len(row), np.int64)
        self._uncut_macs = 0  # of layers that have their kernels under names of their own, and are never cut
        for use in uses(self.channels.model):
            if (use.layer, use.weight) in row:
                self._times[row[use.layer, use.weight]] += use.times
            else:
                self._uncut_macs += use.size * use.times

    def shapes(self, keep: Keep) -> dict[str, dict[str, tuple[int, ...]]]:
        """The shapes of all weights of a slice: layer name → weight name → shape.

        Raises:
            ModelError: an unknown group.
        """
        shapes: dict[str, dict[str, tuple[int, ...]]] = {}
        for (key, shape), sizes in zip(self._shapes.items(), self._sizes(keep).tolist(), strict=True):
            layer, weight = key
            shapes.setdefault(layer, {})[weight] = tuple(sizes[: len(shape)])
        return shapes

    def macs(self, keep: Keep) -> int:
        """Multiply-accumulates of one inference, as ``zoo.cost.count_macs`` counts them of the slice.

        Raises:
            ModelError: an unknown group.
        """
        return self._uncut_macs + int(self._sizes(keep).prod(axis=1) @ self._times)

    def parameters(self, keep: Keep) -> int:
        """Parameters, as Keras counts them of the slice.

        Raises:
            ModelError: an unknown group.
        """
        return int(self._sizes(keep).prod(axis=1).sum())

    def _sizes(self, keep: Keep) -> Counts:
        """The size of each weight along each axis; 1 along those that it lacks."""
        widths = self._whole.copy()
        for name, chosen in keep.items():
            if name not in self._number:
                raise ModelError(f"there is no channel group {name!r}: {offer(name, self._number)}")
            widths[self._number[name]] = len(indices_of(chosen))
        sizes: Counts = self._rest + self._per_channel @ widths
        return sizes
