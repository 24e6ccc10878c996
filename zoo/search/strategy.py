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
        order_file: the file of the channel orders that the subnetworks are prefixes of; None for a model that cannot
            be cut, of which there are other number formats only.
        kept: the file in which proposals are kept that rest on measurements, so that what is resumed proposes the
            same again; None to keep none.
    """

    model: Any
    data: TrainingData | None = None
    device: str = "local"
    order_file: str | None = None
    kept: Path | None = None
