"""The premodel as a file that every device runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType

from premodel.compile import compile_linear
from premodel.estimators import LinearEstimator, fit_linear
from premodel.features import compute_array, feature_names
from profiling.invoke import Model
from zoo.catalog import InputSpec, Zoo
from zoo.datasets import split_indices


@pytest.fixture(scope="module")
def route_inputs(digits: Any) -> Any:
    return digits.x[split_indices(digits, 0)["route"]]


def operators(path: Path) -> set[str]:
    interpreter = Interpreter(
        model_path=str(path), experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    return {detail["op_name"] for detail in interpreter._get_ops_details()}


def test_the_estimate_of_a_zoo_gives_the_probabilities_of_its_regressions_on_all_route_inputs(
    finished_zoo: Path, route: Any, route_inputs: Any, digits: Any
) -> None:
    estimator = fit_linear(route.features, route.correct)
    run = Model(finished_zoo / "premodel/estimate.tflite").runner("estimate")
    compiled = np.concatenate([run(x[np.newaxis]) for x in route_inputs])
    expected = estimator.probabilities(compute_array(route_inputs, digits.input).astype(np.float64))
    np.testing.assert_allclose(compiled, expected, atol=1e-5)


def test_the_cached_features_are_those_of_the_route_inputs(route: Any, route_inputs: Any, digits: Any) -> None:
    row = {name: index for index, name in enumerate(route.inputs)}
    ids = digits.input_ids(split_indices(digits, 0)["route"])
    cached = route.features[[row[name] for name in ids]]
    np.testing.assert_allclose(cached, compute_array(route_inputs, digits.input), atol=1e-6)


def test_the_estimate_has_one_raw_input_and_a_probability_per_variant(finished_zoo: Path) -> None:
    zoo = Zoo.open(finished_zoo)
    run = Model(finished_zoo / "premodel/estimate.tflite").runner("estimate")
    assert run.input.shape == (1, *zoo.manifest.input.shape)
    assert run.input.dtype == zoo.manifest.input.dtype
    assert run.output.shape == (1, len(zoo.variants))


def test_the_estimate_is_made_of_built_in_operators_only(finished_zoo: Path) -> None:
    built_in = {name for name in vars(schema.BuiltinOperator) if name.isupper()} - {"CUSTOM"}
    assert operators(finished_zoo / "premodel/estimate.tflite") <= built_in


@pytest.mark.parametrize("kind", ["image", "audio", "tensor"])
def test_every_kind_of_input_compiles_to_built_in_operators(kind: Any, tmp_path: Path) -> None:
    shape = {"image": (9, 6, 3), "audio": (32,), "tensor": (4, 3)}[kind]
    spec = InputSpec(kind=kind, shape=shape, dtype="float32", minimum=0.0, maximum=1.0)
    compile_linear(LinearEstimator(np.ones((len(feature_names(spec)), 2)), np.ones(2)), spec, tmp_path / "e.tflite")
    built_in = {name for name in vars(schema.BuiltinOperator) if name.isupper()} - {"CUSTOM"}
    assert operators(tmp_path / "e.tflite") <= built_in


def test_compiling_leaves_nothing_but_the_file(tmp_path: Path) -> None:
    spec = InputSpec(kind="tensor", shape=(4,), dtype="float32", minimum=0.0, maximum=1.0)
    compile_linear(LinearEstimator(np.ones((len(feature_names(spec)), 2)), np.ones(2)), spec, tmp_path / "e.tflite")
    assert [path.name for path in tmp_path.iterdir()] == ["e.tflite"]
