"""What a selector answers, in process and over the wire."""

from __future__ import annotations

from typing import Literal

import msgspec

OnMiss = Literal["serve", "refuse"]
"""What to do when no variant keeps the budget: serve the fastest all the same, or refuse."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """What a variant answered, and how that came about.

    Attributes:
        label: the name of the most probable class.
        index: its index.
        confidence: its probability.
        variant: the variant that answered.
        latency_ms: from the call to the answer, choosing included.
        expected_ms: what the variant alone was expected to take.
        within_budget: whether ``latency_ms`` is within the budget.
        why: why this variant.
    """

    label: str
    index: int
    confidence: float
    variant: str
    latency_ms: float
    expected_ms: float
    within_budget: bool
    why: str


class Description(msgspec.Struct, frozen=True, kw_only=True):
    """What a selector serves: the zoo's name, its classes and raw input, and its usable variants."""

    name: str
    classes: tuple[str, ...]
    input_shape: tuple[int, ...]
    input_dtype: str
    input_range: tuple[float, float]
    variants: dict[str, float]
    device_id: str
    stages: tuple[str, ...]


class Stats(msgspec.Struct, frozen=True, kw_only=True):
    """What happened since the start: answers in all, late ones, refused requests, choices per variant."""

    answers: int
    late: int
    refused: int
    chosen: dict[str, int]
    slowdown: float
