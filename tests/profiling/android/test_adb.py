from __future__ import annotations

import builtins
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adbd import Phone, Prompt

from fleetfoot.errors import DeviceError
from fleetfoot.files import sha256
from profiling.android import link
from profiling.android.adb import Adb
from profiling.android.keys import signer
from profiling.android.link import tcp_address

MEGABYTE = 1_000_000


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def keys(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys that are made once for all tests, and nobody's own."""
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(link, "CONNECT_SECONDS", 1.0)


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[Phone]:
    with Phone(tmp_path) as running:
        yield running


@pytest.fixture
def adb(phone: Phone) -> Iterator[Adb]:
    connected = connect(phone)
    yield connected
    connected.close()


def connect(phone: Phone) -> Adb:
    return Adb.connect(f"127.0.0.1:{phone.port}", prompt_seconds=0.5)


def random_file(path: Path, megabytes: int) -> Path:
    path.write_bytes(np.random.default_rng(megabytes).bytes(megabytes * MEGABYTE))
    return path


def refusal(address: str) -> str:
    begin = time.monotonic()
    with pytest.raises(DeviceError) as raised:
        Adb.connect(address, prompt_seconds=0.5)
    assert time.monotonic() - begin < 5
    assert len(str(raised.value).splitlines()) == 1
    return str(raised.value)


def test_a_command_has_output_and_exit_status(adb: Adb) -> None:
    assert adb.run("echo out; echo err >&2; exit 3") == (3, "out\nerr\n")
    assert adb.run("printf 'no newline'") == (0, "no newline")
    assert adb.run("false") == (1, "")
    assert adb.run("cat") == (0, "")  # nothing on its input


def test_the_status_of_an_older_shell_with_carriage_returns(phone: Phone, adb: Adb) -> None:
    assert adb.run(r"printf 'a\r\nb\r\n'; exit 4") == (4, "a\nb\n")


def test_a_killed_command_has_the_status_of_its_signal(phone: Phone, adb: Adb) -> None:
    phone.kill_commands_matching = "sleep 60"
    assert adb.run("sleep 60").status == 137
    assert adb.run("echo still there").output == "still there\n"


def test_a_command_that_takes_too_long_ends_the_connection(adb: Adb) -> None:
    begin = time.monotonic()
    with pytest.raises(DeviceError, match="lost while a command ran"):
        adb.run("sleep 60", timeout_s=0.3)
    assert time.monotonic() - begin < 5
    assert adb.lost is not None
    with pytest.raises(DeviceError, match="lost while a command ran"):
        adb.run("echo")


@pytest.mark.parametrize("megabytes", [0, 1, 10])
def test_files_arrive_whole_and_come_back_whole(phone: Phone, adb: Adb, tmp_path: Path, megabytes: int) -> None:
    file = random_file(tmp_path / "file", megabytes)
    adb.push(file, "/data/local/tmp/new/file", 0o755)
    adb.pull("/data/local/tmp/new/file", tmp_path / "back")
    assert sha256(phone.scratch / "new/file") == sha256(tmp_path / "back") == sha256(file)
    assert (phone.scratch / "new/file").stat().st_mode & 0o100


@pytest.mark.parametrize(("max_data", "version"), [(4096, 0x01000000), (256 * 1024, 0x01000001)])
def test_files_arrive_whole_on_older_phones(tmp_path: Path, max_data: int, version: int) -> None:
    file = random_file(tmp_path / "file", 3)
    with Phone(tmp_path, max_data=max_data, version=version) as phone:
        adb = connect(phone)
        adb.push(file, "/data/local/tmp/file")
        adb.close()
        assert sha256(phone.scratch / "file") == sha256(file)


def test_a_hundred_megabytes_arrive_whole(phone: Phone, adb: Adb, tmp_path: Path) -> None:
    file = random_file(tmp_path / "file", 100)
    adb.push(file, "/data/local/tmp/file")
    assert sha256(phone.scratch / "file") == sha256(file)


def test_a_slow_phone_is_waited_for(phone: Phone, adb: Adb, tmp_path: Path) -> None:
    phone.slow = 0.05
    adb.push(random_file(tmp_path / "file", 10), "/data/local/tmp/file")
    assert (phone.scratch / "file").stat().st_size == 10 * MEGABYTE


def test_no_space_is_told_and_the_connection_holds(phone: Phone, adb: Adb, tmp_path: Path) -> None:
    phone.space_bytes = 5 * MEGABYTE
    with pytest.raises(DeviceError, match="no space left on the device: free some"):
        adb.push(random_file(tmp_path / "file", 20), "/data/local/tmp/file")
    assert adb.lost is None
    assert adb.run("echo on").output == "on\n"
    adb.push(random_file(tmp_path / "file", 1), "/data/local/tmp/file")


def test_permission_is_told_apart(phone: Phone, adb: Adb, tmp_path: Path) -> None:
    file = random_file(tmp_path / "file", 3)
    phone.deny.add("/data/local/tmp/secret")
    for remote in ("/data/local/tmp/secret/file", "/system/file"):
        with pytest.raises(DeviceError, match="permission denied"):
            adb.push(file, remote)
    with pytest.raises(DeviceError, match="Permission denied"):
        adb.pull("/data/local/tmp/secret/file", tmp_path / "back")
    with pytest.raises(DeviceError, match="No such file"):
        adb.pull("/data/local/tmp/none", tmp_path / "back")
    assert adb.run("echo on").output == "on\n"


def test_a_cable_pulled_while_a_file_is_copied(phone: Phone, adb: Adb, tmp_path: Path) -> None:
    phone.cut_after_bytes = 2 * MEGABYTE
    with pytest.raises(DeviceError, match=r"connection to 127.0.0.1:\d+ was lost while file was copied"):
        adb.push(random_file(tmp_path / "file", 10), "/data/local/tmp/file")
    assert adb.lost is not None
    again = connect(phone)
    assert again.run("echo again").output == "again\n"
    again.close()


def test_a_cable_pulled_while_a_command_runs(phone: Phone, adb: Adb) -> None:
    phone.cut_after_bytes = 2000
    with pytest.raises(DeviceError, match="lost while a command ran"):
        adb.run("while :; do echo more; done")


def test_a_key_is_made_once_for_its_user_alone(phone: Phone, home: Path) -> None:
    for _ in range(2):
        connect(phone).close()
    assert len(phone.known_keys) == 1
    key = home / ".config/fleetfoot/adbkey"
    assert key.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in key.parent.iterdir()] == ["adbkey"]


def test_the_key_of_androids_tools_is_used_where_there_is_one(
    phone: Phone, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(phone).close()
    (tmp_path / ".android").mkdir()
    (tmp_path / ".android/adbkey").write_bytes((home / ".config/fleetfoot/adbkey").read_bytes())
    monkeypatch.setenv("HOME", str(tmp_path))
    phone.prompt = Prompt.IGNORE
    connect(phone).close()
    assert not (tmp_path / ".config").exists()


def test_keys_are_in_the_users_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    signer()
    assert (tmp_path / "config/fleetfoot/adbkey").exists()


def test_a_key_that_is_none_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".android").mkdir()
    (tmp_path / ".android/adbkey").write_text("no key")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert "is no key that can be used" in refusal("127.0.0.1:5555")


def test_an_unknown_computer_is_asked_to_be_allowed(phone: Phone, capsys: pytest.CaptureFixture[str]) -> None:
    phone.prompt = Prompt.IGNORE
    message = refusal(f"127.0.0.1:{phone.port}")
    assert message.endswith("accept the prompt on the device's screen and try again")
    assert "accept the prompt" in capsys.readouterr().err


def test_an_offline_phone_is_told_apart(phone: Phone) -> None:
    phone.offline = True
    assert "is offline" in refusal(f"127.0.0.1:{phone.port}")


def test_garbage_is_one_clear_line(phone: Phone) -> None:
    phone.garbage = True
    assert refusal(f"127.0.0.1:{phone.port}").endswith("is no Android device: something else answers at that port")


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (b"", "closed the connection"),
        (b"SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3\r\n", "something else answers"),
        (b"STLS\0\0\0\1" + bytes(12) + bytes(0x100 - b for b in b"TUMT"), "wireless debugging"),
        (b"CNXN" + b"\xff" * 20, "is offline"),
    ],
)
def test_other_servers_are_told_in_one_line(said: bytes, expected: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as pool:

        def serve() -> None:
            sock, _ = server.accept()
            with sock:
                header = sock.recv(24, socket.MSG_WAITALL)
                sock.recv(int.from_bytes(header[12:16], "little"), socket.MSG_WAITALL)
                sock.sendall(said)
                if said.startswith(b"CNXN"):
                    sock.recv(1)  # nothing more comes until the other side gives up

        served = pool.submit(serve)
        assert expected in refusal(f"127.0.0.1:{server.getsockname()[1]}")
        served.result()


def test_a_refused_connection_is_told_apart() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    assert "refused the connection" in refusal(f"127.0.0.1:{port}")


def test_a_host_that_does_not_answer_is_given_up_in_seconds() -> None:
    with socket.socket() as server, ExitStack() as stack:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):  # what comes after them is dropped, as by a host that is off
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        assert "cannot be reached" in refusal(f"127.0.0.1:{server.getsockname()[1]}")


def test_a_name_that_nobody_knows_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "create_connection", unknown)
    assert refusal("phone.invalid:5555") == "phone.invalid:5555 is no known host: check the name"


@pytest.fixture(scope="session")
def usb1() -> Any:
    """What speaks to cables; the system's libusb is needed for it."""
    try:
        from adb_shell.transport import usb_transport
    except (ImportError, OSError) as error:
        pytest.skip(f"USB cannot be used here: {error}")
    return usb_transport.usb1


@pytest.mark.usefixtures("usb1")
def test_a_serial_number_that_is_not_plugged_in_is_told() -> None:
    assert "is not among the USB devices: plug it in" in refusal("R58M12ABCDE")


def test_a_cable_carries_what_the_network_does(phone: Phone, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "_usb", lambda serial: link._tcp("127.0.0.1", phone.port))
    adb = Adb.connect("R58M12ABCDE")
    adb.push(random_file(tmp_path / "file", 3), "/data/local/tmp/file")
    assert sha256(phone.scratch / "file") == sha256(tmp_path / "file")
    adb.close()


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        ("USBErrorBusy", "is in use by another program: run `adb kill-server`"),
        ("USBErrorAccess", "may not be opened by this user: install the udev rules"),
        ("USBErrorNoDevice", "is offline"),
    ],
)
def test_what_is_wrong_with_a_cable_is_told(
    usb1: Any, error: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> None:
        raise getattr(usb1, error)

    monkeypatch.setattr(link, "_usb", fail)
    assert expected in refusal("R58M12ABCDE")


def test_addresses() -> None:
    assert tcp_address("192.168.1.5:5556") == ("192.168.1.5", 5556)
    assert tcp_address("phone.local") == ("phone.local", 5555)
    assert tcp_address("[::1]:5555") == ("::1", 5555)
    assert tcp_address("emulator-5554") == ("127.0.0.1", 5555)
    assert tcp_address("R58M12ABCDE") is None
    for port in ("x", "0", "70000", ""):
        with pytest.raises(DeviceError, match="is no port"):
            tcp_address(f"phone:{port}")


def test_without_the_package_what_to_install_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *arguments: Any, **options: Any) -> Any:
        if name.startswith("adb_shell"):
            raise ImportError(name)
        return real(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    assert refusal("127.0.0.1:5555") == "Android devices need adb-shell: pip install 'fleetfoot[android]'"
