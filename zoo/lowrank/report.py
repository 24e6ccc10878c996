"""What a decomposition comes to, layer by layer."""

from __future__ import annotations

from typing import Literal

import msgspec

CostUnit = Literal["macs", "latency"]


class LayerReport(msgspec.Struct, frozen=True, kw_only=True):
    """One layer that can be decomposed.

    Attributes:
        name: the layer's.
        ranks: how it is decomposed, as ``spatial:16``; empty where it stays whole.
        shapes: of the kernels that take the place of its own.
        energy: the share of the energy of its weights that is kept.
        before: what the layer costs whole.
        after: what it costs now.
    """

    name: str
    ranks: str
    shapes: tuple[tuple[int, ...], ...]
    energy: float
    before: float
    after: float


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a decomposition comes to.

    Attributes:
        model: the network's name.
        unit: of the costs: multiply-accumulates, or milliseconds on a device.
        layers: those that can be decomposed.
        rest: what all other layers cost.
        before: what the network costs whole.
        after: what it costs now.
        parameters_before: of the network as it was.
        parameters_after: of the network as it is now.
        accuracy: on the tune split, by what was done until then; empty without data.
    """

    model: str
    unit: CostUnit
    layers: tuple[LayerReport, ...]
    rest: float
    before: float
    after: float
    parameters_before: int
    parameters_after: int
    accuracy: dict[str, float] = {}

    @property
    def ratio(self) -> float:
        """How many times as fast."""
        return self.before / self.after
