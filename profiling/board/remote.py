"""A board that is reached through its agent."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt

from fleetfoot.console import note, progress, warn
from fleetfoot.errors import DeviceError
from fleetfoot.files import sha256
from fleetfoot.wire import pack_array, unpack_array
from profiling.board.access import TOKEN_VARIABLE, client_tls
from profiling.board.connection import Access, Address
from profiling.board.link import AgentLink, LostError
from profiling.board.messages import (
    CHUNK_BYTES,
    MOST_INPUT_BYTES,
    POLL_SECONDS,
    Answering,
    JobState,
    Measuring,
    SentTarget,
    Started,
    Tabulating,
    Work,
)
from profiling.board.modelstore import is_litert
from profiling.device import DeviceOptions
from profiling.profile import Conditions, DeviceInfo, Profile, Target
from profiling.statistics import Effort

if TYPE_CHECKING:
    from profiling.operators.table import OperatorTable

_ATTEMPTS = 3
_BLOCK_INPUTS = 256
_BLOCK_BYTES = 4 << 20

Files = Mapping[str, Path]


class Answers(NamedTuple):
    """What a model answered on a board.

    Attributes:
        outputs: of shape (n, classes).
        latencies_ms: of each input on the board, as the model's process sees it.
    """

    outputs: npt.NDArray[np.float32]
    latencies_ms: npt.NDArray[np.float64]


class RemoteDevice:
    """A board with an agent; calls outlive a broken connection, and that the agent is started again."""

    def __init__(self, link: AgentLink) -> None:
        self._link = link
        self._info = link.convert(link.agent.device, DeviceInfo)

    @classmethod
    def connect(cls, address: str, options: DeviceOptions) -> RemoteDevice:
        """Connects to the agent at ``HOST:PORT`` or ``NAME@HOST[:PORT]``.

        Raises:
            DeviceError: no agent answers there, or it does not let us in.
            UsageError: certificates that cannot be used.
        """
        parsed = Address.parse(address)
        token = options.token or os.environ.get(TOKEN_VARIABLE)
        if not token:
            raise DeviceError(f"{parsed} asks for a token: set {TOKEN_VARIABLE} to what serve-device told")
        tls = client_tls(options.certificate, options.key, options.authority)
        return cls(AgentLink(parsed, Access(token, tls, options.insecure)))

    def info(self) -> DeviceInfo:
        """The board's hardware, as it told."""
        return self._info

    def measure(
        self,
        targets: Sequence[Target],
        *,
        conditions: Conditions = Conditions(),  # noqa: B008 (frozen)
        effort: Effort = Effort(),  # noqa: B008 (frozen)
        operators: bool = False,
    ) -> Profile:
        """Measures the targets on the board, sending it the files that it does not have."""
        sent, failures = self._send_all(targets)
        work = Measuring(
            targets=tuple(target for target, _ in sent), conditions=conditions, effort=effort, operators=operators
        )
        files = {target.sha256: path for target, path in sent}
        state = self._run(work, files, title=f"measuring at {self._link.address}")
        profile = self._link.convert(state.profile, Profile)
        measurements = profile.measurements
        if targets and targets[0].name in failures:  # it is what ratios are to
            measurements = {name: msgspec.structs.replace(one, relative=None) for name, one in measurements.items()}
        return msgspec.structs.replace(profile, measurements=measurements, failures=failures | profile.failures)

    def answer(self, target: Target, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Runs a target on the board on inputs of shape (n, …); returns its outputs, of shape (n, classes)."""
        return self.infer(target, x).outputs

    def infer(self, target: Target, x: npt.NDArray[Any]) -> Answers:
        """Runs a target on the board on inputs of shape (n, …), and tells what each took there.

        Raises:
            DeviceError: the target cannot be run there, or the board went away.
        """
        sent = _identified(target)
        work, files = Answering(target=sent), {sent.sha256: target.path}
        outputs: list[npt.NDArray[np.float32]] = []
        latencies_ms: list[float] = []
        self._send(target.path, sent.sha256)
        with progress(f"answering at {self._link.address}", len(x)) as advance:
            for block in _blocks(x):
                state = self._run(work, files, pack_array(block))
                outputs.append(unpack_array(state.outputs))
                latencies_ms += state.latencies_ms
                advance(len(block))
        return Answers(np.concatenate(outputs), np.array(latencies_ms))

    def operator_table(self, conditions: Conditions) -> OperatorTable:
        """The times of single operators on the board, which keeps them."""
        from profiling.operators.table import OperatorTable

        state = self._run(Tabulating(conditions=conditions), {}, title=f"measuring operators at {self._link.address}")
        return self._link.convert(state.table, OperatorTable)

    def close(self) -> None:
        """Ends the connection; the agent keeps the files, so that they need not be sent again."""
        self._link.close()

    def _run(self, work: Work, files: Files, packed: Any = None, title: str = "") -> JobState:
        """Has a job done, once more where the agent forgot it."""
        for attempt in range(_ATTEMPTS):
            if attempt == 1:
                warn(f"{self._link.address} lost the job, as when it is started again: the job starts anew")
            job_id = self._start(work, files, packed)
            try:
                with progress(title, None) if title else nullcontext():
                    state = self._wait(job_id)
            finally:  # it may have ended by Ctrl-C, too
                self._link.call_if_reached("cancel", job_id)
            if state.error:
                raise DeviceError(state.error)
            if state.state == "done":
                return state
        raise DeviceError(f"{self._link.address} lost the job {_ATTEMPTS} times: see what it says there")

    def _start(self, work: Work, files: Files, packed: Any) -> str:
        for _ in range(_ATTEMPTS):
            started = self._link.typed(Started, "start", msgspec.to_builtins(work), packed)
            if not started.missing:
                return started.id
            for file_hash in started.missing:
                self._send(files[file_hash], file_hash, shown=False)
        raise DeviceError(f"{self._link.address} has no room for all models at once: give it a larger --max-bytes")

    def _wait(self, job_id: str) -> JobState:
        """What came of a job; where the agent does not know it, that."""
        told = False
        while True:
            state = self._link.typed(JobState, "result", job_id, POLL_SECONDS)
            if state.state in ("done", "unknown"):
                return state
            if state.state == "waiting" and not told:
                note(f"{self._link.address} has {state.ahead} other jobs to do before this one")
                told = True

    def _send_all(self, targets: Sequence[Target]) -> tuple[list[tuple[SentTarget, Path]], dict[str, str]]:
        """Sends the targets' files; returns those that are there now, and why others are not."""
        sent: list[tuple[SentTarget, Path]] = []
        failures: dict[str, str] = {}
        for target in targets:
            try:
                identified = _identified(target)
                if identified.sha256 not in {one.sha256 for one, _ in sent}:
                    self._send(target.path, identified.sha256)
                sent.append((identified, target.path))
            except _UnsendableError as error:
                failures[target.name] = f"{target.name} cannot be measured there: {error}"
        return sent, failures

    def _send(self, path: Path, file_hash: str, *, shown: bool = True) -> None:
        """Sends a file, or what is missing of it."""
        size = path.stat().st_size
        for _ in range(2):  # what came before may have been another file under this hash
            try:
                offset = self._link.typed(int, "begin", file_hash, size)
            except LostError:
                raise
            except DeviceError as error:
                raise _UnsendableError(str(error)) from None
            if offset < size:
                with progress(f"sending {path.name}", size) if shown else nullcontext(lambda steps: None) as advance:
                    advance(offset)
                    for step in self._chunks(path, file_hash, size, offset):
                        advance(step)
            if self._link.typed(bool, "finish", file_hash):
                return
        raise _UnsendableError(f"{path} did not arrive as it is here: was it written to meanwhile?")

    def _add(self, file_hash: str, size: int, offset: int, data: bytes) -> int:
        try:
            return self._link.typed(int, "chunk", file_hash, size, offset, data)
        except LostError:
            raise
        except DeviceError as error:
            raise _UnsendableError(str(error)) from None

    def _chunks(self, path: Path, file_hash: str, size: int, offset: int) -> Iterator[int]:
        """Sends a file from an offset on; yields the steps."""
        with path.open("rb") as file:
            while offset < size:
                file.seek(offset)
                reached = self._add(file_hash, size, offset, file.read(CHUNK_BYTES))
                if reached == offset:
                    raise _UnsendableError(f"{path} became shorter while it was sent")
                yield reached - offset
                offset = reached


class _UnsendableError(DeviceError):
    """A file that the agent cannot be given; others may be."""


def _identified(target: Target) -> SentTarget:
    try:
        with target.path.open("rb") as file:
            header = file.read(8)
        if not is_litert(header):
            raise _UnsendableError(f"{target.path} is no LiteRT file")
        return SentTarget(name=target.name, sha256=sha256(target.path), signature=target.signature)
    except OSError as error:
        raise _UnsendableError(f"{target.path} cannot be read: {error.strerror}") from None


def _blocks(x: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """The inputs, in parts that travel as one message each."""
    if x.ndim < 1 or not len(x):
        raise DeviceError("there are no inputs to answer")
    count = max(1, min(_BLOCK_INPUTS, _BLOCK_BYTES * len(x) // max(x.nbytes, 1)))
    if x[:1].nbytes > MOST_INPUT_BYTES:
        raise DeviceError(f"an input has {x[:1].nbytes} bytes, and agents take {MOST_INPUT_BYTES}")
    for start in range(0, len(x), count):
        yield x[start : start + count]
