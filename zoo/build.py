"""The pipeline of ``build-zoo``: base model, proposals, candidates, profile, outcomes, and last the manifest.

Each stage leaves whole files behind and is skipped when they are there, so a build that was killed is
finished by running it again.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import joblib
import msgspec

from fleetfoot.console import be_quiet, note, progress, warn
from fleetfoot.errors import NotAZooError, SchemaError, UsageError, ZooError
from fleetfoot.files import atomic_path, is_document, is_temporary, remove_temporaries, sha256
from profiling.device import connected
from profiling.profile import Profile, require_all
from zoo.backend import tf
from zoo.base import begin_base, finish_base
from zoo.batches import TrainingData
from zoo.candidates import UNFINISHED, Bench, base_path, make_candidate
from zoo.catalog import BUILT_FILES, Manifest, Variant, Zoo, profile_path
from zoo.datasets import Dataset, Indices, Split, load_dataset, split_indices, takes_size
from zoo.formats import register_custom_objects
from zoo.measure import record_outcomes, with_outcomes
from zoo.models import Base, image_size
from zoo.outcomes import Outcomes
from zoo.profiles import targets_of, write_profile
from zoo.record import BuildOptions, BuildRecord, model_sha256, tool_versions
from zoo.search.journal import Journal, Trial
from zoo.search.strategies import make_strategy
from zoo.search.strategy import Proposal, Strategy, Task

_ENOUGH_STEPS, _MOST_EPOCHS = 1500, 20
"""How many steps a variant's fine-tuning takes at the least, unless that is more than so many epochs."""


def build_zoo(out: Path, options: BuildOptions, *, jobs: int = 1, overwrite: bool = False) -> Zoo:
    """Builds a zoo, or finishes one that was begun with the same options.

    Args:
        out: the zoo directory.
        options: what to build.
        jobs: how many variants are made at once.
        overwrite: whether a zoo that is there, finished or not, is deleted first.

    Raises:
        FleetfootError: the data, the model or the options do not fit, or the directory holds something else.
    """
    with connected(options.device) as device:  # rather than learn after hours that it is not there
        device_id = device.info().id
    options, dataset = prepare(options)
    start = begin_base(options, dataset) if overwrite or not base_path(out).exists() else None
    _require_directory(out)
    with locked(out):
        _make_room(out, overwrite)
        record = _begin(out, options, dataset)
        if (out / Zoo.MANIFEST).exists():
            zoo = Zoo.open(out)
            if not zoo.build_problems() and _is_profiled(out, zoo.hashes, device_id):
                note(f"{out} is already built; --overwrite builds it anew")
                return zoo
            _discard_damaged(zoo)
        return _build(out, record, dataset, device_id, jobs, start)


def prepare(options: BuildOptions) -> tuple[BuildOptions, Dataset]:
    """Loads the data, and settles what the options leave to the data and the base model.

    Images are brought to the size that the base model takes, and fine-tuning lasts as long as the data asks for.

    Raises:
        UsageError: the module of custom objects cannot be imported, or there is no such data.
        ModelError: the base model cannot be loaded.
        DataError: the data cannot be read.
    """
    if options.custom_objects:
        register_custom_objects(options.custom_objects)
    if options.read.size is None and takes_size(options.data) and (size := image_size(options.model)):
        options = msgspec.structs.replace(options, read=msgspec.structs.replace(options.read, size=size))
    dataset = load_dataset(options.data, options.read)
    epochs = options.finetune_epochs
    if epochs is None:
        steps = TrainingData.of(dataset, split_indices(dataset, options.seed)).steps
        epochs = max(-(-options.epochs // 3), min(_MOST_EPOCHS, round(_ENOUGH_STEPS / steps)))
    return msgspec.structs.replace(options, grid=msgspec.structs.replace(options.grid, epochs=epochs)), dataset


def _build(
    out: Path, record: BuildRecord, dataset: Dataset, device_id: str, jobs: int, start: Base | None = None
) -> Zoo:
    options, splits = record.options, record.indices()
    data = TrainingData.of(dataset, splits, options.augment)
    _ensure_base(out, options, dataset, data, start)
    bench = Bench.open(out, data)
    task = Task(bench.base, data, options.device, out)
    strategy = make_strategy(options.strategy, task, options.grid)
    journal = Journal(out / Journal.FILE)
    trials = list(_make_all(strategy, journal, bench, record, jobs))
    variants = _as_edited(out, [variant for trial in trials for variant in trial.variants])
    if not _is_profiled(out, {variant.id: variant.sha256 for variant in variants}, device_id):
        with connected(options.device) as device:  # when all training is over, so that none loads the device meanwhile
            profile = device.measure(targets_of(out, variants))
        write_profile(out, profile)
        require_all(profile)
    outcomes = _ensure_outcomes(out, variants, dataset, splits)
    Manifest(
        name=out.resolve().name,
        classes=dataset.classes,
        input=dataset.input,
        variants=tuple(with_outcomes(variant, outcomes, variants[0].id, dataset.classes) for variant in variants),
        files={name: sha256(out / name) for name in sorted(BUILT_FILES)},
    ).write(out / Zoo.MANIFEST)
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    return Zoo.open(out)


def _require_directory(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise NotAZooError(f"{out} is a file: --out names a directory")
    out.mkdir(parents=True, exist_ok=True)


def _make_room(out: Path, overwrite: bool) -> None:
    """Empties the directory of a zoo when told to, and of nothing else ever."""
    documents = [out / BuildRecord.FILE, out / Zoo.MANIFEST]
    foreign = any(not is_temporary(path) for path in out.iterdir())
    if foreign and not any(is_document(path) for path in documents):
        raise NotAZooError(f"{out} holds something that is no zoo: name an empty or a new directory")
    remove_temporaries(out)
    if overwrite:  # what says that this is a zoo goes last, so that a kill in between can be mended
        for entry in sorted(out.iterdir(), key=lambda entry: entry in documents):
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


@contextmanager
def locked(out: Path) -> Iterator[None]:
    """Holds the directory of a zoo while it changes; a lock of the operating system, so a kill leaves none.

    Raises:
        ZooError: another process holds it.
    """
    directory = os.open(out, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise ZooError(f"{out} is being changed by another process: wait for it, or name another directory") from None
    finally:
        os.close(directory)


def _discard_damaged(zoo: Zoo) -> None:
    """Deletes what is not as it was built, so that the stages make it again; variants are checked by their own.

    ``build.json`` stays: it is what the options were compared with.
    """
    for name in BUILT_FILES - {BuildRecord.FILE}:
        path, digest = zoo.path / name, zoo.manifest.files.get(name)
        if path.exists() and sha256(path) != digest:
            warn(f"{path} is not the file that was built, and is made again")
            path.unlink()


def _begin(out: Path, options: BuildOptions, dataset: Dataset) -> BuildRecord:
    """Writes ``build.json``, or checks that the one there is of the same build."""
    path = out / BuildRecord.FILE
    if not path.exists():
        BuildRecord.new(options, dataset).write(path)
    record = BuildRecord.read(path)
    if record.options.data == options.data and record.data_fingerprint != dataset.fingerprint:
        raise UsageError(f"{out} was begun with other data under the name {options.data}: --overwrite starts anew")
    if record.options.model == options.model and model_sha256(options.model) not in (None, record.model_sha256):
        raise UsageError(f"{out} was begun with another model under the name {options.model}: --overwrite starts anew")
    if record.options != options:
        raise UsageError(
            f"{out} was begun with other options ({_differences(record.options, options)}): "
            "give the same ones to go on, or --overwrite to start anew"
        )
    if not (out / Zoo.MANIFEST).exists() and record.versions != tool_versions():
        raise UsageError(f"{out} was begun with other versions ({record.versions}): use those, or --overwrite")
    return record


def _differences(old: BuildOptions, new: BuildOptions) -> str:
    before, now = msgspec.to_builtins(old), msgspec.to_builtins(new)
    for part in "grid", "read":
        before, now = before.pop(part) | before, now.pop(part) | now
    return ", ".join(f"{name} was {before[name]}" for name in before if before[name] != now[name])


def _ensure_base(out: Path, options: BuildOptions, dataset: Dataset, data: TrainingData, start: Base | None) -> None:
    path = base_path(out)
    if path.exists():
        return
    base = start or begin_base(options, dataset)
    finish_base(base, data, options, out / UNFINISHED / "base")
    with atomic_path(path) as temporary:
        base.model.save(temporary, include_optimizer=False)


def _make_all(strategy: Strategy, journal: Journal, bench: Bench, record: BuildRecord, jobs: int) -> Iterator[Trial]:
    """Makes what the strategy proposes, and takes from the journal what was made before."""
    while proposals := strategy.propose():
        missing = [proposal for proposal in proposals if not _is_made(journal, bench.zoo, proposal)]
        for trial in _make_missing(missing, bench, record, jobs):
            journal.append(trial)
        trials = [journal.trial(list(proposal.recipes.values())) for proposal in proposals]
        strategy.observe(trials)
        yield from trials


def _is_made(journal: Journal, zoo: Path, proposal: Proposal) -> bool:
    recipes = list(proposal.recipes.values())
    if recipes not in journal:
        return False
    made = journal.trial(recipes).variants
    files = {zoo / variant.file: variant.sha256 for variant in made}
    return _were_removed(zoo, made) or all(path.exists() and sha256(path) == digest for path, digest in files.items())


def _were_removed(zoo: Path, variants: Sequence[Variant]) -> bool:
    """Whether a zoo that is mended had them taken out."""
    if not (zoo / Zoo.MANIFEST).exists():
        return False
    return {variant.id for variant in variants}.isdisjoint(Zoo.open(zoo).variants)


def _make_missing(missing: Sequence[Proposal], bench: Bench, record: BuildRecord, jobs: int) -> Iterator[Trial]:
    if jobs == 1:
        yield from (make_candidate(bench, proposal) for proposal in missing)
        return
    threads = max(1, (os.cpu_count() or 1) // jobs)
    tasks = (joblib.delayed(_make_in_worker)(bench.zoo, record, proposal, threads) for proposal in missing)
    with progress("making variants", len(missing)) as advance:
        for trial in joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks):
            advance(1)
            yield trial


def _make_in_worker(zoo: Path, record: BuildRecord, proposal: Proposal, threads: int) -> Trial:
    """Makes a candidate in a process of its own, from what is on the disk."""
    be_quiet()
    if tf.config.threading.get_intra_op_parallelism_threads() != threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    options, dataset = prepare(record.options)
    data = TrainingData.of(dataset, record.indices(), options.augment)
    return make_candidate(Bench.open(zoo, data), proposal)


def _as_edited(out: Path, variants: Sequence[Variant]) -> list[Variant]:
    """The variants that a zoo which is mended had: without what was taken out of it, with what was brought to it."""
    if not (out / Zoo.MANIFEST).exists():
        return list(variants)
    before = Manifest.read(out / Zoo.MANIFEST).variants
    ids = {variant.id for variant in variants}
    kept = {variant.id for variant in before}
    brought = [variant for variant in before if variant.id not in ids and _is_intact(out, variant)]
    return [variant for variant in variants if variant.id in kept] + brought


def _is_intact(out: Path, variant: Variant) -> bool:
    path = out / variant.file
    intact = path.exists() and sha256(path) == variant.sha256
    if not intact:
        warn(f"{path} is gone or damaged, and was brought: it is left out; inspect-zoo {out} --add brings it again")
    return intact


def _is_profiled(out: Path, hashes: Mapping[str, str], device_id: str) -> bool:
    """Whether there is a readable profile of the device that covers the variants."""
    try:
        return Profile.read(profile_path(out, device_id)).covers(hashes)
    except (NotAZooError, SchemaError):
        return False


def _ensure_outcomes(
    out: Path, variants: Sequence[Variant], dataset: Dataset, splits: dict[Split, Indices]
) -> Outcomes:
    try:
        outcomes = Outcomes.read(out / Outcomes.FILE)
        outcomes.require_current({variant.id: variant.sha256 for variant in variants})
        return outcomes
    except ZooError:
        pass  # none yet, or not of these variants
    return record_outcomes(out, variants, dataset, splits)
