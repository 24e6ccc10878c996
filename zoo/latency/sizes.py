"""The shapes of the tensors in a slice of a network, from the labels that its channels have on their way."""

from __future__ import annotations

from typing import Any

from fleetfoot.errors import ModelError
from zoo.channels import Channels, Keep, Mask


class Sizes:
    """The shapes of tensors in one slice of a network.

    Args:
        channels: the network's analysis.
        keep: for each group that changes, the indices of the kept channels, or how many of the first.

    Raises:
        ModelError: an unknown or fixed group, or channels that it does not have.
    """

    def __init__(self, channels: Channels, keep: Keep) -> None:
        self._channels = channels
        self._stays = channels.stays(keep)

    def __call__(self, tensor: Any) -> tuple[int, ...]:
        """The shape of a tensor without its batch.

        Raises:
            ModelError: a size that the network leaves open.
        """
        shape = tuple(tensor.shape[1:])
        if None in shape:
            raise ModelError(f"{tensor.name} has no fixed shape, and without one no time can be told: {shape}")
        stays = self._stays[self._channels.labels(tensor)]
        return tuple(size if stays.shape[axis] == 1 else _count(stays, axis) for axis, size in enumerate(shape))


def _count(stays: Mask, axis: int) -> int:
    others = tuple(other for other in range(stays.ndim) if other != axis)
    return int(stays.any(axis=others).sum())
