"""How a variant is made from the base model, as data."""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

Scheme = Literal["spatial", "channel", "tucker", "dense"]
QUANTIZATIONS = ("int8", "dynamic", "float16")
"""Integer arithmetic; integer weights, activations as they come; weights of half the size."""


class LayerRank(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one layer is decomposed: the scheme and its rank, of Tucker's those of the channels and of the filters."""

    scheme: Scheme
    rank: int | tuple[int, int]

    @property
    def text(self) -> str:
        """As it is written: ``spatial:16``, ``tucker:16x24``."""
        numbers = self.rank if isinstance(self.rank, tuple) else (self.rank,)
        return f"{self.scheme}:{'x'.join(map(str, numbers))}"


class Training(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a variant is fine-tuned; ``jointly`` names the widths of the nested family trained together."""

    epochs: int
    teacher: Literal["base"] | None = None
    seed: int = 0
    jointly: tuple[float, ...] = ()


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a variant is made, applied in the order of the fields; the empty recipe is the base model.

    Attributes:
        build: builder and its parameters, where the search varies the architecture.
        drop: names of the blocks that are left out.
        order: file of channel orders, relative to the zoo, named by its content.
        keep: per channel group the kept indices, or the length of the kept prefix of the order.
        ranks: per layer its decomposition.
        exit: at which share of the multiply-accumulates a trained-on head answers; 1 is the whole network, beside
            others with exits.
        training: how the result is fine-tuned.
        quantize: the number format of the exported file; float32 if absent.
    """

    build: dict[str, Any] | None = None
    drop: tuple[str, ...] = ()
    order: str | None = None
    keep: dict[str, int | tuple[int, ...]] = {}
    ranks: dict[str, LayerRank] = {}
    exit: float | None = None
    training: Training | None = None
    quantize: str | None = None

    def __post_init__(self) -> None:
        if self.quantize is not None and self.quantize not in QUANTIZATIONS:
            raise ValueError(f"unknown quantisation {self.quantize!r}: there is {', '.join(QUANTIZATIONS)}")

    @property
    def digest(self) -> str:
        """The variant's identity: SHA-256 of the canonical JSON, which leaves defaults out."""
        return hashlib.sha256(msgspec.json.encode(self, order="sorted")).hexdigest()

    def __hash__(self) -> int:
        return hash(self.digest)
