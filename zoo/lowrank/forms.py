"""Which layers can be decomposed, and the layers that take their place."""

from __future__ import annotations

import math
from collections.abc import Container, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import ModelError, offer
from zoo.architectures.grouped import GroupedConv2D
from zoo.backend import keras
from zoo.graph import copy_layer, free_name
from zoo.lowrank.factors import full_rank
from zoo.recipe import LayerRank, Scheme

layers = keras.layers

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D, layers.Conv3D, GroupedConv2D)
_ON_A_PLANE = 2
_THIN = {
    "activation": "linear", "use_bias": False, "activity_regularizer": None, "bias_regularizer": None,
    "bias_constraint": None,
}  # fmt: skip
"""What the layers before the last are without."""
_FREE = {"kernel_constraint": None}
"""What all of them are without: what holds for a kernel does not for its factors."""


Where = Literal["input", "output", "between"]


class Part(NamedTuple):
    """One of the layers that a layer becomes.

    Attributes:
        changes: in what its configuration differs from that of the layer.
        kernel: the shape of its kernel.
        works_on: whether it is used at each position of the layer's input, of its output, or, for the vertical half
            of a convolution, at the output's rows and the input's columns.
    """

    changes: Mapping[str, Any]
    kernel: tuple[int, ...]
    works_on: Where = "output"


def schemes_for(layer: Any) -> tuple[Scheme, ...]:
    """The schemes by which a layer can be decomposed; none for what is no plain convolution or dense layer."""
    if type(layer) not in (*_CONVOLUTIONS, layers.Dense) or not _has_plain_weights(layer):
        return ()
    if type(layer) is layers.Dense:
        return ("dense",)
    if math.prod(layer.kernel_size) == 1:
        return ("channel",)
    across = len(layer.kernel_size) == _ON_A_PLANE and min(layer.kernel_size) > 1
    return ("spatial", "channel", "tucker") if across else ("channel", "tucker")


def _has_plain_weights(layer: Any) -> bool:
    """Whether a kernel and a bias are all: adapters and quantised kernels have more, or others."""
    return not layer.built or [weight.name for weight in layer.weights] in (["kernel"], ["kernel", "bias"])


def kernel_of(layer: Any) -> npt.NDArray[np.float32]:
    """A layer's kernel.

    Raises:
        ModelError: it holds what is no number.
    """
    kernel = np.asarray(layer.kernel, np.float32)
    if not np.isfinite(kernel).all():
        raise ModelError(f"layer {layer.name} has weights that are NaN or infinite")
    return kernel


def groups_of(layer: Any) -> int:
    """The groups of a convolution; 1 for a dense layer."""
    return int(getattr(layer, "groups", 1))


def check(model: Any, ranks: Mapping[str, LayerRank]) -> None:
    """Makes sure that layers can be decomposed that way.

    Raises:
        ModelError: layers that are not there or cannot be decomposed that way, or ranks that they cannot have; all of
            them are named.
    """
    by_name = {layer.name: layer for layer in model.layers}
    able = [name for name, layer in by_name.items() if schemes_for(layer)]
    wrong = [why for name, chosen in ranks.items() if (why := _misfit(name, by_name.get(name), chosen))]
    if not wrong:
        return
    strange = next((name for name in ranks if not schemes_for(by_name.get(name))), None)
    hint = f" ({model.name}: {offer(strange, able)})" if strange else ""
    raise ModelError("; ".join(wrong) + hint)


def _misfit(name: str, layer: Any, chosen: LayerRank) -> str | None:
    """Why a layer cannot be decomposed that way; None if it can."""
    schemes = schemes_for(layer)
    if layer is None:
        return f"there is no layer {name}"
    if not schemes:
        return f"layer {name} is of type {type(layer).__name__}, which cannot be decomposed"
    if chosen.scheme not in schemes:
        return f"layer {name} is decomposed as {' or '.join(schemes)}, not as {chosen.scheme}"
    full = full_rank(kernel_per_group(layer), chosen.scheme)
    given, most = (rank if isinstance(rank, tuple) else (rank,) for rank in (chosen.rank, full))
    if len(given) != len(most):
        wanted = "two ranks, of channels and of filters" if len(most) > 1 else "one rank"
        return f"layer {name} as {chosen.scheme} takes {wanted}, and not {chosen.text}"
    if any(not 1 <= rank <= at_most for rank, at_most in zip(given, most, strict=True)):
        there = " and ".join(f"from 1 to {at_most}" for at_most in most)
        return f"layer {name} as {chosen.scheme} has ranks {there}, not {chosen.text.split(':')[1]}"
    return None


def kernel_per_group(layer: Any) -> tuple[int, ...]:
    """The shape of the kernel of one group of a convolution; of a dense layer, of its kernel."""
    *rest, filters = layer.kernel.shape
    return (*rest, filters // groups_of(layer))


def parts(layer: Any, chosen: LayerRank) -> tuple[Part, ...]:
    """The layers that a layer becomes, the last of which has its name, bias and activation."""
    if isinstance(chosen.rank, tuple):
        return _around_a_core(layer, *chosen.rank)
    *window, channels, filters = layer.kernel.shape
    if chosen.scheme == "dense":
        return Part({"units": chosen.rank}, (channels, chosen.rank)), Part({}, (chosen.rank, filters))
    thin = {"filters": chosen.rank * groups_of(layer)}
    if chosen.scheme == "spatial":
        height, width = window
        down = Part(thin | _along(layer, 0), (height, 1, channels, thin["filters"]), "between")
        return down, Part(_along(layer, 1), (1, width, chosen.rank, filters))
    point = _point(layer)
    return Part(thin, (*window, channels, thin["filters"])), Part(point, (*point["kernel_size"], chosen.rank, filters))


def _around_a_core(layer: Any, inner: int, outer: int) -> tuple[Part, ...]:
    """Tucker's three layers."""
    *window, channels, filters = layer.kernel.shape
    groups, point = groups_of(layer), _point(layer)
    ones = point["kernel_size"]
    return (
        Part(point | {"filters": inner * groups}, (*ones, channels, inner * groups), "input"),
        Part({"filters": outer * groups}, (*window, inner, outer * groups)),
        Part(point, (*ones, outer, filters)),
    )


def _point(layer: Any) -> dict[str, Any]:
    """What makes a convolution one of single positions."""
    ones = (1,) * len(layer.kernel_size)
    return {"kernel_size": ones, "strides": ones, "dilation_rate": ones, "padding": "valid"}


def _along(layer: Any, axis: int) -> dict[str, tuple[int, ...]]:
    """Window, strides and dilation along one axis only."""
    names = ("kernel_size", "strides", "dilation_rate")
    return {name: tuple(size if at == axis else 1 for at, size in enumerate(getattr(layer, name))) for name in names}


def part_names(name: str, count: int, taken: Container[str] = ()) -> list[str]:
    """The names of the layers that a layer becomes: ``NAME_rank``, of three ``NAME_rank_in`` before, then its own."""
    before = [f"{name}_rank_in", f"{name}_rank"][-(count - 1) :]
    return [*(free_name(wanted, taken) for wanted in before), name]


def new_layers(layer: Any, chosen: LayerRank, taken: Container[str] = ()) -> list[Any]:
    """The layers that a layer becomes, in their order, without weights and with none of the names that are taken."""
    becomes = parts(layer, chosen)
    names = part_names(layer.name, len(becomes), taken)
    thin = [
        copy_layer(layer, **(_THIN | _FREE | dict(part.changes)), name=name)
        for name, part in zip(names[:-1], becomes, strict=False)
    ]
    return [*thin, copy_layer(layer, **(_FREE | dict(becomes[-1].changes)))]
