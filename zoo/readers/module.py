"""Datasets that a function of the user's own makes: ``module:PACKAGE.MODULE:FUNCTION``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from types import NoneType
from typing import Any

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import DataError
from fleetfoot.modules import call_theirs, function_from_here
from zoo.catalog import InputSpec
from zoo.datasets import Dataset, ReadOptions
from zoo.readers.arrays import dataset_of_arrays

_TYPES: Mapping[str, tuple[type, ...]] = {
    "x": (np.ndarray,),
    "y": (np.ndarray,),
    "classes": (tuple, list),
    "input": (InputSpec,),
    "test": (np.ndarray, NoneType),
    "groups": (tuple, list, NoneType),
}


def read(argument: str, _options: ReadOptions) -> Dataset:
    """Calls a function without arguments; it returns a ``Dataset``, or (x, y), or (x, y, classes).

    Modules are looked for in the working directory first, as ``python -m`` does.

    Raises:
        UsageError: that is not how a function is named, its module cannot be imported, or has no such function.
        DataError: the function fails, or what it returns is no dataset.
    """
    name = f"module:{argument}"
    made = call_theirs(name, function_from_here(argument), DataError)
    match made:
        case Dataset():
            _require_sound(name, made)
            return replace(made, name=name, y=made.y.astype(np.int64), classes=tuple(map(str, made.classes)))
        case (x, y):
            return dataset_of_arrays(name, x, y)
        case (x, y, classes):
            return dataset_of_arrays(name, x, y, classes)
    raise DataError(f"{name} returned {type(made).__name__}: it has to return (x, y), (x, y, classes) or a Dataset")


def _require_sound(name: str, dataset: Dataset) -> None:
    """Checks that what somebody made holds what it says."""
    if wrong := [what for what, kinds in _TYPES.items() if not isinstance(getattr(dataset, what), kinds)]:
        types = ", ".join(f"{what} is {type(getattr(dataset, what)).__name__}" for what in wrong)
        raise DataError(f"{name} returned a Dataset of other types than its fields have: {types}")
    x, y, spec, examples = dataset.x, dataset.y, dataset.input, dataset.y.size
    test = dataset.test if dataset.test is not None else np.arange(0)
    checks = {
        "y is not (examples,) of integers": y.ndim == 1 and y.dtype.kind in "iu",
        f"y is not from 0 to {len(dataset.classes) - 1}": _are_indices(y, len(dataset.classes)),
        f"x has shape {x.shape}, not {examples} times that of the input, {spec.shape}":
            x.shape == (examples, *spec.shape),
        f"x is {x.dtype}, and the input {spec.dtype}": x.dtype == spec.dtype,
        f"the input has shape {spec.shape}": bool(spec.shape) and 0 not in spec.shape,
        "x has NaN or infinity": x.dtype.kind != "f" or bool(np.isfinite(x).all()),
        f"the input is from {spec.minimum:g} to {spec.maximum:g}": spec.minimum < spec.maximum,
        f"test is not from 0 to {examples - 1}, each once":
            _are_indices(test, examples) and len(np.unique(test)) == len(test),
        f"groups are not {examples}": dataset.groups is None or len(dataset.groups) == examples,
    }  # fmt: skip
    if broken := [what for what, holds in checks.items() if not holds]:
        raise DataError(f"{name} returned a Dataset that does not hold together: {'; '.join(broken)}")


def _are_indices(values: npt.NDArray[Any], count: int) -> bool:
    return (
        values.ndim == 1
        and values.dtype.kind in "iu"
        and (not len(values) or bool(values.min() >= 0 and values.max() < count))
    )
