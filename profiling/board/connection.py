"""The connection to a board's agent."""

from __future__ import annotations

import re
import socket
import ssl
from contextlib import suppress
from typing import Any, NamedTuple

from Pyro5 import errors as pyro_errors

from fleetfoot.client import Client, encrypted, open_proxy
from fleetfoot.errors import DeviceError, FleetfootError, ServiceError, first_line
from fleetfoot.wire import register_errors
from profiling.board.access import REFUSED, is_loopback
from profiling.board.messages import OBJECT_ID
from profiling.board.nameserver import DEFAULT_PORT, look_up

_CONNECT_SECONDS = 5.0
_CALL_SECONDS = 30.0


class Address(NamedTuple):
    """Where an agent is: its host and port, or its name and the name server's."""

    name: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """Takes ``HOST:PORT`` and ``NAME@HOST[:PORT]`` apart.

        Raises:
            DeviceError: it is neither.
        """
        name, at, place = text.rpartition("@")
        host, port = split_host(place)
        if not host or bool(at) != bool(name) or not (port or name):
            raise DeviceError(f"pyro:{text} is no agent's address: pyro:HOST:PORT and pyro:NAME@HOST are")
        return cls(name, host, port or DEFAULT_PORT)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"pyro:{self.name}@{host}:{self.port}" if self.name else f"pyro:{host}:{self.port}"


def split_host(text: str) -> tuple[str, int]:
    """Host and port of ``HOST``, ``HOST:PORT`` or ``[ADDRESS]:PORT``; no port is 0, no host an empty one."""
    found = re.fullmatch(r"(?:\[([0-9a-fA-F:.%\w]+)\]|([^\s:@/\[\]]+))(?::(\d{1,5}))?", text)
    if not found or int(found[3] or 0) > 65535:
        return "", 0
    return found[1] or found[2], int(found[3] or 0)


class Access(NamedTuple):
    """What an agent wants to see of a client."""

    token: str
    tls: ssl.SSLContext | None = None
    insecure: bool = False


class AgentConnection(Client):
    """One connection to an agent; when it fails, another is to be made.

    Raises:
        ServiceError: no agent answers there now; it may be worth trying again.
        DeviceError: one does, and does not let us in, or is not who it should be.
    """

    SERVICE = "agent"
    COMMAND = "serve-device"

    def __init__(self, address: Address, access: Access) -> None:
        super().__init__(str(address))
        register_errors()
        self._access = access
        self._socket: socket.socket | None = None
        try:
            self._proxy = self._call(lambda: self._connect(address))
        except BaseException:
            self.close()
            raise

    def call(self, method: str, *arguments: Any) -> Any:
        """What the agent answers.

        Raises:
            ServiceError: the connection failed.
            FleetfootError: the agent refused, for the reason in it.
        """
        try:
            self._proxy._pyroClaimOwnership()
            return self._call(lambda: getattr(self._proxy, method)(*arguments))
        except FleetfootError:
            raise
        except Exception as error:  # whatever went wrong there, by its name
            raise DeviceError(f"{self._uri} failed: {type(error).__name__}: {first_line(error)}") from None

    def close(self) -> None:
        """Ends the connection."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.close()

    def _connect(self, address: Address) -> Any:
        tls, where = self._access.tls, (address.host, address.port)
        if address.name:
            where = look_up(address.name, *where)
        if tls is None and not self._access.insecure and not is_loopback(where[0]):
            raise DeviceError(
                f"{self._uri} is another machine, which would be told the token in clear: give --authority, "
                "--certificate and --key for TLS, or say --insecure on a network where everybody is trusted"
            )
        self._socket = socket.create_connection(where, _CONNECT_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            self._socket = encrypted(self._socket, where[0], tls)
            proxy = open_proxy(self._socket, OBJECT_ID, {"token": self._access.token})
        except ssl.SSLCertVerificationError as error:
            raise DeviceError(
                f"{self._uri} is not who it should be: {error.verify_message}; is the authority the agent's?"
            ) from None
        except ssl.SSLError as error:
            if "WRONG_VERSION_NUMBER" in str(error):
                raise DeviceError(
                    f"{self._uri} does not speak TLS: start it with a certificate, or leave --authority away"
                ) from None
            raise
        except pyro_errors.SecurityError as error:
            raise self._refusal(error) from None
        except pyro_errors.ConnectionClosedError as error:
            raise self._hung_up(error) from None
        self._socket.settimeout(_CALL_SECONDS)
        return proxy

    def _refusal(self, error: Exception) -> FleetfootError:
        if first_line(error).startswith(REFUSED):
            return DeviceError(f"the agent {first_line(error)} ({self._uri}): set FLEETFOOT_TOKEN to what it told")
        return ServiceError(f"what answers at {self._uri} is no agent: {first_line(error)}")

    def _hung_up(self, error: Exception) -> FleetfootError:
        if self._access.tls is not None and "alert" in str(error).lower():
            return DeviceError(
                f"{self._uri} does not accept this client's certificate: give one, and its key, that the agent's "
                "authority signed"
            )
        hint = (
            "does it ask for TLS?" if self._access.tls is None else "does it offer TLS, to this client's certificate?"
        )
        return ServiceError(f"{self._uri} hung up before it said anything: is it an agent, and {hint}")
