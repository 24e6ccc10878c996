"""The memory of a process that holds somebody's model: its limit, its peak, and who goes first when it runs out."""

from __future__ import annotations

import resource
from contextlib import suppress
from pathlib import Path


def be_first_to_go() -> None:
    """When memory runs out, the system ends this process rather than the one that measures."""
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def limit_memory(more_bytes: int) -> None:
    """Lets this process reserve so much memory for data beyond what it has; 0 for no limit."""
    if more_bytes:
        limit = _data_bytes() + more_bytes
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def peak_bytes() -> int:
    """The most memory that this process had so far."""
    status = Path("/proc/self/status")
    if status.exists():  # unlike getrusage, this does not remember the parent's size
        return _field(status, "VmHWM")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def _data_bytes() -> int:
    """What the limit counts: memory that is reserved for data, used or not."""
    status = Path("/proc/self/status")
    return _field(status, "VmData") if status.exists() else peak_bytes()


def _field(status: Path, name: str) -> int:
    (line,) = (line for line in status.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024
