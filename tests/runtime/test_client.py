"""The selector from another process: the same calls, the same answers, the same errors."""

from __future__ import annotations

import inspect
import math
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from socketserver import BaseRequestHandler, TCPServer
from typing import Any

import numpy as np
import pytest

from fleetfoot.errors import BudgetError, InputError, OverBudgetError, RequestError, ServiceError
from premodel.policy import Choice
from runtime import Answer, Selector, connect
from runtime.client import RemoteSelector

FOREVER = math.inf
INSTANT = 1e-6


@pytest.fixture
def remote(service_uri: str) -> Iterator[RemoteSelector]:
    with connect(service_uri) as selector:
        yield selector


def public(kind: type) -> set[str]:
    return {name for name, member in inspect.getmembers(kind, inspect.isfunction) if not name.startswith("_")}


# --- the same object ---


def test_the_example_of_the_readme_works_in_process_and_over_the_wire(
    finished_zoo: Path, service_uri: str, digits: Any
) -> None:
    image = digits.x[0]
    for selector in (Selector.open(finished_zoo), connect(service_uri)):
        answer = selector.infer(image, budget_ms=8)
        assert answer.label in digits.classes
        assert answer.variant in selector.describe().variants
        assert answer.latency_ms > 0
        assert answer.within_budget == (answer.latency_ms <= 8)
        assert answer.why
        assert selector.choose(image, budget_ms=8).variant in selector.describe().variants
        selector.close()


def test_answers_over_the_wire_are_those_of_the_variants_files(
    remote: RemoteSelector, images: Any, reference: Any
) -> None:
    for index, image in enumerate(images[:40]):
        answer = remote.infer(image, FOREVER if index % 2 else INSTANT)
        expected = reference[answer.variant][index]
        assert isinstance(answer, Answer)
        assert answer.index == expected.argmax()
        assert answer.confidence == pytest.approx(float(expected.max()), abs=1e-6)
        assert answer.within_budget == bool(index % 2)


def test_a_service_describes_what_a_selector_in_process_would(remote: RemoteSelector, selector: Selector) -> None:
    assert remote.describe() == selector.describe()


def test_a_choice_over_the_wire_is_the_one_in_process(remote: RemoteSelector, selector: Selector, images: Any) -> None:
    there, here = remote.choose(images[0], FOREVER), selector.choose(images[0], FOREVER)
    assert isinstance(there, Choice)
    assert (there.variant, there.p_right, there.fits, there.why) == (here.variant, here.p_right, here.fits, here.why)


def test_a_service_counts_what_it_answered(remote: RemoteSelector, images: Any) -> None:
    before = remote.stats()
    variant = remote.infer(images[0], INSTANT).variant
    with pytest.raises(OverBudgetError):
        remote.infer(images[0], INSTANT, on_miss="refuse")
    after = remote.stats()
    assert after.answers == before.answers + 1
    assert after.late == before.late + 1
    assert after.refused == before.refused + 1
    assert after.chosen[variant] == before.chosen.get(variant, 0) + 1


def test_a_reported_latency_is_learned_from(remote: RemoteSelector, images: Any) -> None:
    expected_ms = remote.choose(images[0], FOREVER).expected_ms
    variant = remote.choose(images[0], FOREVER).variant
    remote.report_latency(variant, 3 * expected_ms)
    assert remote.choose(images[0], FOREVER).expected_ms > expected_ms


def test_local_and_remote_selectors_have_the_same_methods() -> None:
    assert public(RemoteSelector) == public(Selector) - {"open"}


def test_local_and_remote_selectors_take_the_same_arguments() -> None:
    for name in public(RemoteSelector):
        here, there = (inspect.signature(getattr(kind, name)).parameters for kind in (Selector, RemoteSelector))
        assert list(here) == list(there), name


def test_local_and_remote_selectors_can_both_be_used_in_a_with_statement() -> None:
    assert hasattr(RemoteSelector, "__exit__")
    assert hasattr(Selector, "__exit__")


# --- the same errors ---


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(np.zeros((8, 8)), id="shape"),
        pytest.param(np.zeros((8, 8, 1), complex), id="complex"),
        pytest.param(np.zeros((8, 8, 1), bool), id="truth values"),
        pytest.param(np.full((8, 8, 1), "0"), id="strings"),
        pytest.param(np.full((8, 8, 1), np.nan), id="NaN"),
        pytest.param(np.zeros((8, 8, 1), object), id="objects"),
        pytest.param("an image", id="text"),
        pytest.param(None, id="nothing"),
        pytest.param(
            np.full((8, 8, 1), 1e300), id="infinite as float32"
        ),
    ],
)  # fmt: skip
def test_a_bad_input_is_refused_and_the_service_goes_on(remote: RemoteSelector, images: Any, x: Any) -> None:
    with pytest.raises(InputError, match="the input "):
        remote.infer(x, FOREVER)
    assert isinstance(remote.infer(images[0], FOREVER), Answer)


def test_a_refusal_has_the_message_that_it_has_in_process(remote: RemoteSelector, selector: Selector) -> None:
    messages = []
    for ask in (remote, selector):
        with pytest.raises(InputError) as caught:
            ask.infer(np.zeros((3, 2)), FOREVER)
        messages.append(str(caught.value))
    assert messages == ["the input has shape (3, 2), and this zoo takes (8, 8, 1)"] * 2


@pytest.mark.parametrize("budget", [math.nan, 0, -1, -math.inf, True, "8", None])
def test_a_bad_budget_is_refused_before_anything_is_sent(remote: RemoteSelector, images: Any, budget: Any) -> None:
    for ask in (remote.infer, remote.choose):
        with pytest.raises(BudgetError):
            ask(images[0], budget)


def test_other_bad_requests_are_refused_by_name(remote: RemoteSelector, images: Any) -> None:
    with pytest.raises(OverBudgetError, match="no variant keeps 1e-06 ms"):
        remote.choose(images[0], INSTANT, on_miss="refuse")
    with pytest.raises(RequestError, match="on_miss is 'serve' or 'refuse'"):
        remote.infer(images[0], FOREVER, on_miss="skip")  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="no variant 'base'"):
        remote.report_latency("base", 1.0)
    with pytest.raises(RequestError):
        remote.report_latency(next(iter(remote.describe().variants)), math.nan)


# --- nothing there, or something else ---


@pytest.mark.parametrize(
    "uri", ["", "selector", "http://127.0.0.1:80", "PYRO:selector@127.0.0.1:port", "PYRO:@", "PYRO:selector"]
)
def test_what_is_no_uri_is_refused_with_an_example(uri: str) -> None:
    with pytest.raises(ServiceError, match=r"PYRO:selector@127\.0\.0\.1:9090|no selector service answers at"):
        connect(uri)


def test_connecting_to_nothing_fails_at_once_and_says_what_to_run() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        start = time.monotonic()
        with pytest.raises(ServiceError, match="start one with serve-zoo"):
            connect(f"PYRO:selector@127.0.0.1:{bound.getsockname()[1]}")
        assert time.monotonic() - start < 2


def test_a_host_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ServiceError, match="no selector service answers at"):
        connect("PYRO:selector@nowhere.invalid:9090")


def test_another_object_than_a_selector_is_refused(service_uri: str) -> None:
    with pytest.raises(ServiceError, match="unknown object"):
        connect(service_uri.replace("selector@", "another@"))


def test_a_listener_that_never_answers_times_out() -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        start = time.monotonic()
        with pytest.raises(ServiceError, match="did not answer in time"):
            connect(f"PYRO:selector@127.0.0.1:{silent.getsockname()[1]}", timeout_s=0.3)
        assert time.monotonic() - start < 2


class Greeting(BaseRequestHandler):
    """Greets as mail servers do."""

    def handle(self) -> None:
        self.request.sendall(b"220 mail.example.com ESMTP, and not the service that you are looking for\r\n")


def test_a_server_that_speaks_otherwise_is_no_selector_service() -> None:
    with TCPServer(("127.0.0.1", 0), Greeting) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        with pytest.raises(ServiceError, match="no selector service answers at"):
            connect(f"PYRO:selector@127.0.0.1:{server.server_address[1]}", timeout_s=5)
        thread.join()


# --- connections that end ---


def test_a_request_that_takes_too_long_is_given_up_and_the_next_one_served(slow_service: Any, images: Any) -> None:
    with connect(slow_service.uri, timeout_s=0.3) as selector:
        with pytest.raises(ServiceError, match="did not answer in time"):
            selector.infer(images[0], FOREVER)
        assert selector.choose(images[0], FOREVER).fits


def test_a_client_finds_a_service_that_was_started_again(serve: Any, finished_zoo: Path, images: Any) -> None:
    first = serve(finished_zoo, "--port", 0)
    with connect(first.uri) as selector:
        selector.infer(images[0], FOREVER)
        first.stop()
        with pytest.raises(ServiceError, match="start one with serve-zoo"):
            selector.infer(images[0], FOREVER)
        serve(finished_zoo, "--port", first.address[1])
        assert isinstance(selector.infer(images[0], FOREVER), Answer)


def test_a_connection_belongs_to_the_thread_that_made_it(remote: RemoteSelector, images: Any) -> None:
    caught: list[BaseException] = []

    def ask() -> None:
        try:
            remote.infer(images[0], FOREVER)
        except ServiceError as error:
            caught.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    (error,) = caught
    assert "thread" in str(error)


def test_closing_twice_is_closing(service_uri: str) -> None:
    selector = connect(service_uri)
    selector.close()
    selector.close()
