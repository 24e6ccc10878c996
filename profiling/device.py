"""Devices that can be measured, whatever way they are reached."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

import msgspec
import numpy as np
import numpy.typing as npt

from fleetfoot.errors import DeviceError
from profiling.profile import Conditions, DeviceInfo, Profile, Target
from profiling.statistics import Effort

if TYPE_CHECKING:
    from profiling.operators.table import OperatorTable


class Device(Protocol):
    """Something that can run LiteRT models and time them."""

    def info(self) -> DeviceInfo:
        """The device's hardware.

        Raises:
            DeviceError: it is gone.
        """
        ...

    def measure(
        self,
        targets: Sequence[Target],
        *,
        conditions: Conditions = Conditions(),  # noqa: B008 (frozen)
        effort: Effort = Effort(),  # noqa: B008 (frozen)
        operators: bool = False,
    ) -> Profile:
        """Measures the targets in one run, interleaved, so that drift falls on all alike.

        A target that cannot be measured is among the profile's failures, with the reason; the others are measured.

        Args:
            targets: what to measure; ratios are to the first.
            conditions: what holds meanwhile.
            effort: when enough was measured.
            operators: whether the times of single operators are wanted too.

        Raises:
            DeviceError: the device went away before anything was measured, or cannot do what ``conditions`` ask.
        """
        ...

    def answer(self, target: Target, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Runs a target on inputs of shape (n, …) and returns its outputs, of shape (n, classes).

        Raises:
            DeviceError: the target cannot be run there, or the device went away.
        """
        ...

    def operator_table(self, conditions: Conditions) -> OperatorTable:
        """The times of single operators there, measured once: networks are predicted from them.

        Raises:
            DeviceError: the device went away, or runs nothing at all.
        """
        ...

    def close(self) -> None:
        """Ends the connection and removes what was put on the device."""
        ...


class DeviceOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What connecting to devices takes, of whichever kind.

    Attributes:
        benchmark_binary: Google's ``benchmark_model`` for the phone's ABI.
        runner_binary: a program for the phone's ABI that runs a model on inputs, as ``docs/devices.md`` has it.
        token: what an agent asks of its clients.
        certificate: the client's own, for TLS, as a PEM file.
        key: of that certificate.
        authority: the certificate of who signed the agent's.
        insecure: whether another machine's agent may be told the token without TLS.
    """

    benchmark_binary: Path | None = None
    runner_binary: Path | None = None
    token: str | None = None
    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None
    insecure: bool = False

    @classmethod
    def from_environment(cls) -> Self:
        """The options that ``FLEETFOOT_TOKEN``, ``FLEETFOOT_BENCHMARK_BINARY`` and so on give."""
        given = {name: os.environ.get(f"FLEETFOOT_{name.upper()}") for name in cls.__struct_fields__}
        given = {name: value for name, value in given.items() if value}
        return msgspec.convert(given, type=cls, strict=False, dec_hook=_to_path)


@contextmanager
def connected(uri: str, options: DeviceOptions | None = None) -> Iterator[Device]:
    """Connects to the device behind a URI for the length of a block, as ``connect_device`` does."""
    device = connect_device(uri, options)
    try:
        yield device
    finally:
        device.close()


def connect_device(uri: str, options: DeviceOptions | None = None) -> Device:
    """The device behind a URI: ``local``, ``adb:…`` or ``pyro:…``.

    Args:
        uri: of the device.
        options: what connecting takes; by default what the environment gives.

    Raises:
        DeviceError: an unknown kind of URI, or nothing that answers there.
    """
    options = options or DeviceOptions.from_environment()
    scheme, _, address = uri.partition(":")
    if uri == "local":
        from profiling.local import LocalDevice

        return LocalDevice()
    if scheme == "adb" and address:
        from profiling.android.device import AndroidDevice

        return AndroidDevice.connect(address, options)
    if scheme == "pyro" and address:
        from profiling.board.remote import RemoteDevice

        return RemoteDevice.connect(address, options)
    raise DeviceError(
        f"unknown device {uri!r}: there are local, adb:SERIAL, adb:HOST:PORT, pyro:HOST:PORT and pyro:NAME@HOST"
    )


def _to_path(kind: type, value: str) -> Path:
    return Path(value)
