"""Pyro's name server: where an agent can be found under a name."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from Pyro5 import errors as pyro_errors
from Pyro5.api import URI, Proxy

from fleetfoot.errors import FleetfootError, ServiceError
from profiling.board.messages import OBJECT_ID

DEFAULT_PORT = 9090
_SECONDS = 5.0
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 (to recognise them)


def look_up(name: str, host: str, port: int) -> tuple[str, int]:
    """The host and port of the agent that is registered under a name.

    Raises:
        ServiceError: no name server answers, or none is registered so.
    """
    with _name_server(host, port) as server:
        uri = server.lookup(name)
    if not isinstance(uri, URI) or uri.protocol != "PYRO" or not uri.port:
        raise ServiceError(f"what the name server at {host}:{port} calls {name!r} is no agent: {uri}")
    return uri.host, uri.port


@contextmanager
def registered(name: str, host: str, port: int, listening: tuple[str, int]) -> Iterator[None]:
    """Registers an agent under a name while the block lasts.

    Args:
        name: instead of whoever has it.
        host: the name server's.
        port: the name server's.
        listening: where the agent listens; of all addresses, the one that faces the name server is told.

    Raises:
        ServiceError: no name server answers.
    """
    own = listening[0] if listening[0] not in _WILDCARDS else _facing(host, port)
    uri = f"PYRO:{OBJECT_ID}@{_bracketed(own)}:{listening[1]}"
    with _name_server(host, port) as server:
        server.register(name, uri)
    try:
        yield
    finally:
        with suppress(FleetfootError), _name_server(host, port) as server:
            if str(server.lookup(name)) == uri:  # and not another agent's by now
                server.remove(name)


@contextmanager
def _name_server(host: str, port: int) -> Iterator[Any]:
    where = f"{_bracketed(host)}:{port}"
    try:
        with Proxy(f"PYRO:Pyro.NameServer@{where}") as server:
            server._pyroTimeout = _SECONDS
            yield server
    except pyro_errors.NamingError as error:
        raise ServiceError(f"the name server at {where} says: {error}") from None
    except (pyro_errors.PyroError, OSError, AttributeError) as error:
        raise ServiceError(f"no name server answers at {where}: {error}; start one with pyro5-ns") from None


def _facing(host: str, port: int) -> str:
    """This machine's address as seen from a host."""
    try:
        with socket.create_connection((host, port), _SECONDS) as connection:
            return str(connection.getsockname()[0])
    except OSError as error:
        raise ServiceError(f"no name server answers at {host}:{port}: {error}; start one with pyro5-ns") from None


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host
