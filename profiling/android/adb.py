"""Commands and files over ADB, with the package adb_shell: exit statuses, big files, and errors that are told apart."""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Self

from fleetfoot.console import note
from fleetfoot.errors import DeviceError, first_line
from profiling.android import link
from profiling.android.keys import signer
from profiling.android.link import PORT, errors, open_device

_PROMPT_SECONDS = 20.0
_COMMAND_SECONDS = 20.0
_FILE_SECONDS = 30.0
_TLS = "STLS"


class Answer(NamedTuple):
    """What a command said, on both streams, and its exit status."""

    status: int
    output: str


class Adb:
    """A connection to a device; what ends it is kept in :attr:`lost`, and then every call raises that."""

    def __init__(self, device: Any, address: str) -> None:
        self._device = device
        self._address = address
        self._errors = errors()
        self.lost: str | None = None

    @classmethod
    def connect(cls, address: str, prompt_seconds: float = _PROMPT_SECONDS) -> Self:
        """Connects to a device.

        Args:
            address: a serial number, for USB; ``HOST:PORT``, or a host's name with a dot in it, for TCP; or an
                emulator's name, such as ``emulator-5554``.
            prompt_seconds: how long somebody has to accept the prompt on the device's screen.

        Raises:
            DeviceError: there is no such device, or it cannot be used; the message tells which and what to do.
        """
        try:
            failures = errors()
        except ImportError:
            raise DeviceError("Android devices need adb-shell: pip install 'fleetfoot[android]'") from None
        key, asked, device = signer(), False, None

        def ask(_: object) -> None:
            nonlocal asked
            asked = True
            note(f"{address}: accept the prompt on the device's screen")

        try:
            device = open_device(address)
            device.connect(
                rsa_keys=[key],
                transport_timeout_s=link.CONNECT_SECONDS,
                read_timeout_s=link.CONNECT_SECONDS,
                auth_timeout_s=prompt_seconds,
                auth_callback=ask,
            )
        except failures as error:
            if device is not None:
                device.close()
            raise DeviceError(_why_unconnected(address, error, asked)) from None
        return cls(device, address)

    def run(self, command: str, timeout_s: float = _COMMAND_SECONDS) -> Answer:
        """Runs a shell command, with nothing on its standard input.

        Raises:
            DeviceError: the connection is lost, or nothing came in time.
        """
        marker = secrets.token_hex(8)
        wrapped = f"( {command} ) </dev/null; status=$?; echo; echo {marker}:$status"
        with self._watched(f"a command ran, for up to {timeout_s:.0f} s"):
            said: str = self._device.shell(
                wrapped, transport_timeout_s=timeout_s, read_timeout_s=timeout_s, timeout_s=timeout_s
            )
        output, _, told = said.replace("\r\n", "\n").rpartition(f"\n{marker}:")
        if (status := re.match(r"\d+", told)) is None:
            raise DeviceError(f"the shell of {self._address} ended before its command: {_last_line(said)}")
        return Answer(int(status[0]), output)

    def push(self, local: Path, remote: str, mode: int = 0o644) -> None:
        """Copies a file to the device, of whatever size.

        Raises:
            DeviceError: no space, no permission, or the connection is lost.
        """
        with self._watched(f"{local.name} was copied there"):
            self._device.push(
                str(local), remote, st_mode=0o100000 | mode,
                transport_timeout_s=_FILE_SECONDS, read_timeout_s=_FILE_SECONDS,
            )  # fmt: skip

    def pull(self, remote: str, local: Path) -> None:
        """Copies a file from the device.

        Raises:
            DeviceError: there is no such file, no permission, or the connection is lost.
        """
        with self._watched(f"{remote} was copied from there"):
            self._device.pull(remote, str(local), transport_timeout_s=_FILE_SECONDS, read_timeout_s=_FILE_SECONDS)

    def close(self) -> None:
        """Ends the connection."""
        self.lost = self.lost or f"the connection to {self._address} is closed"
        with suppress(*self._errors):
            self._device.close()

    @contextmanager
    def _watched(self, doing: str) -> Iterator[None]:
        """Turns what the package raises into one line, and ends a connection that is broken."""
        if self.lost is not None:
            raise DeviceError(self.lost)
        try:
            yield
        except self._errors as error:
            if (refusal := _refusal(error)) is not None:
                raise DeviceError(f"{self._address} refused a file: {refusal}") from None
            self.lost = f"the connection to {self._address} was lost while {doing} ({_brief(error)})"
            self.close()
            raise DeviceError(self.lost) from None


def _refusal(error: Exception) -> str | None:
    """Why the device did not take or give a file, and what to do; None where something else is wrong."""
    if type(error).__name__ not in ("PushFailedError", "AdbCommandFailureException"):
        return None
    given = error.args[0] if error.args else ""
    text = given.decode(errors="replace") if isinstance(given, bytes | bytearray) else str(given)
    text = text.removeprefix("Command failed: ")
    if "No space left" in text:
        return "no space left on the device: free some"
    if "denied" in text or "Read-only" in text or "not permitted" in text:
        return f"permission denied ({text}): is /data/local/tmp there, and may the shell's user write to it?"
    return text


def _why_unconnected(address: str, error: Exception, asked: bool) -> str:
    """One line for what went wrong while connecting."""
    kind, text = type(error).__name__, str(error)
    if asked:
        return f"{address} does not know this computer: accept the prompt on the device's screen and try again"
    if _TLS in text:
        return (
            f"{address} is Android's wireless debugging, whose encrypted form is not supported: connect the cable, "
            f"run `adb tcpip {PORT}`, and use adb:HOST:{PORT}"
        )
    reasons = {
        "UsbDeviceNotFoundError": "is not among the USB devices: plug it in and turn on USB debugging in its "
        "developer options, or give HOST:PORT for TCP",
        "USBErrorBusy": "is in use by another program: run `adb kill-server`",
        "USBErrorAccess": "may not be opened by this user: install the udev rules for Android devices",
        "ConnectionRefusedError": f"refused the connection: run `adb tcpip {PORT}` with the cable connected, and "
        "check the port",
        "gaierror": "is no known host: check the name",
        "InvalidCommandError": "is no Android device: something else answers at that port",
        "InvalidChecksumError": "is no Android device: something else answers at that port",
        "ConnectionResetError": "closed the connection: is it an Android device with debugging turned on?",
    }
    if kind in reasons:
        return f"{address} {reasons[kind]}"
    if kind == "TcpTimeoutException" or kind == "AdbTimeoutError" or kind.startswith(("Usb", "USB")):
        return f"{address} is offline: it takes connections but does not answer; turn its USB debugging off and on"
    if isinstance(error, OSError):
        return f"{address} cannot be reached ({_brief(error)}): is it on, and in this network?"
    return f"{address} is no Android device that can be used ({_brief(error)})"


def _brief(error: Exception) -> str:
    return str(error.strerror) if isinstance(error, OSError) and error.strerror else first_line(error)


def _last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "it said nothing")
