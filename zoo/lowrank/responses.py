"""What layers see and answer, and kernels that answer the same.

Weights say what a layer could do; its inputs say what of that is ever asked for. A decomposed network's kernels are
fitted, layer after layer, so that each answers to what now reaches it, errors of the layers before included, as the
whole one answered to what reached that (Zhang et al., arXiv:1411.4229, section 3.3, "asymmetric reconstruction").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fleetfoot.console import progress
from zoo.backend import keras
from zoo.graph import Call, calls, inlined
from zoo.lowrank.costs import decomposable
from zoo.lowrank.decomposing import set_kernels
from zoo.lowrank.factors import Kernel, Patches, factorize, of_groups
from zoo.lowrank.forms import groups_of, kernel_of, part_names, parts
from zoo.recipe import LayerRank, Scheme

Array = npt.NDArray[Any]

FITTING_INPUTS = 512
"""How many inputs kernels are fitted to; more change little."""
_MOST_POSITIONS = 20_000
_MOST_VALUES = 2**25
"""In the patches of one layer: 128 MB."""
_BATCH = 16
_RIDGE = 1e-2
"""Of the mean second moment of what is regressed on: how little of it moves a kernel away from what it was."""


def refine(model: Any, decomposed: Any, ranks: Mapping[str, LayerRank], x: Array, seed: int = 0) -> None:
    """Fits the kernels of a decomposed network, in place, to answer to inputs as the whole one does.

    Args:
        model: the network as it was.
        decomposed: what ``decompose`` made of it.
        ranks: how.
        x: raw inputs, some hundreds; labels are not needed.
        seed: of the positions that are looked at.
    """
    model = inlined(model)
    of_layers = {name: of_layer for name, of_layer in decomposable(model).items() if name in ranks}
    taken = {layer.name for layer in model.layers}
    with progress("fitting responses", len(of_layers)) as advance:
        for number, (name, of_layer) in enumerate(of_layers.items()):
            layer = of_layer[0].layer
            chain = [decomposed.get_layer(part) for part in part_names(name, len(parts(layer, ranks[name])), taken)]
            now_of = _as_made(call for call in calls(decomposed) if call.layer is chain[0])
            before = patches_of(model, of_layer, layer, x, seed + number)
            now = patches_of(decomposed, now_of, layer, x, seed + number)
            bias = layer.bias.numpy() if layer.use_bias else None
            fitted = reproduce(kernel_of(layer), bias, ranks[name], groups_of(layer), before, now)
            set_kernels(chain, fitted.kernels, [] if fitted.bias is None else [fitted.bias])
            advance(1)


def _as_made(of_layer: Iterable[Call]) -> list[Call]:
    """The calls of a layer as ``decompose`` made them, in the whole network's order; theirs may be another one."""
    return sorted(of_layer, key=lambda call: call.outputs[0]._keras_history.node_index)


class Fitted(NamedTuple):
    """Kernels of the layers that one became, and the bias of the last."""

    kernels: tuple[Kernel, ...]
    bias: Array | None


def reproduce(
    kernel: Kernel, bias: Array | None, chosen: LayerRank, groups: int, before: Patches, now: Patches
) -> Fitted:
    """The kernels that answer to some patches as a kernel answered to others.

    Args:
        kernel: of the layer, of shape (*window, channels of a group, filters).
        bias: of the layer, if it has one.
        chosen: how the layer is decomposed.
        groups: of the convolution.
        before: what the layer saw, of shape (positions, *window, channels).
        now: what reaches it at the same positions now.
    """
    fitted = []
    biases = np.split(bias, groups) if bias is not None else [None] * groups
    whole, decomposed = of_groups(kernel, before, groups), of_groups(kernel, now, groups)
    for own_bias, (own, seen), (_, sees) in zip(biases, whole, decomposed, strict=True):
        assert seen is not None
        assert sees is not None
        fitted.append(_fitted(own, own_bias, chosen.scheme, chosen.rank, _answers(seen, own), sees))
    kernels = tuple(np.concatenate(several, axis=-1) for several in zip(*(fit.kernels for fit in fitted), strict=True))
    return Fitted(
        kernels, None if bias is None else np.concatenate([fit.bias for fit in fitted if fit.bias is not None])
    )


def _fitted(kernel: Kernel, bias: Array | None, scheme: Scheme, rank: Any, wanted: Array, sees: Patches) -> Fitted:
    """The same of one group; ``wanted`` are answers without bias, of shape (positions, filters)."""
    if scheme == "tucker":
        inner, outer = rank
        first, core, last = factorize(kernel, "tucker", (inner, outer), _fit_for(sees, bias))
        rest = np.einsum("...rs,sn->...rn", core, last.reshape(last.shape[-2:]))
        fitted = _fitted(rest, bias, "channel", outer, wanted, sees @ first.reshape(first.shape[-2:]))
        return Fitted((first, *fitted.kernels), fitted.bias)
    moved = _nearer(_flat(sees), kernel.reshape(-1, kernel.shape[-1]), wanted, bias is not None).reshape(kernel.shape)
    first, last = factorize(moved, scheme, rank, _fit_for(sees, bias))
    made = _made(sees, first, scheme)
    flat = _nearer(made, last.reshape(-1, last.shape[-1]), wanted, bias is not None)
    if bias is not None:
        bias = bias + wanted.mean(axis=0) - made.mean(axis=0) @ flat
    return Fitted((first, flat.reshape(last.shape)), bias)


def _fit_for(sees: Patches, bias: Array | None) -> Patches:
    """What is to be answered to: without a bias, the mean too."""
    return sees if bias is None else varying(sees)


def varying(seen: Patches) -> Patches:
    """Patches without their mean, which a bias or a batch norm makes up for."""
    around: Patches = seen - seen.mean(axis=0)
    return around


def _nearer(seen: Array, matrix: Array, wanted: Array, with_bias: bool) -> Array:
    """A matrix moved to where it answers as wanted, by ridge regression of what is missing."""
    missing = wanted - seen @ matrix
    if with_bias:
        seen, missing = seen - seen.mean(axis=0), missing - missing.mean(axis=0)
    rows, features = seen.shape
    ridge = _RIDGE * max(float(np.square(seen, dtype=np.float64).sum()) / features, 1e-12)
    wide = np.asarray(seen, np.float64)
    if rows >= features:
        move = np.linalg.solve(wide.T @ wide + ridge * np.eye(features), wide.T @ missing)
    else:
        move = wide.T @ np.linalg.solve(wide @ wide.T + ridge * np.eye(rows), missing)
    nearer: Array = (matrix + move).astype(np.float32)
    return nearer


def _made(sees: Patches, first: Kernel, scheme: Scheme) -> Array:
    """What the first kernel makes of patches, as the second sees it."""
    if scheme != "spatial":
        made: Array = _flat(sees) @ first.reshape(-1, first.shape[-1])
        return made
    across: Array = np.einsum("phwc,hck->pwk", sees, first[:, 0], optimize=True)
    return _flat(across)


def _answers(seen: Patches, kernel: Kernel) -> Array:
    answers: Array = _flat(seen) @ kernel.reshape(-1, kernel.shape[-1])
    return answers


def _flat(rows: Array) -> Array:
    return rows.reshape(len(rows), -1)


def patches_of(model: Any, of_layer: Sequence[Call], layer: Any, x: Array, seed: int = 0) -> Patches:
    """What a layer sees at some positions of its outputs for some inputs.

    Args:
        model: a functional model.
        of_layer: calls whose inputs are looked at.
        layer: the layer that looks, with its window, strides, dilation and padding.
        x: raw inputs.
        seed: of the positions, which are the same for the same shapes.

    Returns:
        Of shape (positions, *window, channels).
    """
    network = keras.Model(model.inputs, [call.inputs[0] for call in of_layer])
    features = math.prod(layer.kernel.shape[:-1]) * groups_of(layer)
    most = max(1, min(_MOST_POSITIONS, _MOST_VALUES // features))
    each = -(-most // (len(x) * len(of_layer)))
    found = []
    for number, start in enumerate(range(0, len(x), _BATCH)):
        seen = keras.tree.flatten(network.predict_on_batch(x[start : start + _BATCH]))
        for place, tensor in enumerate(seen):
            random = np.random.default_rng([seed, number, place])
            found.append(_sampled(np.asarray(tensor, np.float32), layer, each, random))
    return np.concatenate(found)[:most]


def _sampled(tensor: Array, layer: Any, each: int, random: np.random.Generator) -> Patches:
    """What a layer sees of a batch, at up to ``each`` positions per input."""
    if getattr(layer, "data_format", None) == "channels_first":
        tensor = np.moveaxis(tensor, 1, -1)
    window = tuple(getattr(layer, "kernel_size", ()))
    if not window:
        rows = tensor.reshape(len(tensor), -1, tensor.shape[-1])
        return np.concatenate([own[_some(len(own), each, random)] for own in rows])
    steps = zip(tensor.shape[1:-1], window, layer.strides, layer.dilation_rate, strict=True)
    axes = [_axis(*sizes, layer.padding) for sizes in steps]
    padded = np.pad(tensor, [(0, 0), *(axis.padding for axis in axes), (0, 0)])
    sizes = [len(axis.starts) for axis in axes]
    return np.concatenate(
        [_cut_out(own, axes, np.unravel_index(_some(math.prod(sizes), each, random), sizes)) for own in padded]
    )


def _some(count: int, each: int, random: np.random.Generator) -> npt.NDArray[np.int64]:
    return random.choice(count, min(count, each), replace=False)


def _cut_out(picture: Array, axes: Sequence[_Axis], places: Sequence[npt.NDArray[np.int64]]) -> Patches:
    """The patches of one input at some places of the output."""
    index = []
    for number, (axis, place) in enumerate(zip(axes, places, strict=True)):
        along = axis.starts[place][:, np.newaxis] + axis.offsets
        shape = [len(place)] + [1] * len(axes)
        shape[1 + number] = len(axis.offsets)
        index.append(along.reshape(shape))
    patches: Patches = picture[tuple(index)]
    return patches


class _Axis(NamedTuple):
    """How a window moves along one axis of what is padded."""

    starts: npt.NDArray[np.int64]
    offsets: npt.NDArray[np.int64]
    padding: tuple[int, int]


def _axis(size: int, window: int, stride: int, dilation: int, padding: str) -> _Axis:
    reach = dilation * (window - 1) + 1
    if padding == "same":
        lacking = max((-(-size // stride) - 1) * stride + reach - size, 0)
        before, after = lacking // 2, lacking - lacking // 2
    else:
        before, after = (reach - 1, 0) if padding == "causal" else (0, 0)
    starts = np.arange(0, before + size + after - reach + 1, stride)
    return _Axis(starts, dilation * np.arange(window), (before, after))
