"""The plan: what the service needs to decide on one device, beside ``estimate.tflite`` and the profile."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import msgspec

from fleetfoot.files import Document

ESTIMATE_FILE = "premodel/estimate.tflite"
ESTIMATE_SIGNATURE = "estimate"


class Stage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A source of probabilities and what asking it costs on this device.

    ``"table"`` is how often each variant was right, and is free; ``"estimate"`` is the compiled premodel.
    """

    name: Literal["table", "estimate"]
    mean_ms: float
    variance: float


class Plan(Document, frozen=True, kw_only=True):
    """The stages for one device, in order of cost.

    Attributes:
        device_id: the device.
        variants: the file hash of each variant, in the order of the estimate's outputs.
        estimate_sha256: the hash of ``estimate.tflite``.
        p_right: the table stage: the share of route inputs that each variant answers rightly.
        stages: what is asked, the cheapest first; a later one replaces the probabilities of an earlier.
        measured: whether the costs were measured on this device, or scaled from another by its profile.
    """

    DIRECTORY: ClassVar[str] = "premodel"

    device_id: str
    variants: dict[str, str]
    estimate_sha256: str
    p_right: dict[str, float]
    stages: tuple[Stage, ...]
    measured: bool

    @classmethod
    def path(cls, zoo: Path, device_id: str) -> Path:
        """Where the plan of a device is kept."""
        return zoo / cls.DIRECTORY / f"{device_id}.json"
