"""Heat: whether a device lowered its clock while it was measured, and running it until it is as hot as it gets."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from fleetfoot.errors import DeviceError
from profiling.statistics import Block

RunBlock = Callable[[int], Block]

_SLOWED = 0.90
_WINDOW_SECONDS = 20.0
_STEADY = 0.02
_MAX_SECONDS = 600.0
_BLOCK_RUNS = 10


class Clock:
    """The clock frequency of a Linux machine's processor, and its count of throttling, read now and then.

    Args:
        root: where ``/sys`` is.
    """

    def __init__(self, root: Path = Path("/sys")) -> None:
        cpus = root / "devices/system/cpu"
        self._frequencies = sorted(cpus.glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
        self._counts = sorted(cpus.glob("cpu[0-9]*/thermal_throttle/core_throttle_count"))
        self._readings: list[int] = []
        self._count = _total(self._counts)
        self.read()

    def read(self) -> None:
        """Takes note of the frequency now: of the fastest core, since idle ones are clocked down."""
        self._readings.append(max((_number(path) for path in self._frequencies), default=0))

    @property
    def throttled(self) -> bool:
        """Whether the system counted throttling since the start, or the busy core's clock fell by 10 %.

        It did where the median reading of the last third is so far below that of the first: single readings differ.
        """
        third = -(-len(self._readings) // 3)
        early, late = np.median(self._readings[:third]), np.median(self._readings[-third:])
        return _total(self._counts) > self._count or bool(late < _SLOWED * early)


def heat_up(
    models: Mapping[str, RunBlock],
    interrupt: Callable[[], None] = lambda: None,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Runs models in turn without a pause until the latency of a round stays within 2 % for 20 s, at most 10 minutes.

    Args:
        models: what runs a block of so many runs and returns its latencies, in ms; what raises DeviceError is left out.
        interrupt: called between rounds.
        clock: seconds.
    """
    running = dict(models)
    start = clock()
    before = _window(running, interrupt, clock)
    while running and clock() - start < _MAX_SECONDS:
        now = _window(running, interrupt, clock)
        if abs(now - before) <= _STEADY * before:
            return
        before = now


def _window(running: dict[str, RunBlock], interrupt: Callable[[], None], clock: Callable[[], float]) -> float:
    """The median time of a round over all models, in ms, over 20 s; takes out of ``running`` what fails."""
    start = clock()
    rounds: list[float] = []
    while running and (not rounds or clock() - start < _WINDOW_SECONDS):
        rounds.append(sum(_block_ms(running, name) for name in list(running)))
        interrupt()
    return float(np.median(rounds)) if rounds else 0.0


def _block_ms(running: dict[str, RunBlock], name: str) -> float:
    try:
        return float(np.median(running[name](_BLOCK_RUNS)))
    except DeviceError:  # why, it says again when it is measured
        del running[name]
        return 0.0


def _total(paths: list[Path]) -> int:
    return sum(_number(path) for path in paths)


def _number(path: Path) -> int:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
