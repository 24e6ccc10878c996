"""Arrays in a NumPy archive: ``x`` and ``y``, and if they are there ``x_test`` and ``y_test``, and ``classes``.

``x_train`` and ``y_train`` are other names of ``x`` and ``y``, those of Keras's own archives.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fleetfoot.errors import DataError
from zoo.datasets import Dataset, ReadOptions
from zoo.readers.arrays import Array, dataset_of_arrays
from zoo.readers.faults import reason
from zoo.readers.tree import resolve

_WANTED = ("x", "y", "x_test", "y_test", "classes")
_ALSO_CALLED = {"x": "x_train", "y": "y_train"}


def read(argument: str, _options: ReadOptions) -> Dataset:
    """Reads an ``.npz`` file; what its arrays may be is said by ``dataset_of_arrays``.

    Raises:
        UsageError: no path.
        DataError: no such file, or its arrays are no dataset.
    """
    path = resolve("npz", argument)
    name = f"npz:{path}"
    arrays = _load(path)
    learning = len(arrays["x"])
    if len(arrays["y"]) != learning:
        raise DataError(f"{name} has {learning:,} inputs and {len(arrays['y']):,} labels: give each input its label")
    if "x_test" in arrays:
        arrays["x"] = _joined(name, arrays["x"], arrays["x_test"], "x_test")
        arrays["y"] = _joined(name, arrays["y"], arrays["y_test"], "y_test")
    test = np.arange(learning, len(arrays["x"])) if "x_test" in arrays else None
    return dataset_of_arrays(name, arrays["x"], arrays["y"], arrays.get("classes"), test)


def _load(path: Path) -> dict[str, Array]:
    """The arrays that are wanted of a file, those that a dataset needs among them."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            offered = list(archive.files)
            called = {name: name if name in offered else _ALSO_CALLED.get(name, name) for name in _WANTED}
            arrays = {name: np.atleast_1d(archive[key]) for name, key in called.items() if key in offered}
    except Exception as error:  # a damaged file raises anything
        raise DataError(f"{path} is no .npz file of plain arrays: {reason(error)}; write it with numpy.savez") from None
    needed = _WANTED if {"x_test", "y_test"} & arrays.keys() else _WANTED[:2]
    if missing := [name for name in needed if name not in arrays and name != "classes"]:
        raise DataError(f"{path} holds {', '.join(offered) or 'nothing'}: it needs {' and '.join(missing)} too")
    return arrays


def _joined(name: str, learning: Array, test: Array, what: str) -> Array:
    are_bytes = [array.dtype == np.uint8 for array in (learning, test)]
    if learning.shape[1:] != test.shape[1:] or learning.dtype.kind != test.dtype.kind or len(set(are_bytes)) > 1:
        raise DataError(
            f"{name} has {what} of {test.dtype} and shape {test.shape}, unlike the {learning.dtype} of shape "
            f"{learning.shape} to learn from: give both the same form"
        )
    return np.concatenate([learning, test])
