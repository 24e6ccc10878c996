"""Networks nested in one file come out of it to the last bit, take little room there, and are opened alone."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated as schema
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from networks import answers

from fleetfoot.errors import ModelError
from profiling.invoke import Model
from profiling.nested import nested_signatures, standalone
from zoo.backend import keras
from zoo.channels import cuttable_groups, slice_model
from zoo.export import FLOAT_TOLERANCE, INPUT, export, parity, predict
from zoo.nesting import nest
from zoo.quantize import Calibration, quantize

SHARES = {"wide": 1.0, "middle": 0.5, "narrow": 0.25}
TYPES = {
    "float32": schema.TensorType.FLOAT32,
    "float16": schema.TensorType.FLOAT16,
    "int8": schema.TensorType.INT8,
}


@pytest.fixture(scope="module")
def family() -> Mapping[str, Any]:
    """A network that is flattened at its end, and slices of it with batch-norm statistics of their own."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    raw = keras.Input((8, 8, 1), name="input")
    x = raw
    for width in 64, 96:
        x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
        x = layers.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
    wide = keras.Model(raw, layers.Dense(10, activation="softmax", name="probabilities")(layers.Flatten()(x)))
    random = np.random.default_rng(0)

    def subnetwork(share: float) -> Any:
        groups = cuttable_groups(wide)
        network = slice_model(wide, {name: int(group.size * share) for name, group in groups.items()})
        for layer in network.layers:
            if isinstance(layer, layers.BatchNormalization):
                layer.moving_mean.assign(random.normal(0, 0.1, layer.moving_mean.shape))
                layer.moving_variance.assign(random.uniform(0.5, 2, layer.moving_variance.shape))
        return network

    return {name: subnetwork(share) for name, share in SHARES.items()}


@pytest.fixture(scope="module")
def inputs(digits: Any) -> Any:
    return digits.x[:30]


Files = dict[str, bytes]


@pytest.fixture(scope="module")
def alone(family: Mapping[str, Any], inputs: Any, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Files]:
    """The file of each network by itself, in each number format."""
    folder = tmp_path_factory.mktemp("alone")
    for name, network in family.items():
        export({name: network}, folder / name)
    floats = {name: (folder / name).read_bytes() for name in family}

    def quantized(numbers: str) -> Files:
        return {name: quantize(file, numbers, Calibration(inputs, [name], INPUT)) for name, file in floats.items()}

    return {"float32": floats, "int8": quantized("int8"), "float16": quantized("float16")}


@pytest.mark.parametrize(("numbers", "share"), [("float32", 0.2), ("float16", 0.4), ("int8", 0.7)])
def test_subnetworks_take_little_room_and_come_out_to_the_last_bit(
    alone: dict[str, Files], numbers: str, share: float, tmp_path: Path
) -> None:
    files, path = alone[numbers], tmp_path / "family.tflite"
    path.write_bytes(nest(files))
    assert nested_signatures(path) == ("middle", "narrow")
    assert {name: standalone(path, name) for name in ("middle", "narrow")} == {
        name: files[name] for name in ("middle", "narrow")
    }
    assert standalone(path, "wide") is None
    assert path.stat().st_size - len(files["wide"]) < share * (len(files["middle"]) + len(files["narrow"]))


def test_each_is_run_from_the_one_file(family: Mapping[str, Any], inputs: Any, tmp_path: Path) -> None:
    path = tmp_path / "family.tflite"
    export(family, path)
    whole = Model(path)
    assert set(whole.signatures) == set(family)
    for name, network in family.items():
        assert name in Model(path, signature=name).signatures
        np.testing.assert_array_equal(whole.runner(name)(inputs[:1]), predict(path, name, inputs[:1]))
        assert parity(network, path, name, inputs, None) <= FLOAT_TOLERANCE
        np.testing.assert_allclose(predict(path, name, inputs), answers(network, inputs), atol=FLOAT_TOLERANCE)
    with pytest.raises(ModelError, match="no signature 'nobody'"):
        Model(path, signature="nobody").runner("nobody")


def test_the_same_networks_give_the_same_file(alone: dict[str, Files]) -> None:
    assert nest(alone["float32"]) == nest(alone["float32"])


def test_networks_that_are_no_slices_can_be_nested_too(alone: dict[str, Files], tmp_path: Path) -> None:
    files = {"float": alone["float32"]["wide"], "integers": alone["int8"]["middle"]}
    (tmp_path / "both.tflite").write_bytes(nest(files))
    assert standalone(tmp_path / "both.tflite", "integers") == files["integers"]


def test_a_network_by_itself_stays_as_it_is(alone: dict[str, Files], tmp_path: Path) -> None:
    wide = alone["float32"]["wide"]
    assert nest({"wide": wide}) == wide
    (tmp_path / "wide.tflite").write_bytes(wide)
    assert nested_signatures(tmp_path / "wide.tflite") == ()


def test_what_others_keep_behind_a_file_is_no_network(alone: dict[str, Files], tmp_path: Path) -> None:
    path = tmp_path / "labelled.tflite"
    whole = io.BytesIO(alone["float32"]["wide"])
    with zipfile.ZipFile(whole, "a") as archive:
        archive.writestr("labels.txt", "zero\none\n")
    path.write_bytes(whole.getvalue())
    assert nested_signatures(path) == ()
    assert Model(path, signature="wide").signatures == ("wide",)


@pytest.mark.parametrize("where", ["in the widest network", "in the nested one"])
def test_damage_is_told(alone: dict[str, Files], where: str, tmp_path: Path) -> None:
    files, path = alone["float32"], tmp_path / "family.tflite"
    damaged = bytearray(nest(files))
    if where == "in the nested one":
        damaged[len(files["wide"]) + 500] ^= 1
    else:
        weights = np.frombuffer(files["wide"], np.uint8)
        longest = max(range(0, len(weights) - 4096, 4096), key=lambda at: len(np.unique(weights[at : at + 4096])))
        for at in range(longest, longest + 4096, 4):
            damaged[at + 1] ^= 0x40
    path.write_bytes(damaged)
    with pytest.raises(ModelError, match=r"family\.tflite is damaged, so that middle cannot be put together: "):
        Model(path, signature="middle")


def product_file(weights: Any) -> bytes:
    """A LiteRT file of one matrix product; nobody runs it."""
    graph, tensor = schema.SubGraphT(), schema.TensorT()
    tensor.name, tensor.shape, tensor.buffer = "weights", list(weights.shape), 1
    tensor.type = TYPES[weights.dtype.name]
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [-1, 0], []
    graph.tensors, graph.inputs, graph.outputs, graph.operators = [tensor], [], [], [operator]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
    model, buffer = schema.ModelT(), schema.BufferT()
    buffer.data = np.frombuffer(weights.tobytes(), np.uint8)
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT(), buffer]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@st.composite
def pairs(draw: st.DrawFn) -> tuple[Any, Any]:
    """Weights, and others of any smaller size: slices times factors, or anything at all."""
    dtype = np.dtype(draw(st.sampled_from(sorted(TYPES))))
    rows, runs, columns = draw(st.integers(1, 12)), draw(st.integers(1, 4)), draw(st.integers(1, 12))
    whole = draw(arrays(dtype, (rows, runs * columns)))
    kept_rows, kept_columns = draw(st.integers(1, rows)), draw(st.integers(1, columns))
    shape = (kept_rows, runs * kept_columns)
    if draw(st.booleans()):
        return whole, draw(arrays(dtype, shape))
    factors = draw(arrays(np.float32, (kept_rows, 1), elements=st.floats(0.25, 4, width=32)))
    kept = whole.reshape(rows, runs, columns)[:kept_rows, :, :kept_columns].reshape(shape)
    with np.errstate(all="ignore"):
        return whole, (kept * factors).astype(dtype)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pair=pairs())
def test_whatever_the_weights_are_they_come_out_to_the_last_bit(pair: tuple[Any, Any], tmp_path: Path) -> None:
    whole, part = map(product_file, pair)
    path = tmp_path / "both.tflite"
    path.write_bytes(nest({"whole": whole, "part": part} if len(whole) > len(part) else {"part": part, "whole": whole}))
    assert {name: standalone(path, name) for name in nested_signatures(path)} in ({"part": part}, {"whole": whole})


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), min_size=1, max_size=3))
def test_damaged_archives_give_no_other_network(damage: list[tuple[int, int]], tmp_path: Path) -> None:
    whole = np.random.default_rng(0).normal(size=(20, 20)).astype(np.float32)
    files = {"whole": product_file(whole), "part": product_file(2 * whole[:10, :10])}
    content, begin = bytearray(nest(files)), len(files["whole"])
    for place, flipped in damage:
        content[begin + place % (len(content) - begin)] ^= flipped
    path = tmp_path / "damaged.tflite"
    path.write_bytes(content)
    try:
        assert standalone(path, "part") in (files["part"], None)
    except ModelError as error:
        assert "is damaged, so that part cannot be put together" in str(error)
