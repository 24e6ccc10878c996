"""Layers that hand channels on, each as it is, whatever they do to its values and its place in the picture."""

from __future__ import annotations

from typing import Any

import numpy as np

from zoo.backend import keras
from zoo.channels.flow import Flow, Labels, lying
from zoo.channels.rules.registry import operation_rule, rule
from zoo.graph import Call

layers = keras.layers
_ACTIVATIONS = tuple(
    getattr(keras.activations, name)
    for name in (
        "linear", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "tanh", "sigmoid",
        "hard_sigmoid", "hard_silu", "hard_tanh", "hard_shrink", "soft_shrink", "tanh_shrink", "softplus", "softsign",
        "squareplus", "sparse_plus", "sparse_sigmoid", "log_sigmoid", "exponential", "threshold",
    )
)  # fmt: skip
_ELEMENTWISE = (
    layers.Identity, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.SpatialDropout1D, layers.SpatialDropout2D,
    layers.SpatialDropout3D, layers.GaussianNoise, layers.GaussianDropout, layers.ActivityRegularization,
)  # fmt: skip
_SPATIAL = (
    layers.AveragePooling1D, layers.AveragePooling2D, layers.AveragePooling3D, layers.MaxPooling1D,
    layers.MaxPooling2D, layers.MaxPooling3D, layers.AdaptiveAveragePooling1D, layers.AdaptiveAveragePooling2D,
    layers.AdaptiveAveragePooling3D, layers.AdaptiveMaxPooling1D, layers.AdaptiveMaxPooling2D,
    layers.AdaptiveMaxPooling3D, layers.ZeroPadding1D, layers.ZeroPadding2D, layers.ZeroPadding3D,
    layers.Cropping1D, layers.Cropping2D, layers.Cropping3D, layers.UpSampling1D, layers.UpSampling2D,
    layers.UpSampling3D, layers.Resizing, layers.CenterCrop, layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D, layers.GlobalAveragePooling3D, layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D, layers.GlobalMaxPooling3D,
)  # fmt: skip


def is_elementwise(activation: Any) -> bool:
    """Whether an activation, a function or a layer, treats every value by itself."""
    return activation in _ACTIVATIONS or type(activation) in (layers.ReLU, layers.LeakyReLU, layers.ELU)


def channel_axis(layer: Any, rank: int) -> int:
    """The axis, of a tensor of that rank without its batch, on which a layer has its channels."""
    return 0 if getattr(layer, "data_format", None) == "channels_first" and rank > 1 else rank - 1


@rule(*_ELEMENTWISE)
def elementwise(call: Call, incoming: list[Labels], flow: Flow) -> Labels:
    """Every value stays where it is."""
    return incoming[0]


@rule(layers.Dropout, layers.AlphaDropout)
def dropout(call: Call, incoming: list[Labels], flow: Flow) -> Labels | None:
    """As long as it is not told how many channels there are."""
    sizes = set(call.layer.noise_shape or ())
    return incoming[0] if sizes <= {None, 1} else None


@rule(layers.Activation)
def activation(call: Call, incoming: list[Labels], flow: Flow) -> Labels | None:
    """As long as it compares no channels, like a softmax."""
    return incoming[0] if is_elementwise(call.layer.activation) else None


@rule(layers.PReLU)
def leaky_with_weights(call: Call, incoming: list[Labels], flow: Flow) -> Labels:
    """Has a slope per channel, unless the last axis shares one."""
    layer = call.layer
    shape = call.inputs[0].shape[1:]
    into = flow.along(incoming[0], -1, shape, layer)
    flow.take_part(layer, {"alpha": {-1: into} if layer.alpha.shape[-1] == shape[-1] else {}})
    return lying(into, -1, len(shape))


@rule(layers.Rescaling)
def rescaling(call: Call, incoming: list[Labels], flow: Flow) -> Labels | None:
    """By one number, or by one per channel."""
    layer = call.layer
    shape = call.inputs[0].shape[1:]
    numbers = {"scale": np.asarray(layer.scale), "offset": np.asarray(layer.offset)}
    per_channel = {name: values for name, values in numbers.items() if values.size > 1}
    if not per_channel:
        return incoming[0]
    channels_first = keras.config.image_data_format() == "channels_first"  # what Keras goes by here
    if channels_first or any(values.shape != (shape[-1],) for values in per_channel.values()):
        return None
    into = flow.along(incoming[0], -1, shape, layer)
    flow.take_part(
        layer,
        {},
        shaped_by=into,
        resize=lambda positions: {name: values[positions(into)].tolist() for name, values in per_channel.items()},
    )
    return lying(into, -1, len(shape))


@rule(*_SPATIAL)
def spatial(call: Call, incoming: list[Labels], flow: Flow) -> Labels:
    """Works on each channel's picture alone; a global one leaves the channels, or a picture of one pixel."""
    layer = call.layer
    axis = channel_axis(layer, incoming[0].ndim)
    into = flow.along(incoming[0], axis, call.inputs[0].shape[1:], layer)
    rank = len(call.outputs[0].shape) - 1
    return lying(into, channel_axis(layer, rank), rank)


@operation_rule(
    "Relu", "Relu6", "LeakyRelu", "Elu", "Selu", "Celu", "Gelu", "Silu", "Tanh", "Sigmoid", "HardSigmoid", "HardSilu",
    "HardTanh", "Softplus", "Softsign", "LogSigmoid", "Exp", "Absolute", "Abs", "Square", "Sqrt", "Negative", "Clip",
    "Cast",
)  # fmt: skip
def elementwise_operation(call: Call, incoming: list[Labels], flow: Flow) -> Labels:
    """A function of ``keras.ops`` that treats every value by itself."""
    return incoming[0]
