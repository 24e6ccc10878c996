"""Training a zoo's premodel: features and outcomes in; the compiled estimate, a plan per device and a report out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa

from fleetfoot.console import warn
from fleetfoot.errors import NotAZooError, StaleError, UsageError
from fleetfoot.files import Document, atomic_path, sha256
from premodel.compile import compile_linear
from premodel.estimators import LinearEstimator, cross_validated_probabilities, fit_linear
from premodel.evaluation import BudgetReport, Costs, apgr, planned_ms, report_budget
from premodel.features import compute_array, feature_names
from premodel.plan import ESTIMATE_FILE, ESTIMATE_SIGNATURE, Plan, Stage
from premodel.policy import Objective
from profiling.device import Device, connected
from profiling.profile import Profile, Target, require_all
from zoo.catalog import Zoo
from zoo.outcomes import Outcomes
from zoo.record import BuildRecord

FEATURES_FILE = "features.parquet"
BUDGET_FRACTIONS = (0.15, 0.3, 0.5, 0.75, 1.0, 1.5)
"""The sweep of budgets: fractions of the base model's median latency."""


class Evaluation(Document, frozen=True, kw_only=True):
    """``premodel/evaluation-<device-id>.json``: the test split under a sweep of budgets on one device.

    ``apgr`` is of routing between the fastest and the most accurate variant, or null where the fastest
    is as accurate; ``used`` says whether the plan asks the premodel, as decided on the route split.
    """

    device_id: str
    variants: dict[str, str]
    split: str
    budgets: tuple[BudgetReport, ...]
    apgr: float | None
    used: bool


class Table(NamedTuple):
    """One split: features of shape (inputs, features), and whether each variant was right, (inputs, variants)."""

    features: npt.NDArray[np.float64]
    correct: npt.NDArray[np.bool_]


def train_premodel(path: Path, device_uri: str) -> list[Evaluation]:
    """Trains and compiles the premodel of a zoo, plans it for each profiled device, and evaluates it.

    Args:
        path: the zoo directory.
        device_uri: the device on which the premodel's own cost is measured.

    Raises:
        ZooError: the zoo lacks outcomes or a profile, or they are of other variants.
        DataError: the data is not the data that the zoo was built on.
        UsageError: the zoo has one variant only.
    """
    zoo = Zoo.open(path)
    if len(zoo.variants) < 2:
        raise UsageError(f"{path} has one variant only: there is nothing to choose from")
    profiles = _current_profiles(zoo)
    outcomes = Outcomes.read(path / Outcomes.FILE)
    outcomes.require_current(zoo.hashes)
    with connected(device_uri) as device:
        return _train(zoo, device, profiles, outcomes)


def _train(zoo: Zoo, device: Device, profiles: Sequence[Profile], outcomes: Outcomes) -> list[Evaluation]:
    if device.info().id not in {profile.device_id for profile in profiles}:
        raise StaleError(f"{zoo.path} has no profile of {device.info().id}: run profile-zoo on it first")
    route, _ = _tables(zoo, outcomes)
    estimator = fit_linear(*route)
    unseen = cross_validated_probabilities(*route, seed=BuildRecord.read(zoo.path / BuildRecord.FILE).options.seed)
    compile_linear(estimator, zoo.manifest.input, zoo.path / ESTIMATE_FILE)
    costs = _estimate_costs(zoo.path, device, profiles)
    return [
        _plan_device(zoo, profile, _outcomes_on(zoo, profile.device_id) or outcomes, costs[profile.device_id],
                     unseen, estimator)
        for profile in profiles
    ]  # fmt: skip


def _plan_device(
    zoo: Zoo, profile: Profile, outcomes: Outcomes, cost: _EstimateCost, unseen: Any, estimator: LinearEstimator
) -> Evaluation:
    """Writes the plan and the evaluation for one device, whose own outcomes count where there are any."""
    route, test = _tables(zoo, outcomes)
    costs = _costs(zoo, profile, cost.stage.mean_ms)
    recorded = outcomes.accuracy("route")
    table = {name: recorded[name] for name in zoo.variants}
    budgets = _budgets(zoo, profile, costs)

    def report(split: Table, p_right: Any) -> tuple[BudgetReport, ...]:
        return tuple(report_budget(split.correct, p_right, table, costs, budget, Objective()) for budget in budgets)

    used = _pays(report(route, unseen))
    stages = (Stage(name="table", mean_ms=0.0, variance=0.0), *([cost.stage] if used else []))
    Plan(
        device_id=profile.device_id,
        variants=zoo.hashes,
        estimate_sha256=sha256(zoo.path / ESTIMATE_FILE),
        p_right=table,
        stages=stages,
        measured=cost.measured,
    ).write(Plan.path(zoo.path, profile.device_id))

    p_right = estimator.probabilities(test.features)
    weak, strong = costs.means().argmin(), np.array([table[name] for name in costs.variants]).argmax()
    evaluation = Evaluation(
        device_id=profile.device_id,
        variants=zoo.hashes,
        split="test",
        budgets=report(test, p_right),
        apgr=apgr(test.correct[:, weak], test.correct[:, strong], p_right[:, strong] - p_right[:, weak]),
        used=used,
    )
    evaluation.write(zoo.path / Plan.DIRECTORY / f"evaluation-{profile.device_id}.json")
    return evaluation


def _pays(reports: Sequence[BudgetReport]) -> bool:
    """Whether the premodel, its cost charged, is right more often than both easy lines over the budgets."""
    if not reports:
        return False
    premodel = np.mean([report.premodel.accuracy for report in reports])
    return bool(
        premodel > np.mean([report.static_best.accuracy for report in reports])
        and premodel > np.mean([report.random_mix.accuracy for report in reports])
    )


def _current_profiles(zoo: Zoo) -> list[Profile]:
    known = list(zoo.profiles())
    profiles = [profile for profile in known if profile.covers(zoo.hashes)]
    for stale in (profile for profile in known if not profile.covers(zoo.hashes)):
        warn(f"the profile of {stale.device_id} is of other variants, and is left out: run profile-zoo on it")
    if not profiles:
        raise NotAZooError(f"{zoo.path} has no current profile: run profile-zoo")
    return profiles


def _outcomes_on(zoo: Zoo, device_id: str) -> Outcomes | None:
    """What the variants answered on a device itself, if they were run there as they are."""
    path = Outcomes.path(zoo.path, device_id)
    if not path.exists():
        return None
    outcomes = Outcomes.read(path)
    try:
        outcomes.require_current(zoo.hashes)
    except StaleError:
        warn(f"{path} is of other variants, and is left out: run profile-zoo --accuracy on that device")
        return None
    return outcomes


def _tables(zoo: Zoo, outcomes: Outcomes) -> tuple[Table, Table]:
    """The route and test splits, rows in the order of the splits' input ids."""
    features = _features(zoo)
    variants = list(zoo.variants)

    def table(split: str) -> Table:
        correct = outcomes.matrix("correct", split, variants)
        if not correct.index.isin(features.index).all():
            raise StaleError(f"{zoo.path} has outcomes of inputs that are not in its data: run build-zoo anew")
        return Table(features.loc[correct.index].to_numpy(np.float64), correct.to_numpy(bool))

    return table("route"), table("test")


def _features(zoo: Zoo) -> pd.DataFrame:
    """The features of the route and test inputs, a row per input id; computed once and kept."""
    record = BuildRecord.read(zoo.path / BuildRecord.FILE)
    names = feature_names(zoo.manifest.input)
    path = zoo.path / FEATURES_FILE
    cached = _cached_features(path)
    if cached is not None and list(cached.columns) == names and cached.attrs.get("data") == record.data_fingerprint:
        return cached
    dataset = record.load_data()
    indices = np.concatenate([record.indices()["route"], record.indices()["test"]])
    features = pd.DataFrame(
        compute_array(dataset.x[indices], zoo.manifest.input), index=dataset.input_ids(indices), columns=names
    )
    features = features[~features.index.duplicated()]
    features.attrs["data"] = record.data_fingerprint
    with atomic_path(path) as temporary:
        features.to_parquet(temporary)
    return features


def _cached_features(path: Path) -> pd.DataFrame | None:
    """The features that were kept, unless they are damaged: then they are computed anew."""
    try:
        return pd.read_parquet(path) if path.exists() else None
    except (pa.ArrowException, OSError, ValueError):
        return None


class _EstimateCost(NamedTuple):
    stage: Stage
    measured: bool


def _estimate_costs(path: Path, device: Device, profiles: Iterable[Profile]) -> dict[str, _EstimateCost]:
    """What the compiled premodel costs on each profiled device.

    It is measured on ``device``; on the others it is taken to be as many times slower as
    the variants are there, and the plan says so.
    """
    here = device.measure([Target(ESTIMATE_SIGNATURE, path / ESTIMATE_FILE, ESTIMATE_SIGNATURE)])
    require_all(here)
    latency = here.measurements[ESTIMATE_SIGNATURE].latency
    by_id = {profile.device_id: profile for profile in profiles}
    reference = by_id[here.device_id]
    costs = {}
    for device_id, profile in by_id.items():
        ratio = _slowness(profile, reference)
        stage = Stage(name="estimate", mean_ms=latency.mean_ms * ratio, variance=latency.variance * ratio**2)
        costs[device_id] = _EstimateCost(stage, measured=profile is reference)
    return costs


def _slowness(profile: Profile, reference: Profile) -> float:
    """The median, over the variants, of how many times slower one device is than another."""
    return float(
        np.median(
            [
                measured.latency.mean_ms / reference.measurements[name].latency.mean_ms
                for name, measured in profile.measurements.items()
                if name in reference.measurements
            ]
        )
    )


def _costs(zoo: Zoo, profile: Profile, premodel_ms: float) -> Costs:
    latencies = {name: profile.measurements[name].latency for name in zoo.variants}
    return Costs(
        variants=tuple(zoo.variants),
        mean_ms={name: latency.mean_ms for name, latency in latencies.items()},
        variance={name: latency.variance for name, latency in latencies.items()},
        premodel_ms=premodel_ms,
    )


def _budgets(zoo: Zoo, profile: Profile, costs: Costs) -> list[float]:
    """The sweep, without budgets that no variant can keep."""
    base_ms = profile.measurements[zoo.manifest.variants[0].id].latency.p50_ms
    least = min(planned_ms(costs, name, Objective()) for name in costs.variants)
    budgets = [round(fraction * base_ms, 4) for fraction in BUDGET_FRACTIONS]
    return [budget for budget in budgets if budget >= least]


def encode(evaluations: Sequence[Evaluation]) -> bytes:
    """The evaluations as JSON."""
    return msgspec.json.encode(evaluations)
