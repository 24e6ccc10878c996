"""The variants of a zoo, open and warm, each run by its id."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from fleetfoot.console import warn
from fleetfoot.errors import DamagedFileError, ModelError, UsageError, ZooError
from profiling.invoke import Model, Runner, return_freed_memory
from profiling.nested import nested_signatures
from profiling.resume import BEGIN, GO_ON, Step
from zoo.catalog import Variant, Zoo

Array = npt.NDArray[Any]

_COPIES = 2
"""Of the weights, at the least: as they are in the file, and as LiteRT packs them."""


class Begun(NamedTuple):
    """How far an input has come.

    Attributes:
        variant: that answered.
        probabilities: of shape (classes,).
        features: what a variant that resumes this one goes on from; None where there is none.
    """

    variant: str
    probabilities: Array
    features: Array | None


class Engine:
    """Every variant whose file is the one that was built, opened ahead; the others are left out with a warning.

    Variants run at once, each call in an interpreter of its own: in one that is free, in another where there may be
    another, or else in the first that becomes free. Where memory is limited, opening one closes those that were not
    used for longest, and a call whose variant is closed opens it first.

    Args:
        zoo: the zoo.
        threads: of each interpreter, as in the profile.
        interpreters: the most that are open of a variant, or of variants that are signatures of one model.
        memory_limit: bytes that all interpreters together may take, each counted as what the process grew by when the
            first of its kind was opened. None for no limit.

    Raises:
        UsageError: no interpreters, or no memory.
        ZooError: no variant can be used.
    """

    def __init__(self, zoo: Zoo, threads: int = 1, *, interpreters: int = 2, memory_limit: int | None = None) -> None:
        if interpreters < 1:
            raise UsageError(f"a variant needs at least one interpreter, and not {interpreters}")
        if memory_limit is not None and memory_limit < 1:
            raise UsageError(f"a memory limit is a positive number of bytes, and not {memory_limit}")
        self._threads, self._most, self._limit = threads, interpreters, memory_limit
        self._changed = threading.Condition()
        self._waiting: list[_Call] = []
        self._calls = 0
        self._pools: list[_Pool] = []
        self._homes: dict[str, tuple[_Pool, str]] = {}
        for part, variants in _parts(zoo).items():
            self._open(part, variants)
        resumes = {variant.id: variant.resumes for variant in zoo.manifest.variants if variant.resumes}
        self._resumes = {variant: before for variant, before in resumes.items() if variant in self._homes}
        self._resumed = frozenset(self._resumes.values())
        if not self._homes:
            raise ZooError(f"{zoo.path} has no variant that can be used")

    @property
    def variants(self) -> tuple[str, ...]:
        """The ids of the variants that can be run."""
        return tuple(self._homes)

    @property
    def memory_bytes(self) -> int:
        """What the interpreters that are open take."""
        return sum(pool.made * pool.bytes for pool in self._pools)

    def run(self, variant: str, x: Array) -> Array:
        """The probabilities, of shape (classes,), that a variant gives for a checked input of shape (1, …)."""
        pool, signature = self._homes[variant]
        with self._interpreter(pool) as interpreter:
            probabilities: Array = interpreter.runner(signature)(x)[0]
        return probabilities

    def begin(self, variant: str, x: Array) -> Begun:
        """As ``run``, and returns what a variant that resumes this one can go on from."""
        if variant not in self._resumed:
            return Begun(variant, self.run(variant, x), None)
        return self._step(variant, BEGIN, x)

    def go_on(self, variant: str, begun: Begun) -> Begun:
        """What a variant answers to the input with which the one that it resumes began, for the difference in cost.

        Raises:
            UsageError: it does not go on from there.
        """
        if begun.features is None or self._resumes.get(variant) != begun.variant:
            raise UsageError(
                f"{variant} does not go on from {begun.variant}, but from {self._resumes.get(variant) or 'none'}"
            )
        return self._step(variant, GO_ON, begun.features)

    def _step(self, variant: str, which: str, x: Array) -> Begun:
        pool, signature = self._homes[variant]
        with self._interpreter(pool) as interpreter:
            reached = interpreter.step(f"{signature}/{which}")(x)
        return Begun(variant, reached.probabilities[0], reached.features)

    def _open(self, part: _Part, variants: Sequence[Variant]) -> None:
        """Opens a part, sees which of its variants run and what memory that takes, and keeps it if there is room."""
        before = _own_bytes()
        interpreter = None
        usable = []
        for variant in variants:
            try:
                interpreter = interpreter or _Interpreter(part, self._threads)
                interpreter.runner(variant.signature)
                usable.append(variant)
            except ModelError as error:
                warn(f"{variant.id} is left out: {error}")
        if interpreter is None or not usable:
            return
        pool = _Pool(part, max(_own_bytes() - before + interpreter.mapped_bytes, _COPIES * interpreter.size))
        if self._limit is not None and pool.bytes > self._limit:
            for variant in usable:
                warn(f"{variant.id} is left out: it takes {pool.bytes} bytes, and the memory limit is {self._limit}")
            return
        self._make_room(pool)
        pool.made = 1
        pool.idle.append(interpreter)
        self._pools.append(pool)
        self._homes |= {variant.id: (pool, variant.signature) for variant in usable}

    @contextmanager
    def _interpreter(self, pool: _Pool) -> Iterator[_Interpreter]:
        """An interpreter for one call."""
        interpreter = self._take(pool) or self._make(pool)
        try:
            yield interpreter
        finally:
            self._give_back(pool, interpreter)

    def _take(self, pool: _Pool) -> _Interpreter | None:
        """An interpreter for one call, as soon as there is one; None where the caller is to make it."""
        with self._changed:
            if pool.idle:
                return pool.idle.pop()
            call = _Call(pool)
            self._waiting.append(call)
            self._serve()
            while not call.served:
                self._changed.wait()
            return call.interpreter

    def _make(self, pool: _Pool) -> _Interpreter:
        try:
            return _Interpreter(pool.part, self._threads)
        except BaseException:
            with self._changed:
                pool.made -= 1
                self._serve()
            raise

    def _give_back(self, pool: _Pool, interpreter: _Interpreter) -> None:
        with self._changed:
            self._calls += 1
            pool.used = self._calls
            pool.idle.append(interpreter)
            if self._waiting:
                self._serve()

    def _serve(self) -> None:
        """Gives those who wait an interpreter or leave to make one, the first first.

        Whoever has none at all gets the memory before those who came later; so nobody waits for ever.
        """
        short = False
        for call in list(self._waiting):
            pool = call.pool
            if pool.idle:
                call.interpreter = pool.idle.pop()
            elif not short and pool.made < self._most and self._make_room(pool):
                pool.made += 1
            else:
                short = short or not pool.made
                continue
            call.served = True
            self._waiting.remove(call)
        self._changed.notify_all()

    def _make_room(self, pool: _Pool) -> bool:
        """Whether there is memory for one more interpreter; the first of its kind takes the place of idle others."""
        if self._limit is None:
            return True
        while self.memory_bytes + pool.bytes > self._limit:
            idle = [other for other in self._pools if other.idle]
            if pool.made or not idle:
                return False
            longest = min(idle, key=lambda other: other.used)
            longest.idle.pop(0)
            longest.made -= 1
            return_freed_memory()
        return True


class _Part(NamedTuple):
    """What an interpreter opens: a file, and which of the networks nested in it, if it is one of those."""

    path: Path
    nested: str


class _Interpreter:
    """An open model with the functions of its signatures, for one call at a time."""

    def __init__(self, part: _Part, threads: int) -> None:
        self._model = Model(part.path, threads, part.nested)
        self._runners: dict[str, Runner] = {}
        self._steps: dict[str, Step] = {}
        self.size = self._model.size
        self.mapped_bytes = 0 if part.nested else self.size

    def runner(self, signature: str) -> Runner:
        """The function of a signature, warm."""
        if signature not in self._runners:
            runner = self._model.runner(signature)
            runner.warm_up()
            self._runners[signature] = runner
        return self._runners[signature]

    def step(self, signature: str) -> Step:
        """The function of a signature that begins or goes on, warm."""
        if signature not in self._steps:
            self._steps[signature] = Step(self._model, signature)
        return self._steps[signature]


@dataclass(eq=False)
class _Pool:
    """The interpreters of a part.

    Attributes:
        part: what they open.
        bytes: what each of them takes.
        made: how many are open, or being opened.
        idle: those that no call has.
        used: the number of the call that gave one back last.
    """

    part: _Part
    bytes: int
    made: int = 0
    idle: list[_Interpreter] = field(default_factory=list)
    used: int = 0


@dataclass(eq=False)
class _Call:
    """A call that waits for an interpreter; served without one, it makes one."""

    pool: _Pool
    served: bool = False
    interpreter: _Interpreter | None = None


def _parts(zoo: Zoo) -> Mapping[_Part, list[Variant]]:
    """What there is to open, and the variants that run there; not of files that are damaged."""
    parts: dict[_Part, list[Variant]] = {}
    for variant in zoo.manifest.variants:
        try:
            path = zoo.verified_file(variant.id)
        except DamagedFileError as error:
            warn(f"{variant.id} is left out: {error}")
            continue
        nested = variant.signature if variant.signature in nested_signatures(path) else ""
        parts.setdefault(_Part(path, nested), []).append(variant)
    return parts


def _own_bytes() -> int:
    """The memory of this process that no file stands for; 0 where the system does not tell."""
    with suppress(OSError):
        resident, shared = (int(pages) for pages in Path("/proc/self/statm").read_text().split()[1:3])
        return (resident - shared) * os.sysconf("SC_PAGESIZE")
    return 0
