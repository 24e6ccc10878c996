"""From labels to groups: which channels are one, and which of them are alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zoo.channels.flow import FIXED, Flow, Labels

Hashes = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that can be cut and reordered among each other, as the same layers make them all.

    Attributes:
        name: the name of the first layer that makes them.
        members: their labels, of shape (channels, labels per channel).
        producers: the names of all layers that make them.
        fixed: why they cannot be cut, or empty.
    """

    name: str
    members: Labels
    producers: tuple[str, ...]
    fixed: str

    @property
    def size(self) -> int:
        """How many channels the group has."""
        return len(self.members)


def find_groups(flow: Flow) -> dict[str, ChannelGroup]:
    """Labels that are tied are one channel; channels made by the same layers and tied alike are a group."""
    channels = _channels(len(flow.producers), flow.ties)
    alike: dict[tuple[tuple[str, ...], int], list[Labels]] = {}
    for labels, fingerprint in zip(channels, _fingerprints(channels, flow), strict=True):
        producers = tuple(flow.producers[label] for label in labels.tolist())
        alike.setdefault((producers, fingerprint), []).append(labels)
    groups: dict[str, ChannelGroup] = {}
    for (producers, _), rows in sorted(alike.items(), key=lambda item: int(item[1][0][0])):
        name = _free_name(producers[0], groups)
        members = np.stack(rows)
        groups[name] = ChannelGroup(name, members, tuple(dict.fromkeys(producers)), _why_fixed(members, flow.fixed))
    return groups


def _channels(count: int, ties: Sequence[tuple[Labels, Labels]]) -> list[Labels]:
    """The labels of each channel, ascending; channels in the order of their first labels."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    pairs = [np.stack([one, other])[:, (one != FIXED) & (other != FIXED)] for one, other in ties]
    rows, columns = np.concatenate([np.zeros((2, 0), np.int64), *pairs], axis=1)
    graph = coo_array((np.ones(len(rows)), (rows, columns)), shape=(count, count))
    component = connected_components(graph, directed=False)[1]
    order = np.argsort(component, kind="stable")
    parts = np.split(order, np.flatnonzero(np.diff(component[order])) + 1) if count else []
    return sorted(parts, key=lambda labels: int(labels[0]))


def _fingerprints(channels: Sequence[Labels], flow: Flow) -> list[int]:
    """Numbers that are equal for channels whose labels are tied to each other in the same way.

    Only then two channels can change places: what the labels of one were to each other, those of the other are.
    """
    channel_of, rank_of = (np.zeros(len(flow.producers) + 1, np.int64) for _ in range(2))  # the last stands for FIXED
    for number, members in enumerate(channels):
        channel_of[members], rank_of[members] = number, np.arange(len(members))
    rank_of[FIXED] = -1
    fingerprints = np.zeros(len(channels), np.uint64)
    for number, (one, other) in enumerate(flow.ties):
        for labels in (one, other):
            seen = labels != FIXED
            hashed = _hash(number, rank_of[one[seen]], rank_of[other[seen]])
            np.add.at(fingerprints, channel_of[labels[seen]], hashed)
    return [int(fingerprint) for fingerprint in fingerprints]


def _hash(number: int, *columns: Labels) -> Hashes:
    """A number for each row of the columns (the mixing step of SplitMix64)."""
    mixed = np.full(len(columns[0]), number, np.uint64)
    for column in columns:
        mixed = (mixed ^ column.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def _why_fixed(members: Labels, fixed: Mapping[int, str]) -> str:
    reason = next((fixed[label] for label in members.ravel().tolist() if label in fixed), "")
    if not reason and len(members) == 1:
        return "it has one channel only" if members.size == 1 else "all its channels hang together"
    return reason


def _free_name(name: str, taken: Mapping[str, ChannelGroup]) -> str:
    """The name, or with a number behind it where a layer makes channels of several groups."""
    count = 1
    while (numbered := name if count == 1 else f"{name}#{count}") in taken:
        count += 1
    return numbered
