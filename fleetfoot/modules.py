"""Somebody's own Python modules, found from the directory that a command is run in."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any, cast

from fleetfoot.errors import FleetfootError, UsageError

_LONGEST = 300


def import_from_here(module: str, attribute: str | None = None) -> Any:
    """Imports a module, from the current directory too, and takes an attribute of it if one is named.

    Raises:
        UsageError: the module cannot be imported, or has no such attribute.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    with _told_of(f"module {module!r} cannot be imported:", UsageError):
        imported = importlib.import_module(module)
    if attribute is None:
        return imported
    if not hasattr(imported, attribute):
        raise UsageError(f"module {module!r} has no {attribute!r}")
    return getattr(imported, attribute)


def function_from_here(name: str) -> Callable[[], Any]:
    """Takes the function that is named ``package.module:function``.

    Raises:
        UsageError: that is not how a function is named, its module cannot be imported, or has no such function.
    """
    module, _, function = name.partition(":")
    if not (module and function):
        raise UsageError(f"{name!r} names no function: PACKAGE.MODULE:FUNCTION does")
    found = import_from_here(module, function)
    if not callable(found):
        raise UsageError(f"{function!r} of module {module!r} is no function")
    return cast(Callable[[], Any], found)


def call_theirs(name: str, function: Callable[[], Any], kind: type[FleetfootError]) -> Any:
    """Calls somebody's function.

    Args:
        name: what to call it in errors.
        function: the function.
        kind: the error that is raised where theirs raises anything but an error of Fleetfoot's.
    """
    with _told_of(f"{name}() raised", kind):
        return function()


@contextmanager
def _told_of(what: str, kind: type[FleetfootError]) -> Iterator[None]:
    """Tells in one line what somebody's code raised, and where; it may raise anything, or exit."""
    try:
        yield
    except FleetfootError:
        raise
    except (Exception, SystemExit) as error:
        said = shorten(f"{type(error).__name__}: {error}", _LONGEST, placeholder=" …").removesuffix(":")
        raise kind(f"{what} {said}{_place(error)}") from error


def _place(error: BaseException) -> str:
    """The last line of somebody's code that an exception came through, in their own project rather than a package."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in (__file__, importlib.__file__) and not frame.filename.startswith("<")
    ]
    here = str(Path.cwd())
    own = [frame for frame in frames if frame.filename.startswith(here) and "site-packages" not in frame.filename]
    last = next(reversed(own or frames), None)
    return f" ({Path(last.filename).name}, line {last.lineno})" if last else ""
