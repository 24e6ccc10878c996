"""Strategies propose recipes and are told what became of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from fleetfoot.console import note, warn
from fleetfoot.errors import UsageError
from zoo.lowrank import ranks_for_energy
from zoo.pruning import keep_by_norm
from zoo.recipe import QUANTIZATIONS, Recipe, Training
from zoo.search.journal import Trial
from zoo.subnetworks import check_fractions, least_fraction, width_ladder


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """Recipes to be made together, by the name of each variant; several share one file and its training."""

    recipes: dict[str, Recipe]


class Strategy(Protocol):
    """Proposes batches of recipes until it has no more; the batches of one call may be made in parallel."""

    def propose(self) -> Sequence[Proposal]:
        """The next batch; empty when the search is over."""
        ...

    def observe(self, trials: Sequence[Trial]) -> None:
        """Takes note of the outcomes of the last batch."""
        ...


class GridOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What the grid is made of; ``epochs`` and ``seed`` are those of every fine-tuning."""

    prune: tuple[float, ...] = (0.25, 0.5)
    low_rank: tuple[float, ...] = (0.5, 0.7)
    subnetworks: tuple[float, ...] = (0.05, 0.2, 0.5)
    quantize: tuple[str, ...] = ("int8",)
    epochs: int = 4
    seed: int = 0


class Grid:
    """Every variant that was asked for, in one batch: no search.

    Args:
        model: the base model.
        options: keep ratios, kept energies, fractions of the MACs, number formats.
        order_file: the file of the channel orders that the subnetworks are prefixes of; None for a model
            that cannot be cut, of which there are other number formats only.
    """

    def __init__(self, model: Any, options: GridOptions, order_file: str | None) -> None:
        self._batches = [self._grid(model, options, order_file)]

    def propose(self) -> Sequence[Proposal]:
        """The whole grid, then nothing."""
        return self._batches.pop() if self._batches else ()

    def observe(self, trials: Sequence[Trial]) -> None:
        """Nothing to learn: the grid is fixed."""

    def _grid(self, model: Any, options: GridOptions, order_file: str | None) -> list[Proposal]:
        if order_file is None:
            note(f"{model.name} has no layers that can be cut (a SavedModel never has): only its number format changes")
            options = msgspec.structs.replace(options, prune=(), low_rank=(), subnetworks=())
        training = Training(epochs=options.epochs, teacher="base", seed=options.seed)
        alone = {"base": Recipe()}
        for ratio in options.prune:
            alone[f"pruned-{ratio:g}"] = Recipe(keep=dict(keep_by_norm(model, ratio)), training=training)
        for energy in options.low_rank:
            alone[f"lowrank-{energy:g}"] = Recipe(ranks=ranks_for_energy(model, energy), training=training)
        for numbers in options.quantize:
            if numbers not in QUANTIZATIONS:
                raise UsageError(f"unknown quantisation {numbers!r}: there is {', '.join(QUANTIZATIONS)}")
            alone[f"base-{numbers}"] = Recipe(quantize=numbers)
        together = {}
        if fractions := _reachable(model, options.subnetworks):
            jointly = msgspec.structs.replace(training, jointly=fractions)
            for fraction, widths in zip(fractions, width_ladder(model, fractions), strict=True):
                together[f"sub-{fraction:g}"] = Recipe(order=order_file, keep=dict(widths), training=jointly)
        proposals = [Proposal(recipes={name: recipe}) for name, recipe in _distinct(alone).items()]
        return proposals + ([Proposal(recipes=_distinct(together))] if together else [])


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
        if name != "base" and not (recipe.keep or recipe.ranks or recipe.quantize):
            warn(f"{name} is left out: it would be the base model itself")
        elif name_of.setdefault(recipe, name) != name:
            warn(f"{name} is left out: it is the same as {name_of[recipe]}")
    return {name: recipe for recipe, name in name_of.items()}


STRATEGIES: Mapping[str, Callable[[Any, GridOptions, str | None], Strategy]] = {"grid": Grid}


def make_strategy(name: str, model: Any, options: GridOptions, order_file: str | None) -> Strategy:
    """The strategy of that name.

    Raises:
        UsageError: there is none.
    """
    if name not in STRATEGIES:
        raise UsageError(f"unknown strategy {name!r}: there is {', '.join(STRATEGIES)}")
    return STRATEGIES[name](model, options, order_file)
