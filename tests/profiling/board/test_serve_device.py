"""The command that starts an agent: its token, who may reach it, and what is said when it cannot start."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import click
import pytest
from agents import COMMAND, TOKEN, Agent, make_certificate

from fleetfoot.errors import DeviceError, UsageError
from profiling.board.access import agent_token, check_reach
from profiling.commands import ByteCount


def start(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs the command where it is expected to end by itself."""
    return subprocess.run(
        [sys.executable, "-c", COMMAND, *map(str, arguments)],
        capture_output=True, text=True, timeout=30, check=False,
        env=os.environ | {"FLEETFOOT_TOKEN": TOKEN} | environment,
    )  # fmt: skip


def refusal(*arguments: object, status: int = 2, **environment: str) -> str:
    done = start(*arguments, **environment)
    assert done.returncode == status
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("serve-device: ")
    return line


# --- the token ---


def test_a_token_is_made_kept_for_its_owner_only_and_told_once(tmp_path: Path) -> None:
    told = []
    for _ in range(2):
        process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, "--port", "0", "--cache", str(tmp_path / "cache")],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env={k: v for k, v in os.environ.items() if k != "FLEETFOOT_TOKEN"} | {"XDG_CONFIG_HOME": str(tmp_path)},
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline().startswith("pyro:127.0.0.1:")
        process.terminate()
        told.append(process.communicate(timeout=20)[1])
    kept = tmp_path / "fleetfoot" / "agent-token"
    token = kept.read_text().strip()
    assert len(token) >= 32
    assert kept.stat().st_mode & 0o777 == 0o600
    assert f"export FLEETFOOT_TOKEN={token}" in told[0]
    assert token not in told[1]
    assert str(kept) in told[1]


def test_a_token_from_a_file_goes_before_the_environments(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("the token in this file\n")
    assert agent_token(file, {"FLEETFOOT_TOKEN": TOKEN}).text == "the token in this file"
    assert agent_token(None, {"FLEETFOOT_TOKEN": TOKEN}).text == TOKEN


@pytest.mark.parametrize("text", ["", "short", " \n"])
def test_a_short_token_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "token"
    file.write_text(text)
    with pytest.raises(UsageError, match="is short: make one of at least 16 random characters|is empty"):
        agent_token(file, {})
    with pytest.raises(UsageError, match="the token in FLEETFOOT_TOKEN is short"):
        agent_token(None, {"FLEETFOOT_TOKEN": text})


def test_a_token_file_that_is_not_there_is_said() -> None:
    assert "the token file /nowhere/token cannot be read: No such file" in refusal("--token-file", "/nowhere/token")


# --- who may reach it ---


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_other_machines_are_not_listened_to_without_tls(host: str) -> None:
    assert "say --insecure on a network where everybody is trusted" in refusal("--host", host, "--port", 0)


def test_loopback_needs_no_tls() -> None:
    for host in ("127.0.0.1", "127.0.0.2", "localhost", "::1"):
        check_reach(host, None, insecure=False)
    check_reach("0.0.0.0", None, insecure=True)


def test_insecure_is_warned_of_and_serves(tmp_path: Path) -> None:
    with Agent("--host", "0.0.0.0", "--insecure", "--port", 0, "--cache", tmp_path) as agent:
        with pytest.raises(DeviceError, match="would be told the token in clear"):
            agent.connect()
        with closing(agent.connect(insecure=True)) as device:
            assert device.info().cores > 0
        status, stderr = agent.stop()
    assert status == 0
    assert "warning: without TLS, everybody on the network can read the token" in stderr


def test_part_of_tls_is_refused(tmp_path: Path) -> None:
    made = make_certificate(tmp_path, "board")
    whole = {"--certificate": made.certificate, "--key": made.key, "--authority": made.certificate}
    for left_out in whole:
        options = [word for name, path in whole.items() if name != left_out for word in (name, path)]
        assert "TLS takes all of --certificate, --key and --authority" in refusal(*options)
    whole["--key"] = make_certificate(tmp_path, "other").key
    assert "the certificates cannot be used: " in refusal(*[word for option in whole.items() for word in option])


# --- beginning and end ---


def test_a_port_in_use_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = refusal("--quiet", "--port", port, "--cache", tmp_path, status=1)
    assert re.fullmatch(rf"serve-device: cannot listen on 127\.0\.0\.1:{port}: .+; choose another --port", line)


def test_a_name_server_that_is_not_there_is_said_in_one_line(tmp_path: Path) -> None:
    options = ("--quiet", "--port", 0, "--cache", tmp_path, "--name", "board-1", "--name-server", "127.0.0.1:9")
    assert "no name server answers at 127.0.0.1:9" in refusal(*options, status=1)
    assert "is no name server: HOST or HOST:PORT is" in refusal("--quiet", "--name", "a", "--name-server", "a b")


def test_a_cache_that_cannot_be_used_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no directory")
    assert "cannot be used" in refusal("--quiet", "--cache", tmp_path / "file" / "cache", status=1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_and_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    with Agent("--port", 0, "--cache", tmp_path, "--quiet") as agent, closing(agent.connect()):
        assert agent.stop(number, within_s=5) == (0, "")


def test_help_has_an_example() -> None:
    done = start("--help")
    assert done.returncode == 0
    assert re.search(r"Example:\s+serve-device --host", done.stdout)


@pytest.mark.parametrize(("text", "number"), [("512M", 512 << 20), ("1g", 1 << 30), ("3K", 3072), ("100", 100)])
def test_sizes(text: str, number: int) -> None:
    assert ByteCount().convert(text, None, None) == number


@pytest.mark.parametrize("text", ["", "M", "-5", "1.5G", "10 T"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(click.BadParameter, match="is no number of bytes: 512M is"):
        ByteCount().convert(text, None, None)
