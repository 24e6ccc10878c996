"""The measuring tool on a phone, and the models that it measures there."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from fleetfoot.console import note
from fleetfoot.errors import DeviceError
from profiling.android.adb import Adb
from profiling.android.benchmark_tool import Invocation, Measured, command, read
from profiling.android.energy import energy_of
from profiling.android.facts import Heat
from profiling.android.summaries import typical_ms
from profiling.android.turns import PhoneTurns, invoke_in_turns
from profiling.operators.flatmodel import read_model
from profiling.operators.table import Timing
from profiling.profile import Conditions, Energy, OperatorTime, Target
from profiling.statistics import Block, Effort
from profiling.thermals import heat_up

_INVOCATION_SECONDS = 0.3
_INVOCATIONS = 10  # as many at least are in an effort's seconds
_TIMEOUT_SECONDS = 600.0
_OPERATOR_SECONDS = 0.5
_ENERGY_SECONDS = 2.0
_SHORT_SECONDS = 0.1


class Copied(NamedTuple):
    """A target, the hash of its file, and where on the phone a copy of that is, or of the network nested in it."""

    target: Target
    file_sha256: str
    remote: str


class PhoneBench:
    """The tool and the models on a device.

    Args:
        adb: the connection.
        binary: the tool's path there.
        copied: the models by their names.
        conditions: what holds while they are measured.
        cores: of the device.
    """

    def __init__(self, adb: Adb, binary: str, copied: Mapping[str, Copied], conditions: Conditions, cores: int) -> None:
        self._adb = adb
        self._binary = binary
        self._copied = copied
        self._conditions = conditions
        self._cores = cores
        self._tells_energy = True

    def take_turns(self, effort: Effort, advance: Callable[[int], None]) -> tuple[PhoneTurns, bool]:
        """Measures the models in turns; also tells whether the device throttled meanwhile.

        Args:
            effort: when a model is measured well enough.
            advance: called with how many more are.

        Raises:
            DeviceError: the device went away before anything was measured.
        """
        seconds = min(_INVOCATION_SECONDS, effort.max_seconds / _INVOCATIONS)
        heat, done = Heat(self._adb), 0

        def after_round(turns: PhoneTurns) -> None:
            nonlocal done
            heat.read()
            satisfied = len(turns.satisfied(effort)) + len(turns.failures)
            advance(satisfied - done)
            done = satisfied

        unfit = self._heat_up(seconds) if self._conditions.state == "sustained" else {}
        turns = invoke_in_turns(
            [name for name in self._copied if name not in unfit],
            lambda name: self._invoke(name, seconds, seconds / 2),
            effort,
            lost=lambda: self._adb.lost,
            after_round=after_round,
        )
        turns.failures |= unfit
        return turns, heat.throttled

    def operators(self, name: str) -> tuple[OperatorTime, ...]:
        """The times of a model's operators, from an invocation of their own; empty where it tells none."""
        if self._adb.lost is not None:
            return ()
        try:
            return self._invoke(name, _OPERATOR_SECONDS, _OPERATOR_SECONDS / 2, operators=True).log.operators
        except DeviceError as error:
            note(f"{name}: no times of single operators: {error}")
            return ()

    def undisturbed(self, name: str) -> Timing | None:
        """About what a short model takes while nothing slows it; None where it does not run.

        Raises:
            DeviceError: the device went away.
        """
        try:
            runs = self._invoke(name, _SHORT_SECONDS, _SHORT_SECONDS / 5).runs
        except DeviceError:
            if self._adb.lost is not None:
                raise
            return None
        return Timing(runs.min_ms if runs.p5_ms is None else runs.p5_ms, runs.count)

    def energy(self, name: str) -> Energy | None:
        """What a run of a model takes; None where the battery cannot tell."""
        if self._adb.lost is not None or not self._tells_energy:
            return None
        try:
            found = energy_of(self._adb, lambda: 1 + self._invoke(name, _ENERGY_SECONDS, 0.0).runs.count)
            self._tells_energy = found is not None  # else the next models need not be tried either
            return found
        except DeviceError as error:
            note(f"{name}: no energy: {error}")
            return None

    def _heat_up(self, seconds: float) -> dict[str, str]:
        """Runs the models until the device is as hot as it gets; returns why some cannot run."""
        unfit: dict[str, str] = {}
        for name in self._copied:
            try:
                self._invoke(name, 0.0, 0.0)
            except DeviceError as error:
                if self._adb.lost is not None:
                    raise
                unfit[name] = str(error)

        def block_of(name: str) -> Callable[[int], Block]:
            return lambda _: [typical_ms(self._invoke(name, seconds, 0.0).runs)]

        heat_up({name: block_of(name) for name in self._copied if name not in unfit})
        return unfit

    def _invoke(self, name: str, seconds: float, warmup_seconds: float, *, operators: bool = False) -> Measured:
        """Measures a model once.

        Raises:
            DeviceError: it cannot be measured so, or the device went away.
        """
        target = self._copied[name].target

        def several() -> bool:
            return len(read_model(target.path, target.signature).signatureDefs or ()) > 1

        invocation = Invocation(self._copied[name].remote, target.signature, seconds, warmup_seconds, operators)
        answer = self._adb.run(command(self._binary, invocation, self._conditions, self._cores), _TIMEOUT_SECONDS)
        return read(answer, self._conditions, several)
