"""What is cheap to know about an input, by hand and through the compiled file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from premodel.compile import compile_linear
from premodel.estimators import LinearEstimator
from premodel.features import compute_array, feature_names
from profiling.invoke import Model
from zoo.catalog import InputSpec


def image(*shape: int, maximum: float = 255.0, dtype: str = "float32") -> InputSpec:
    return InputSpec(kind="image", shape=shape, dtype=dtype, minimum=0.0, maximum=maximum)


AUDIO = InputSpec(kind="audio", shape=(16,), dtype="float32", minimum=-1.0, maximum=1.0)
TENSOR = InputSpec(kind="tensor", shape=(3, 2), dtype="float32", minimum=0.0, maximum=1.0)
SPECS = [
    pytest.param(image(8, 8, 1), id="digit"),
    pytest.param(image(10, 7, 3), id="not divisible by 4"),
    pytest.param(image(1, 9, 1), id="one row"),
    pytest.param(image(9, 1, 1), id="one column"),
    pytest.param(image(3, 2, 1), id="smaller than a thumbnail"),
    pytest.param(image(6, 6, 3, dtype="uint8"), id="bytes"),
    pytest.param(AUDIO, id="audio"),
    pytest.param(TENSOR, id="tensor"),
    pytest.param(InputSpec(kind="tensor", shape=(1,), dtype="float32", minimum=0.0, maximum=1.0), id="one number"),
]


def inputs(spec: InputSpec, count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    drawn = np.random.default_rng(seed).uniform(spec.minimum, spec.maximum, (count, *spec.shape))
    return drawn.astype(spec.dtype)


def features_of(x: Any, spec: InputSpec) -> dict[str, float]:
    """The features of one input by name."""
    (row,) = compute_array(np.asarray(x, spec.dtype)[np.newaxis], spec)
    return dict(zip(feature_names(spec), row.tolist(), strict=True))


def test_the_features_of_a_tiny_image_are_those_computed_by_hand() -> None:
    spec = image(2, 2, 1, maximum=4.0)
    features = features_of(np.reshape([0, 4, 2, 2], (2, 2, 1)), spec)  # 0, 1, ½, ½ of the range
    assert features == pytest.approx(
        {
            "mean": 0.5,
            "contrast": np.sqrt(0.125),
            "minimum": 0.0,
            "maximum": 1.0,
            "change_0": 0.5,  # from row to row: ½ and ½
            "change_1": 0.5,  # from column to column: 1 and 0
            "thumbnail_0_0": 0.0,
            "thumbnail_0_1": 1.0,
            "thumbnail_1_0": 0.5,
            "thumbnail_1_1": 0.5,
        }
    )


def test_a_thumbnail_averages_tiles_over_all_colours_and_leaves_out_what_does_not_fill_one() -> None:
    spec = image(9, 4, 3, maximum=1.0)
    x = np.zeros((9, 4, 3))
    x[:2, 0, 0] = 1.0  # one colour of three in the whole of the first tile
    x[8] = 1.0  # the row that is left over
    features = features_of(x, spec)
    assert features["thumbnail_0_0"] == pytest.approx(1 / 3)
    assert features["thumbnail_3_3"] == 0.0
    assert len([name for name in features if name.startswith("thumbnail")]) == 16


def test_audio_is_described_by_its_changes_in_time_alone() -> None:
    x = np.tile([-1.0, 1.0], 8)
    assert features_of(x, AUDIO) == pytest.approx(
        {"mean": 0.5, "contrast": 0.5, "minimum": 0.0, "maximum": 1.0, "change_0": 1.0}
    )


def test_a_constant_input_has_no_contrast_and_no_change() -> None:
    features = features_of(np.full((8, 8, 1), 255.0), image(8, 8, 1))
    assert features["contrast"] == features["change_0"] == features["change_1"] == 0.0
    assert features["mean"] == features["thumbnail_2_1"] == 1.0


@pytest.mark.parametrize("spec", SPECS)
def test_every_kind_and_size_of_input_has_a_name_for_each_finite_feature(spec: InputSpec) -> None:
    features = compute_array(inputs(spec, 5), spec)
    names = feature_names(spec)
    assert features.shape == (5, len(names))
    assert len(set(names)) == len(names)
    assert np.isfinite(features).all()


@pytest.mark.parametrize("spec", SPECS)
def test_the_compiled_premodel_sees_the_features_that_training_saw(spec: InputSpec, tmp_path: Path) -> None:
    features = compute_array(inputs(spec, 20), spec).astype(np.float64)
    generator = np.random.default_rng(1)
    estimator = LinearEstimator(generator.normal(size=(features.shape[1], 3)), generator.normal(size=3))
    compile_linear(estimator, spec, tmp_path / "estimate.tflite")
    run = Model(tmp_path / "estimate.tflite").runner("estimate")
    compiled = np.concatenate([run(x[np.newaxis]) for x in inputs(spec, 20)])
    np.testing.assert_allclose(compiled, estimator.probabilities(features), atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.integers(1, 3), st.integers(0, 9))
def test_the_extremes_bound_everything_else_whatever_the_size(
    height: int, width: int, channels: int, seed: int
) -> None:
    spec = image(height, width, channels)
    x = inputs(spec, 4, seed)
    table = dict(zip(feature_names(spec), compute_array(x, spec).T, strict=True))
    rounding = 1e-6
    for name, column in table.items():
        assert (column <= 1 + rounding).all(), name
        if name == "mean" or name.startswith("thumbnail"):
            assert (table["minimum"] - rounding <= column).all(), name
            assert (column <= table["maximum"] + rounding).all(), name


def test_features_do_not_depend_on_the_other_inputs_of_the_batch() -> None:
    spec = image(8, 8, 1)
    x = inputs(spec, 300)  # more than one batch
    alone = np.concatenate([compute_array(x[index : index + 1], spec) for index in (0, 255, 256, 299)])
    np.testing.assert_allclose(compute_array(x, spec)[[0, 255, 256, 299]], alone, rtol=1e-6)
