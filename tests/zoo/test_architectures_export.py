from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architecture_inputs import SPECS, examples, image, settle, waveform

from zoo.architectures import ARCHITECTURES
from zoo.architectures.grouped import GroupedConv2D
from zoo.backend import keras
from zoo.catalog import InputSpec
from zoo.export import export, parity

TOLERANCE = 1e-4
slow = pytest.mark.slow


@pytest.mark.parametrize(
    ("name", "spec", "parameters"),
    [
        ("lenet-5", image(28, 1), {}),
        ("resnet-8", image(32), {"resolution": 0.715}),
        ("dnn", waveform(), {}),
        ("ds-cnn", waveform(dtype="int16"), {}),
        pytest.param("cnn", image(28, 1), {}, marks=slow),
        pytest.param("ds-cnn", waveform(), {"size": "L", "features": "log-mel"}, marks=slow),
        pytest.param("ds-cnn", image(32), {}, marks=slow),
        pytest.param("cnn", waveform(), {"features": "log-mel"}, marks=slow),
        pytest.param("digits-cnn", image(28, 1), {"width": 32}, marks=slow),
        pytest.param("resnet-20", image(32), {}, marks=slow),
        pytest.param("mobilenet-v1", image(32), {"depth_multiplier": 2}, marks=slow),
        pytest.param("mobilenet-v2", image(32), {}, marks=slow),
        pytest.param("mobilenet-v3-small", image(32), {}, marks=slow),
        pytest.param("squeezenet", image(32), {}, marks=slow),
        pytest.param("shufflenet", image(32), {}, marks=slow),
        pytest.param("shufflenet", image(32), {"groups": 8, "complexity": 0.25}, marks=slow),
        pytest.param("alexnet", image(32), {}, marks=slow),
        pytest.param("vgg-16", image(32), {"width": 0.5}, marks=slow),
    ],
)
def test_the_exported_network_answers_alike(
    name: str, spec: InputSpec, parameters: dict[str, Any], tmp_path: Path
) -> None:
    x = examples(spec, count=4)
    model = settle(ARCHITECTURES[name](spec, 10, **parameters), x)
    path = tmp_path / f"{name}.tflite"
    export({"base": model}, path)
    assert parity(model, path, "base", x, None) <= TOLERANCE
    assert np.ptp(model.predict(x, verbose=0), axis=0).max() > 1e-3  # it does look at its input


@pytest.mark.slow
def test_a_front_end_is_known_wherever_candidates_are_made(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    ARCHITECTURES["dnn"](SPECS["audio"], 7).save(path)
    code = "import sys, zoo.candidates; from zoo.backend import keras; keras.saving.load_model(sys.argv[1])"
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr


def test_grouped_convolutions_are_those_of_keras() -> None:
    x = np.random.default_rng(0).normal(size=(2, 9, 8, 6)).astype(np.float32)
    ours = GroupedConv2D(12, 3, strides=2, padding="same", groups=3)
    theirs = keras.layers.Conv2D(12, 3, strides=2, padding="same", groups=3)
    answers = np.asarray(ours(x))
    theirs.build(x.shape)
    theirs.set_weights(ours.get_weights())
    np.testing.assert_allclose(answers, np.asarray(theirs(x)), atol=1e-5)


@pytest.mark.slow
def test_shufflenet_can_be_trained() -> None:
    model = ARCHITECTURES["shufflenet"](image(8), 3, groups=8, complexity=0.25)
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy")
    assert np.isfinite(model.train_on_batch(examples(image(8), 6), np.array([0, 1, 2, 0, 1, 2])))
