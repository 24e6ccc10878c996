"""What Google's ``benchmark_model`` prints, from the versions of 2018 on, as numbers.

The lines are those of TensorFlow's ``lite/tools/benchmark/benchmark_model.cc``, the tables those of its
``core/util/stats_calculator.cc``, and the last ones of LiteRT's own tool those of ``litert/tools``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Literal, NamedTuple

import msgspec

from profiling.profile import OperatorTime

Delegation = Literal["completely", "partially", "not"]

_NUMBER = r"[-+]?[\d.]+(?:e[-+]?\d+)?"
_LOAD_US = re.compile(rf"nference timings in us:.*?\bInit: ({_NUMBER})")
_FIRST_US = re.compile(rf"First inference: ({_NUMBER})")
_LOAD_MS = re.compile(rf"Model initialization: *({_NUMBER}) ms")
_FIRST_MS = re.compile(rf"Warmup \(first\): *({_NUMBER}) ms")
_MEMORY_MB = re.compile(
    rf"(?:(?:Memory footprint delta from the start of the tool|Peak memory footprint) \(MB\):.*\boverall="
    rf"|Overall footprint: *)({_NUMBER})"
)
_DELEGATED: tuple[tuple[re.Pattern[str], Delegation], ...] = (
    (re.compile(r"Though (\w+) delegate is explicitly applied, the model graph will not"), "not"),
    (re.compile(r"Failed to apply (\w+) delegate"), "not"),
    (re.compile(r"pplied (\w+) delegate, and the model graph will be completely"), "completely"),
    (re.compile(r"pplied (\w+) delegate, and the model graph will be partially"), "partially"),
)
_ACCELERATORS = re.compile(r"NNAPI accelerators available: \[(.*?)\]")
_UNCONSUMED = re.compile(r"Unconsumed cmdline flags: (.*)")
_LEVEL = re.compile(r"^(?:INFO|WARN|WARNING|ERROR|VERBOSE): *")
_UNTELLING = ("Benchmarking failed", "Restored original execution plan")
_OPERATORS_BEGIN = "Operator-wise Profiling Info"
_DELEGATE_KIND = re.compile(r"TfLite\w*Delegate\w*")


class Runs(msgspec.Struct, frozen=True, kw_only=True):
    """What one invocation tells of its recorded runs, in milliseconds; percentiles are None in older versions.

    The standard deviation is that of the runs themselves, without Bessel's correction.
    """

    count: int
    first_ms: float
    min_ms: float
    max_ms: float
    mean_ms: float
    std_ms: float
    p5_ms: float | None = None
    median_ms: float | None = None
    p95_ms: float | None = None


class BenchmarkLog(NamedTuple):
    """What an invocation printed.

    Attributes:
        runs: the recorded ones; None where it did not get to the end.
        load_ms: opening the model.
        first_ms: the first run, of those that warm up.
        memory_bytes: what the process grew by, at most; None where untold.
        delegates: which were asked for, and how much of the model each runs.
        accelerators: what NNAPI has; None where untold.
        operators: the times of single operators, where they were asked for.
        unconsumed: flags that this version does not know.
        errors: what it says of its failure.
    """

    runs: Runs | None
    load_ms: float | None
    first_ms: float | None
    memory_bytes: int | None
    delegates: dict[str, Delegation]
    accelerators: tuple[str, ...] | None
    operators: tuple[OperatorTime, ...]
    unconsumed: tuple[str, ...]
    errors: tuple[str, ...]


def parse(text: str) -> BenchmarkLog:
    """Reads a log; what it does not tell is None or empty."""
    lines = [line.rstrip() for line in text.splitlines()]
    runs = [_runs(line) for line in lines if _tells_runs(line)]
    load_ms = _told(_found(_LOAD_US, text, 1e-3), _found(_LOAD_MS, text))
    first_run = runs[0].first_ms if runs else None  # the first line is of those that warm up
    first_ms = _told(_found(_FIRST_US, text, 1e-3), _found(_FIRST_MS, text), first_run)
    memory_mb = _found(_MEMORY_MB, text)
    unconsumed = _UNCONSUMED.search(text)
    accelerators = _ACCELERATORS.search(text)
    return BenchmarkLog(
        runs=runs[-1] if runs and load_ms is not None else None,
        load_ms=load_ms,
        first_ms=first_ms,
        memory_bytes=None if memory_mb is None else round(memory_mb * (1 << 20)),
        delegates=_delegates(text),
        accelerators=tuple(filter(None, accelerators[1].split(","))) if accelerators else None,
        operators=_operators(lines),
        unconsumed=tuple(unconsumed[1].split()) if unconsumed else (),
        errors=_errors(lines),
    )


def _found(pattern: re.Pattern[str], text: str, unit: float = 1.0) -> float | None:
    found = pattern.search(text)
    return float(found[1]) * unit if found else None


def _told(*values: float | None) -> float | None:
    return next((value for value in values if value is not None), None)


def _tells_runs(line: str) -> bool:
    """Whether a line sums up runs; the summaries of operators' tables look alike."""
    found = re.search(r"\bcount=(\d+)", line)
    return found is not None and found[1] != "0" and "(microseconds)" not in line and "(bytes)" not in line


def _runs(line: str) -> Runs:
    told = {name: float(value) * 1e-3 for name, value in re.findall(rf"(\w+)=({_NUMBER})", line)}
    only = told.get("curr", told.get("avg", 0.0))  # of a single run, or where all took the same, nothing else is told
    return Runs(
        count=round(told["count"] * 1e3),
        first_ms=told.get("first", only),
        min_ms=told.get("min", only),
        max_ms=told.get("max", only),
        mean_ms=told.get("avg", only),
        std_ms=told.get("std", 0.0),
        p5_ms=told.get("p5"),
        median_ms=told.get("median"),
        p95_ms=told.get("p95"),
    )


def _delegates(text: str) -> dict[str, Delegation]:
    found: dict[str, Delegation] = {}
    for pattern, how in _DELEGATED:
        for name in pattern.findall(text):
            found.setdefault(name.lower(), how)
    return found


def _errors(lines: Sequence[str]) -> tuple[str, ...]:
    """Lines marked as errors, and what stands before the last line of a failure, which older versions do not mark."""
    found = [_LEVEL.sub("", line) for line in lines if line.startswith("ERROR:")]
    told = [line for line in lines if line and "nconsumed" not in line]
    for before, line in pairwise(told):
        if "Benchmarking failed" in line:
            found.append(_LEVEL.sub("", before))
    telling = [line for line in found if line and not line.startswith(_UNTELLING)]
    return tuple(dict.fromkeys(telling))


def _operators(lines: Sequence[str]) -> tuple[OperatorTime, ...]:
    """The operators of the graph that was run; in place of a delegate what it tells of its inside."""
    begin = next((number for number, line in enumerate(lines) if _OPERATORS_BEGIN in line), 0)
    tables: dict[str, list[OperatorTime]] = {}
    for section, rows in _tables(lines[begin:]):
        tables.setdefault(section, rows)
    inside = tables.pop("delegate", [])
    graph = tables.get("graph") or next(iter(tables.values()), [])
    kinds = {row.kind for row in graph if _DELEGATE_KIND.fullmatch(row.kind)}
    if inside and len(kinds) == 1:
        graph = [row for row in graph if row.kind not in kinds]
    return (*graph, *inside)


def _tables(lines: Sequence[str]) -> Iterator[tuple[str, list[OperatorTime]]]:
    """The tables in the order of running, with what they are of: the graph, another graph, a delegate's inside."""
    section, remaining = "graph", iter(lines)
    for line in remaining:
        if line.startswith("Delegate internal:"):
            section = "delegate"
        elif line.startswith(("Subgraph (index:", "Primary graph")):
            section = "graph" if line.startswith("Primary") else line.partition(")")[0].partition(",")[0]
        elif "= Run Order =" in line:
            yield section, list(_rows(remaining))


def _rows(lines: Iterator[str]) -> Iterator[OperatorTime]:
    """The rows of a table, whose head says which columns this version has."""
    columns = re.findall(r"\[([^\]]+)\]", next(lines, ""))[1:-1]
    row = re.compile(r"\s*(\S.*?)" + r"\s+([-\d.]+)%?" * len(columns) + r"\s+(\S.*)")
    for line in lines:
        found = row.fullmatch(line)
        if found is None or "avg ms" not in columns:
            return
        told = dict(zip(columns, map(float, found.groups()[1:-1]), strict=True))
        times = max(1.0, told.get("times called", 1.0))  # of one run; 0 where an older version rounded it down
        yield OperatorTime(name=found.groups()[-1], kind=found[1], ms=told["avg ms"] * times)
