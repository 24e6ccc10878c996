from __future__ import annotations

import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fleetfoot.errors import ModelError
from profiling.operators import layers
from profiling.operators.design import design
from profiling.operators.operator import Operator, Tensor
from profiling.operators.single import SIGNATURE, cut_operator, read_operators, synthesize

FORMATS = ("float32", "int8", "dynamic", "float16")
NETWORK = "base"


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A network of several kinds of operators, by number format."""
    from zoo.backend import keras
    from zoo.export import INPUT, export
    from zoo.quantize import Calibration, quantize

    keras.utils.set_random_seed(0)
    inputs = keras.Input((12, 12, 3))
    x = keras.layers.Conv2D(40, 3, strides=2, padding="same", activation="relu")(inputs)
    arm = keras.layers.DepthwiseConv2D(3, padding="same", activation="relu6")(x)
    arm = keras.layers.Conv2D(40, 1)(arm)
    x = keras.layers.MaxPooling2D(2)(keras.layers.Add()([x, arm]))
    x = keras.layers.Concatenate()([x, keras.layers.Conv2D(24, 1, activation="relu")(x)])
    x = keras.layers.GlobalAveragePooling2D()(x)
    network = keras.Model(inputs, keras.layers.Dense(5, activation="softmax")(x))
    folder = tmp_path_factory.mktemp("networks")
    paths = {numbers: folder / f"{numbers}.tflite" for numbers in FORMATS}
    export({NETWORK: network}, paths["float32"])
    calibration = Calibration(random((8, 12, 12, 3)), [NETWORK], INPUT)
    for numbers in FORMATS[1:]:
        paths[numbers].write_bytes(quantize(paths["float32"].read_bytes(), numbers, calibration))
    return paths


def random(shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    return np.random.default_rng(0).uniform(0, 1, shape).astype(np.float32)


def interpreter_of(path: Path, **options: Any) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # keeping all tensors is meant for debugging, it says
        interpreter = Interpreter(model_path=str(path), num_threads=1, **options)
    interpreter.allocate_tensors()
    return interpreter


def run(interpreter: Any, inputs: list[npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], value)
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def synthesized_runs(operator: Operator, path: Path) -> bool:
    synthesize(operator, path)
    interpreter = interpreter_of(path)
    details = interpreter.get_input_details()
    outputs = run(interpreter, [np.ones(detail["shape"], detail["dtype"]) for detail in details])
    return [output.shape for output in outputs] == [tensor.shape for tensor in operator.outputs]


def test_the_operators_of_a_network_are_listed_in_order(networks: dict[str, Path]) -> None:
    operators = read_operators(networks["float32"], NETWORK)
    assert Counter(operator.kind for operator in operators) == Counter(
        CONV_2D=3, DEPTHWISE_CONV_2D=1, ADD=1, MAX_POOL_2D=1, CONCATENATION=1, MEAN=1, FULLY_CONNECTED=1, SOFTMAX=1
    )
    assert operators[0] == layers.convolution(12, 3, 40, 3, 2)
    assert operators[-1] == layers.elementwise("SOFTMAX", (1, 5))


def test_operators_by_hand_are_those_of_the_quantizer(networks: dict[str, Path]) -> None:
    expected = {numbers: layers.convolution(12, 3, 40, 3, 2, numbers=numbers) for numbers in FORMATS}
    found = {numbers: read_operators(path, NETWORK) for numbers, path in networks.items()}
    for numbers, operators in found.items():
        assert expected[numbers] in operators, numbers


def test_unpacking_float16_weights_is_no_operator_that_runs(networks: dict[str, Path]) -> None:
    half, single = (read_operators(networks[numbers], NETWORK) for numbers in ("float16", "float32"))
    assert [operator.kind for operator in half] == [operator.kind for operator in single]


@pytest.mark.parametrize("numbers", FORMATS)
def test_a_cut_out_operator_computes_what_it_computes_in_the_network(
    networks: dict[str, Path], tmp_path: Path, numbers: str
) -> None:
    whole = interpreter_of(networks[numbers], experimental_preserve_all_tensors=True)
    run(whole, [random((1, 12, 12, 3))])
    running = [detail for detail in whole._get_ops_details() if detail["op_name"] != "DELEGATE"]
    running = [detail for detail in running if not unpacks(whole, detail)]
    operators = read_operators(networks[numbers], NETWORK)
    assert [detail["op_name"] for detail in running] == [operator.kind for operator in operators]
    for index, (detail, operator) in enumerate(zip(running, operators, strict=True)):
        path = tmp_path / f"{index}.tflite"
        cut_operator(networks[numbers], NETWORK, index, path)
        activations = [place for place, tensor in zip(detail["inputs"], operator.inputs, strict=True)
                       if tensor is not None and not tensor.constant]  # fmt: skip
        outputs = run(interpreter_of(path), [whole.get_tensor(place) for place in activations])
        for output, place in zip(outputs, detail["outputs"], strict=True):
            expected = whole.get_tensor(place)
            step = 1 if expected.dtype == np.int8 else 1e-5 * max(1.0, float(np.abs(expected).max()))
            assert np.abs(output.astype(float) - expected.astype(float)).max() <= step, (numbers, operator.kind)
        assert read_operators(path, SIGNATURE) == [operator]


def unpacks(interpreter: Any, detail: dict[str, Any]) -> bool:
    """Whether an operator only makes constants float32, which are of the weights' types."""
    source = interpreter._get_tensor_details(int(detail["inputs"][0]), 0)
    return detail["op_name"] == "DEQUANTIZE" and source["dtype"] == np.float16


def test_an_operator_that_is_not_there_cannot_be_cut_out(networks: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="has no operator 99: there are 10"):
        cut_operator(networks["float32"], NETWORK, 99, tmp_path / "x.tflite")


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(1, 12), channels=st.integers(1, 20), filters=st.integers(1, 20), kernel=st.integers(1, 5),
    stride=st.integers(1, 2), numbers=st.sampled_from(FORMATS), activation=st.sampled_from(["NONE", "RELU", "RELU6"]),
)  # fmt: skip
def test_a_described_convolution_becomes_a_model_of_itself(
    tmp_path: Path, size: int, channels: int, filters: int, kernel: int, stride: int, numbers: str, activation: str
) -> None:
    path = tmp_path / "x.tflite"
    for operator in (
        layers.convolution(size, channels, filters, kernel, stride, numbers=numbers, activation=activation),
        layers.depthwise(size, channels, kernel, stride, numbers=numbers, activation=activation),
        layers.fully_connected(channels, filters, size, numbers=numbers),
    ):
        assert synthesized_runs(operator, path)
        assert read_operators(path, SIGNATURE) == [operator]


def test_every_operator_of_the_design_becomes_a_model_of_itself(tmp_path: Path) -> None:
    path = tmp_path / "x.tflite"
    operators = [one for one in design(("float32", "int8", "dynamic")) if one.bytes < 20_000]
    assert len({operator.kind for operator in operators}) > 20
    for operator in operators[::3]:
        assert synthesized_runs(operator, path)
        assert read_operators(path, SIGNATURE) == [operator]


@pytest.mark.parametrize("numbers", FORMATS)
def test_operators_of_a_network_can_be_made_from_their_descriptions(
    networks: dict[str, Path], tmp_path: Path, numbers: str
) -> None:
    for operator in read_operators(networks[numbers], NETWORK):
        assert synthesized_runs(operator, tmp_path / "x.tflite")
        assert read_operators(tmp_path / "x.tflite", SIGNATURE) == [operator]


def test_what_litert_does_not_have_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="CUSTOM Mine cannot be made from its description"):
        synthesize(Operator("CUSTOM Mine", (Tensor((1, 4)),), (Tensor((1, 4)),)), tmp_path / "x.tflite")


def test_an_option_that_a_kind_does_not_have_is_refused(tmp_path: Path) -> None:
    strange = Operator("RELU", (Tensor((1, 4)),), (Tensor((1, 4)),), (("strideH", 2),))
    with pytest.raises(ModelError, match="RELU has no option 'strideH'"):
        synthesize(strange, tmp_path / "x.tflite")


def test_the_design_is_the_same_each_time() -> None:
    assert design() == design()
    assert len(set(design())) == len(design())
