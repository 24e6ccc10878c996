"""Every error that Fleetfoot raises on purpose.

::

    FleetfootError
    ├── UsageError             an option or argument that cannot be meant (exit status 2)
    ├── DataError              a dataset that cannot be read, or that does not fit
    ├── ModelError             a network that cannot be loaded, cut or trained
    │   └── ExportError        a network that cannot be converted, or whose conversion answers otherwise
    ├── ZooError               a zoo directory that cannot be used
    │   ├── NotAZooError       nothing there, or something else
    │   ├── SchemaError        a file that is not of the form, or of a newer form, than this version reads
    │   ├── DamagedFileError   a file that is not the one that was recorded
    │   └── StaleError         a file that was made for other variants than the zoo has now
    ├── DeviceError            a device that is not there, or a measurement that failed
    ├── RequestError           a request that cannot be served as it was asked
    │   ├── InputError         an input of the wrong shape or type, or with values that are no numbers
    │   ├── BudgetError        a budget that is no positive number of milliseconds
    │   └── OverBudgetError    no variant can keep the budget, and the caller asked to be refused then
    └── ServiceError           a service that cannot start, or cannot be reached

Messages are one line: what was wrong, where, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_MOST_OFFERED = 12


class FleetfootError(Exception):
    """Root of the tree; ``exit_status`` is what a command that dies of it returns."""

    exit_status = 1


class UsageError(FleetfootError):
    """An option or argument that cannot be meant."""

    exit_status = 2


class DataError(FleetfootError):
    """A dataset that cannot be read, or that does not fit."""


class ModelError(FleetfootError):
    """A network that cannot be loaded, cut or trained."""


class ExportError(ModelError):
    """A network that cannot be converted, or whose conversion answers otherwise."""


class ZooError(FleetfootError):
    """A zoo directory that cannot be used."""


class NotAZooError(ZooError):
    """Nothing is there, or something other than a zoo."""


class SchemaError(ZooError):
    """A file that is not of the form, or of a newer form, than this version reads."""


class DamagedFileError(ZooError):
    """A file that is not the one that was recorded."""


class StaleError(ZooError):
    """A file that was made for other variants than the zoo has now."""


class DeviceError(FleetfootError):
    """A device that is not there, or a measurement that failed."""


class RequestError(FleetfootError):
    """A request that cannot be served as it was asked."""


class InputError(RequestError):
    """An input of the wrong shape or type, or with values that are no numbers."""


class BudgetError(RequestError):
    """A budget that is no positive number of milliseconds."""

    exit_status = 2


class OverBudgetError(RequestError):
    """No variant can keep the budget, and the caller asked to be refused then."""


class ServiceError(FleetfootError):
    """A service that cannot start, or cannot be reached."""


def first_line(error: BaseException) -> str:
    """The first line of what an exception says, or its type where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)


def offer(name: str, known: Iterable[str]) -> str:
    """What to say of the names that there are, when somebody gave another: the nearest, or the first of all."""
    names = list(known)
    near = get_close_matches(name, names)
    if near:
        return f"did you mean {' or '.join(near)}?"
    rest = f" and {len(names) - _MOST_OFFERED} more" if len(names) > _MOST_OFFERED else ""
    there = "there is" if len(names) == 1 else "there are"
    return f"{there} {', '.join(names[:_MOST_OFFERED])}{rest}" if names else "there are none"
