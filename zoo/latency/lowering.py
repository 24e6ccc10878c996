"""The LiteRT operators that a network becomes, of whatever widths, as the converter makes and fuses them."""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from msgspec.structs import replace

from profiling.operators.operator import Operator
from zoo.architectures.grouped import GroupedConv2D
from zoo.backend import keras
from zoo.channels import Counter
from zoo.graph import Call, calls
from zoo.latency import forms
from zoo.latency.sizes import Sizes

layers = keras.layers

Kind = type | str
"""A layer's type, or the name of an operation between tensors."""

_NOTHING = {
    layers.Identity, layers.Dropout, layers.SpatialDropout1D, layers.SpatialDropout2D, layers.SpatialDropout3D,
    layers.AlphaDropout, layers.GaussianDropout, layers.GaussianNoise, layers.ActivityRegularization,
}  # fmt: skip
_VIEWS = {layers.Flatten, layers.Reshape, "Reshape"}
_WEIGHTED: dict[Kind, tuple[str, Callable[[Call], forms.Make]]] = {
    layers.Conv1D: ("CONV_2D", forms.convolution),
    layers.Conv2D: ("CONV_2D", forms.convolution),
    layers.DepthwiseConv1D: ("DEPTHWISE_CONV_2D", forms.depthwise),
    layers.DepthwiseConv2D: ("DEPTHWISE_CONV_2D", forms.depthwise),
    layers.SeparableConv1D: ("CONV_2D", forms.pointwise),
    layers.SeparableConv2D: ("CONV_2D", forms.pointwise),
    layers.Dense: ("FULLY_CONNECTED", forms.dense),
}
_SEPARABLE = {layers.SeparableConv1D, layers.SeparableConv2D}
_SCALED = {layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D, layers.Dense}
_MOVING: dict[Kind, tuple[str, Callable[[Call], forms.Make]]] = {
    layers.AveragePooling1D: ("AVERAGE_POOL_2D", partial(forms.pooling, "AVERAGE_POOL_2D")),
    layers.AveragePooling2D: ("AVERAGE_POOL_2D", partial(forms.pooling, "AVERAGE_POOL_2D")),
    layers.MaxPooling1D: ("MAX_POOL_2D", partial(forms.pooling, "MAX_POOL_2D")),
    layers.MaxPooling2D: ("MAX_POOL_2D", partial(forms.pooling, "MAX_POOL_2D")),
    layers.GlobalAveragePooling1D: ("MEAN", partial(forms.reduction, "MEAN")),
    layers.GlobalAveragePooling2D: ("MEAN", partial(forms.reduction, "MEAN")),
    layers.GlobalMaxPooling1D: ("REDUCE_MAX", partial(forms.reduction, "REDUCE_MAX")),
    layers.GlobalMaxPooling2D: ("REDUCE_MAX", partial(forms.reduction, "REDUCE_MAX")),
    layers.ZeroPadding2D: ("PAD", forms.padding),
    layers.Permute: ("TRANSPOSE", forms.transposition),
    layers.Concatenate: ("CONCATENATION", forms.concatenation),
    "Concatenate": ("CONCATENATION", forms.concatenation),
}
_ARITHMETIC: dict[Kind, str] = {
    layers.Add: "ADD", layers.Subtract: "SUB", layers.Multiply: "MUL", layers.Maximum: "MAXIMUM",
    layers.Minimum: "MINIMUM", "Add": "ADD", "Subtract": "SUB", "Multiply": "MUL", "Maximum": "MAXIMUM",
    "Minimum": "MINIMUM", "Divide": "DIV", "TrueDivide": "DIV",
}  # fmt: skip
_ACTIVATION_OF: dict[Kind, str] = {
    layers.LeakyReLU: "leaky_relu", layers.ELU: "elu", layers.Softmax: "softmax", "Relu": "relu", "Relu6": "relu6",
    "LeakyRelu": "leaky_relu", "Elu": "elu", "Gelu": "gelu", "Silu": "silu", "Tanh": "tanh", "Sigmoid": "sigmoid",
    "HardSilu": "hard_silu", "HardSigmoid": "hard_sigmoid", "Exp": "exponential", "Softmax": "softmax",
}  # fmt: skip
_ACTIVATIONS = {
    "linear": (), "relu": ("RELU",), "relu6": ("RELU6",), "leaky_relu": ("LEAKY_RELU",), "elu": ("ELU",),
    "gelu": ("GELU",), "tanh": ("TANH",), "sigmoid": ("LOGISTIC",), "hard_silu": ("HARD_SWISH",),
    "silu": ("LOGISTIC", "MUL"), "hard_sigmoid": ("RELU6", "SCALE"), "softmax": ("SOFTMAX",),
    "exponential": ("EXP",),
}  # fmt: skip
_RELUS = {None: "relu", 6: "relu6"}
_FUSED = ("RELU", "RELU6")
_FOLDING = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_FUSING = (*_FOLDING, "ADD", "SUB", "MUL", "DIV", "AVERAGE_POOL_2D", "MAX_POOL_2D")


@dataclass
class Piece:
    """An operator of a network, of whatever widths.

    Attributes:
        layer: the name of the layer that it comes from.
        kind: of the operator.
        tensors: those of the network whose shapes it depends on.
        make: makes it, of the shapes in a slice and in a number format.
        activation: what is fused into it.
        normalized: whether a batch norm is folded into it.
    """

    layer: str
    kind: str
    tensors: tuple[Any, ...]
    make: forms.Make
    activation: str = "NONE"
    normalized: bool = False

    def operator(self, sizes: Sizes, numbers: str) -> Operator:
        """The operator in a slice."""
        operator = self.make(sizes, numbers)
        if self.normalized and operator.kind == "FULLY_CONNECTED":
            operator = replace(operator, inputs=forms.with_bias(operator.inputs, numbers))
        return (
            forms.changed(operator, fusedActivationFunction=self.activation) if self.activation != "NONE" else operator
        )


class Lowering:
    """A network as LiteRT's operators.

    Batch norms are folded into the convolution or dense layer that nothing else reads, ReLUs fused into what is
    before them; copies and views cost nothing and are left out, as is what no operator is known for.

    Args:
        counter: the network's.

    Attributes:
        channels: the network's analysis.
        pieces: the operators.
        by_call: each call of a layer, with the operators that it adds.
        left_out: names and types of the layers that no operator is known for, each once.
    """

    def __init__(self, counter: Counter) -> None:
        model = counter.channels.model
        self.channels = counter.channels
        self.pieces: list[Piece] = []
        self.by_call: list[tuple[Call, list[Piece]]] = []
        self.left_out: dict[str, str] = {}
        steps = list(calls(model))
        self._readers = Tally(id(tensor) for call in steps for tensor in call.inputs)
        self._readers.update(id(tensor) for tensor in model.outputs)
        self._reader = {id(tensor): call for call in steps for tensor in call.inputs}
        self._source: dict[int, Piece | None] = {}
        for call in steps:
            before = len(self.pieces)
            source = self._lower(call)
            self.by_call.append((call, self.pieces[before:]))
            self._source |= {id(tensor): source for tensor in call.outputs}

    def _lower(self, call: Call) -> Piece | None:
        """Adds the operators of a call.

        Returns:
            The operator that gives its output, where others can be fused into it.
        """
        layer, kind = call.layer, _kind(call.layer)
        if not call.inputs:
            return self._cast(call)
        if getattr(layer, "data_format", None) == "channels_first" or len(call.outputs) != 1:
            return self._leave_out(call)
        if kind in _NOTHING:
            return self._alone(call.inputs[0])
        if kind in _VIEWS:
            return None
        if (activation := _activation_of(layer)) is not None:
            return self._activated(call, activation, self._alone(call.inputs[0]), call.inputs[0])
        if kind in _WEIGHTED:
            return self._weighted(call)
        if kind in _MOVING:
            name, form = _MOVING[kind]
            return self._add(call, name, form(call))
        if kind in _ARITHMETIC:
            return self._arithmetic(call, _ARITHMETIC[kind])
        special = {
            layers.BatchNormalization: self._normalization,
            layers.Rescaling: self._rescaling,
            GroupedConv2D: self._in_groups,
        }
        return special.get(kind, self._leave_out)(call)

    def _alone(self, tensor: Any) -> Piece | None:
        """The operator that gives a tensor, where nothing else reads it: others can be fused into it."""
        return self._source.get(id(tensor)) if self._readers[id(tensor)] == 1 else None

    def _add(self, call: Call, kind: str, make: forms.Make) -> Piece:
        piece = Piece(call.layer.name, kind, (*call.inputs, *call.outputs), make)
        self.pieces.append(piece)
        return piece

    def _leave_out(self, call: Call) -> Piece | None:
        self.left_out[call.layer.name] = type(call.layer).__name__
        return None

    def _weighted(self, call: Call) -> Piece | None:
        """A layer with weights, and its own activation."""
        kind = _kind(call.layer)
        if kind in _SEPARABLE:
            self._add(call, "DEPTHWISE_CONV_2D", forms.depthwise(call))
        name, form = _WEIGHTED[kind]
        piece = self._add(call, name, form(call))
        return self._activated(call, _name_of(call.layer.activation), piece, call.outputs[0])

    def _activated(self, call: Call, activation: str, source: Piece | None, tensor: Any) -> Piece | None:
        """A tensor's activation: fused into the operator that gives it, or as operators of its own."""
        if activation not in _ACTIVATIONS:
            return self._leave_out(call)
        kinds = list(_ACTIVATIONS[activation])
        if not kinds:
            return source
        if activation == "hard_sigmoid" and (source is None or source.kind not in _FOLDING):
            source = self._add(call, "ADD", forms.by_constant("ADD", tensor))
        if kinds[0] in _FUSED and source and source.kind in _FUSING and source.activation == "NONE":
            source.activation = kinds.pop(0)
        for kind in kinds:
            source = Piece(call.layer.name, kind, (tensor,), forms.elementwise(kind, tensor))
            self.pieces.append(source)
        return source

    def _cast(self, call: Call) -> Piece | None:
        """What comes in as integers is made floats."""
        return self._add(call, "CAST", forms.conversion(call)) if "int" in call.outputs[0].dtype else None

    def _normalization(self, call: Call) -> Piece | None:
        """Folded into the weights before it, or as a product and a sum."""
        (tensor,) = call.inputs
        source = self._alone(tensor)
        if source is not None and source.kind in _FOLDING and source.activation == "NONE":
            source.normalized = True
            return source
        self._add(call, "MUL", forms.by_constant("MUL", tensor, per_channel=True))
        return self._add(call, "ADD", forms.by_constant("ADD", tensor, per_channel=True))

    def _rescaling(self, call: Call) -> Piece | None:
        """Its scale goes into the weights of what reads it alone, where nothing is added in between."""
        (tensor,), (made,) = call.inputs, call.outputs
        scale, offset = (_values(numbers) for numbers in (call.layer.scale, call.layer.offset))
        alone = self._readers[id(made)] == 1 and id(made) in self._reader
        if alone and not any(offset) and _kind(self._reader[id(made)].layer) in _SCALED:
            return None
        piece = self._add(call, "MUL", forms.by_constant("MUL", tensor, per_channel=len(scale) > 1))
        if any(offset):
            piece = self._add(call, "ADD", forms.by_constant("ADD", tensor, per_channel=len(offset) > 1))
        return piece

    def _in_groups(self, call: Call) -> Piece | None:
        """A convolution for each block of channels."""
        self._add(call, "SPLIT", forms.splitting(call))
        for _ in range(call.layer.groups):
            self._add(call, "CONV_2D", forms.convolution(call, blocks=call.layer.groups))
        joined = self._add(call, "CONCATENATION", forms.joining(call))
        return self._activated(call, _name_of(call.layer.activation), joined, call.outputs[0])

    def _arithmetic(self, call: Call, kind: str) -> Piece:
        """Of one input and a number, or of inputs one after the other."""
        first, *others = call.inputs
        if not others:
            return self._add(call, kind, forms.by_constant(kind, first))
        pieces = [self._add(call, kind, forms.of_two(kind, first, other, call.outputs[0])) for other in others]
        return pieces[-1]


def operators_of(model: Any, numbers: str = "float32") -> list[Operator]:
    """The LiteRT operators of a network as it is.

    Args:
        model: a functional or sequential model.
        numbers: the number format inside, as ``profiling.operators.layers`` names it.

    Raises:
        ModelError: a network with sizes left open.
    """
    lowering = Lowering(Counter(model))
    sizes = Sizes(lowering.channels, {})
    return [piece.operator(sizes, numbers) for piece in lowering.pieces]


def _kind(layer: Any) -> Kind:
    return type(layer) if isinstance(layer, keras.layers.Layer) else type(layer).__name__


def _activation_of(layer: Any) -> str | None:
    """The name of the activation that a layer, or an operation between tensors, is and nothing else."""
    if isinstance(layer, layers.Activation):
        return _name_of(layer.activation)
    return _name_of(layer) if isinstance(layer, layers.ReLU) else _ACTIVATION_OF.get(_kind(layer))


def _name_of(activation: Any) -> str:
    if not isinstance(activation, layers.ReLU):
        return getattr(activation, "__name__", type(activation).__name__)
    if activation.negative_slope:
        return "leaky_relu"
    return "another ReLU" if activation.threshold else _RELUS.get(activation.max_value, "another ReLU")


def _values(numbers: Any) -> list[float]:
    return [float(number) for number in keras.tree.flatten(numbers)]
