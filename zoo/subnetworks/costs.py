"""What nested subnetworks cost, exactly, as tables over the widths that channel groups may have.

The size of a weight along an axis is a number plus a sum over channel groups of how often each channel is there times
the group's width. Its product over axes, multiplied out, is a polynomial of which each monomial depends on two groups
at most where weights have channels on two axes. So multiply-accumulates, parameters and the memory of activations are
tables over few groups each, of which ``zoo.knapsack`` takes the sum.

A block of the network may be skipped where channel groups lie wholly inside it: these then have the width 0, all of
them together, and with it goes whatever else the block has.
"""

from __future__ import annotations

import math
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np

from fleetfoot.errors import ModelError, UsageError
from zoo.channels import Channels, Counter, analyse
from zoo.cost import uses
from zoo.graph import calls
from zoo.knapsack import Numbers, Term
from zoo.latency import WidthGrid, WidthTimes
from zoo.memory import steps
from zoo.pruning import Widths
from zoo.subnetworks.polynomials import (
    CONSTANT,
    Form,
    Monomial,
    Sums,
    as_terms,
    monomial,
    multiplied,
    scope_of,
    table_of,
    tables_of,
    value,
)
from zoo.subnetworks.skipping import blocks_of, switches_of, together, with_skips

Unit = Literal["macs", "latency", "size"]
UNITS: tuple[Unit, ...] = ("macs", "latency", "size")
IN_WORDS: Mapping[Unit, str] = {"macs": "the MACs", "latency": "the latency", "size": "the size"}

MOST_CHOICES = 64
"""How many widths a group has to choose from where no step is given."""

_FLOAT_BYTES = 4


class Calibration(NamedTuple):
    """How a sum of times becomes that of a network, which depends on the bytes of its weights.

    Attributes:
        weight_bytes: what they are, of the same variables as the costs.
        factor: by these bytes, what the sum is multiplied with.
        least: of the factors that there are.
        most: of the factors that there are.
    """

    weight_bytes: tuple[Term, ...]
    factor: Callable[[int], float]
    least: float
    most: float


@dataclass(frozen=True)
class Costs:
    """What a network costs with any of some widths.

    Attributes:
        channels: the network's analysis.
        unit: of the costs: multiply-accumulates, milliseconds, or bytes of weights.
        grid: by channel group, the widths that it may have, ascending; the last is all its channels. Where the first
            is 0, the block that the group lies in may be skipped.
        inner: by block that may be skipped, the groups that lie wholly inside it.
        terms: what widths cost; the variables are the groups in the order of the grid. Infinite where the groups
            inside a block do not all have channels, or all none.
        rest: what the network costs besides.
        calibration: for times that were brought to those of whole networks.
    """

    channels: Channels
    unit: Unit
    grid: Mapping[str, tuple[int, ...]]
    inner: Mapping[str, tuple[str, ...]]
    terms: tuple[Term, ...]
    rest: float
    calibration: Calibration | None = None

    @property
    def whole(self) -> float:
        """What the whole network costs."""
        return self.of([len(widths) - 1 for widths in self.grid.values()])

    def of(self, chosen: Sequence[int]) -> float:
        """What a network costs whose groups have these widths, each given as its place in the grid."""
        return self.calibrated(self.rest + _sum(self.terms, chosen), chosen)

    def calibrated(self, total: float, chosen: Sequence[int]) -> float:
        """The sum of all terms as the cost of a network of these widths."""
        if self.calibration is None:
            return total
        return total * self.calibration.factor(round(_sum(self.calibration.weight_bytes, chosen)))

    def of_widths(self, widths: Widths) -> float:
        """What a network costs with widths of the grid; groups that are not named stay whole.

        Raises:
            ModelError: a width that is not in the grid.
        """
        return self.of([self._place(name, widths.get(name, own[-1])) for name, own in self.grid.items()])

    def _place(self, name: str, width: int) -> int:
        if width not in self.grid[name]:
            there = ", ".join(map(str, self.grid[name]))
            raise ModelError(f"group {name} has no {width} channels among the widths to choose from: there is {there}")
        return self.grid[name].index(width)


def width_choices(model: Any | Channels, step: int | None = None) -> dict[str, tuple[int, ...]]:
    """The widths that each group may have: multiples of a step, and all its channels.

    Args:
        model: a functional or sequential model, or its analysis.
        step: of which widths are multiples; by default the least with which a group has at most ``MOST_CHOICES``.

    Raises:
        UsageError: a step that is not positive.
        ModelError: a network with nothing that can be cut.
    """
    if step is not None and step < 1:
        raise UsageError(f"widths are multiples of one or more channels, and not of {step}")
    sizes = {name: group.size for name, group in analyse(model).require_cuttable().items()}
    return {
        name: (*range(own, size, own), size)
        for name, size in sizes.items()
        for own in [step or -(-size // MOST_CHOICES)]
    }


def count_costs(
    model: Any | Channels,
    unit: Literal["macs", "size"],
    *,
    step: int | None = None,
    skip_blocks: bool = False,
    bytes_per_parameter: int = _FLOAT_BYTES,
) -> Costs:
    """What a network costs with any widths, counted.

    Args:
        model: a functional or sequential model, or its analysis.
        unit: multiply-accumulates, or bytes of weights.
        step: of which widths are multiples, as ``width_choices`` takes it.
        skip_blocks: whether blocks may be skipped.
        bytes_per_parameter: 4 for float32, 1 for int8.

    Raises:
        UsageError: a step that is not positive.
        ModelError: a network with nothing that can be cut, or a size that it leaves open.
    """
    channels = analyse(model)
    grid, inner = with_skips(channels, width_choices(channels, step), skip_blocks)
    counter = Counter(channels)
    times = Tally[tuple[str, str]]()
    for use in uses(channels.model):
        times[use.layer, use.weight] += use.times
    switches = switches_of(channels, inner)
    total: Tally[Monomial] = Tally()
    for (layer, weight), form in _weight_forms(counter, grid).items():
        factor = times[layer, weight] if unit == "macs" else bytes_per_parameter
        for groups, count in form.items():
            total[monomial(groups, switches.get(layer, ""))] += factor * count
    del total[CONSTANT]
    whole = counter.macs({}) if unit == "macs" else bytes_per_parameter * counter.parameters({})
    rest = whole - value(total, {name: widths[-1] for name, widths in grid.items()})
    return Costs(channels, unit, grid, inner, _terms(tables_of(total, grid), grid, inner), float(rest))


def time_costs(channels: Channels, times: WidthTimes, *, skip_blocks: bool = False) -> Costs:
    """What a network takes on a device with any widths of the grid that its operators were timed for.

    A block that is skipped takes the operators of its layers along. What others could then be fused into is as it was.

    Args:
        channels: the network's analysis.
        times: of its slices.
        skip_blocks: whether blocks may be skipped.

    Raises:
        ModelError: a network with nothing that can be cut, or a size that it leaves open.
        UsageError: no times of a group with all its channels.
    """
    sizes = {name: (group.size,) for name, group in channels.require_cuttable().items()}
    timed = {name: tuple(times.grid.get(name, size)) for name, size in sizes.items()}
    if cut := [name for name, size in sizes.items() if timed[name][-1:] != size]:
        raise UsageError(f"there is no time of group {cut[0]} with all its channels: add it to the grid")
    grid, inner = with_skips(channels, timed, skip_blocks)
    switches = switches_of(channels, inner)
    ms, weight_bytes = Sums(grid), Sums(grid)
    for part in times.parts():
        switch = switches.get(part.layer, "")
        ms.add({widths: cost.ms for widths, cost in part.costs.items()}, part.groups, switch)
        weight_bytes.add({widths: cost.weight_bytes for widths, cost in part.costs.items()}, part.groups, switch)
    rest = times.call_ms + float(ms.tables.pop((), np.zeros(())))
    least, most = times.factors
    calibration = Calibration(as_terms(weight_bytes.tables, grid), times.factor, least, most)
    terms = _terms(ms.tables, grid, inner)
    return Costs(channels, "latency", grid, inner, terms, rest, None if least == most == 1 else calibration)


def memory_terms(costs: Costs, grid: WidthGrid, most_bytes: int, bytes_per_value: int = _FLOAT_BYTES) -> list[Term]:
    """Terms that are infinite where the activations that are alive at once take more than some bytes.

    They are those of the whole network's operators. In the place of a block that is skipped, one is counted that
    copies: the activation behind a sum becomes an operator of its own.

    Args:
        costs: those of the network.
        grid: the widths to choose from.
        most_bytes: what activations may take.
        bytes_per_value: 4 for float32, 1 for int8.

    Raises:
        ModelError: a size that the network leaves open, or so many groups alive at once that there is no table of all
            their widths; or no widths take so little: it says how little they can.
    """
    forms = _activation_forms(costs)
    peak = _peak(forms, {name: widths[0] for name, widths in grid.items()}) * bytes_per_value
    if peak > most_bytes:
        raise ModelError(
            f"no widths keep the activations of {costs.channels.model.name} within {most_bytes} bytes: the least "
            f"possible is {peak} bytes"
        )
    widest = {name: widths[-1] for name, widths in grid.items()}
    tight = [form for form in forms if value(form, widest) * bytes_per_value > most_bytes]
    found: dict[tuple[str, ...], Numbers] = {}
    for form in tight:
        on = scope_of(form, grid)
        table = np.where(table_of(form, on, grid) * bytes_per_value > most_bytes, np.inf, 0.0)
        found[on] = found.get(on, 0.0) + table
    return list(as_terms(found, grid))


def memory_scopes(costs: Costs) -> list[tuple[str, ...]]:
    """For the operators of a network, the groups whose channels are alive while each of them runs."""
    return list({scope_of(form, costs.grid) for form in _activation_forms(costs)} - {()})


def peak_bytes(costs: Costs, widths: Widths, bytes_per_value: int = _FLOAT_BYTES) -> int:
    """The most bytes of activations alive at once with some widths, as ``memory_terms`` counts them.

    Args:
        costs: those of the network.
        widths: groups that are not named stay whole; at 0, their block is skipped.
        bytes_per_value: 4 for float32, 1 for int8.

    Raises:
        ModelError: a size that the network leaves open.
    """
    whole = {name: own[-1] for name, own in costs.grid.items()}
    return _peak(_activation_forms(costs), whole | dict(widths)) * bytes_per_value


def _activation_forms(costs: Costs) -> list[Form]:
    """For each operator, how many numbers are alive while it runs, but for those operators where others have more."""
    channels, numbers = costs.channels, list(costs.channels.groups)
    switches = _memory_switches(costs)
    found: dict[frozenset[tuple[Monomial, int]], Tally[Monomial]] = {}
    for alive in steps(channels):
        form: Tally[Monomial] = Tally()
        for tensor in alive:
            labels = channels.labels(tensor)
            times = _times(tensor, labels.shape)
            counts = {name: int(count) for name, count in zip(numbers, channels.counts(labels), strict=True) if count}
            switch = switches.get(id(tensor), "")
            cut = {name: count for name, count in counts.items() if name in costs.grid}
            form[monomial((), switch)] += times * (labels.size - sum(cut.values()))
            for name, count in cut.items():
                form[monomial((name,), switch)] += times * (count // costs.grid[name][-1])
        form = Tally({monomial: count for monomial, count in form.items() if count})
        found[frozenset(form.items())] = form
    forms = list(found.values())
    return [form for form in forms if not any(form is not other and form <= other for other in forms)]


def _memory_switches(costs: Costs) -> dict[int, str]:
    """By the id of a tensor in a block that may be skipped, the group that says whether it is; what it ends in stays.

    Of a block whose end has no memory of its own, all stays.
    """
    channels, inner = costs.channels, costs.inner
    known = {id(tensor) for alive in steps(channels) for tensor in alive} if inner else set()
    blocks = blocks_of(channels, inner)
    found: dict[int, str] = {}
    made = {call.layer.name: call.outputs[0] for call in calls(channels.model)}
    for name, block in blocks.items():
        if id(made[name]) in known:
            found |= {id(made[layer]): inner[name][0] for layer in block.layers if layer != name}
    return found


def _times(tensor: Any, labelled: Sequence[int]) -> int:
    """How many numbers a tensor has for each of its labels."""
    shape = tuple(tensor.shape[1:])
    if None in shape:
        raise ModelError(f"{tensor.name} has no fixed shape {shape}, so its memory is not known: give the input a size")
    return math.prod(size for size, labels in zip(shape, labelled, strict=True) if labels == 1)


def _peak(forms: Iterable[Form], widths: Widths) -> int:
    return max((value(form, widths) for form in forms), default=0)


def _weight_forms(counter: Counter, grid: WidthGrid) -> dict[tuple[str, str], Tally[tuple[str, ...]]]:
    """By layer and weight, how many numbers it has."""
    whole = counter.shapes({})
    without = {name: counter.shapes({name: 0}) for name in grid}
    forms = {}
    for layer, weights in whole.items():
        for weight, shape in weights.items():
            axes: list[dict[tuple[str, ...], int]] = []
            for axis, size in enumerate(shape):
                lost = {name: size - shapes[layer][weight][axis] for name, shapes in without.items()}
                axes.append({(): size - sum(lost.values())})
                axes[-1] |= {(name,): count // grid[name][-1] for name, count in lost.items() if count}
            forms[layer, weight] = multiplied(axes)
    return forms


def _terms(
    tables: Mapping[tuple[str, ...], Numbers], grid: WidthGrid, inner: Mapping[str, tuple[str, ...]]
) -> tuple[Term, ...]:
    return (*as_terms(tables, grid), *as_terms(together(inner.values(), grid), grid))


def _sum(terms: Iterable[Term], chosen: Sequence[int]) -> float:
    return sum(float(term.cost[tuple(chosen[variable] for variable in term.on)]) for term in terms)
