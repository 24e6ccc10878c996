"""Devices that can be measured, whatever way they are reached."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fleetfoot.errors import DeviceError
from profiling.profile import DeviceInfo, Profile, Target
from profiling.statistics import Effort


class Device(Protocol):
    """Something that can run LiteRT models and time them."""

    def info(self) -> DeviceInfo:
        """The device's hardware."""
        ...

    def measure(self, targets: Sequence[Target], *, threads: int = 1, effort: Effort | None = None) -> Profile:
        """Measures the targets in one run, interleaved, so that drift falls on all alike.

        Raises:
            DeviceError: the device went away, or a target cannot run on it.
        """
        ...


def connect_device(uri: str) -> Device:
    """The device behind a URI.

    Raises:
        DeviceError: an unknown kind of URI.
    """
    if uri == "local":
        from profiling.local import LocalDevice

        return LocalDevice()
    raise DeviceError(f"unknown device {uri!r}: this version measures 'local' only")
