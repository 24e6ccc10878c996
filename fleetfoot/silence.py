"""Libraries that write to standard error whatever one tells them."""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_lock = threading.RLock()


@contextmanager
def silenced() -> Iterator[Callable[[], str]]:
    """Keeps back what libraries write to standard error, from C++ too; yields a function that returns it."""
    with _lock, tempfile.TemporaryFile() as kept:
        stderr = os.dup(2)
        os.dup2(kept.fileno(), 2)

        def written() -> str:
            kept.seek(0)
            return kept.read().decode(errors="replace").strip()

        try:
            yield written
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
