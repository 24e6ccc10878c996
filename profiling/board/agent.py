"""The agent on a board: measures and runs the LiteRT files that workstations send it, and nothing else.

A workstation announces the files that are missing (``begin``), sends them in chunks (``chunk``, ``finish``), starts a
job (``start``), and asks for it (``result``) until it is done. Jobs run one at a time in the order they came, each in
processes of its own; one that nobody asked for 15 s is given up.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
from Pyro5 import config
from Pyro5.api import expose

from fleetfoot import __version__
from fleetfoot.daemon import SafeDaemon
from fleetfoot.errors import DeviceError
from profiling.board.access import admit_with
from profiling.board.executor import Executor
from profiling.board.jobs import JobQueue, JobRunner
from profiling.board.messages import (
    MOST_CHUNK_BYTES,
    OBJECT_ID,
    PROTOCOL,
    AgentInfo,
    Measuring,
    SentTarget,
    Started,
    Work,
)
from profiling.board.modelstore import ModelStore
from profiling.board.nameserver import registered
from profiling.profile import this_device

_STOP_SECONDS = 10.0


class AgentOptions(NamedTuple):
    """How an agent listens, and what it grants.

    Attributes:
        token: what clients must say.
        cache: the directory of the files that they sent.
        host: the address to listen on.
        port: the port, or 0 for any.
        tls: what connections are encrypted with.
        max_bytes: of one model file.
        max_memory_bytes: what a model may take; 0 for no limit but the machine's.
        name: to be registered under at a name server; empty for none.
        name_server: its host and port.
        patience_s: how long a job is kept that nobody asks for.
    """

    token: str
    cache: Path
    host: str = "127.0.0.1"
    port: int = 0
    tls: ssl.SSLContext | None = None
    max_bytes: int = 512 << 20
    max_memory_bytes: int = 0
    name: str = ""
    name_server: tuple[str, int] = ("127.0.0.1", 9090)
    patience_s: float = 15.0


@expose
class DeviceAgent:
    """What workstations may call; messages are those of ``profiling.board.messages``."""

    def __init__(self, store: ModelStore, runner: JobRunner) -> None:
        self._store, self._runner = store, runner

    def info(self) -> dict[str, Any]:
        """The agent's version and the board's hardware."""
        device = msgspec.to_builtins(this_device())
        answer: dict[str, Any] = msgspec.to_builtins(AgentInfo(protocol=PROTOCOL, fleetfoot=__version__, device=device))
        return answer

    def begin(self, sha256: str, size: int) -> int:
        """Announces a file; returns from which byte on it is to be sent, which is its size if it is there."""
        return self._store.begin(sha256, _whole(size))

    def chunk(self, sha256: str, size: int, offset: int, data: bytes) -> int:
        """Takes bytes of a file; returns from which byte on more is to be sent."""
        if not isinstance(data, bytes):
            raise DeviceError("chunks are bytes: speak msgpack")
        return self._store.add(sha256, _whole(size), _whole(offset), data)

    def finish(self, sha256: str) -> bool:
        """Whether a file has come as its hash says; if not, it is dropped."""
        return self._store.finish(sha256)

    def start(self, work: Any, packed: Any = None) -> dict[str, Any]:
        """Queues a job whose files are all there, with an array where it takes one."""
        typed = _work(work)
        missing = tuple(dict.fromkeys(t.sha256 for t in typed.targets if not self._store.has(t.sha256)))
        started = Started(missing=missing) if missing else Started(id=self._runner.start(typed, packed))
        answer: dict[str, Any] = msgspec.to_builtins(started)
        return answer

    def result(self, job_id: str, wait_s: float) -> dict[str, Any]:
        """How far a job is, after waiting for its end for a while."""
        if not isinstance(job_id, str) or not isinstance(wait_s, int | float):
            raise DeviceError("a job is asked for by its id and the seconds to wait")
        state = self._runner.result(job_id, wait_s)
        answer: dict[str, Any] = msgspec.to_builtins(state, builtin_types=(bytes,))
        return answer

    def cancel(self, job_id: str) -> None:
        """Ends a job, or forgets what came of it."""
        self._runner.cancel(str(job_id))


def serve(options: AgentOptions, ready: Callable[[str], None]) -> None:
    """Serves until SIGTERM or SIGINT; then the running job is ended, and it returns.

    Args:
        options: how.
        ready: called with the URI by which workstations reach the agent, once it answers.

    Raises:
        UsageError: no address to listen on.
        ServiceError: it cannot be listened on, or no name server answers.
        DeviceError: the cache cannot be used.
    """
    config.MAX_MESSAGE_SIZE = 2 * MOST_CHUNK_BYTES
    queue = JobQueue(options.patience_s)
    try:
        store = ModelStore(options.cache, options.max_bytes, lambda: runner.files())
    except OSError as error:
        raise DeviceError(f"the cache {options.cache} cannot be used: {error.strerror}; choose another") from None
    executor = Executor(store.path, options.max_memory_bytes)
    runner = JobRunner(queue, executor.run, executor.close_if_idle)
    with ExitStack() as stack:
        stack.callback(executor.close)
        stack.callback(runner.stop, _STOP_SECONDS)
        daemon = stack.enter_context(SafeDaemon(options.host, options.port, options.tls, admit_with(options.token)))
        location = daemon.register(DeviceAgent(store, runner), OBJECT_ID).location
        if options.name:
            listening = (options.host, int(location.rpartition(":")[2]))
            stack.enter_context(registered(options.name, *options.name_server, listening))
        daemon.serve(lambda: ready(f"pyro:{location}"))


def _work(received: Any) -> Work:
    try:
        work: Work = msgspec.convert(received, type=Work)
    except msgspec.ValidationError as error:
        raise DeviceError(f"the agent (fleetfoot {__version__}) does not know such a job: {error}") from None
    if isinstance(work, Measuring) and len({target.name for target in work.targets}) < len(work.targets):
        raise DeviceError(f"two targets are called {_twice(work.targets)!r}: give each its own name")
    return work


def _twice(targets: tuple[SentTarget, ...]) -> str:
    names = [target.name for target in targets]
    return next(name for name in names if names.count(name) > 1)


def _whole(number: Any) -> int:
    if not isinstance(number, int) or number < 0:
        raise DeviceError("sizes and offsets are whole numbers of bytes")
    return number
