"""The selector: chooses a variant for an input and a budget, runs it, and learns how slow the device is."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from numbers import Real
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
import numpy.typing as npt

from fleetfoot.console import warn
from fleetfoot.errors import (
    DamagedFileError,
    ModelError,
    NotAZooError,
    OverBudgetError,
    RequestError,
    SchemaError,
    UsageError,
)
from fleetfoot.files import sha256
from premodel.plan import ESTIMATE_FILE, Plan
from premodel.policy import Choice, Objective, check_budget, choose
from profiling.invoke import pin
from profiling.profile import Profile, this_device
from runtime.answers import Answer, Description, OnMiss, Stats
from runtime.engine import Engine
from runtime.estimate import Estimate
from runtime.slowdown import Slowdown
from zoo.catalog import Zoo

Array = npt.NDArray[Any]


class _Latencies(NamedTuple):
    """Profiled mean and variance per usable variant."""

    mean_ms: dict[str, float]
    variance: dict[str, float]


class Selector:
    """Chooses and runs the variants of one zoo on one device; safe to be called from several threads."""

    def __init__(self, zoo: Zoo, engine: Engine, profile: Profile, plan: Plan | None) -> None:
        self._zoo = zoo
        self._engine = engine
        self._device_id = profile.device_id
        measured = {name: profile.measurements[name].latency for name in engine.variants}
        self._profiled = _Latencies(
            {name: latency.mean_ms for name, latency in measured.items()},
            {name: latency.variance for name, latency in measured.items()},
        )
        self._table = {
            name: plan.p_right[name] if plan else zoo.variants[name].accuracy["route"] for name in engine.variants
        }
        self._estimate = _open_estimate(zoo, plan)
        self._slowdown = Slowdown()
        self._lock = threading.Lock()
        self._chosen: Counter[str] = Counter()
        self._late = self._refused = 0
        self._warm_up()

    @classmethod
    def open(cls, path: Path | str, device: str = "auto", *, pinned: bool = False) -> Selector:
        """Opens a zoo for this device.

        Args:
            path: the zoo directory.
            device: the id of the device whose profile and plan hold here; ``"auto"`` finds this machine's.
            pinned: whether this thread, and those that it starts, keep to the cores that were profiled.

        Raises:
            ZooError: the zoo cannot be used, or was never profiled.
            UsageError: no such device.
            DeviceError: there are no such cores.
        """
        zoo = Zoo.open(path)
        profile = _find_profile(zoo, device)
        if pinned and profile.device_id == this_device().id:
            pin(profile.conditions.cpus)
        return cls(zoo, Engine(zoo, profile.conditions.threads), profile, _find_plan(zoo, profile.device_id))

    def choose(
        self,
        x: npt.ArrayLike,
        budget_ms: float,
        *,
        objective: Objective | None = None,
        on_miss: OnMiss = "serve",
    ) -> Choice:
        """The variant to run for a raw input within a budget, without running it.

        Args:
            x: one raw input, of the zoo's shape.
            budget_ms: milliseconds from this call to the answer.
            objective: what is wanted within them; by default the best accuracy at 95 % confidence.
            on_miss: what to do when no variant keeps the budget: ``"serve"`` the fastest, or ``"refuse"``.

        Raises:
            InputError: ``x`` does not fit.
            BudgetError: the budget is no positive number.
            OverBudgetError: no variant keeps the budget, and ``on_miss`` is ``"refuse"``.
        """
        start = time.perf_counter()
        return self._choose(self._zoo.manifest.input.check(x), start, budget_ms, objective, on_miss)

    def infer(
        self,
        x: npt.ArrayLike,
        budget_ms: float,
        *,
        objective: Objective | None = None,
        on_miss: OnMiss = "serve",
    ) -> Answer:
        """Chooses a variant for a raw input and runs it; arguments and errors as for ``choose``."""
        start = time.perf_counter()
        checked = self._zoo.manifest.input.check(x)
        choice = self._choose(checked, start, budget_ms, objective, on_miss)
        run_start = time.perf_counter()
        probabilities = self._engine.run(choice.variant, checked)
        end = time.perf_counter()
        self.report_latency(choice.variant, (end - run_start) * 1e3)
        index = int(probabilities.argmax())
        latency_ms = (end - start) * 1e3
        within = latency_ms <= budget_ms
        with self._lock:
            self._chosen[choice.variant] += 1
            self._late += not within
        return Answer(
            label=self._zoo.manifest.classes[index],
            index=index,
            confidence=float(probabilities[index]),
            variant=choice.variant,
            latency_ms=latency_ms,
            expected_ms=choice.expected_ms,
            within_budget=within,
            why=choice.why,
        )

    def report_latency(self, variant: str, ms: Any) -> None:
        """Tells the selector what a run of a variant took, in an app that runs the variants itself.

        Raises:
            RequestError: no such variant, or no positive latency.
        """
        if variant not in self._profiled.mean_ms:
            raise RequestError(f"no variant {variant!r}: there are {', '.join(self._profiled.mean_ms)}")
        if isinstance(ms, bool) or not isinstance(ms, Real) or not math.isfinite(ms) or ms <= 0:
            raise RequestError(f"a latency is a positive number of milliseconds, not {ms!r}")
        with self._lock:
            self._slowdown.observe(self._profiled.mean_ms[variant], float(ms))

    def describe(self) -> Description:
        """What is served."""
        spec = self._zoo.manifest.input
        return Description(
            name=self._zoo.manifest.name,
            classes=self._zoo.manifest.classes,
            input_shape=spec.shape,
            input_dtype=spec.dtype,
            input_range=(spec.minimum, spec.maximum),
            variants=dict(self._profiled.mean_ms),
            device_id=self._device_id,
            stages=("table", "estimate") if self._estimate else ("table",),
        )

    def stats(self) -> Stats:
        """What happened since the start."""
        with self._lock:
            return Stats(
                answers=self._chosen.total(),
                late=self._late,
                refused=self._refused,
                chosen=dict(self._chosen),
                slowdown=self._slowdown.mean,
            )

    def close(self) -> None:
        """Nothing to release; here so that local and remote selectors are used alike."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _choose(self, x: Array, start: float, budget_ms: float, objective: Objective | None, on_miss: OnMiss) -> Choice:
        budget_ms = check_budget(budget_ms)
        if on_miss not in ("serve", "refuse"):
            raise RequestError(f"on_miss is 'serve' or 'refuse', not {on_miss!r}")
        objective = objective or Objective()
        latencies = self._latencies_now()
        p_right = self._p_right(x, latencies, budget_ms, objective)
        left_ms = budget_ms - (time.perf_counter() - start) * 1e3
        choice = choose(p_right, latencies.mean_ms, latencies.variance, left_ms, objective)
        if not choice.fits and on_miss == "refuse":
            with self._lock:
                self._refused += 1
                self._slowdown.forget()
            raise OverBudgetError(
                f"no variant keeps {budget_ms:g} ms here: the fastest needs {choice.planned_ms:.3g} ms"
            )
        return choice

    def _warm_up(self) -> None:
        """Runs the whole way once, so that the first caller's budget does not pay for it."""
        spec = self._zoo.manifest.input
        zeros = spec.check(np.zeros(spec.shape, spec.dtype))
        self._choose(zeros, time.perf_counter(), math.inf, None, "serve")

    def _latencies_now(self) -> _Latencies:
        with self._lock:
            slow = self._slowdown
            return _Latencies(
                {name: slow.mean_ms(ms) for name, ms in self._profiled.mean_ms.items()},
                {
                    name: slow.variance_ms(ms, self._profiled.variance[name])
                    for name, ms in self._profiled.mean_ms.items()
                },
            )

    def _p_right(self, x: Array, latencies: _Latencies, budget_ms: float, objective: Objective) -> dict[str, float]:
        """The estimate's probabilities, if some variant still keeps the budget after asking it; else the table's."""
        if self._estimate is None:
            return self._table
        left_ms = budget_ms - self._estimate.planned_ms(objective.deviations) * self._slowdown.mean
        if not choose(self._table, latencies.mean_ms, latencies.variance, left_ms, objective).fits:
            return self._table
        estimated = self._estimate.p_right(x)
        return {name: estimated[name] for name in self._table}


def _open_estimate(zoo: Zoo, plan: Plan | None) -> Estimate | None:
    """The compiled premodel, where the plan asks it and it can be run."""
    stages = [stage for stage in plan.stages if stage.name == "estimate"] if plan else []
    if not plan or not stages:
        return None
    try:
        return Estimate(zoo, plan, stages[0])
    except ModelError as error:
        warn(f"choosing without a premodel: {error}")
        return None


def _find_profile(zoo: Zoo, device: str) -> Profile:
    """The profile of a device, which must cover the variants as they are."""
    profiles = {profile.device_id: profile for profile in zoo.profiles() if profile.covers(zoo.hashes)}
    if not profiles:
        raise NotAZooError(f"{zoo.path} has no current profile of any device: run profile-zoo")
    wanted = this_device().id if device == "auto" else device
    if wanted in profiles:
        return profiles[wanted]
    if device != "auto":
        raise UsageError(f"{zoo.path} has no profile of {device!r}: there is {', '.join(profiles)}")
    other = next(iter(profiles.values()))
    warn(f"no profile of this machine ({wanted}): going by the one of {other.device_id} until latencies are seen")
    return other


def _find_plan(zoo: Zoo, device_id: str) -> Plan | None:
    """The plan of a device, if there is one and it and its estimate are of the variants as they are."""
    try:
        plan = Plan.read(Plan.path(zoo.path, device_id))
        if plan.variants != zoo.hashes:
            raise DamagedFileError("the plan is of other variants: run train-premodel")
        if sha256(zoo.path / ESTIMATE_FILE) != plan.estimate_sha256:
            raise DamagedFileError(f"{ESTIMATE_FILE} is not the one of the plan: run train-premodel")
    except (NotAZooError, SchemaError, DamagedFileError, FileNotFoundError) as error:
        warn(f"choosing without a premodel: {error}")
        return None
    return plan
