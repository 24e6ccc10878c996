"""Serves the choice: an input and a budget in, an answer out, in this process or from a service.

::

    from runtime import Selector, connect

    selector = Selector.open("my-zoo")                      # in this process
    selector = connect("PYRO:selector@127.0.0.1:9090")      # or in the service
    answer = selector.infer(image, budget_ms=8)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from runtime.answers import Answer
    from runtime.client import connect
    from runtime.selector import Selector

__all__ = ["Answer", "Selector", "connect"]

_HOMES = {"Answer": "runtime.answers", "Selector": "runtime.selector", "connect": "runtime.client"}


def __getattr__(name: str) -> Any:
    """Imports on first use, so that an app that is only a client needs no LiteRT."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)
