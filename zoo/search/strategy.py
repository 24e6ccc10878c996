"""What a strategy is: it proposes recipes, and is told what became of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import msgspec

from zoo.batches import TrainingData
from zoo.recipe import Recipe
from zoo.search.journal import Trial


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


class Task(NamedTuple):
    """What a strategy proposes recipes for.

    Attributes:
        model: the base model.
        data: what importance and effects are measured on; None where all has to be told from the model alone.
        device: where times are measured.
        zoo: the directory in which the orders of channels are kept, and the proposals, because they rest on
            measurements and what is resumed has to propose the same again; None to keep nothing.
    """

    model: Any
    data: TrainingData | None = None
    device: str = "local"
    zoo: Path | None = None
