"""The selector as a Pyro5 service."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from Pyro5.api import expose

from fleetfoot.daemon import SafeDaemon
from fleetfoot.errors import ServiceError
from fleetfoot.wire import unpack_array
from runtime.answers import OnMiss
from runtime.selector import Selector
from runtime.wire import unpack_objective

OBJECT_ID = "selector"
_DRAIN_SECONDS = 10.0
_REPLY_SECONDS = 0.2


@expose
class SelectorService:
    """What clients may call; arrays and answers travel as ``fleetfoot.wire`` has it."""

    def __init__(self, selector: Selector) -> None:
        self._selector = selector
        self._idle = threading.Condition()
        self._under_way = 0
        self._stopping = False

    def describe(self) -> dict[str, Any]:
        """What is served."""
        return self._answer(lambda: self._selector.describe())

    def choose(self, x: Any, budget_ms: float, on_miss: OnMiss = "serve", objective: Any = None) -> dict[str, Any]:
        """The variant to run, as ``Selector.choose`` says."""
        return self._answer(
            lambda: self._selector.choose(
                unpack_array(x), budget_ms, on_miss=on_miss, objective=unpack_objective(objective)
            )
        )

    def infer(self, x: Any, budget_ms: float, on_miss: OnMiss = "serve", objective: Any = None) -> dict[str, Any]:
        """The answer, as ``Selector.infer`` says."""
        return self._answer(
            lambda: self._selector.infer(
                unpack_array(x), budget_ms, on_miss=on_miss, objective=unpack_objective(objective)
            )
        )

    def report_latency(self, variant: str, ms: float) -> None:
        """What a run in the app took."""
        with self._request():
            self._selector.report_latency(variant, ms)

    def stats(self) -> dict[str, Any]:
        """What happened since the start."""
        return self._answer(lambda: self._selector.stats())

    def _answer(self, call: Callable[[], Any]) -> dict[str, Any]:
        with self._request():
            answer: dict[str, Any] = msgspec.to_builtins(call())
        return answer

    @contextmanager
    def _request(self) -> Iterator[None]:
        """Counts a request as under way; refuses it when the service is stopping."""
        with self._idle:
            if self._stopping:
                raise ServiceError("the service is stopping")
            self._under_way += 1
        try:
            yield
        finally:
            with self._idle:
                self._under_way -= 1
                self._idle.notify_all()

    def _drain(self) -> None:
        """Refuses new requests and waits until those under way are answered."""
        with self._idle:
            self._stopping = True
            self._idle.wait_for(lambda: self._under_way == 0, timeout=_DRAIN_SECONDS)
        time.sleep(_REPLY_SECONDS)  # Pyro5 sends a reply after the call has returned


def serve(selector: Selector, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; then requests under way are finished, and it returns.

    Args:
        selector: what to serve.
        host: the address to listen on.
        port: the port, or 0 for any.
        ready: called with the service's URI once it answers.

    Raises:
        UsageError: no address, which would mean all of them.
        ServiceError: the address cannot be listened on.
    """
    service = SelectorService(selector)
    with SafeDaemon(host, port) as daemon:
        uri = daemon.register(service, OBJECT_ID)
        daemon.serve(lambda: ready(str(uri)))
        service._drain()
