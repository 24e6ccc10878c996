"""The work in an operator, as terms whose weighted sum its time is, and as sizes by which operators are neighbours.

A matrix product runs in tiles: so many rows and columns of the result at once, the last ones padded, which makes
time a staircase in positions and channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from profiling.operators.operator import Operator, Tensor

Array = npt.NDArray[Any]

_WINDOWS = (9, 25)
_MILLION, _THOUSAND = 1e6, 1e3
_CACHE_LINE = 64
_ROW_BY_ROW = {
    "MEAN", "SOFTMAX", "CONCATENATION", "SPLIT", "STRIDED_SLICE", "TRANSPOSE", "REVERSE_V2", "PAD",
    "AVERAGE_POOL_2D", "MAX_POOL_2D",
}  # fmt: skip
_ARITHMETIC = {"ADD", "SUB", "MUL", "DIV", "MAXIMUM", "MINIMUM"}


class Tile(NamedTuple):
    """How many rows, columns and products a kernel pads to; few columns may have a kernel of half as many."""

    rows: int = 1
    columns: int = 1
    depth: int = 1
    halves: bool = False


class _Sizes(NamedTuple):
    """Of operators with weights: result rows and columns, products per window place, window places, and bytes."""

    rows: Array
    columns: Array
    depth: Array
    window: Array
    weight_bytes: Array
    input_bytes: Array
    output_bytes: Array


def _sizes(operators: Sequence[Operator]) -> _Sizes:
    return _Sizes(*np.array([_sizes_of(operator) for operator in operators], float).T)


def _sizes_of(operator: Operator) -> tuple[float, ...]:
    weights = operator.weights
    assert weights is not None
    columns = operator.outputs[0].shape[-1]
    height, width = operator.kernel if len(weights.shape) == 4 else (1, 1)
    depth = 1 if operator.kind == "DEPTHWISE_CONV_2D" else weights.shape[-1]
    rows = operator.outputs[0].size / columns
    return rows, columns, depth, height * width, weights.bytes, *_traffic(operator)


def _traffic(operator: Operator) -> tuple[int, int]:
    return sum(tensor.bytes for tensor in operator.activations), sum(tensor.bytes for tensor in operator.outputs)


def terms_of(operators: Sequence[Operator], tile: Tile) -> Array:
    """The terms of each operator's cost, of shape (operators, terms); the first is the same for all."""
    if operators[0].weights is None:
        return _moving_terms(operators)
    sizes = _sizes(operators)
    terms = _depthwise_terms if operators[0].kind == "DEPTHWISE_CONV_2D" else _product_terms
    return np.stack([np.ones(len(operators)), *terms(sizes, tile)], axis=1)


def _product_terms(sizes: _Sizes, tile: Tile) -> list[Array]:
    """Of matrix products, as which convolutions run too; one row has a kernel of its own."""
    columns = _padded_columns(sizes.columns, tile)
    depth = _padded(sizes.depth, tile.depth) * sizes.window
    strips = columns / tile.columns
    one_row = sizes.rows == 1
    weights = sizes.weight_bytes / _MILLION
    rows = _padded(sizes.rows, tile.rows)
    blocks = rows / tile.rows * strips
    many = [rows * columns * depth / _MILLION, blocks * sizes.window / _THOUSAND, blocks / _THOUSAND]
    one = [columns * depth / _MILLION, strips * sizes.window / _THOUSAND, strips / _THOUSAND]
    gathered = np.where(sizes.window > 1, sizes.rows * sizes.window, 0) / _THOUSAND
    return [
        *(np.where(one_row, 0, term) for term in (*many, weights)),
        *(np.where(one_row, term, 0) for term in (*one, weights)),
        sizes.input_bytes / _MILLION,
        sizes.output_bytes / _MILLION,
        gathered,
    ]


def _depthwise_terms(sizes: _Sizes, tile: Tile) -> list[Array]:
    """Of convolutions channel by channel, whose kernels are made for windows up to 3×3, up to 5×5, and others."""
    columns = _padded_columns(sizes.columns, tile)
    size_class = np.searchsorted(_WINDOWS, sizes.window)
    straddling = sizes.output_bytes / sizes.rows % _CACHE_LINE > 0
    work = [
        sizes.rows * columns * sizes.window / _MILLION,
        np.where(straddling, sizes.rows * columns * sizes.window, 0) / _MILLION,
        sizes.rows * columns / tile.columns / _THOUSAND,
        sizes.rows / _THOUSAND,
    ]
    traffic = [sizes.weight_bytes / _MILLION, sizes.input_bytes / _MILLION, sizes.output_bytes / _MILLION]
    return [np.where(size_class == number, term, 0) for number in range(len(_WINDOWS) + 1) for term in work] + traffic


def _moving_terms(operators: Sequence[Operator]) -> Array:
    """Of what computes no weighted sums."""
    return np.array([_moving_terms_of(operator) for operator in operators], float) / _THOUSAND


def _moving_terms_of(operator: Operator) -> tuple[float, ...]:
    """Bytes, values, runs of neighbouring values, and of the values: pooled, activated as well, in straddled lines."""
    read, written = _traffic(operator)
    values = sum(tensor.size for tensor in operator.outputs)
    by_row = operator.kind in _ROW_BY_ROW or _broadcasts(operator)
    runs = max(_runs(operator.activations), _runs(operator.outputs)) if by_row else 0
    straddling = values if by_row and written / values * operator.outputs[0].shape[-1] % _CACHE_LINE else 0
    height, width = operator.kernel
    activated = values if operator.option("fusedActivationFunction", "NONE") != "NONE" else 0
    return _THOUSAND, read, written, values, runs, values * height * width, activated, straddling


def _broadcasts(operator: Operator) -> bool:
    """Whether one input is repeated along an axis, which is then done row by row."""
    sizes = [tensor.size for tensor in operator.inputs if tensor is not None]
    return operator.kind in _ARITHMETIC and 1 < min(sizes) < max(sizes)


def _runs(tensors: Sequence[Tensor]) -> float:
    return sum(tensor.size / max(1, tensor.shape[-1]) for tensor in tensors if tensor.shape)


def features_of(operators: Sequence[Operator]) -> Array:
    """Where operators lie among others: logarithms of their sizes."""
    if operators[0].weights is None:
        return np.log1p(_moving_terms(operators)[:, 1:] * _THOUSAND)
    sizes = _sizes(operators)
    strides = np.array([operator.stride[0] for operator in operators], float)
    return np.stack([*(np.log(size) for size in sizes[:4]), np.log(strides), (sizes.rows == 1).astype(float)], axis=1)


def _padded(sizes: Array, step: int) -> Array:
    padded: Array = np.ceil(sizes / step) * step
    return padded


def _padded_columns(columns: Array, tile: Tile) -> Array:
    padded = _padded(columns, tile.columns)
    return np.where(columns <= tile.columns / 2, padded / 2, padded) if tile.halves else padded
