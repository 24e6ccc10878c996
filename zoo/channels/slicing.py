"""Cutting channels out of a network, and putting them in another order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from fleetfoot.errors import ModelError
from zoo.backend import keras
from zoo.channels.analysis import Channels, Keep, analyse
from zoo.channels.flow import Positions
from zoo.graph import copy_layer, rebuild, set_weights


def slice_model(model: Any | Channels, keep: Keep) -> Any:
    """The network with only the kept channels of each group, in the order given.

    Args:
        model: a functional or sequential model, or its analysis.
        keep: for each group that changes, the indices of the kept channels, or how many of the first.

    Returns:
        A new model, models inside it opened up, that computes what the old one would with the other channels
        silenced. Layer and group normalisation take their statistics of the channels that stay.

    Raises:
        ModelError: an unknown or fixed group, or indices that it does not have.
    """
    channels = analyse(model)
    positions = channels.positions(keep)

    def new_layer(layer: Any) -> Any:
        return copy_layer(layer, **_scalar_initializers(layer), **channels.resized(layer.name, positions))

    sliced = rebuild(channels.model, new_layer)
    for layer in (layer for layer in channels.model.layers if layer.weights):
        kept = channels.kept_axes(layer.name, positions)
        weights = [take(weight.numpy(), kept.get(weight.name, {}), np.take) for weight in layer.weights]
        set_weights(sliced.get_layer(layer.name), weights)
    return sliced


def permute_model(model: Any | Channels, order: Mapping[str, Sequence[int]]) -> Any:
    """The network with the channels of each group reordered; it computes the same function.

    Raises:
        ModelError: an unknown or fixed group, or an order that is no permutation.
    """
    channels = analyse(model)
    for name, indices in order.items():
        if name in channels.groups and sorted(indices) != list(range(channels.groups[name].size)):
            raise ModelError(
                f"the order of group {name} is no permutation of its {channels.groups[name].size} channels"
            )
    return slice_model(channels, order)


def kept_positions(model: Any | Channels, keep: Keep) -> dict[str, dict[str, dict[int, Positions]]]:
    """What ``slice_model`` keeps of each weight: layer name → weight name → axis → positions.

    Raises:
        ModelError: as ``slice_model``.
    """
    channels = analyse(model)
    positions = channels.positions(keep)
    return {layer.name: channels.kept_axes(layer.name, positions) for layer in channels.model.layers}


def _scalar_initializers(layer: Any) -> dict[str, str]:
    """What takes the place of initializers that are arrays, which fit no other shape; the weights are set anyway."""
    config = layer.get_config() if isinstance(layer, keras.layers.Layer) else {}
    return {
        name: "zeros"
        for name, value in config.items()
        if name.endswith("_initializer")
        and isinstance(value, dict)
        and value["class_name"] == "Constant"
        and not isinstance(value["config"]["value"], int | float)
    }


def take(weight: Any, axes: Mapping[int, Positions], gather: Callable[..., Any]) -> Any:
    """The kept positions of a weight, along each of the axes; ``gather(weight, positions, axis=…)`` does one."""
    for axis, positions in axes.items():
        weight = gather(weight, positions, axis=axis)
    return weight
