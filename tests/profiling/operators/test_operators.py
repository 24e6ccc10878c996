from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from smallmodels import INPUTS, Product

from fleetfoot.errors import ModelError
from profiling.invoke import Model
from profiling.operators import layers
from profiling.operators.flatmodel import signatures_of
from profiling.operators.operator import Operator, Tensor
from profiling.operators.single import SIGNATURE, cut_operator, read_operators, synthesize


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "convolution.tflite"
    synthesize(layers.convolution(8, 3, 16, 3, 2, numbers="int8"), path)
    return path


def test_multiply_accumulates_are_counted_once_per_weight_and_place() -> None:
    assert layers.convolution(8, 3, 16, (3, 5), 2).macs == 4 * 4 * 16 * 3 * 5 * 3
    assert layers.depthwise(8, 6, 3).macs == 8 * 8 * 6 * 9
    assert layers.fully_connected(20, 7, rows=3).macs == 3 * 20 * 7
    assert layers.arithmetic("ADD", (1, 8, 8, 4)).macs == 0


def test_bytes_are_those_of_all_that_is_read_and_written() -> None:
    assert layers.fully_connected(20, 7).bytes == 4 * (20 + 20 * 7 + 7 + 7)
    assert layers.fully_connected(20, 7, numbers="int8").bytes == 20 + 20 * 7 + 4 * 7 + 7


def test_windows_fit_the_padding() -> None:
    assert layers.convolution(9, 1, 1, 3, 2).outputs[0].shape == (1, 5, 5, 1)
    assert layers.convolution(9, 1, 1, 3, 2, padding="VALID").outputs[0].shape == (1, 4, 4, 1)


def test_stride_and_kernel_are_known_whatever_the_kind() -> None:
    convolution = layers.convolution(9, 2, 4, (10, 4), 2)
    pool = layers.pooling("MAX_POOL_2D", 8, 4, 3, 2)
    assert (convolution.kernel, convolution.stride) == ((10, 4), (2, 2))
    assert (pool.kernel, pool.stride) == ((3, 3), (2, 2))
    assert (layers.global_average(4, 8).kernel, layers.global_average(4, 8).stride) == ((1, 1), (1, 1))


@pytest.mark.parametrize(
    ("numbers", "computes_in"),
    [("float32", "float32"), ("int8", "int8"), ("dynamic", "dynamic"), ("float16", "float32")],
)
def test_the_format_is_the_one_that_is_computed_in(numbers: str, computes_in: str) -> None:
    assert layers.convolution(4, 4, 4, numbers=numbers).numbers == computes_in


def test_operators_survive_json() -> None:
    for operator in (layers.convolution(4, 4, 4), layers.pad(4, 4, 1), layers.elementwise("SOFTMAX", (1, 10))):
        assert msgspec.json.decode(msgspec.json.encode(operator), type=Operator) == operator


def test_equal_operators_are_one_key() -> None:
    times = {layers.depthwise(8, 16): 1.0}
    assert times[layers.depthwise(8, 16)] == 1.0
    assert layers.depthwise(8, 16, activation="RELU6") not in times


def test_an_optional_input_may_be_absent(tmp_path: Path) -> None:
    with_bias = layers.fully_connected(8, 4)
    without = msgspec.structs.replace(with_bias, inputs=(*with_bias.inputs[:2], None))
    synthesize(without, tmp_path / "x.tflite")
    assert read_operators(tmp_path / "x.tflite", SIGNATURE) == [without]


def test_small_integer_constants_keep_their_values() -> None:
    axes = layers.global_average(4, 8).inputs[1]
    assert axes == Tensor((2,), "int32", constant=True, values=(1, 2))


def test_another_signature_is_refused_by_name(file: Path) -> None:
    with pytest.raises(ModelError, match="no signature 'other': there are operator"):
        read_operators(file, "other")


def test_nested_networks_have_operators_of_their_own(products: dict[str, Product], tmp_path: Path) -> None:
    path = products["wide"].target.path
    assert signatures_of(path) == ("wide", "middle", "narrow")
    for name, product in products.items():
        (operator,) = read_operators(path, name)
        assert operator.weights.shape == product.weights.shape
        cut_operator(path, name, 0, tmp_path / "cut.tflite")
        x = np.random.default_rng(0).uniform(0, 1, (1, INPUTS)).astype(np.float32)
        answer = Model(tmp_path / "cut.tflite").runner(SIGNATURE)(x)
        np.testing.assert_allclose(answer, product.answers(x), atol=1e-3)
    with pytest.raises(ModelError, match="no signature 'other': there are wide, middle, narrow"):
        read_operators(path, "other")


@pytest.mark.parametrize("content", [b"", b"short", b"x" * 1000])
def test_what_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.tflite"
    path.write_bytes(content)
    with pytest.raises(ModelError, match="is no LiteRT file"):
        read_operators(path, SIGNATURE)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read: No such file"):
        read_operators(tmp_path / "absent.tflite", SIGNATURE)


@pytest.mark.parametrize("kept", [0.1, 0.3, 0.5, 0.7, 0.9])
def test_a_truncated_model_is_refused_in_one_line(file: Path, kept: float) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * kept)])
    with pytest.raises(ModelError) as refusal:
        read_operators(file, SIGNATURE)
    assert len(str(refusal.value).splitlines()) == 1


@pytest.mark.parametrize("seed", range(40))
def test_a_damaged_model_is_read_or_refused(file: Path, seed: int) -> None:
    generator = np.random.default_rng(seed)
    content = bytearray(file.read_bytes())
    for place in generator.integers(8, len(content), 20):
        content[place] = generator.integers(0, 256)
    file.write_bytes(content)
    try:
        read_operators(file, SIGNATURE)
    except ModelError as refusal:
        assert len(str(refusal).splitlines()) == 1
