"""A daemon as strangers meet it: wrong bytes, silence, many at once, and its end."""

from __future__ import annotations

import re
import signal
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from Pyro5 import protocol
from Pyro5.api import Proxy
from Pyro5.errors import CommunicationError, PyroError

from fleetfoot.client import open_proxy
from fleetfoot.errors import InputError
from fleetfoot.wire import register_errors

PROGRAM = """
from Pyro5.api import expose
from fleetfoot.daemon import SafeDaemon
from fleetfoot.errors import InputError

@expose
class Echo:
    def say(self, x):
        return x

    def refuse(self):
        raise InputError("the reason: ü")

def admit(hello):
    if hello == "stranger":
        raise ValueError("no strangers")

with SafeDaemon("127.0.0.1", 0, admit=admit) as daemon:
    uri = daemon.register(Echo(), "echo")
    daemon.serve(lambda: print(uri, flush=True))
print("ended")
"""


def start() -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-W", "error", "-c", PROGRAM], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


@pytest.fixture(scope="module")
def uri() -> Iterator[str]:
    """A running service's."""
    process, uri = start()
    yield uri
    process.terminate()
    assert process.communicate(timeout=20) == ("ended\n", "")


@pytest.fixture
def proxy(uri: str) -> Iterator[Any]:
    with Proxy(uri) as plain:
        yield plain


@pytest.fixture
def still_serves(uri: str) -> Iterator[None]:
    """Asks the service for an answer when the test is over."""
    yield
    with Proxy(uri) as plain:
        plain._pyroTimeout = 5
        assert plain.say("hello") == "hello"


def address(uri: str) -> tuple[str, int]:
    host, port = uri.split("@")[1].rsplit(":", 1)
    return host, int(port)


@pytest.mark.usefixtures("still_serves")
def test_marshal_is_not_read_when_connecting(proxy: Any) -> None:
    proxy._pyroSerializer = "marshal"
    with pytest.raises(CommunicationError, match="this service does not read marshal"):
        proxy.say("hello")


@pytest.mark.usefixtures("still_serves")
def test_marshal_is_not_read_once_connected(proxy: Any) -> None:
    proxy._pyroBind()
    proxy._pyroSerializer = "marshal"
    with pytest.raises(PyroError, match="this service does not read marshal"):
        proxy.say("hello")


@pytest.mark.usefixtures("still_serves")
def test_marshal_is_not_read_beside_a_request_either(uri: str) -> None:
    """These bytes are a set that holds a tuple that holds itself: reading them kills Python."""
    deadly = b"<\x01\x00\x00\x00\xa9\x01r\x00\x00\x00\x00"
    with Proxy(uri) as proxy:
        proxy._pyroBind()
        request = protocol.SendingMessage(
            protocol.MSG_INVOKE, protocol.FLAGS_KEEPSERIALIZED, 0, 1, b"", annotations={"BLBI": deadly}
        )
        proxy._pyroConnection.send(request.data)
        with suppress(CommunicationError):  # whether it answers or hangs up is its own choice
            protocol.recv_stub(proxy._pyroConnection)


@pytest.mark.usefixtures("still_serves")
def test_a_small_message_is_not_unpacked_to_a_large_one(uri: str) -> None:
    bomb = zlib.compress(b"# serpent utf-8\n'" + b"x" * 300_000_000 + b"'")
    with socket.create_connection(address(uri), timeout=5) as connection:
        connection.sendall(message(protocol.MSG_CONNECT, 1, bomb, flags=protocol.FLAGS_COMPRESSED))
        refused = b""
        with suppress(ConnectionError):
            while data := connection.recv(4096):
                refused += data
    assert b"this service takes no compressed messages" in refused


HTTP = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"
HEADER = struct.Struct("!4sHBBHHII16sHH")


def message(kind: int, serializer: int, payload: bytes, *, flags: int = 0, size: int | None = None) -> bytes:
    """A Pyro5 message, whatever is wrong with it."""
    length = len(payload) if size is None else size
    header = HEADER.pack(
        b"PYRO", protocol.PROTOCOL_VERSION, kind, serializer, flags, 0, length, 0, b"\0" * 16, 0, 0x4DC5
    )
    return header + payload


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\0" * 1000, id="zeros"),
        pytest.param(np.random.default_rng(0).bytes(5000), id="noise"),
        pytest.param(HTTP, id="HTTP"),
        pytest.param(b"PYRO" + b"\xff" * 100, id="another version"),
        pytest.param(message(protocol.MSG_CONNECT, 1, b"")[:20], id="half a header"),
        pytest.param(message(protocol.MSG_CONNECT, 1, b"1", size=1000), id="half a message"),
        pytest.param(message(protocol.MSG_CONNECT, 1, b"", size=2**32 - 1), id="4 GiB announced"),
        pytest.param(message(protocol.MSG_CONNECT, 99, b"data"), id="unknown format"),
        pytest.param(message(protocol.MSG_CONNECT, 4, b"\xc1"), id="broken msgpack"),
        pytest.param(message(protocol.MSG_CONNECT, 4, b"\x91" * 100_000 + b"\x90"), id="deep msgpack"),
        pytest.param(message(protocol.MSG_CONNECT, 1, b"(" * 100_000), id="deep serpent"),
        pytest.param(message(protocol.MSG_CONNECT, 1, b"# serpent utf-8\n" + b"-" * 100_000 + b"1"), id="long serpent"),
        pytest.param(message(protocol.MSG_CONNECT, 3, b"[" * 100_000), id="deep JSON"),
        pytest.param(message(protocol.MSG_CONNECT, 2, b"\xe3\0\0"), id="marshal"),
        pytest.param(message(protocol.MSG_CONNECT, 1, b"no zlib", flags=protocol.FLAGS_COMPRESSED), id="broken zlib"),
        pytest.param(message(protocol.MSG_INVOKE, 1, b"no handshake"), id="no handshake"),
    ],
)
@pytest.mark.usefixtures("still_serves")
def test_garbage_ends_its_own_connection_only(uri: str, data: bytes) -> None:
    with socket.create_connection(address(uri), timeout=5) as connection:
        connection.sendall(data)
        with suppress(OSError):  # it is gone already, or has not read all of the garbage
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while connection.recv(4096):
                pass


@pytest.mark.usefixtures("still_serves")
def test_who_dribbles_a_hello_is_cut_off(uri: str) -> None:
    with socket.create_connection(address(uri), timeout=10) as connection:
        begun = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT011
            for byte in message(protocol.MSG_CONNECT, 1, bytes(1000)):
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        assert time.monotonic() - begun < 10


def test_who_is_not_admitted_is_told_why_and_calls_nothing(uri: str) -> None:
    with Proxy(uri) as stranger:
        stranger._pyroHandshake = "stranger"
        with pytest.raises(CommunicationError, match="no strangers"):
            stranger.say("hello")


# --- its clients ---


def test_a_proxy_speaks_through_a_socket_of_its_callers(uri: str) -> None:
    register_errors()
    with socket.create_connection(address(uri), timeout=5) as connection:
        proxy = open_proxy(connection, "echo", "hello")
        assert proxy.say(b"bytes") == b"bytes"
        with pytest.raises(InputError, match="the reason: ü"):
            proxy.refuse()


@pytest.mark.parametrize(("object_id", "hello", "reason"),
                         [("echo", "stranger", "no strangers"), ("another", "hello", "unknown object")])  # fmt: skip
def test_a_refusal_says_why(uri: str, object_id: str, hello: str, reason: str) -> None:
    with socket.create_connection(address(uri), timeout=5) as connection, pytest.raises(PyroError, match=reason):
        open_proxy(connection, object_id, hello)


# --- its beginning and its end ---


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("127.0.0.1", r"ServiceError: cannot listen on 127\.0\.0\.1:\d+: .+; choose another --port"),
        ("nowhere.invalid", r"ServiceError: cannot listen on nowhere\.invalid:\d+: .+"),
        ("", r"UsageError: --host must name an address; 0\.0\.0\.0 means all of this machine's"),
    ],
)
def test_where_nobody_can_listen_is_said_in_one_line(uri: str, host: str, reason: str) -> None:
    program = f"from fleetfoot.daemon import SafeDaemon; SafeDaemon({host!r}, {address(uri)[1]})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert re.search(rf"^fleetfoot\.errors\.{reason}$", done.stderr, re.MULTILINE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_within_seconds_whoever_is_connected(number: signal.Signals) -> None:
    process, uri = start()
    with Proxy(uri) as idle:
        idle.say("hello")
        silent = [socket.create_connection(address(uri), timeout=5) for _ in range(90)]
        process.send_signal(number)
        assert process.communicate(timeout=8) == ("ended\n", "")
        for connection in silent:
            connection.close()
