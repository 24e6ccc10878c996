"""Structured pruning: which channels of each group to keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import UsageError
from zoo.channels import ChannelGroup, cuttable_groups

WIDTH_MULTIPLE = 8
"""Kept widths are multiples of this: runtimes compute channels in blocks, so odd widths cost as much."""


def round_width(width: float, size: int) -> int:
    """The multiple of ``WIDTH_MULTIPLE`` nearest to a wanted width, at least one of them, at most ``size``."""
    if width >= size:
        return size
    return min(size, max(WIDTH_MULTIPLE, WIDTH_MULTIPLE * round(width / WIDTH_MULTIPLE)))


def filter_norms(model: Any, group: ChannelGroup) -> npt.NDArray[np.float64]:
    """L2 norm of the weights that make each channel of a group, over all layers that make it, of shape (size,).

    Li et al., "Pruning filters for efficient ConvNets", ICLR 2017, with the L2 norm.
    """
    squares = np.zeros(group.size)
    for producer in group.producers:
        kernel = model.get_layer(producer).kernel.numpy()
        per_filter = np.square(kernel, dtype=np.float64).sum(axis=tuple(range(kernel.ndim - 1)))
        squares += per_filter
    norms: npt.NDArray[np.float64] = np.sqrt(squares)
    return norms


def keep_by_norm(model: Any, ratio: float) -> dict[str, tuple[int, ...]]:
    """Per channel group, the indices of the share ``ratio`` of channels with the largest norms, ascending.

    Raises:
        UsageError: a ratio outside (0, 1].
        ModelError: a network with nothing that can be cut.
    """
    if not 0 < ratio <= 1:
        raise UsageError(f"a keep ratio must be above 0 and at most 1, and {ratio:g} is not")
    keep = {}
    for name, group in cuttable_groups(model).items():
        count = round_width(ratio * group.size, group.size)
        if count < group.size:
            largest = np.argsort(-filter_norms(model, group), kind="stable")[:count]
            keep[name] = tuple(int(index) for index in np.sort(largest))
    return keep
