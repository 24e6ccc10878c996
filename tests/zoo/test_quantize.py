from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema

from fleetfoot.errors import ExportError
from profiling.invoke import Model
from zoo.architectures import ARCHITECTURES
from zoo.backend import keras, make_deterministic
from zoo.candidates import base_path
from zoo.catalog import InputSpec
from zoo.channels import slice_model
from zoo.datasets import Dataset
from zoo.export import INPUT, _endpoint, convert, export, predict
from zoo.quantize import Calibration, quantize, quantize_sparing, spread, weighted_operators
from zoo.recipe import QUANTIZATIONS

layers = keras.layers


@pytest.fixture(scope="module")
def base(finished_zoo: Path) -> Any:
    return keras.saving.load_model(base_path(finished_zoo), compile=False)


@pytest.fixture(scope="module")
def model(base: Any) -> bytes:
    return convert({"base": _endpoint(base)}, [base])


@pytest.fixture(scope="module")
def calibration(digits: Dataset) -> Calibration:
    return Calibration(digits.x[:200], ["base"], INPUT)


def types(model: bytes) -> set[int]:
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    return {tensor.type for graph in parsed.subgraphs for tensor in graph.tensors}


def run(model: bytes, signature: str, x: Any, tmp_path: Path) -> Any:
    (tmp_path / "model.tflite").write_bytes(model)
    return predict(tmp_path / "model.tflite", signature, x)


@pytest.mark.parametrize(("numbers", "share"), [("int8", 0.45), ("dynamic", 0.4), ("float16", 0.6)])
def test_every_format_is_smaller_takes_the_same_inputs_and_is_as_right(
    model: bytes, calibration: Calibration, digits: Dataset, tmp_path: Path, numbers: str, share: float
) -> None:
    made = quantize(model, numbers, calibration)
    assert len(made) < share * len(model)
    (tmp_path / "made.tflite").write_bytes(made)
    runner = Model(tmp_path / "made.tflite").runner("base")
    assert runner.input.dtype == runner.output.dtype == np.float32
    x, y = digits.x[200:700], digits.y[200:700]
    right = [(run(m, "base", x, tmp_path).argmax(axis=1) == y).mean() for m in (model, made)]
    assert right[1] >= right[0] - 0.01


def test_the_formats_are_those_of_recipes(model: bytes, calibration: Calibration) -> None:
    wanted = {"int8": schema.TensorType.INT8, "dynamic": schema.TensorType.INT8, "float16": schema.TensorType.FLOAT16}
    assert wanted.keys() == set(QUANTIZATIONS)
    for numbers, tensor_type in wanted.items():
        assert tensor_type in types(quantize(model, numbers, calibration))
        assert tensor_type not in types(model)


def test_the_same_model_and_inputs_give_the_same_bytes(model: bytes, calibration: Calibration) -> None:
    assert quantize(model, "int8", calibration) == quantize(model, "int8", calibration)


def test_probabilities_of_int8_are_finer_than_integers_are(
    model: bytes, calibration: Calibration, digits: Dataset, tmp_path: Path
) -> None:
    answers = run(quantize(model, "int8", calibration), "base", digits.x[:100], tmp_path)
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)
    assert 0 < answers.min() < 1 / 256


def test_several_signatures_are_quantised_together(base: Any, digits: Dataset, tmp_path: Path) -> None:
    narrow = slice_model(base, {"conv1": 16})
    path = tmp_path / "both.tflite"
    export({"wide": base, "narrow": narrow}, path, quantize="int8", x=digits.x[:100], y=digits.y[:100])
    for name, network in {"wide": base, "narrow": narrow}.items():
        expected = network.predict(digits.x[:200], verbose=0).argmax(axis=1)
        assert (predict(path, name, digits.x[:200]).argmax(axis=1) == expected).mean() > 0.9


def test_an_operator_that_is_spared_stays_in_float(model: bytes, calibration: Calibration) -> None:
    names = weighted_operators(model)
    assert len(names) == len(set(names)) >= 3
    sizes = [len(quantize(model, "int8", calibration, names[:count])) for count in range(3)]
    assert sizes == sorted(sizes)
    assert _float_operators(quantize(model, "int8", calibration, names)) >= set(names)


def _losses(harmful: str, least: float) -> Any:
    """A loss that is small only when an operator is spared; a model in which it is not is smaller."""
    return lambda trial: least if harmful in _float_operators(trial) else 1.0


def _float_operators(model: bytes) -> set[str]:
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    (graph,) = parsed.subgraphs
    return {
        graph.tensors[operator.outputs[0]].name.decode()
        for operator in graph.operators
        if len(operator.inputs) > 1 and graph.tensors[operator.inputs[1]].type == schema.TensorType.FLOAT32
    }


def test_the_operator_that_costs_most_is_found_and_spared(model: bytes, calibration: Calibration) -> None:
    for harmful in weighted_operators(model):
        losses = _losses(harmful, 0.1)
        made, spared = quantize_sparing(model, calibration, losses, losses, bearable=0.2)
        assert spared == (harmful,)
        assert harmful in _float_operators(made)


def test_nothing_is_spared_where_nothing_is_lost_or_it_would_not_help(model: bytes, calibration: Calibration) -> None:
    assert quantize_sparing(model, calibration, lambda _: 0.1, lambda _: 0.1, bearable=0.1)[1] == ()
    assert quantize_sparing(model, calibration, lambda _: 0.5, lambda _: 0.5, bearable=0.1)[1] == ()


def test_a_network_that_integers_ruin_is_spared_by_its_accuracy(tmp_path: Path) -> None:
    """The first layer takes one of two features, the other is thousands of times as large: integers lose the one."""
    random = np.random.default_rng(0)
    decides = random.uniform(-1, 1, (600, 1))
    x = np.hstack([random.uniform(-5000, 5000, (600, 1)), decides]).astype(np.float32)
    y = (decides[:, 0] > 0).astype(np.int64)
    inputs = keras.Input((2,), name="input")
    outputs = layers.Dense(2, activation="softmax")(layers.Dense(4, activation="relu")(inputs))
    network = keras.Model(inputs, outputs)
    take = np.array([[0, 0, 0, 0], [1, -1, 1, -1]], np.float32)
    decide = 30 * np.array([[-1, 1], [1, -1], [-1, 1], [1, -1]], np.float32)
    network.set_weights([take, np.zeros(4, np.float32), decide, np.zeros(2, np.float32)])
    spared = export({"n": network}, tmp_path / "n.tflite", quantize="int8", x=x, y=y)
    assert len(spared) == 1
    assert (predict(tmp_path / "n.tflite", "n", x).argmax(axis=1) == y).mean() > 0.99


WAVEFORM = InputSpec(kind="audio", shape=(4000,), dtype="float32", minimum=-1, maximum=1, sampling_rate=8000)


@pytest.mark.parametrize(
    "numbers", [pytest.param(name, marks=() if name == "int8" else pytest.mark.slow) for name in QUANTIZATIONS]
)
def test_an_audio_front_end_outlives_every_format(tmp_path: Path, numbers: str) -> None:
    make_deterministic(0)
    network = ARCHITECTURES["ds-cnn"](WAVEFORM, 4)
    random = np.random.default_rng(0)
    loudness = 10 ** random.uniform(-4, 0, (64, 1))
    pitch = random.uniform(0.02, 2, (64, 1))
    x = (loudness * np.sin(pitch * np.arange(4000))).astype(np.float32)
    _fit_statistics(network, x)
    expected = network.predict(x, verbose=0)
    y = expected.argmax(axis=1)
    export({"n": network}, tmp_path / "n.tflite", quantize=numbers, x=x, y=y)
    answers = predict(tmp_path / "n.tflite", "n", x)
    assert (answers.argmax(axis=1) == y).mean() > 0.9
    assert np.abs(answers - expected).mean() < 0.05


def _fit_statistics(network: Any, x: Any) -> None:
    """Batch-norm statistics of the inputs, so that activations are of the size that training makes them."""
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.momentum = 0.0
    network(x, training=True)


def test_a_broken_model_is_an_error_in_one_line(model: bytes, calibration: Calibration) -> None:
    wrong: Mapping[str, Calibration] = {
        "signature": calibration._replace(signatures=["nobody"]),
        "input": calibration._replace(input="nothing"),
    }
    for mistaken in wrong.values():
        with pytest.raises(ExportError, match="the network cannot be made int8") as error:
            quantize(model, "int8", mistaken)
        assert "\n" not in str(error.value)


def test_spread_examples_are_from_first_to_last() -> None:
    x = np.arange(1000)
    assert spread(x, 5).tolist() == [0, 250, 500, 749, 999]
    np.testing.assert_array_equal(spread(x[:3], 5), x[:3])
