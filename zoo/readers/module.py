"""Datasets that a function of the user's own makes: ``module:PACKAGE.MODULE:FUNCTION``."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import DataError, FleetfootError, UsageError
from zoo.datasets import Dataset, ReadOptions
from zoo.readers.arrays import dataset_of_arrays
from zoo.readers.faults import reason


def read(argument: str, _options: ReadOptions) -> Dataset:
    """Calls a function without arguments; it returns a ``Dataset``, or (x, y), or (x, y, classes).

    Modules are looked for in the working directory first, as ``python -m`` does.

    Raises:
        UsageError: that is not how a function is named, or the module has no such function.
        DataError: the module cannot be imported, the function fails, or what it returns is no dataset.
    """
    name = f"module:{argument}"
    made = _call(name, _find(name, argument))
    match made:
        case Dataset():
            _require_sound(name, made)
            return replace(made, name=name)
        case (x, y):
            return dataset_of_arrays(name, x, y)
        case (x, y, classes):
            return dataset_of_arrays(name, x, y, classes)
    raise DataError(f"{name} returned {type(made).__name__}: it has to return (x, y), (x, y, classes) or a Dataset")


def _find(name: str, argument: str) -> Callable[[], Any]:
    module_name, colon, function_name = argument.partition(":")
    if not (colon and module_name and function_name):
        raise UsageError(f"{name} names no function: module:PACKAGE.MODULE:FUNCTION does")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    with _told_of(f"{name} cannot be imported"):
        module = import_module(module_name)
    function = getattr(module, function_name, None)
    if not callable(function):
        raise UsageError(f"{name}: {module.__file__ or module_name} has no function {function_name}")
    return cast(Callable[[], Any], function)


def _call(name: str, function: Callable[[], Any]) -> Any:
    with _told_of(f"{name} failed"):
        return function()


@contextmanager
def _told_of(what: str) -> Iterator[None]:
    """Tells in one line what the user's code raised, and where."""
    try:
        yield
    except FleetfootError:
        raise
    except (Exception, SystemExit) as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise DataError(
            f"{what}: {type(error).__name__}: {reason(error)} ({Path(place.filename).name}, line {place.lineno})"
        ) from error


def _require_sound(name: str, dataset: Dataset) -> None:
    """Checks that what somebody made holds what it says."""
    if not all(isinstance(array, np.ndarray) for array in (dataset.x, dataset.y)):
        raise DataError(f"{name} returned a Dataset whose x and y are not arrays")
    examples = len(dataset.y)
    indices = dataset.test if dataset.test is not None else np.arange(0)
    checks = {
        "y is not (examples,) of integers": dataset.y.ndim == 1 and dataset.y.dtype.kind in "iu",
        f"x has shape {dataset.x.shape}, not {examples} times that of the input, {dataset.input.shape}":
            dataset.x.shape == (examples, *dataset.input.shape),
        f"x is {dataset.x.dtype}, and the input {dataset.input.dtype}": dataset.x.dtype == dataset.input.dtype,
        f"y is not from 0 to {len(dataset.classes) - 1}": _are_within(dataset.y, len(dataset.classes)),
        f"test is not from 0 to {examples - 1}, each once":
            _are_within(indices, examples) and len(np.unique(indices)) == len(indices),
        f"groups are not {examples}": dataset.groups is None or len(dataset.groups) == examples,
    }  # fmt: skip
    if wrong := [what for what, holds in checks.items() if not holds]:
        raise DataError(f"{name} returned a Dataset that does not hold together: {'; '.join(wrong)}")


def _are_within(indices: npt.NDArray[Any], count: int) -> bool:
    return not len(indices) or bool(indices.min() >= 0 and indices.max() < count)
