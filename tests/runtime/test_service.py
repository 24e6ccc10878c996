"""The service as strangers meet it: other clients, wrong bytes, many at once, and its end."""

from __future__ import annotations

import math
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from Pyro5 import protocol
from Pyro5.api import Proxy

from fleetfoot.errors import BudgetError, InputError, OverBudgetError, ServiceError
from fleetfoot.wire import register_errors
from runtime import Answer, connect

BIN = Path(sys.executable).parent
FOREVER = math.inf
INSTANT = 1e-6


@pytest.fixture
def proxy(service_uri: str) -> Iterator[Any]:
    """A client that knows Pyro5 and nothing of Fleetfoot but its errors."""
    register_errors()
    with Proxy(service_uri) as plain:
        yield plain


@pytest.fixture
def still_serves(service_uri: str, images: Any) -> Iterator[None]:
    """Asks the service for an answer when the test is over."""
    yield
    with connect(service_uri, timeout_s=5) as selector:
        assert isinstance(selector.infer(images[0], FOREVER), Answer)


def address(uri: str) -> tuple[str, int]:
    host, port = uri.split("@")[1].rsplit(":", 1)
    return host, int(port)


# --- other clients ---


def test_the_service_says_where_it_is(service_uri: str) -> None:
    assert re.fullmatch(r"PYRO:selector@127\.0\.0\.1:\d+", service_uri)


@pytest.mark.parametrize("serializer", ["serpent", "json", "msgpack"])
def test_nested_lists_are_answered_in_every_safe_format(
    proxy: Any, images: Any, reference: Any, serializer: str
) -> None:
    proxy._pyroSerializer = serializer
    answer = proxy.infer(images[3].tolist(), 1000.0)
    assert answer["index"] == reference[answer["variant"]][3].argmax()
    assert set(answer) == set(Answer.__struct_fields__)
    assert answer["within_budget"] is True
    assert proxy.choose(images[3].tolist(), 1000)["variant"] in proxy.describe()["variants"]


@pytest.mark.parametrize("budget", [math.nan, 0, -3.5, True, "8", None, [8]])
def test_a_bad_budget_is_refused_whatever_the_client(proxy: Any, images: Any, budget: Any) -> None:
    with pytest.raises(BudgetError, match="a budget is a "):
        proxy.infer(images[0].tolist(), budget)


def test_a_budget_that_cannot_be_kept_is_refused_whatever_the_client(proxy: Any, images: Any) -> None:
    with pytest.raises(OverBudgetError):
        proxy.infer(images[0].tolist(), INSTANT, "refuse")


@pytest.mark.parametrize(
    "x",
    [
        pytest.param([], id="empty"),
        pytest.param([[1.0, 2.0], [3.0, 4.0]], id="shape"),
        pytest.param("an image", id="text"),
        pytest.param(None, id="nothing"),
        pytest.param({}, id="an empty dictionary"),
        pytest.param({"dtype": "O", "shape": [1], "data": b"12345678"}, id="objects"),
        pytest.param({"dtype": "<f4", "shape": [8, 8, 1], "data": b"1234"}, id="too few bytes"),
        pytest.param([[[math.nan]] * 8] * 8, id="NaN"),
        pytest.param([[["a"]] * 8] * 8, id="letters"),
        pytest.param([[[10**30]] * 8] * 8, id="huge integers"),
        pytest.param([[1.0], [1.0, 2.0]], id="ragged lists"),
    ],
)
@pytest.mark.usefixtures("still_serves")
def test_a_bad_input_is_refused_whatever_the_client(proxy: Any, x: Any) -> None:
    with pytest.raises(InputError):
        proxy.infer(x, FOREVER)


@pytest.mark.usefixtures("still_serves")
def test_wrong_arguments_are_refused(proxy: Any, images: Any) -> None:
    for arguments in ((), (images[0].tolist(),), (1, 2, 3, 4, 5)):
        with pytest.raises(TypeError):
            proxy.infer(*arguments)


# --- strangers ---


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: [x]], ids=["alone", "in a list"])
@pytest.mark.usefixtures("still_serves")
def test_the_service_never_connects_to_where_a_request_points(proxy: Any, wrap: Callable[[Any], Any]) -> None:
    with socket.socket() as elsewhere:
        elsewhere.bind(("127.0.0.1", 0))
        elsewhere.listen()
        elsewhere.settimeout(1)
        target = Proxy(f"PYRO:x@127.0.0.1:{elsewhere.getsockname()[1]}")
        asking = threading.Thread(target=_ask_and_ignore, args=(str(proxy._pyroUri), wrap(target)))
        asking.start()
        try:
            came, _ = elsewhere.accept()
            came.close()
            pytest.fail("the service connected to a URI from a request")
        except TimeoutError:
            pass
        finally:
            asking.join()


def _ask_and_ignore(uri: str, x: Any) -> None:
    with Proxy(uri) as proxy:
        proxy._pyroTimeout = 5
        try:
            proxy.infer(x, FOREVER)
        except Exception:
            return


@pytest.mark.parametrize(
    "name",
    [
        "_selector", "_drain", "_answer", "_request", "__init__", "__class__", "__dict__", "__reduce__",
        "__getattribute__", "__init_subclass__", "__doc__", "serve", "",
    ],
)  # fmt: skip
@pytest.mark.usefixtures("still_serves")
def test_nothing_but_the_public_methods_can_be_called(proxy: Any, name: str) -> None:
    with pytest.raises(AttributeError):
        proxy._pyroInvoke(name, [], {})


@pytest.mark.parametrize("name", ["_selector", "_stopping", "__class__", "infer"])
@pytest.mark.usefixtures("still_serves")
def test_no_attribute_can_be_read_or_written(proxy: Any, name: str) -> None:
    with pytest.raises(AttributeError):
        proxy._pyroInvoke("__getattr__", [name], {})
    with pytest.raises(AttributeError):
        proxy._pyroInvoke("__setattr__", [name, 1], {})


def test_the_public_methods_are_these(proxy: Any) -> None:
    proxy._pyroBind()
    assert proxy._pyroMethods == {"choose", "describe", "infer", "report_latency", "stats"}
    assert not proxy._pyroAttrs


# --- many at once ---


def test_a_client_that_goes_away_during_its_request_harms_no_other(slow_service: Any, images: Any) -> None:
    register_errors()
    rude = Proxy(slow_service.uri)
    rude._pyroBind()
    call = protocol.SendingMessage(protocol.MSG_INVOKE, 0, 0, 1, _serpent_call("infer", images[0].tolist(), FOREVER))
    rude._pyroConnection.send(call.data)
    assert slow_service.line() == "under way"
    rude._pyroConnection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    rude._pyroRelease()
    with connect(slow_service.uri) as selector:
        assert isinstance(selector.infer(images[0], FOREVER), Answer)
        assert _answers_reach(selector, 2)  # the rude one's, too
    status, stderr = slow_service.stop()
    assert (status, stderr) == (0, "")


def _answers_reach(selector: Any, count: int, within_s: float = 20) -> bool:
    """Whether the service comes to have given ``count`` answers: one that nobody waits for ends when it ends."""
    until = time.monotonic() + within_s
    while selector.stats().answers < count and time.monotonic() < until:
        time.sleep(0.05)
    return bool(selector.stats().answers == count)


def _serpent_call(method: str, *arguments: Any) -> bytes:
    from Pyro5.serializers import SerpentSerializer

    data: bytes = SerpentSerializer().dumpsCall("selector", method, arguments, {})
    return data


def test_twenty_clients_at_once_get_the_right_answers(
    serve: Any, finished_zoo: Path, images: Any, reference: Any
) -> None:
    service = serve(finished_zoo, "--port", 0)
    wrong: list[Any] = []
    answered: list[str] = []

    def ask(offset: int) -> None:
        with connect(service.uri) as selector:
            for step in range(20):
                index = (offset * 7 + step) % len(images)
                answer = selector.infer(images[index], FOREVER if step % 2 else INSTANT)
                answered.append(answer.variant)
                if answer.index != reference[answer.variant][index].argmax():
                    wrong.append(answer)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    with connect(service.uri) as selector:
        stats = selector.stats()
    assert stats.answers == len(answered) == 400
    assert stats.chosen == {name: answered.count(name) for name in set(answered)}


def test_connections_that_say_nothing_do_not_keep_the_service_from_ending(serve: Any, finished_zoo: Path) -> None:
    service = serve(finished_zoo, "--port", 0)
    silent = [socket.create_connection(service.address, timeout=5) for _ in range(90)]
    try:
        time.sleep(0.5)
        status, _ = service.stop(within_s=5)
        assert status == 0
    finally:
        for connection in silent:
            connection.close()


# --- its beginning and its end ---


def start(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "serve-zoo", *map(str, arguments)], capture_output=True, text=True, timeout=30, check=False
    )


def test_a_port_in_use_is_said_in_one_line(service_uri: str, finished_zoo: Path) -> None:
    _, port = address(service_uri)
    done = start(finished_zoo, "--port", port)
    assert done.returncode == 1
    assert done.stdout == ""
    assert re.fullmatch(rf"serve-zoo: cannot listen on 127\.0\.0\.1:{port}: .+; choose another --port\n", done.stderr)


def test_a_host_that_is_not_this_one_is_said_in_one_line(finished_zoo: Path) -> None:
    for host in ("nowhere.invalid", "192.0.2.1"):
        done = start(finished_zoo, "--host", host, "--port", 0)
        assert done.returncode == 1
        assert re.fullmatch(rf"serve-zoo: cannot listen on {host}:0: .+\n", done.stderr)


@pytest.mark.parametrize(
    ("options", "status"), [(("--port", "99999"), 2), (("--port", "x"), 2), (("--device", "board-2"), 2)]
)
def test_wrong_usage_is_said_in_one_line(finished_zoo: Path, options: tuple[str, str], status: int) -> None:
    done = start(finished_zoo, *options)
    assert done.returncode == status
    assert re.fullmatch(r"serve-zoo: .+\(see serve-zoo --help\)\n", done.stderr)


def test_what_is_no_zoo_is_not_served(tmp_path: Path) -> None:
    done = start(tmp_path)
    assert done.returncode == 1
    assert re.fullmatch(r"serve-zoo: .+ is not a zoo: it has no zoo\.json\n", done.stderr)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_under_way_is_answered_before_the_service_ends(
    slow_service: Any, images: Any, number: signal.Signals
) -> None:
    answers: list[Answer] = []

    def ask() -> None:
        with connect(slow_service.uri) as selector:
            answers.append(selector.infer(images[0], FOREVER))

    with connect(slow_service.uri) as later:
        asking = threading.Thread(target=ask)
        asking.start()
        assert slow_service.line() == "under way"
        slow_service.process.send_signal(number)
        with pytest.raises(ServiceError, match="the service is stopping"):
            _ask_until_refused(later, images[0])
        asking.join(timeout=10)
        status, stderr = slow_service.stop(number, within_s=5)
    assert len(answers) == 1
    assert (status, stderr) == (0, "")


def _ask_until_refused(selector: Any, image: Any) -> None:
    until = time.monotonic() + 20
    while time.monotonic() < until:
        selector.choose(image, FOREVER)
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_service_ends_at_once(serve: Any, finished_zoo: Path, number: signal.Signals) -> None:
    service = serve(finished_zoo, "--port", 0)
    start = time.monotonic()
    assert service.stop(number) == (0, "")
    assert time.monotonic() - start < 3


def test_clients_that_are_connected_and_idle_do_not_keep_it(serve: Any, finished_zoo: Path, images: Any) -> None:
    service = serve(finished_zoo, "--port", 0)
    idle = [connect(service.uri) for _ in range(20)]
    idle[0].infer(images[0], FOREVER)
    start = time.monotonic()
    assert service.stop() == (0, "")
    assert time.monotonic() - start < 6
    for selector in idle:
        selector.close()


def test_a_port_is_free_again_when_its_service_has_ended(serve: Any, finished_zoo: Path, images: Any) -> None:
    first = serve(finished_zoo, "--port", 0)
    with connect(first.uri) as selector:
        selector.infer(images[0], FOREVER)
        first.stop()
    second = serve(finished_zoo, "--port", first.address[1])
    assert second.uri == first.uri
