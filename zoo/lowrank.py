"""Low-rank decomposition: one layer as two thinner ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import ModelError, UsageError
from zoo.backend import keras
from zoo.graph import copy_layer, rebuild, set_weights
from zoo.pruning import WIDTH_MULTIPLE
from zoo.recipe import LayerRank, Scheme

Matrix = npt.NDArray[np.float32]

layers = keras.layers


def decompose(model: Any, ranks: Mapping[str, LayerRank]) -> Any:
    """The network with each named layer as two: ``<name>_rank``, which makes the components, then ``<name>``.

    Exact when each rank is full.

    Raises:
        ModelError: a layer that is not there or cannot be decomposed that way, or a rank that it cannot have.
    """
    for name, chosen in ranks.items():
        _check(model, name, chosen)
    factors = {name: _factorize(model.get_layer(name), chosen.rank) for name, chosen in ranks.items()}
    thin = {name: _thin_layer(model.get_layer(name), chosen.rank) for name, chosen in ranks.items()}

    def new_layer(layer: Any) -> Any:
        return _full_layer(layer) if layer.name in ranks else copy_layer(layer)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        return layer(thin[layer.name](*args)) if layer.name in ranks else layer(*args, **kwargs)

    decomposed = rebuild(model, new_layer, call)
    for layer in (layer for layer in model.layers if layer.weights):
        if layer.name in ranks:
            first, second = factors[layer.name]
            thin[layer.name].set_weights([first])
            bias = [layer.bias.numpy()] if layer.use_bias else []
            decomposed.get_layer(layer.name).set_weights([second, *bias])
        else:
            set_weights(decomposed.get_layer(layer.name), layer.get_weights())
    return decomposed


def ranks_for_energy(model: Any, energy: float) -> dict[str, LayerRank]:
    """For each layer that gets cheaper by it, the least rank that keeps a share of its energy (Σσ²).

    Ranks are rounded up to a multiple of what runtimes compute at once.

    Raises:
        UsageError: an energy outside (0, 1].
    """
    if not 0 < energy <= 1:
        raise UsageError(f"the energy to keep must be above 0 and at most 1, and {energy:g} is not")
    chosen = {}
    for layer in model.layers:
        scheme = scheme_for(layer)
        if scheme is None:
            continue
        kept = np.cumsum(np.square(np.linalg.svd(_as_matrix(layer), compute_uv=False), dtype=np.float64))
        least = int(np.searchsorted(kept, energy * kept[-1])) + 1
        rank = WIDTH_MULTIPLE * -(-least // WIDTH_MULTIPLE)
        if _is_cheaper(layer, rank):
            chosen[layer.name] = LayerRank(scheme=scheme, rank=rank)
    return chosen


def scheme_for(layer: Any) -> Scheme | None:
    """The scheme by which a layer can be decomposed, if any."""
    if isinstance(layer, layers.Dense):
        return "dense"
    if isinstance(layer, layers.Conv2D) and min(layer.kernel_size) > 1:
        plain = layer.groups == 1 and tuple(layer.dilation_rate) == (1, 1)
        return "spatial" if plain and layer.data_format == "channels_last" else None
    return None


def _check(model: Any, name: str, chosen: LayerRank) -> None:
    names = [layer.name for layer in model.layers if scheme_for(layer)]
    if name not in names:
        raise ModelError(f"{model.name} has no layer {name!r} that can be decomposed: there are {', '.join(names)}")
    layer = model.get_layer(name)
    if scheme_for(layer) != chosen.scheme:
        raise ModelError(f"layer {name} is decomposed as {scheme_for(layer)}, not as {chosen.scheme}")
    full = min(_as_matrix(layer).shape)
    if not 1 <= chosen.rank <= full:
        raise ModelError(f"layer {name} has ranks from 1 to {full}, not {chosen.rank}")


def _as_matrix(layer: Any) -> Matrix:
    """The kernel as a matrix: of a convolution of shape (rows·in, columns·out), of a dense layer (in, out).

    Jaderberg et al., "Speeding up convolutional neural networks with low rank expansions", BMVC 2014, scheme 2.
    """
    kernel: Matrix = layer.kernel.numpy()
    if kernel.ndim == 2:
        return kernel
    height, width, channels, filters = kernel.shape
    return kernel.transpose(0, 2, 1, 3).reshape(height * channels, width * filters)


def _factorize(layer: Any, rank: int) -> tuple[Matrix, Matrix]:
    """The best two kernels of that rank: M ≈ (U √S)(√S Vᵀ), each half carrying the root of the scale."""
    u, s, vt = np.linalg.svd(_as_matrix(layer), full_matrices=False)
    first, second = u[:, :rank] * np.sqrt(s[:rank]), np.sqrt(s[:rank])[:, None] * vt[:rank]
    if isinstance(layer, layers.Dense):
        return first, second
    height, width, channels, filters = layer.kernel.shape
    vertical = first.reshape(height, 1, channels, rank)
    horizontal = second.reshape(rank, width, filters).transpose(1, 0, 2)[np.newaxis]
    return vertical, horizontal


def _thin_layer(layer: Any, rank: int) -> Any:
    """The first of the two layers: (height, 1) with the vertical stride, or a dense one, without bias."""
    plain = {"name": f"{layer.name}_rank", "activation": "linear", "use_bias": False}
    if isinstance(layer, layers.Dense):
        return copy_layer(layer, units=rank, **plain)
    size, stride = (layer.kernel_size[0], 1), (layer.strides[0], 1)
    return copy_layer(layer, filters=rank, kernel_size=size, strides=stride, **plain)


def _full_layer(layer: Any) -> Any:
    """The second of the two layers, with the original's bias and activation."""
    if isinstance(layer, layers.Dense):
        return copy_layer(layer)
    return copy_layer(layer, kernel_size=(1, layer.kernel_size[1]), strides=(1, layer.strides[1]))


def _is_cheaper(layer: Any, rank: int) -> bool:
    """Whether two layers of that rank take fewer multiply-accumulates than the one."""
    rows, columns = _as_matrix(layer).shape
    if isinstance(layer, layers.Dense):
        return bool(rank * (rows + columns) < rows * columns)
    height_in, width_in = layer.input.shape[1:3]
    height_out, width_out = layer.output.shape[1:3]
    if None in (height_in, width_in):
        return bool(rank * (rows + columns) < rows * columns)
    whole = rows * columns * height_out * width_out
    return bool(rank * (rows * height_out * width_in + columns * height_out * width_out) < whole)
