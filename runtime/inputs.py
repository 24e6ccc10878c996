"""Raw inputs from files, as a zoo takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from fleetfoot.errors import InputError
from runtime.answers import Description

_ARRAY_SUFFIX = ".npy"
_MODES = {1: "L", 3: "RGB"}


def read_input(path: Path, served: Description) -> npt.NDArray[Any]:
    """Reads one raw input from an array (``.npy``) or an image file.

    An array is taken as it is. An image is brought to the zoo's number of channels, and its 0–255 to
    the zoo's range of values; its size must be the zoo's.

    Raises:
        InputError: the file is missing, damaged, or neither.
    """
    try:
        return _read_array(path) if path.suffix == _ARRAY_SUFFIX else _read_image(path, served)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except InputError:
        raise
    except Exception as error:  # NumPy and Pillow raise many things at damaged files
        raise InputError(f"{path} is no readable {_ARRAY_SUFFIX} or image file: {error}") from None


def _read_array(path: Path) -> npt.NDArray[Any]:
    array = np.load(path, allow_pickle=False, mmap_mode="r")  # a map, so that a lying header costs no memory
    if not isinstance(array, np.ndarray):
        array.close()
        raise InputError(f"{path} holds several arrays, and must hold one")
    return np.array(array)


def _read_image(path: Path, served: Description) -> npt.NDArray[Any]:
    if len(served.input_shape) != 3 or served.input_shape[-1] not in _MODES:
        raise InputError(f"{path} is an image, and this zoo takes arrays of shape {served.input_shape}")
    height, width, channels = served.input_shape
    with Image.open(path) as image:
        if image.size != (width, height):  # known before anything large is decoded
            raise InputError(f"{path} is {image.width}x{image.height} pixels, and this zoo takes {width}x{height}")
        pixels = np.asarray(image.convert(_MODES[channels]), np.float32).reshape(served.input_shape)
    low, high = served.input_range
    return (low + pixels * ((high - low) / 255)).astype(served.input_dtype)
