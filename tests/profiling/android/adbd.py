"""An Android phone's side of ADB over TCP, for tests: the daemon and the few programs that are asked of the phone.

The messages are those of AOSP's ``packages/modules/adb/protocol.txt`` and ``SYNC.TXT`` (first versions). What a real
daemon answers when something goes wrong, it answers too; and it can be told to fail as phones do.
"""

from __future__ import annotations

import base64
import contextlib
import enum
import itertools
import os
import posixpath
import queue
import re
import secrets
import selectors
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa, utils

SCRATCH = "/data/local/tmp"
PROGRAMS = Path(__file__).parent / "phone"
WITHOUT_CHECKSUMS = 0x01000001  # the protocol version from which messages carry none
TOKEN, SIGNATURE, PUBLIC_KEY = 1, 2, 3
SYNC_CHUNK = 64 * 1024

PROPERTIES = {
    "ro.board.platform": "zuma",
    "ro.build.fingerprint": "google/shiba/shiba:14/UQ1A.240205.004/11269751:user/release-keys",
    "ro.build.version.incremental": "11269751",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
    "ro.hardware": "shiba",
    "ro.product.cpu.abi": "x86_64",
    "ro.product.cpu.abilist": "x86_64",
    "ro.product.device": "shiba",
    "ro.product.manufacturer": "Google",
    "ro.product.model": "Pixel 8",
    "ro.product.name": "shiba",
    "ro.serialno": "37281FDJH0028X",
    "ro.soc.manufacturer": "Google",
    "ro.soc.model": "Tensor G3",
}
BATTERY: dict[str, object] = {
    "AC powered": True,
    "USB powered": False,
    "Wireless powered": False,
    "Dock powered": False,
    "Max charging current": 1500000,
    "Max charging voltage": 5000000,
    "Charge counter": 3486000,
    "status": 2,
    "health": 2,
    "present": True,
    "level": 78,
    "scale": 100,
    "voltage": 4203,
    "temperature": 284,
    "technology": "Li-ion",
}


class Prompt(enum.Enum):
    """What the phone does about a host whose key it does not know."""

    ACCEPT = enum.auto()
    """Its user taps *allow*, and it remembers the key."""
    IGNORE = enum.auto()
    """Nobody looks at it: the host waits."""
    OFF = enum.auto()
    """It never asks, as emulators do: whoever connects may."""


class ProtocolError(Exception):
    """The other side speaks no ADB."""


class StreamClosedError(Exception):
    """The stream, its connection or the phone is gone."""


class Packet(NamedTuple):
    """One message of ADB."""

    command: bytes
    arg0: int
    arg1: int
    data: bytes = b""


def checksum(data: bytes) -> int:
    return int(np.frombuffer(data, np.uint8).sum(dtype=np.uint32))


def public_key(line: bytes) -> rsa.RSAPublicKey:
    """The key of a line of ``adbkey.pub``: base64 of a structure in little-endian words, then ``user@host``."""
    structure = base64.b64decode(line.split()[0])
    words = int.from_bytes(structure[:4], "little")
    modulus = int.from_bytes(structure[8 : 8 + 4 * words], "little")
    exponent = int.from_bytes(structure[-4:], "little")
    return rsa.RSAPublicNumbers(exponent, modulus).public_key()


def signed_by(key: bytes, signature: bytes, token: bytes) -> bool:
    """Whether the key signed the token, whose 20 bytes pass for a SHA-1 digest."""
    try:
        public_key(key).verify(signature, token, padding.PKCS1v15(), utils.Prehashed(hashes.SHA1()))
    except InvalidSignature:
        return False
    return True


class Wire:
    """Packets over a socket."""

    HEADER = struct.Struct("<4s5I")

    def __init__(self, sock: socket.socket, let_through: Callable[[int], int]) -> None:
        self._socket = sock
        self._let_through = let_through
        self._writing = threading.Lock()
        self.version = 0x01000000
        self.limit = 1 << 20  # larger ones are no ADB

    def read(self) -> Packet:
        header = self._receive(self.HEADER.size)
        command, arg0, arg1, length, check, magic = self.HEADER.unpack(header)
        if magic ^ 0xFFFFFFFF != int.from_bytes(command, "little") or length > self.limit:
            raise ProtocolError(header)
        passing = self._let_through(length) if command == b"WRTE" else length
        data = self._receive(passing)
        if passing < length:
            self.close()
            raise ConnectionError("the cable is pulled")
        if self.version < WITHOUT_CHECKSUMS and check != checksum(data):
            raise ProtocolError("checksum")
        return Packet(command, arg0, arg1, data)

    def write(self, packet: Packet) -> None:
        check = checksum(packet.data) if self.version < WITHOUT_CHECKSUMS else 0
        magic = int.from_bytes(packet.command, "little") ^ 0xFFFFFFFF
        header = self.HEADER.pack(packet.command, packet.arg0, packet.arg1, len(packet.data), check, magic)
        size = len(packet.data)
        passing = self._let_through(size) if packet.command == b"WRTE" else size
        with self._writing:
            self._socket.sendall(header + packet.data[:passing])
        if passing < size:
            self.close()
            raise ConnectionError("the cable is pulled")

    def write_garbage(self) -> None:
        self._socket.recv(4096)
        self._socket.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
        while self._socket.recv(4096):  # closed with something unread, the answer might be lost on its way
            pass

    def close(self) -> None:
        """Ends reading and writing, in whichever thread they are."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def release(self) -> None:
        self._socket.close()

    def _receive(self, size: int) -> bytes:
        data = bytearray(size)
        view, got = memoryview(data), 0
        while got < size:
            received = self._socket.recv_into(view[got:])
            if not received:
                raise ConnectionError("the host is gone")
            got += received
        return bytes(data)


class Stream:
    """One service's two ways; in each, a message waits until the one before it was acknowledged."""

    def __init__(self, connection: Connection, local: int, remote: int) -> None:
        self._connection = connection
        self.local, self.remote = local, remote
        self._inbox: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._acknowledged = threading.Semaphore()
        self._buffer = bytearray()
        self._closed = False
        self._closing = threading.Lock()
        self._at_close: list[Callable[[], None]] = []

    def at_close(self, action: Callable[[], None]) -> None:
        """``action`` is called as soon as the stream is closed, from whichever side."""
        with self._closing:
            if not self._closed:
                self._at_close.append(action)
                return
        action()

    def arrived(self, data: bytes) -> None:
        self._inbox.put(data)

    def acknowledged(self) -> None:
        self._acknowledged.release()

    def read_some(self) -> bytes:
        """The next message, acknowledged now that somebody wants it."""
        data = self._inbox.get()
        if data is None or self._closed:
            self._inbox.put(None)
            raise StreamClosedError
        self._connection.send(Packet(b"OKAY", self.local, self.remote))
        return data

    def read(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._buffer += self.read_some()
        data = bytes(self._buffer[:size])
        del self._buffer[:size]
        return data

    def write(self, data: bytes) -> None:
        limit = self._connection.max_data
        for start in range(0, len(data), limit):
            self._acknowledged.acquire()
            if self._closed:
                self._acknowledged.release()
                raise StreamClosedError
            self._connection.send(Packet(b"WRTE", self.local, self.remote, data[start : start + limit]))

    def finish(self) -> None:
        """Closes it from the phone's side, once the host has taken everything."""
        self._acknowledged.acquire()
        self.close()

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        self._connection.forget(self)
        self._inbox.put(None)
        self._acknowledged.release()
        for action in self._at_close:
            action()
        with contextlib.suppress(OSError):
            self._connection.send(Packet(b"CLSE", self.local, self.remote))


Service = Callable[[Stream], None]


class Connection:
    """One host's connection, from its greeting to its end."""

    def __init__(self, phone: Phone, sock: socket.socket) -> None:
        self._phone = phone
        self._wire = Wire(sock, phone.let_through)
        self._streams: dict[int, Stream] = {}
        self._services: list[threading.Thread] = []
        self._local_ids = itertools.count(1)
        self._online = False
        self._token = b""
        self._waiting_key: bytes | None = None
        self.max_data = 4096
        self.thread = threading.Thread(target=self._run, name="adbd connection", daemon=True)
        self.thread.start()

    def send(self, packet: Packet) -> None:
        self._wire.write(packet)

    def forget(self, stream: Stream) -> None:
        self._streams.pop(stream.local, None)

    def cut(self) -> None:
        self._wire.close()

    def prompt_answered(self) -> None:
        """The user has tapped *allow*, perhaps long after the host asked."""
        if self._waiting_key is not None:
            self._phone.known_keys.append(self._waiting_key)
            self._waiting_key = None
            self._welcome()

    def _run(self) -> None:
        try:
            if self._phone.garbage:
                self._wire.write_garbage()
                return
            while True:
                packet = self._wire.read()
                if not self._phone.offline:
                    self._handle(packet)
        except (OSError, ProtocolError, StreamClosedError):
            pass  # whoever tests it sees it on the other side
        finally:
            self._end()

    def _end(self) -> None:
        self._wire.close()
        for stream in list(self._streams.values()):
            stream.close()
        for thread in self._services:
            thread.join()
        self._wire.release()
        self._phone.disconnected(self)

    def _handle(self, packet: Packet) -> None:
        if packet.command == b"CNXN":
            self._greeted(packet)
        elif packet.command == b"AUTH":
            self._authenticate(packet)
        elif self._online and packet.command == b"OPEN":
            self._open(packet)
        elif stream := self._streams.get(packet.arg1):
            if packet.command == b"WRTE":
                time.sleep(self._phone.slow)
                stream.arrived(packet.data)
            elif packet.command == b"OKAY":
                stream.acknowledged()
            elif packet.command == b"CLSE":
                stream.close()

    def _greeted(self, packet: Packet) -> None:
        self._wire.version = min(packet.arg0, self._phone.version)
        self.max_data = min(packet.arg1, self._phone.max_data)
        if self._phone.prompt is Prompt.OFF:
            self._welcome()
        else:
            self._challenge()

    def _challenge(self) -> None:
        self._token = secrets.token_bytes(20)
        self.send(Packet(b"AUTH", TOKEN, 0, self._token))

    def _authenticate(self, packet: Packet) -> None:
        if packet.arg0 == SIGNATURE:
            if any(signed_by(key, packet.data, self._token) for key in self._phone.known_keys):
                self._welcome()
            else:
                self._challenge()
        elif packet.arg0 == PUBLIC_KEY:
            self._waiting_key = packet.data.rstrip(b"\0")
            if self._phone.prompt is Prompt.ACCEPT:
                self.prompt_answered()

    def _welcome(self) -> None:
        self._online = True
        self.send(Packet(b"CNXN", self._phone.version, self._phone.max_data, self._phone.banner))

    def _open(self, packet: Packet) -> None:
        service = self._phone.service(packet.data.rstrip(b"\0").decode())
        if service is None:
            self.send(Packet(b"CLSE", 0, packet.arg0))
            return
        stream = Stream(self, next(self._local_ids), packet.arg0)
        self._streams[stream.local] = stream
        self.send(Packet(b"OKAY", stream.local, stream.remote))
        self._services = [thread for thread in self._services if thread.is_alive()]
        thread = threading.Thread(target=self._serve, args=(service, stream), name="adbd service", daemon=True)
        self._services.append(thread)
        thread.start()

    @staticmethod
    def _serve(service: Service, stream: Stream) -> None:
        try:
            with contextlib.suppress(StreamClosedError):
                service(stream)
                stream.finish()
        except OSError:
            pass  # the connection is gone
        finally:
            stream.close()


class Shell:
    """A command run by the shell, or the shell itself where there is none."""

    STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)

    def __init__(self, phone: Phone, command: str, packets: bool) -> None:
        self._phone = phone
        self._command = command
        self._packets = packets  # of the second version, which tells the streams apart and ends with the exit status

    def __call__(self, stream: Stream) -> None:
        process = self._start()
        stream.at_close(lambda: kill_group(process))
        feeder = threading.Thread(target=self._feed, args=(stream, process), name="adbd stdin", daemon=True)
        feeder.start()
        killer = self._killer(process)
        try:
            self._pump(stream, process)
            code = process.wait()
            killer.cancel()
            self._end(stream, code)
        finally:
            killer.cancel()
            killer.join()
            kill_group(process)
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()
            stream.close()
            feeder.join()

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            ["/bin/sh", "-c", self._phone.in_scratch(self._command)] if self._command else ["/bin/sh"],
            cwd=self._phone.root,
            env=self._phone.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if self._packets else subprocess.STDOUT,
            bufsize=0,
            start_new_session=True,
        )

    def _pump(self, stream: Stream, process: subprocess.Popen[bytes]) -> None:
        with selectors.DefaultSelector() as selector:
            for pipe, kind in ((process.stdout, self.STDOUT), (process.stderr, self.STDERR)):
                if pipe is not None:
                    selector.register(pipe, selectors.EVENT_READ, kind)
            while selector.get_map():
                for key, _ in selector.select():
                    if data := os.read(key.fd, 4000):
                        self._write(stream, key.data, data)
                    else:
                        selector.unregister(key.fileobj)

    def _write(self, stream: Stream, kind: int, data: bytes) -> None:
        stream.write(struct.pack("<BI", kind, len(data)) + data if self._packets else data)

    def _end(self, stream: Stream, code: int) -> None:
        if self._packets:
            self._write(stream, self.EXIT, bytes([code if code >= 0 else 128 - code]))
        elif code == -signal.SIGKILL:
            stream.write(b"Killed \n")
        stream.finish()

    def _feed(self, stream: Stream, process: subprocess.Popen[bytes]) -> None:
        assert process.stdin is not None
        with contextlib.suppress(OSError, StreamClosedError), process.stdin:
            while not self._packets:
                process.stdin.write(stream.read_some())
            while True:
                kind, length = struct.unpack("<BI", stream.read(5))
                data = stream.read(length)
                if kind == self.STDIN:
                    process.stdin.write(data)
                elif kind == self.CLOSE_STDIN:
                    process.stdin.close()

    def _killer(self, process: subprocess.Popen[bytes]) -> threading.Timer:
        """Kills the command where such commands are to be killed; a timer that is never started kills nothing."""
        killer = threading.Timer(self._phone.kill_after_s, kill_command, [process])
        killer.daemon = True
        pattern = self._phone.kill_commands_matching
        if pattern is None or re.search(pattern, self._command) is None:
            killer.function = lambda _: None
            killer.cancel()
        killer.start()
        return killer


def group_of(process: subprocess.Popen[bytes]) -> Iterable[int]:
    """The processes that a shell has started."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and os.getpgid(int(entry.name)) == process.pid:
                yield int(entry.name)


def kill_command(process: subprocess.Popen[bytes]) -> None:
    """Kills what a shell runs but not the shell, as the kernel does when memory is short."""
    victims = [pid for pid in group_of(process) if pid != process.pid] or [process.pid]
    for pid in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


class RefusedError(Exception):
    """A file cannot be had or written; the text is what the phone says of it."""


class Sync:
    """The file service: requests of an identifier, a length and a path, until the host quits or one fails."""

    def __init__(self, phone: Phone) -> None:
        self._phone = phone

    def __call__(self, stream: Stream) -> None:
        requests = {b"STAT": self._stat, b"LIST": self._list, b"SEND": self._send, b"RECV": self._recv}
        while True:
            name, length = struct.unpack("<4sI", stream.read(8))
            if name == b"QUIT":
                return
            path = stream.read(length).decode()
            try:
                if name not in requests:
                    raise RefusedError(f"unknown command {int.from_bytes(name, 'little'):08x}")
                requests[name](stream, path)
            except RefusedError as refused:
                self._fail(stream, str(refused))
                if name == b"SEND":
                    self._drain(stream)
                return

    @staticmethod
    def _fail(stream: Stream, reason: str) -> None:
        text = reason.encode()
        stream.write(struct.pack("<4sI", b"FAIL", len(text)) + text)

    @staticmethod
    def _drain(stream: Stream) -> None:
        """Older hosts see the failure only after they have sent the whole file."""
        while True:
            name, length = struct.unpack("<4sI", stream.read(8))
            if name != b"DATA":
                return
            stream.read(length)

    def _stat(self, stream: Stream, path: str) -> None:
        stream.write(b"STAT" + self._status(path))

    def _status(self, path: str) -> bytes:
        if not self._phone.denies(path):
            with contextlib.suppress(OSError):
                status = self._phone.on_host(path).lstat()
                return struct.pack("<3I", status.st_mode, status.st_size & 0xFFFFFFFF, int(status.st_mtime))
        return bytes(12)

    def _list(self, stream: Stream, path: str) -> None:
        entries = b""
        folder = self._phone.on_host(path)
        if folder.is_dir() and not self._phone.denies(path):
            for name in (".", "..", *sorted(os.listdir(folder))):
                encoded = name.encode()
                status = self._status(posixpath.join(path, name))
                entries += b"DENT" + status + struct.pack("<I", len(encoded)) + encoded
        stream.write(entries + b"DONE" + bytes(16))

    def _recv(self, stream: Stream, path: str) -> None:
        try:
            self._phone.check(path)
            file = self._phone.on_host(path).open("rb")
        except OSError as error:
            raise RefusedError(f"open failed: {error.strerror}") from None
        with file:
            while data := file.read(SYNC_CHUNK):
                stream.write(struct.pack("<4sI", b"DATA", len(data)) + data)
        stream.write(struct.pack("<4sI", b"DONE", 0))

    def _send(self, stream: Stream, request: str) -> None:
        path, _, mode = request.rpartition(",")
        target = self._phone.on_host(path)
        try:
            self._phone.check(path)
            self._phone.check_writable(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_dir():
                target.unlink(missing_ok=True)
            file = target.open("wb")
        except OSError as error:
            raise RefusedError(f"couldn't create file: {error.strerror}") from None
        with file:
            modified = self._receive(stream, file.write, lambda: target.unlink(missing_ok=True))
        owner = int(mode, 0) & 0o700
        target.chmod(int(mode, 0) & 0o777 | owner >> 3 | owner >> 6)
        os.utime(target, (modified, modified))
        stream.write(struct.pack("<4sI", b"OKAY", 0))

    def _receive(self, stream: Stream, write: Callable[[bytes], object], undo: Callable[[], None]) -> int:
        """Writes what arrives and returns the time that ends it."""
        used = self._phone.used_bytes()
        try:
            while True:
                name, length = struct.unpack("<4sI", stream.read(8))
                if name == b"DONE":
                    return int(length)
                if name != b"DATA":
                    raise RefusedError("invalid data message")
                if length > SYNC_CHUNK:
                    raise RefusedError("oversize data message")
                data = stream.read(length)
                used += length
                if self._phone.space_bytes is not None and used > self._phone.space_bytes:
                    raise RefusedError("write failed: No space left on device")
                write(data)
        except (RefusedError, StreamClosedError, OSError):
            undo()
            raise


class Phone:
    """A phone that listens on a port of this machine while it is entered.

    ``/data/local/tmp`` is its folder :attr:`scratch`, in the commands and paths that a host sends; in what comes back
    nothing is replaced. Commands run in this machine's shell, with the phone's programs before this machine's.

    Attributes, all of which may be changed while it runs:
        prompt: what happens to a host with an unknown key.
        known_keys: the lines ``<base64> user@host`` of the hosts that may connect.
        properties, battery: what ``getprop`` and ``dumpsys battery`` answer.
        offline: it takes everything and answers nothing.
        garbage: it answers new connections with something else than ADB.
        cut_after_bytes: the connection breaks after so many bytes of streams, in both directions together. Once
            broken, it is None again: the cable is back in.
        space_bytes: how much ``/data/local/tmp`` holds.
        deny: paths that, with everything below them, may be neither read nor written.
        kill_commands_matching: what such commands run is killed after ``kill_after_s``.
        slow: how long it takes to take each message of a stream, in seconds.
    """

    def __init__(
        self,
        directory: Path,
        properties: Mapping[str, str] | None = None,
        prompt: Prompt = Prompt.ACCEPT,
        known_keys: Iterable[bytes] = (),
        max_data: int = 1 << 20,
        version: int = WITHOUT_CHECKSUMS,
        shell_v2: bool = False,
    ) -> None:
        self.root = directory / "phone"
        self.scratch = self.root / SCRATCH.lstrip("/")
        self.tools = directory / "phone-tools"
        self.properties = PROPERTIES | dict(properties or {})
        self.battery = dict(BATTERY)
        self.known_keys = list(known_keys)
        self.max_data, self.version, self.shell_v2 = max_data, version, shell_v2
        self.commands: list[str] = []
        self.offline = False
        self.garbage = False
        self.cut_after_bytes: int | None = None
        self.space_bytes: int | None = None
        self.deny: set[str] = set()
        self.kill_commands_matching: str | None = None
        self.kill_after_s = 0.3
        self.slow = 0.0
        self.port = 0
        self._prompt = prompt
        self._lock = threading.Lock()
        self._connections: list[Connection] = []

    def __enter__(self) -> Self:
        self.scratch.mkdir(parents=True, exist_ok=True)
        install(self.tools)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._accepting = threading.Thread(target=self._accept, name="adbd", daemon=True)
        self._accepting.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)  # a plain close does not wake who waits in accept
        self._accepting.join()
        self._listener.close()
        self.unplug()
        for connection in self.connections:
            connection.thread.join()

    def unplug(self) -> None:
        """Breaks all connections now."""
        for connection in self.connections:
            connection.cut()

    @property
    def connections(self) -> list[Connection]:
        with self._lock:
            return list(self._connections)

    @property
    def prompt(self) -> Prompt:
        return self._prompt

    @prompt.setter
    def prompt(self, prompt: Prompt) -> None:
        self._prompt = prompt
        if prompt is Prompt.ACCEPT:
            for connection in self.connections:
                connection.prompt_answered()

    @property
    def banner(self) -> bytes:
        names = ("ro.product.name", "ro.product.model", "ro.product.device")
        features = "shell_v2,cmd" if self.shell_v2 else "cmd"
        fields = [f"{name}={self.properties[name]}" for name in names]
        return f"device::{';'.join(fields)};features={features}".encode()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._lock:
                self._connections.append(Connection(self, sock))

    # What connections and services ask of the phone.

    def disconnected(self, connection: Connection) -> None:
        with self._lock, contextlib.suppress(ValueError):
            self._connections.remove(connection)

    def let_through(self, size: int) -> int:
        """How many of the next ``size`` bytes of streams pass before the connection breaks."""
        with self._lock:
            left = self.cut_after_bytes
            if left is None:
                return size
            self.cut_after_bytes = None if size > left else left - size
            return min(size, left)

    def service(self, name: str) -> Service | None:
        kind, _, argument = name.partition(":")
        if kind == "sync":
            return Sync(self)
        if kind.split(",")[0] not in ("shell", "exec"):
            return None
        packets = "v2" in kind.split(",")
        if packets and not self.shell_v2:
            return None
        self.commands.append(argument)
        return Shell(self, argument, packets)

    def in_scratch(self, command: str) -> str:
        """A command with the phone's folder for the host's, wherever it stands as a whole."""
        return re.sub(rf"(?<![\w.-]){SCRATCH}(?![\w.-])", lambda _: str(self.scratch), command)

    def on_host(self, path: str) -> Path:
        """Where the phone's file is on this machine: never outside of the phone's folder."""
        return self.root / posixpath.normpath("/" + path).lstrip("/")

    def denies(self, path: str) -> bool:
        path = posixpath.normpath(path)
        return any(path == denied or path.startswith(denied.rstrip("/") + "/") for denied in self.deny)

    def check(self, path: str) -> None:
        if self.denies(path):
            raise PermissionError(13, "Permission denied")

    def check_writable(self, path: str) -> None:
        if not posixpath.normpath(path).startswith((SCRATCH + "/", "/sdcard/")):
            raise OSError(30, "Read-only file system")

    def used_bytes(self) -> int:
        files = (path.lstat() for path in self.scratch.rglob("*"))
        return sum(status.st_size for status in files if stat.S_ISREG(status.st_mode))

    def environment(self) -> dict[str, str]:
        """The environment of a command, whose programs read the phone's state from files."""
        values = {
            "build.prop": "".join(f"{name}={value}\n" for name, value in self.properties.items()),
            "battery": "".join(f"  {name}: {shown(value)}\n" for name, value in self.battery.items()),
        }
        with self._lock:
            for name, text in values.items():
                new = self.root / f"{name}.new"
                new.write_text(text)
                new.replace(self.root / name)
        return {
            "ANDROID_DATA": "/data",
            "ANDROID_ROOT": str(self.root),
            "HOME": "/",
            "PATH": f"{PROGRAMS}:/usr/local/bin:/usr/bin:/bin",
            "TERM": "dumb",
        }


def shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def install(folder: Path) -> None:
    """Writes the programs that a host pushes to the phone, each a file that runs by itself."""
    folder.mkdir(parents=True, exist_ok=True)
    for source in PROGRAMS.glob("*.py"):
        program = folder / source.stem
        program.write_text(f"#!{sys.executable}\n{source.read_text()}")
        shutil.copymode(PROGRAMS / "getprop", program)
