"""Blocks of a network that nested subnetworks may skip, by giving the channel groups inside them no channels at all."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from fleetfoot.errors import ModelError
from zoo.blocks import Block, droppable_blocks
from zoo.channels import Channels, analyse
from zoo.graph import calls
from zoo.knapsack import Numbers
from zoo.latency import WidthGrid
from zoo.pruning import Widths
from zoo.subnetworks.polynomials import scope


def skippable_blocks(model: Any | Channels) -> dict[str, tuple[str, ...]]:
    """The blocks that can be skipped by the widths of groups, and the groups that lie wholly inside each.

    What such a block ends in must have the channels of what is read instead. Of blocks that lie in each other, the one
    of most layers counts alone; blocks without groups of their own are left out.

    Raises:
        ModelError: a size that the network leaves open.
    """
    channels = analyse(model)
    layers_of = {name: {place.layer for place in channels.places(name)} for name in channels.cuttable}
    made = {call.layer.name: call.outputs[0] for call in calls(channels.model)}
    several = {name for name, count in Tally(call.layer.name for call in calls(channels.model)).items() if count > 1}
    blocks = droppable_blocks(channels.model).values()
    found: dict[str, tuple[str, ...]] = {}
    taken: set[str] = set()
    for block in sorted(blocks, key=lambda block: -len(block.layers)):
        inner = tuple(name for name, layers in layers_of.items() if layers <= set(block.layers))
        alike = block.replacement not in several and _are_alike(channels, made[block.name], made[block.replacement])
        if inner and alike and taken.isdisjoint(block.layers):
            found[block.name] = inner
            taken |= set(block.layers)
    return {block.name: found[block.name] for block in blocks if block.name in found}


def _are_alike(channels: Channels, one: Any, other: Any) -> bool:
    """Whether two tensors have all their channels of the same one group, or none that can be cut."""
    counts, others = (channels.counts(channels.labels(tensor)) for tensor in (one, other))
    return bool(np.array_equal(counts, others) and np.count_nonzero(counts) <= 1)


def with_skips(
    channels: Channels, grid: Mapping[str, tuple[int, ...]], skip_blocks: bool
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[str, ...]]]:
    """The grid with 0 for the groups inside the blocks that may be skipped, and these."""
    inner = skippable_blocks(channels) if skip_blocks else {}
    inside = {name for groups in inner.values() for name in groups}
    return {name: (0, *widths) if name in inside else widths for name, widths in grid.items()}, inner


def switches_of(channels: Channels, inner: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """By layer of a block that may be skipped, the group whose width says whether it is."""
    blocks = blocks_of(channels, inner)
    return {layer: inner[name][0] for name, block in blocks.items() for layer in block.layers}


def blocks_of(channels: Channels, names: Iterable[str]) -> dict[str, Block]:
    """The blocks of some names, in the order in which they end."""
    wanted = set(names)
    return {name: block for name, block in droppable_blocks(channels.model).items() if name in wanted} if wanted else {}


def together(inner: Iterable[Sequence[str]], grid: WidthGrid) -> dict[tuple[str, ...], Numbers]:
    """What keeps the groups of a block from being empty one without the other."""
    tables = {}
    for groups in inner:
        for pair in pairwise(groups):
            one, other = (np.array(grid[name]) > 0 for name in pair)
            table = np.where(one[:, np.newaxis] == other, 0.0, np.inf)
            tables[scope(pair, "", grid)] = table if scope(pair, "", grid) == pair else table.T
    return tables


def widths_without(model: Any | Channels, shorter: Any, widths: Widths) -> dict[str, int]:
    """Widths by the names that channel groups have in the network without some blocks.

    A group bears the name of the first layer that makes it, which may have been in a block.

    Args:
        model: the network that the widths are of, or its analysis.
        shorter: what ``zoo.blocks.drop_blocks`` made of it.
        widths: by its channel groups.

    Raises:
        ModelError: channels that are of one group in one of the networks, and of several in the other.
    """
    old, new = analyse(model), analyse(shorter)
    found = {}
    for name, group in new.cuttable.items():
        place = next(new.places(name))
        labels = old.axes(place.layer)[place.weight][place.axis][place.channels >= 0]
        names = [other for other, count in zip(old.groups, old.counts(labels), strict=True) if count]
        if len(names) != 1 or old.groups[names[0]].size != group.size:
            raise ModelError(f"without the blocks, group {name} is not what it was: skip no blocks of {old.model.name}")
        if names[0] in widths:
            found[name] = widths[names[0]]
    return found
