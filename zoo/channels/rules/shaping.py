"""Layers that only arrange values anew."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo.backend import keras
from zoo.channels.flow import Flow, Labels, compressed
from zoo.channels.rules.passing import channel_axis
from zoo.channels.rules.registry import rule
from zoo.graph import Call

layers = keras.layers


@rule(layers.Flatten)
def flatten(call: Call, incoming: list[Labels], flow: Flow) -> Labels | None:
    """Repeats every channel for each pixel; channels that come first are brought to the end before."""
    shape = call.inputs[0].shape[1:]
    if None in shape:
        return None
    whole = np.broadcast_to(incoming[0], shape or (1,))
    return np.moveaxis(whole, channel_axis(call.layer, whole.ndim), -1).ravel()


@rule(layers.Reshape)
def reshape(call: Call, incoming: list[Labels], flow: Flow) -> Labels | None:
    """Channels may come to lie on several axes: then all of the result's last axis go together."""
    layer = call.layer
    before, after = call.inputs[0].shape[1:], call.outputs[0].shape[1:]
    if None in before or None in after:
        return None
    labels = compressed(np.broadcast_to(incoming[0], before).reshape(after))
    axes = [axis for axis, size in enumerate(labels.shape) if size > 1]
    if len(axes) > 1:
        flow.along(labels, axes[-1], after, layer)

    def resize(positions: Any) -> dict[str, Any]:
        target = list(layer.target_shape)
        for axis in axes[-1:]:
            row = np.moveaxis(labels, axis, -1).reshape(-1, labels.shape[axis])[0]
            target[axis] = -1 if target[axis] == -1 else len(positions(row))
        return {"target_shape": tuple(target)}

    flow.take_part(layer, {}, shaped_by=np.broadcast_to(labels, after), resize=resize)
    return labels


@rule(layers.Permute)
def permute(call: Call, incoming: list[Labels], flow: Flow) -> Labels:
    """Axes change places."""
    return incoming[0].transpose([axis - 1 for axis in call.layer.dims])


@rule(layers.RepeatVector)
def repeat_vector(call: Call, incoming: list[Labels], flow: Flow) -> Labels:
    """The same channels at every step."""
    return incoming[0][np.newaxis]
