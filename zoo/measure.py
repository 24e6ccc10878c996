"""Measuring a zoo: its profile on a device, and what each variant answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
import numpy as np
import pandas as pd

from fleetfoot.console import progress
from profiling.device import Device
from profiling.profile import Profile, Target
from zoo.catalog import Variant, profile_path
from zoo.datasets import Dataset, Indices, Split
from zoo.export import predict
from zoo.outcomes import Outcomes, balance, variant_outcomes

Splits = Mapping[Split, Indices]

RECORDED_SPLITS: tuple[Split, ...] = ("route", "test")


def profile_variants(zoo: Path, variants: Sequence[Variant], device: Device, threads: int = 1) -> Profile:
    """Measures variants on a device in one run and writes the profile into the zoo directory.

    Raises:
        DeviceError: the device went away, or a variant cannot run on it.
    """
    targets = [Target(variant.id, zoo / variant.file, variant.signature) for variant in variants]
    profile = device.measure(targets, threads=threads)
    profile.write(profile_path(zoo, profile.device_id))
    return profile


def with_outcomes(variant: Variant, outcomes: Outcomes, base: str, classes: Sequence[str]) -> Variant:
    """A variant with what its outcomes say of it: accuracy per split, and balance over the classes."""
    recorded = {split: outcomes.accuracy(split)[variant.id] for split in RECORDED_SPLITS}
    return msgspec.structs.replace(
        variant,
        accuracy=variant.accuracy | recorded,
        balance=balance(outcomes, variant.id, base, classes),
    )


def record_outcomes(zoo: Path, variants: Sequence[Variant], dataset: Dataset, splits: Splits) -> Outcomes:
    """Runs every variant on the route and test inputs and writes the outcomes table."""
    rows = outcome_rows(zoo, variants, dataset, splits)
    outcomes = Outcomes(pd.concat(rows, ignore_index=True), {v.id: v.sha256 for v in variants})
    outcomes.write(zoo / Outcomes.FILE)
    return outcomes


def outcome_rows(zoo: Path, variants: Sequence[Variant], dataset: Dataset, splits: Splits) -> Iterator[pd.DataFrame]:
    """Runs variants on the route and test inputs; yields the rows of one variant and split at a time."""
    with progress("recording outcomes", len(variants) * len(RECORDED_SPLITS)) as advance:
        for split in RECORDED_SPLITS:
            indices = splits[split]
            inputs, x, y = dataset.input_ids(indices), dataset.rows(indices), dataset.y[indices]
            for variant in variants:
                answers = predict(zoo / variant.file, variant.signature, x).astype(np.float32)
                yield variant_outcomes(variant.id, split, inputs, y, answers)
                advance(1)
