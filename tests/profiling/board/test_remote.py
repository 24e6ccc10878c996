"""A board that is reached through its agent, seen from the workstation."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer
from typing import Any

import msgspec
import numpy as np
import pytest
from agents import (
    QUICK,
    TOKEN,
    Agent,
    Signed,
    comes_true,
    dense_model,
    make_certificate,
)
from smallmodels import INPUTS, Product

from fleetfoot.errors import DeviceError, FleetfootError, UsageError
from fleetfoot.files import sha256
from profiling.board.connection import Access, Address
from profiling.board.link import AgentLink
from profiling.board.remote import RemoteDevice
from profiling.device import DeviceOptions
from profiling.local import LocalDevice
from profiling.operators.table import OperatorTable
from profiling.profile import Conditions, Profile, Target, this_device, tool_versions
from profiling.statistics import Effort


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Target:
    return dense_model(tmp_path_factory.mktemp("models") / "small.tflite")


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Target:
    """A model that travels in five chunks."""
    return dense_model(tmp_path_factory.mktemp("models") / "large.tflite", 1500, 1500)


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """One agent for all tests that leave it as it was."""
    with Agent("--port", 0, "--cache", tmp_path_factory.mktemp("cache"), "--max-bytes", "16M") as running:
        yield running
        assert running.stop()[0] == 0


@pytest.fixture
def device(agent: Agent) -> Iterator[RemoteDevice]:
    with closing(agent.connect()) as connected:
        yield connected


def connect(uri: str, **options: Any) -> RemoteDevice:
    return RemoteDevice.connect(uri.removeprefix("pyro:"), DeviceOptions(**{"token": TOKEN} | options))


def refusal(uri: str, **options: Any) -> str:
    """The one line that connecting ends with."""
    with pytest.raises(DeviceError) as caught:
        connect(uri, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- the same as this machine ---


def test_a_board_has_the_device_id_that_it_gives_itself(device: RemoteDevice, target: Target) -> None:
    assert device.info() == this_device()
    profile = device.measure([target], effort=QUICK)
    assert profile.device_id == LocalDevice().info().id == this_device().id
    assert profile.device == this_device()


def test_a_profile_is_as_it_was_made_there(device: RemoteDevice, target: Target, large: Target, tmp_path: Path) -> None:
    conditions = Conditions(threads=2)
    profile = device.measure([target, large], conditions=conditions, effort=QUICK)
    assert profile.conditions == conditions
    assert list(profile.measurements) == ["small", "large"]
    assert profile.failures == {}
    assert profile.covers({"small": sha256(target.path), "large": sha256(large.path)})
    measured = profile.measurements["large"]
    assert measured.signature == large.signature
    assert measured.relative is not None
    assert measured.relative.value > 1
    assert measured.latency.count >= QUICK.min_runs
    profile.write(tmp_path / "profile.json")
    assert Profile.read(tmp_path / "profile.json").measurements == profile.measurements


def test_answers_are_those_of_this_machine(device: RemoteDevice, target: Target) -> None:
    x = np.random.default_rng(0).normal(size=(300, 64)).astype(np.float32)  # more than travel at once
    np.testing.assert_array_equal(device.answer(target, x), LocalDevice().answer(target, x))


def test_nested_networks_are_sent_as_one_file_and_run_alone(
    device: RemoteDevice, products: dict[str, Product], damaged_products: dict[str, Product]
) -> None:
    wide, narrow = products["wide"].target, products["narrow"].target
    damaged = damaged_products["middle"].target._replace(name="damaged")
    profile = device.measure([wide, narrow, damaged], effort=QUICK, operators=True)
    assert list(profile.measurements) == ["wide", "narrow"]
    assert "is damaged, so that middle cannot be put together" in profile.failures["damaged"]
    of_wide, of_narrow = profile.measurements.values()
    assert of_wide.file_sha256 == of_narrow.file_sha256 == sha256(wide.path)
    assert of_narrow.peak_memory_bytes < of_wide.peak_memory_bytes - (4 << 20)
    assert [operator.name for operator in of_narrow.operators] == ["256 → 64"]
    x = np.random.default_rng(0).uniform(0, 1, (5, INPUTS)).astype(np.float32)
    for product in products.values():
        np.testing.assert_allclose(device.answer(product.target, x), product.answers(x), atol=1e-3)


def test_inference_there_tells_what_each_input_took(device: RemoteDevice, target: Target) -> None:
    answers = device.infer(target, np.ones((5, 64), np.float32))
    assert answers.outputs.shape == (5, 10)
    assert answers.latencies_ms.shape == (5,)
    assert (answers.latencies_ms > 0).all()


def test_the_table_of_operators_is_the_one_that_the_board_keeps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETFOOT_CACHE", str(tmp_path))
    kept = OperatorTable(
        device_id=this_device().id, threads=1, created="2020-01-01T00:00:00+00:00", versions=tool_versions(),
        overhead_ms=0.01, call_ms=0.02, timings=[],
    )  # fmt: skip
    kept.write(tmp_path / "operators" / f"{kept.device_id}.json")
    with Agent("--port", 0) as agent, closing(agent.connect()) as device:
        assert msgspec.structs.replace(device.operator_table(Conditions()), schema_version=0) == kept
        assert (tmp_path / "models").is_dir()


def test_nothing_to_answer_and_nothing_to_measure(device: RemoteDevice, target: Target) -> None:
    with pytest.raises(DeviceError, match="no inputs"):
        device.answer(target, np.zeros((0, 64), np.float32))
    assert device.measure([], effort=QUICK).measurements == {}


def test_what_the_board_cannot_do_is_said(device: RemoteDevice, target: Target) -> None:
    with pytest.raises(DeviceError, match="there is no core 4000 here"):
        device.measure([target], conditions=Conditions(cpus=(4000,)), effort=QUICK)
    with pytest.raises(DeviceError, match="no signature 'other': there are operator"):
        device.answer(target._replace(signature="other"), np.ones((1, 64), np.float32))


def test_a_connection_may_move_to_another_thread(device: RemoteDevice, target: Target) -> None:
    answers: list[Any] = []
    thread = threading.Thread(target=lambda: answers.append(device.answer(target, np.ones((1, 64), np.float32))))
    thread.start()
    thread.join()
    assert answers[0].shape == (1, 10)


# --- files ---


def test_files_that_cannot_be_sent_are_failures_and_the_others_are_measured(
    device: RemoteDevice, target: Target, tmp_path: Path
) -> None:
    text = Target("text", tmp_path / "text.tflite", "x")
    text.path.write_text("not a model, but long enough to be one")
    missing = Target("missing", tmp_path / "missing.tflite", "x")
    huge = Target("huge", tmp_path / "huge.tflite", "x")
    huge.path.write_bytes(target.path.read_bytes() + bytes(16 << 20))
    again = target._replace(name="again")
    profile = device.measure([text, target, missing, huge, again], effort=QUICK)
    assert list(profile.measurements) == ["small", "again"]
    assert all(measurement.relative is None for measurement in profile.measurements.values())  # of the first to itself
    assert profile.failures == {
        "text": f"text cannot be measured there: {text.path} is no LiteRT file",
        "missing": f"missing cannot be measured there: {missing.path} cannot be read: No such file or directory",
        "huge": f"huge cannot be measured there: the file has {huge.path.stat().st_size} bytes, and the agent takes "
        "16777216: see --max-bytes",
    }


def test_a_file_is_sent_once(agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, sent = dense_model(tmp_path / "new.tflite", 700, 700), []
    for _ in range(2):
        with closing(agent.connect()) as device:
            link = device._link
            call = link.call
            monkeypatch.setattr(
                link, "call", lambda method, *rest, call=call: sent.append(method) or call(method, *rest)
            )
            device.answer(model, np.ones((1, 700), np.float32))
    assert sent.count("chunk") == 1


def test_a_model_that_needs_too_much_memory_is_a_failure_in_one_line(tmp_path: Path, target: Target) -> None:
    hungry = dense_model(tmp_path / "hungry.tflite", 4000, 2000)
    with Agent("--port", 0, "--cache", tmp_path / "cache", "--max-memory", "16M") as agent:
        with closing(agent.connect()) as device:
            profile = device.measure([target, hungry], effort=QUICK)
            assert list(profile.measurements) == ["small"]
            assert re.search("^hungry cannot be measured here: .*(memory|XNNPACK)", profile.failures["hungry"])
        assert agent.stop()[0] == 0


# --- what goes wrong midway ---


def while_measuring(device: RemoteDevice, targets: list[Target], effort: Effort, act: Callable[[], None]) -> Profile:
    """What measuring gives while something happens."""
    failed: list[BaseException] = []

    def run() -> None:
        try:
            act()
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        return device.measure(targets, effort=effort)
    finally:
        thread.join()
        assert failed == []


LONG = Effort(min_runs=10**9, max_runs=10**9, max_seconds=1.0)


def test_a_child_that_is_killed_is_a_failure_and_the_others_are_measured(tmp_path: Path, large: Target) -> None:
    with Agent("--port", 0, "--cache", tmp_path) as agent, closing(agent.connect()) as device:

        def kill_one() -> None:
            assert comes_true(lambda: len(agent.children()) == 2)
            time.sleep(1)
            os.kill(max(agent.children()), signal.SIGKILL)

        profile = while_measuring(device, [large, large._replace(name="twin")], LONG, kill_one)
        assert list(profile.measurements) == ["large"]
        assert "its process was killed, as the system does when memory runs out" in profile.failures["twin"]


def test_an_agent_that_is_killed_and_started_again_still_measures(
    tmp_path: Path, large: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    with Agent("--port", 0, "--cache", tmp_path / "first") as first, closing(first.connect()) as device:
        second: list[Agent] = []

        def restart() -> None:
            assert comes_true(lambda: bool(first.children()))
            first.process.kill()
            first.process.wait()
            second.append(Agent("--port", first.port, "--cache", tmp_path / "second"))

        profile = while_measuring(device, [large], LONG, restart)
        assert list(profile.measurements) == ["large"]
        assert capsys.readouterr().err.count("lost the job, as when it is started again: the job starts anew") == 1
        assert second[0].stop()[0] == 0


def test_a_board_that_does_not_come_back_is_given_up(tmp_path: Path, target: Target) -> None:
    with Agent("--port", 0, "--cache", tmp_path) as agent:
        link = AgentLink(Address("", "127.0.0.1", agent.port), Access(TOKEN), patience_s=1)
        with closing(RemoteDevice(link)) as device:
            agent.stop()
            start = time.monotonic()
            with pytest.raises(DeviceError, match=r"no agent answers at pyro:.+; start one with .+\(tried for 1 s\)"):
                device.measure([target], effort=QUICK)
            assert time.monotonic() - start < 10


INTERRUPTED = """
import sys
from pathlib import Path
from agents import ENDLESS, TOKEN
from profiling.device import DeviceOptions
from profiling.profile import Target
from profiling.board.remote import RemoteDevice

device = RemoteDevice.connect(sys.argv[1].removeprefix("pyro:"), DeviceOptions(token=TOKEN))
try:
    device.measure([Target("small", Path(sys.argv[2]), sys.argv[3])], effort=ENDLESS)
except KeyboardInterrupt:
    device.close()
    print("interrupted", flush=True)
"""


def test_ctrl_c_frees_the_board_at_once(tmp_path: Path, target: Target) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with Agent("--port", 0, "--cache", tmp_path) as agent:
        command = [sys.executable, "-W", "error", "-c", INTERRUPTED, agent.uri, target.path, target.signature]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as client:
            assert comes_true(lambda: bool(agent.children()))
            client.send_signal(signal.SIGINT)
            assert client.communicate(timeout=10) == (b"interrupted\n", b"")
        assert comes_true(lambda: agent.children() == [], within_s=8)


# --- nobody there, or somebody else ---


@pytest.mark.parametrize(
    "address",
    ["", "board", ":9091", "board:", "board:port", "board:99999", "@board:9091", "a:b:c", "a b:1", "x@", "[::1]"],
)
def test_what_is_no_address_is_said_to_be_none(address: str) -> None:
    with pytest.raises(DeviceError, match="is no agent's address: pyro:HOST:PORT and pyro:NAME@HOST are"):
        RemoteDevice.connect(address, DeviceOptions(token=TOKEN))


def test_addresses() -> None:
    assert Address.parse("board.local:9091") == Address("", "board.local", 9091)
    assert Address.parse("[fe80::1]:9091") == Address("", "fe80::1", 9091)
    assert Address.parse("lab/board-1@names") == Address("lab/board-1", "names", 9090)
    assert Address.parse("board-1@names:99") == Address("board-1", "names", 99)
    for text in ("board.local:9091", "[fe80::1]:9091", "board-1@names:99"):
        assert str(Address.parse(text)) == f"pyro:{text}"


def test_without_a_token_nobody_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FLEETFOOT_TOKEN", raising=False)
    assert refusal("127.0.0.1:1", token=None) == (
        "pyro:127.0.0.1:1 asks for a token: set FLEETFOOT_TOKEN to what serve-device told"
    )


def test_the_token_may_come_from_the_environment(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLEETFOOT_TOKEN", TOKEN)
    connect(agent.uri, token=None).close()


def test_a_wrong_token_is_one_clear_line(agent: Agent) -> None:
    assert refusal(agent.uri, token="another token") == (
        f"the agent refused the token: it is not the agent's ({agent.uri}): set FLEETFOOT_TOKEN to what it told"
    )


def test_nobody_there_is_said_at_once() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        start = time.monotonic()
        assert "start one with serve-device" in refusal(f"127.0.0.1:{bound.getsockname()[1]}")
        assert time.monotonic() - start < 5
    assert "no agent answers at pyro:nowhere.invalid:9091" in refusal("nowhere.invalid:9091")


def test_a_listener_that_says_nothing_is_given_up_within_seconds() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        assert "did not answer in time" in refusal(f"127.0.0.1:{silent.getsockname()[1]}")
        assert time.monotonic() - start < 8


class Greeting(BaseRequestHandler):
    """Greets as mail servers do."""

    def handle(self) -> None:
        self.request.sendall(b"220 mail.example.com ESMTP, and not the agent that you are looking for\r\n")


class HangUp(BaseRequestHandler):
    """Hangs up at once."""


@pytest.mark.parametrize(
    ("handler", "reason"), [(Greeting, "no agent answers at|hung up"), (HangUp, "no agent answers at|hung up")]
)
def test_another_server_is_said_to_be_no_agent(handler: type[BaseRequestHandler], reason: str) -> None:
    with TCPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        assert re.search(reason, refusal(f"127.0.0.1:{server.server_address[1]}"))
        thread.join()


OTHER_VERSION = """
import sys
import profiling.board.agent as agent
from pathlib import Path
agent.{name} = {value}
agent.serve(agent.AgentOptions(token=sys.argv[1], cache=Path(sys.argv[2])), lambda uri: print(uri, flush=True))
"""


def test_an_agent_of_another_version_is_used_with_a_warning(
    tmp_path: Path, target: Target, capsys: pytest.CaptureFixture[str]
) -> None:
    program = OTHER_VERSION.format(name="__version__", value="'9.9.9'")
    with Agent(TOKEN, tmp_path, program=program) as agent, closing(agent.connect()) as device:
        assert device.answer(target, np.ones((1, 64), np.float32)).shape == (1, 10)
    assert re.search(r"warning: pyro:\S+ runs fleetfoot 9\.9\.9, and this is ", capsys.readouterr().err)


def test_an_agent_that_speaks_otherwise_is_refused(tmp_path: Path) -> None:
    with Agent(TOKEN, tmp_path, program=OTHER_VERSION.format(name="PROTOCOL", value="2")) as agent:
        assert "speaks otherwise than this one" in refusal(agent.uri)


def test_a_profile_of_another_form_is_refused_with_both_versions(tmp_path: Path, target: Target) -> None:
    program = """
import sys
import msgspec
import profiling.board.executor as executor
from pathlib import Path
from profiling.board.agent import AgentOptions, serve
executor.msgspec = type("Newer", (), {"to_builtins": lambda x: msgspec.to_builtins(x) | {"mood": "fine"}})
serve(AgentOptions(token=sys.argv[1], cache=Path(sys.argv[2])), lambda uri: print(uri, flush=True))
"""
    with (
        Agent(TOKEN, tmp_path, program=program) as agent,
        closing(agent.connect()) as device,
        pytest.raises(DeviceError, match="is no Profile: .+`mood`.+install the same on both"),
    ):
        device.measure([target], effort=QUICK)


# --- TLS ---


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return make_certificate(tmp_path_factory.mktemp("tls"), "authority")


@pytest.fixture(scope="module")
def mine(authority: Signed) -> Signed:
    return make_certificate(authority.certificate.parent, "workstation", authority)


def tls_agent(directory: Path, authority: Signed, host: str = "127.0.0.1") -> Agent:
    board = make_certificate(directory, "board", authority, host)
    return Agent("--port", 0, "--cache", directory / "cache", "--certificate", board.certificate,
                 "--key", board.key, "--authority", authority.certificate)  # fmt: skip


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory, authority: Signed) -> Iterator[Agent]:
    with tls_agent(tmp_path_factory.mktemp("secured"), authority) as running:
        yield running
        assert running.stop()[0] == 0


def shown(signed: Signed, authority: Signed) -> dict[str, Path]:
    return {"certificate": signed.certificate, "key": signed.key, "authority": authority.certificate}


def test_a_client_with_a_certificate_measures_over_tls_beside_one_without(
    secured: Agent, agent: Agent, target: Target, large: Target, authority: Signed, mine: Signed
) -> None:
    with closing(connect(secured.uri, **shown(mine, authority))) as encrypted, closing(connect(agent.uri)) as plain:
        for device in (encrypted, plain, encrypted):
            assert device.answer(large, np.ones((3, 1500), np.float32)).shape == (3, 1500)
        assert list(encrypted.measure([target], effort=QUICK).measurements) == ["small"]


def test_the_token_is_asked_for_over_tls_too(secured: Agent, authority: Signed, mine: Signed) -> None:
    assert "refused the token" in refusal(secured.uri, token="another token", **shown(mine, authority))


def test_a_client_without_certificate_is_refused(secured: Agent, authority: Signed) -> None:
    assert "does not accept this client's certificate" in refusal(secured.uri, authority=authority.certificate)


def test_a_client_of_another_authority_is_refused(secured: Agent, authority: Signed, tmp_path: Path) -> None:
    stranger = make_certificate(tmp_path, "stranger", make_certificate(tmp_path, "other"))
    assert "does not accept this client's certificate" in refusal(secured.uri, **shown(stranger, authority))


def test_a_client_without_tls_is_refused(secured: Agent) -> None:
    assert "does it ask for TLS?" in refusal(secured.uri)


def test_an_agent_without_tls_is_refused_by_a_client_with_it(agent: Agent, authority: Signed, mine: Signed) -> None:
    assert "does not speak TLS: start it with a certificate" in refusal(agent.uri, **shown(mine, authority))


def test_an_agent_of_another_authority_is_refused(tmp_path: Path, authority: Signed, mine: Signed) -> None:
    with tls_agent(tmp_path, make_certificate(tmp_path, "other")) as impostor:
        assert "is not who it should be: " in refusal(impostor.uri, **shown(mine, authority))


def test_an_agent_of_another_host_is_refused(tmp_path: Path, authority: Signed, mine: Signed) -> None:
    with tls_agent(tmp_path, authority, host="192.0.2.1") as elsewhere:
        assert "is not who it should be: IP address mismatch" in refusal(elsewhere.uri, **shown(mine, authority))


def test_silent_connections_do_not_keep_tls_clients_out(secured: Agent, authority: Signed, mine: Signed) -> None:
    silent = [socket.create_connection(("127.0.0.1", secured.port)) for _ in range(20)]
    start = time.monotonic()
    connect(secured.uri, **shown(mine, authority)).close()
    assert time.monotonic() - start < 10
    for connection in silent:
        connection.close()


@pytest.mark.parametrize("wrong", ["no key", "missing", "no certificate"])
def test_certificates_that_cannot_be_used_are_said_in_one_line(
    wrong: str, tmp_path: Path, authority: Signed, mine: Signed
) -> None:
    text = tmp_path / "text.pem"
    text.write_text("no certificate")
    options = {
        "no key": {"certificate": mine.certificate},
        "missing": {"authority": tmp_path / "missing.pem"},
        "no certificate": {"authority": text},
    }[wrong]
    with pytest.raises(UsageError) as caught:
        connect("127.0.0.1:9", **options)
    assert "\n" not in str(caught.value)


# --- the name server ---


@pytest.fixture(scope="module")
def names() -> Iterator[int]:
    """The port of a Pyro name server."""
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "Pyro5.nameserver", "-n", "127.0.0.1", "-p", "0", "-x"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as server:  # fmt: skip
        assert server.stdout is not None
        line = next(line for line in server.stdout if "URI" in line)
        yield int(line.rpartition(":")[2])
        server.terminate()


def test_an_agent_is_found_by_its_name_while_it_runs(names: int, target: Target, tmp_path: Path) -> None:
    server = f"127.0.0.1:{names}"
    with Agent("--port", 0, "--cache", tmp_path, "--name", "board-1", "--name-server", server) as agent:
        with closing(connect(f"board-1@{server}")) as device:
            assert device.info() == this_device()
            assert device.answer(target, np.ones((1, 64), np.float32)).shape == (1, 10)
        assert agent.stop()[0] == 0
    assert re.search("the name server at .+ says: .+board-1", refusal(f"board-1@{server}"))


def test_an_agent_of_all_addresses_registers_one_that_can_be_reached(names: int, tmp_path: Path) -> None:
    server = f"127.0.0.1:{names}"
    with Agent("--host", "0.0.0.0", "--insecure", "--port", 0, "--cache", tmp_path, "--name", "board-2",
               "--name-server", server):  # fmt: skip
        connect(f"board-2@{server}").close()


def test_no_name_server_is_said_in_one_line() -> None:
    assert "no name server answers at 127.0.0.1:9" in refusal("board-1@127.0.0.1:9")


def test_every_failure_of_a_call_is_an_error_of_ours(device: RemoteDevice) -> None:
    with pytest.raises(FleetfootError, match="TypeError"):
        device._link.call("result", "too few")
    with pytest.raises(DeviceError, match="is no int"):
        device._link.typed(int, "info")
    assert msgspec.structs.asdict(device._link.agent)["protocol"] == 1
