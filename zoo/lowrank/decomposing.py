"""Putting thinner layers in the place of some."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zoo.graph import copy_layer, inlined, rebuild, set_weights
from zoo.lowrank.factors import Kernel, factorize
from zoo.lowrank.forms import check, groups_of, kernel_of, new_layers
from zoo.recipe import LayerRank


def decompose(
    model: Any, ranks: Mapping[str, LayerRank], kernels: Mapping[str, tuple[Kernel, ...]] | None = None
) -> Any:
    """The network with each named layer as two or three: thin ones without bias, then one of its name.

    Exact when each rank is full.

    Args:
        model: a functional or sequential model; models inside it are taken apart.
        ranks: by the name of a layer, how it is decomposed.
        kernels: for some of the layers, those of the layers that they become; of others, the nearest to the weights.

    Returns:
        A new model, but for ``model`` itself where there are no ranks. Batch norms, strides, paddings, dilations and
        groups are as before; constraints on kernels are left out, because factors do not have to meet them.

    Raises:
        ModelError: a layer that is not there or cannot be decomposed that way, or a rank that it cannot have.
    """
    if not ranks:
        return model
    model = inlined(model)
    check(model, ranks)
    taken = {layer.name for layer in model.layers}
    chains = {name: new_layers(model.get_layer(name), chosen, taken) for name, chosen in ranks.items()}

    def new_layer(layer: Any) -> Any:
        return chains[layer.name][-1] if layer.name in ranks else copy_layer(layer)

    def call(layer: Any, *args: Any, **kwargs: Any) -> Any:
        if layer.name not in ranks:
            return layer(*args, **kwargs)
        tensor = args[0] if args else kwargs["inputs"]
        for part in chains[layer.name]:
            tensor = part(tensor)
        return tensor

    decomposed = rebuild(model, new_layer, call)
    for layer in (layer for layer in model.layers if layer.weights):
        if layer.name in ranks:
            own = (kernels or {}).get(layer.name) or _nearest(layer, ranks[layer.name])
            set_kernels(chains[layer.name], own, layer.get_weights()[1:])
        else:
            set_weights(decomposed.get_layer(layer.name), layer.get_weights())
    return decomposed


def set_kernels(chain: list[Any], kernels: tuple[Kernel, ...], bias: list[Any]) -> None:
    """Gives the layers that a layer became their kernels, and the last the bias, if there is one."""
    for part, kernel in zip(chain[:-1], kernels[:-1], strict=True):
        part.set_weights([kernel])
    chain[-1].set_weights([kernels[-1], *bias])


def _nearest(layer: Any, chosen: LayerRank) -> tuple[Kernel, ...]:
    return factorize(kernel_of(layer), chosen.scheme, chosen.rank, groups=groups_of(layer))
