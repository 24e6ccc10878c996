"""Ranks as people write and keep them: ``NAME=K``, ``NAME=SCHEME:K``, ``NAME=tucker:RxS``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from fleetfoot.errors import UsageError, offer
from fleetfoot.files import write_bytes
from zoo.graph import inlined
from zoo.lowrank.forms import schemes_for
from zoo.recipe import LayerRank, Scheme

_FORM = "write NAME=K, NAME=SCHEME:K or NAME=tucker:RxS"


def read_ranks(lines: Iterable[str], model: Any, scheme: str = "auto") -> dict[str, LayerRank]:
    """The ranks of a model's layers.

    Args:
        lines: as ``write_ranks`` writes them; without a scheme, a layer has the one that is given, or its first.
        model: the layers are of this one.
        scheme: of convolutions for which no other is written; ``auto`` is the first that a layer can have.

    Raises:
        UsageError: a line of another form, or a layer twice. Whether the model has such layers is seen when they are
            decomposed.
    """
    named: dict[str, str] = {}
    for line in lines:
        name, _, written = line.rpartition("=")
        if not name or not written:
            raise UsageError(f"{line!r} says no rank of a layer: {_FORM}")
        if name in named:
            raise UsageError(f"layer {name} is there twice")
        named[name] = written
    layers = {layer.name: layer for layer in inlined(model).layers}
    return {name: _read(name, written, schemes_for(layers.get(name)), scheme) for name, written in named.items()}


def _read(name: str, written: str, able: tuple[Scheme, ...], wanted: str) -> LayerRank:
    """One layer's rank."""
    before, colon, numbers = written.rpartition(":")
    known: tuple[Scheme, ...] = get_args(Scheme)
    scheme = before if colon else next(iter([own for own in able if own == wanted] or able), "channel")
    if scheme not in known:
        raise UsageError(f"{name}={written}: unknown scheme {scheme!r}, {offer(scheme, known)}")
    try:
        ranks = [int(number) for number in numbers.split("x")]
    except ValueError:
        ranks = []
    if len(ranks) not in (1, 2):
        raise UsageError(f"{name}={written}: {numbers!r} is no rank, {_FORM}")
    return LayerRank(scheme=scheme, rank=ranks[0] if len(ranks) == 1 else (ranks[0], ranks[1]))


def write_ranks(path: Path, ranks: Mapping[str, LayerRank]) -> None:
    """Writes ranks as a file of options that the command takes back, which can be edited."""
    lines = [f"{name}={chosen.text}" for name, chosen in ranks.items()]
    write_bytes(path, (json.dumps({"layer": lines}, indent=2) + "\n").encode())
