"""Normalisations.

Batch normalisation treats each channel by itself. Layer and group normalisation take statistics over several: when
channels go, the statistics are of those that stay.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo.backend import keras
from zoo.channels.flow import Flow, Labels, lying
from zoo.channels.rules.registry import rule
from zoo.graph import Call

layers = keras.layers
_OF_BATCH_NORM = (
    "gamma", "beta", "moving_mean", "moving_variance", "moving_stddev", "renorm_mean", "renorm_stddev"
)  # fmt: skip


@rule(layers.BatchNormalization)
def batch_normalization(call: Call, incoming: list[Labels], flow: Flow) -> Labels:
    """Has all its weights per channel."""
    layer = call.layer
    into, outgoing = _along(call, incoming[0], layer.axis, flow)
    flow.take_part(layer, {weight.name: {-1: into} for weight in layer.weights if weight.name in _OF_BATCH_NORM})
    return outgoing


@rule(layers.LayerNormalization, layers.RMSNormalization, layers.UnitNormalization)
def layer_normalization(call: Call, incoming: list[Labels], flow: Flow) -> Labels | None:
    """Has a weight for each place that it takes statistics over; the last of its axes may be the channels'."""
    layer = call.layer
    rank = incoming[0].ndim
    *first, last = (int(axis) % (rank + 1) for axis in np.atleast_1d(layer.axis))
    if rank in first:
        return None
    into, outgoing = _along(call, incoming[0], -1, flow)
    flow.take_part(layer, {name: {-1: into} if last == rank else {} for name in ("gamma", "beta", "scale")})
    return outgoing


@rule(layers.GroupNormalization)
def group_normalization(call: Call, incoming: list[Labels], flow: Flow) -> Labels:
    """Takes statistics over blocks of channels.

    Where there are many blocks, each goes or stays as a whole; where there are few, all keep the same channels,
    counted within each.
    """
    layer = call.layer
    into, outgoing = _along(call, incoming[0], layer.axis, flow)
    blocks = into.reshape(layer.groups, -1)
    per_block = blocks.shape[1]
    whole = layer.groups >= per_block
    alike = blocks.T if whole else blocks
    for row in alike[1:]:
        flow.tie(alike[0], row, f"{layer.name} cuts its groups alike, and some are fixed")

    def resize(positions: Any) -> dict[str, int]:
        return {"groups": len(positions(into)) // per_block} if whole else {}

    flow.take_part(layer, {"gamma": {-1: into}, "beta": {-1: into}}, shaped_by=into, resize=resize)
    return outgoing


@rule(layers.Normalization)
def normalization(call: Call, incoming: list[Labels], flow: Flow) -> Labels | None:
    """By a mean and a variance per channel, which it learnt or was given; or by one for all."""
    layer = call.layer
    rank = incoming[0].ndim
    if layer.axis not in ((), (-1,), (rank,)):
        return None
    into, outgoing = _along(call, incoming[0], -1, flow)
    per_channel = {-1: into} if layer.axis else {}
    given = {"mean": layer.input_mean, "variance": layer.input_variance}

    def resize(positions: Any) -> dict[str, Any]:
        return {
            name: np.asarray(values).ravel()[positions(into)].tolist()
            for name, values in given.items()
            if values is not None and np.size(values) > 1
        }

    flow.take_part(layer, {"mean": per_channel, "variance": per_channel, "count": {}}, shaped_by=into, resize=resize)
    return outgoing


def _along(call: Call, labels: Labels, axis: int, flow: Flow) -> tuple[Labels, Labels]:
    """The labels along an axis of the tensor with its batch, as a row and as the labels of a tensor."""
    shape = call.inputs[0].shape
    place = axis % len(shape) - 1
    row = flow.along(labels, place, shape[1:], call.layer)
    return row, lying(row, place, len(shape) - 1)
