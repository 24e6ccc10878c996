"""Measuring a zoo: its profile on a device, and what each variant answers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from fleetfoot.console import progress
from profiling.device import Device
from profiling.profile import Profile, Target
from zoo.catalog import Variant, profile_path
from zoo.datasets import Dataset, Indices, Split
from zoo.export import predict
from zoo.outcomes import Outcomes, variant_outcomes

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


def record_outcomes(zoo: Path, variants: Sequence[Variant], dataset: Dataset, splits: dict[Split, Indices]) -> Outcomes:
    """Runs every variant on the route and test inputs and writes the outcomes table."""
    with progress("recording outcomes", len(variants) * len(RECORDED_SPLITS)) as advance:

        def rows() -> Iterable[pd.DataFrame]:
            for split in RECORDED_SPLITS:
                indices = splits[split]
                inputs = dataset.input_ids(indices)
                for variant in variants:
                    answers = predict(zoo / variant.file, variant.signature, dataset.x[indices])
                    yield variant_outcomes(variant.id, split, inputs, dataset.y[indices], answers.astype(np.float32))
                    advance(1)

        outcomes = Outcomes(pd.concat(rows(), ignore_index=True), {v.id: v.sha256 for v in variants})
    outcomes.write(zoo / Outcomes.FILE)
    return outcomes
