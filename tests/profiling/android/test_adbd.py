from __future__ import annotations

import base64
import hashlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from adb_shell.adb_device import AdbDevice, AdbDeviceTcp
from adb_shell.auth.sign_cryptography import CryptographySigner
from adb_shell.exceptions import AdbCommandFailureException, AdbTimeoutError, InvalidCommandError, TcpTimeoutException
from adb_shell.transport.tcp_transport import TcpTransport
from adbd import Phone, Prompt
from ai_edge_litert import schema_py_generated as schema
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

needs_adb = pytest.mark.skipif(shutil.which("adb") is None, reason="needs Android's adb client")
Adb = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[Phone]:
    before = set(threading.enumerate())
    with Phone(tmp_path) as running:
        yield running
    assert set(threading.enumerate()) <= before


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


class Server:
    """A server of Android's client with its own port and keys, for one test."""

    def __init__(self, home: Path) -> None:
        home.mkdir()
        self._environment = {
            "HOME": str(home),
            "PATH": os.environ["PATH"],
            "ANDROID_ADB_SERVER_PORT": str(free_port()),
            "ADB_VENDOR_KEYS": "",
            "TMPDIR": str(home),
        }

    def __call__(self, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["adb", *map(str, arguments)],
            env=self._environment,
            capture_output=True,
            text=True,
            check=False,
            **{"timeout": 60, **options},
        )

    def connect(self, phone: Phone) -> Adb:
        serial = f"127.0.0.1:{phone.port}"
        self("connect", serial)  # fails to authenticate, says it, while the phone asks its user
        self("-s", serial, "wait-for-device")
        return lambda *arguments, **options: self("-s", serial, *arguments, **options)

    def state(self, phone: Phone, wanted: str) -> str:
        """What ``adb devices`` says of the phone, once that is ``wanted`` or has not become so for a while."""
        shown = ""
        for _ in range(40):
            found = re.search(rf"127.0.0.1:{phone.port}\t(.*)", self("devices").stdout)
            shown = found.group(1) if found else ""
            if shown == wanted:
                break
            time.sleep(0.1)
        return shown


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    running = Server(tmp_path / "home")
    running("start-server")
    yield running
    running("kill-server")


@pytest.fixture
def adb(server: Server, phone: Phone) -> Adb:
    return server.connect(phone)


@pytest.fixture(scope="session")
def big_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("big") / "big.bin"
    path.write_bytes(np.random.default_rng(0).bytes(100_000_000))
    return path


# With Android's own client.


@needs_adb
def test_the_client_runs_commands(adb: Adb, phone: Phone) -> None:
    assert adb("shell", "echo out; echo err >&2").stdout == "out\nerr\n"
    assert adb("shell", "getprop ro.soc.model").stdout == "Tensor G3\n"
    assert adb("shell", "seq 100000").stdout == "".join(f"{n}\n" for n in range(1, 100001))
    assert phone.commands == ["echo out; echo err >&2", "getprop ro.soc.model", "seq 100000"]


@needs_adb
def test_the_first_shell_has_no_exit_status_and_the_second_has(server: Server, tmp_path: Path, adb: Adb) -> None:
    assert adb("shell", "exit 3").returncode == 0
    with Phone(tmp_path / "second", shell_v2=True) as phone:
        second = server.connect(phone)
        ran = second("shell", "echo out; echo err >&2; exit 3")
        assert (ran.returncode, ran.stdout, ran.stderr) == (3, "out\n", "err\n")
        assert second("shell", "cat", input="typed\n").stdout == "typed\n"


@needs_adb
def test_the_client_pushes_and_pulls(adb: Adb, phone: Phone, big_file: Path, tmp_path: Path) -> None:
    tiny = tmp_path / "tiny"
    tiny.write_text("x")
    tiny.chmod(0o755)
    os.utime(tiny, (1_600_000_000, 1_600_000_000))
    for file in (tiny, big_file):
        pushed = adb("push", file, f"/data/local/tmp/new/{file.name}")
        assert pushed.returncode == 0, pushed
        digest = adb("shell", f"sha256sum < /data/local/tmp/new/{file.name}").stdout.split()[0]
        assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
        back = tmp_path / f"{file.name}.back"
        assert adb("pull", f"/data/local/tmp/new/{file.name}", back).returncode == 0
        assert back.read_bytes() == file.read_bytes()
    status = (phone.scratch / "new/tiny").stat()
    assert (status.st_mode & 0o777, status.st_mtime) == (0o777, 1_600_000_000)  # as phones widen it


@needs_adb
def test_the_client_copies_folders(adb: Adb, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    for name in ("a", "deep/b"):
        (folder / name).write_text(name)
    assert adb("push", folder, "/data/local/tmp/").returncode == 0
    assert adb("pull", "/data/local/tmp/folder", tmp_path / "back").returncode == 0
    assert (tmp_path / "back/deep/b").read_text() == "deep/b"
    assert sorted(adb("shell", "ls /data/local/tmp/folder").stdout.split()) == ["a", "deep"]


@needs_adb
def test_the_client_runs_commands_at_once(adb: Adb) -> None:
    begin = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        ran = list(pool.map(lambda n: adb("shell", f"sleep 2; seq {n}000").stdout.split()[-1], range(1, 5)))
    assert ran == ["1000", "2000", "3000", "4000"]
    assert time.monotonic() - begin < 7


@needs_adb
def test_the_client_disconnects_and_the_phone_takes_it_again(server: Server, phone: Phone) -> None:
    server.connect(phone)
    assert "disconnected" in server("disconnect", f"127.0.0.1:{phone.port}").stdout
    assert len(phone.known_keys) == 1
    phone.prompt = Prompt.IGNORE  # it knows the host by now
    assert server.connect(phone)("shell", "echo again").stdout == "again\n"
    assert len(phone.known_keys) == 1


@needs_adb
def test_the_client_waits_until_somebody_taps_allow(server: Server, phone: Phone) -> None:
    phone.prompt = Prompt.IGNORE
    server("connect", f"127.0.0.1:{phone.port}")
    assert server.state(phone, "unauthorized") == "unauthorized"
    phone.prompt = Prompt.ACCEPT
    assert server.state(phone, "device") == "device"
    assert b"@" in phone.known_keys[0]


@needs_adb
def test_the_client_shows_a_phone_that_never_answers_as_offline(server: Server, phone: Phone) -> None:
    phone.offline = True
    with pytest.raises(subprocess.TimeoutExpired):  # it would wait for ten seconds
        server("connect", f"127.0.0.1:{phone.port}", timeout=0.5)
    assert server.state(phone, "offline") == "offline"


@needs_adb
def test_the_client_says_why_a_copy_failed(adb: Adb, phone: Phone, tmp_path: Path) -> None:
    def said(*arguments: object) -> str:
        ran = adb(*arguments)
        assert ran.returncode == 1
        return ran.stdout + ran.stderr

    file = tmp_path / "file"
    file.write_bytes(bytes(3_000_000))
    phone.space_bytes = 2_000_000
    assert "remote write failed: No space left on device" in said("push", file, "/data/local/tmp/full")
    assert not (phone.scratch / "full").exists()
    phone.space_bytes = None
    phone.deny = {"/data/local/tmp/mine"}
    assert "remote couldn't create file: Permission denied" in said("push", file, "/data/local/tmp/mine/x")
    assert "remote couldn't create file: Read-only file system" in said("push", file, "/system/x")
    assert "does not exist" in said("pull", "/data/local/tmp/none", tmp_path / "none")
    assert adb("push", file, "/data/local/tmp/file").returncode == 0


@needs_adb
def test_the_client_sees_a_pulled_cable(adb: Adb, phone: Phone, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(3_000_000))
    phone.cut_after_bytes = 1_000_000
    assert adb("push", file, "/data/local/tmp/cut").returncode != 0
    deadline = time.monotonic() + 10
    while (phone.scratch / "cut").exists() and time.monotonic() < deadline:  # the phone notices in its own time
        time.sleep(0.02)
    assert phone.cut_after_bytes is None
    assert not (phone.scratch / "cut").exists()


@needs_adb
@pytest.mark.parametrize("version", [0x01000000, 0x01000001])
@pytest.mark.parametrize("max_data", [4096, 256 * 1024])
def test_the_client_agrees_on_versions_and_sizes(server: Server, tmp_path: Path, version: int, max_data: int) -> None:
    file = tmp_path / "file"
    file.write_bytes(np.random.default_rng(1).bytes(300_000))
    with Phone(tmp_path / "other", prompt=Prompt.OFF, version=version, max_data=max_data) as phone:
        adb = server.connect(phone)
        assert adb("push", file, "/data/local/tmp/file").returncode == 0
        assert adb("pull", "/data/local/tmp/file", tmp_path / "back").returncode == 0
    assert (tmp_path / "back").read_bytes() == file.read_bytes()


# With the package adb_shell.


class Transport(TcpTransport):
    """The package's transport over a link whose socket takes little at once, as Wi-Fi's does."""

    def connect(self, transport_timeout_s: float | None) -> None:
        super().connect(transport_timeout_s)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)


class WholeWrites(Transport):
    """The package's transport forgets what did not fit; and its small messages wait for acknowledgements of TCP."""

    def connect(self, transport_timeout_s: float | None) -> None:
        super().connect(transport_timeout_s)
        self._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def bulk_write(self, data: bytes, transport_timeout_s: float | None) -> int:
        sent = 0
        while sent < len(data):
            sent += super().bulk_write(memoryview(data)[sent:], transport_timeout_s)
        return sent


class Signer(CryptographySigner):
    """A key of this host, made anew."""

    def __init__(self) -> None:
        self.rsa_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        numbers = self.rsa_key.public_key().public_numbers()
        inverse = 2**32 - pow(numbers.n, -1, 2**32)
        square = pow(2**2048, 2, numbers.n)
        structure = struct.pack("<2I", 64, inverse)
        structure += numbers.n.to_bytes(256, "little") + square.to_bytes(256, "little") + struct.pack("<I", numbers.e)
        self.public_key = base64.b64encode(structure) + b" tester@host"

    def pem(self) -> bytes:
        return self.rsa_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


@pytest.fixture(scope="session")
def signer() -> Signer:
    return Signer()


@pytest.fixture
def device(phone: Phone, signer: Signer) -> Iterator[AdbDevice]:
    connected = AdbDevice(WholeWrites("127.0.0.1", phone.port))
    connected.connect(rsa_keys=[signer], auth_timeout_s=5)
    yield connected
    connected.close()


def test_a_key_is_asked_about_once(phone: Phone, signer: Signer) -> None:
    asked: list[object] = []
    for _ in range(2):
        device = AdbDeviceTcp("127.0.0.1", phone.port)
        assert device.connect(rsa_keys=[signer], auth_callback=asked.append)
        device.close()
    assert len(asked) == len(phone.known_keys) == 1


def test_the_packages_own_keys_and_signers_are_understood(phone: Phone, signer: Signer, tmp_path: Path) -> None:
    (tmp_path / "adbkey").write_bytes(signer.pem())
    (tmp_path / "adbkey.pub").write_bytes(signer.public_key)
    phone.known_keys.append(signer.public_key)
    phone.prompt = Prompt.IGNORE
    device = AdbDeviceTcp("127.0.0.1", phone.port)
    assert device.connect(rsa_keys=[CryptographySigner(str(tmp_path / "adbkey"))])
    device.close()


def test_an_unanswered_prompt_is_a_timeout(phone: Phone, signer: Signer) -> None:
    phone.prompt = Prompt.IGNORE
    device = AdbDeviceTcp("127.0.0.1", phone.port)
    with pytest.raises(TcpTimeoutException):
        device.connect(rsa_keys=[signer], auth_timeout_s=0.2)
    device.close()


def test_offline_and_garbage_are_told_apart(phone: Phone, signer: Signer) -> None:
    device = AdbDeviceTcp("127.0.0.1", phone.port)
    phone.garbage = True
    with pytest.raises(InvalidCommandError):
        device.connect(rsa_keys=[signer])
    phone.garbage, phone.offline = False, True
    with pytest.raises(TcpTimeoutException):
        device.connect(rsa_keys=[signer], transport_timeout_s=0.2)
    device.close()


def test_the_package_runs_commands(device: AdbDevice, phone: Phone) -> None:
    assert device.shell("echo out; echo err >&2; exit 3") == "out\nerr\n"
    assert device.exec_out("printf 'a\\nb'") == "a\nb"
    assert device.shell("cd /data/local/tmp && pwd").strip() == str(phone.scratch)
    assert device.shell("echo /data/local/tmp2").strip() == "/data/local/tmp2"
    phone.properties["ro.soc.model"] = "SM8550"
    assert device.shell("getprop ro.soc.model; getprop ro.none; getprop ro.none given") == "SM8550\n\ngiven\n"
    assert "[ro.product.cpu.abi]: [x86_64]\n" in device.shell("getprop")


def test_the_battery_is_described_as_android_does(device: AdbDevice, phone: Phone) -> None:
    phone.battery["temperature"] = 391
    lines = device.shell("dumpsys battery").splitlines()
    assert lines[0] == "Current Battery Service state:"
    assert {"  AC powered: true", "  status: 2", "  level: 78", "  voltage: 4203"} < set(lines)
    assert "  temperature: 391" in lines


def test_the_package_pushes_pulls_stats_and_lists(device: AdbDevice, phone: Phone, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(np.random.default_rng(2).bytes(1_000_000))
    device.push(str(file), "/data/local/tmp/file", st_mode=0o100755, mtime=1_600_000_000)
    assert device.stat("/data/local/tmp/file") == (0o100777, 1_000_000, 1_600_000_000)
    assert device.stat("/data/local/tmp/none") == (0, 0, 0)
    assert {bytes(entry.filename): entry.size for entry in device.list("/data/local/tmp")}[b"file"] == 1_000_000
    device.pull("/data/local/tmp/file", str(tmp_path / "back"))
    assert (tmp_path / "back").read_bytes() == file.read_bytes()
    with pytest.raises(AdbCommandFailureException, match="No such file"):
        device.pull("/data/local/tmp/none", str(tmp_path / "none"))
    assert phone.commands == []


def test_the_package_pushes_a_big_file_once_it_writes_all_of_it(
    device: AdbDevice, phone: Phone, big_file: Path
) -> None:
    device.push(str(big_file), "/data/local/tmp/big")
    with (phone.scratch / "big").open("rb") as pushed, big_file.open("rb") as original:
        assert hashlib.file_digest(pushed, "sha256").digest() == hashlib.file_digest(original, "sha256").digest()


def test_the_package_stalls_when_the_socket_does_not_take_all(phone: Phone, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(3_000_000))
    phone.prompt = Prompt.OFF
    device = AdbDevice(Transport("127.0.0.1", phone.port))
    device.connect()
    with pytest.raises(TcpTimeoutException):
        device.push(str(tmp_path / "file"), "/data/local/tmp/file", read_timeout_s=0.5)
    device.close()


def test_the_package_loses_the_reason_for_a_failed_push(device: AdbDevice, phone: Phone, tmp_path: Path) -> None:
    """It expects an acknowledgement and drops the message that says *no space*; then both wait for each other."""
    file = tmp_path / "file"
    file.write_bytes(bytes(5_000_000))
    phone.space_bytes = 1_000_000
    with pytest.raises((AdbTimeoutError, TcpTimeoutException)):
        device.push(str(file), "/data/local/tmp/file", transport_timeout_s=0.5, read_timeout_s=0.5)
    assert not (phone.scratch / "file").exists()


def test_a_killed_command_says_so_and_the_shell_goes_on(device: AdbDevice, phone: Phone) -> None:
    phone.kill_commands_matching = "sleep"
    phone.kill_after_s = 0.2
    assert device.shell("sleep 60; echo $?").split() == ["Killed", str(128 + signal.SIGKILL)]
    assert device.shell("sleep 60").split() == ["Killed"]
    assert device.shell("echo untouched") == "untouched\n"


@pytest.mark.parametrize("how", ["cut_after_bytes", "unplug"])
def test_a_pulled_cable_ends_the_command_on_the_phone(device: AdbDevice, phone: Phone, how: str) -> None:
    if how == "cut_after_bytes":
        phone.cut_after_bytes = 2
    command = "echo $$ > /data/local/tmp/pid; echo begun; sleep 60"
    shown = device.streaming_shell(command, read_timeout_s=0.5)
    with pytest.raises((OSError, AdbTimeoutError)):
        for _ in shown:
            phone.unplug()
    pid = int((phone.scratch / "pid").read_text())
    for _ in range(500):
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.02)
    assert not Path(f"/proc/{pid}").exists()
    with AdbDeviceConnected(phone) as again:
        assert again.shell("echo again") == "again\n"


class AdbDeviceConnected:
    """A second connection; the phone does not ask."""

    def __init__(self, phone: Phone) -> None:
        phone.prompt = Prompt.OFF
        self._device = AdbDeviceTcp("127.0.0.1", phone.port)

    def __enter__(self) -> AdbDevice:
        self._device.connect()
        return self._device

    def __exit__(self, *_: object) -> None:
        self._device.close()


def test_a_slow_phone_is_slow(device: AdbDevice, phone: Phone, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(100))
    phone.slow = 0.2
    begin = time.monotonic()
    device.push(str(tmp_path / "file"), "/data/local/tmp/file")
    assert time.monotonic() - begin > 0.2


def test_leaving_the_phone_ends_commands_that_still_run(tmp_path: Path) -> None:
    with Phone(tmp_path) as phone, AdbDeviceConnected(phone) as device:
        for _ in device.streaming_shell("echo $$ > /data/local/tmp/pid; echo begun; sleep 60"):
            break
    pid = int((phone.scratch / "pid").read_text())
    assert not Path(f"/proc/{pid}").exists()


# The programs on the phone.


WEIGHTS = np.arange(6, dtype=np.float32).reshape(3, 2)


def tensor(name: str, shape: list[int], buffer: int = 0) -> schema.TensorT:
    made = schema.TensorT()
    made.name, made.shape, made.buffer = name, shape, buffer
    return made


def signature(key: str) -> schema.SignatureDefT:
    made, given, answered = schema.SignatureDefT(), schema.TensorMapT(), schema.TensorMapT()
    given.name, given.tensorIndex = "input", 0
    answered.name, answered.tensorIndex = "output", 2
    made.signatureKey, made.inputs, made.outputs = key, [given], [answered]
    return made


@pytest.fixture
def model(phone: Phone) -> Path:
    """A model on the phone that multiplies by a matrix, made without a converter, which would take its time."""
    code, operator, graph, whole = schema.OperatorCodeT(), schema.OperatorT(), schema.SubGraphT(), schema.ModelT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    operator.inputs, operator.outputs = [0, 1, -1], [2]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    graph.tensors = [tensor("input", [1, 2]), tensor("weights", [3, 2], 1), tensor("output", [1, 3])]
    graph.inputs, graph.outputs, graph.operators = [0], [2], [operator]
    weights = schema.BufferT()
    weights.data = np.frombuffer(WEIGHTS.tobytes(), np.uint8)
    whole.version, whole.operatorCodes, whole.subgraphs = 3, [code], [graph]
    whole.buffers, whole.signatureDefs = [schema.BufferT(), weights], [signature("serve")]
    builder = flatbuffers.Builder()
    builder.Finish(whole.Pack(builder), file_identifier=b"TFL3")
    path = phone.scratch / "model"
    path.write_bytes(builder.Output())
    return path


@pytest.mark.usefixtures("model")
@pytest.mark.parametrize(("xnnpack", "kind"), [("false", "FULLY_CONNECTED"), ("true", "TfLiteXNNPackDelegate")])
def test_the_measuring_program_answers_as_the_real_one(
    device: AdbDevice, phone: Phone, xnnpack: str, kind: str
) -> None:
    device.push(str(phone.tools / "benchmark_model"), "/data/local/tmp/benchmark_model")
    fast = f"--num_runs=5 --min_secs=0.01 --warmup_min_secs=0.01 --num_threads=1 --use_xnnpack={xnnpack}"
    flags = f"{fast} --enable_op_profiling=true --report_peak_memory_footprint"
    shown = device.shell(f"/data/local/tmp/benchmark_model --graph=/data/local/tmp/model {flags} --foo", timeout_s=60)
    for pattern in (
        r"^INFO: STARTING!$",
        r"^WARN: Unconsumed cmdline flags: --foo$",
        r"^INFO: Num threads: \[1\]$",
        r"^INFO: count=\d+ first=\d+ curr=\d+ min=\d+ max=\d+ avg=\S+ std=\d+ p5=\d+ median=\d+ p95=\d+$",
        r"^INFO: Inference timings in us: Init: \d+, First inference: \d+, "
        r"Warmup \(avg\): \S+, Inference \(avg\): \S+$",
        r"^INFO: Memory footprint delta from the start of the tool \(MB\): init=\S+ overall=\S+$",
        r"^INFO: Overall peak memory footprint \(MB\) via periodic monitoring: \S+$",
        r"^INFO: Operator-wise Profiling Info for Regular Benchmark Runs:$",
        rf"^\t +{kind}(\t +[\d.]+){{2}}(\t *[\d.]+%){{2}}\t +0\.000\t +1\t\[.+\]:\d+$",
        r"^=+ Summary by node type =+$",
        r"^Timings \(microseconds\): count=\d+ ",
    ):
        assert re.search(pattern, shown, re.MULTILINE), (pattern, shown)


def test_the_measuring_program_refuses_what_is_no_model(device: AdbDevice, phone: Phone) -> None:
    (phone.scratch / "bad").write_bytes(b"not a model")
    tool = phone.tools / "benchmark_model"
    shown = device.shell(f"{tool} --graph=/data/local/tmp/bad; echo $?").splitlines()
    model = phone.scratch / "bad"
    assert shown[-3:] == [f"ERROR: Failed to load model {model}", "ERROR: Benchmarking failed.", "1"]


@pytest.mark.usefixtures("model")
def test_the_running_program_answers_input_by_input(device: AdbDevice, phone: Phone) -> None:
    inputs = np.array([[1, 0], [0, 1], [2, 3]], "<f4")
    inputs.tofile(phone.scratch / "input")
    files = "--graph=/data/local/tmp/model --input=/data/local/tmp/input --output=/data/local/tmp/output"
    tool = phone.tools / "run_model"
    assert device.shell(f"{tool} {files} --signature=serve; echo $?").splitlines()[-1] == "0"
    answers = np.fromfile(phone.scratch / "output", "<f4").reshape(3, 3)
    np.testing.assert_array_equal(answers, inputs @ WEIGHTS.T)


@pytest.mark.usefixtures("model")
def test_the_running_program_says_in_a_line_what_is_wrong(device: AdbDevice, phone: Phone) -> None:
    (phone.scratch / "input").write_bytes(bytes(9))
    files = "--graph=/data/local/tmp/model --output=/data/local/tmp/output"
    for flags, said in (
        (f"{files} --signature=none --input=/data/local/tmp/input", "no signature none"),
        (f"{files} --signature=serve --input=/data/local/tmp/input", "does not hold whole inputs"),
        (f"{files} --signature=serve --input=/data/local/tmp/none", "No such file"),
        (files, "required"),
    ):
        *_, line, code = device.shell(f"{phone.tools / 'run_model'} {flags}; echo $?").splitlines()
        assert (line.startswith("run_model: "), said in line, code) == (True, True, "1"), line
