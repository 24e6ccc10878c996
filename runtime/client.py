"""The selector from another process: the same calls, the same answers, the same errors."""

from __future__ import annotations

import numpy.typing as npt
from Pyro5 import errors as pyro_errors
from Pyro5.api import Proxy

from fleetfoot.client import Client
from fleetfoot.errors import ServiceError
from fleetfoot.wire import SERIALIZER, pack_array, register_errors
from premodel.policy import Choice, Objective, check_budget
from runtime.answers import Answer, Description, OnMiss, Stats
from runtime.wire import pack_objective

_TIMEOUT_SECONDS = 10.0


def connect(uri: str, timeout_s: float = _TIMEOUT_SECONDS) -> RemoteSelector:
    """Connects to a service, such as ``PYRO:selector@127.0.0.1:9090``.

    Raises:
        ServiceError: nothing answers there, or something else does.
    """
    return RemoteSelector(uri, timeout_s)


class RemoteSelector(Client):
    """A selector behind a URI; calls, answers and errors are those of ``runtime.Selector``.

    A connection belongs to the thread that made it. The budget is time on the service: what the way
    there and back takes is the caller's.
    """

    SERVICE = "selector service"
    COMMAND = "serve-zoo"

    def __init__(self, uri: str, timeout_s: float) -> None:
        super().__init__(uri)
        register_errors()
        try:
            self._proxy = Proxy(uri)
            self._proxy._pyroSerializer = SERIALIZER
            self._proxy._pyroTimeout = timeout_s
        except pyro_errors.PyroError as error:
            raise ServiceError(f"{uri!r} is no service URI, such as PYRO:selector@127.0.0.1:9090: {error}") from None
        self._call(self._proxy._pyroBind)

    def describe(self) -> Description:
        """What is served."""
        return self._typed(Description, lambda: self._proxy.describe())

    def choose(
        self, x: npt.ArrayLike, budget_ms: float, *, objective: Objective | None = None, on_miss: OnMiss = "serve"
    ) -> Choice:
        """The variant to run for a raw input within a budget, without running it."""
        budget_ms = check_budget(budget_ms)
        return self._typed(
            Choice, lambda: self._proxy.choose(pack_array(x), budget_ms, on_miss, pack_objective(objective))
        )

    def infer(
        self, x: npt.ArrayLike, budget_ms: float, *, objective: Objective | None = None, on_miss: OnMiss = "serve"
    ) -> Answer:
        """Chooses a variant for a raw input and runs it there."""
        budget_ms = check_budget(budget_ms)
        return self._typed(
            Answer, lambda: self._proxy.infer(pack_array(x), budget_ms, on_miss, pack_objective(objective))
        )

    def report_latency(self, variant: str, ms: float) -> None:
        """Tells the service what a run of a variant took in this app."""
        self._call(lambda: self._proxy.report_latency(variant, ms))

    def stats(self) -> Stats:
        """What happened since the service started."""
        return self._typed(Stats, lambda: self._proxy.stats())

    def close(self) -> None:
        """Ends the connection."""
        self._proxy._pyroRelease()
