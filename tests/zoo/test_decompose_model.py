from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import answers, inputs_for, randomize, relative_difference

from zoo.backend import keras
from zoo.commands import decompose_model
from zoo.cost import count_macs
from zoo.export import predict

layers = keras.layers
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def decompose(call_here: Call) -> Call:
    """Calls ``decompose-model`` and returns its exit status, standard output and standard error."""

    return partial(call_here, decompose_model)


def network() -> Any:
    inputs = keras.Input((8, 8, 1), name="input")
    x = layers.Rescaling(1 / 16, name="scaled")(inputs)
    x = layers.Conv2D(16, 3, padding="same", activation="relu", name="first")(x)
    x = layers.Conv2D(32, 3, padding="same", activation="relu", name="second")(x)
    x = layers.Dense(48, activation="relu", name="hidden")(layers.Flatten(name="flat")(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax", name="out")(x), name="small")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "small.keras"
    made = network()
    randomize(made, 0)
    made.save(path)
    return path


def read(path: Path) -> Any:
    return keras.saving.load_model(path, compile=False)


def test_a_network_gets_as_much_cheaper_as_asked_and_keeps_its_form(
    decompose: Call, model: Path, tmp_path: Path
) -> None:
    out = tmp_path / "made" / "smaller.keras"
    status, said, _ = decompose(model, "--ratio", 2, "--out", out)
    assert status == 0
    whole, smaller = read(model), read(out)
    assert count_macs(smaller) <= count_macs(whole) / 2
    assert (smaller.input_shape, smaller.output_shape) == (whole.input_shape, whole.output_shape)
    for name in ("first", "second", "hidden", "out", "together"):
        assert name in said
    assert "whole" in said  # some layer is not worth it


def test_what_was_chosen_can_be_edited_and_given_back(decompose: Call, model: Path, tmp_path: Path) -> None:
    decompose(model, "--ratio", 2, "--out", tmp_path / "one.keras")
    ranks = tmp_path / "one.ranks.json"
    decompose(model, "--config", ranks, "--out", tmp_path / "two.keras")
    one, two = read(tmp_path / "one.keras"), read(tmp_path / "two.keras")
    for first, second in zip(one.get_weights(), two.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)
    assert not (tmp_path / "two.ranks.json").exists()
    edited = json.loads(ranks.read_text())
    edited["layer"] = [line for line in edited["layer"] if not line.startswith("hidden")]
    ranks.write_text(json.dumps(edited))
    status, said, _ = decompose(model, "--config", ranks, "--dry-run", "--json")
    assert status == 0
    assert {layer["name"]: layer["ranks"] for layer in json.loads(said)["layers"]}["hidden"] == ""


def test_ranks_are_given_layer_by_layer(decompose: Call, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "smaller.keras"
    lines = ("--layer", "second=tucker:8x12", "--layer", "hidden=16", "--layer", "first=4")
    status, said, _ = decompose(model, *lines, "--scheme", "channel", "--out", out, "--json")
    assert status == 0
    ranks = {layer["name"]: (layer["ranks"], layer["shapes"]) for layer in json.loads(said)["layers"]}
    assert ranks["first"] == ("channel:4", [[3, 3, 1, 4], [1, 1, 4, 16]])
    assert ranks["second"] == ("tucker:8x12", [[1, 1, 16, 8], [3, 3, 8, 12], [1, 1, 12, 32]])
    assert ranks["hidden"] == ("dense:16", [[2048, 16], [16, 48]])
    assert ranks["out"] == ("", [[48, 10]])
    for name, (_, shapes) in ranks.items():
        assert list(read(out).get_layer(name).kernel.shape) == shapes[-1]


def test_the_table_adds_up(decompose: Call, model: Path) -> None:
    _, said, _ = decompose(model, "--ratio", 2, "--dry-run", "--json")
    report = json.loads(said)
    assert report["before"] == count_macs(read(model)) == sum(layer["before"] for layer in report["layers"])
    assert report["after"] == report["rest"] + sum(layer["after"] for layer in report["layers"])
    assert report["parameters_before"] == read(model).count_params()
    assert all(0 < layer["energy"] <= 1 for layer in report["layers"])


def test_a_dry_run_writes_nothing(decompose: Call, model: Path, tmp_path: Path) -> None:
    assert decompose(model, "--ratio", 2, "--out", tmp_path / "smaller.keras", "--dry-run")[0] == 0
    assert decompose(model, "--ratio", 2, "--dry-run")[0] == 0
    assert list(tmp_path.iterdir()) == []


def test_a_litert_file_answers_like_the_network(decompose: Call, model: Path, tmp_path: Path) -> None:
    decompose(model, "--layer", "second=16", "--out", tmp_path / "smaller.keras")
    assert decompose(model, "--layer", "second=16", "--out", tmp_path / "smaller.tflite")[0] == 0
    network = read(tmp_path / "smaller.keras")
    x = inputs_for(network)[:1]
    answered = predict(tmp_path / "smaller.tflite", "serving_default", x)
    assert relative_difference(answered, answers(network, x)) < 1e-4


def test_kernels_are_fitted_and_trained_on_data(decompose: Call, tmp_path: Path) -> None:
    path, out = tmp_path / "small.keras", tmp_path / "smaller.keras"
    network().save(path)
    plain, trained = tmp_path / "plain.keras", ("--data", "digits", "--finetune-epochs", 1)
    assert decompose(path, "--ratio", 2, "--out", plain)[0] == 0
    status, said, _ = decompose(path, "--ratio", 2, "--out", out, *trained, "--json")
    assert status == 0
    accuracy = json.loads(said)["accuracy"]
    assert list(accuracy) == ["whole", "decomposed", "with its kernels fitted", "fine-tuned"]
    assert accuracy["fine-tuned"] > accuracy["decomposed"]
    assert read(out).input_shape == read(path).input_shape
    assert any((a != b).any() for a, b in zip(read(out).get_weights(), read(plain).get_weights(), strict=True))


def test_a_ratio_may_be_of_measured_time(decompose: Call, model: Path) -> None:
    status, said, _ = decompose(
        model, "--ratio", 1.2, "--cost", "latency", "--scheme", "channel", "--dry-run", "--json"
    )
    assert status == 0
    report = json.loads(said)
    assert report["unit"] == "latency"
    assert report["before"] / report["after"] >= 1.2 * (1 - 1e-9)
    assert report["before"] < 10  # milliseconds of a tiny network, and not multiply-accumulates


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("--ratio", 2), 2, "say where to write the model with --out FILE, or give --dry-run"),
        (("--dry-run",), 2, "say either how many times as fast, with --ratio, or the ranks, with --layer or --config"),
        (("--ratio", 2, "--layer", "second=4", "--dry-run"), 2, "say either how many times as fast"),
        (("--ratio", 0.5, "--dry-run"), 2, "a ratio says how many times as fast, 1 or more, and 0.5 is not"),
        (("--ratio", "nan", "--dry-run"), 2, "1 or more, and nan is not"),
        (("--ratio", 1000, "--dry-run"), 1, "no ranks bring small to 0.001 of its cost: the least possible is 0."),
        (("--ratio", 2, "--finetune-epochs", 3, "--dry-run"), 2, "fine-tuning takes data: name it with --data"),
        (("--ratio", 2, "--out", "smaller.h5"), 2, "smaller.h5 is to end in .keras or .tflite"),
        (("--ratio", 2, "--data", "no-such", "--out", "x.keras"), 2, "unknown dataset 'no-such'"),
        (("--layer", "secnd=4", "--dry-run"), 1, "there is no layer secnd (small: did you mean second?)"),
        (
            ("--layer", "a=4", "--layer", "b=4", "--layer", "first=10", "--dry-run"),
            1,
            "there is no layer a; there is no layer b; layer first as spatial has ranks from 1 to 3, not 10 "
            "(small: there are first, second, hidden, out)",
        ),
        (("--layer", "second", "--dry-run"), 2, "'second' says no rank of a layer: write NAME=K"),
        (("--layer", "second=many", "--dry-run"), 2, "'many' is no rank, write NAME=K"),
        (
            ("--layer", "second=svd:4", "--dry-run"),
            2,
            "unknown scheme 'svd', there are spatial, channel, tucker, dense",
        ),
        (("--layer", "second=4", "--layer", "second=5", "--dry-run"), 2, "layer second is there twice"),
        (("--layer", "second=0", "--dry-run"), 1, "layer second as spatial has ranks from 1 to 48, not 0"),
        (("--layer", "second=49", "--dry-run"), 1, "layer second as spatial has ranks from 1 to 48, not 49"),
        (("--layer", "second=tucker:17x4", "--dry-run"), 1, "has ranks from 1 to 16 and from 1 to 32, not 17x4"),
        (("--layer", "second=tucker:4", "--dry-run"), 1, "as tucker takes two ranks, of channels and of filters"),
        (("--layer", "hidden=spatial:4", "--dry-run"), 1, "layer hidden is decomposed as dense, not as spatial"),
        (("--layer", "flat=4", "--dry-run"), 1, "layer flat is of type Flatten, which cannot be decomposed"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(
    decompose: Call, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[object, ...], status: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    ended, out, err = decompose(model, *arguments)
    assert (ended, out) == (status, "")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_not_there_is_said(decompose: Call, tmp_path: Path) -> None:
    status, _, err = decompose(tmp_path / "none.keras", "--ratio", 2, "--dry-run")
    assert status == 1
    assert err == f"decompose-model: {tmp_path}/none.keras does not exist\n"


def test_nothing_to_decompose_is_said_layer_by_layer(decompose: Call, tmp_path: Path) -> None:
    inputs = keras.Input((8, 8, 3))
    x = layers.GlobalAveragePooling2D()(layers.DepthwiseConv2D(3, name="deep")(inputs))
    keras.Model(inputs, x, name="thin").save(tmp_path / "thin.keras")
    status, _, err = decompose(tmp_path / "thin.keras", "--ratio", 2, "--dry-run")
    assert status == 1
    assert "thin has nothing to decompose" in err
    assert "deep (DepthwiseConv2D)" in err


def test_weights_that_are_no_numbers_are_said(decompose: Call, tmp_path: Path) -> None:
    made = network()
    made.get_layer("second").set_weights([np.full(weight.shape, np.nan) for weight in made.get_layer("second").weights])
    made.save(tmp_path / "nan.keras")
    for asked in (("--ratio", 2), ("--layer", "second=4")):
        status, _, err = decompose(tmp_path / "nan.keras", *asked, "--dry-run")
        assert status == 1
        assert "has weights in layer second that are NaN or infinite" in err


def test_a_litert_file_has_one_input_and_one_output(decompose: Call, tmp_path: Path) -> None:
    inputs = keras.Input((16,)), keras.Input((16,))
    hidden = layers.Dense(16, name="hidden")(layers.Add()(list(inputs)))
    keras.Model(inputs, [layers.Dense(4)(hidden), hidden], name="several").save(tmp_path / "several.keras")
    status, _, err = decompose(tmp_path / "several.keras", "--layer", "hidden=4", "--out", tmp_path / "made.tflite")
    assert status == 1
    assert "has 2 inputs and 2 outputs, and a .tflite file takes one of each: write a .keras file" in err
    assert decompose(tmp_path / "several.keras", "--layer", "hidden=4", "--out", tmp_path / "made.keras")[0] == 0
    assert len(read(tmp_path / "made.keras").outputs) == 2


def test_mixed_precision_is_exported_in_float(decompose: Call, tmp_path: Path) -> None:
    inputs = keras.Input((32,))
    x = layers.Dense(32, dtype="mixed_float16", name="hidden")(inputs)
    keras.Model(inputs, layers.Dense(4, dtype="float32")(x)).save(tmp_path / "mixed.keras")
    status, _, err = decompose(tmp_path / "mixed.keras", "--layer", "hidden=8", "--out", tmp_path / "made.tflite")
    assert status == 0, err


def test_a_network_of_any_size_is_decomposed_by_hand(decompose: Call, tmp_path: Path) -> None:
    inputs = keras.Input((None, None, 3))
    x = layers.Conv2D(16, 3, name="first")(inputs)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(16, 3, name="second")(x))
    keras.Model(inputs, layers.Dense(4)(x), name="open").save(tmp_path / "open.keras")
    status, said, err = decompose(tmp_path / "open.keras", "--layer", "second=8", "--out", tmp_path / "made.keras")
    assert status == 0, err
    assert "?" in said
    assert read(tmp_path / "made.keras").input_shape == (None, None, None, 3)
    status, _, err = decompose(tmp_path / "open.keras", "--ratio", 2, "--dry-run")
    assert status == 1
    assert "give the input a size" in err


def test_nothing_that_is_there_is_lost(decompose: Call, model: Path, tmp_path: Path) -> None:
    own = tmp_path / "own.keras"
    own.write_bytes(model.read_bytes())
    status, _, err = decompose(own, "--ratio", 2, "--out", own)
    assert (status, own.read_bytes()) == (2, model.read_bytes())
    assert "own.keras is the model itself: give --out another name" in err
    out, ranks = tmp_path / "made.keras", tmp_path / "made.ranks.json"
    ranks.write_text("edited by hand")
    status, _, err = decompose(model, "--ratio", 2, "--out", out)
    assert (status, out.exists(), ranks.read_text()) == (2, False, "edited by hand")
    assert "made.ranks.json is there already: give --out another name, or --overwrite" in err
    assert decompose(model, "--ratio", 2, "--out", out, "--overwrite")[0] == 0
    assert json.loads(ranks.read_text())["layer"]
    status, _, err = decompose(model, "--ratio", 2, "--out", model / "made.keras")
    assert status == 1
    assert err.count("\n") == 1


def test_ranks_of_no_layer_at_all_are_given_back_too(decompose: Call, model: Path, tmp_path: Path) -> None:
    assert decompose(model, "--ratio", 1, "--out", tmp_path / "one.keras")[0] == 0
    assert json.loads((tmp_path / "one.ranks.json").read_text()) == {"layer": []}
    config = ("--config", tmp_path / "one.ranks.json")
    assert decompose(model, *config, "--out", tmp_path / "two.keras")[0] == 0
    (tmp_path / "one.yaml").write_text("layer: second=8\n")
    status, said, _ = decompose(model, "--config", tmp_path / "one.yaml", "--dry-run", "--json")
    assert status == 0
    assert {layer["name"]: layer["ranks"] for layer in json.loads(said)["layers"]}["second"] == "spatial:8"


def test_a_network_that_a_function_builds_is_built_once(
    decompose: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "theirs_unnamed.py").write_text(
        "import keras\n"
        "def build():\n"
        "    layers = keras.layers\n"
        "    steps = [keras.Input((8, 8, 1)), layers.Conv2D(16, 3, activation='relu'), layers.Flatten()]\n"
        "    return keras.Sequential([*steps, layers.Dense(32), layers.Dense(10, activation='softmax')])\n"
    )
    monkeypatch.chdir(tmp_path)
    status, _, err = decompose("theirs_unnamed:build", "--ratio", 2, "--data", "digits", "--out", "made.keras")
    assert status == 0, err


def test_what_layers_cost_by_time_adds_up(decompose: Call, model: Path) -> None:
    _, said, _ = decompose(model, "--layer", "second=channel:8", "--cost", "latency", "--dry-run", "--json")
    report = json.loads(said)
    for when in ("before", "after"):
        assert report[when] == pytest.approx(report["rest"] + sum(layer[when] for layer in report["layers"]))
    assert report["ratio"] == pytest.approx(report["before"] / report["after"])
