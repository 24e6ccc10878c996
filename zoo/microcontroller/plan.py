"""Where in one piece of memory each activation lies, so that those alive at once do not overlap.

The planner that TensorFlow Lite Micro has on the device places the largest first, which leaves gaps (a third of the
memory of a residual network). A plan that is made beforehand travels in the file.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

ALIGNMENT = 16
"""All activations begin at multiples of so many bytes, as TensorFlow Lite Micro wants it."""

_REPAIRS = 200


class Span(NamedTuple):
    """An activation: its bytes, and the operators between which it is needed, both included."""

    size: int
    first: int
    last: int


class Plan(NamedTuple):
    """The offset of each activation in bytes, and how many bytes they take together."""

    offsets: tuple[int, ...]
    size: int


def least_size(spans: Sequence[Span]) -> int:
    """The bytes that no plan is below: the most that are alive at once."""
    moments = {span.first for span in spans}
    return max((sum(_room(s) for s in spans if s.first <= moment <= s.last) for moment in moments), default=0)


def plan(spans: Sequence[Span]) -> Plan:
    """Places activations, in several orders, each as low as it fits (Pisarchyk and Lee, 2020), and takes the best plan.

    While that needs more than is alive at once, what ends highest is placed first in another trial.
    """
    orders: list[Callable[[int], tuple[int, ...]]] = [
        lambda n: (-spans[n].size, spans[n].first),
        lambda n: (spans[n].first, -spans[n].size),
        lambda n: (spans[n].first - spans[n].last, -spans[n].size),
    ]
    least = least_size(spans)
    trials = [_repaired(spans, sorted(range(len(spans)), key=order), least) for order in orders]
    return min(trials, key=lambda trial: trial.size)


def _repaired(spans: Sequence[Span], order: list[int], least: int) -> Plan:
    best = made = _placed(spans, order)
    for _ in range(_REPAIRS):
        if best.size == least:
            break
        highest = max(order, key=lambda n: made.offsets[n] + _room(spans[n]))
        order = [highest, *(n for n in order if n != highest)]
        made = _placed(spans, order)
        best = min(best, made, key=lambda trial: trial.size)
    return best


def _placed(spans: Sequence[Span], order: Sequence[int]) -> Plan:
    """Each activation as low as those before it in the order let it."""
    offsets: dict[int, int] = {}
    for n in order:
        others = sorted(
            (offset, offset + _room(spans[other])) for other, offset in offsets.items() if _meet(spans[n], spans[other])
        )
        offsets[n] = _lowest(_room(spans[n]), others)
    size = max((offset + _room(spans[n]) for n, offset in offsets.items()), default=0)
    return Plan(tuple(offsets[n] for n in range(len(spans))), size)


def _lowest(size: int, taken: Sequence[tuple[int, int]]) -> int:
    """The lowest offset at which so many bytes are free."""
    offset = 0
    for start, end in taken:
        if offset + size <= start:
            break
        offset = max(offset, end)
    return offset


def _meet(one: Span, other: Span) -> bool:
    return one.first <= other.last and other.first <= one.last


def _room(span: Span) -> int:
    return -(-span.size // ALIGNMENT) * ALIGNMENT
