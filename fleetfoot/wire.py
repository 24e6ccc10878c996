"""What travels between clients and services: arrays as bytes, errors by their names.

Nothing that is received is turned into anything but these.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from Pyro5.api import register_class_to_dict, register_dict_to_class

from fleetfoot import errors
from fleetfoot.errors import FleetfootError, InputError

SERIALIZER = "msgpack"


def pack_array(x: npt.ArrayLike) -> dict[str, Any]:
    """An array as its type, shape and bytes."""
    try:
        array = np.asarray(x)
    except ValueError as error:
        raise InputError(f"the input is no array: {error}") from None
    if array.dtype.hasobject:
        raise InputError("the input is no array of numbers")
    return {"dtype": array.dtype.str, "shape": list(array.shape), "data": array.tobytes()}


def unpack_array(packed: Any) -> npt.NDArray[Any]:
    """The array in ``pack_array``'s form, or in nested lists of numbers, as clients in other languages send.

    Raises:
        InputError: it is neither.
    """
    try:
        if not isinstance(packed, dict):
            return np.asarray(_numbers(packed))
        dtype = np.dtype(packed["dtype"])
        if dtype.kind not in "iuf":
            raise InputError(f"the input is {dtype}, and must be numbers")
        shape = tuple(int(size) for size in packed["shape"])
        data = packed["data"]
        if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != len(data):
            raise InputError(f"the input's {len(data)} bytes are not of shape {shape} and type {dtype}")
        return np.frombuffer(data, dtype).reshape(shape)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"the input is no array: {error}") from None


def _numbers(nested: Any) -> Any:
    """Nested lists of numbers as they are; of anything else, nothing is asked that its class could answer."""
    if type(nested) in (int, float):
        return nested
    if type(nested) in (list, tuple):
        return [_numbers(item) for item in nested]
    raise TypeError(f"{type(nested).__name__} among nested lists of numbers")


def register_errors() -> None:
    """Lets Fleetfoot's errors arrive at the client as what they are, by their names and messages alone."""
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, FleetfootError):
            register_class_to_dict(kind, _error_to_dict)
            register_dict_to_class(f"fleetfoot.{kind.__name__}", _dict_to_error)


def _error_to_dict(error: FleetfootError) -> dict[str, Any]:
    return {"__class__": f"fleetfoot.{type(error).__name__}", "__exception__": True, "message": str(error)}


def _dict_to_error(name: str, fields: dict[str, Any]) -> FleetfootError:
    kind: type[FleetfootError] = getattr(errors, name.removeprefix("fleetfoot."))
    return kind(str(fields["message"]))
