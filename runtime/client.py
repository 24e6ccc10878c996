"""The selector from another process: the same calls, the same answers, the same errors."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec
import numpy.typing as npt
from Pyro5 import errors as pyro_errors
from Pyro5.api import Proxy

from fleetfoot.errors import ServiceError
from premodel.policy import Choice, Objective, check_budget
from runtime.answers import Answer, Description, OnMiss, Stats
from runtime.wire import SERIALIZER, pack_array, pack_objective, register_errors

T = TypeVar("T")
_TIMEOUT_SECONDS = 10.0


def connect(uri: str, timeout_s: float = _TIMEOUT_SECONDS) -> RemoteSelector:
    """Connects to a service, such as ``PYRO:selector@127.0.0.1:9090``.

    Raises:
        ServiceError: nothing answers there, or something else does.
    """
    return RemoteSelector(uri, timeout_s)


class RemoteSelector:
    """A selector behind a URI; calls, answers and errors are those of ``runtime.Selector``.

    A connection belongs to the thread that made it. The budget is time on the service: what the way
    there and back takes is the caller's.
    """

    def __init__(self, uri: str, timeout_s: float) -> None:
        register_errors()
        self._uri = uri
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _typed(self, kind: type[T], call: Callable[[], Any]) -> T:
        answer = self._call(call)
        try:
            return msgspec.convert(answer, type=kind)
        except msgspec.ValidationError:
            raise ServiceError(f"what answers at {self._uri} is no selector service of this version") from None

    def _call(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except pyro_errors.TimeoutError:
            raise ServiceError(f"{self._uri} did not answer in time") from None
        except (pyro_errors.CommunicationError, pyro_errors.NamingError, OSError) as error:
            raise ServiceError(
                f"no selector service answers at {self._uri}: {error}; start one with serve-zoo"
            ) from None
        except (pyro_errors.PyroError, AttributeError) as error:
            raise ServiceError(f"what answers at {self._uri} is no selector service: {error}") from None
