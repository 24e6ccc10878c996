"""Taking turns on a phone, where the unit is an invocation of the measuring tool."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable

from fleetfoot.errors import DeviceError
from profiling.android.benchmark_log import Runs
from profiling.android.benchmark_tool import Measured
from profiling.android.summaries import MIN_INVOCATIONS, invoked_enough, used_up
from profiling.statistics import Effort

_SHUFFLE_SEED = 0


class PhoneTurns(dict[str, list[Measured]]):
    """The invocations that each model has had, and why some were given up."""

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__({name: [] for name in names})
        self.failures: dict[str, str] = {}

    def runs(self, name: str) -> list[Runs]:
        """The summaries of a model's invocations."""
        return [measured.runs for measured in self[name]]

    def satisfied(self, effort: Effort) -> list[str]:
        """The models that were measured well enough."""
        return [name for name in self if name not in self.failures and invoked_enough(self.runs(name), effort)]

    def waiting(self, effort: Effort) -> list[str]:
        """Who takes part in the next round: as long as one is not measured well enough, all below the caps."""
        running = [name for name in self if name not in self.failures]
        if len(self.satisfied(effort)) == len(running):
            return []
        return [name for name in running if not used_up(self.runs(name), effort)]

    def give_up(self, reason: str, effort: Effort) -> None:
        """Ends the measurement early: what has invocations to compare is kept, the rest failed."""
        for name in self.waiting(effort):
            if len(self[name]) < MIN_INVOCATIONS and not invoked_enough(self.runs(name), effort):
                self.failures[name] = reason


def invoke_in_turns(
    names: Iterable[str],
    invoke: Callable[[str], Measured],
    effort: Effort,
    *,
    lost: Callable[[], str | None],
    after_round: Callable[[PhoneTurns], None],
) -> PhoneTurns:
    """Invokes the tool on the models in rounds of shuffled order until ``effort`` is satisfied for each.

    Args:
        names: of the models.
        invoke: measures one once; a model for which it raises DeviceError is given up, and the others go on.
        effort: when a model is measured well enough.
        lost: why the device is gone, which ends it all; None as long as it is there.
        after_round: called after each round.
    """
    turns = PhoneTurns(names)
    shuffle = random.Random(_SHUFFLE_SEED).shuffle  # noqa: S311 (an order, not a secret)
    while waiting := turns.waiting(effort):
        shuffle(waiting)
        try:
            for name in waiting:
                _take_turn(turns, name, invoke, lost)
            after_round(turns)
        except DeviceError as error:
            turns.give_up(str(error), effort)
            break
    return turns


def _take_turn(turns: PhoneTurns, name: str, invoke: Callable[[str], Measured], lost: Callable[[], str | None]) -> None:
    try:
        turns[name].append(invoke(name))
    except DeviceError as error:
        if lost() is not None:
            raise
        turns.failures[name] = str(error)
