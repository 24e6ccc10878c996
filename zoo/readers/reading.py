"""Reading a tree of files into one array: look at each, plan what to make of them, then decode them."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from math import prod
from pathlib import Path, PurePosixPath
from typing import Generic, NamedTuple, TypeVar

import msgspec
import numpy as np

from fleetfoot.console import note
from fleetfoot.errors import DataError
from zoo.catalog import InputSpec
from zoo.datasets import Dataset, ReadOptions, require_classes
from zoo.readers.faults import Faults, listed, refuse, report_skipped
from zoo.readers.passes import in_threads
from zoo.readers.store import Array, Example, Record, RowFile, fetch, require_space
from zoo.readers.tree import Member, Tree, all_members

Look = TypeVar("Look")


class Found(NamedTuple):
    """What there is in a tree: paths of files that can be read, of folders, and the text of lists that lie there."""

    files: Sequence[str]
    folders: Sequence[str]
    texts: Mapping[str, str]


class Arrangement(NamedTuple):
    """What the files are: an example each, or misplaced."""

    examples: list[Example]
    faults: Faults


class Plan(NamedTuple):
    """What is made of the files.

    Attributes:
        input: what each becomes.
        decode: makes a file an array of that shape and type; any exception it raises is the file's fault.
        faults: the files that do not fit.
        notes: what the user should know of the others.
    """

    input: InputSpec
    decode: Callable[[Member], Array]
    faults: Faults
    notes: tuple[str, ...]


class Method(NamedTuple, Generic[Look]):
    """How files of some kind are read.

    Attributes:
        what: what they are, in plural.
        wanted: whether a path is that of such a file.
        look: what is to be known of a file before any is decoded; any exception it raises is the file's fault.
        arrange: what the files are, of the dataset's name and what was found.
        plan: what is made of the files, of the looks by path.
        settings: what comes of it depends on these beside the files.
        alarms: warnings that are a file's fault, and how their messages start; no others matter.
        advice: what can be done about files that cannot be used.
        lists: names of text files that ``arrange`` reads, wherever they lie.
    """

    what: str
    wanted: Callable[[str], bool]
    look: Callable[[Member], Look]
    arrange: Callable[[str, Found], Arrangement]
    plan: Callable[[Mapping[str, Look]], Plan]
    settings: msgspec.Struct
    alarms: Mapping[type[Warning], str]
    advice: str
    lists: frozenset[str] = frozenset()


def read_files(name: str, trees: Sequence[Tree], options: ReadOptions, method: Method[Look]) -> Dataset:
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


class _Survey(NamedTuple, Generic[Look]):
    """What was seen of the files, which of them could not be read, what there is, and what is left out."""

    looks: Mapping[str, Look]
    faults: Faults
    found: Found
    others: Sequence[str]


def _decode_all(name: str, trees: Sequence[Tree], options: ReadOptions, method: Method[Look], path: Path) -> Record:
    """Decodes all files into an array file; what can be refused before that begins is refused then."""
    with _alarmed(method.alarms):
        survey = _survey(trees, method)
        seen = len(survey.looks) + len(survey.faults)
        if not seen:
            raise DataError(f"{name} holds no {method.what}")
        refuse(name, survey.faults, seen, options, method.advice)
        examples, misplaced = method.arrange(name, survey.found)
        faults = {**survey.faults, **misplaced}
        files = len(examples) + len(faults)
        refuse(name, faults, files, options, method.advice)
        plan = method.plan({example.path: survey.looks[example.path] for example in examples})
        faults |= plan.faults
        refuse(name, faults, files, options, method.advice)
        chosen = {example.path: example for example in examples if example.path not in faults}
        require_classes(name, _learning_counts(chosen.values()))
        decoded, undecodable = _decode_chosen(trees, chosen, plan, method.what, path)
    faults |= undecodable
    if not decoded:
        refuse(name, faults, files, options, method.advice)
    left_out = (f"left out: {listed(survey.others)}",) if survey.others else ()
    return Record(input=plan.input, examples=decoded, faults=faults, notes=(*plan.notes, *left_out))


def _survey(trees: Sequence[Tree], method: Method[Look]) -> _Survey[Look]:
    looks: dict[str, Look] = {}
    faults: dict[str, str] = {}
    folders: list[str] = []
    texts: dict[str, str] = {}
    others: list[str] = []

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
    for path, look, fault in in_threads(method.look, files(), description=f"looking at {method.what}", total=total):
        if look is None:
            faults[path] = fault or ""
        else:
            looks[path] = look
    return _Survey(looks, faults, Found(list(looks), folders, texts), others)


def _name(path: str) -> str:
    return PurePosixPath(path).name


def _text(member: Member) -> str:
    with member.open() as file:
        return file.read().decode(errors="replace")


def _decode_chosen(
    trees: Sequence[Tree], chosen: Mapping[str, Example], plan: Plan, what: str, path: Path
) -> tuple[tuple[Example, ...], dict[str, str]]:
    """Writes a row for each chosen file that can be decoded, in the order of the trees."""
    shape, dtype = plan.input.shape, np.dtype(plan.input.dtype)
    row_bytes = prod(shape) * dtype.itemsize
    require_space(path, row_bytes * len(chosen))
    files = (member for member in all_members(trees, chosen.__contains__) if member.path in chosen)
    examples: list[Example] = []
    faults: dict[str, str] = {}
    with RowFile.create(path, shape, dtype) as rows:
        for file, row, fault in in_threads(
            plan.decode, files, description=f"reading {what}", total=len(chosen), result_bytes=row_bytes
        ):
            if row is None:
                faults[file] = fault or ""
            else:
                rows.append(row)
                examples.append(chosen[file])
    return tuple(examples), faults


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
