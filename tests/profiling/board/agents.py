"""Agents in processes of their own, for tests; models for them, and certificates."""

from __future__ import annotations

import datetime
import ipaddress
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from profiling.board.remote import RemoteDevice
from profiling.device import DeviceOptions
from profiling.operators.operator import Operator, Tensor
from profiling.operators.single import SIGNATURE, synthesize
from profiling.profile import Target
from profiling.statistics import Effort

TOKEN = "a token that only tests know"
QUICK = Effort(min_runs=20, max_runs=100, max_seconds=0.3)
ENDLESS = Effort(min_runs=10**9, max_runs=10**9, max_seconds=1e9)
COMMAND = "import sys; from profiling.commands import serve_device; sys.argv[0] = 'serve-device'; serve_device()"
IMPATIENT = """
import sys
from pathlib import Path
from profiling.board.agent import AgentOptions, serve
serve(AgentOptions(token=sys.argv[1], cache=Path(sys.argv[2]), patience_s=2.0), lambda uri: print(uri, flush=True))
"""


class Agent:
    """An agent in a process of its own; ``uri`` is the line that it printed when it was ready."""

    def __init__(self, *arguments: object, program: str = COMMAND, token: str = TOKEN) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"FLEETFOOT_TOKEN": token},
        )  # fmt: skip
        assert self.process.stdout is not None
        self.uri = self.process.stdout.readline().strip()
        if not self.uri:
            raise AssertionError(self.process.communicate()[1])

    @property
    def port(self) -> int:
        return int(self.uri.rpartition(":")[2])

    def connect(self, token: str = TOKEN, *, insecure: bool = False) -> RemoteDevice:
        return RemoteDevice.connect(self.uri.removeprefix("pyro:"), DeviceOptions(token=token, insecure=insecure))

    def children(self) -> list[int]:
        """The processes that it started, and those that it did not wait for."""
        return children_of(self.process.pid)

    def stop(self, number: signal.Signals = signal.SIGTERM, within_s: float = 10) -> tuple[int, str]:
        """Sends a signal, and returns the exit status and what was written to standard error."""
        self.process.send_signal(number)
        _, stderr = self.process.communicate(timeout=within_s)
        return self.process.returncode, stderr

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.communicate()


def children_of(process: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == process:
            found.append(int(stat.parent.name))
    return found


def comes_true(check: Callable[[], bool], within_s: float = 20) -> bool:
    """Whether something comes to hold."""
    until = time.monotonic() + within_s
    while not (held := check()) and time.monotonic() < until:
        time.sleep(0.05)
    return held


def dense_model(path: Path, inputs: int = 64, outputs: int = 10) -> Target:
    """A model of one fully connected layer: its file has a little more than 4·inputs·outputs bytes."""
    weights = Tensor((outputs, inputs), constant=True)
    layer = Operator(
        "FULLY_CONNECTED",
        (Tensor((1, inputs)), weights, Tensor((outputs,), constant=True)),
        (Tensor((1, outputs)),),
    )
    synthesize(layer, path)
    return Target(path.stem, path, SIGNATURE)


class Signed(NamedTuple):
    """A certificate with its key, as files and as objects."""

    certificate: Path
    key: Path
    made: x509.Certificate
    secret: ec.EllipticCurvePrivateKey


def make_certificate(directory: Path, name: str, issuer: Signed | None = None, host: str = "127.0.0.1") -> Signed:
    """A certificate for a host, or of an authority where nobody else signs it."""
    secret = ec.generate_private_key(ec.SECP256R1())
    signer = issuer.secret if issuer else secret
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    usage = x509.KeyUsage(True, False, False, False, False, issuer is None, issuer is None, False, False)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.made.subject if issuer else subject)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(secret.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(host))]), critical=False)
        .sign(signer, hashes.SHA256())
    )
    certificate, key = directory / f"{name}.pem", directory / f"{name}.key"
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(
        secret.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return Signed(certificate, key, made, secret)
