"""The recipes of each family of variants that a grid may have: pruned, without blocks, low-rank, nested."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

import msgspec

from fleetfoot.console import note, warn
from fleetfoot.errors import ModelError
from profiling.device import connected
from zoo.blocks import drop_least_harmful, require_blocks
from zoo.channels import Channels, slice_model
from zoo.importance import order
from zoo.latency import Prices, prices_of
from zoo.lowrank import RankChoices
from zoo.pruning import Scores, keep_best, priced, times_of, widths_within
from zoo.recipe import LayerRank, Recipe, Training
from zoo.search.options import GridOptions
from zoo.search.strategy import Task
from zoo.subnetworks import (
    Costs,
    choose_widths,
    count_costs,
    deepest_within,
    exit_shares,
    least_fraction,
    time_costs,
    write_order,
)

Kept = dict[str, int | tuple[int, ...]]

_WELL_BELOW = 0.9


def pruned(task: Task, options: GridOptions, channels: Channels, scores: Scores) -> dict[str, Kept]:
    """The kept channels of each pruned variant."""
    with connected(task.device) if options.prune_by == "time" else nullcontext() as device:
        grid, cost = priced(channels, options.prune_by, device)
    whole = cost({name: widths[-1] for name, widths in grid.items()})
    found: dict[str, Kept] = {}
    for share in options.prune:
        try:
            widths = widths_within(grid, scores, cost, share, options.scope)
        except ModelError as error:
            if task.data is None:
                raise
            warn(f"pruned-{share:g} is left out: {error}")  # what time is possible is known after the training only
            continue
        if cost(widths) < _WELL_BELOW * share * whole:
            note(f"pruned-{share:g} takes {cost(widths) / whole:.2f} of {options.prune_by}: no widths are in between")
        found[f"pruned-{share:g}"] = dict(keep_best(scores, widths))
    return found


def decomposed(task: Task, options: GridOptions, of: Mapping[str, Kept], training: Training) -> dict[str, Recipe]:
    """The low-rank variants of the base model, and of the pruned ones."""
    made: dict[str, Recipe] = {}
    if not (options.low_rank or options.low_rank_of_pruned):
        return made
    if options.low_rank_of_pruned and not of:
        warn("there are no pruned variants, and so no low-rank ones of them")
    with connected(task.device) if options.prune_by == "time" else nullcontext() as device:
        prices = prices_of(device) if device else None
        for name, ranks in _low_rank(task.model, options.low_rank, prices).items() if options.low_rank else ():
            made[name] = Recipe(ranks=ranks, training=training)
        for cut, keep in of.items() if options.low_rank_of_pruned else ():
            for name, ranks in _low_rank(slice_model(task.model, keep), options.low_rank_of_pruned, prices).items():
                made[f"{cut}-{name}"] = Recipe(keep=keep, ranks=ranks, training=training)
    return made


def _low_rank(model: Any, shares: Sequence[float], prices: Prices | None) -> dict[str, dict[str, LayerRank]]:
    """The ranks of each low-rank variant of a model; what no ranks can reach is left out."""
    try:
        choices = RankChoices(model, prices=prices)
    except ModelError as error:
        warn(f"low-rank variants are left out: {error}")
        return {}
    found = {}
    for share in shares:
        try:
            found[f"lowrank-{share:g}"] = choices.within(share).ranks
        except ModelError as error:
            warn(f"lowrank-{share:g} is left out: {error}")
    return found


def dropped(task: Task, options: GridOptions) -> dict[str, tuple[str, ...]]:
    """The blocks that are left out, of each variant without some."""
    if not options.drop_blocks:
        return {}
    most = max(options.drop_blocks)
    names = list(require_blocks(task.model, most))
    if task.data:
        names = drop_least_harmful(task.model, task.data, most)
    for count in options.drop_blocks:
        if count > len(names):
            warn(f"dropped-{count} is left out: after {len(names)} blocks there are none left")
    return {f"dropped-{count}": tuple(names[:count]) for count in options.drop_blocks if count <= len(names)}


def nested(
    task: Task, options: GridOptions, channels: Channels, scores: Scores, training: Training
) -> dict[str, Recipe]:
    """The nested subnetworks; fractions that no widths can reach are left out."""
    costs = _subnetwork_costs(task, options, channels)
    least = least_fraction(costs, options.peak_memory)
    for fraction in options.subnetworks:
        if fraction < least:
            warn(f"sub-{fraction:g} is left out: the least possible is {least:.3f}")
    fractions = tuple(fraction for fraction in options.subnetworks if fraction >= least)
    if not fractions:
        return {}
    ladder = choose_widths(
        costs,
        scores,
        fractions,
        order=options.order,
        peak_bytes=options.peak_memory,
        seconds=options.solver_time_limit,
    )
    for line in ladder.lines():
        note(line)
    file = write_order(task.zoo, order(scores))
    jointly = msgspec.structs.replace(training, jointly=fractions)
    made = {
        f"sub-{rung.fraction:g}": Recipe(drop=rung.skipped, order=file, keep=dict(rung.kept), training=jointly)
        for rung in ladder.rungs
    }
    return made | {
        f"{name}-{numbers}": msgspec.structs.replace(recipe, quantize=numbers)
        for numbers in options.subnetwork_quantize
        for name, recipe in made.items()
    }


def exits(task: Task, options: GridOptions, training: Training) -> dict[str, Recipe]:
    """Early exits that go on from each other, the whole network last; fractions that none can meet are left out."""
    shares, fractions = exit_shares(task.model), list[float]()
    for fraction in options.subnetworks:
        try:
            if fraction < 1:
                deepest_within(shares, [*fractions, fraction])
                fractions.append(fraction)
        except ModelError as error:
            warn(f"exit-{fraction:g} is left out: {error}")
    if not fractions:
        warn("there are no early exits: no fraction below 1 is left")
        return {}
    fractions.append(1.0)
    jointly = msgspec.structs.replace(training, jointly=tuple(fractions))
    return {f"exit-{fraction:g}": Recipe(exit=fraction, training=jointly) for fraction in fractions}


def _subnetwork_costs(task: Task, options: GridOptions, channels: Channels) -> Costs:
    if options.subnetwork_budget != "latency":
        return count_costs(channels, options.subnetwork_budget, skip_blocks=options.skip_blocks)
    with connected(task.device) as device:
        return time_costs(channels, times_of(channels, device), skip_blocks=options.skip_blocks)
