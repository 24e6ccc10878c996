"""A load generator: processes that keep every core busy beside what is measured, each ``python -m profiling.load``."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

_MATRIX = 256  # its products keep the arithmetic units busy, and some of the second-level cache
_ONE_CORE = {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "OMP", "MKL")}


@contextmanager
def busy_processes(count: int) -> Iterator[None]:
    """Keeps ``count`` processes computing at normal priority; they end with the block, or with this process."""
    with ExitStack() as stack:
        for _ in range(count):
            process = subprocess.Popen(
                [sys.executable, "-m", "profiling.load"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | _ONE_CORE,
                start_new_session=True,  # so that Ctrl-C is this process's affair
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            assert process.stdout is not None
            process.stdout.readline()  # it computes from now on
        yield


def main() -> None:
    """Multiplies matrices until standard input ends, which it does when the parent dies."""
    ended = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        ended.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    x = np.random.default_rng(0).standard_normal((_MATRIX, _MATRIX))
    sys.stdout.write("busy\n")
    sys.stdout.flush()
    while not ended.is_set():
        x = np.tanh(x @ x / _MATRIX)


if __name__ == "__main__":
    main()
