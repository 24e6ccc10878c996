"""Logistic regressions, beside scikit-learn's own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from premodel import estimators
from premodel.estimators import cross_validated_probabilities, fit_linear

Array = np.ndarray[Any, Any]


@pytest.fixture
def data() -> tuple[Array, Array]:
    """120 examples of 5 features on very different scales, one of them constant, and 3 variants."""
    generator = np.random.default_rng(0)
    features = generator.normal(size=(120, 5)) * [1, 1000, 0.001, 3, 0] + [0, 50, 1, -7, 2]
    correct = features[:, :3] / [1, 1000, 0.001] + generator.normal(size=(120, 3)) > [0, 0.05, 1000]
    return features, correct


def test_probabilities_are_those_of_scikit_learns_pipeline(data: tuple[Array, Array]) -> None:
    features, correct = data
    estimator = fit_linear(features, correct)
    for variant in range(correct.shape[1]):
        pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=estimators._REGULARIZATION, max_iter=1000)).fit(
            features, correct[:, variant]
        )
        np.testing.assert_allclose(
            estimator.probabilities(features)[:, variant], pipeline.predict_proba(features)[:, 1], atol=1e-6
        )


@pytest.mark.parametrize(("right", "share"), [(True, 121 / 122), (False, 1 / 122)])
def test_a_variant_always_or_never_right_gets_laplaces_share_for_every_input(
    data: tuple[Array, Array], right: bool, share: float
) -> None:
    features, correct = data
    correct[:, 1] = right
    probabilities = fit_linear(features, correct).probabilities(features)
    np.testing.assert_allclose(probabilities[:, 1], share)
    assert np.ptp(probabilities[:, 0]) > 0.1  # the others are told apart all the same


def test_probabilities_are_between_0_and_1_however_extreme_the_input(data: tuple[Array, Array]) -> None:
    features, correct = data
    probabilities = fit_linear(features, correct).probabilities(np.array([[1e9] * 5, [-1e9] * 5, [0.0] * 5]))
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


def test_a_cross_validated_probability_does_not_depend_on_the_examples_own_outcome(data: tuple[Array, Array]) -> None:
    features, correct = data
    before = cross_validated_probabilities(features, correct, seed=0)
    in_sample = fit_linear(features, correct).probabilities(features)
    for row in (0, 119):
        flipped = correct.copy()
        flipped[row] = ~flipped[row]
        after = cross_validated_probabilities(features, flipped, seed=0)
        np.testing.assert_array_equal(after[row], before[row])
        assert not np.array_equal(after, before)  # the fits that did see it are others
        assert not np.array_equal(fit_linear(features, flipped).probabilities(features)[row], in_sample[row])


def test_cross_validation_gives_every_example_a_probability_and_is_repeatable(data: tuple[Array, Array]) -> None:
    features, correct = data
    probabilities = cross_validated_probabilities(features, correct, seed=3)
    assert probabilities.shape == correct.shape
    assert ((probabilities > 0) & (probabilities < 1)).all()
    np.testing.assert_array_equal(probabilities, cross_validated_probabilities(features, correct, seed=3))
    assert not np.array_equal(probabilities, cross_validated_probabilities(features, correct, seed=4))


def test_an_informative_feature_is_found(data: tuple[Array, Array]) -> None:
    features, correct = data
    probabilities = cross_validated_probabilities(features, correct, seed=0)
    for variant in range(3):
        right = correct[:, variant]
        assert probabilities[right, variant].mean() > probabilities[~right, variant].mean() + 0.1
