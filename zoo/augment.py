"""Changing training inputs at random in ways that leave their class as it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import UsageError
from zoo.catalog import InputSpec

Array = npt.NDArray[Any]

_SHIFT_SHARE = 1 / 16


def flip(x: Array, random: np.random.Generator) -> Array:
    """Mirrors half of the images, of shape (examples, height, width, channels), left to right."""
    flipped = x.copy()
    chosen = random.random(len(x)) < 0.5
    flipped[chosen] = flipped[chosen, :, ::-1]
    return flipped


def shift(x: Array, random: np.random.Generator) -> Array:
    """Moves images by up to a sixteenth of their height and width, recordings in time; edges are repeated.

    Images have shape (examples, height, width, channels), recordings (examples, samples).
    """
    sizes = x.shape[1:-1] or x.shape[1:]
    most = [max(1, round(size * _SHIFT_SHARE)) for size in sizes]
    unmoved = [(0, 0)] * (x.ndim - 1 - len(sizes))
    padded = np.pad(x, [(0, 0), *((by, by) for by in most), *unmoved], mode="edge")
    moved = np.empty_like(x)
    for index, starts in enumerate(random.integers(0, [2 * by + 1 for by in most], (len(x), len(most)))):
        window = tuple(slice(start, start + size) for start, size in zip(starts, sizes, strict=True))
        moved[index] = padded[index][window]
    return moved


AUGMENTATIONS: Mapping[str, Callable[[Array, np.random.Generator], Array]] = {"flip": flip, "shift": shift}
_FOR = {"flip": ("image",), "shift": ("image", "audio")}


def check_augmentations(names: Sequence[str], spec: InputSpec) -> None:
    """Makes sure that inputs can be changed in these ways.

    Raises:
        UsageError: there is no such way, or it is for inputs of another kind.
    """
    for name in names:
        if name not in AUGMENTATIONS:
            raise UsageError(f"unknown augmentation {name!r}: there is {', '.join(AUGMENTATIONS)}")
        if spec.kind not in _FOR[name]:
            raise UsageError(f"{name!r} is for inputs of kind {' and '.join(_FOR[name])}, and these are {spec.kind}")


def augment(x: Array, names: Sequence[str], random: np.random.Generator) -> Array:
    """Inputs changed in each of these ways, in this order."""
    for name in names:
        x = AUGMENTATIONS[name](x, random)
    return x
