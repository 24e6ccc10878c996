"""The journal: every candidate that was made, appended as soon as it is finished, so that nothing is made twice."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from fleetfoot.console import warn
from fleetfoot.errors import ZooError
from zoo.catalog import Variant
from zoo.recipe import Recipe


class Trial(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What became of a proposal: the variants that were made, and how long it took."""

    variants: tuple[Variant, ...]
    seconds: float


class Journal:
    """A file of trials, a line each."""

    FILE: ClassVar[str] = "search/trials.jsonl"

    def __init__(self, path: Path) -> None:
        self._path = path
        self._finished = {_identity([v.recipe for v in trial.variants]): trial for trial in self._read()}

    def __contains__(self, recipes: Sequence[Recipe]) -> bool:
        """Whether these recipes were made together before."""
        return _identity(recipes) in self._finished

    def trial(self, recipes: Sequence[Recipe]) -> Trial:
        """The trial in which these recipes were made."""
        return self._finished[_identity(recipes)]

    def append(self, trial: Trial) -> None:
        """Adds a trial and flushes it to the disk."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab") as file:
            file.write(msgspec.json.encode(trial) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._finished[_identity([variant.recipe for variant in trial.variants])] = trial

    def _read(self) -> list[Trial]:
        """The trials; a last line that a crash cut short is dropped from the file, and said."""
        if not self._path.exists():
            return []
        data = self._path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            warn(f"{self._path}: the last line was cut short and is dropped")
            os.truncate(self._path, len(whole))
        try:
            return [msgspec.json.decode(line, type=Trial) for line in whole.splitlines()]
        except msgspec.DecodeError as error:
            raise ZooError(f"{self._path} is damaged ({error}): delete it, and its variants are made again") from None


def _identity(recipes: Sequence[Recipe]) -> tuple[str, ...]:
    return tuple(recipe.digest for recipe in recipes)
