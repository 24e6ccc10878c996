"""Files that cannot be used: they are named, counted, and refused or skipped as the caller wants."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from fleetfoot.console import note
from fleetfoot.errors import DataError
from zoo.datasets import ReadOptions

MOST_NAMED = 3

Faults = Mapping[str, str]
"""Why files cannot be used, by path below the tree."""

_LONGEST_REASON = 120


def refuse(name: str, faults: Faults, files: int, options: ReadOptions, advice: str) -> None:
    """Refuses a dataset for files that cannot be used.

    Args:
        name: the dataset's.
        faults: the files that cannot be used.
        files: how many there are in all.
        options: whether the caller wants to skip them instead.
        advice: what can be done about them.

    Raises:
        DataError: there are such files, and the caller does not want to skip them or there are no others.
    """
    if faults and (options.on_bad == "refuse" or len(faults) == files):
        raise DataError(f"{_summary(name, faults, files)}; {advice}")


def report_skipped(name: str, faults: Faults, files: int) -> None:
    """Says which files are skipped, if any are."""
    if faults:
        note(f"{_summary(name, faults, files)}; they are skipped")


def reason(error: BaseException) -> str:
    """What an exception says, in one line that is not too long."""
    text = (isinstance(error, OSError) and error.strerror) or str(error) or type(error).__name__
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_REASON else f"{line[:_LONGEST_REASON]}…"


def listed(names: Iterable[str]) -> str:
    """The first few of some names, and how many more there are."""
    names = list(names)
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")


def _summary(name: str, faults: Faults, files: int) -> str:
    first = listed(f"{path} ({why})" for path, why in faults.items())
    return f"{name}: {len(faults):,} of {files:,} files cannot be used: {first}"
