"""What operators of one kind cost: a sum of simple terms, and a correction learned from their neighbours.

Which tile a device's kernels compute is found from its own times. What the sum leaves unexplained, a Gaussian process
interpolates over the logarithms of the sizes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from profiling.operators.operator import Operator
from profiling.operators.terms import Tile, features_of, terms_of

Array = npt.NDArray[Any]

_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16)
_COLUMNS = (1, 2, 4, 8, 16, 32, 64)
_DEPTHS = (1, 2, 4, 8)
_LENGTH, _NOISE = 5.0, 0.03


class CostModel:
    """The times of one kind of operator in one number format, as a function of their sizes.

    Attributes:
        error: the mean relative error for operators that were measured, each told from the others.
    """

    def __init__(self, tile: Tile, weights: Array, features: Array, residuals: Array) -> None:
        self._tile = tile
        self._weights = weights
        self._center, self._scale = features.mean(axis=0), features.std(axis=0) + 1e-9
        self._known = self._normal(features)
        self._inverse = np.linalg.inv(_covariance(self._known, self._known) + _NOISE * np.eye(len(features)))
        self._pull = self._inverse @ residuals
        variances = 1 / np.diag(self._inverse)
        left_out = self._pull * variances  # Rasmussen and Williams, 2006, eq. 5.12
        self.error = float(np.abs(np.expm1(left_out)).mean())
        self._usual_variance = float(np.median(variances))

    @classmethod
    def fit(cls, operators: Sequence[Operator], ms: Array) -> Self:
        """Fits the times (milliseconds) of operators of one kind and format."""
        tile, weights = _best_tile(operators, ms)
        residuals = np.log(ms) - np.log(terms_of(operators, tile) @ weights)
        return cls(tile, weights, features_of(operators), residuals)

    def predict(self, operators: Sequence[Operator]) -> tuple[Array, Array]:
        """Milliseconds of operators of the same kind and format, and their expected relative errors."""
        nearness = _covariance(self._normal(features_of(operators)), self._known)
        times = (terms_of(operators, self._tile) @ self._weights) * np.exp(nearness @ self._pull)
        variances = 1 + _NOISE - np.einsum("ij,jk,ik->i", nearness, self._inverse, nearness)
        return times, self.error * np.sqrt(np.maximum(variances / self._usual_variance, 0))

    def _normal(self, features: Array) -> Array:
        normal: Array = (features - self._center) / self._scale
        return normal


def _covariance(one: Array, other: Array) -> Array:
    distances = np.sqrt(((one[:, None] - other[None]) ** 2).sum(axis=-1))
    kernel: Array = np.exp(-distances / _LENGTH)
    return kernel


def _best_tile(operators: Sequence[Operator], ms: Array) -> tuple[Tile, Array]:
    """The tile that explains the times best, and the weights of the terms with it."""
    if operators[0].weights is None:
        return Tile(), _fit_terms(operators, ms, Tile())[0]
    depthwise = operators[0].kind == "DEPTHWISE_CONV_2D"
    shapes = [
        Tile(rows, columns, 1, halves)
        for rows, columns, halves in product((1,) if depthwise else _ROWS, _COLUMNS, (False, True))
    ]
    best = min(shapes, key=lambda tile: _fit_terms(operators, ms, tile)[1])
    depths = [best._replace(depth=depth) for depth in ((1,) if depthwise else _DEPTHS)]
    best = min(depths, key=lambda tile: _fit_terms(operators, ms, tile)[1])
    return best, _fit_terms(operators, ms, best)[0]


def _fit_terms(operators: Sequence[Operator], ms: Array, tile: Tile) -> tuple[Array, float]:
    terms = terms_of(operators, tile)
    weights = nonnegative_least_squares(terms / ms[:, None], np.ones(len(ms)))
    return weights, float(np.abs(np.log(terms @ weights / ms)).mean())


def nonnegative_least_squares(terms: Array, goals: Array) -> Array:
    """Weights ≥ 0 that bring ``terms @ weights`` nearest to the goals (Lawson and Hanson, 1974, chapter 23)."""
    scale = np.linalg.norm(terms, axis=0)
    scale[scale == 0] = 1
    gram, aim = (terms / scale).T @ (terms / scale), (terms / scale).T @ goals
    weights = np.zeros(len(aim))
    used = np.zeros(len(aim), bool)
    for _ in range(3 * len(aim)):
        gain = np.where(used, -np.inf, aim - gram @ weights)
        if gain.max() <= 1e-9:
            break
        used[gain.argmax()] = True
        while True:
            trial = np.zeros(len(aim))
            trial[used] = np.linalg.lstsq(gram[np.ix_(used, used)], aim[used], rcond=None)[0]
            falling = used & (trial <= 0)
            if not falling.any():
                break
            share = np.min(weights[falling] / (weights[falling] - trial[falling] + 1e-300))
            weights = weights + share * (trial - weights)
            used &= weights > 1e-12
            weights[~used] = 0
            if not used.any():
                break
        weights = trial
    result: Array = weights / scale
    return result
