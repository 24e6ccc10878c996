"""The link to a board's agent, which outlives single connections."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any, TypeVar

import msgspec

from fleetfoot import __version__
from fleetfoot.console import warn
from fleetfoot.errors import DeviceError, FleetfootError, ServiceError
from profiling.board.connection import Access, Address, AgentConnection
from profiling.board.messages import PROTOCOL, AgentInfo

T = TypeVar("T")

_PATIENCE_SECONDS = 30.0
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 3.0


class LostError(DeviceError):
    """The agent went away, and did not come back."""


class AgentLink:
    """Calls an agent, over a new connection where the last one failed.

    So what is called may be done twice, and all that an agent offers can be.

    Args:
        address: the agent's.
        access: what it wants to see.
        patience_s: how long to try to reach it again.

    Raises:
        DeviceError: no agent answers at first, it does not let us in, or is of another age.
    """

    def __init__(self, address: Address, access: Access, patience_s: float = _PATIENCE_SECONDS) -> None:
        self.address = address
        self._access, self._patience_s = access, patience_s
        self._connection: AgentConnection | None = None
        try:
            self.agent = self._meet()
        except ServiceError as error:
            self.close()
            raise DeviceError(str(error)) from None
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """What the agent answers.

        Raises:
            DeviceError: it refuses, or cannot be reached again.
        """
        until, pause = 0.0, _FIRST_PAUSE_SECONDS
        while True:
            try:
                return self._call_once(method, *arguments)
            except ServiceError as error:
                until = until or time.monotonic() + self._patience_s
                if time.monotonic() + pause > until:
                    raise LostError(f"{error} (tried for {self._patience_s:.0f} s)") from None
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)

    def typed(self, kind: type[T], method: str, *arguments: Any) -> T:
        """What the agent answers, as an object of a type."""
        return self.convert(self.call(method, *arguments), kind)

    def convert(self, answer: Any, kind: type[T]) -> T:
        """Part of an answer as an object of a type.

        Raises:
            DeviceError: it is not of the type.
        """
        try:
            return msgspec.convert(answer, type=kind)
        except msgspec.ValidationError as error:
            raise DeviceError(
                f"what {self.address} answered is no {kind.__name__}: {error} (it runs fleetfoot "
                f"{self.agent.fleetfoot} and this is {__version__}: install the same on both)"
            ) from None

    def call_if_reached(self, method: str, *arguments: Any) -> None:
        """Tells the agent something that it need not hear."""
        with suppress(FleetfootError):
            self._call_once(method, *arguments)

    def close(self) -> None:
        """Ends the connection."""
        if self._connection is not None:
            self._connection.close()
        self._connection = None

    def _call_once(self, method: str, *arguments: Any) -> Any:
        try:
            if self._connection is None:
                self._connection = AgentConnection(self.address, self._access)
            return self._connection.call(method, *arguments)
        except FleetfootError as error:
            if isinstance(error, ServiceError):
                self.close()
            raise
        except BaseException:
            self.close()  # else the answer to this call would be taken for the next one's
            raise

    def _meet(self) -> AgentInfo:
        try:
            agent = msgspec.convert(self._call_once("info"), type=AgentInfo)
        except msgspec.ValidationError:
            raise DeviceError(f"what answers at {self.address} is no agent of this version") from None
        if agent.protocol != PROTOCOL:
            raise DeviceError(
                f"{self.address} runs fleetfoot {agent.fleetfoot}, which speaks otherwise than this one, "
                f"{__version__}: install the same on both"
            )
        if agent.fleetfoot != __version__:
            warn(f"{self.address} runs fleetfoot {agent.fleetfoot}, and this is {__version__}")
        return agent
