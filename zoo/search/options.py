"""What a grid is made of."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fleetfoot.errors import UsageError, offer
from zoo.importance import CRITERIA
from zoo.pruning import SCOPES, UNITS, Scope, Unit, check_share
from zoo.recipe import QUANTIZATIONS
from zoo.subnetworks import BUDGET_UNITS, SECONDS, BudgetUnit, Order, check_fractions


class GridOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the grid is made of.

    Attributes:
        prune: shares of the base model that pruned variants keep.
        prune_by: what these are shares of; low-rank variants go by time too where these do, else by MACs.
        criterion: by which channels are important.
        scope: whether every channel group keeps the same share, or the least important channels go wherever they are.
        drop_blocks: how many blocks are left out, of each variant without some.
        low_rank: shares of the base model that low-rank variants keep.
        low_rank_of_pruned: shares of each pruned variant that low-rank variants of it keep.
        subnetworks: fractions of the base model that nested subnetworks take.
        subnetwork_budget: what these are fractions of.
        peak_memory: the most bytes that the activations of a subnetwork may take at once; None for no limit.
        order: which subnetwork is chosen first, and so is the best possible: the narrowest or the widest.
        skip_blocks: whether subnetworks may skip blocks.
        subnetwork_quantize: number formats to have them in besides.
        resumable: whether they are early exits on one trunk instead, which can go on from each other.
        solver_time_limit: seconds for choosing the widths of all of them.
        quantize: number formats of the base model.
        epochs: of every fine-tuning.
        seed: of every fine-tuning.
    """

    prune: tuple[float, ...] = (0.25, 0.5)
    prune_by: Unit = "macs"
    criterion: str = "taylor"
    scope: Scope = "global"
    drop_blocks: tuple[int, ...] = ()
    low_rank: tuple[float, ...] = (0.5, 0.7)
    low_rank_of_pruned: tuple[float, ...] = ()
    subnetworks: tuple[float, ...] = (0.05, 0.2, 0.5)
    subnetwork_budget: BudgetUnit = "macs"
    peak_memory: int | None = None
    order: Order = "bottom-up"
    skip_blocks: bool = False
    subnetwork_quantize: tuple[str, ...] = ()
    resumable: bool = False
    solver_time_limit: float = SECONDS
    quantize: tuple[str, ...] = ("int8",)
    epochs: int = 4
    seed: int = 0


def check_options(options: GridOptions) -> None:
    """Makes sure that a grid can be made of these options.

    Raises:
        UsageError: an unknown name, or a number that cannot be meant.
    """
    _check_name("quantisation", (*options.quantize, *options.subnetwork_quantize), QUANTIZATIONS)
    _check_name("criterion", [options.criterion], CRITERIA)
    _check_name("scope", [options.scope], SCOPES)
    _check_name("unit to prune by", [options.prune_by], UNITS)
    for share in (*options.prune, *options.low_rank, *options.low_rank_of_pruned):
        check_share(share)
    if any(count < 1 for count in options.drop_blocks):
        raise UsageError("blocks are dropped by one or more")
    if options.subnetworks:
        _check_name("unit of subnetworks", [options.subnetwork_budget], BUDGET_UNITS)
        check_fractions(options.subnetworks, options.subnetwork_budget)
        _check_resumable(options)


def _check_name(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"unknown {what} {name!r}: {offer(name, known)}")


def counted(options: GridOptions) -> GridOptions:
    """The options with multiply-accumulates in the place of times, which only a device can tell."""
    by: Unit = "macs" if options.prune_by == "time" else options.prune_by
    budget: BudgetUnit = "macs" if options.subnetwork_budget == "latency" else options.subnetwork_budget
    return msgspec.structs.replace(options, prune_by=by, subnetwork_budget=budget)


def _check_resumable(options: GridOptions) -> None:
    given = {
        f"a budget of {options.subnetwork_budget}": options.subnetwork_budget != "macs",
        "a limit of memory": options.peak_memory is not None,
        "an order of choosing": options.order != "bottom-up",
        "skipped blocks": options.skip_blocks,
        "other number formats": bool(options.subnetwork_quantize),
    }
    if options.resumable and any(given.values()):
        names = " and ".join(name for name, is_given in given.items() if is_given)
        raise UsageError(f"resumable subnetworks go by MACs alone, whole layers in float32: leave out {names}")
