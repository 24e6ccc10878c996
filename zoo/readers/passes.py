"""Passes over the files of a tree, several of which are read at once."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, NamedTuple, TypeVar

from fleetfoot.console import progress
from zoo.readers.faults import reason
from zoo.readers.tree import Member

BATCH_FILES = 128
BATCH_BYTES = 2**23
MOST_THREADS = 8
"""Opening a file holds Python's lock and decoding it does not, so more threads than these wait for each other."""

Result = TypeVar("Result")


class Done(NamedTuple, Generic[Result]):
    """What came of a file: a result, or why there is none."""

    path: str
    result: Result | None
    fault: str | None = None


def in_threads(
    work: Callable[[Member], Result],
    members: Iterable[Member],
    *,
    description: str,
    total: int | None,
    result_bytes: int = 0,
) -> Iterator[Done[Result]]:
    """Works on files in threads, in order, and never far ahead of whoever takes the results.

    Args:
        work: what to do with a file; any exception it raises is the file's fault.
        members: the files.
        description: what the progress bar calls it.
        total: how many files there are, if that is known.
        result_bytes: about how much memory a result takes.
    """
    threads = min(os.cpu_count() or 1, MOST_THREADS)
    pending: deque[Future[list[Done[Result]]]] = deque()
    with progress(description, total) as advance, ThreadPoolExecutor(threads) as pool:
        for batch in _batches(members, result_bytes):
            pending.append(pool.submit(_do_batch, work, batch))
            if len(pending) > 2 * threads:
                yield from _finished(pending.popleft(), advance)
        while pending:
            yield from _finished(pending.popleft(), advance)


def _finished(future: Future[list[Done[Result]]], advance: Callable[[int], None]) -> list[Done[Result]]:
    done = future.result()
    advance(len(done))
    return done


def _batches(members: Iterable[Member], result_bytes: int) -> Iterator[list[Member]]:
    """Divides files so that neither the files of a batch nor its results take much memory."""
    batch: list[Member] = []
    size = 0
    for member in members:
        batch.append(member)
        size += max(member.size, result_bytes)
        if len(batch) == BATCH_FILES or size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _do_batch(work: Callable[[Member], Result], batch: Sequence[Member]) -> list[Done[Result]]:
    return [_do(work, member) for member in batch]


def _do(work: Callable[[Member], Result], member: Member) -> Done[Result]:
    try:
        return Done(member.path, work(member))
    except Exception as error:  # decoders of damaged files raise anything
        return Done(member.path, None, reason(error))
