"""The variants of a zoo, open and warm, each run by its id."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from fleetfoot.console import warn
from fleetfoot.errors import DamagedFileError, ModelError, ZooError
from profiling.invoke import Model, Runner
from zoo.catalog import Zoo

Array = npt.NDArray[Any]


class _Opened(NamedTuple):
    """A variant's function, and the lock of the interpreter that it shares with others in the same file."""

    run: Runner
    lock: threading.Lock


class Engine:
    """Every variant whose file is the one that was built, opened ahead; the others are left out with a warning.

    Args:
        zoo: the zoo.
        threads: of each interpreter, as in the profile.

    Raises:
        ZooError: no variant can be used.
    """

    def __init__(self, zoo: Zoo, threads: int = 1) -> None:
        self._opened: dict[str, _Opened] = {}
        files: dict[Path, tuple[Model, threading.Lock]] = {}
        for variant in zoo.manifest.variants:
            try:
                path = zoo.verified_file(variant.id)
                if path not in files:
                    files[path] = Model(path, threads), threading.Lock()
                model, lock = files[path]
                runner = model.runner(variant.signature)
                runner.warm_up()
                self._opened[variant.id] = _Opened(runner, lock)
            except (DamagedFileError, ModelError) as error:
                warn(f"{variant.id} is left out: {error}")
        if not self._opened:
            raise ZooError(f"{zoo.path} has no variant that can be used")

    @property
    def variants(self) -> tuple[str, ...]:
        """The ids of the variants that can be run."""
        return tuple(self._opened)

    def run(self, variant: str, x: Array) -> Array:
        """The probabilities, of shape (classes,), that a variant gives for a checked input of shape (1, …)."""
        opened = self._opened[variant]
        with opened.lock:
            probabilities: Array = opened.run(x)[0]
        return probabilities
