"""Runs every benchmark in a process of its own; each writes its numbers to ``benchmarks/results``.

Usage: python benchmarks/run.py [NAME ...]
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def main(names: list[str]) -> None:
    """Runs the named benchmarks, or all."""
    scripts = [HERE / f"bench_{name}.py" for name in names] or sorted(HERE.glob("bench_*.py"))
    for script in scripts:
        subprocess.run([sys.executable, script], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
