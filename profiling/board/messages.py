"""What a workstation and a board's agent say to each other; arrays travel as ``fleetfoot.wire`` has it."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from profiling.profile import Conditions
from profiling.statistics import Effort

OBJECT_ID = "device"
PROTOCOL = 1
"""Raised when an older side could not make sense of the other."""

CHUNK_BYTES = 2 << 20
MOST_CHUNK_BYTES = 8 << 20
MOST_INPUT_BYTES = 12 << 20
"""Of what an agent takes, which are messages of twice the largest chunk."""
POLL_SECONDS = 5.0


class AgentInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent tells of itself.

    Attributes:
        protocol: that it speaks.
        fleetfoot: its version.
        device: the hardware, as ``DeviceInfo`` has it.
    """

    protocol: int
    fleetfoot: str
    device: dict[str, Any] = {}


class SentTarget(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A target whose file is known by its hash."""

    name: str
    sha256: str
    signature: str


class Measuring(msgspec.Struct, frozen=True, kw_only=True, tag="measure", forbid_unknown_fields=True):
    """The job to measure targets, as ``Device.measure`` does."""

    targets: tuple[SentTarget, ...]
    conditions: Conditions
    effort: Effort
    operators: bool = False


class Answering(msgspec.Struct, frozen=True, kw_only=True, tag="answer", forbid_unknown_fields=True):
    """The job to run a target on inputs, which travel beside it."""

    target: SentTarget

    @property
    def targets(self) -> tuple[SentTarget, ...]:
        """The one target."""
        return (self.target,)


class Tabulating(msgspec.Struct, frozen=True, kw_only=True, tag="tabulate", forbid_unknown_fields=True):
    """The job to time single operators, as ``Device.operator_table`` does."""

    conditions: Conditions

    @property
    def targets(self) -> tuple[SentTarget, ...]:
        """None are needed."""
        return ()


Work = Measuring | Answering | Tabulating


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """What comes of starting a job: its id, or else the hashes of files that must be sent before."""

    id: str = ""
    missing: tuple[str, ...] = ()


class JobState(msgspec.Struct, frozen=True, kw_only=True):
    """How far a job is.

    Attributes:
        state: ``unknown`` where the agent was started again, or gave the job up since nobody asked for it.
        ahead: how many jobs come before it.
        profile: what measuring made.
        outputs: what answering made, an array of shape (n, classes).
        latencies_ms: of each input on the board.
        table: what tabulating made.
        error: why neither was made.
    """

    state: Literal["waiting", "running", "done", "unknown"]
    ahead: int = 0
    profile: dict[str, Any] | None = None
    outputs: dict[str, Any] | None = None
    latencies_ms: tuple[float, ...] = ()
    table: dict[str, Any] | None = None
    error: str = ""
