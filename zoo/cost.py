"""What a network costs, counted from its structure: multiply-accumulates and activation memory."""

from __future__ import annotations

import math
from typing import Any

from zoo.backend import keras
from zoo.graph import calls

_FLOAT_BYTES = 4
_WEIGHTED_SUMS = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)


def count_macs(model: Any) -> int:
    """Multiply-accumulates of one inference, in convolutions and dense layers.

    Each weight of a kernel is used once per position of the output.
    """
    return sum(
        math.prod(call.layer.kernel.shape) * math.prod(call.outputs[0].shape[1:-1])
        for call in calls(model)
        if isinstance(call.layer, _WEIGHTED_SUMS)
    )


def peak_activation_bytes(model: Any, bytes_per_value: int = _FLOAT_BYTES) -> int:
    """The most bytes of activations alive at once, when the layers run in the model's order.

    Element-wise layers that a runtime fuses or does in place are counted as if they were not.
    """
    steps = list(calls(model))
    last_use = {id(tensor): step for step, call in enumerate(steps) for tensor in call.inputs}
    alive: dict[int, int] = {}
    peak = 0
    for step, call in enumerate(steps):
        alive |= {id(tensor): math.prod(tensor.shape[1:]) for tensor in call.outputs}
        peak = max(peak, sum(alive.values()))
        for tensor in call.inputs:
            if last_use[id(tensor)] == step:
                alive.pop(id(tensor), None)
    return peak * bytes_per_value
