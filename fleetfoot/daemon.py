"""Listening: a Pyro5 daemon that strangers may meet, until SIGTERM or SIGINT."""

from __future__ import annotations

import errno
import signal
import socket
import ssl
import threading
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from Pyro5 import errors as pyro_errors
from Pyro5 import protocol, serializers
from Pyro5.api import Daemon

from fleetfoot.errors import ServiceError, UsageError
from fleetfoot.wire import register_errors

_HELLO_SECONDS = 2.0
_HELLO_BYTES = 1 << 20
_TCP_OPTIONS = {"TCP_KEEPIDLE": 30, "TCP_KEEPINTVL": 10, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 60_000}


class _NoMarshal(serializers.MarshalSerializer):  # type: ignore[misc]
    """Stands in for Python's marshal format, which is not safe to read from strangers."""

    def loads(self, data: bytes) -> Any:
        raise pyro_errors.SecurityError("this service does not read marshal: use msgpack or serpent")

    loadsCall = loads  # noqa: N815 (Pyro5's name)


class _NoUnpacking:
    """Stands in for zlib, with which Pyro5 would make a gigabyte of a megabyte that anybody sent."""

    def decompress(self, _data: bytes) -> bytes:
        raise pyro_errors.ProtocolError("this service takes no compressed messages")

    def compress(self, data: bytes, level: int) -> bytes:
        return zlib.compress(data, level)


class SafeDaemon(Daemon):  # type: ignore[misc]
    """A Pyro5 daemon that takes neither marshal nor compressed messages, and waits for nobody's hello for long.

    It notices who vanished.
    Each connection holds a thread of its pool (80), and one too many is closed.

    Args:
        host: the address to listen on.
        port: the port, or 0 for any.
        tls: what connections are encrypted with; None for plain ones. (Pyro5's own TLS has one setting per process,
            and greets in the thread that accepts connections, where one silent client would keep all others out.)
        admit: is given what a client says as its hello, and refuses it by what it raises.

    Raises:
        UsageError: no address, which would mean all of them.
        ServiceError: the address cannot be listened on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        tls: ssl.SSLContext | None = None,
        admit: Callable[[Any], None] = lambda hello: None,
    ) -> None:
        if not host:
            raise UsageError("--host must name an address; 0.0.0.0 means all of this machine's")
        self._tls, self._admit = tls, admit
        self._stopping = threading.Event()
        register_errors()
        serializers.serializers_by_id[serializers.MarshalSerializer.serializer_id] = _NoMarshal()
        protocol.zlib = _NoUnpacking()
        try:
            super().__init__(host=host, port=port)
        except OSError as error:
            hint = "; choose another --port" if error.errno == errno.EADDRINUSE else ""
            raise ServiceError(f"cannot listen on {host}:{port}: {error.strerror or error}{hint}") from None

    def serve(self, ready: Callable[[], None]) -> None:
        """Calls ``ready`` and serves until SIGTERM or SIGINT; requests may still be under way when it returns."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)
        ready()
        self.requestLoop(lambda: not self._stopping.is_set())

    def _stop(self, _signal: int, _frame: Any) -> None:
        self._stopping.set()
        self.transportServer.wakeup()

    def _handshake(self, conn: Any, denied_reason: str | None = None) -> bool:
        """Answers a new connection, which must say hello soon; one too many is closed without a word."""
        if denied_reason:
            return False
        deadline = threading.Timer(_HELLO_SECONDS, _hang_up, [conn])
        deadline.start()
        try:
            _notice_when_gone(conn.sock)
            if self._tls:
                conn.sock = self._tls.wrap_socket(conn.sock, server_side=True, do_handshake_on_connect=False)
                conn.sock.do_handshake()
            conn.recv = _limited(conn.recv)
            accepted: bool = super()._handshake(conn)
            del conn.recv
        except ssl.SSLError:
            _let_read(conn.sock)
            return False
        finally:
            deadline.cancel()
        return accepted

    def validateHandshake(self, conn: Any, data: Any) -> str:  # noqa: N802 (Pyro5's name)
        """Lets in who is admitted."""
        self._admit(data)
        return "hello"

    def _Daemon__deserializeBlobArgs(self, message: Any) -> Any:  # noqa: N802 (Pyro5's private method, overridden)
        """Refuses messages that are passed on unread: Pyro5 would read part of them with marshal."""
        raise pyro_errors.SecurityError("this service takes no serialised blobs")


def _hang_up(conn: Any) -> None:
    with suppress(OSError):  # it has hung up itself
        socket.socket.shutdown(conn.sock, socket.SHUT_RDWR)  # not TLS's own, which would wait for the other side


def _let_read(sock: socket.socket) -> None:
    """Waits until the other side has read why it was refused; closing at once would take that back."""
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_WR)
        while socket.socket.recv(sock, 4096):
            pass


def _notice_when_gone(sock: socket.socket) -> None:
    """Ends the connection within about a minute when the other side has vanished without a word."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _TCP_OPTIONS.items():
        if hasattr(socket, name):  # Linux has them all
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def _limited(receive: Callable[[int], bytes]) -> Callable[[int], bytes]:
    """What receives no more than a hello may have."""

    def receive_little(size: int) -> bytes:
        if size > _HELLO_BYTES:
            raise pyro_errors.ProtocolError("this is no hello")
        return receive(size)

    return receive_little
