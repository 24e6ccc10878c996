"""What carries ADB's messages: the package adb_shell's transports and its device, mended.

Its TCP transport sends what fits into the socket's buffer and forgets the rest, which stalls big files; it takes a
closed connection for one that is slow; and its device drops the message in which a phone says why it takes no more of
a file.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from fleetfoot.errors import DeviceError

PORT = 5555
CONNECT_SECONDS = 5.0
_ALIVE_SECONDS = 4  # an idle connection is asked whether it is still alive
_FAIL_HEADER = 8


def errors() -> tuple[type[Exception], ...]:
    """All that the package and what it stands on raise when something is wrong on the other side."""
    from adb_shell import exceptions

    own = [each for each in vars(exceptions).values() if isinstance(each, type)]
    with suppress(ImportError, OSError):  # only USB needs it
        from adb_shell.transport import usb_transport

        own.append(usb_transport.usb1.USBError)
    return (OSError, ValueError, KeyError, *own)


def open_device(address: str) -> Any:
    """A device that is not connected yet, of the package's kind, mended.

    Raises:
        DeviceError: USB is not there, or the address is none.
    """
    from adb_shell.adb_device import AdbDevice

    place = tcp_address(address)
    transport = _tcp(*place) if place else _usb(address)
    transport.bulk_write = _whole(transport.bulk_write)
    device = AdbDevice(transport)
    device._filesync_flush = _listening_flush(device)
    return device


def tcp_address(address: str) -> tuple[str, int] | None:
    """Host and port that an address stands for; None for a serial number.

    Raises:
        DeviceError: the port is no number.
    """
    if emulator := re.fullmatch(r"emulator-(\d+)", address):
        return "127.0.0.1", int(emulator[1]) + 1
    if ":" not in address:
        return (address, PORT) if "." in address else None
    host, _, port = address.rpartition(":")
    if not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise DeviceError(f"{port!r} is no port: give the device as adb:HOST:PORT, such as adb:192.168.1.5:{PORT}")
    return host.strip("[]"), int(port)


def _tcp(host: str, port: int) -> Any:
    from adb_shell.transport.tcp_transport import TcpTransport

    transport = TcpTransport(host, port)
    connect, read = transport.connect, transport.bulk_read

    def connect_alive(timeout_s: float) -> None:
        connect(timeout_s)
        _keep_alive(transport._connection)

    def read_something(size: int, timeout_s: float) -> bytes:
        data: bytes = read(size, timeout_s)
        if not data:
            raise ConnectionResetError("the other side closed it")
        return data

    transport.connect, transport.bulk_read = connect_alive, read_something
    return transport


def _keep_alive(connection: socket.socket) -> None:
    """Lets the system find out in seconds that nobody is there any more, however long a command is silent."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, value in (("TCP_KEEPIDLE", _ALIVE_SECONDS), ("TCP_KEEPINTVL", 2), ("TCP_KEEPCNT", 3),
                          ("TCP_USER_TIMEOUT", 10_000)):  # fmt: skip
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)


def _usb(serial: str) -> Any:
    try:
        from adb_shell.transport.usb_transport import UsbTransport
    except (ImportError, OSError):
        raise DeviceError("USB needs libusb: pip install 'fleetfoot[android]', and the system's libusb-1.0") from None
    return UsbTransport.find_adb(serial, None, CONNECT_SECONDS)


def _whole(write: Callable[[Any, float], int]) -> Callable[[Any, float], int]:
    """A transport's way of writing, repeated until all is written."""

    def write_whole(data: bytes, timeout_s: float) -> int:
        sent = 0
        while sent < len(data):
            sent += write(bytes(memoryview(data)[sent:]) if sent else data, timeout_s)
        return sent

    return write_whole


def _listening_flush(device: Any) -> Callable[[Any, Any], None]:
    """What sends a part of a file, and also hears a device that says no instead of taking it."""
    from adb_shell.adb_message import AdbMessage
    from adb_shell.constants import CLSE, OKAY, WRTE
    from adb_shell.exceptions import PushFailedError

    def flush(stream: Any, transfer: Any) -> None:
        part = bytes(memoryview(transfer.send_buffer)[: transfer.send_idx])
        transfer.send_idx = 0
        device._io_manager.send(AdbMessage(WRTE, stream.local_id, stream.remote_id, part), stream)
        while True:
            command, said = device._read_until([OKAY, WRTE, CLSE], stream)
            transfer.recv_buffer += said
            failed = transfer.recv_buffer.startswith(b"FAIL"[: len(transfer.recv_buffer)]) and transfer.recv_buffer
            if command == CLSE or (failed and len(failed) >= _FAIL_HEADER + int.from_bytes(failed[4:8], "little")):
                with suppress(*errors()):
                    device._clse(stream)
                raise PushFailedError(bytes(failed[_FAIL_HEADER:]) if failed else b"it closed the file")
            if command == OKAY and not failed:
                return

    return flush
