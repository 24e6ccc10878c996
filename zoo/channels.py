"""Channel groups: which channels of a network must be cut or reordered together, and doing so.

Every layer that makes channels (a convolution, a dense layer) gives each of them a label, and the labels
travel along the network on each tensor's last axis: an activation hands them on, a concatenation joins
them, a flattening repeats them, a sum ties the labels of its arms together. Labels that are tied are one
*channel*; layers that share channels are one *group*. What reaches the output, or a layer of a type not
listed here, is fixed.

To slice a network is to let each group make fewer channels, or the same ones in another order, and to see
which then arrive at each weight: those positions of the weight are what the new network keeps.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import ModelError
from zoo.backend import keras
from zoo.graph import Call, calls, copy_layer, rebuild, set_weights

Labels = npt.NDArray[np.int64]
Positions = npt.NDArray[np.intp]
Keep = Mapping[str, int | Sequence[int]]

_FIXED = -1
"""The label of every channel that can never be cut, such as the network's inputs."""

layers = keras.layers
_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)
_activations = keras.activations
_ELEMENTWISE_ACTIVATIONS = (
    _activations.linear, _activations.relu, _activations.relu6, _activations.leaky_relu, _activations.elu,
    _activations.selu, _activations.celu, _activations.gelu, _activations.silu, _activations.mish,
    _activations.tanh, _activations.sigmoid, _activations.hard_sigmoid, _activations.hard_silu,
    _activations.hard_tanh, _activations.softplus, _activations.softsign, _activations.exponential,
)  # fmt: skip
_ELEMENTWISE_MERGES = (
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)
_CHANNELWISE = (
    layers.Identity, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Dropout, layers.SpatialDropout2D,
    layers.AveragePooling1D, layers.AveragePooling2D, layers.MaxPooling1D, layers.MaxPooling2D,
    layers.GlobalAveragePooling1D, layers.GlobalAveragePooling2D, layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D, layers.ZeroPadding1D, layers.ZeroPadding2D, layers.Cropping1D,
    layers.Cropping2D, layers.UpSampling1D, layers.UpSampling2D,
)  # fmt: skip


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are cut or reordered together.

    Attributes:
        name: the name of the first layer that makes them.
        channels: their labels, in the order in which they are first made.
        producers: the names of all layers that make them.
        fixed: why they cannot be cut, or empty.
    """

    name: str
    channels: Labels
    producers: tuple[str, ...]
    fixed: str

    @property
    def size(self) -> int:
        """How many channels the group has."""
        return len(self.channels)


def channel_groups(model: Any) -> dict[str, ChannelGroup]:
    """The channel groups of a functional model by name, those that cannot be cut included."""
    return _find_groups(_label_channels(model))


def cuttable_groups(model: Any) -> dict[str, ChannelGroup]:
    """The channel groups that can be cut.

    Raises:
        ModelError: there is none.
    """
    groups = channel_groups(model)
    cuttable = {name: group for name, group in groups.items() if not group.fixed}
    if not cuttable:
        reasons = "; ".join(f"{group.name}: {group.fixed}" for group in groups.values())
        raise ModelError(f"{model.name} has no channels that can be cut ({reasons or 'no layer makes channels'})")
    return cuttable


def can_be_cut(model: Any) -> bool:
    """Whether a model has channels that can be cut."""
    return any(not group.fixed for group in channel_groups(model).values())


def slice_model(model: Any, keep: Keep) -> Any:
    """The network with only the kept channels of each group, in the order given.

    Args:
        model: a functional model.
        keep: for each group that changes, the indices of the kept channels, or how many of the first.

    Returns:
        A new model that computes what the old one would with the other channels silenced.

    Raises:
        ModelError: an unknown or fixed group, or indices that it does not have.
    """
    positions = kept_positions(model, keep)

    def new_layer(layer: Any) -> Any:
        if layer.name not in positions or not _makes_channels(layer):
            return copy_layer(layer)
        size = len(positions[layer.name]["kernel"][-1])
        return copy_layer(layer, **{"units" if isinstance(layer, layers.Dense) else "filters": size})

    sliced = rebuild(model, new_layer)
    for layer in (layer for layer in model.layers if layer.weights):
        kept = positions.get(layer.name, {})
        weights = [take(weight.numpy(), kept.get(weight.name, {}), np.take) for weight in layer.weights]
        set_weights(sliced.get_layer(layer.name), weights)
    return sliced


def permute_model(model: Any, order: Mapping[str, Sequence[int]]) -> Any:
    """The network with the channels of each group reordered; it computes the same function.

    Raises:
        ModelError: an unknown or fixed group, or an order that is no permutation.
    """
    groups = channel_groups(model)
    for name, indices in order.items():
        if name in groups and sorted(indices) != list(range(groups[name].size)):
            raise ModelError(f"the order of group {name} is no permutation of its {groups[name].size} channels")
    return slice_model(model, order)


def kept_positions(model: Any, keep: Keep) -> dict[str, dict[str, dict[int, Positions]]]:
    """What ``slice_model`` keeps of each weight: layer name → weight name → axis → positions.

    Raises:
        ModelError: as ``slice_model``.
    """
    old = _label_channels(model)
    groups = _find_groups(old)
    kept = {
        producer: _kept_channels(groups, name, chosen)
        for name, chosen in keep.items()
        for producer in (groups[name].producers if name in groups else (name,))
    }

    def make(layer: Any, _size: int) -> Labels:
        made = old.made[layer.name]
        return kept[layer.name][np.isin(kept[layer.name], made)] if layer.name in kept else made

    new = _propagate(model, make)
    return {
        layer.name: _match_axes(_weight_axes(layer, old), _weight_axes(layer, new))
        for layer in model.layers
        if layer.name in old.incoming
    }


def take(weight: Any, axes: Mapping[int, Positions], gather: Callable[..., Any]) -> Any:
    """The kept positions of a weight, along each of the axes; ``gather(weight, positions, axis=…)`` does one."""
    for axis, positions in axes.items():
        weight = gather(weight, positions, axis=axis)
    return weight


@dataclass
class _Flow:
    """Where labels went: into each layer, out of each layer that makes some, and what became of them."""

    incoming: dict[str, Labels] = field(default_factory=dict)
    made: dict[str, Labels] = field(default_factory=dict)
    ties: list[tuple[Labels, Labels]] = field(default_factory=list)
    fixed: dict[int, str] = field(default_factory=dict)

    def tie(self, one: Labels, other: Labels, reason: str) -> None:
        """Notes that two rows of labels are the same channels."""
        self.ties.append((one, other))
        self.fix(np.concatenate([one[other == _FIXED], other[one == _FIXED]]), reason)

    def fix(self, labels: Labels, reason: str) -> None:
        """Notes that the labels can never be cut."""
        for label in labels[labels != _FIXED]:
            self.fixed.setdefault(int(label), reason)


def _propagate(model: Any, make: Callable[[Any, int], Labels]) -> _Flow:
    """Sends labels through the network; ``make(layer, size)`` gives those that a layer makes."""
    flow = _Flow()
    labels: dict[int, Labels] = {}
    for call in calls(model):
        incoming = [labels[id(tensor)] for tensor in call.inputs]
        outgoing = _outgoing(call, incoming, make, flow)
        labels |= {id(tensor): outgoing for tensor in call.outputs}
    for tensor in model.outputs:
        flow.fix(labels[id(tensor)], "it is the network's answer")
    return flow


def _outgoing(call: Call, incoming: list[Labels], make: Callable[[Any, int], Labels], flow: _Flow) -> Labels:
    """The labels on a call's output, given those on its inputs."""
    layer = call.layer
    size = int(call.outputs[0].shape[-1] or 0)
    if not incoming:
        return np.full(size, _FIXED)
    if _makes_channels(layer) or _keeps_channels(layer):
        _enter(flow, layer, incoming[0])
        if not _makes_channels(layer):
            return incoming[0]
        if layer.name not in flow.made:
            flow.made[layer.name] = make(layer, size)
        if layer.activation not in _ELEMENTWISE_ACTIVATIONS:
            flow.fix(flow.made[layer.name], f"the {_name(layer.activation)} of {layer.name} may compare channels")
        return flow.made[layer.name]
    if isinstance(layer, layers.Flatten) and _is_channels_last(layer):
        return np.tile(incoming[0], math.prod(call.inputs[0].shape[1:-1]))
    if isinstance(layer, layers.Concatenate) and layer.axis in (-1, len(call.outputs[0].shape) - 1):
        return np.concatenate(incoming)
    if isinstance(layer, _ELEMENTWISE_MERGES) and len({len(labels) for labels in incoming}) == 1:
        for other in incoming[1:]:
            flow.tie(incoming[0], other, f"{layer.name} combines it with channels that are fixed")
        return incoming[0]
    for labels in incoming:
        flow.fix(labels, f"it comes into {layer.name}, and how {type(layer).__name__} treats channels is not known")
    return np.full(size, _FIXED)


def _enter(flow: _Flow, layer: Any, incoming: Labels) -> None:
    """Notes what comes into a layer; a layer that is called again must get the same channels again."""
    first = flow.incoming.setdefault(layer.name, incoming)
    if first is not incoming:
        flow.tie(first, incoming, f"{layer.name} is shared with channels that are fixed")


def _makes_channels(layer: Any) -> bool:
    whole = isinstance(layer, _CONVOLUTIONS) and layer.groups == 1 and _is_channels_last(layer)
    return whole or isinstance(layer, layers.Dense)


def _is_channels_last(layer: Any) -> bool:
    return getattr(layer, "data_format", "channels_last") == "channels_last"


def _name(activation: Any) -> str:
    return str(getattr(activation, "__name__", type(activation).__name__))


def _keeps_channels(layer: Any) -> bool:
    """Whether what happens to a channel depends on that channel alone, and its position does not matter."""
    if isinstance(layer, layers.BatchNormalization):
        return layer.axis in (-1, len(layer.input.shape) - 1)
    if isinstance(layer, _DEPTHWISE):
        elementwise = layer.activation in _ELEMENTWISE_ACTIVATIONS
        return elementwise and layer.depth_multiplier == 1 and _is_channels_last(layer)
    if isinstance(layer, layers.Activation):
        return layer.activation in _ELEMENTWISE_ACTIVATIONS
    if isinstance(layer, layers.Rescaling):
        return np.ndim(layer.scale) == 0 and np.ndim(layer.offset) == 0
    return isinstance(layer, _CHANNELWISE) and _is_channels_last(layer)


def _weight_axes(layer: Any, flow: _Flow) -> dict[str, dict[int, Labels]]:
    """Per weight of a layer, by name: which of its axes carry channels, and which."""
    incoming = flow.incoming[layer.name]
    if _makes_channels(layer):
        made = flow.made[layer.name]
        return {"kernel": {-2: incoming, -1: made}, "bias": {-1: made}}
    if isinstance(layer, _DEPTHWISE):
        return {"kernel": {-2: incoming}, "bias": {-1: incoming}}
    if isinstance(layer, layers.BatchNormalization):
        return {name: {-1: incoming} for name in ("gamma", "beta", "moving_mean", "moving_variance")}
    return {}


def _label_channels(model: Any) -> _Flow:
    """Labels every channel of a network; tied labels are replaced by the least of them."""
    count = 0

    def make(_layer: Any, size: int) -> Labels:
        nonlocal count
        count += size
        return np.arange(count - size, count)

    flow = _propagate(model, make)
    _, first, component = np.unique(_components(count, flow.ties), return_index=True, return_inverse=True)
    least = np.append(first[component], _FIXED)  # the last entry, at index -1, stands for _FIXED itself
    return _Flow(
        incoming={name: least[labels] for name, labels in flow.incoming.items()},
        made={name: least[labels] for name, labels in flow.made.items()},
        fixed={int(least[label]): reason for label, reason in flow.fixed.items()},
    )


def _components(count: int, ties: list[tuple[Labels, Labels]]) -> Labels:
    """For each of ``count`` labels, the number of the connected component that it is in."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = [np.stack([one, other])[:, (one != _FIXED) & (other != _FIXED)] for one, other in ties]
    rows, columns = np.concatenate([np.zeros((2, 0), np.int64), *pairs], axis=1)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    components: Labels = connected_components(graph, directed=False)[1]
    return components


def _find_groups(flow: _Flow) -> dict[str, ChannelGroup]:
    """Layers that share channels, directly or through others, as groups."""
    producers = list(flow.made)
    count = 1 + max((int(made.max()) for made in flow.made.values()), default=0)
    member_of = _components(count, [(made, np.full_like(made, made[0])) for made in flow.made.values()])
    groups: dict[str, ChannelGroup] = {}
    for component in dict.fromkeys(int(member_of[flow.made[name][0]]) for name in producers):
        members = [name for name in producers if member_of[flow.made[name][0]] == component]
        channels = np.array(list(dict.fromkeys(np.concatenate([flow.made[name] for name in members]).tolist())))
        groups[members[0]] = ChannelGroup(members[0], channels, tuple(members), _why_fixed(flow, members, channels))
    return groups


def _why_fixed(flow: _Flow, members: Sequence[str], channels: Labels) -> str:
    if any(len(set(flow.made[name].tolist())) < len(flow.made[name]) for name in members):
        return "some of its channels are tied to each other"
    if any(len(flow.made[name]) < len(channels) for name in members):
        return "some of its layers make only a part of its channels"
    return next((flow.fixed[int(label)] for label in channels if int(label) in flow.fixed), "")


def _kept_channels(groups: Mapping[str, ChannelGroup], name: str, chosen: int | Sequence[int]) -> Labels:
    if name not in groups:
        raise ModelError(f"there is no channel group {name!r}: there are {', '.join(groups)}")
    group = groups[name]
    indices = np.arange(chosen) if isinstance(chosen, int) else np.asarray(chosen, dtype=np.int64)
    valid = len(indices) > 0 and len(np.unique(indices)) == len(indices)
    if not valid or indices.min() < 0 or indices.max() >= group.size:
        raise ModelError(f"group {name} has {group.size} channels: keep some of them, each once")
    if group.fixed and not np.array_equal(indices, np.arange(group.size)):
        raise ModelError(f"group {name} cannot be cut: {group.fixed}")
    return group.channels[indices]


def _match_axes(
    old: dict[str, dict[int, Labels]], new: dict[str, dict[int, Labels]]
) -> dict[str, dict[int, Positions]]:
    return {
        weight: {axis: _match(labels, new[weight][axis]) for axis, labels in axes.items()}
        for weight, axes in old.items()
    }


def _match(old: Labels, new: Labels) -> Positions:
    """For each new label its position among the old ones, repeated labels in turn."""
    position = {occurrence: index for index, occurrence in enumerate(_occurrences(old))}
    return np.array([position[occurrence] for occurrence in _occurrences(new)], dtype=np.intp)


def _occurrences(labels: Labels) -> list[tuple[int, int]]:
    """Each label with how often it came before."""
    seen: Counter[int] = Counter()
    result = []
    for label in labels.tolist():
        result.append((label, seen[label]))
        seen[label] += 1
    return result
