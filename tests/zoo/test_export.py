from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import NETWORKS, answers, inputs_for

from fleetfoot.errors import ExportError
from profiling.invoke import Model
from zoo.backend import keras, tf
from zoo.channels import slice_model
from zoo.export import FLOAT_TOLERANCE, Endpoint, convert, export, parity, predict
from zoo.lowrank import decompose
from zoo.recipe import LayerRank

layers = keras.layers


@pytest.fixture(scope="module")
def base(base_file: Path) -> Any:
    return keras.saving.load_model(base_file, compile=False)


@pytest.fixture(scope="module")
def inputs(digits: Any) -> Any:
    return digits.x[:40]


@pytest.fixture(scope="module")
def exported(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "base.tflite"
    export({"base": base}, path)
    return path


def test_a_file_answers_as_the_network_does(base: Any, exported: Path, inputs: Any) -> None:
    np.testing.assert_allclose(predict(exported, "base", inputs), answers(base, inputs), atol=FLOAT_TOLERANCE)
    assert 0 <= parity(base, exported, "base", inputs, None) <= FLOAT_TOLERANCE


def test_a_file_takes_one_raw_input_and_gives_probabilities(exported: Path) -> None:
    runner = Model(exported).runner("base")
    assert runner.input == ("input", (1, 8, 8, 1), np.dtype("float32"))
    assert runner.output == ("probabilities", (1, 10), np.dtype("float32"))


def test_inputs_of_another_number_type_are_taken_too(exported: Path, inputs: Any) -> None:
    np.testing.assert_array_equal(predict(exported, "base", inputs.astype(np.uint8)), predict(exported, "base", inputs))


def test_several_networks_are_signatures_of_one_file(base: Any, inputs: Any, tmp_path: Path) -> None:
    networks = {
        "base": base,
        "sub-0.5": slice_model(base, {"conv1": 16, "conv2": 16}),
        "low": decompose(base, {"conv2": LayerRank(scheme="spatial", rank=8)}),
    }
    path = tmp_path / "family.tflite"
    export(networks, path)
    assert set(Model(path).signatures) == set(networks)
    for name, network in networks.items():
        assert parity(network, path, name, inputs, None) <= FLOAT_TOLERANCE


def test_an_int8_file_is_smaller_and_still_mostly_right(base: Any, exported: Path, digits: Any, tmp_path: Path) -> None:
    path = tmp_path / "int8.tflite"
    export({"base": base}, path, quantize="int8", x=digits.x[:100], y=digits.y[:100])
    assert path.stat().st_size < 0.5 * exported.stat().st_size
    runner = Model(path).runner("base")
    assert runner.input.dtype == runner.output.dtype == np.float32
    same = predict(path, "base", digits.x[:200]).argmax(axis=1) == predict(exported, "base", digits.x[:200]).argmax(
        axis=1
    )
    assert same.mean() > 0.9
    assert parity(base, path, "base", digits.x[:20], "int8") > FLOAT_TOLERANCE


def test_the_same_network_gives_the_same_file(base: Any, exported: Path, tmp_path: Path) -> None:
    export({"base": base}, tmp_path / "again.tflite")
    assert (tmp_path / "again.tflite").read_bytes() == exported.read_bytes()


@pytest.mark.parametrize("name", ["gate", "shared", "waveform"])
def test_networks_of_other_forms_are_exported_too(name: str, tmp_path: Path) -> None:
    network = NETWORKS[name].random(0)
    x = inputs_for(network)
    path = tmp_path / f"{name}.tflite"
    export({name: network}, path)
    np.testing.assert_allclose(predict(path, name, x), answers(network, x), rtol=1e-3, atol=1e-4)


def test_an_operator_that_litert_lacks_is_an_error_in_one_line(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    inputs = keras.Input((4, 4), name="input")
    network = keras.Model(inputs, layers.Lambda(tf.linalg.det)(inputs))
    with pytest.raises(ExportError) as error:
        export({"strange": network}, tmp_path / "strange.tflite")
    assert "strange cannot be converted to LiteRT" in str(error.value)
    assert "MatrixDeterminant" in str(error.value)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr().err == ""


def test_a_refused_network_leaves_the_file_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "old.tflite"
    path.write_bytes(b"old")
    inputs = keras.Input((4, 4), name="input")
    with pytest.raises(ExportError):
        export({"strange": keras.Model(inputs, layers.Lambda(tf.linalg.det)(inputs))}, path)
    assert path.read_bytes() == b"old"


def test_another_answer_than_that_of_keras_is_an_error(base: Any, exported: Path, inputs: Any) -> None:
    other = slice_model(base, {"conv1": 8})
    with pytest.raises(ExportError, match=r"base\.tflite answers otherwise than Keras: probabilities differ by"):
        parity(other, exported, "base", inputs, None)
    assert parity(other, exported, "base", inputs, "int8") > 0.01


def test_an_answer_that_is_no_number_is_an_error(base: Any, exported: Path, inputs: Any) -> None:
    broken = slice_model(base, {})
    broken.get_layer("probabilities").bias.assign(np.full(10, np.nan))
    with pytest.raises(ExportError, match="differ by nan"):
        parity(broken, exported, "base", inputs, None)


def test_any_function_can_be_written(tmp_path: Path) -> None:
    endpoint = Endpoint(lambda x: {"twice": 2 * x}, tf.TensorSpec([1, 3], tf.float32, name="input"))
    (tmp_path / "double.tflite").write_bytes(convert({"double": endpoint}))
    runner = Model(tmp_path / "double.tflite").runner("double")
    np.testing.assert_array_equal(runner(np.array([[1, 2, 3]], np.float32)), [[2, 4, 6]])
    assert runner.output.name == "twice"
