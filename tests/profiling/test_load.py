from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from profiling.load import busy_processes


def children(parent: int) -> set[int]:
    """The ids of a process's children that run."""
    found = set()
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and fields[0] != "Z":
                found.add(int(stat.parent.name))
    return found


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def processor_seconds(process: int) -> float:
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def soon(happens: Callable[[], bool], seconds: float = 60) -> bool:
    """Whether something happens within a generous time."""
    end = time.monotonic() + seconds
    while not happens():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_busy_processes_compute_all_the_time_and_end_with_the_block() -> None:
    before = children(os.getpid())
    with busy_processes(2):
        started = children(os.getpid()) - before
        assert len(started) == 2
        at_first = {process: processor_seconds(process) for process in started}
        assert soon(lambda: all(processor_seconds(process) > at_first[process] + 0.3 for process in started))
    assert children(os.getpid()) == before


def test_a_busy_process_keeps_one_core_busy_and_no_more() -> None:
    before = children(os.getpid())
    with busy_processes(1):
        (process,) = children(os.getpid()) - before
        start, at_first = time.monotonic(), processor_seconds(process)
        assert soon(lambda: processor_seconds(process) > at_first + 0.5)
        used = processor_seconds(process) - at_first
        assert used <= 1.1 * (time.monotonic() - start) + 0.05


def test_no_busy_processes_are_none() -> None:
    before = children(os.getpid())
    with busy_processes(0):
        assert children(os.getpid()) == before


def test_they_end_when_the_block_fails() -> None:
    before = children(os.getpid())
    with pytest.raises(ZeroDivisionError), busy_processes(2):
        raise ZeroDivisionError
    assert children(os.getpid()) == before


MEASURE = """
import time
from profiling.load import busy_processes

with busy_processes(2):
    print("measuring", flush=True)
    time.sleep(300)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_they_end_without_a_word_when_who_measures_is_killed(number: signal.Signals) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", MEASURE], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert parent.stdout is not None
    assert parent.stdout.readline() == "measuring\n"
    busy = children(parent.pid)
    assert len(busy) == 2
    os.killpg(parent.pid, number)  # as Ctrl-C in a terminal does
    _, said = parent.communicate(timeout=60)
    assert said.count("Traceback") == (1 if number == signal.SIGINT else 0)
    assert soon(lambda: not any(is_running(process) for process in busy))
