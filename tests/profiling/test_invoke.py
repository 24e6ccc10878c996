from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fleetfoot.errors import ModelError
from profiling.invoke import Model


@pytest.fixture(scope="session")
def manifest(finished_zoo: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((finished_zoo / "zoo.json").read_text())
    return loaded


@pytest.fixture(scope="session")
def base_variant(finished_zoo: Path, manifest: dict[str, Any]) -> tuple[Path, str]:
    first = manifest["variants"][0]
    return finished_zoo / first["file"], first["signature"]


def test_a_runner_says_what_it_takes_and_gives(base_variant: tuple[Path, str]) -> None:
    path, signature = base_variant
    runner = Model(path).runner(signature)
    assert runner.input.name == "input"
    assert runner.input.shape == (1, 8, 8, 1)
    assert runner.input.dtype == np.float32
    assert runner.output.name == "probabilities"
    assert runner.output.shape == (1, 10)


def test_a_runner_answers_with_probabilities(base_variant: tuple[Path, str], digits: Any) -> None:
    path, signature = base_variant
    answer = Model(path).runner(signature)(digits.x[:1])
    assert answer.shape == (1, 10)
    assert answer.sum() == pytest.approx(1, abs=1e-5)
    assert answer.argmax() == digits.y[0]


def test_an_answer_stays_when_the_runner_runs_again(base_variant: tuple[Path, str], digits: Any) -> None:
    path, signature = base_variant
    runner = Model(path).runner(signature)
    first = runner(digits.x[:1])
    kept = first.copy()
    runner(digits.x[1:2])
    np.testing.assert_array_equal(first, kept)


def test_warming_up_changes_no_answer(base_variant: tuple[Path, str], digits: Any) -> None:
    path, signature = base_variant
    cold, warm = Model(path).runner(signature), Model(path).runner(signature)
    warm.warm_up()
    np.testing.assert_array_equal(cold(digits.x[:1]), warm(digits.x[:1]))


def test_the_number_of_threads_changes_no_answer_noticeably(base_variant: tuple[Path, str], digits: Any) -> None:
    path, signature = base_variant
    one, two = (Model(path, threads).runner(signature)(digits.x[:1]) for threads in (1, 2))
    np.testing.assert_allclose(one, two, atol=1e-5)


def test_several_signatures_of_one_file_are_each_a_network(
    finished_zoo: Path, manifest: dict[str, Any], digits: Any
) -> None:
    subnetworks = [variant for variant in manifest["variants"] if variant["id"].startswith("sub-")]
    (file,) = {variant["file"] for variant in subnetworks}
    model = Model(finished_zoo / file)
    assert set(model.signatures) == {variant["signature"] for variant in subnetworks}
    runners = [model.runner(signature) for signature in model.signatures]
    alone = [Model(finished_zoo / file).runner(signature)(digits.x[:1]) for signature in model.signatures]
    for _ in range(2):  # in turns
        for runner, expected in zip(runners, alone, strict=True):
            np.testing.assert_array_equal(runner(digits.x[:1]), expected)
    assert len({answer.tobytes() for answer in alone}) == len(alone)


def test_an_unknown_signature_is_refused_naming_those_that_exist(base_variant: tuple[Path, str]) -> None:
    path, signature = base_variant
    with pytest.raises(ModelError, match=f"no signature 'other': there are {signature}"):
        Model(path).runner("other")


@pytest.mark.parametrize("content", [b"", b"not a model", b"\0" * 4096, b"\x1c\0\0\0TFL3" + b"\xff" * 500])
def test_what_is_no_model_is_refused_by_name_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelError) as error:
        Model(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_model_is_refused(tmp_path: Path, base_variant: tuple[Path, str], share: float) -> None:
    whole = base_variant[0].read_bytes()
    path = tmp_path / "model.tflite"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ModelError, match="model.tflite"):
        Model(path)


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="missing.tflite"):
        Model(tmp_path / "missing.tflite")


def test_a_model_without_a_signature_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "plain.tflite"
    path.write_bytes(converted_without_signature())
    with pytest.raises(ModelError, match="no signature"):
        Model(path)


def test_a_model_of_two_inputs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.tflite"
    path.write_bytes(converted_of_two_inputs())
    with pytest.raises(ModelError, match="2 inputs and 1 outputs"):
        Model(path).runner("serving_default")


def converted_without_signature() -> bytes:
    from zoo.backend import keras, tf

    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2)(inputs))
    function = tf.function(lambda x: model(x)).get_concrete_function(tf.TensorSpec([1, 3]))
    converted: bytes = tf.lite.TFLiteConverter.from_concrete_functions([function], model).convert()
    return without_signatures(converted)


def without_signatures(flatbuffer: bytes) -> bytes:
    """The model as old converters wrote it."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(bytearray(flatbuffer), 0))
    model.signatureDefs = []
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def converted_of_two_inputs() -> bytes:
    from zoo.backend import tf

    class Sum(tf.Module):  # type: ignore[misc]
        @tf.function(input_signature=[tf.TensorSpec([1, 3]), tf.TensorSpec([1, 3])])  # type: ignore[untyped-decorator]
        def __call__(self, a: Any, b: Any) -> dict[str, Any]:
            return {"sum": a + b}

    module = Sum()
    function = module.__call__.get_concrete_function()
    converted: bytes = tf.lite.TFLiteConverter.from_concrete_functions([function], module).convert()
    return converted
