"""Estimators of the probability that each variant is right, from the features of an input."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.special import expit
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import KFold
from sklearn.preprocessing import StandardScaler

_REGULARIZATION = 0.1
_FOLDS = 10

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]


class LinearEstimator(NamedTuple):
    """Logistic regressions, one per variant: p = σ(features · weights + bias).

    ``weights`` has shape (features, variants) and takes raw features; ``bias`` has shape (variants,).
    """

    weights: Floats
    bias: Floats

    def probabilities(self, features: npt.ArrayLike) -> Floats:
        """Probabilities of shape (examples, variants) for features of shape (examples, features)."""
        probabilities: Floats = expit(np.asarray(features) @ self.weights + self.bias)
        return probabilities


def fit_linear(features: Floats, correct: Bools) -> LinearEstimator:
    """Fits a logistic regression per variant.

    Args:
        features: of shape (examples, features).
        correct: whether each variant was right, of shape (examples, variants).
    """
    scaler = StandardScaler().fit(features)
    scaled = scaler.transform(features)
    columns = [_fit_one(scaled, correct[:, variant]) for variant in range(correct.shape[1])]
    weights = np.stack([weights for weights, _ in columns], axis=1) / scaler.scale_[:, np.newaxis]
    bias = np.array([bias for _, bias in columns]) - scaler.mean_ @ weights
    return LinearEstimator(weights, bias)


def cross_validated_probabilities(features: Floats, correct: Bools, seed: int) -> Floats:
    """Probabilities of shape (examples, variants), each from a fit that did not see the example."""
    probabilities = np.empty(correct.shape)
    for seen, unseen in KFold(_FOLDS, shuffle=True, random_state=seed).split(features):
        probabilities[unseen] = fit_linear(features[seen], correct[seen]).probabilities(features[unseen])
    return probabilities


def _fit_one(scaled: Floats, right: Bools) -> tuple[Floats, float]:
    if right.all() or not right.any():  # nothing to tell apart: Laplace's rule of succession
        share = (right.sum() + 1) / (len(right) + 2)
        return np.zeros(scaled.shape[1]), float(np.log(share / (1 - share)))
    fitted = LogisticRegression(C=_REGULARIZATION, max_iter=1000).fit(scaled, right)
    return fitted.coef_[0], float(fitted.intercept_[0])
