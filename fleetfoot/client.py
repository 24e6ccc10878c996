"""What clients of services share: connections, answers of known types, errors of one line."""

from __future__ import annotations

import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import TracebackType
from typing import Any, ClassVar, Self, TypeVar

import msgspec
from Pyro5 import errors as pyro_errors
from Pyro5 import protocol, serializers, socketutil
from Pyro5.api import Proxy

from fleetfoot.errors import ServiceError
from fleetfoot.wire import SERIALIZER

T = TypeVar("T")


class Client(ABC):
    """The calling side of a service; subclasses add its methods.

    Args:
        uri: of the service, for errors.

    Attributes:
        SERVICE: what the service is called.
        COMMAND: what starts one.
    """

    SERVICE: ClassVar[str]
    COMMAND: ClassVar[str]

    def __init__(self, uri: str) -> None:
        self._uri = uri

    @abstractmethod
    def close(self) -> None:
        """Ends the connection."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _typed(self, kind: type[T], call: Callable[[], Any]) -> T:
        """What a call answers, as an object of a type.

        Raises:
            ServiceError: nothing answers, or not in this form.
        """
        answer = self._call(call)
        try:
            return msgspec.convert(answer, type=kind)
        except msgspec.ValidationError:
            raise ServiceError(f"what answers at {self._uri} is no {self.SERVICE} of this version") from None

    def _call(self, call: Callable[[], Any]) -> Any:
        try:
            return call()
        except pyro_errors.TimeoutError:
            raise ServiceError(f"{self._uri} did not answer in time") from None
        except (pyro_errors.CommunicationError, pyro_errors.NamingError, OSError) as error:
            reason = getattr(error, "strerror", None) or error
            raise ServiceError(
                f"no {self.SERVICE} answers at {self._uri}: {reason}; start one with {self.COMMAND}"
            ) from None
        except (pyro_errors.PyroError, AttributeError) as error:
            raise ServiceError(f"what answers at {self._uri} is no {self.SERVICE}: {error}") from None


def open_proxy(sock: socket.socket, object_id: str, hello: Any) -> Proxy:
    """Says hello on a connected socket, and returns a proxy that speaks through it and leaves closing it to the caller.

    Pyro5 connects by itself only with TLS settings that are the whole process's.

    Raises:
        Pyro5.errors.SecurityError: the other side refused, for the reason that it gave.
        Pyro5.errors.CommunicationError: it went away, or speaks otherwise.
    """
    connection = socketutil.SocketConnection(sock, object_id, keep_open=True)
    serializer = serializers.serializers[SERIALIZER]
    data = serializer.dumps({"handshake": hello, "object": object_id})
    message = protocol.SendingMessage(protocol.MSG_CONNECT, 0, 0, serializer.serializer_id, data)
    connection.send(message.data)
    reply = protocol.recv_stub(connection, [protocol.MSG_CONNECTOK, protocol.MSG_CONNECTFAIL])
    if reply.type == protocol.MSG_CONNECTFAIL:
        raise pyro_errors.SecurityError(str(serializer.loads(reply.data)))
    proxy = Proxy(object_id, connected_socket=sock)
    proxy._pyroSerializer = SERIALIZER
    return proxy


def encrypted(sock: socket.socket, host: str, tls: ssl.SSLContext | None) -> socket.socket:
    """A connected socket with TLS around it, the other side's certificate checked against ``host``."""
    return tls.wrap_socket(sock, server_hostname=host) if tls else sock
