"""Structured pruning: how many channels each group keeps, and which."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from fleetfoot.errors import ModelError, UsageError
from profiling.device import Device
from zoo.channels import ChannelGroup, Channels, Counter, analyse
from zoo.importance import Values
from zoo.latency import MOST_CACHED_BYTES, WidthGrid, WidthTimes, calibrate, fast_widths, prices_of

Scores = Mapping[str, Values]
"""Per channel group, the importance of each of its channels."""

Widths = Mapping[str, int]
"""Per channel group, how many of its channels stay."""

Cost = Callable[[Widths], float]
"""What a network costs with these widths of its channel groups."""

Scope = Literal["global", "layer"]
SCOPES: tuple[Scope, ...] = ("global", "layer")
Unit = Literal["macs", "time", "channels"]
UNITS: tuple[Unit, ...] = ("macs", "time", "channels")

WIDTH_MULTIPLE = 8
"""Kept widths are multiples of this: runtimes compute channels in blocks, so odd widths cost as much."""
_LEAST_SHARE = 1 / 8
"""Of a group's channels that stay whatever their scores: a network is as good as its narrowest place."""
_CHOICES = 8
_ANCHORS = (1.0, 0.5, 0.25)
"""The slices that the times of large networks are brought to."""
_SHARES = 64
_LOOK_AHEAD = 4
"""How many steps narrower a group may get at once: where time is a staircase, the next step may save nothing."""


def round_width(width: float, size: int, multiple: int = WIDTH_MULTIPLE) -> int:
    """The multiple nearest to a wanted width, at least one of them, at most ``size``."""
    if width >= size:
        return size
    return min(size, max(multiple, multiple * round(width / multiple)))


def width_grid(model: Any | Channels, multiple: int | None = None) -> dict[str, tuple[int, ...]]:
    """The multiples that each group may keep, from about an eighth of its channels to all of them.

    A channel of a group may stand for several of a layer, such as one in each group of a grouped convolution.

    Args:
        model: a functional or sequential model, or its analysis.
        multiple: of which the widths are; by default of ``WIDTH_MULTIPLE``, and of half of that in groups of less
            than eight times as many channels.

    Raises:
        ModelError: a network with nothing that can be cut.
    """
    return {name: _grid(group, multiple) for name, group in analyse(model).require_cuttable().items()}


def _grid(group: ChannelGroup, multiple: int | None) -> tuple[int, ...]:
    if multiple is None:
        multiple = WIDTH_MULTIPLE if group.size >= _CHOICES * WIDTH_MULTIPLE else WIDTH_MULTIPLE // 2
    least = round_width(_LEAST_SHARE * group.size, group.size, multiple)
    return (*range(least, group.size, multiple), group.size)


def priced(channels: Channels, unit: Unit, device: Device | None = None) -> tuple[WidthGrid, Cost]:
    """The widths to choose from, and what they cost in a unit.

    Channels and multiply-accumulates go with multiples; time with the widths at which the device is fast, whose
    operators are measured there.

    Args:
        channels: the analysis of a network.
        unit: what a share is a share of.
        device: where ``time`` is measured.

    Raises:
        ModelError: a network with nothing that can be cut.
        DeviceError: the device went away, or runs nothing at all.
    """
    grid: WidthGrid = width_grid(channels)
    if unit == "channels":
        return grid, lambda widths: sum(widths.values())
    if unit == "macs":
        return grid, Counter(channels).macs
    assert device is not None, "time is measured on a device"
    times = times_of(channels, device)
    return times.grid, times.ms


def times_of(channels: Channels, device: Device) -> WidthTimes:
    """What a network takes on a device with the widths at which it is fast there.

    Raises:
        ModelError: a network with nothing that can be cut.
        DeviceError: the device went away, or runs nothing at all.
    """
    counter, prices = Counter(channels), prices_of(device)
    fast = fast_widths(counter, prices)
    least = {name: widths[0] for name, widths in width_grid(channels).items()}
    grid = {name: tuple(width for width in fast[name] if width >= least[name]) for name in least}
    times = WidthTimes(counter, grid, prices)
    if times.weight_bytes({}) > MOST_CACHED_BYTES:
        calibrate(times, channels, device, [share_widths(times.grid, share) for share in _ANCHORS])
    return times


def share_widths(grid: WidthGrid, share: float) -> Widths:
    """The widths of the grid that are nearest to a share of each group's channels.

    Raises:
        UsageError: a share outside (0, 1].
    """
    check_share(share)
    return {name: min(widths, key=lambda width: abs(width - share * widths[-1])) for name, widths in grid.items()}


def check_share(share: float) -> None:
    """Makes sure that this can be the share of something to keep.

    Raises:
        UsageError: it is outside (0, 1].
    """
    if not 0 < share <= 1:
        raise UsageError(f"a keep ratio must be above 0 and at most 1, and {share:g} is not")


def widths_within(grid: WidthGrid, scores: Scores, cost: Cost, share: float, scope: Scope = "global") -> Widths:
    """The widths that lose least of the importance within a share of what the whole network costs.

    Args:
        grid: the widths to choose from.
        scores: the importance of channels, comparable between groups.
        cost: what widths cost, such as multiply-accumulates or milliseconds.
        share: of the whole network's cost.
        scope: ``layer`` keeps the same share of each group; ``global`` takes from whatever loses least for what it
            saves.

    Raises:
        UsageError: a share outside (0, 1].
        ModelError: even the narrowest widths cost more; it says how much.
    """
    check_share(share)
    least, whole = (cost({name: widths[place] for name, widths in grid.items()}) for place in (0, -1))
    if least > share * whole:
        possible = math.ceil(1000 * least / whole) / 1000
        raise ModelError(f"no widths take {share:g} of the whole network: the least possible is {possible:.3f}")
    choose = _alike if scope == "layer" else _by_worth
    return choose(grid, scores, cost, share * whole)


def _alike(grid: WidthGrid, scores: Scores, cost: Cost, limit: float) -> Widths:
    """The largest share of all groups alike that is within the limit."""
    ladder = [share_widths(grid, step / _SHARES) for step in range(1, _SHARES + 1)]
    within = [widths for widths in ladder if cost(widths) <= limit]
    return within[-1] if within else {name: widths[0] for name, widths in grid.items()}


def _by_worth(grid: WidthGrid, scores: Scores, cost: Cost, limit: float) -> Widths:
    """Narrows one group after another, each time the one that loses least for what it saves.

    What a step saves shrinks while others are taken, so a group's best step is looked for anew when its turn comes,
    and taken if it is still the best of all.
    """
    lost = {name: _lost(scores[name], choices) for name, choices in grid.items()}
    widths = {name: choices[-1] for name, choices in grid.items()}
    current = cost(widths)

    def best_step(name: str) -> tuple[float, str, int]:
        narrower = [width for width in grid[name] if width < widths[name]][-_LOOK_AHEAD:]
        prices = [
            _price(lost[name][width] - lost[name][widths[name]], current - cost(widths | {name: width}))
            for width in narrower
        ]
        price, width = min(zip(prices, narrower, strict=True), default=(math.inf, 0))
        return price, name, width

    queue = [best_step(name) for name, choices in grid.items() if len(choices) > 1]
    heapq.heapify(queue)
    while current > limit:
        name = heapq.heappop(queue)[1]
        step = best_step(name)
        if queue and step > queue[0]:
            heapq.heappush(queue, step)
            continue
        widths[name] = step[2]
        current = cost(widths)
        if widths[name] > grid[name][0]:
            heapq.heappush(queue, best_step(name))
    return _widened(grid, lost, cost, limit, widths)


def _lost(scores: Values, choices: Sequence[int]) -> dict[int, float]:
    """The importance that goes with the least important channels, for each width."""
    ascending = np.concatenate([[0.0], np.cumsum(np.sort(scores))])
    return {width: float(ascending[len(scores) - width]) for width in choices}


def _price(lost: float, saved: float) -> float:
    return lost / saved if saved > 0 else math.inf


def _widened(
    grid: WidthGrid, lost: Mapping[str, Mapping[int, float]], cost: Cost, limit: float, widths: Widths
) -> Widths:
    """The widths made wider again where the last steps left room, first what regains most."""
    wider = [(name, width) for name, choices in grid.items() for width in choices if width > widths[name]]
    for name, width in sorted(wider, key=lambda step: lost[step[0]][step[1]] - lost[step[0]][widths[step[0]]]):
        if width > widths[name] and cost({**widths, name: width}) <= limit:
            widths = {**widths, name: width}
    return widths


def keep_best(scores: Scores, widths: Widths) -> dict[str, tuple[int, ...]]:
    """Of each group that gets narrower, the indices of its most important channels, ascending."""
    return {
        name: tuple(int(index) for index in np.sort(np.argsort(-scores[name], kind="stable")[:width]))
        for name, width in widths.items()
        if width < len(scores[name])
    }


def comparable(scores: Scores, criterion: str) -> Scores:
    """Scores that can be compared between groups: relative to the mean of their group, but for ``taylor``.

    That one tells everywhere what the loss changes by; the scale of the others differs from layer to layer.
    """
    if criterion == "taylor":
        return scores
    return {name: values / (values.mean() or 1.0) for name, values in scores.items()}
