"""Who may speak with a board's agent: its token, and TLS with client certificates."""

from __future__ import annotations

import hmac
import ipaddress
import os
import secrets
import socket
import ssl
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from Pyro5.errors import SecurityError

from fleetfoot.errors import UsageError
from fleetfoot.folders import config_directory

TOKEN_VARIABLE = "FLEETFOOT_TOKEN"  # noqa: S105 (a name)
REFUSED = "refused the token"
_SHORTEST_TOKEN = 16
_PRIVATE = 0o600


class Token(NamedTuple):
    """What clients must know, and where it is kept; ``new`` if it was made just now."""

    text: str
    kept: str
    new: bool = False


def agent_token(file: Path | None, environment: Mapping[str, str] = os.environ) -> Token:
    """The token in a file, or else in the environment, or else the one that the agent once made for itself.

    Raises:
        UsageError: the file cannot be read, or the token is too short to keep anybody out.
    """
    if file is not None:
        return Token(_checked(read_token(file), str(file)), str(file))
    if TOKEN_VARIABLE in environment:
        return Token(_checked(environment[TOKEN_VARIABLE].strip(), TOKEN_VARIABLE), f"this {TOKEN_VARIABLE}")
    own = config_directory() / "agent-token"
    if own.exists():
        return Token(_checked(read_token(own), str(own)), str(own))
    return Token(_made(own), str(own), new=True)


def read_token(file: Path) -> str:
    """The token in a file.

    Raises:
        UsageError: the file cannot be read, or is empty.
    """
    try:
        if token := file.read_text().strip():
            return token
        raise UsageError(f"the token file {file} is empty")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"the token file {file} cannot be read: {getattr(error, 'strerror', error)}") from None


def _checked(text: str, where: str) -> str:
    if len(text) < _SHORTEST_TOKEN:
        raise UsageError(f"the token in {where} is short: make one of at least {_SHORTEST_TOKEN} random characters")
    return text


def _made(file: Path) -> str:
    text = secrets.token_urlsafe(32)
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE), "w") as opened:
        opened.write(text + "\n")
    return text


def admit_with(token: str) -> Callable[[Any], None]:
    """What lets in who says the token, and nobody else."""

    def admit(hello: Any) -> None:
        said = hello.get("token") if isinstance(hello, dict) else None
        if not isinstance(said, str) or not hmac.compare_digest(said.encode(), token.encode()):
            raise SecurityError(f"{REFUSED}: it is not the agent's")

    return admit


def server_tls(certificate: Path | None, key: Path | None, authority: Path | None) -> ssl.SSLContext | None:
    """What an agent encrypts with, asking clients for certificates that ``authority`` signed; None without any.

    Raises:
        UsageError: some are missing or cannot be read.
    """
    if certificate is None and key is None and authority is None:
        return None
    if certificate is None or key is None or authority is None:
        raise UsageError("TLS takes all of --certificate, --key and --authority")
    context = _context(ssl.Purpose.CLIENT_AUTH, certificate, key, authority)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_tls(certificate: Path | None, key: Path | None, authority: Path | None) -> ssl.SSLContext | None:
    """What a client encrypts with; the agent's certificate must be of its host and signed by ``authority``.

    Raises:
        UsageError: a certificate without its key, or files that cannot be read.
    """
    if (certificate is None) != (key is None):
        raise UsageError("a client's certificate and its key belong together: give both")
    if certificate is None and authority is None:
        return None
    return _context(ssl.Purpose.SERVER_AUTH, certificate, key, authority)


def _context(purpose: ssl.Purpose, certificate: Path | None, key: Path | None,
             authority: Path | None) -> ssl.SSLContext:  # fmt: skip
    for file in filter(None, (certificate, key, authority)):
        if not os.access(file, os.R_OK):
            raise UsageError(f"{file} cannot be read, and TLS needs it")
    try:
        context = ssl.create_default_context(purpose, cafile=authority)
        if certificate is not None:
            context.load_cert_chain(certificate, key, password="")  # which asks nobody for one
    except (ssl.SSLError, OSError, ValueError) as error:
        raise UsageError(f"the certificates cannot be used: {error.args[-1]}; PEM files without password can") from None
    return context


def check_reach(host: str, tls: ssl.SSLContext | None, *, insecure: bool) -> None:
    """Refuses to be reached from other machines without TLS, unless that is wanted.

    Raises:
        UsageError: it is so, and ``insecure`` is not said.
    """
    if tls is None and not insecure and not is_loopback(host):
        raise UsageError(
            f"{host} can be reached from other machines: give --certificate, --key and --authority for TLS, "
            "or say --insecure on a network where everybody is trusted"
        )


def is_loopback(host: str) -> bool:
    """Whether an address is this machine's own, reached by no other."""
    try:
        found = {str(address[4][0]).partition("%")[0] for address in socket.getaddrinfo(host, None)}
    except OSError:
        return True  # which cannot be listened on, and listening says so better
    return bool(host) and all(ipaddress.ip_address(address).is_loopback for address in found)
