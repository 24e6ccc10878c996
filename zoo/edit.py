"""Changing a finished zoo by one variant, without building the rest anew."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from fleetfoot.errors import ModelError, UsageError
from fleetfoot.files import atomic_path, sha256
from profiling.device import Device, connect_device
from profiling.invoke import Model
from profiling.profile import Profile, Target
from zoo.build import locked
from zoo.catalog import Manifest, Variant, Zoo
from zoo.datasets import Dataset
from zoo.export import predict
from zoo.measure import outcome_rows, with_outcomes
from zoo.outcomes import Outcomes
from zoo.recipe import Recipe
from zoo.record import BuildRecord

Array = npt.NDArray[Any]

_TOLERANCE = 1e-2
_LEAST_AGREEMENT = 0.5
"""A model of the same task agrees with the base model at least this often, or its classes are others."""


def add_variant(path: Path, file: Path, device_uri: str = "local") -> Variant:
    """Takes an existing LiteRT model of the same task into a zoo: checks, measures and records it.

    Args:
        path: the zoo directory.
        file: a LiteRT file with one signature, of the zoo's raw input, that answers with probabilities.
        device_uri: where it is measured.

    Raises:
        ModelError: the file does not fit the zoo.
        DataError: the data that the zoo was built on is no longer there as it was.
    """
    device = connect_device(device_uri)
    with locked(path):
        zoo, record = Zoo.open(path), BuildRecord.read(path / BuildRecord.FILE)
        signature, step = _check_fit(file, zoo)
        variant_id, recipe = _identity(file, zoo)
        dataset = record.load_data()
        tune = record.indices()["tune"]
        answers = predict(file, signature, dataset.x[tune])
        _check_probabilities(answers, step, file)
        _check_agreement(answers, zoo, dataset.x[tune], file)
        name = f"variants/{variant_id}.tflite"
        with atomic_path(path / name) as temporary:
            shutil.copyfile(file, temporary)
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
        outcomes = _record(zoo, variant, dataset, record)
        _profile(zoo, variant, device)
        variant = with_outcomes(variant, outcomes, zoo.manifest.variants[0].id, zoo.manifest.classes)
        files = zoo.manifest.files | {Outcomes.FILE: sha256(path / Outcomes.FILE)}
        _write_manifest(zoo, (*zoo.manifest.variants, variant), files)
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
    base = zoo.manifest.variants[0]
    expected = predict(zoo.verified_file(base.id), base.signature, x)
    agreement = float((answers.argmax(axis=1) == expected.argmax(axis=1)).mean())
    if agreement < _LEAST_AGREEMENT:
        raise ModelError(
            f"{file} agrees with the base model on {agreement:.0%} of the inputs only: "
            "its classes, their order or its scaling of inputs must be others"
        )


def _record(zoo: Zoo, variant: Variant, dataset: Dataset, record: BuildRecord) -> Outcomes:
    before = Outcomes.read(zoo.path / Outcomes.FILE)
    others = before.table[before.table["variant"] != variant.id]  # which a kill may have left
    rows = outcome_rows(zoo.path, [variant], dataset, record.indices())
    outcomes = Outcomes(pd.concat([others, *rows], ignore_index=True), before.hashes | {variant.id: variant.sha256})
    outcomes.write(zoo.path / Outcomes.FILE)
    return outcomes


def _profile(zoo: Zoo, variant: Variant, device: Device) -> None:
    """Adds the variant to the device's profile, where there is one."""
    path = zoo.profile_path(device.info().id)
    measured = device.measure([Target(variant.id, zoo.path / variant.file, variant.signature)])
    if path.exists():
        before = Profile.read(path)
        measured = msgspec.structs.replace(before, measurements=before.measurements | measured.measurements)
    measured.write(path)
