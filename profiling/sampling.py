"""Taking turns: several models run in blocks, in rounds of shuffled order, until each is measured well enough."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from fleetfoot.errors import DeviceError
from profiling.statistics import Block, Effort, exhausted, measured_enough

Name = TypeVar("Name")
RunBlock = Callable[[int], Block]

_SHUFFLE_SEED = 0
_BLOCK_MS = 20.0
_BLOCK_RUNS = 10
_ROUNDS_PER_LOOK = 20  # looking goes through all samples, so it is done every 5 % more of them


def block_runs(run_ms: float) -> int:
    """How many runs make a block: as many as take 20 ms, and one to ten."""
    return max(1, min(_BLOCK_RUNS, int(_BLOCK_MS / max(run_ms, 1e-3))))


class Turns(dict[Name, list[Block]]):
    """The blocks that each model has had so far, and why some were given up."""

    def __init__(self, names: Iterable[Name]) -> None:
        super().__init__({name: [] for name in names})
        self.failures: dict[Name, str] = {}

    def waiting(self, effort: Effort) -> list[Name]:
        """Who takes part in the next round: as long as one is not measured well enough, all below the caps.

        So that all have blocks of the same rounds, from which ratios are taken.
        """
        running = [name for name in self if name not in self.failures]
        if all(measured_enough(self[name], effort) for name in running):
            return []
        return [name for name in running if not exhausted(self[name], effort)]


def take_turns(
    models: Mapping[Name, RunBlock],
    run_ms: Mapping[Name, float],
    effort: Effort,
    *,
    after_round: Callable[[Turns[Name]], None] = lambda turns: None,
) -> Turns[Name]:
    """Runs blocks of the models in rounds of shuffled order until ``effort`` is satisfied for each.

    Args:
        models: what runs a block of the given number of runs and returns its latencies, in ms; what raises DeviceError
            is given up, and the others go on.
        run_ms: about what a run takes.
        effort: when a model is measured well enough.
        after_round: called after each round; what it raises ends the measurement.
    """
    turns: Turns[Name] = Turns(models)
    shuffle = random.Random(_SHUFFLE_SEED).shuffle  # noqa: S311 (an order, not a secret)
    rounds = next_look = 0
    waiting: list[Name] = []
    while True:
        if rounds >= next_look:
            waiting = turns.waiting(effort)
            next_look = rounds + 1 + rounds // _ROUNDS_PER_LOOK
        if not (waiting := [name for name in waiting if name not in turns.failures]):
            return turns
        rounds += 1
        shuffle(waiting)
        for name in waiting:
            try:
                turns[name].append(models[name](block_runs(run_ms[name])))
            except DeviceError as error:
                turns.failures[name] = str(error)
        after_round(turns)
