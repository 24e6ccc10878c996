"""An Android phone over ADB, measured with Google's ``benchmark_model``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from fleetfoot import __version__
from fleetfoot.console import progress
from fleetfoot.errors import DeviceError, ModelError
from fleetfoot.files import sha256
from profiling.android.adb import Adb
from profiling.android.answers import answer_on_phone
from profiling.android.bench import Copied, PhoneBench
from profiling.android.facts import check_binary, read_info
from profiling.android.files import PhoneFolder
from profiling.android.summaries import as_blocks, summarize_invocations
from profiling.android.turns import PhoneTurns
from profiling.device import DeviceOptions
from profiling.nested import alone
from profiling.profile import Conditions, DeviceInfo, Energy, Measurement, OperatorTime, Profile, Target
from profiling.stability import marks
from profiling.statistics import Effort, paired_ratio

if TYPE_CHECKING:
    from profiling.operators.table import OperatorTable

_NO_BINARY = (
    "Android devices are measured with Google's benchmark_model for their ABI: give it with --benchmark-binary; "
    "docs/devices.md tells where to get it"
)


class AndroidDevice:
    """An Android device.

    Args:
        adb: the connection.
        options: the programs that measure, and that answer.
    """

    def __init__(self, adb: Adb, options: DeviceOptions) -> None:
        self._adb = adb
        self._options = options
        self._folder = PhoneFolder(adb)

    @classmethod
    def connect(cls, address: str, options: DeviceOptions) -> Self:
        """Connects over USB (a serial number) or TCP (``HOST:PORT``).

        Raises:
            DeviceError: there is no such device, or it cannot be used.
        """
        return cls(Adb.connect(address), options)

    def info(self) -> DeviceInfo:
        """The device's hardware, the same over USB and over TCP."""
        return read_info(self._adb)

    def measure(
        self,
        targets: Sequence[Target],
        *,
        conditions: Conditions = Conditions(),  # noqa: B008 (frozen)
        effort: Effort = Effort(),  # noqa: B008 (frozen)
        operators: bool = False,
    ) -> Profile:
        """Measures the targets in turns, each turn an invocation of the tool with its own warm-up.

        The tool tells no single runs, so percentiles are put together from its summaries. When the device goes away,
        what was measured until then is kept, and the rest are failures.

        Raises:
            DeviceError: there is no tool, it cannot run there, or the device went away before anything was measured.
        """
        device = self.info()
        _check(conditions, device)
        binary = _program(self._options.benchmark_binary, _NO_BINARY, device)
        remote_binary, copied, failures = self._copy(targets, binary)
        bench = PhoneBench(self._adb, remote_binary, copied, conditions, device.cores)
        with progress("profiling", len(copied)) as advance:
            turns, throttled = bench.take_turns(effort, advance)
        failures |= turns.failures
        if self._adb.lost is not None and len(turns.failures) == len(turns):
            raise DeviceError(self._adb.lost)
        reference = targets[0].name if targets else ""
        return Profile(
            device_id=device.id,
            device=device,
            conditions=conditions,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions=_versions(binary, device),
            measurements={
                name: _measurement(one, turns, reference, throttled,
                                   bench.operators(name) if operators else (), bench.energy(name))
                for name, one in copied.items() if name not in failures
            },
            failures=failures,
        )  # fmt: skip

    def answer(self, target: Target, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Runs a target on inputs of shape (n, …); returns its outputs, of shape (n, classes).

        Raises:
            DeviceError: there is no runner, the target cannot be run, or the device went away.
        """
        missing = "answers from Android devices need a runner beside benchmark_model, as docs/devices.md describes it"
        runner = _program(self._options.runner_binary, missing, self.info())
        return answer_on_phone(self._adb, self._folder, runner, target, x)

    def operator_table(self, conditions: Conditions) -> OperatorTable:
        """The times of single operators there, each from an invocation of the tool, from the cache or measured now."""
        from profiling.operators.table import Timing, kept_table

        device = self.info()
        _check(conditions, device)
        binary = _program(self._options.benchmark_binary, _NO_BINARY, device)

        def time_models(paths: Sequence[Path]) -> list[Timing | None]:
            targets = [Target(path.name, path, "") for path in paths]
            remote_binary, copied, _ = self._copy(targets, binary)
            bench = PhoneBench(self._adb, remote_binary, copied, conditions, device.cores)
            return [bench.undisturbed(target.name) if target.name in copied else None for target in targets]

        return kept_table(device.id, conditions, _versions(binary, device), time_models)

    def close(self) -> None:
        """Removes what was put on the device, if it is still there, and ends the connection."""
        with suppress(DeviceError):
            self._folder.close()
        self._adb.close()

    def _copy(self, targets: Sequence[Target], binary: Path) -> tuple[str, dict[str, Copied], dict[str, str]]:
        """The tool's path there, the targets that are on the device now, and why others are not.

        Raises:
            DeviceError: the tool cannot be copied, or the device went away.
        """
        copied: dict[str, Copied] = {}
        with progress("copying to the device", len(targets)) as advance, ExitStack() as stack:
            files, failures = _files(targets, stack)
            self._folder.use([sha256(binary), *map(sha256, files.values())])
            remote_binary = self._folder.put(binary, 0o755)
            for target in targets:
                advance(1)
                if target.name in failures:
                    continue
                try:
                    remote = self._folder.put(files[target.name])
                    copied[target.name] = Copied(target, sha256(target.path), remote)
                except DeviceError as error:
                    if self._adb.lost is not None:
                        raise
                    failures[target.name] = str(error)
        return remote_binary, copied, failures


def _versions(binary: Path, device: DeviceInfo) -> dict[str, str]:
    return {
        "fleetfoot": __version__,
        "benchmark_model": sha256(binary)[:12],
        "android": device.facts.get("android", ""),
        "adb-shell": version("adb-shell"),
    }


def _check(conditions: Conditions, device: DeviceInfo) -> None:
    if missing := set(conditions.cpus) - set(range(device.cores)):
        raise DeviceError(f"there is no core {min(missing)} there: cores are numbered 0 to {device.cores - 1}")


def _program(path: Path | None, missing: str, device: DeviceInfo) -> Path:
    """A program that the device can run.

    Raises:
        DeviceError: it was not given, is not there, or is for another ABI.
    """
    if path is None:
        raise DeviceError(missing)
    try:
        with path.open("rb") as program:
            head = program.read(64)
    except OSError as error:
        raise DeviceError(f"{path} cannot be read: {error.strerror}") from None
    check_binary(head, path.name, device.facts.get("abis") or device.architecture)
    return path


def _files(targets: Sequence[Target], stack: ExitStack) -> tuple[dict[str, Path], dict[str, str]]:
    """What the phone's tools, which know no nested networks, are given, by the targets' names; why others have nothing.

    The stack removes the files that are temporary.
    """
    files: dict[str, Path] = {}
    failures: dict[str, str] = {}
    for target in targets:
        try:
            target.path.open("rb").close()
            files[target.name] = stack.enter_context(alone(target.path, target.signature))
        except OSError as error:
            failures[target.name] = f"{target.path} cannot be read: {error.strerror}"
        except ModelError as error:
            failures[target.name] = str(error)
    return files, failures


def _measurement(
    copied: Copied, turns: PhoneTurns, reference: str, throttled: bool,
    operators: tuple[OperatorTime, ...], energy: Energy | None,
) -> Measurement:  # fmt: skip
    name = copied.target.name
    runs = turns.runs(name)
    comparable = reference != name and reference in turns and reference not in turns.failures
    memory = [one.log.memory_bytes for one in turns[name] if one.log.memory_bytes is not None]
    return Measurement(
        file_sha256=copied.file_sha256,
        signature=copied.target.signature,
        latency=summarize_invocations(runs),
        relative=paired_ratio(as_blocks(runs), as_blocks(turns.runs(reference))) if comparable else None,
        load_ms=median(one.load_ms for one in turns[name]),
        first_ms=median(one.first_ms for one in turns[name]),
        peak_memory_bytes=max(memory, default=None),
        unstable=marks([[one.mean_ms] for one in runs], throttled=throttled),
        energy=energy,
        operators=operators,
    )
