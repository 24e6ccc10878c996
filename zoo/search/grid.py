"""The grid: every variant that was asked for, and no search."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np

from fleetfoot.console import note, warn
from fleetfoot.errors import ModelError
from fleetfoot.files import write_bytes
from zoo.channels import Channels, analyse
from zoo.importance import OF_DATA, importance
from zoo.pruning import comparable
from zoo.recipe import Recipe, Training
from zoo.search import families
from zoo.search.journal import Trial
from zoo.search.options import GridOptions, check_options, counted
from zoo.search.strategy import Proposal, Task

_PROPOSALS = Path("search", "proposals.json")
_REHEARSAL_SECONDS = 1.0


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
        if self._task.zoo is None:
            return self._grid()
        kept = self._task.zoo / _PROPOSALS
        made_for = self._fingerprint()
        proposals = _Proposals.kept_in(kept, made_for)
        if proposals is None:
            proposals = _Proposals(made_for=made_for, proposals=self._grid())
            write_bytes(kept, msgspec.json.encode(proposals))
        return proposals.proposals

    def _fingerprint(self) -> str:
        """Of all that the proposals are made from."""
        digest = hashlib.sha256(msgspec.json.encode((self._options, self._task.device)))
        for weight in self._task.model.get_weights():
            digest.update(np.ascontiguousarray(weight).tobytes())
        return digest.hexdigest()

    def observe(self, trials: Sequence[Trial]) -> None:
        """Nothing to learn: the grid is fixed."""

    def _grid(self) -> list[Proposal]:
        task, options = self._task, self._options
        training = Training(epochs=options.epochs, teacher="base", seed=options.seed)
        pruned, together = self._cut(training)
        if options.subnetworks and options.resumable:
            together = families.exits(task, options, training)
        alone = {"base": Recipe()}
        alone |= {name: Recipe(keep=keep, training=training) for name, keep in pruned.items()}
        for name, drop in families.dropped(task, options).items():
            alone[name] = Recipe(drop=drop, training=training)
        alone |= families.decomposed(task, options, pruned, training)
        alone |= {f"base-{numbers}": Recipe(quantize=numbers) for numbers in options.quantize}
        proposals = [Proposal(recipes={name: recipe}) for name, recipe in _distinct(alone).items()]
        return proposals + ([Proposal(recipes=_distinct(together))] if together else [])

    def _cut(self, training: Training) -> tuple[dict[str, families.Kept], dict[str, Recipe]]:
        """What pruned variants keep of each channel group, and the recipes of nested subnetworks."""
        task, options = self._task, self._options
        nested = bool(options.subnetworks) and not options.resumable
        if not (options.prune or nested):
            return {}, {}
        channels = analyse(task.model)
        if not channels.cuttable:
            note(f"{_why_not_cut(channels)}: none are cut")
            return {}, {}
        found = importance(channels, options.criterion, task.data, seed=options.seed)
        scores = comparable(found, options.criterion)
        return (
            families.pruned(task, options, channels, scores) if options.prune else {},
            families.nested(task, options, channels, scores, training) if nested else {},
        )


def _told_from_the_model(options: GridOptions) -> GridOptions:
    """The options for a rehearsal: without data, devices and long measurements."""
    criterion = "random" if options.criterion in OF_DATA else options.criterion
    seconds = min(options.solver_time_limit, _REHEARSAL_SECONDS)
    return msgspec.structs.replace(counted(options), criterion=criterion, solver_time_limit=seconds)


def _why_not_cut(channels: Channels) -> str:
    """Why a model has no channels to cut, group by group."""
    try:
        channels.require_cuttable()
    except ModelError as error:
        return str(error)
    return f"{channels.model.name} is not cut"


def _distinct(recipes: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """The recipes without those that change nothing of the base model, or repeat one before."""
    name_of: dict[Recipe, str] = {}
    for name, recipe in recipes.items():
        if name != "base" and not (recipe.drop or recipe.keep or recipe.ranks or recipe.exit or recipe.quantize):
            warn(f"{name} is left out: it would be the base model itself")
        elif name_of.setdefault(recipe, name) != name:
            warn(f"{name} is left out: it is the same as {name_of[recipe]}")
    return {name: recipe for recipe, name in name_of.items()}
