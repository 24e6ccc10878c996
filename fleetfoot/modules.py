"""Somebody's own Python modules, found from the directory that a command is run in."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

from fleetfoot.errors import UsageError


def import_from_here(module: str, attribute: str | None = None) -> Any:
    """Imports a module, from the current directory too, and takes an attribute of it if one is named.

    Raises:
        UsageError: the module cannot be imported, or has no such attribute.
    """
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        imported = import_module(module)
    except Exception as error:  # somebody else's module may raise anything
        raise UsageError(f"module {module!r} cannot be imported: {type(error).__name__}: {error}") from error
    if attribute is None:
        return imported
    if not hasattr(imported, attribute):
        raise UsageError(f"module {module!r} has no {attribute!r}")
    return getattr(imported, attribute)
