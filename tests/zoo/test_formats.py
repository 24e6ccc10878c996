"""Networks in the formats that people have them in."""

from __future__ import annotations

import json
import os
import textwrap
import zipfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from fleetfoot.errors import ModelError, UsageError
from zoo.backend import keras, tf
from zoo.channels import can_be_cut
from zoo.export import export, parity
from zoo.formats import call_builder, read_network, register_custom_objects

DATA = Path(os.environ.get("FLEETFOOT_DATA", Path(__file__).parents[3] / "shared" / "data"))
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason=f"the development data is not at {DATA}")


@pytest.fixture
def network() -> Any:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.DepthwiseConv2D(3, name="depthwise"),
            keras.layers.LeakyReLU(0.2, name="leaky"),
            keras.layers.Flatten(name="flatten"),
            keras.layers.Dense(3, activation="softmax", name="answer"),
        ]
    )


def answers(model: Any) -> Any:
    return model.predict(np.random.default_rng(0).random((4, 8, 8, 1), np.float32), verbose=0)


def as_keras_2_wrote_it(model: Any, path: Path) -> Path:
    """HDF5 with the two arguments that Keras 2 wrote and Keras 3 refuses or calls otherwise."""
    model.save(path.with_suffix(".h5"))
    with h5py.File(path.with_suffix(".h5"), "r+") as file:
        config = json.loads(file.attrs["model_config"])
        for layer in config["config"]["layers"]:
            if layer["class_name"] == "DepthwiseConv2D":
                layer["config"]["groups"] = 1
            if layer["class_name"] == "LeakyReLU":
                layer["config"]["alpha"] = layer["config"].pop("negative_slope")
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.15.0"
    return path.with_suffix(".h5").rename(path)


def test_a_keras_archive_answers_as_the_model_that_was_saved(network: Any, tmp_path: Path) -> None:
    network.save(tmp_path / "model.keras")
    np.testing.assert_array_equal(answers(read_network(tmp_path / "model.keras")), answers(network))


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("name", ["model.h5", "model.keras"])
def test_keras_2_files_are_read_whatever_they_are_called(network: Any, tmp_path: Path, name: str) -> None:
    path = as_keras_2_wrote_it(network, tmp_path / name)
    np.testing.assert_allclose(answers(read_network(path)), answers(network), atol=1e-6)


def test_a_saved_model_answers_the_same_but_cannot_be_cut(network: Any, tmp_path: Path) -> None:
    network.export(tmp_path / "saved", verbose=False)
    read = read_network(tmp_path / "saved")
    np.testing.assert_allclose(answers(read), answers(network), atol=1e-6)
    assert not can_be_cut(read)


def test_a_saved_model_survives_being_saved_and_is_exported(network: Any, tmp_path: Path) -> None:
    network.export(tmp_path / "saved", verbose=False)
    read_network(tmp_path / "saved").save(tmp_path / "base.keras")
    again = keras.saving.load_model(tmp_path / "base.keras")
    export({"base": again}, tmp_path / "base.tflite")
    x = np.random.default_rng(0).random((4, 8, 8, 1), np.float32)
    assert parity(again, tmp_path / "base.tflite", "base", x, None) < 1e-5


@needs_data
@pytest.mark.parametrize(
    ("name", "classes"),
    [("mlperf_tiny_resnet8_cifar10.h5", 10), ("reds_cifar10_dscnn_s.h5", 10), ("mlperf_tiny_dscnn_kws", 12)],
)
def test_real_models_are_read(name: str, classes: int) -> None:
    assert read_network(DATA / "models" / name).output_shape == (None, classes)


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_a_truncated_file_is_named(network: Any, tmp_path: Path, name: str) -> None:
    network.save(tmp_path / name)
    whole = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ModelError, match=name):
        read_network(tmp_path / name)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model.keras").write_text("hello")
    with pytest.raises(ModelError, match=r"neither a \.keras archive nor HDF5"):
        read_network(tmp_path / "model.keras")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        read_network(tmp_path / "nothing.keras")


def test_a_directory_that_is_no_saved_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"without saved_model\.pb"):
        read_network(tmp_path)


def test_a_model_of_a_newer_keras_says_to_upgrade(network: Any, tmp_path: Path) -> None:
    network.save(tmp_path / "old.keras")
    with zipfile.ZipFile(tmp_path / "old.keras") as old, zipfile.ZipFile(tmp_path / "new.keras", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(name, json.dumps({"keras_version": "99.0"}) if name == "metadata.json" else data)
    with pytest.raises(ModelError, match=r"saved by Keras 99\.0.*upgrade"):
        read_network(tmp_path / "new.keras")


def test_an_unknown_custom_layer_is_named_with_how_to_pass_it(tmp_path: Path) -> None:
    class Mystery(keras.layers.Dense):  # type: ignore[misc]
        pass

    keras.Sequential([keras.Input((4,)), Mystery(2)]).save(tmp_path / "model.keras")
    with pytest.raises(ModelError, match="custom layer Mystery.*--custom-objects"):
        read_network(tmp_path / "model.keras")


def test_a_registered_custom_layer_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = """
        from zoo.backend import keras

        @keras.saving.register_keras_serializable(package="ours")
        class Twice(keras.layers.Layer):
            def call(self, inputs):
                return 2 * inputs
    """
    (tmp_path / "our_layers.py").write_text(textwrap.dedent(module))
    monkeypatch.chdir(tmp_path)
    register_custom_objects("our_layers")
    import our_layers  # type: ignore[import-not-found]

    keras.Sequential([keras.Input((4,)), our_layers.Twice()]).save(tmp_path / "model.keras")
    assert read_network(tmp_path / "model.keras").layers[-1].__class__ is our_layers.Twice


BUILDERS = """
from zoo.backend import keras

def make():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])

def fail():
    1 / 0

def other():
    return 3
"""


def test_a_builder_function_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "our_builder.py").write_text(BUILDERS)
    monkeypatch.chdir(tmp_path)
    assert call_builder("our_builder:make").output_shape == (None, 2)
    with pytest.raises(ModelError, match=r"our_builder:fail\(\) raised ZeroDivisionError"):
        call_builder("our_builder:fail")
    with pytest.raises(ModelError, match="returned a int"):
        call_builder("our_builder:other")
    with pytest.raises(UsageError, match="has no 'nothing'"):
        call_builder("our_builder:nothing")
    with pytest.raises(UsageError, match="cannot be imported"):
        call_builder("no_such_module:make")


def test_tensorflow_is_the_backend() -> None:
    assert keras.backend.backend() == "tensorflow"
    assert tf.executing_eagerly()
