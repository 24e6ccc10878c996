"""Which operators to measure once on a device, so that the time of others can be told from them.

Sizes and channels are spread evenly over their logarithms by a low-discrepancy sequence, as small networks have them:
images of 1×1 to 224×224, 1 to 1,280 channels, kernels of 1 to 7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from profiling.operators import layers
from profiling.operators.operator import Operator

FORMATS = ("float32", "int8")

_MOST_MACS = 120e6
_MOST_ACTIVATION = 1 << 20
_KERNELS = (1, 1, 1, 1, 3, 3, 3, 3, 5, (10, 4), 7)
_WEIGHTED = {"CONV_2D": 200, "DEPTHWISE_CONV_2D": 70, "FULLY_CONNECTED": 80}
_OTHERS_EACH = 12

Point = Sequence[float]


def design(formats: Sequence[str] = FORMATS, scale: float = 1.0) -> list[Operator]:
    """Operators of every kind that the builders of ``profiling.operators.layers`` make, each once.

    Args:
        formats: the number formats to cover.
        scale: for more operators, or fewer; with a third fewer, the others no longer suffice for some kinds.
    """
    chosen: dict[Operator, None] = {}
    for numbers in formats:
        for kind, count in _WEIGHTED.items():
            chosen |= dict.fromkeys(_spread(_MAKERS[kind], numbers, round(count * scale)))
        for make in _OTHERS:
            chosen |= dict.fromkeys(_spread(make, numbers, round(_OTHERS_EACH * scale)))
    return list(chosen)


def _spread(make: Callable[[Point, str], Operator], numbers: str, count: int) -> list[Operator]:
    affordable = (operator for operator in (make(point, numbers) for point in _points()) if _affordable(operator))
    return list(islice(affordable, count))


def _affordable(operator: Operator) -> bool:
    largest = max(tensor.size for tensor in (*operator.activations, *operator.outputs))
    return operator.macs <= _MOST_MACS and largest <= _MOST_ACTIVATION


def _points(dimensions: int = 6) -> Iterator[Point]:
    """Points of the unit cube by an additive recurrence (Roberts, 2018: the root of x^(d+1) = x + 1)."""
    root = 2.0
    for _ in range(40):
        root = (1.0 + root) ** (1.0 / (dimensions + 1))
    steps = [root ** -(axis + 1) for axis in range(dimensions)]
    index = 0
    while True:
        index += 1
        yield [(0.5 + index * step) % 1 for step in steps]


def _between(low: float, high: float, share: float) -> int:
    """A whole number, log-uniform."""
    return round(float(low * (high / low) ** share))


def _channels(share: float, round_up: bool, most: int = 640) -> int:
    """As people choose them: half are multiples of 8."""
    count = _between(1, most, share)
    return -(-count // 8) * 8 if round_up and count > 4 else count


def _pick(options: Sequence[layers.Size], share: float) -> layers.Size:
    return options[int(share * len(options))]


def _convolution(point: Point, numbers: str) -> Operator:
    size, into, out, kernel, stride, rounding = point
    of_a_picture = into < 1 / 8
    channels = (1 if into < 1 / 16 else 3) if of_a_picture else _channels((into - 1 / 8) * 8 / 7, rounding < 0.6)
    return layers.convolution(
        _between(1, 160, size),
        channels,
        _channels(0.1 + 0.9 * out, rounding < 0.6, 1280),
        _pick(_KERNELS, kernel),
        2 if stride < 0.2 else 1,
        numbers=numbers,
    )


def _depthwise(point: Point, numbers: str) -> Operator:
    size, channels, _, kernel, stride, rounding = point
    window = _pick((3, 3, 3, 5, 5, 7), kernel)
    count = _channels(0.3 + 0.7 * channels, rounding < 0.7, 1024)
    return layers.depthwise(_between(2, 160, size), count, window, 2 if stride < 0.3 else 1, numbers=numbers)


def _fully_connected(point: Point, numbers: str) -> Operator:
    features, units, rows, many, *_ = point
    count = 1 if many < 0.5 else _between(2, 128, rows)
    return layers.fully_connected(_between(4, 4096, features), _between(2, 2048, units), count, numbers=numbers)


def _image(point: Point, smallest: int = 1) -> tuple[int, int]:
    """Size and channels of an image of 2 to 500,000 values, from few to many whatever its size."""
    values = 2 * 250_000 ** point[0]
    size = max(smallest, _between(1, min(224, values**0.5), point[1]))
    channels = max(1, min(2048, round(values / size**2)))
    return size, -(-channels // 8) * 8 if point[5] < 0.6 and channels > 4 else channels


def _shape(point: Point) -> tuple[int, ...]:
    size, channels = _image(point)
    return 1, size, size, channels


def _elementwise(kind: str) -> Callable[[Point, str], Operator]:
    return lambda point, numbers: layers.elementwise(kind, _shape(point), numbers=numbers)


def _arithmetic(kind: str) -> Callable[[Point, str], Operator]:
    def make(point: Point, numbers: str) -> Operator:
        shape = _shape(point)
        constant = (shape[-1],) if point[2] < 0.3 else () if point[2] < 0.4 else None
        activation = "RELU" if point[3] < 0.4 else "NONE"
        return layers.arithmetic(kind, shape, constant=constant, numbers=numbers, activation=activation)

    return make


def _float_only(kind: str) -> Callable[[Point, str], Operator]:
    return lambda point, numbers: layers.elementwise(kind, _shape(point))


def _conversion(kind: str) -> Callable[[Point, str], Operator]:
    return lambda point, numbers: layers.conversion(kind, _shape(point), numbers=numbers)


def _pooling(kind: str) -> Callable[[Point, str], Operator]:
    def make(point: Point, numbers: str) -> Operator:
        size, channels = _image(point, 4)
        window = _pick((2, 3, size), point[2])
        return layers.pooling(kind, size, channels, window, 1 if window == size else 2, numbers=numbers)

    return make


def _softmax(point: Point, numbers: str) -> Operator:
    return layers.elementwise("SOFTMAX", (1, _between(2, 2000, point[0])))


def _mean(point: Point, numbers: str) -> Operator:
    size, channels = _image(point, 2)
    return layers.global_average(size, channels, numbers=numbers)


def _concatenation(point: Point, numbers: str) -> Operator:
    size, channels = _image(point)
    parts = 2 + int(point[2] * 3)
    return layers.concatenation(size, (max(1, channels // parts),) * parts, numbers=numbers)


def _reshape(point: Point, numbers: str) -> Operator:
    shape = _shape(point)
    return layers.reshape(shape, (1, shape[1] * shape[2] * shape[3]), numbers=numbers)


def _transpose(point: Point, numbers: str) -> Operator:
    """As a shuffle of channels does it."""
    size, channels = _image(point)
    groups = 2 + int(point[2] * 3)
    return layers.transpose((1, size * size, groups, -(-channels // groups)), (0, 1, 3, 2), numbers=numbers)


def _reverse(point: Point, numbers: str) -> Operator:
    size, channels = _image(point)
    return layers.reverse((1, size * size, channels), 2)


def _pad(point: Point, numbers: str) -> Operator:
    size, channels = _image(point)
    return layers.pad(size, channels, 1, numbers=numbers)


def _slice(point: Point, numbers: str) -> Operator:
    size, channels = _image(point)
    part = (1, size * size, max(1, channels // 2))
    return layers.strided_slice((1, size * size, channels), (0, 0, 0), part, numbers=numbers)


def _split(point: Point, numbers: str) -> Operator:
    size, channels = _image(point)
    parts = 2 + int(point[2] * 3)
    return layers.split(size, -(-channels // parts) * parts, parts, numbers=numbers)


_MAKERS = {"CONV_2D": _convolution, "DEPTHWISE_CONV_2D": _depthwise, "FULLY_CONNECTED": _fully_connected}
_OTHERS = (
    _arithmetic("ADD"), _arithmetic("MUL"), _arithmetic("SUB"),
    _elementwise("RELU"), _elementwise("HARD_SWISH"), _elementwise("LOGISTIC"), _elementwise("TANH"),
    _float_only("RELU6"), _float_only("SQUARE"), _float_only("LOG"),
    _conversion("QUANTIZE"), _conversion("DEQUANTIZE"), _conversion("CAST"),
    _pooling("AVERAGE_POOL_2D"), _pooling("MAX_POOL_2D"),
    _softmax, _mean, _concatenation, _reshape, _transpose, _reverse, _pad, _slice, _split,
)  # fmt: skip
