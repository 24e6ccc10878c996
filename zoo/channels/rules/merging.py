"""Layers that bring several tensors together: sums, products, and tensors side by side."""

from __future__ import annotations

import math

import numpy as np
from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer

from zoo.backend import keras
from zoo.channels.flow import Flow, Labels, compressed, fixed, lying
from zoo.channels.rules.passing import elementwise
from zoo.channels.rules.registry import operation_rule, rule
from zoo.graph import Call

layers = keras.layers

rule(StochasticDepth)(elementwise)


@rule(
    layers.Add, layers.Subtract, layers.Multiply, layers.Average, layers.Maximum, layers.Minimum, CustomScaleLayer,
    most_inputs=math.inf,
)  # fmt: skip
def arithmetic(call: Call, incoming: list[Labels], flow: Flow) -> Labels | None:
    """What is combined value by value is the same channel; one channel spread over all of another stays."""
    rank = len(call.outputs[0].shape) - 1
    if any(labels.ndim != rank for labels in incoming):
        return None
    alike = []
    for number, labels in enumerate(incoming):
        others = incoming[:number] + incoming[number + 1 :]
        spread = _is_spread(call.inputs[number].shape[1:], call.outputs[0].shape[1:], others)
        if spread:
            flow.fix(labels, f"{call.layer.name} spreads it over the channels of another")
        if not spread or labels.size > 1:
            alike.append(labels)
    if not alike:
        return None
    first, *others = np.broadcast_arrays(*alike)
    for other in others:
        flow.tie(first.ravel(), other.ravel(), f"{call.layer.name} combines it with channels that are fixed")
    return np.ascontiguousarray(first)


def _is_spread(shape: tuple[int | None, ...], result: tuple[int | None, ...], others: list[Labels]) -> bool:
    """Whether one value of a tensor meets several channels of the others."""
    return any(
        size == 1 and wide != 1 and any(labels.shape[axis] > 1 for labels in others)
        for axis, (size, wide) in enumerate(zip(shape, result, strict=True))
    )


# As written ``x + y``, or with a number.
operation_rule("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", most_inputs=2)(arithmetic)


@rule(layers.Concatenate, most_inputs=math.inf)
def concatenate(call: Call, incoming: list[Labels], flow: Flow) -> Labels | None:
    """Side by side on any axis; along the others, all have the same channels."""
    layer = call.layer
    shape = call.outputs[0].shape[1:]
    axis = layer.axis % (len(shape) + 1) - 1
    sizes = [tensor.shape[1 + axis] for tensor in call.inputs]
    if axis < 0 or None in sizes:
        return None
    common = np.broadcast_shapes(*((*labels.shape[:axis], 1, *labels.shape[axis + 1 :]) for labels in incoming))
    parts = [
        np.broadcast_to(labels, (*common[:axis], size, *common[axis + 1 :]))
        for labels, size in zip(incoming, sizes, strict=True)
    ]
    joined = compressed(np.concatenate(parts, axis))
    for other in range(len(shape)):
        if other != axis and joined.shape[other] > 1:
            flow.along(joined, other, shape, layer)
    return joined


@rule(LayerScale)
def layer_scale(call: Call, incoming: list[Labels], flow: Flow) -> Labels:
    """ConvNeXt's factor per channel."""
    layer = call.layer
    shape = call.inputs[0].shape[1:]
    into = flow.along(incoming[0], -1, shape, layer)
    flow.take_part(
        layer, {layer.gamma.name: {-1: into}}, resize=lambda positions: {"projection_dim": len(positions(into))}
    )
    return lying(into, -1, len(shape))


@rule(layers.InputLayer)
def network_input(call: Call, incoming: list[Labels], flow: Flow) -> Labels:
    """Inputs are never cut."""
    return fixed(len(call.outputs[0].shape) - 1)
