"""Files for microcontrollers: integers only, as LiteRT answers, in the computed memory, and C that compiles."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import randomize

from fleetfoot.errors import ExportError, ModelError, UsageError
from fleetfoot.files import sha256, write_bytes
from fleetfoot.silence import silenced
from zoo.architectures import ARCHITECTURES
from zoo.backend import keras
from zoo.catalog import InputSpec, Manifest, Variant, Zoo
from zoo.channels import slice_model
from zoo.export import export
from zoo.memory import peak_activation_bytes
from zoo.microcontroller import (
    HEADER,
    IntegerModel,
    Member,
    Source,
    integers_only,
    write_microcontroller,
    write_networks,
    zoo_sources,
)
from zoo.microcontroller.plan import ALIGNMENT, Plan, Span, least_size, plan
from zoo.microcontroller.source import header
from zoo.recipe import Recipe

layers = keras.layers
Array = npt.NDArray[Any]
ROOT = Path(__file__).parent.parent.parent


def network() -> Any:
    """Raw bytes, LeakyReLU, a residual sum, an odd pooling, and a large map flattened."""
    inputs = keras.Input((12, 12, 3), dtype="uint8", name="input")
    x = layers.Rescaling(1 / 127.5, offset=-1)(inputs)
    x = layers.LeakyReLU(negative_slope=0.1)(layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2, name="a")(x)))
    y = layers.DepthwiseConv2D(3, padding="same")(x)
    y = layers.ReLU()(layers.Conv2D(8, 1, name="b")(y))
    x = layers.AveragePooling2D((5, 2), strides=1)(layers.Add()([x, y]))
    return keras.Model(inputs, layers.Dense(4, activation="softmax", name="out")(layers.Flatten()(x)))


def images(count: int) -> Array:
    return np.random.default_rng(1).integers(0, 256, (count, 12, 12, 3)).astype(np.uint8)


@pytest.fixture(scope="module")
def networks() -> dict[str, Any]:
    whole = network()
    randomize(whole, 0)
    return {"whole": whole, "half": slice_model(whole, {"a": 4})}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("firmware")


@pytest.fixture(scope="module")
def members(networks: dict[str, Any], folder: Path) -> dict[str, Member]:
    return {member.name: member for member in write_networks(networks, folder, images(64))}


def as_integers(model: IntegerModel, x: Array) -> Array:
    return np.clip(np.round(x / model.input.scale) + model.input.zero_point, -128, 127).astype(np.int8)


def litert(model: IntegerModel, x: Array) -> Array:
    with silenced():
        interpreter = Interpreter(model_content=model.data, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
        interpreter.allocate_tensors()
    answers = []
    for row in x:
        interpreter.set_tensor(interpreter.get_input_details()[0]["index"], row[np.newaxis])
        interpreter.invoke()
        answers.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"])[0].copy())
    return np.array(answers)


def test_the_table_ascends_in_cost_and_the_files_are_the_models(members: dict[str, Member], folder: Path) -> None:
    assert list(members) == ["half", "whole"]
    assert members["half"].macs < members["whole"].macs
    for name, member in members.items():
        assert (folder / f"{name}.tflite").read_bytes() == member.model.data


def test_nothing_is_in_float_and_nothing_is_named(members: dict[str, Member]) -> None:
    for member in members.values():
        model = schema.ModelT.InitFromPackedBuf(member.model.data, 0)
        (graph,) = model.subgraphs
        assert {tensor.type for tensor in graph.tensors} <= {schema.TensorType.INT8, schema.TensorType.INT32}
        assert not any(tensor.name for tensor in graph.tensors)
        assert not {"CAST", "QUANTIZE", "DEQUANTIZE", "MUL"} & set(member.model.operators)


def test_constants_are_aligned(members: dict[str, Member]) -> None:
    data = members["whole"].model.data
    model = schema.Model.GetRootAsModel(data, 0)
    tables = [model.Buffers(index)._tab for index in range(model.BuffersLength())]
    assert not any(table.Vector(table.Offset(4)) % 16 for table in tables if table.Offset(4))


def test_raw_bytes_become_integers_by_taking_128_away(members: dict[str, Member]) -> None:
    for member in members.values():
        assert member.model.input.scale == pytest.approx(1, rel=1e-3)
        assert member.model.input.zero_point == pytest.approx(-128, abs=1)


def test_answers_are_those_of_the_network(networks: dict[str, Any], members: dict[str, Member]) -> None:
    x = images(50)
    for name, member in members.items():
        answers = litert(member.model, as_integers(member.model, x)).astype(float)
        probabilities = (answers - member.model.output.zero_point) * member.model.output.scale
        expected = networks[name].predict(x, verbose=0)
        assert np.abs(probabilities - expected).mean() < 0.03
        assert (probabilities.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.85


def test_the_planned_memory_is_the_computed_peak(networks: dict[str, Any], members: dict[str, Member]) -> None:
    for name, member in members.items():
        peak = peak_activation_bytes(networks[name], 1)
        assert peak <= member.model.activation_bytes <= peak + 3 * ALIGNMENT


def test_tensorflow_lite_micro_answers_as_litert_in_that_memory(members: dict[str, Member]) -> None:
    runtime = pytest.importorskip("tflite_micro").runtime
    for member in members.values():
        model = member.model
        x = as_integers(model, images(20))
        interpreter = runtime.Interpreter.from_bytes(model.data, arena_size=model.arena_bytes)
        answers = []
        for row in x:
            interpreter.set_input(row[np.newaxis], 0)
            interpreter.invoke()
            answers.append(interpreter.get_output(0)[0].copy())
        with silenced() as log:
            interpreter.print_allocations()
            recorded = re.search(r"Arena allocation head (\d+) bytes", log())
        expected = litert(model, x)
        assert np.abs(np.array(answers).astype(int) - expected).max() <= 1
        assert (np.argmax(answers, axis=1) == expected.argmax(axis=1)).all()
        assert recorded
        assert int(recorded[1]) == model.activation_bytes


def test_a_file_that_has_integers_keeps_them(
    networks: dict[str, Any], members: dict[str, Member], tmp_path: Path
) -> None:
    x = images(64)
    export({"whole": networks["whole"]}, tmp_path / "int8.tflite", quantize="int8", x=x, y=np.zeros(64, np.int64))
    assert integers_only(tmp_path / "int8.tflite", "whole").data == members["whole"].model.data


def test_what_is_made_is_made_the_same_again(members: dict[str, Member], folder: Path) -> None:
    for name, member in members.items():
        again = integers_only(folder / f"{name}.tflite", "")
        assert again.data == member.model.data
        assert again.input.zero_point in range(-128, 128)


@pytest.mark.parametrize("language", ["c", "c++"])
def test_the_header_compiles(members: dict[str, Member], folder: Path, language: str) -> None:
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no compiler")
    flags = ["-Wall", "-Wextra", "-Werror", "-Wno-unused-const-variable", "-Wno-unused-variable", "-fsyntax-only"]
    standard = "-std=c11" if language == "c" else "-std=c++17"
    subprocess.run([compiler, "-x", language, standard, *flags, str(folder / HEADER)], check=True)


def test_the_example_switches_between_the_networks(members: dict[str, Member], folder: Path, tmp_path: Path) -> None:
    """Against headers of the same names and signatures as TensorFlow Lite Micro's."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("there is no compiler")
    for name, text in _stubs(sorted({kind for m in members.values() for kind in m.model.operators})).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    program = tmp_path / "example"
    source = ROOT / "examples" / "microcontroller" / "main.cc"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-I", str(folder), "-I", str(tmp_path)]
    subprocess.run([compiler, *flags, str(source), "-o", str(program)], check=True)
    assert subprocess.run([program], check=False).returncode == 0


def _stubs(kinds: list[str]) -> dict[str, str]:
    def camel_case(kind: str) -> str:
        return "".join(word if word[0].isdigit() else word.capitalize() for word in kind.split("_"))

    adders = "\n".join(f"  void Add{camel_case(kind)}() {{ if (++count > n) __builtin_trap(); }}" for kind in kinds)
    return {
        "tensorflow/lite/micro/micro_interpreter.h": _INTERPRETER,
        "tensorflow/lite/micro/micro_mutable_op_resolver.h": f"""#pragma once
#include "tensorflow/lite/micro/micro_interpreter.h"
namespace tflite {{
template <unsigned n> struct MicroMutableOpResolver : MicroOpResolver {{
  unsigned count = 0;
{adders}
}};
}}
""",
        "tensorflow/lite/micro/micro_time.h": """#pragma once
#include <cstdint>
namespace tflite { inline uint32_t GetCurrentTimeTicks() { static uint32_t now = 0; return now += 7; } }
""",
        "tensorflow/lite/schema/schema_generated.h": """#pragma once
#include <cstring>
namespace tflite {
struct Model {};
inline const Model* GetModel(const void* data) {
  if (std::memcmp(static_cast<const char*>(data) + 4, "TFL3", 4) != 0) __builtin_trap();
  return static_cast<const Model*>(data);
}
}
""",
    }


_INTERPRETER = """#pragma once
#include <cstddef>
#include <cstdint>
enum TfLiteStatus { kTfLiteOk, kTfLiteError };
union TfLitePtrUnion { int8_t* int8; };
struct TfLiteTensor { TfLitePtrUnion data; };
namespace tflite {
struct Model;
struct MicroOpResolver {};
struct MicroInterpreter {
  MicroInterpreter(const Model*, const MicroOpResolver&, uint8_t* arena, size_t) {
    tensor.data.int8 = reinterpret_cast<int8_t*>(arena);
  }
  MicroInterpreter(const MicroInterpreter&) = delete;
  TfLiteStatus AllocateTensors() { return kTfLiteOk; }
  TfLiteStatus Invoke() { return kTfLiteOk; }
  TfLiteTensor* input(size_t) { return &tensor; }
  TfLiteTensor* output(size_t) { return &tensor; }
  TfLiteTensor tensor;
};
}
"""


def test_a_front_end_without_an_integer_form_is_refused(tmp_path: Path) -> None:
    spec = InputSpec(kind="audio", shape=(4000,), dtype="float32", minimum=-1, maximum=1, sampling_rate=8000)
    x = np.random.default_rng(0).uniform(-1, 1, (8, 4000)).astype(np.float32)
    with pytest.raises(ExportError, match="words cannot be made of integers only.*stay in float") as error:
        write_networks({"words": ARCHITECTURES["dnn"](spec, 4)}, tmp_path, x)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_an_operator_that_does_not_run_there_is_refused(members: dict[str, Member]) -> None:
    model = members["half"].model._replace(operators=("CONV_2D", "CUSTOM Fft"))
    with pytest.raises(ExportError, match="does not run CUSTOM Fft"):
        header([Member("strange", model, 1)])


def test_networks_that_cannot_share_a_header_are_refused(
    members: dict[str, Member], folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="at least one"):
        write_networks({}, tmp_path, images(1))
    with pytest.raises(ModelError, match="no signature 'nobody'"):
        write_microcontroller({"half": Source(folder / "half.tflite", "nobody")}, tmp_path, images(1))
    with pytest.raises(ModelError, match="missing.tflite cannot be read"):
        write_microcontroller({"half": Source(folder / "missing.tflite", "half")}, tmp_path, images(1))
    inputs = keras.Input((3,), name="input")
    x = np.random.default_rng(0).uniform(0, 1, (8, 3)).astype(np.float32)
    write_networks({"other": keras.Model(inputs, layers.Dense(2)(inputs))}, tmp_path, x)
    unlike = {"half": Source(folder / "half.tflite", ""), "other": Source(tmp_path / "other.tflite", "")}
    with pytest.raises(UsageError, match="half and other differ in input or classes"):
        write_microcontroller(unlike, tmp_path / "both", images(1))
    assert not (tmp_path / "both").exists()


def test_the_subnetworks_of_a_zoo_are_written_unless_others_are_named(tmp_path: Path) -> None:
    file = tmp_path / "variants" / "n.tflite"
    write_bytes(file, b"of networks")
    recipes = {"base": Recipe(), "nested": Recipe(order="order.json"), "halved": Recipe(quantize="float16")}
    variants = tuple(_variant(name, recipe, file) for name, recipe in recipes.items())
    spec = InputSpec(kind="image", shape=(12, 12, 3), dtype="uint8", minimum=0, maximum=255)
    zoo = Zoo(tmp_path, Manifest(name="n", classes=("a", "b", "c", "d"), input=spec, variants=variants))
    assert zoo_sources(zoo) == {"nested": Source(file, "whole")}
    assert list(zoo_sources(zoo, ["base"])) == ["base"]
    with pytest.raises(ExportError, match="halved is in float16"):
        zoo_sources(zoo, ["halved"])
    with pytest.raises(UsageError, match="no variant 'nobody'"):
        zoo_sources(zoo, ["nobody"])
    formats = {quantize: Recipe(order="order.json", quantize=quantize) for quantize in ("float16", "int8", "dynamic")}
    more = (*variants, *(_variant(f"nested-{name}", recipe, file) for name, recipe in formats.items()))
    manifest = Manifest(name="n", classes=("a", "b", "c", "d"), input=spec, variants=more)
    assert list(zoo_sources(Zoo(tmp_path, manifest))) == ["nested-int8"]
    exits = (_variant("exit-0.5", Recipe(exit=0.5), file),)
    with pytest.raises(ExportError, match=r"exit-0\.5 is one of several exits"):
        zoo_sources(Zoo(tmp_path, Manifest(name="n", classes=("a",), input=spec, variants=exits)), ["exit-0.5"])
    without = Zoo(tmp_path, Manifest(name="n", classes=("a",), input=spec, variants=variants[:1]))
    with pytest.raises(UsageError, match="has no subnetworks"):
        zoo_sources(without)


def _variant(name: str, recipe: Recipe, file: Path) -> Variant:
    return Variant(
        id=name, file=f"variants/{file.name}", sha256=sha256(file), signature="whole", recipe=recipe, parent=None,
        accuracy={"route": 0.5, "test": 0.5}, macs=1, parameters=1, size=1, peak_activation_bytes=1, parity=0.0,
    )  # fmt: skip


spans = st.lists(
    st.builds(
        lambda size, first, length: Span(size, first, first + length),
        st.integers(1, 200),
        st.integers(0, 12),
        st.integers(0, 5),
    ),
    min_size=1,
    max_size=14,
)


@given(spans)
@settings(deadline=None, max_examples=60)
def test_nothing_that_is_needed_at_once_overlaps(activations: list[Span]) -> None:
    made = plan(activations)
    assert made.size >= least_size(activations)
    for n, (one, start) in enumerate(zip(activations, made.offsets, strict=True)):
        assert start % ALIGNMENT == 0
        assert start + one.size <= made.size
        for other, offset in list(zip(activations, made.offsets, strict=True))[:n]:
            if one.first <= other.last and other.first <= one.last:
                assert start + one.size <= offset or offset + other.size <= start


def test_a_chain_of_residual_sums_has_no_gaps() -> None:
    """As of ResNet-20, where placing the largest first takes a third more."""
    activations = [Span(16384, 0, 3)]
    for block in range(4):
        activations += [Span(16384, 3 * block + offset, 3 * block + 1 + offset) for offset in (1, 2)]
        activations += [Span(16384, 3 * block + 3, 3 * block + 6)]
    assert plan(activations).size == least_size(activations)


def test_no_activations_take_no_memory() -> None:
    assert plan([]) == Plan((), 0)
