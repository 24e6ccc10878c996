from __future__ import annotations

import json
import os
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from smallmodels import SIGNATURE, addition

from fleetfoot.errors import DeviceError, ModelError
from profiling.invoke import Model, pin


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
    with pytest.raises(ModelError, match=r"plain\.tflite has no signature: export it with one"):
        Model(path).runner("")
    with pytest.raises(ModelError, match="has no signature"):
        Model(path).exercise("serving_default")


def test_a_model_of_two_inputs_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "two.tflite"
    path.write_bytes(converted_of_two_inputs())
    with pytest.raises(ModelError, match="2 inputs and 1 outputs"):
        Model(path).runner("serving_default")


def test_what_cannot_be_served_can_be_exercised(tmp_path: Path) -> None:
    for name, content in ("plain", converted_without_signature()), ("two", converted_of_two_inputs()):
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(content)
        run = Model(path).exercise("" if name == "plain" else "serving_default")
        assert np.array_equal(answer_of(run()), answer_of(run()))


def answer_of(output: Any) -> Any:
    """The one array among the outputs of a run, whatever holds it."""
    (array,) = output.values() if isinstance(output, dict) else output
    return array


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_a_model_is_exercised_with_numbers_that_it_takes(tmp_path: Path, dtype: str) -> None:
    run = Model(addition(tmp_path / "one.tflite", dtype=dtype).path).exercise(SIGNATURE)
    answer = run()
    assert answer.shape == (1, 8)
    assert ((answer >= 0) & (answer <= 2)).all()


@pytest.mark.parametrize("signature", [True, False])
def test_a_size_that_is_left_open_is_named(tmp_path: Path, signature: bool) -> None:
    path = addition(
        tmp_path / "open.tflite", size=(1, 8, 3), given_size=(-1, 8, -1), two_inputs=True, signature=signature
    ).path
    with pytest.raises(ModelError, match=r"'t0' has no fixed size \(\?×8×\?\): export the model with one"):
        Model(path).exercise(SIGNATURE if signature else "")


def test_a_batch_of_any_size_is_a_batch_of_one(tmp_path: Path) -> None:
    runner = Model(addition(tmp_path / "batch.tflite", given_size=(-1, 8)).path).runner(SIGNATURE)
    assert runner.input.shape == (1, 8)
    np.testing.assert_array_equal(runner(np.ones((1, 8), np.float32)), np.full((1, 8), 2))


def test_text_is_refused(tmp_path: Path) -> None:
    path = addition(tmp_path / "text.tflite", beside="string").path
    with pytest.raises(ModelError, match="'t1' holds text, and only numbers are supported"):
        Model(path).exercise(SIGNATURE)


def test_a_thread_keeps_to_the_cores_that_it_is_pinned_to() -> None:
    before = os.sched_getaffinity(0)
    last = max(before)
    try:
        pin(())
        assert os.sched_getaffinity(0) == before
        pin((last,))
        assert os.sched_getaffinity(0) == {last}
    finally:
        os.sched_setaffinity(0, before)
    with pytest.raises(DeviceError, match=r"cannot run on cores \[4096\]: there are \[0"):
        pin((4096,))


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


# Integers that stand for real numbers.


@pytest.fixture(scope="module")
def network() -> Any:
    """Two layers whose outputs are far from 0 to 1."""
    from zoo.backend import keras, make_deterministic

    make_deterministic(0)
    inputs = keras.Input((6,), name="x")
    hidden = keras.layers.Dense(8, activation="relu")(inputs)
    return keras.Model(inputs, keras.layers.Dense(4, name="answer")(hidden))


@pytest.fixture(scope="module")
def some_inputs() -> Any:
    return np.random.default_rng(0).uniform(-3, 5, (64, 6)).astype(np.float32)


@pytest.fixture(scope="module", params=["int8", "uint8"])
def of_integers(request: Any, tmp_path_factory: pytest.TempPathFactory, network: Any, some_inputs: Any) -> Path:
    path: Path = tmp_path_factory.mktemp("integers") / f"{request.param}.tflite"
    path.write_bytes(converted_to_integers(network, some_inputs, request.param))
    return path


def converted_to_integers(network: Any, x: Any, numbers: str) -> bytes:
    from fleetfoot.silence import silenced
    from zoo.backend import tf

    with tempfile.TemporaryDirectory() as directory, silenced(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.export(directory, verbose=False)
        converter = tf.lite.TFLiteConverter.from_saved_model(directory)
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: ([x[i : i + 1]] for i in range(len(x)))
        converter.inference_input_type = converter.inference_output_type = getattr(tf, numbers)
        converted: bytes = converter.convert()
        return converted


def stock_details(path: Path) -> tuple[Any, Any]:
    """What LiteRT itself says of the input and the output."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    return interpreter.get_input_details()[0], interpreter.get_output_details()[0]


def test_the_caller_of_a_model_of_integers_gives_and_gets_real_numbers(of_integers: Path, some_inputs: Any) -> None:
    given, answered = stock_details(of_integers)
    assert given["dtype"] == answered["dtype"] == np.dtype(of_integers.stem)
    runner = Model(of_integers).runner("serving_default")
    assert runner.input.dtype == runner.output.dtype == np.float32
    answer = runner(some_inputs[:1])
    assert answer.dtype == np.float32
    assert answer.shape == runner.output.shape == (1, 4)


def test_a_model_of_integers_answers_as_the_float_model_does_within_a_few_steps(
    of_integers: Path, network: Any, some_inputs: Any
) -> None:
    runner = Model(of_integers).runner("serving_default")
    assert 0 < runner.output_step == pytest.approx(stock_details(of_integers)[1]["quantization"][0])
    expected = network(some_inputs).numpy()
    answers = np.concatenate([runner(some_inputs[i : i + 1]) for i in range(len(some_inputs))])
    assert np.abs(answers - expected).max() < 4 * runner.output_step
    assert np.abs(answers - expected).mean() < runner.output_step
    assert np.abs(expected).max() > 1


def test_what_the_caller_of_a_model_of_integers_gets_is_what_stock_litert_computes(
    of_integers: Path, some_inputs: Any
) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(of_integers))
    interpreter.allocate_tensors()
    (given, answered), runner = stock_details(of_integers), Model(of_integers).runner("serving_default")
    for x in some_inputs[:16, np.newaxis]:
        scale, zero = given["quantization"]
        interpreter.set_tensor(
            given["index"], np.clip(np.rint(x / scale) + zero, *limits(given)).astype(given["dtype"])
        )
        interpreter.invoke()
        integers = interpreter.get_tensor(answered["index"]).astype(int)
        scale, zero = answered["quantization"]
        np.testing.assert_allclose(runner(x), (integers - zero) * scale, rtol=1e-5)


def limits(detail: Any) -> tuple[int, int]:
    information = np.iinfo(detail["dtype"])
    return int(information.min), int(information.max)


def test_values_beyond_what_the_integers_reach_are_the_nearest_they_reach(of_integers: Path) -> None:
    runner = Model(of_integers).runner("serving_default")
    far, farther = (np.full((1, 6), value, np.float32) for value in (1e3, 1e9))
    np.testing.assert_array_equal(runner(far), runner(farther))
    np.testing.assert_array_equal(runner(-far), runner(-farther))
    assert not np.array_equal(runner(far), runner(-far))


def test_whole_numbers_are_taken_by_a_model_of_integers_as_their_values(of_integers: Path) -> None:
    runner = Model(of_integers).runner("serving_default")
    x = np.array([[-3, -1, 0, 1, 2, 5]], np.int64)
    np.testing.assert_array_equal(runner(x), runner(x.astype(np.float32)))


@pytest.fixture(scope="module", params=["int8", "uint8"])
def of_bytes(request: Any, tmp_path_factory: pytest.TempPathFactory, network: Any) -> Path:
    """A network that was trained on pixels of 0 to 1, as microcontrollers have it."""
    x = np.random.default_rng(0).uniform(0, 1, (64, 6)).astype(np.float32)
    x[0, :2] = 0, 1
    path: Path = tmp_path_factory.mktemp("bytes") / f"{request.param}.tflite"
    path.write_bytes(converted_to_integers(network, x, request.param))
    return path


def test_bytes_are_taken_by_a_model_of_bytes_as_they_are_and_by_one_of_signed_bytes_less_128(of_bytes: Path) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(of_bytes))
    interpreter.allocate_tensors()
    (given, answered), runner = stock_details(of_bytes), Model(of_bytes).runner("serving_default")
    assert given["quantization"] == (pytest.approx(1 / 255), -128 if of_bytes.stem == "int8" else 0)
    for x in np.random.default_rng(1).integers(0, 256, (16, 1, 6), np.uint8):
        stored = x if of_bytes.stem == "uint8" else (x.astype(int) - 128).astype(np.int8)
        interpreter.set_tensor(given["index"], stored)
        interpreter.invoke()
        integers = interpreter.get_tensor(answered["index"]).astype(int)
        scale, zero = answered["quantization"]
        np.testing.assert_allclose(runner(x), (integers - zero) * scale, rtol=1e-5)
        np.testing.assert_array_equal(runner(x), runner((x / 255).astype(np.float32)))


def test_a_float_model_takes_bytes_as_their_values(base_variant: tuple[Path, str], digits: Any) -> None:
    path, signature = base_variant
    runner = Model(path).runner(signature)
    np.testing.assert_array_equal(runner(digits.x[:1].astype(np.uint8)), runner(digits.x[:1]))


def test_a_model_of_integers_warms_up(of_integers: Path, some_inputs: Any) -> None:
    runner = Model(of_integers).runner("serving_default")
    before = runner(some_inputs[:1])
    runner.warm_up()
    np.testing.assert_array_equal(runner(some_inputs[:1]), before)


def test_a_float_model_has_no_step(base_variant: tuple[Path, str]) -> None:
    path, signature = base_variant
    assert Model(path).runner(signature).output_step == 0
