"""The agent as strangers meet it, and what it takes from clients that it knows."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from agents import ENDLESS, IMPATIENT, QUICK, TOKEN, Agent, children_of, comes_true, dense_model
from Pyro5 import protocol
from Pyro5.api import Proxy
from Pyro5.errors import CommunicationError

from fleetfoot.errors import DeviceError
from fleetfoot.wire import pack_array, register_errors, unpack_array
from profiling.board.messages import Answering, JobState, Measuring, SentTarget, Started
from profiling.profile import Conditions, Target, this_device
from profiling.statistics import Effort

HEAVY = ("tensorflow", "keras", "sklearn", "xgboost", "pandas", "pyarrow", "scipy", "joblib", "h5py", "ortools")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return dense_model(tmp_path_factory.mktemp("models") / "small.tflite")


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One agent for all tests that leave it as it was."""
    with Agent("--port", 0, "--cache", tmp_path_factory.mktemp("cache"), "--max-bytes", "1M") as running:
        yield running
        assert running.stop()[0] == 0


@pytest.fixture
def proxy(agent: Agent) -> Iterator[Any]:
    """A client that knows Pyro5 and the token."""
    with raw_client(agent) as plain:
        yield plain


def raw_client(agent: Agent, hello: Any = {"token": TOKEN}) -> Any:  # noqa: B006
    register_errors()
    plain = Proxy(f"PYRO:device@127.0.0.1:{agent.port}")
    plain._pyroSerializer, plain._pyroHandshake, plain._pyroTimeout = "msgpack", hello, 20
    return plain


def send(proxy: Any, target: Target) -> SentTarget:
    data = target.path.read_bytes()
    name = hashlib.sha256(data).hexdigest()
    if proxy.begin(name, len(data)) < len(data):
        proxy.chunk(name, len(data), 0, data)
    assert proxy.finish(name)
    return SentTarget(name=target.name, sha256=name, signature=target.signature)


def start(proxy: Any, work: Any, packed: Any = None) -> str:
    return msgspec.convert(proxy.start(msgspec.to_builtins(work), packed), type=Started).id


def result(proxy: Any, job: str) -> JobState:
    while (state := msgspec.convert(proxy.result(job, 5), type=JobState)).state in ("waiting", "running"):
        pass
    return state


def endless(sent: SentTarget) -> Measuring:
    return Measuring(targets=(sent,), conditions=Conditions(), effort=ENDLESS)


# --- who is let in ---


@pytest.mark.parametrize(
    "hello",
    ["hello", "", None, TOKEN, {}, {"token": None}, {"token": ""}, {"token": TOKEN[:-1]}, {"token": TOKEN + " "},
     {"token": [TOKEN]}, {"token": TOKEN.encode()}, {"token": "ü"}, [TOKEN]],
)  # fmt: skip
def test_nothing_can_be_called_without_the_token(agent: Agent, hello: Any) -> None:
    with raw_client(agent, hello) as stranger:
        with pytest.raises(CommunicationError, match="refused the token"):
            stranger.info()
        with pytest.raises(CommunicationError, match="refused the token"):
            stranger._pyroInvoke("registered", [], {}, objectId="Pyro.Daemon")


def test_nothing_but_the_public_methods_can_be_called(proxy: Any) -> None:
    proxy._pyroBind()
    assert proxy._pyroMethods == {"info", "begin", "chunk", "finish", "start", "result", "cancel"}
    assert not proxy._pyroAttrs
    for name in ("_store", "_runner", "__init__", "__class__", "__dict__", "serve", ""):
        with pytest.raises(AttributeError):
            proxy._pyroInvoke(name, [], {})


def header(kind: int, size: int) -> bytes:
    form = struct.Struct("!4sHBBHHII16sHH")
    return form.pack(b"PYRO", protocol.PROTOCOL_VERSION, kind, 4, 0, 0, size, 0, b"\0" * 16, 0, 0x4DC5)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(np.random.default_rng(0).bytes(5000), id="noise"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", id="HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), id="TLS"),
        pytest.param(header(protocol.MSG_CONNECT, 100)[:20], id="half a header"),
        pytest.param(header(protocol.MSG_CONNECT, 100) + b"half", id="half a message"),
        pytest.param(header(protocol.MSG_CONNECT, 900 << 20) + bytes(1 << 20), id="a huge hello"),
        pytest.param(header(protocol.MSG_INVOKE, 4) + b"call", id="no hello"),
    ],
)
def test_garbage_ends_its_own_connection_only(agent: Agent, data: bytes) -> None:
    with socket.create_connection(("127.0.0.1", agent.port), timeout=10) as connection:
        with suppress(OSError):  # it need not read all of the garbage
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
        with suppress(ConnectionError):
            while connection.recv(4096):
                pass
    with raw_client(agent) as known:
        assert known.info()["protocol"] == 1


def test_who_dribbles_a_hello_is_cut_off(agent: Agent) -> None:
    hello = header(protocol.MSG_CONNECT, 1000)
    with socket.create_connection(("127.0.0.1", agent.port), timeout=10) as connection:
        start = time.monotonic()
        with pytest.raises(OSError):  # noqa: PT011
            for byte in hello * 10:
                connection.sendall(bytes([byte]))
                time.sleep(0.05)
        assert time.monotonic() - start < 10


def test_two_hundred_silent_connections_keep_nobody_out_for_long_and_leave_nothing(tmp_path: Path) -> None:
    with Agent("--port", 0, "--cache", tmp_path) as agent, ExitStack() as stack:
        with closing(agent.connect()):
            assert comes_true(lambda: open_files(agent) > 0)
        quiet = comes_true(lambda: threads(agent) < 20) and (threads(agent), open_files(agent))
        for _ in range(200):
            stack.enter_context(socket.create_connection(("127.0.0.1", agent.port), timeout=5))
        assert comes_true(lambda: info_is_told(agent))
        stack.close()
        assert comes_true(lambda: threads(agent) <= quiet[0] + 1 and open_files(agent) <= quiet[1])
        assert agent.stop()[0] == 0


def info_is_told(agent: Agent) -> bool:
    try:
        with closing(agent.connect()) as device:
            return device.info() == this_device()
    except DeviceError:
        return False


def threads(agent: Agent) -> int:
    return len(os.listdir(f"/proc/{agent.process.pid}/task"))


def open_files(agent: Agent) -> int:
    return len(os.listdir(f"/proc/{agent.process.pid}/fd"))


# --- files ---


def test_an_interrupted_upload_goes_on_where_it_ended_from_another_client(agent: Agent, tmp_path: Path) -> None:
    model = dense_model(tmp_path / "other.tflite", 100, 100)
    data = model.path.read_bytes()
    name = hashlib.sha256(data).hexdigest()
    with raw_client(agent) as first:
        assert first.begin(name, len(data)) == 0
        assert first.chunk(name, len(data), 0, data[:10_000]) == 10_000
        first._pyroConnection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with raw_client(agent) as second:
        assert second.begin(name, len(data)) == 10_000
        assert second.chunk(name, len(data), 10_000, data[10_000:]) == len(data)
        assert second.finish(name)


def test_a_wrong_hash_is_found_out(proxy: Any, target: Target) -> None:
    data, name = target.path.read_bytes(), "0" * 64
    proxy.begin(name, len(data))
    proxy.chunk(name, len(data), 0, data)
    assert proxy.finish(name) is False
    assert proxy.begin(name, len(data)) == 0


def test_what_cannot_be_a_model_is_refused_in_one_line(proxy: Any) -> None:
    name = "1" * 64
    with pytest.raises(DeviceError, match="no LiteRT file, and nothing else is taken"):
        proxy.chunk(name, 100, 0, b"#!/bin/sh\n" + bytes(90))
    with pytest.raises(DeviceError, match="has 1048577 bytes, and the agent takes 1048576: see --max-bytes"):
        proxy.begin(name, (1 << 20) + 1)
    for wrong in ("../../etc/passwd", "", None):
        with pytest.raises(DeviceError, match="no SHA-256"):
            proxy.begin(wrong, 100)
    for size in (-1, "a", None, 1.5):
        with pytest.raises(DeviceError, match="whole numbers"):
            proxy.begin(name, size)
    with pytest.raises(DeviceError, match="chunks are bytes"):
        proxy.chunk(name, 100, 0, "text")


# --- jobs ---


def test_a_job_whose_files_are_not_there_says_which(proxy: Any) -> None:
    unknown = SentTarget(name="a", sha256="2" * 64, signature="x")
    started = msgspec.convert(proxy.start(msgspec.to_builtins(endless(unknown))), type=Started)
    assert started == Started(missing=("2" * 64,))


@pytest.mark.parametrize(
    "work",
    [None, {}, "measure", {"type": "run", "command": "ls"}, {"type": "measure"}, {"type": "answer", "target": "a"},
     {"type": "measure", "targets": [{"name": "a", "path": "/etc/passwd", "signature": ""}]}],
)  # fmt: skip
def test_what_is_no_job_is_refused_in_one_line(proxy: Any, work: Any) -> None:
    with pytest.raises(DeviceError, match="does not know such a job"):
        proxy.start(work)


def test_an_effort_that_cannot_be_meant_is_refused(proxy: Any, target: Target) -> None:
    work = msgspec.to_builtins(endless(send(proxy, target)))
    work["effort"]["min_runs"] = -5
    with pytest.raises(DeviceError, match="an effort has positive limits"):
        proxy.start(work)


def test_targets_of_one_name_are_refused(proxy: Any, target: Target) -> None:
    sent = send(proxy, target)
    twice = Measuring(targets=(sent, sent), conditions=Conditions(), effort=QUICK)
    with pytest.raises(DeviceError, match="two targets are called 'small'"):
        start(proxy, twice)


def test_an_unknown_job_is_said_to_be(proxy: Any) -> None:
    assert result(proxy, "nothing").state == "unknown"
    proxy.cancel("nothing")


@pytest.mark.parametrize(
    ("packed", "reason"),
    [
        (None, "the input is no array"),
        ({"dtype": "O", "shape": [1], "data": b"12345678"}, "must be numbers|no array"),
        (pack_array(np.zeros((0, 64), np.float32)), "no inputs"),
        (pack_array(np.zeros((2, 63), np.float32)), "small cannot be measured here: "),
    ],
)
def test_inputs_that_do_not_fit_are_refused_in_one_line(proxy: Any, target: Target, packed: Any, reason: str) -> None:
    job = start(proxy, Answering(target=send(proxy, target)), packed)
    with pytest.raises(AssertionError, match=reason):
        raise AssertionError(result(proxy, job).error)


def test_a_damaged_model_is_a_failure_in_one_line(proxy: Any, target: Target, tmp_path: Path) -> None:
    damaged = Target("damaged", tmp_path / "damaged.tflite", target.signature)
    damaged.path.write_bytes(target.path.read_bytes()[:100] + bytes(500))
    work = Measuring(targets=(send(proxy, damaged), send(proxy, target)), conditions=Conditions(), effort=QUICK)
    profile = result(proxy, start(proxy, work)).profile
    assert profile is not None
    assert list(profile["measurements"]) == ["small"]
    assert profile["failures"]["damaged"].startswith("damaged cannot be measured here: ")
    assert "\n" not in profile["failures"]["damaged"]


def test_a_second_clients_job_waits_for_the_first_ones(agent: Agent, target: Target) -> None:
    with raw_client(agent) as first, raw_client(agent) as second:
        sent = send(first, target)
        long = start(first, endless(sent))
        assert comes_true(lambda: first.result(long, 0)["state"] == "running")
        short = start(second, Answering(target=sent), pack_array(np.ones((3, 64), np.float32)))
        assert second.result(short, 0.5) | {"state": "waiting", "ahead": 1} == second.result(short, 0)
        first.cancel(long)
        done = result(second, short)
        assert unpack_array(done.outputs).shape == (3, 10)
        assert len(done.latencies_ms) == 3


def test_the_model_that_answered_stays_open_until_one_is_measured(agent: Agent, proxy: Any, target: Target) -> None:
    sent, packed = send(proxy, target), pack_array(np.ones((1, 64), np.float32))
    result(proxy, start(proxy, Answering(target=sent), packed))
    (child,) = agent.children()
    result(proxy, start(proxy, Answering(target=sent), packed))
    assert agent.children() == [child]
    os.kill(child, signal.SIGKILL)
    assert result(proxy, start(proxy, Answering(target=sent), packed)).error == ""
    (second,) = agent.children()
    assert second != child
    result(proxy, start(proxy, Measuring(targets=(sent,), conditions=Conditions(), effort=QUICK)))
    assert comes_true(lambda: agent.children() == [])


VANISHING = """
import sys, time
from pathlib import Path
from agents import ENDLESS, TOKEN
from profiling.device import DeviceOptions
from profiling.profile import Target
from profiling.board.remote import RemoteDevice

device = RemoteDevice.connect(sys.argv[1].removeprefix("pyro:"), DeviceOptions(token=TOKEN))
print("connected", flush=True)
device.measure([Target("small", Path(sys.argv[2]), sys.argv[3])], effort=ENDLESS)
"""


def test_a_client_that_is_killed_leaves_the_agent_free_within_seconds(tmp_path: Path, target: Target) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with Agent(TOKEN, tmp_path, program=IMPATIENT) as agent:
        command = [sys.executable, "-c", VANISHING, agent.uri, target.path, target.signature]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment) as client:
            assert client.stdout is not None
            assert client.stdout.readline() == b"connected\n"
            assert comes_true(lambda: bool(agent.children()))
            client.kill()
        assert comes_true(lambda: agent.children() == [], within_s=15)
        with closing(agent.connect()) as device:
            assert list(device.measure([target], effort=QUICK).measurements) == ["small"]
        assert agent.stop() == (0, "")


def test_sigterm_midway_ends_the_job_and_its_processes(tmp_path: Path, target: Target) -> None:
    with Agent("--port", 0, "--cache", tmp_path, "--quiet") as agent, raw_client(agent) as client:
        start(client, endless(send(client, target)))
        assert comes_true(lambda: bool(agent.children()))
        children = agent.children()
        assert agent.stop() == (0, "")
        assert comes_true(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def test_sigkill_midway_ends_the_jobs_processes_too(tmp_path: Path, target: Target) -> None:
    with Agent("--port", 0, "--cache", tmp_path) as agent, raw_client(agent) as client:
        start(client, endless(send(client, target)))
        assert comes_true(lambda: bool(agent.children()))
        children = agent.children()
        agent.process.kill()
        agent.process.wait()
        assert comes_true(lambda: not any(Path(f"/proc/{child}").exists() for child in children))


def test_a_load_of_other_processes_ends_with_its_job(tmp_path: Path, target: Target) -> None:
    with Agent("--port", 0, "--cache", tmp_path) as agent, raw_client(agent) as client:
        contended = Measuring(
            targets=(send(client, target),), conditions=Conditions(state="contended"), effort=Effort(max_runs=10**9)
        )
        job = start(client, contended)
        assert comes_true(lambda: len(agent.children()) > this_device().cores)
        client.cancel(job)
        assert comes_true(lambda: agent.children() == [])


# --- what it takes ---

LIGHT = """
import importlib.abc, json, os, signal, sys, threading
from pathlib import Path

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ModuleNotFoundError(name, name=name)

HEAVY = sys.argv[1].split(",")
sys.meta_path.insert(0, Blocker())

from profiling.board.agent import AgentOptions, serve

def ask(uri):
    def measure():
        import numpy as np
        from profiling.device import DeviceOptions
        from profiling.profile import Target
        from profiling.board.remote import RemoteDevice
        from profiling.statistics import Effort
        target = Target("small", Path(sys.argv[3]), sys.argv[4])
        device = RemoteDevice.connect(uri.removeprefix("pyro:"), DeviceOptions(token="token"))
        profile = device.measure([target], effort=Effort(min_runs=20, max_runs=100))
        outputs = device.answer(target, np.ones((2, 64), np.float32))
        print(json.dumps([sorted(sys.modules), list(profile.measurements), outputs.shape]))
        device.close()
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=measure).start()

serve(AgentOptions(token="token", cache=Path(sys.argv[2])), ready=ask)
"""


def test_the_light_core_is_enough_to_serve_and_to_ask(tmp_path: Path, target: Target) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LIGHT, ",".join(HEAVY), tmp_path, target.path, target.signature],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    imported, measured, shape = json.loads(done.stdout)
    assert "profiling.board.agent" in imported
    assert not {name.partition(".")[0] for name in imported} & {*HEAVY, "zoo", "premodel", "runtime"}
    assert (measured, shape) == (["small"], [2, 10])


def test_nothing_is_left_of_clients_that_come_and_go(agent: Agent, target: Target) -> None:
    def measure() -> None:
        with closing(agent.connect()) as device:
            assert list(device.measure([target], effort=QUICK).measurements) == ["small"]

    measure()
    assert comes_true(lambda: agent.children() == [])
    quiet = open_files(agent), threads(agent)
    own = len(os.listdir("/proc/self/fd"))
    measure()
    assert comes_true(lambda: open_files(agent) <= quiet[0] and threads(agent) <= quiet[1] + 1)
    assert len(os.listdir("/proc/self/fd")) <= own
    assert children_of(agent.process.pid) == []
