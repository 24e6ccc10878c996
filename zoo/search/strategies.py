"""The strategies by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from fleetfoot.errors import UsageError, offer
from zoo.search.grid import Grid
from zoo.search.options import GridOptions
from zoo.search.strategy import Strategy, Task

STRATEGIES: Mapping[str, Callable[[Task, GridOptions], Strategy]] = {"grid": Grid}


def make_strategy(name: str, task: Task, options: GridOptions) -> Strategy:
    """The strategy of that name.

    Raises:
        UsageError: there is none, or options that cannot be meant.
    """
    if name not in STRATEGIES:
        raise UsageError(f"unknown strategy {name!r}: {offer(name, STRATEGIES)}")
    return STRATEGIES[name](task, options)
