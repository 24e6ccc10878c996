"""Arrays of inputs and labels as a dataset, once they are found to be one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import DataError
from zoo.catalog import InputSpec
from zoo.datasets import Dataset, Indices
from zoo.readers.faults import listed, reason

Array = npt.NDArray[Any]

_IMAGE_CHANNELS = (1, 3)


def dataset_of_arrays(
    name: str, x: Any, y: Any, classes: Iterable[Any] | None = None, test: Indices | None = None
) -> Dataset:
    """Makes a dataset of arrays.

    Bytes stay what they are, and those of shape (examples, height, width) are taken for grey images. Other numbers
    become float32, and their range is that of the examples to learn from. What has shape (examples, height, width, 1
    or 3) are images.

    Args:
        name: how the dataset is found again.
        x: inputs, of shape (examples, ...).
        y: labels, of shape (examples,): class indices from 0 on, or names.
        classes: the names of the classes; by default the indices, or the names in the order of text.
        test: indices of the examples that are set apart for testing.

    Raises:
        DataError: the arrays are no dataset.
    """
    inputs = _inputs(name, _array(name, "x", x))
    labels, names = _labels(name, _array(name, "y", y), classes)
    if len(inputs) != len(labels):
        raise DataError(f"{name} has {len(inputs):,} inputs and {len(labels):,} labels: give each input its label")
    return Dataset(name=name, x=inputs, y=labels, classes=names, input=_spec(name, inputs, test), test=test)


def _array(name: str, what: str, values: Any) -> Array:
    try:
        array = np.asarray(values)
    except Exception as error:  # what is like an array decides itself what it raises
        raise DataError(f"{name} has {what} that is no array: {reason(error)}") from None
    is_text = array.dtype == object and all(isinstance(value, str) for value in array.ravel())
    return array.astype(str) if is_text else array


def _inputs(name: str, x: Array) -> Array:
    if x.ndim < 2 or 0 in x.shape:
        raise DataError(f"{name} has x of shape {x.shape}: it needs to be (examples, …), with something in it")
    if x.dtype.kind not in "iuf":
        raise DataError(f"{name} has x of type {x.dtype}: it needs to be numbers")
    if x.dtype == np.uint8:
        return x[..., np.newaxis] if x.ndim == 3 else x
    with np.errstate(over="ignore"):
        inputs = x.astype(np.float32, copy=False)
    finite = np.isfinite(inputs).all(axis=tuple(range(1, inputs.ndim)))
    if not finite.all():
        bad = np.flatnonzero(~finite).tolist()
        raise DataError(f"{name} has NaN or infinity in {len(bad):,} inputs, at {listed(map(str, bad))}: mend x")
    return inputs


def _labels(name: str, y: Array, classes: Iterable[Any] | None) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    if y.ndim != 1:
        raise DataError(f"{name} has y of shape {y.shape}: it needs to be (examples,), a label each")
    names = None if classes is None else _names(name, classes)
    if names is not None and len(set(names)) < len(names):
        raise DataError(f"{name} has a class name twice: {', '.join(names)}")
    if y.dtype.kind == "U":
        return _of_names(name, y, names)
    if y.dtype.kind in "iu":
        return _of_indices(name, y, names)
    raise DataError(f"{name} has y of type {y.dtype}: it needs to be integers from 0 on, or text")


def _names(name: str, classes: Any) -> tuple[str, ...]:
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise DataError(f"{name} has {classes!r} for classes: it needs to be a list of names")
    return tuple(str(label) for label in classes)


def _of_names(name: str, y: Array, names: tuple[str, ...] | None) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    found, indices = np.unique(y, return_inverse=True)
    names = names or tuple(found.tolist())
    if unknown := sorted(set(found.tolist()) - set(names)):
        raise DataError(f"{name} has labels that are not among its classes: {listed(unknown)}")
    positions = np.array([names.index(label) for label in found.tolist()], np.int64)
    return positions[indices], names


def _of_indices(name: str, y: Array, names: tuple[str, ...] | None) -> tuple[npt.NDArray[np.int64], tuple[str, ...]]:
    found = np.unique(y).tolist()
    count = len(names) if names else len(found)
    if found != list(range(count)) and not (names and found and found[0] >= 0 and found[-1] < count):
        raise DataError(
            f"{name} has the labels {listed(map(str, found))}, and its {count} classes are numbered from 0 to "
            f"{count - 1}: renumber y, or make it text"
        )
    return y.astype(np.int64), names or tuple(str(label) for label in found)


def _spec(name: str, x: Array, test: Indices | None) -> InputSpec:
    minimum, maximum = (0.0, 255.0) if x.dtype == np.uint8 else _range(name, x, test)
    return InputSpec(
        kind="image" if x.ndim == 4 and x.shape[-1] in _IMAGE_CHANNELS else "tensor",
        shape=x.shape[1:],
        dtype=str(x.dtype),
        minimum=minimum,
        maximum=maximum,
    )


def _range(name: str, x: Array, test: Indices | None) -> tuple[float, float]:
    """The least and the greatest value of the examples to learn from; those for testing may lie beyond."""
    learning = x if test is None else np.delete(x, test, axis=0)
    if not len(learning):
        raise DataError(f"{name} has no examples to learn from: all its examples are for testing")
    minimum, maximum = float(learning.min()), float(learning.max())
    if minimum == maximum:
        raise DataError(f"{name} has nothing but {minimum:g} in x")
    return minimum, maximum
