"""Layers that compute new channels from all they get, and depthwise ones, which keep them apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo.architectures.grouped import GroupedConv2D
from zoo.backend import keras
from zoo.channels.flow import Flow, Labels, lying
from zoo.channels.rules.passing import channel_axis, is_elementwise
from zoo.channels.rules.registry import rule
from zoo.graph import Call

layers = keras.layers


@rule(layers.Dense)
def dense(call: Call, incoming: list[Labels], flow: Flow) -> Labels:
    """Works on the last axis."""
    layer = call.layer
    into = flow.along(incoming[0], -1, call.inputs[0].shape[1:], layer)
    made = flow.make(layer, layer.units)
    flow.take_part(
        layer,
        {"kernel": {-2: into, -1: made}, "bias": {-1: made}},
        made=made,
        resize=lambda positions: {"units": len(positions(made))},
    )
    return _activated(call, made, flow)


@rule(layers.Conv1D, layers.Conv2D, layers.Conv3D, GroupedConv2D)
def convolution(call: Call, incoming: list[Labels], flow: Flow) -> Labels:
    """With groups, blocks of its inputs see blocks of its outputs only."""
    layer = call.layer
    into = flow.along(incoming[0], channel_axis(layer, incoming[0].ndim), call.inputs[0].shape[1:], layer)
    made = flow.make(layer, layer.filters)
    if layer.groups == 1:
        flow.take_part(
            layer,
            {"kernel": {-2: into, -1: made}, "bias": {-1: made}},
            made=made,
            resize=lambda positions: {"filters": len(positions(made))},
        )
    elif layer.groups >= len(into) // layer.groups:
        _whole_blocks(layer, into, made, flow)
    else:
        _alike_in_blocks(layer, into, made, flow)
    return _activated(call, made, flow)


def _whole_blocks(layer: Any, into: Labels, made: Labels, flow: Flow) -> None:
    """Where there are many blocks, each goes or stays as a whole, its outputs with its inputs."""
    first = into.reshape(layer.groups, -1)[:, 0]
    for block in (into.reshape(layer.groups, -1), made.reshape(layer.groups, -1)):
        for column in block.T:
            flow.tie(first, column, f"{layer.name} computes it from channels that are fixed")
    per_block = len(made) // layer.groups

    def resize(positions: Any) -> dict[str, int]:
        filters = len(positions(made))
        return {"filters": filters, "groups": filters // per_block}

    flow.take_part(layer, {"kernel": {-1: made}, "bias": {-1: made}}, made=made, resize=resize)


def _alike_in_blocks(layer: Any, into: Labels, made: Labels, flow: Flow) -> None:
    """Where there are few blocks, all keep the same channels, counted within each."""
    for labels in (into, made):
        blocks = labels.reshape(layer.groups, -1)
        for block in blocks[1:]:
            flow.tie(blocks[0], block, f"{layer.name} cuts its groups alike, and some are fixed")
    flow.take_part(
        layer,
        {"kernel": {-2: into[: len(into) // layer.groups], -1: made}, "bias": {-1: made}},
        made=made,
        resize=lambda positions: {"filters": len(positions(made))},
    )


@rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def transposed(call: Call, incoming: list[Labels], flow: Flow) -> Labels | None:
    """A transposed convolution, whose kernel has its outputs before its inputs."""
    layer = call.layer
    if getattr(layer, "groups", 1) != 1:
        return None
    into = flow.along(incoming[0], channel_axis(layer, incoming[0].ndim), call.inputs[0].shape[1:], layer)
    made = flow.make(layer, layer.filters)
    flow.take_part(
        layer,
        {"kernel": {-2: made, -1: into}, "bias": {-1: made}},
        made=made,
        resize=lambda positions: {"filters": len(positions(made))},
    )
    return _activated(call, made, flow)


@rule(layers.SeparableConv1D, layers.SeparableConv2D)
def separable(call: Call, incoming: list[Labels], flow: Flow) -> Labels:
    """A depthwise convolution and a pointwise one."""
    layer = call.layer
    into = flow.along(incoming[0], channel_axis(layer, incoming[0].ndim), call.inputs[0].shape[1:], layer)
    made = flow.make(layer, layer.filters)
    between = np.repeat(into, layer.depth_multiplier)
    flow.take_part(
        layer,
        {"depthwise_kernel": {-2: into}, "pointwise_kernel": {-2: between, -1: made}, "bias": {-1: made}},
        made=made,
        resize=lambda positions: {"filters": len(positions(made))},
    )
    return _activated(call, made, flow)


@rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def depthwise(call: Call, incoming: list[Labels], flow: Flow) -> Labels:
    """Makes one or several channels of each, which go with it."""
    layer = call.layer
    into = flow.along(incoming[0], channel_axis(layer, incoming[0].ndim), call.inputs[0].shape[1:], layer)
    outgoing = np.repeat(into, layer.depth_multiplier)
    flow.take_part(layer, {"kernel": {-2: into}, "bias": {-1: outgoing}})
    return _activated(call, outgoing, flow)


def _activated(call: Call, row: Labels, flow: Flow) -> Labels:
    """The labels of the output, where the layer's own activation keeps channels apart; else they are fixed."""
    layer = call.layer
    if not is_elementwise(layer.activation):
        name = getattr(layer.activation, "__name__", type(layer.activation).__name__)
        flow.fix(row, f"the {name} of {layer.name} may compare channels")
    rank = len(call.outputs[0].shape) - 1
    return lying(row, channel_axis(layer, rank), rank)
