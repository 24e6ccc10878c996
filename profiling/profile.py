"""What is known of a device, and of how fast models run on it."""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import msgspec

from fleetfoot import __version__
from fleetfoot.files import Document
from profiling.statistics import LatencySummary


class DeviceInfo(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The hardware of a device; equal boards are the same device, whatever they are called."""

    processor: str
    architecture: str
    system: str
    cores: int
    memory_bytes: int

    @property
    def id(self) -> str:
        """Slug and fingerprint, such as ``raspberry-pi-4-model-b-1f3a9c2e``."""
        slug = re.sub(r"[^a-z0-9]+", "-", self.processor.lower()).strip("-")[:40].strip("-")
        facts = f"{self.processor}|{self.architecture}|{self.system}|{self.cores}"
        return f"{slug}-{hashlib.sha256(facts.encode()).hexdigest()[:8]}"


class Target(NamedTuple):
    """A model to measure: a name of the caller's choice, a file, and a signature in it."""

    name: str
    path: Path
    signature: str


class Measurement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one signature of one model file ran on a device; memory is what it adds to an idle process."""

    file_sha256: str
    signature: str
    latency: LatencySummary
    load_ms: float
    first_ms: float
    peak_memory_bytes: int


class Profile(Document, frozen=True, kw_only=True):
    """The measurements of several models on one device, made in one run."""

    device_id: str
    device: DeviceInfo
    threads: int
    created: str
    versions: dict[str, str]
    measurements: dict[str, Measurement]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z0-9-]+", self.device_id):
            raise ValueError(f"a device-id has small letters, digits and hyphens only, unlike {self.device_id!r}")

    def covers(self, hashes: Mapping[str, str]) -> bool:
        """Whether models with these names and file hashes were all measured."""
        measured = {name: measurement.file_sha256 for name, measurement in self.measurements.items()}
        return hashes.items() <= measured.items()


def this_device() -> DeviceInfo:
    """The machine that this process runs on."""
    return DeviceInfo(
        processor=_processor_name(),
        architecture=platform.machine(),
        system=platform.system(),
        cores=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
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
