"""The whole way on real scans: build a zoo, train its premodel, serve it, and ask it under several budgets.

Usage: python examples/demo.py ZOO_DIRECTORY
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fleetfoot.console import note, print_table
from runtime import connect
from zoo.catalog import Zoo
from zoo.datasets import Dataset, Indices, load_dataset
from zoo.record import BuildRecord

BIN = Path(sys.executable).parent
BUDGET_FRACTIONS = (0.15, 0.2, 0.3, 0.5, 1.0)
"""The budgets, as fractions of the base model's median latency on this machine."""


class Row(NamedTuple):
    """What the service did under one budget: with one digit from the shell, and with every test digit."""

    fraction: float
    budget_ms: float
    asked: dict[str, Any]
    mostly: str
    right: float
    in_budget: float
    median_ms: float


def main(path: Path) -> None:
    """Runs the four commands on the zoo directory ``path`` and prints what the service did."""
    start = time.monotonic()
    run("build-zoo", "--out", path, "--finetune-epochs", 4)
    run("train-premodel", path)
    with serving(path) as uri, tempfile.TemporaryDirectory() as scratch:
        rows = ask_all(path, uri, Path(scratch) / "digit.npy")
    print_rows(rows)
    note(f"The zoo stays in {path}. All of this took {time.monotonic() - start:.0f} seconds.")


def run(*command: object) -> str:
    """Runs a command as from the shell, showing it; returns what it prints when that is JSON."""
    words = [str(word) for word in command]
    note(f"\n$ {shlex.join(words)}")
    kept = subprocess.PIPE if "--json" in words else None
    finished = subprocess.run([BIN / words[0], *words[1:]], stdout=kept, text=True, check=False)
    if finished.returncode:
        sys.exit(finished.returncode)
    note((finished.stdout or "").rstrip())
    return finished.stdout or ""


@contextmanager
def serving(path: Path) -> Iterator[str]:
    """Runs the service on a free port; yields its URI and ends it by SIGTERM."""
    note(f"\n$ serve-zoo {path} --port 0 &")
    service = subprocess.Popen([BIN / "serve-zoo", path, "--port", "0"], stdout=subprocess.PIPE, text=True)
    assert service.stdout is not None
    try:
        uri = service.stdout.readline().strip()
        if not uri:
            sys.exit("the service did not start")
        note(uri)
        yield uri
    finally:
        service.terminate()
        service.communicate()


def ask_all(path: Path, uri: str, digit: Path) -> list[Row]:
    """Asks the service under each budget, with the first test digit written to ``digit`` for the shell."""
    zoo = Zoo.open(path)
    (profile,) = zoo.profiles()
    record = BuildRecord.read(path / BuildRecord.FILE)
    dataset, test = load_dataset(record.options.data, record.options.read), record.indices()["test"]
    np.save(digit, dataset.x[test[0]])
    base_ms = profile.measurements[zoo.manifest.variants[0].id].latency.p50_ms
    return [ask(uri, digit, fraction, round(fraction * base_ms, 3), dataset, test) for fraction in BUDGET_FRACTIONS]


def ask(uri: str, digit: Path, fraction: float, budget_ms: float, dataset: Dataset, test: Indices) -> Row:
    """Asks for one test digit from the shell, then for all of them from Python."""
    asked = json.loads(run("query-zoo", "--uri", uri, "--input", digit, "--budget-ms", budget_ms, "--json"))
    with connect(uri) as selector:
        answers = [selector.infer(dataset.x[index], budget_ms) for index in test]
    right = [answer.index == dataset.y[index] for answer, index in zip(answers, test, strict=True)]
    return Row(
        fraction=fraction,
        budget_ms=budget_ms,
        asked=asked,
        mostly=Counter(answer.variant for answer in answers).most_common(1)[0][0],
        right=float(np.mean(right)),
        in_budget=float(np.mean([answer.within_budget for answer in answers])),
        median_ms=float(np.median([answer.latency_ms for answer in answers])),
    )


def print_rows(rows: list[Row]) -> None:
    """Prints a line per budget."""
    note("")
    print_table(
        "Budgets as fractions of the base model's median latency: one digit by query-zoo, then all test digits",
        ["budget", "query-zoo says", "from variant", "in ms", "mostly chosen", "right", "in budget", "median ms"],
        [
            [
                f"{row.fraction:.2f} = {row.budget_ms:.3f} ms",
                f"“{row.asked['label']}”",
                row.asked["variant"],
                f"{row.asked['latency_ms']:.3f}",
                row.mostly,
                f"{row.right:.1%}",
                f"{row.in_budget:.1%}",
                f"{row.median_ms:.3f}",
            ]
            for row in rows
        ],
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
