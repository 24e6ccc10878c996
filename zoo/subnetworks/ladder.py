"""Nested subnetworks that were chosen, and what is known of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fleetfoot.errors import UsageError
from zoo.subnetworks.costs import IN_WORDS, Unit


@dataclass(frozen=True)
class Rung:
    """A subnetwork of a ladder.

    Attributes:
        fraction: of the whole network's cost that was asked for.
        widths: by channel group, how many of the first channels it has; 0 inside a block that it skips.
        skipped: the blocks that it skips, as ``zoo.blocks.drop_blocks`` takes them.
        importance: the share of all importance that it keeps: the geometric mean of the groups' shares, or, as a plain
            sum, the share of all of it.
        cost: in the unit of its ladder.
        limit: what it may cost.
        bound: no widths within the limit that are nested with the rungs chosen before it keep more importance.
        free_bound: nor any at all more than this; nesting costs at most what is between.
    """

    fraction: float
    widths: dict[str, int]
    skipped: tuple[str, ...]
    importance: float
    cost: float
    limit: float
    bound: float
    free_bound: float

    @property
    def gap(self) -> float:
        """How much better it could at most be, as a share of the bound."""
        return (self.bound - self.importance) / self.bound if self.bound > self.importance else 0.0

    @property
    def proven(self) -> bool:
        """Whether nothing is better."""
        return self.gap == 0

    @property
    def kept(self) -> dict[str, int]:
        """The widths without those inside skipped blocks."""
        return {name: width for name, width in self.widths.items() if width}


@dataclass(frozen=True)
class Ladder:
    """Nested subnetworks, the narrowest first.

    Attributes:
        unit: of costs.
        whole: what the whole network costs.
        rungs: the subnetworks.
    """

    unit: Unit
    whole: float
    rungs: tuple[Rung, ...]

    def lines(self) -> list[str]:
        """One line for each rung, for people."""
        return [self._line(rung) for rung in self.rungs]

    def _line(self, rung: Rung) -> str:
        blocks = f", without {', '.join(rung.skipped)}" if rung.skipped else ""
        better = "the best possible" if rung.proven else f"at most {100 * rung.gap:.1f} % better possible"
        return (
            f"sub-{rung.fraction:g}: {100 * rung.cost / self.whole:.1f} % of {IN_WORDS[self.unit]}, "
            f"importance {100 * rung.importance:.0f} %, {better}{blocks}"
        )


def check_fractions(fractions: Sequence[float], unit: Unit = "macs") -> None:
    """Makes sure that these can be the fractions of a ladder.

    Raises:
        UsageError: none, or some outside (0, 1], unsorted or repeated.
    """
    if not fractions or any(not 0 < fraction <= 1 for fraction in fractions):
        raise UsageError(f"fractions of {IN_WORDS[unit]} must be above 0 and at most 1, and not {_listed(fractions)}")
    if list(fractions) != sorted(set(fractions)):
        raise UsageError(
            f"fractions of {IN_WORDS[unit]} must ascend, each once: give {_listed(sorted(set(fractions)))}"
        )


def _listed(fractions: Sequence[float]) -> str:
    return ",".join(f"{fraction:g}" for fraction in fractions) or "none at all"
