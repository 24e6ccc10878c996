"""The time of a network's slices as a function of widths, and the widths at which a device is fast."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from typing import NamedTuple

import numpy as np

from fleetfoot.console import note
from fleetfoot.errors import ModelError, UsageError, offer
from profiling.operators.operator import Operator
from zoo.channels import Channels, Counter, Keep, indices_of
from zoo.latency.lowering import Lowering, Piece
from zoo.latency.prices import Prices
from zoo.latency.sizes import Sizes

MOST_OPERATORS = 4000
"""More different operators are not priced for one grid: measuring these takes minutes."""

MOST_WIDTHS = 64
"""How many widths of a group are tried where nothing else is said."""

GAIN = 0.01
"""The share of the time of a group's own operators that a narrower width must save to be worth having."""

_MOST_COMBINATIONS = 50_000

WidthGrid = Mapping[str, Sequence[int]]
"""Per channel group, the widths that it may have, ascending."""

Combination = tuple[int, ...]
"""A width for each of some groups."""


class _Part(NamedTuple):
    """An operator of a network for each combination of the widths of the groups that it depends on."""

    piece: Piece
    groups: tuple[str, ...]
    operators: dict[Combination, Operator]


class Cost(NamedTuple):
    """Milliseconds of operators, and the bytes of their weights."""

    ms: float
    weight_bytes: int

    def plus(self, ms: float, weight_bytes: int) -> Cost:
        """With another operator's."""
        return Cost(self.ms + ms, self.weight_bytes + weight_bytes)


class PartCosts(NamedTuple):
    """What an operator of a network costs, by the widths of some groups; uncalibrated.

    Attributes:
        layer: the name of the layer that it comes from.
        groups: the groups that it depends on.
        costs: by their widths, in that order.
    """

    layer: str
    groups: tuple[str, ...]
    costs: Mapping[Combination, Cost]


class _Calibration(NamedTuple):
    """How many times as long as the sum of its operators a network takes, by the bytes of its weights, ascending."""

    weight_bytes: tuple[int, ...]
    factors: tuple[float, ...]

    def factor(self, weight_bytes: int) -> float:
        return float(np.interp(weight_bytes, self.weight_bytes, self.factors))


_UNCALIBRATED = _Calibration((0,), (1.0,))


class WidthTimes:
    """Milliseconds of slices of one network on one device, for all combinations of some widths of its groups.

    Each operator that the grid can ask for is priced once. Where these are more than ``most``, the group with the
    most widths loses every second of them, but for its widest and its narrowest, until they are not.

    Args:
        counter: the network's.
        grid: for groups that change, the widths to choose from; others stay as they are.
        prices: what tells the times of operators on the device.
        numbers: the number format inside, as ``profiling.operators.layers`` names it.
        most: how many different operators may be priced.

    Attributes:
        grid: the widths that are left, ascending.
        call_ms: what a call takes, whatever is in the network.
        left_out: what is not in the sums, as its time is not known: layers by name, with their type or operator.

    Raises:
        ModelError: an unknown or fixed group, a width that it does not have, or a network with sizes left open.
        UsageError: a group without widths, or so many groups in one layer that not all combinations can be priced.
        DeviceError: the device went away, or runs nothing at all.
    """

    def __init__(
        self,
        counter: Counter,
        grid: WidthGrid,
        prices: Prices,
        *,
        numbers: str = "float32",
        most: int = MOST_OPERATORS,
    ) -> None:
        lowering = Lowering(counter)
        self._full = _full_widths(counter.channels)
        self.grid, parts = _priceable(lowering, _checked(counter.channels, grid), self._full, numbers, most)
        own = prices.own_ms(operator for part in parts for operator in part.operators.values())
        self.call_ms = prices.call_ms
        self._calibration = _UNCALIBRATED
        self._parts = [_priced(part, own) for part in parts]
        self._sums: dict[tuple[str, ...], dict[Combination, Cost]] = {}
        for part in self._parts:
            sums = self._sums.setdefault(part.groups, dict.fromkeys(part.costs, Cost(0.0, 0)))
            for widths, cost in part.costs.items():
                sums[widths] = sums[widths].plus(*cost)
        self.left_out = lowering.left_out | _unpriced(parts, own)
        _tell(counter.channels.model.name, self.left_out)

    def ms(self, keep: Keep) -> float:
        """What a slice takes.

        Args:
            keep: for each group that changes, the indices of the kept channels, or how many there are.

        Raises:
            ModelError: a width that is not in the grid.
        """
        costs = self._costs(keep).values()
        ms = self.call_ms + sum(cost.ms for cost in costs)
        return ms * self.factor(sum(cost.weight_bytes for cost in costs))

    def calibrate(self, measured: Sequence[tuple[Keep, float]]) -> None:
        """Brings the times to those of some slices that were measured as a whole.

        Alone, an operator finds its weights in a cache that those of a whole network may not fit in. So times are
        multiplied by what the measured ones were to their sums, which is interpolated by the bytes of weights.

        Args:
            measured: slices, such as the network as it is and some narrower, and their milliseconds.

        Raises:
            ModelError: a width that is not in the grid.
            UsageError: a time that is not positive.
        """
        if any(ms <= 0 for _, ms in measured):
            raise UsageError("times to calibrate by are positive")
        self._calibration = _UNCALIBRATED
        factors = {self.weight_bytes(keep): ms / self.ms(keep) for keep, ms in measured}
        if factors:
            self._calibration = _Calibration(*zip(*sorted(factors.items()), strict=True))

    def weight_bytes(self, keep: Keep) -> int:
        """The memory of a slice's weights.

        Raises:
            ModelError: a width that is not in the grid.
        """
        return sum(cost.weight_bytes for cost in self._costs(keep).values())

    def parts(self) -> list[PartCosts]:
        """What each operator costs by the widths that it depends on.

        Their sum and ``call_ms``, times the ``factor`` of the sum of their bytes, is what ``ms`` tells.
        """
        return self._parts

    def factor(self, weight_bytes: int) -> float:
        """How many times as long as the sum of its operators a network takes that has weights of so many bytes."""
        return self._calibration.factor(weight_bytes)

    @property
    def factors(self) -> tuple[float, float]:
        """The least and the most that ``factor`` gives."""
        return min(self._calibration.factors), max(self._calibration.factors)

    def _costs(self, keep: Keep) -> dict[tuple[str, ...], Cost]:
        """The cost of the operators that depend on the same groups, by these."""
        widths = self._full | {name: _width(chosen) for name, chosen in keep.items()}
        if unknown := keep.keys() - self._full.keys():
            raise ModelError(f"there is no channel group {min(unknown)!r}: {offer(min(unknown), self._full)}")
        try:
            return {groups: sums[tuple(widths[name] for name in groups)] for groups, sums in self._sums.items()}
        except KeyError:
            raise ModelError(self._complaint(keep)) from None

    def _complaint(self, keep: Keep) -> str:
        options = _options(self._full, self.grid)
        for name, width in (self._full | {name: _width(chosen) for name, chosen in keep.items()}).items():
            if width not in options[name]:
                there = ", ".join(map(str, options[name]))
                return f"no time was measured of group {name} with {width} channels: there is {there}"
        return "no time was measured of these widths"


def fast_widths(
    counter: Counter,
    prices: Prices,
    *,
    groups: Iterable[str] | None = None,
    step: int | None = None,
    gain: float = GAIN,
    numbers: str = "float32",
) -> dict[str, tuple[int, ...]]:
    """For each group the widths that are worth having, while the other groups stay as they are.

    Args:
        counter: the network's.
        prices: what tells the times of operators on the device.
        groups: which; by default all that can be cut.
        step: every how many channels a width is tried; by default the least power of two for which a group has not
            more than ``MOST_WIDTHS``.
        gain: as ``worth_having`` takes it, of the time of the operators that depend on the group.
        numbers: the number format inside.

    Returns:
        By group, widths ascending; the last is the group's own.

    Raises:
        ModelError: an unknown or fixed group, or a network with sizes left open.
        UsageError: a step that is not positive.
        DeviceError: the device went away, or runs nothing at all.
    """
    if step is not None and step < 1:
        raise UsageError(f"widths are tried every one or more channels, and not every {step}")
    full = _full_widths(counter.channels)
    names = list(counter.channels.require_cuttable()) if groups is None else list(groups)
    tried = {name: _checked(counter.channels, {name: _tried(full.get(name, 1), step)}) for name in names}
    lowering = Lowering(counter)
    parts = {name: _parts(lowering, _options(full, grid), numbers, of=name) for name, grid in tried.items()}
    own = prices.own_ms(
        operator for several in parts.values() for part in several for operator in part.operators.values()
    )
    found = {}
    for name, grid in tried.items():
        times = dict.fromkeys(grid[name], 0.0)
        for part in parts[name]:
            place = part.groups.index(name)
            for widths, operator in part.operators.items():
                times[widths[place]] += own.get(operator, 0.0)
        found[name] = worth_having(times, gain)
    return found


def worth_having(times: Mapping[int, float], gain: float = GAIN) -> tuple[int, ...]:
    """The widths that no wider one makes needless, being as fast.

    Args:
        times: milliseconds by width.
        gain: what a narrower width must save over the next wider one that is worth having, as a share of the time
            of the widest: as much as times may differ by chance.

    Returns:
        Widths ascending, the widest among them.
    """
    widest = max(times)
    found, best = [widest], times[widest]
    for width in sorted(times, reverse=True)[1:]:
        if times[width] < best - gain * times[widest]:
            found.append(width)
            best = times[width]
    return tuple(reversed(found))


def _priceable(
    lowering: Lowering, grid: WidthGrid, full: Mapping[str, int], numbers: str, most: int
) -> tuple[WidthGrid, list[_Part]]:
    """The grid, thinned until it asks for few enough operators, and these."""
    while True:
        options = _options(full, grid)
        if _combinations(lowering, options) <= _MOST_COMBINATIONS:
            parts = _parts(lowering, options, numbers)
            if len({operator for part in parts for operator in part.operators.values()}) <= most:
                return grid, parts
        name = max(grid, key=lambda name: len(grid[name]), default="")
        if not name or len(grid[name]) <= 2:
            raise UsageError(f"{len(grid)} groups with two widths each ask for too many operators: vary fewer at once")
        kept = {grid[name][0], *grid[name][::-2]}
        note(f"of group {name}, {len(kept)} widths instead of {len(grid[name])}, or there would be too many operators")
        grid = {**grid, name: tuple(sorted(kept))}


def _parts(lowering: Lowering, options: WidthGrid, numbers: str, of: str | None = None) -> list[_Part]:
    """All operators, or those that depend on one group, for all combinations of widths."""
    parts = []
    for piece in lowering.pieces:
        groups = lowering.channels.carried(piece.tensors)
        if of is None or of in groups:
            combinations = product(*(options[name] for name in groups))
            slices = {
                widths: Sizes(lowering.channels, dict(zip(groups, widths, strict=True))) for widths in combinations
            }
            operators = {widths: piece.operator(sizes, numbers) for widths, sizes in slices.items()}
            parts.append(_Part(piece, groups, operators))
    return parts


def _priced(part: _Part, own: Mapping[Operator, float]) -> PartCosts:
    costs = {widths: Cost(own.get(op, 0.0), _weight_bytes(op)) for widths, op in part.operators.items()}
    return PartCosts(part.piece.layer, part.groups, costs)


def _combinations(lowering: Lowering, options: WidthGrid) -> int:
    groups = (lowering.channels.carried(piece.tensors) for piece in lowering.pieces)
    return sum(math.prod(len(options[name]) for name in names) for names in groups)


def _unpriced(parts: Iterable[_Part], own: Mapping[Operator, float]) -> dict[str, str]:
    return {part.piece.layer: part.piece.kind for part in parts for op in part.operators.values() if op not in own}


def _weight_bytes(operator: Operator) -> int:
    return sum(tensor.bytes for tensor in operator.inputs if tensor is not None and tensor.constant)


def _tell(network: str, left_out: Mapping[str, str]) -> None:
    if left_out:
        layers = ", ".join(f"{layer} ({kind})" for layer, kind in left_out.items())
        note(f"{network}: without the time of {layers}, which is not known")


def _full_widths(channels: Channels) -> dict[str, int]:
    return {name: group.size for name, group in channels.groups.items()}


def _options(full: Mapping[str, int], grid: WidthGrid) -> WidthGrid:
    return {name: (size,) for name, size in full.items()} | dict(grid)


def _tried(size: int, step: int | None) -> tuple[int, ...]:
    if step is None:
        step = 1
        while size // step > MOST_WIDTHS:
            step *= 2
    return (*range(step, size, step), size)


def _checked(channels: Channels, grid: WidthGrid) -> WidthGrid:
    """The grid, widths ascending and each once."""
    for name, widths in grid.items():
        if not widths:
            raise UsageError(f"group {name} has no widths to choose from")
        for width in widths:
            channels.positions({name: int(width)})
    return {name: tuple(sorted({int(width) for width in widths})) for name, widths in grid.items()}


def _width(chosen: int | Sequence[int]) -> int:
    return len(indices_of(chosen))
