"""Changing a finished zoo by one variant, without building the rest anew."""

from __future__ import annotations

import re
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from fleetfoot.console import warn
from fleetfoot.errors import DamagedFileError, ModelError, UsageError
from fleetfoot.files import atomic_path, remove_temporaries, sha256
from profiling.device import Device, connected
from profiling.invoke import Model
from profiling.profile import Profile, require_all
from zoo.build import locked
from zoo.candidates import UNFINISHED
from zoo.catalog import Manifest, Variant, Zoo
from zoo.datasets import Dataset
from zoo.export import predict
from zoo.measure import outcome_rows, runs_here, with_outcomes
from zoo.outcomes import Outcomes
from zoo.paired import sure_gain
from zoo.profiles import targets_of
from zoo.recipe import Recipe
from zoo.record import BuildRecord

Array = npt.NDArray[Any]

_TOLERANCE = 1e-2
_LEAST_AGREEMENT = 0.5
"""A model of the same task agrees with the base model at least this often, or its classes are others."""


def add_variant(path: Path, file: Path, device_uri: str = "local") -> Variant:
    """Takes an existing LiteRT model of the same task into a zoo: checks, measures and records it.

    Killed at any moment, it leaves a sound zoo, or one that the same call finishes.

    Args:
        path: the zoo directory.
        file: a LiteRT file with one signature, of the zoo's raw input, that answers with probabilities.
        device_uri: where it is measured, if the zoo has a profile of that device; of profiles that lack it then
            there is a warning.

    Raises:
        ModelError: the file does not fit the zoo.
        DataError: the data that the zoo was built on is no longer there as it was.
        DamagedFileError: the outcomes are not those that were recorded.
    """
    with connected(device_uri) as device, locked(path):
        zoo, record = Zoo.open(path), BuildRecord.read(path / BuildRecord.FILE)
        remove_temporaries(path)
        profiles, before = {profile.device_id: profile for profile in zoo.profiles()}, _recorded_outcomes(zoo)
        signature, step = _check_fit(file, zoo)
        variant_id, recipe = _identity(file, zoo)
        dataset = record.load_data()
        tune = record.indices()["tune"]
        answers = predict(file, signature, dataset.x[tune])
        _check_probabilities(answers, step, file)
        _check_agreement(answers, zoo, dataset.x[tune], file)
        name = f"variants/{variant_id}.tflite"
        _copy(file, path / name)
        variant = Variant(
            id=variant_id,
            file=name,
            sha256=sha256(path / name),
            signature=signature,
            recipe=recipe,
            parent=None,
            accuracy={"tune": float((answers.argmax(axis=1) == dataset.y[tune]).mean())},
            macs=None,
            parameters=None,
            size=file.stat().st_size,
            peak_activation_bytes=None,
            parity=None,
        )
        if own := profiles.pop(device.info().id, None):
            _measure(zoo, variant, device, own)
        outcomes = _with_rows(Outcomes.read(before), zoo, variant, dataset, record)
        variant = with_outcomes(variant, outcomes, zoo.manifest.variants[0].id, zoo.manifest.classes)
        _record(zoo, variant, outcomes, before)
        if lacking := [name for name, profile in profiles.items() if not profile.covers({variant.id: variant.sha256})]:
            warn(
                f"the profiles of {', '.join(lacking)} lack {variant.id}: "
                f"profile-zoo {path} --device … measures it there"
            )
        return variant


def remove_variant(path: Path, variant_id: str) -> None:
    """Takes a variant out of a zoo; its file goes too, unless another variant is in it.

    Raises:
        UsageError: no such variant, or the base model, which the others are compared with.
    """
    Zoo.open(path)
    with locked(path):
        zoo = Zoo.open(path)
        variant = zoo.variant(variant_id)
        rest = tuple(other for other in zoo.manifest.variants if other.id != variant_id)
        if variant is zoo.manifest.variants[0]:
            raise UsageError(f"{variant_id} is the base model, which the others are compared with: it stays")
        _write_manifest(zoo, rest, zoo.manifest.files)
        if all(other.file != variant.file for other in rest):
            (path / variant.file).unlink(missing_ok=True)


def _write_manifest(zoo: Zoo, variants: tuple[Variant, ...], files: dict[str, str]) -> None:
    manifest: Manifest = msgspec.structs.replace(zoo.manifest, variants=variants, files=files)
    manifest.write(zoo.path / Zoo.MANIFEST)


def _identity(file: Path, zoo: Zoo) -> tuple[str, Recipe]:
    """The id of a file that is brought, from its name and its content, and the recipe that says so."""
    digest = sha256(file)
    for variant in zoo.manifest.variants:
        if variant.sha256 == digest:
            raise UsageError(f"{file} is in the zoo already, as {variant.id}")
    recipe = Recipe(build={"file": file.name, "sha256": digest})
    return f"{re.sub(r'[^A-Za-z0-9_.+-]+', '-', file.stem)}-{recipe.digest[:8]}", recipe


def _check_fit(file: Path, zoo: Zoo) -> tuple[str, float]:
    """The one signature of a file that takes and answers what a zoo's variants do, and how finely it answers."""
    if not file.is_file():
        raise ModelError(f"{file} does not exist")
    model = Model(file)
    if len(model.signatures) != 1:
        raise ModelError(f"{file} has the signatures {', '.join(model.signatures)}: bring a file with one")
    (signature,) = model.signatures
    runner = model.runner(signature)
    spec, classes = zoo.manifest.input, len(zoo.manifest.classes)
    if runner.input.shape != (1, *spec.shape):
        raise ModelError(f"{file} takes inputs of shape {runner.input.shape}, and the zoo's are {(1, *spec.shape)}")
    if not np.can_cast(spec.dtype, runner.input.dtype, "safe"):
        raise ModelError(f"{file} takes {runner.input.dtype} inputs, and the zoo's are {spec.dtype}")
    if runner.output.shape != (1, classes):
        raise ModelError(f"{file} answers with shape {runner.output.shape}, and the zoo has {classes} classes")
    return signature, runner.output_step


def _check_probabilities(answers: Array, step: float, file: Path) -> None:
    rounding = answers.shape[1] * step / 2
    if (answers < 0).any() or not np.allclose(answers.sum(axis=1), 1, atol=_TOLERANCE + rounding):
        raise ModelError(f"{file} does not answer with probabilities: end it in a softmax")


def _check_agreement(answers: Array, zoo: Zoo, x: Array, file: Path) -> None:
    """Refuses a file that agrees with the base model too seldom, or not surely more often than a constant would."""
    base = zoo.manifest.variants[0]
    expected = predict(zoo.verified_file(base.id), base.signature, x).argmax(axis=1)
    agrees, constant = answers.argmax(axis=1) == expected, expected == np.bincount(expected).argmax()
    if agrees.mean() < _LEAST_AGREEMENT or not (agrees.all() or sure_gain(constant, agrees) > 0):
        raise ModelError(
            f"{file} agrees with the base model on {agrees.mean():.0%} of the inputs only, and the same answer to all "
            f"does on {constant.mean():.0%}: its classes, their order or its scaling of inputs must be others"
        )


def _copy(source: Path, target: Path) -> None:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def _measure(zoo: Zoo, variant: Variant, device: Device, before: Profile) -> None:
    """Adds the variant to the device's profile."""
    measured = device.measure(targets_of(zoo.path, [variant]), conditions=before.conditions)
    require_all(measured)
    profile: Profile = msgspec.structs.replace(before, measurements=before.measurements | measured.measurements)
    profile.write(zoo.profile_path(before.device_id))


def _with_rows(before: Outcomes, zoo: Zoo, variant: Variant, dataset: Dataset, record: BuildRecord) -> Outcomes:
    others = before.table[before.table["variant"] != variant.id]  # which may have been in the zoo, and removed
    rows = outcome_rows([variant], dataset, record.indices(), runs_here(zoo.path))
    return Outcomes(pd.concat([others, *rows], ignore_index=True), before.hashes | {variant.id: variant.sha256})


def _recorded_outcomes(zoo: Zoo) -> Path:
    """The file of the outcomes that the manifest is of, which a killed ``_record`` leaves put aside."""
    path = zoo.path / Outcomes.FILE
    for candidate in (path, _aside(zoo)):
        if candidate.exists() and sha256(candidate) == zoo.manifest.files.get(Outcomes.FILE):
            return candidate
    raise DamagedFileError(f"{path} is gone or is not the file that was built: the same build-zoo command mends it")


def _record(zoo: Zoo, variant: Variant, outcomes: Outcomes, before: Path) -> None:
    """Writes the outcomes and the manifest; the outcomes from before are put aside until both are there."""
    aside = _aside(zoo)
    if before != aside:
        _copy(before, aside)
    outcomes.write(zoo.path / Outcomes.FILE)
    files = zoo.manifest.files | {Outcomes.FILE: sha256(zoo.path / Outcomes.FILE)}
    _write_manifest(zoo, (*zoo.manifest.variants, variant), files)
    aside.unlink()
    with suppress(OSError):  # a build that was killed has left something there too
        aside.parent.rmdir()


def _aside(zoo: Zoo) -> Path:
    return zoo.path / UNFINISHED / Outcomes.FILE
