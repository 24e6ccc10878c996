"""The grid: every variant that was asked for, and no search."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from fleetfoot.console import note, warn
from fleetfoot.errors import ModelError, UsageError, offer
from fleetfoot.files import write_bytes
from profiling.device import connected
from zoo.blocks import drop_least_harmful, require_blocks
from zoo.channels import analyse, slice_model
from zoo.importance import CRITERIA, OF_DATA, importance
from zoo.latency import Prices, prices_of
from zoo.lowrank import RankChoices
from zoo.pruning import SCOPES, UNITS, Scope, Unit, check_share, comparable, keep_best, priced, widths_within
from zoo.recipe import QUANTIZATIONS, LayerRank, Recipe, Training
from zoo.search.journal import Trial
from zoo.search.strategy import Proposal, Task
from zoo.subnetworks import check_fractions, least_fraction, width_ladder

_WELL_BELOW = 0.9


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
        subnetworks: shares of the multiply-accumulates that nested subnetworks take.
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
    quantize: tuple[str, ...] = ("int8",)
    epochs: int = 4
    seed: int = 0


class _Proposals(msgspec.Struct, frozen=True, kw_only=True):
    """Proposals as they are kept, and the fingerprint of what they were made from."""

    made_for: str
    proposals: list[Proposal]

    @classmethod
    def kept_in(cls, path: Path, made_for: str) -> _Proposals | None:
        """Those of a file; None if there is none, or it is damaged or was made from something else."""
        try:
            kept = msgspec.json.decode(path.read_bytes(), type=cls)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return kept if kept.made_for == made_for else None


class Grid:
    """Every variant that was asked for, in one batch: no search.

    Without data it proposes what is alike in number and cost, but not by importance: for rehearsals.
    """

    def __init__(self, task: Task, options: GridOptions) -> None:
        check_options(options)
        self._task = task
        self._options = options if task.data else _told_from_the_model(options)
        self._over = False

    def propose(self) -> Sequence[Proposal]:
        """The whole grid, then nothing."""
        if self._over:
            return ()
        self._over = True
        kept = self._task.kept
        if kept is None:
            return self._grid()
        made_for = self._fingerprint()
        proposals = _Proposals.kept_in(kept, made_for)
        if proposals is None:
            proposals = _Proposals(made_for=made_for, proposals=self._grid())
            write_bytes(kept, msgspec.json.encode(proposals))
        return proposals.proposals

    def _fingerprint(self) -> str:
        """Of all that the proposals are made from."""
        digest = hashlib.sha256(msgspec.json.encode((self._options, self._task.device, self._task.order_file)))
        for weight in self._task.model.get_weights():
            digest.update(np.ascontiguousarray(weight).tobytes())
        return digest.hexdigest()

    def observe(self, trials: Sequence[Trial]) -> None:
        """Nothing to learn: the grid is fixed."""

    def _grid(self) -> list[Proposal]:
        options = self._options
        if self._task.order_file is None:
            note(f"{_why_not_cut(self._task.model)}: none are cut")
            options = msgspec.structs.replace(options, prune=(), subnetworks=())
        training = Training(epochs=options.epochs, teacher="base", seed=options.seed)
        alone = {"base": Recipe()}
        pruned = _pruned(self._task, options)
        alone |= {name: Recipe(keep=keep, training=training) for name, keep in pruned.items()}
        alone |= {name: Recipe(drop=drop, training=training) for name, drop in _dropped(self._task, options).items()}
        alone |= self._decomposed(pruned, options, training)
        alone |= {f"base-{numbers}": Recipe(quantize=numbers) for numbers in options.quantize}
        together = {}
        if fractions := _reachable(self._task.model, options.subnetworks):
            jointly = msgspec.structs.replace(training, jointly=fractions)
            for fraction, widths in zip(fractions, width_ladder(self._task.model, fractions), strict=True):
                together[f"sub-{fraction:g}"] = Recipe(order=self._task.order_file, keep=dict(widths), training=jointly)
        proposals = [Proposal(recipes={name: recipe}) for name, recipe in _distinct(alone).items()]
        return proposals + ([Proposal(recipes=_distinct(together))] if together else [])

    def _decomposed(
        self, pruned: Mapping[str, dict[str, int | tuple[int, ...]]], options: GridOptions, training: Training
    ) -> dict[str, Recipe]:
        """The low-rank variants of the base model, and of the pruned ones."""
        made: dict[str, Recipe] = {}
        if not (options.low_rank or options.low_rank_of_pruned):
            return made
        if options.low_rank_of_pruned and not pruned:
            warn("there are no pruned variants, and so no low-rank ones of them")
        model = self._task.model
        with connected(self._task.device) if options.prune_by == "time" else nullcontext() as device:
            prices = prices_of(device) if device else None
            for name, ranks in _low_rank(model, options.low_rank, prices).items() if options.low_rank else ():
                made[name] = Recipe(ranks=ranks, training=training)
            for cut, keep in pruned.items() if options.low_rank_of_pruned else ():
                for name, ranks in _low_rank(slice_model(model, keep), options.low_rank_of_pruned, prices).items():
                    made[f"{cut}-{name}"] = Recipe(keep=keep, ranks=ranks, training=training)
        return made


def check_options(options: GridOptions) -> None:
    """Makes sure that a grid can be made of these options.

    Raises:
        UsageError: an unknown name, or a number that cannot be meant.
    """
    _check_name("quantisation", options.quantize, QUANTIZATIONS)
    _check_name("criterion", [options.criterion], CRITERIA)
    _check_name("scope", [options.scope], SCOPES)
    _check_name("unit to prune by", [options.prune_by], UNITS)
    for share in (*options.prune, *options.low_rank, *options.low_rank_of_pruned):
        check_share(share)
    if any(count < 1 for count in options.drop_blocks):
        raise UsageError("blocks are dropped by one or more")


def _check_name(what: str, names: Sequence[str], known: Sequence[str]) -> None:
    for name in names:
        if name not in known:
            raise UsageError(f"unknown {what} {name!r}: {offer(name, known)}")


def _told_from_the_model(options: GridOptions) -> GridOptions:
    """The options for a rehearsal: without data, devices and long measurements."""
    by: Unit = "macs" if options.prune_by == "time" else options.prune_by
    criterion = "random" if options.criterion in OF_DATA else options.criterion
    return msgspec.structs.replace(options, criterion=criterion, prune_by=by)


def _why_not_cut(model: Any) -> str:
    """Why a model has no channels to cut, group by group."""
    try:
        analyse(model).require_cuttable()
    except ModelError as error:
        return str(error)
    return f"{model.name} is not cut"


def _pruned(task: Task, options: GridOptions) -> dict[str, dict[str, int | tuple[int, ...]]]:
    """The kept channels of each pruned variant."""
    if not options.prune:
        return {}
    channels = analyse(task.model)
    scores = comparable(importance(channels, options.criterion, task.data, seed=options.seed), options.criterion)
    if options.prune_by == "time":
        with connected(task.device) as device:
            grid, cost = priced(channels, options.prune_by, device)
    else:
        grid, cost = priced(channels, options.prune_by)
    whole = cost({name: widths[-1] for name, widths in grid.items()})
    pruned: dict[str, dict[str, int | tuple[int, ...]]] = {}
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
        pruned[f"pruned-{share:g}"] = dict(keep_best(scores, widths))
    return pruned


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


def _dropped(task: Task, options: GridOptions) -> dict[str, tuple[str, ...]]:
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


def _reachable(model: Any, fractions: Sequence[float]) -> tuple[float, ...]:
    """The fractions of the MACs that subnetworks can get within."""
    if not fractions:
        return ()
    check_fractions(fractions)
    least = least_fraction(model)
    for fraction in fractions:
        if fraction < least:
            warn(f"sub-{fraction:g} is left out: the narrowest subnetwork takes {least:.3f} of the MACs")
    return tuple(fraction for fraction in fractions if fraction >= least)


def _distinct(recipes: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """The recipes without those that change nothing of the base model, or repeat one before."""
    name_of: dict[Recipe, str] = {}
    for name, recipe in recipes.items():
        if name != "base" and not (recipe.drop or recipe.keep or recipe.ranks or recipe.quantize):
            warn(f"{name} is left out: it would be the base model itself")
        elif name_of.setdefault(recipe, name) != name:
            warn(f"{name} is left out: it is the same as {name_of[recipe]}")
    return {name: recipe for recipe, name in name_of.items()}
