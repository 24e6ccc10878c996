"""Where Fleetfoot keeps what it can make again, and what it must not lose, outside any zoo."""

from __future__ import annotations

import os
from pathlib import Path

CACHE_VARIABLE = "FLEETFOOT_CACHE"


def cache_directory() -> Path:
    """``$FLEETFOOT_CACHE``, or ``fleetfoot`` where the system keeps caches."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    return _system_folder("XDG_CACHE_HOME", ".cache")


def config_directory() -> Path:
    """``fleetfoot`` where the system keeps settings; keys and tokens are here."""
    return _system_folder("XDG_CONFIG_HOME", ".config")


def _system_folder(variable: str, default: str) -> Path:
    folder = os.environ.get(variable)
    return (Path(folder) if folder else Path.home() / default) / "fleetfoot"
