"""Measuring what each variant of a zoo answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd

from fleetfoot.console import progress
from profiling.device import Device
from zoo.catalog import Variant
from zoo.datasets import Dataset, Indices, Rows, Split
from zoo.export import predict
from zoo.outcomes import Outcomes, balance, variant_outcomes
from zoo.profiles import targets_of

Splits = Mapping[Split, Indices]

Array = npt.NDArray[Any]
Inputs = Array | Rows
Run = Callable[[Variant, Inputs], Array]

_PART = 500  # inputs that a device is given at once

RECORDED_SPLITS: tuple[Split, ...] = ("route", "test")


def with_outcomes(variant: Variant, outcomes: Outcomes, base: str, classes: Sequence[str]) -> Variant:
    """A variant with what its outcomes say of it: accuracy per split, and balance over the classes."""
    recorded = {split: outcomes.accuracy(split)[variant.id] for split in RECORDED_SPLITS}
    return msgspec.structs.replace(
        variant,
        accuracy=variant.accuracy | recorded,
        balance=balance(outcomes, variant.id, base, classes),
    )


def record_outcomes(zoo: Path, variants: Sequence[Variant], dataset: Dataset, splits: Splits) -> Outcomes:
    """Runs every variant here on the route and test inputs and writes the outcomes table."""
    return _record(zoo, variants, dataset, splits, runs_here(zoo), None)


def record_outcomes_on(
    device: Device, zoo: Path, variants: Sequence[Variant], dataset: Dataset, splits: Splits
) -> Outcomes:
    """Runs every variant on a device on the route and test inputs and writes that device's outcomes table.

    Raises:
        DeviceError: a variant cannot be run there, or the device went away.
    """

    def run(variant: Variant, x: Inputs) -> Array:
        (target,) = targets_of(zoo, [variant])
        parts = (device.answer(target, np.asarray(x[at : at + _PART])) for at in range(0, len(x), _PART))
        return np.concatenate(list(parts))

    return _record(zoo, variants, dataset, splits, run, device.info().id)


def runs_here(zoo: Path) -> Run:
    """What runs a variant of a zoo directory in this process."""
    return lambda variant, x: predict(zoo / variant.file, variant.signature, x)


def outcome_rows(variants: Sequence[Variant], dataset: Dataset, splits: Splits, run: Run) -> Iterator[pd.DataFrame]:
    """Runs variants on the route and test inputs; yields the rows of one variant and split at a time."""
    with progress("recording outcomes", len(variants) * len(RECORDED_SPLITS)) as advance:
        for split in RECORDED_SPLITS:
            indices = splits[split]
            inputs, x, y = dataset.input_ids(indices), dataset.rows(indices), dataset.y[indices]
            for variant in variants:
                yield variant_outcomes(variant.id, split, inputs, y, run(variant, x).astype(np.float32))
                advance(1)


def _record(
    zoo: Path, variants: Sequence[Variant], dataset: Dataset, splits: Splits, run: Run, device_id: str | None
) -> Outcomes:
    rows = pd.concat(list(outcome_rows(variants, dataset, splits, run)), ignore_index=True)
    outcomes = Outcomes(rows, {variant.id: variant.sha256 for variant in variants}, device_id)
    outcomes.write(Outcomes.path(zoo, device_id))
    return outcomes
