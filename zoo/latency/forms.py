"""How LiteRT's converter says what a layer computes: as which operator, of whatever widths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from msgspec.structs import replace

from profiling.operators import layers as builders
from profiling.operators.operator import Operator, Tensor, Value
from zoo.graph import Call
from zoo.latency.sizes import Sizes

Make = Callable[[Sizes, str], Operator]
"""Makes an operator of the shapes in a slice, in a number format."""


def convolution(call: Call, blocks: int = 1) -> Make:
    """A convolution, or one of those that together compute a convolution in blocks."""
    layer, into, made = call.layer, call.inputs[0], call.outputs[0]
    whole_blocks = layer.groups > 1 and layer.groups >= into.shape[-1] // layer.groups

    def make(sizes: Sizes, numbers: str) -> Operator:
        image, result = _picture(sizes(into)), _picture(sizes(made))
        channels, filters = image.channels // blocks, result.channels // blocks
        operator = builders.convolution(image.size, channels, filters, _across(layer.kernel_size, 1), numbers=numbers)
        if layer.groups > blocks:
            per_block = into.shape[-1] // layer.groups if whole_blocks else channels // layer.groups
            operator = _with_weights(operator, (filters, *_across(layer.kernel_size, 1), per_block))
        return _windowed(operator, layer, (*result.size, filters))

    return make


def depthwise(call: Call) -> Make:
    """A convolution of each channel by itself, or the first half of a separable one."""
    layer, into, made = call.layer, call.inputs[0], call.outputs[0]

    def make(sizes: Sizes, numbers: str) -> Operator:
        image, result = _picture(sizes(into)), _picture(sizes(made))
        channels = image.channels * layer.depth_multiplier
        operator = builders.depthwise(image.size, channels, _across(layer.kernel_size, 1), numbers=numbers)
        (_, *constants) = operator.inputs
        given = replace(operator.activations[0], shape=image.shape)
        operator = replace(operator, inputs=(given, *constants))
        return changed(_windowed(operator, layer, (*result.size, channels)), depthMultiplier=layer.depth_multiplier)

    return make


def pointwise(call: Call) -> Make:
    """The second half of a separable convolution."""
    into, made = call.inputs[0], call.outputs[0]

    def make(sizes: Sizes, numbers: str) -> Operator:
        result = _picture(sizes(made))
        channels = sizes(into)[-1] * call.layer.depth_multiplier
        operator = builders.convolution(result.size, channels, result.channels, 1, numbers=numbers, activation="NONE")
        return changed(operator, padding=call.layer.padding.upper())

    return make


def dense(call: Call) -> Make:
    """A matrix product with the last axis."""
    into, made = call.inputs[0], call.outputs[0]

    def make(sizes: Sizes, numbers: str) -> Operator:
        given, result = sizes(into), sizes(made)
        operator = builders.fully_connected(given[-1], result[-1], numbers=numbers)
        if len(given) > 1:
            operator = changed(_between(operator, _batched(given), _batched(result)), keepNumDims=True)
        if not call.layer.use_bias:
            operator = replace(operator, inputs=(*operator.inputs[:2], None))
        return operator

    return make


def pooling(kind: str, call: Call) -> Make:
    """A pooling with a window."""
    layer, into, made = call.layer, call.inputs[0], call.outputs[0]

    def make(sizes: Sizes, numbers: str) -> Operator:
        image = _picture(sizes(into))
        operator = builders.pooling(kind, image.size, image.channels, _across(layer.pool_size, 1), 1, numbers=numbers)
        return _windowed(operator, layer, _picture(sizes(made)).shape[1:])

    return make


def reduction(kind: str, call: Call) -> Make:
    """One value of each channel's picture."""
    into, made = call.inputs[0], call.outputs[0]

    def make(sizes: Sizes, numbers: str) -> Operator:
        image = _picture(sizes(into))
        operator = replace(builders.global_average(image.size, image.channels, numbers=numbers), kind=kind)
        kept = {"keepDims": True} if call.layer.keepdims else {}
        return changed(_between(operator, image.shape, _batched(sizes(made))), **kept)

    return make


def padding(call: Call) -> Make:
    """Zeros around a picture."""
    into, made = call.inputs[0], call.outputs[0]
    (top, bottom), (left, right) = call.layer.padding

    def make(sizes: Sizes, numbers: str) -> Operator:
        given = _picture(sizes(into))
        operator = builders.pad(given.size, given.channels, 1, numbers=numbers)
        paddings = Tensor((4, 2), "int32", constant=True, values=(0, 0, top, bottom, left, right, 0, 0))
        operator = replace(operator, inputs=(operator.inputs[0], paddings))
        return _between(operator, given.shape, _batched(sizes(made)))

    return make


def transposition(call: Call) -> Make:
    """Axes in another order."""
    into, order = call.inputs[0], (0, *call.layer.dims)
    return lambda sizes, numbers: builders.transpose(_batched(sizes(into)), order, numbers=numbers)


def concatenation(call: Call) -> Make:
    """Tensors side by side."""
    made = call.outputs[0]

    def make(sizes: Sizes, numbers: str) -> Operator:
        parts = [_batched(sizes(tensor)) for tensor in call.inputs]
        operator = builders.concatenation(1, (1,) * len(parts), numbers=numbers)
        given = tuple(replace(tensor, shape=part) for tensor, part in zip(operator.activations, parts, strict=True))
        outputs = (replace(operator.outputs[0], shape=_batched(sizes(made))),)
        return changed(replace(operator, inputs=given, outputs=outputs), axis=call.layer.axis)

    return make


def splitting(call: Call) -> Make:
    """The channels of a picture in as many parts as a convolution has blocks."""
    layer, into = call.layer, call.inputs[0]

    def make(sizes: Sizes, numbers: str) -> Operator:
        image = _picture(sizes(into))
        return builders.split(image.size, image.channels, layer.groups, numbers=numbers)

    return make


def joining(call: Call) -> Make:
    """The results of a convolution's blocks side by side."""
    layer, made = call.layer, call.outputs[0]

    def make(sizes: Sizes, numbers: str) -> Operator:
        image = _picture(sizes(made))
        parts = (image.channels // layer.groups,) * layer.groups
        return changed(builders.concatenation(image.size, parts, numbers=numbers), axis=-1)

    return make


def of_two(kind: str, one: Any, other: Any, made: Any) -> Make:
    """A value of each pair of values."""

    def make(sizes: Sizes, numbers: str) -> Operator:
        operator = builders.arithmetic(kind, _batched(sizes(made)), numbers=numbers)
        inputs = (replace(operator.activations[0], shape=_batched(sizes(tensor))) for tensor in (one, other))
        return replace(operator, inputs=tuple(inputs))

    return make


def by_constant(kind: str, tensor: Any, *, per_channel: bool = False) -> Make:
    """A value of each value and a number, or one per channel."""

    def make(sizes: Sizes, numbers: str) -> Operator:
        shape = _batched(sizes(tensor))
        return builders.arithmetic(kind, shape, constant=shape[-1:] if per_channel else (), numbers=numbers)

    return make


def elementwise(kind: str, tensor: Any) -> Make:
    """A value of each value; a ``SCALE`` is by a number, and a ``MUL`` with another tensor of the shape."""
    if kind == "SCALE":
        return by_constant("MUL", tensor)
    if kind == "MUL":
        return of_two(kind, tensor, tensor, tensor)
    return lambda sizes, numbers: builders.elementwise(
        kind, _batched(sizes(tensor)), numbers="float32" if kind == "SOFTMAX" else numbers
    )


def conversion(call: Call) -> Make:
    """What comes in as integers as floats."""
    given = call.outputs[0]

    def make(sizes: Sizes, numbers: str) -> Operator:
        shape = _batched(sizes(given))
        return replace(builders.conversion("CAST", shape), inputs=(Tensor(shape, given.dtype),))

    return make


def _windowed(operator: Operator, layer: Any, result: Sequence[int]) -> Operator:
    """With a layer's strides, dilation and padding, for a result of height, width and channels."""
    down, across = _across(layer.strides, 1)
    options: dict[str, Value] = {"strideH": down, "strideW": across, "padding": layer.padding.upper()}
    if any(rate > 1 for rate in _pair(getattr(layer, "dilation_rate", 1))):
        dilation = _across(_pair(layer.dilation_rate), 1)
        options |= {"dilationHFactor": dilation[0], "dilationWFactor": dilation[1]}
    outputs = (replace(operator.outputs[0], shape=(1, *result)),)
    return changed(replace(operator, outputs=outputs), fusedActivationFunction="NONE", **options)


def changed(operator: Operator, **options: Value) -> Operator:
    """With other options; those that hold by default are left out."""
    defaults = {"padding": "SAME", "fusedActivationFunction": "NONE", "keepDims": False, "keepNumDims": False}
    merged = dict(operator.options) | options
    kept = sorted((name, value) for name, value in merged.items() if defaults.get(name) != value)
    return replace(operator, options=tuple(kept))


def _between(operator: Operator, given: tuple[int, ...], result: tuple[int, ...]) -> Operator:
    """With an input and an output of these shapes."""
    first, *rest = operator.inputs
    assert first is not None
    inputs = (replace(first, shape=given), *rest)
    return replace(operator, inputs=inputs, outputs=(replace(operator.outputs[0], shape=result),))


def _with_weights(operator: Operator, shape: tuple[int, ...]) -> Operator:
    into, weights, bias = operator.inputs
    assert weights is not None
    return replace(operator, inputs=(into, replace(weights, shape=shape), bias))


def with_bias(inputs: tuple[Tensor | None, ...], numbers: str) -> tuple[Tensor | None, ...]:
    """A dense layer's inputs with a bias, such as a batch norm that is folded into it makes."""
    weights = inputs[1]
    assert weights is not None
    return (*inputs[:2], builders.fully_connected(1, weights.shape[0], numbers=numbers).inputs[2])


class _Picture(NamedTuple):
    """Height and width of a picture, and its channels."""

    size: tuple[int, int]
    channels: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape with a batch of 1."""
        return 1, *self.size, self.channels


def _picture(shape: tuple[int, ...]) -> _Picture:
    """Of a shape without batch; what has one dimension lies across."""
    height, width, channels = (1, *shape) if len(shape) == 2 else shape
    return _Picture((height, width), channels)


def _across(sizes: Any, fill: int) -> tuple[int, int]:
    """A layer's sizes down and across; those of layers of one dimension are across."""
    given = tuple(sizes) if isinstance(sizes, Sequence) else (sizes,)
    return (fill, int(given[0])) if len(given) == 1 else (int(given[0]), int(given[1]))


def _pair(sizes: Any) -> tuple[int, ...]:
    return tuple(sizes) if isinstance(sizes, Sequence) else (sizes,)


def _batched(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (1, *shape)
