"""What travels between the selector's client and service beside arrays and errors: objectives, as dictionaries."""

from __future__ import annotations

from typing import Any

import msgspec

from fleetfoot.errors import RequestError
from premodel.policy import Objective


def pack_objective(objective: Objective | None) -> Any:
    """An objective as a dictionary, or nothing."""
    return None if objective is None else msgspec.to_builtins(objective)


def unpack_objective(packed: Any) -> Objective | None:
    """The objective in ``pack_objective``'s form.

    Raises:
        RequestError: it is none.
    """
    try:
        return msgspec.convert(packed, type=Objective | None)
    except msgspec.ValidationError as error:
        raise RequestError(f"the objective is none: {error}") from None
