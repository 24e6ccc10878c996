"""What is known of a device, and of how fast models run on it."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

import msgspec

from fleetfoot import __version__
from fleetfoot.errors import DeviceError
from fleetfoot.files import Document
from profiling.stability import Mark
from profiling.statistics import LatencySummary, Ratio

State = Literal["idle", "contended", "sustained"]
Delegate = Literal["cpu", "xnnpack", "gpu", "nnapi"]


class DeviceInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The hardware of a device; equal boards are the same device, whatever they are called and however reached.

    Attributes:
        processor: the board's or the chip's name.
        architecture: of its instructions, such as ``aarch64``.
        system: of its kernel, such as ``Linux``, or ``Android``.
        cores: that programs can use.
        memory_bytes: its main memory.
        facts: what else it tells, and what does not make it another device: governor, system's version, …
    """

    processor: str
    architecture: str
    system: str
    cores: int
    memory_bytes: int
    facts: dict[str, str] = {}

    @property
    def id(self) -> str:
        """Slug and fingerprint, such as ``raspberry-pi-4-model-b-1f3a9c2e``."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.processor.lower()).strip("-")[:40].strip("-")
        identity = f"{self.processor}|{self.architecture}|{self.system}|{self.cores}"
        return f"{slug}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


class Target(NamedTuple):
    """A model to measure: a name of the caller's choice, a file, and a signature in it.

    Of a file without signatures, the signature is empty.
    """

    name: str
    path: Path
    signature: str


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What holds while a device is measured; the service runs the variants under the same threads and pinning.

    Attributes:
        threads: of each interpreter.
        cpus: the processor cores that it may use; empty for wherever the system puts it.
        state: of the device: with nothing else to do, with a busy process on every core beside the measured one,
            or heated by running without a pause.
        delegate: what computes: LiteRT's own choice for the processor, XNNPACK, or a phone's GPU or NNAPI.
    """

    threads: int = 1
    cpus: tuple[int, ...] = ()
    state: State = "idle"
    delegate: Delegate = "cpu"

    def __post_init__(self) -> None:
        if self.threads < 1 or any(cpu < 0 for cpu in self.cpus):
            raise ValueError("threads are at least one, and cores have numbers from 0")

    @property
    def slug(self) -> str:
        """All that is not as usual, such as ``threads-4-contended``; empty where all is."""
        parts = [
            f"threads-{self.threads}" if self.threads > 1 else "",
            f"cpus-{'-'.join(map(str, self.cpus))}" if self.cpus else "",
            self.state if self.state != "idle" else "",
            self.delegate if self.delegate != "cpu" else "",
        ]
        return "-".join(filter(None, parts))


class OperatorTime(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one operator of a model takes, in milliseconds of one run of the model; None where it cannot be told."""

    name: str
    kind: str
    ms: float | None


class Energy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one run takes from the supply that ``source`` names, the idle device's share included, in millijoules."""

    mj: float
    source: str


class Measurement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one signature of one model file ran on a device.

    Attributes:
        file_sha256: the file's.
        signature: what of it was run.
        latency: of warm runs.
        relative: undisturbed, to the first model of the same run, from blocks taken in the same rounds.
        load_ms: opening the file, apart from the runtime's own start.
        first_ms: the first run.
        peak_memory_bytes: the most that loading and running added to an idle process; None where untold.
        unstable: what is wrong with taking the latencies for one distribution.
        energy: of a run, where the device can tell.
        operators: the times of its operators, where they were asked for.
        predicted_ms: the undisturbed latency as the device's table of single operators has it, none of which are
            taken from this model; None where it was not asked for, or an operator is of a kind not in the table.
    """

    file_sha256: str
    signature: str
    latency: LatencySummary
    relative: Ratio | None = None
    load_ms: float
    first_ms: float
    peak_memory_bytes: int | None
    unstable: tuple[Mark, ...] = ()
    energy: Energy | None = None
    operators: tuple[OperatorTime, ...] = ()
    predicted_ms: float | None = None


class Profile(Document, frozen=True, kw_only=True):
    """The measurements of several models on one device, made in one run under one set of conditions.

    Attributes:
        device_id: of the device, the same whatever way it was reached.
        device: its hardware.
        conditions: what held meanwhile.
        created: when, as ISO 8601.
        versions: of everything that took part.
        measurements: by the targets' names.
        failures: why others could not be measured.
    """

    SCHEMA_VERSION: ClassVar[int] = 2
    OLDEST_READ: ClassVar[int] = 2

    device_id: str
    device: DeviceInfo
    conditions: Conditions
    created: str
    versions: dict[str, str]
    measurements: dict[str, Measurement]
    failures: dict[str, str] = {}  # noqa: RUF012 (msgspec copies it)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9-]+", self.device_id):
            raise ValueError(f"a device-id has small letters, digits and hyphens only, unlike {self.device_id!r}")

    @property
    def prediction_error(self) -> float | None:
        """By how much predicted latencies are off the undisturbed ones, on average; None without any."""
        errors = [
            abs(one.predicted_ms / one.latency.p5_ms - 1)
            for one in self.measurements.values()
            if one.predicted_ms is not None
        ]
        return sum(errors) / len(errors) if errors else None

    def covers(self, hashes: Mapping[str, str]) -> bool:
        """Whether models with these names and file hashes were all measured."""
        measured = {name: measurement.file_sha256 for name, measurement in self.measurements.items()}
        return hashes.items() <= measured.items()


def require_all(profile: Profile) -> None:
    """Makes sure that nothing of a profile failed.

    Raises:
        DeviceError: something did; what was measured is kept all the same.
    """
    if profile.failures:
        raise DeviceError("; ".join(profile.failures.values()))


def this_device() -> DeviceInfo:
    """The machine that this process runs on."""
    return DeviceInfo(
        processor=_processor_name(),
        architecture=platform.machine(),
        system=platform.system(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        facts=_changing_facts(),
    )


def tool_versions() -> dict[str, str]:
    """The versions of everything that takes part in a local measurement."""
    return {
        "fleetfoot": __version__,
        "ai-edge-litert": version("ai-edge-litert"),
        "numpy": version("numpy"),
        "python": platform.python_version(),
        "kernel": platform.release(),
    }


def _processor_name() -> str:
    """The board's name where there is one (ARM), else the processor's model name."""
    board = Path("/proc/device-tree/model")
    if board.exists():
        return board.read_text().strip("\0\n ")
    facts = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    found = re.search(r"^model name\s*:\s*(.+)$", facts, re.MULTILINE)
    return found[1].strip() if found else platform.processor() or platform.machine()


def _changing_facts() -> dict[str, str]:
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {"governor": governor.read_text().strip()} if governor.exists() else {}
