"""Reading a tree of files into one array: look at each, plan what to make of them, then decode them.

Small files take longer to open than to decode, so those that look like the first are decoded while they are looked at.
Where all of them do, that was all; otherwise it was in vain.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from math import prod
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

import msgspec
import numpy as np

from fleetfoot.console import note
from fleetfoot.errors import DataError
from zoo.catalog import InputSpec
from zoo.datasets import Dataset, ReadOptions, require_classes
from zoo.readers.faults import Faults, listed, reason, refuse, report_skipped
from zoo.readers.passes import BATCH_BYTES, BATCH_FILES, in_threads
from zoo.readers.store import Array, Example, Record, RowFile, fetch, require_space
from zoo.readers.tree import Member, Tree, all_members

Opened = TypeVar("Opened")
Look = TypeVar("Look")

_SMALL = BATCH_BYTES // BATCH_FILES
"""The most bytes of a row that is decoded before it is known whether it is wanted."""


class Found(NamedTuple):
    """What there is in a tree: paths of files that can be read, of folders, and the text of lists that lie there."""

    files: Sequence[str]
    folders: Sequence[str]
    texts: Mapping[str, str]


class Arrangement(NamedTuple):
    """What the files are: an example each, or misplaced."""

    examples: list[Example]
    faults: Faults


class Plan(NamedTuple, Generic[Opened]):
    """What is made of the files.

    Attributes:
        input: what each becomes; it tells all that ``decode`` does.
        decode: makes a file an array of that shape and type; any exception it raises is the file's fault.
        faults: the files that do not fit.
        notes: what the user should know of the others.
    """

    input: InputSpec
    decode: Callable[[Opened], Array]
    faults: Faults
    notes: tuple[str, ...]


class Method(NamedTuple, Generic[Opened, Look]):
    """How files of some kind are read.

    Attributes:
        what: what they are, in plural.
        wanted: whether a path is that of such a file.
        open: opens a file to look at it or decode it; any exception it raises is the file's fault.
        look: what is to be known of all files before it is planned what to make of them; the same goes for it.
        arrange: what the files are, of the dataset's name and what was found.
        plan: what is made of the files, of the looks by path, and of those that decide it, which no test is among;
            of like files always the same, however many there are.
        settings: what comes of it depends on these beside the files.
        alarms: warnings that are a file's fault, and how their messages start; no others matter.
        advice: what can be done about files that cannot be used.
        lists: names of text files that ``arrange`` reads, wherever they lie.
    """

    what: str
    wanted: Callable[[str], bool]
    open: Callable[[Member], AbstractContextManager[Opened]]
    look: Callable[[Opened], Look]
    arrange: Callable[[str, Found], Arrangement]
    plan: Callable[[Mapping[str, Look], Sequence[Look]], Plan[Opened]]
    settings: msgspec.Struct
    alarms: Mapping[type[Warning], str]
    advice: str
    lists: frozenset[str] = frozenset()


def read_files(name: str, trees: Sequence[Tree], options: ReadOptions, method: Method[Opened, Look]) -> Dataset:
    """Reads the files of several trees, as if they were in one, unless they were read before.

    Raises:
        DataError: a tree cannot be read, there is nothing in it to build on, or it has files that cannot be used.
    """
    stamps = [stamp for tree in trees for stamp in tree.stamps()]
    x, record = fetch(name, stamps, method.settings, partial(_decode_all, name, trees, options, method))
    files = len(record.examples) + len(record.faults)
    refuse(name, record.faults, files, options, method.advice)
    report_skipped(name, record.faults, files)
    for text in record.notes:
        note(f"{name}: {text}")
    return _dataset(name, x, record)


class _Seen(NamedTuple, Generic[Look]):
    """What was seen of a file, and the row that it is decoded to or why it cannot be, if that was tried."""

    look: Look
    row: Array | None = None
    fault: str | None = None


class _Sight(Generic[Opened, Look]):
    """Looks at files, and decodes small ones that look like the first."""

    def __init__(self, method: Method[Opened, Look]) -> None:
        self._method = method
        self._guess: tuple[Look, Plan[Opened] | None] | None = None
        self._guessing = Lock()

    def see(self, member: Member) -> _Seen[Look]:
        """Looks at a file."""
        with self._method.open(member) as opened:
            look = self._method.look(opened)
            plan = self._plan_for(member.path, look)
            if plan is None:
                return _Seen(look)
            try:
                return _Seen(look, plan.decode(opened))
            except Exception as error:
                return _Seen(look, None, reason(error))

    def _plan_for(self, path: str, look: Look) -> Plan[Opened] | None:
        with self._guessing:
            if self._guess is None:
                plan = self._method.plan({path: look}, [look])
                self._guess = look, plan if _row_bytes(plan.input) <= _SMALL else None
        first, usual = self._guess
        return usual if look == first else None


class _Survey(NamedTuple, Generic[Look]):
    """What was seen of the files.

    Attributes:
        looks: what each looks like.
        faults: those that could not be looked at.
        found: what there is.
        others: what is left out.
        early: those that are decoded already, in the order of their rows.
        undecodable: those that should be and cannot.
    """

    looks: Mapping[str, Look]
    faults: Faults
    found: Found
    others: Sequence[str]
    early: list[str]
    undecodable: Faults


def _decode_all(
    name: str, trees: Sequence[Tree], options: ReadOptions, method: Method[Opened, Look], path: Path
) -> Record:
    """Decodes all files into an array file; what can be refused before that begins is refused then."""
    with _alarmed(method.alarms):
        survey = _survey(trees, method, path)
        seen = len(survey.looks) + len(survey.faults)
        if not seen:
            raise DataError(f"{name} holds no {method.what}")
        refuse(name, survey.faults, seen, options, method.advice)
        examples, misplaced = method.arrange(name, survey.found)
        faults = {**survey.faults, **misplaced}
        files = len(examples) + len(faults)
        refuse(name, faults, files, options, method.advice)
        looks = {example.path: survey.looks[example.path] for example in examples}
        learning = [looks[example.path] for example in examples if not example.test]
        plan = method.plan(looks, learning or list(looks.values()))
        faults |= plan.faults
        refuse(name, faults, files, options, method.advice)
        chosen = {example.path: example for example in examples if example.path not in faults}
        require_classes(name, _learning_counts(chosen.values()))
        undecodable = {path: why for path, why in survey.undecodable.items() if path in chosen}
        rows = survey.early
        if rows != [path for path in chosen if path not in undecodable]:
            rows, undecodable = _decode_chosen(trees, chosen, plan, method, path)
    faults |= undecodable
    decoded = tuple(chosen[file] for file in rows)
    if not decoded:
        refuse(name, faults, files, options, method.advice)
    left_out = (f"left out: {listed(survey.others)}",) if survey.others else ()
    return Record(input=plan.input, examples=decoded, faults=faults, notes=(*plan.notes, *left_out))


def _survey(trees: Sequence[Tree], method: Method[Opened, Look], path: Path) -> _Survey[Look]:
    """Looks at all files, and writes rows of those that are decoded at the same time."""
    looks: dict[str, Look] = {}
    faults: dict[str, str] = {}
    folders: list[str] = []
    texts: dict[str, str] = {}
    others: list[str] = []
    early: list[str] = []
    undecodable: dict[str, str] = {}

    def files() -> Iterator[Member]:
        for member in all_members(trees, lambda path: method.wanted(path) or _name(path) in method.lists):
            if member.is_folder:
                folders.append(member.path)
            elif method.wanted(member.path):
                yield member
            elif _name(member.path) in method.lists:
                texts[member.path] = _text(member)
            else:
                others.append(member.path)

    counts = [tree.count() for tree in trees]
    total = None if None in counts else sum(filter(None, counts))
    see = _Sight(method).see
    with RowFile.create(path) as rows:
        for file, seen, fault in in_threads(see, files(), description=f"looking at {method.what}", total=total):
            if seen is None:
                faults[file] = fault or ""
                continue
            looks[file] = seen.look
            if seen.row is not None:
                rows.append(seen.row)
                early.append(file)
            elif seen.fault is not None:
                undecodable[file] = seen.fault
    return _Survey(looks, faults, Found(list(looks), folders, texts), others, early, undecodable)


def _name(path: str) -> str:
    return PurePosixPath(path).name


def _text(member: Member) -> str:
    try:
        return member.read().decode(errors="replace")
    except OSError as error:
        raise DataError(f"{member.path} cannot be read: {reason(error)}; repair or remove it") from None


def _row_bytes(spec: InputSpec) -> int:
    return prod(spec.shape) * np.dtype(spec.dtype).itemsize


def _decode_chosen(
    trees: Sequence[Tree], chosen: Collection[str], plan: Plan[Opened], method: Method[Opened, Look], path: Path
) -> tuple[list[str], dict[str, str]]:
    """Writes a row for each chosen file that can be decoded, in the order of the trees."""
    row_bytes = _row_bytes(plan.input)
    files = (member for member in all_members(trees, chosen.__contains__) if member.path in chosen)
    decoded: list[str] = []
    faults: dict[str, str] = {}

    def decode(member: Member) -> Array:
        with method.open(member) as opened:
            return plan.decode(opened)

    with RowFile.create(path) as rows:
        require_space(path, row_bytes * len(chosen))
        for file, row, fault in in_threads(
            decode, files, description=f"reading {method.what}", total=len(chosen), result_bytes=row_bytes
        ):
            if row is None:
                faults[file] = fault or ""
            else:
                rows.append(row)
                decoded.append(file)
    return decoded, faults


def _dataset(name: str, x: Array, record: Record) -> Dataset:
    labels = [example.label for example in record.examples]
    classes, y = np.unique(labels, return_inverse=True)
    test = np.flatnonzero([example.test for example in record.examples])
    groups = tuple(example.group for example in record.examples if example.group is not None)
    return Dataset(
        name=name,
        x=x,
        y=y.astype(np.int64),
        classes=tuple(classes.tolist()),
        input=record.input,
        test=test if len(test) else None,
        groups=groups if len(groups) == len(labels) else None,
    )


def _learning_counts(examples: Collection[Example]) -> dict[str, int]:
    """How many examples of each class are not for testing."""
    learning = Counter(example.label for example in examples if not example.test)
    return {label: learning[label] for label in sorted({example.label for example in examples})}


@contextmanager
def _alarmed(alarms: Mapping[type[Warning], str]) -> Iterator[None]:
    """Makes the warnings of decoders errors, or nothing; Python has one set of filters for all threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for category, start in alarms.items():
            warnings.filterwarnings("error", start, category)
        yield
