"""The analysis of a network: its channel groups, and where in its weights their channels are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np

from fleetfoot.errors import ModelError, offer
from zoo.channels.flow import FIXED, Counts, Flow, Labels, Mask, Positioned, Positions
from zoo.channels.groups import ChannelGroup, find_groups
from zoo.channels.rules import follow
from zoo.graph import calls, inlined

Keep = Mapping[str, int | Sequence[int]]
"""For each group that changes, the indices of the kept channels in their order, or how many of the first."""

_DROPPED = -2


class Place(NamedTuple):
    """An axis of a weight that carries channels of a group.

    Attributes:
        layer: the name of the layer.
        weight: the name of its weight.
        axis: the axis, counted from the end.
        channels: per position on the axis, the index of the channel in its group, or -1 for another group's.
        role: whether the layer ``makes`` these channels, ``reads`` them to make others, or ``carries`` them along.
    """

    layer: str
    weight: str
    axis: int
    channels: Labels
    role: Literal["makes", "reads", "carries"]


@dataclass(frozen=True)
class Channels:
    """What is known of a network's channels.

    Attributes:
        model: the network, models inside it opened up.
        groups: its channel groups by name, those that cannot be cut included.
    """

    model: Any
    groups: Mapping[str, ChannelGroup]
    _flow: Flow
    _labels: Mapping[int, Labels]

    @cached_property
    def cuttable(self) -> dict[str, ChannelGroup]:
        """The groups that can be cut."""
        return {name: group for name, group in self.groups.items() if not group.fixed}

    def require_cuttable(self) -> dict[str, ChannelGroup]:
        """The groups that can be cut.

        Raises:
            ModelError: there is none; it says why of every group.
        """
        if not self.cuttable:
            reasons = "; ".join(f"{group.name}: {group.fixed}" for group in self.groups.values())
            raise ModelError(
                f"{self.model.name} has no channels that can be cut ({reasons or 'no layer makes channels'})"
            )
        return self.cuttable

    def places(self, name: str) -> Iterator[Place]:
        """Where the weights carry the channels of a group."""
        index_of = np.full(len(self._number_of), -1)
        members = self.groups[name].members
        index_of[members] = np.arange(len(members))[:, np.newaxis]
        for layer, part in self._flow.parts.items():
            for weight, axes in part.weights.items():
                for axis, labels in axes.items():
                    channels = index_of[labels]
                    if (channels >= 0).any():
                        reads: Literal["reads", "carries"] = "carries" if part.made is None else "reads"
                        yield Place(layer, weight, axis, channels, "makes" if labels is part.made else reads)

    def labels(self, tensor: Any) -> Labels:
        """The labels that one of the network's tensors carries."""
        return self._labels[id(tensor)]

    def carried(self, tensors: Iterable[Any]) -> tuple[str, ...]:
        """The names of the groups that can be cut and whose channels some of the network's tensors carry."""
        found = {int(number) for tensor in tensors for number in self.counts(self.labels(tensor)).nonzero()[0]}
        return tuple(name for number, name in enumerate(self.groups) if number in found and name in self.cuttable)

    def counts(self, labels: Labels) -> Counts:
        """How many of some labels are of each group, in the order of ``groups``."""
        return np.bincount(self._number_of[labels].ravel() + 1, minlength=len(self.groups) + 1)[1:]

    def axes(self, layer: str) -> Mapping[str, Mapping[int, Labels]]:
        """Which labels a layer's weights carry: weight → axis → labels."""
        part = self._flow.parts.get(layer)
        return part.weights if part else {}

    def stays(self, keep: Keep) -> Mask:
        """Which labels stay, by label; the last stands for what can never be cut.

        Raises:
            ModelError: an unknown or fixed group, or indices that it does not have.
        """
        stays: Mask = self._becomes(keep) != _DROPPED
        return stays

    def positions(self, keep: Keep) -> Positioned:
        """Which positions of a row of labels stay, and in which order.

        Raises:
            ModelError: an unknown or fixed group, or indices that it does not have.
        """
        becomes = self._becomes(keep)

        def positions(labels: Labels) -> Positions:
            stay = becomes[labels]
            return _match(labels, stay[stay != _DROPPED])

        return positions

    def kept_axes(self, layer: str, positions: Positioned) -> dict[str, dict[int, Positions]]:
        """What stays of a layer's weights: weight → axis → positions."""
        weights = self.axes(layer).items()
        return {weight: {axis: positions(labels) for axis, labels in axes.items()} for weight, axes in weights}

    def resized(self, layer: str, positions: Positioned) -> dict[str, Any]:
        """What changes in a layer's configuration."""
        part = self._flow.parts.get(layer)
        return part.resize(positions) if part else {}

    @cached_property
    def _number_of(self) -> Labels:
        """By label, the number of its group in the order of ``groups``; -1 for what can never be cut, the last."""
        numbers = np.full(len(self._flow.producers) + 1, -1)
        for number, group in enumerate(self.groups.values()):
            numbers[group.members] = number
        return numbers

    def _becomes(self, keep: Keep) -> Labels:
        """By label, the one that takes its place."""
        becomes = np.arange(len(self._number_of))
        becomes[FIXED] = FIXED
        for name, chosen in keep.items():
            indices = self._chosen(name, chosen)
            members = self.groups[name].members
            becomes[members] = _DROPPED
            becomes[members[np.sort(indices)]] = members[indices]
        return becomes

    def _chosen(self, name: str, chosen: int | Sequence[int]) -> Positions:
        """The kept channels of a group as indices."""
        if name not in self.groups:
            raise ModelError(f"there is no channel group {name!r}: {offer(name, self.groups)}{self._belongs(name)}")
        group = self.groups[name]
        indices = indices_of(chosen)
        valid = len(indices) > 0 and len(np.unique(indices)) == len(indices)
        if not valid or indices.min() < 0 or indices.max() >= group.size:
            raise ModelError(f"group {name} has {group.size} channels: keep some of them, each once")
        if group.fixed and not np.array_equal(indices, np.arange(group.size)):
            raise ModelError(f"group {name} cannot be cut: {group.fixed}")
        return indices

    def _belongs(self, layer: str) -> str:
        """What to add where the name of a layer was taken for that of its group."""
        names = [name for name, group in self.groups.items() if layer in group.producers]
        return f" (layer {layer} is in {' and '.join(names)})" if names else ""


def analyse(model: Any) -> Channels:
    """Finds the channel groups of a functional or sequential model; what was analysed already is handed back."""
    if isinstance(model, Channels):
        return model
    model = inlined(model)
    flow = Flow()
    labels: dict[int, Labels] = {}
    for call in calls(model):
        outgoing = follow(call, [labels[id(tensor)] for tensor in call.inputs], flow)
        labels |= {id(tensor): row for tensor, row in zip(call.outputs, outgoing, strict=True)}
    for tensor in model.outputs:
        flow.fix(labels[id(tensor)], "it is the network's answer")
    return Channels(model, find_groups(flow), flow, labels)


def indices_of(chosen: int | Sequence[int]) -> Positions:
    """The indices of kept channels: those given, or the first so many.

    Raises:
        ModelError: neither a count nor a list of indices.
    """
    if isinstance(chosen, int | np.integer):
        return np.arange(chosen)
    indices = np.asarray(chosen)
    if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
        raise ModelError(f"{chosen!r} is no choice of channels: give their indices, or how many of the first to keep")
    return indices.astype(np.intp)


def channel_groups(model: Any) -> Mapping[str, ChannelGroup]:
    """The channel groups of a model by name, those that cannot be cut included."""
    return analyse(model).groups


def cuttable_groups(model: Any) -> dict[str, ChannelGroup]:
    """The channel groups that can be cut.

    Raises:
        ModelError: there is none; it says why of every group.
    """
    return analyse(model).require_cuttable()


def can_be_cut(model: Any) -> bool:
    """Whether a model has channels that can be cut."""
    return bool(analyse(model).cuttable)


def _match(old: Labels, new: Labels) -> Positions:
    """For each new label its position among the old ones, repeated labels in turn."""
    keys, wanted = (labels * (len(old) + 1) + _occurrences(labels) for labels in (old, new))
    order = np.argsort(keys)
    positions: Positions = order[np.searchsorted(keys, wanted, sorter=order)]
    return positions


def _occurrences(labels: Labels) -> Labels:
    """How often each label came before."""
    order = np.argsort(labels, kind="stable")
    _, first, counts = np.unique(labels[order], return_index=True, return_counts=True)
    seen = np.empty(len(labels), np.int64)
    seen[order] = np.arange(len(labels)) - np.repeat(first, counts)
    return seen
