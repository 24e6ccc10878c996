"""Every network that Keras ships loses half of its channels."""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from networks import answers, inputs_for, randomize, relative_difference, silenced

from zoo.backend import keras
from zoo.channels import Channels, Counter, analyse, permute_model, slice_model
from zoo.cost import count_macs
from zoo.export import export, predict
from zoo.graph import compute_in

SMALLEST = {"Inception": 75, "InceptionResNet": 75, "Xception": 71}
FAST = ("MobileNetV3Small",)
APPLICATIONS = (
    "ConvNeXtBase", "ConvNeXtLarge", "ConvNeXtSmall", "ConvNeXtTiny", "ConvNeXtXLarge", "DenseNet121", "DenseNet169",
    "DenseNet201", "EfficientNetB0", "EfficientNetB1", "EfficientNetB2", "EfficientNetB3", "EfficientNetB4",
    "EfficientNetB5", "EfficientNetB6", "EfficientNetB7", "EfficientNetV2B0", "EfficientNetV2B1", "EfficientNetV2B2",
    "EfficientNetV2B3", "EfficientNetV2L", "EfficientNetV2M", "EfficientNetV2S", "InceptionResNetV2", "InceptionV3",
    "MobileNet", "MobileNetV2", "MobileNetV3Large", "MobileNetV3Small", "NASNetLarge", "NASNetMobile", "ResNet101",
    "ResNet101V2", "ResNet152", "ResNet152V2", "ResNet50", "ResNet50V2", "VGG16", "VGG19", "Xception",
)  # fmt: skip
every_application = pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in FAST else [pytest.mark.slow, pytest.mark.timeout(3600)])
        for name in APPLICATIONS
    ],
)


@pytest.fixture(autouse=True)
def _memory_given_back() -> Iterator[None]:
    """Keras keeps what it made: a few of the large networks would fill the memory."""
    yield
    keras.backend.clear_session()
    gc.collect()


class Halved(NamedTuple):
    """An analysed network, and a random half of each of its groups in a random order."""

    channels: Channels
    kept: dict[str, list[int]]


def halved(name: str) -> Halved:
    """It computes in float64, as rounding errors grow in a deep network of random weights.

    Its answers are logits: a softmax of such weights says the same whatever comes in.
    """
    side = next((side for start, side in SMALLEST.items() if name.startswith(start)), 32)
    build = getattr(keras.applications, name)
    small = build(weights=None, classes=10, classifier_activation=None, input_shape=(side, side, 3))
    model = compute_in(small, lambda layer: "float64")
    randomize(model, 0)
    channels = analyse(model)
    random = np.random.default_rng(0)
    kept = {group.name: random.permutation(group.size)[: -(-group.size // 2)].tolist()
            for group in channels.cuttable.values()}  # fmt: skip
    return Halved(channels, kept)


def test_the_list_of_networks_is_that_of_keras() -> None:
    assert tuple(sorted(name for name, _ in inspect.getmembers(keras.applications, inspect.isfunction))) == APPLICATIONS


@every_application
def test_a_network_that_keras_ships_loses_half_of_its_channels(name: str, tmp_path: Path) -> None:
    channels, kept = halved(name)
    assert [group.name for group in channels.groups.values() if group.fixed] == [channels.model.layers[-1].name] or (
        name in ("MobileNet", "MobileNetV3Small", "MobileNetV3Large")  # which end in a convolution
    )
    x = inputs_for(channels.model, count=2).astype(np.float64)
    sliced = slice_model(channels, kept)
    assert sliced.output_shape == channels.model.output_shape == (None, 10)
    assert relative_difference(answers(sliced, x), answers(silenced(channels, kept), x)) < 1e-5
    assert_counts(channels, kept, sliced)
    assert_exported(sliced, x, tmp_path / "sliced.tflite")


@every_application
def test_a_network_that_keras_ships_can_be_reordered(name: str) -> None:
    channels, _ = halved(name)
    x = inputs_for(channels.model, count=2).astype(np.float64)
    order = {group.name: list(reversed(range(group.size))) for group in channels.cuttable.values()}
    assert relative_difference(answers(permute_model(channels, order), x), answers(channels.model, x)) < 1e-5


def assert_counts(channels: Channels, kept: dict[str, list[int]], sliced: Any) -> None:
    """What was counted is what was built."""
    counter = Counter(channels)
    assert (counter.macs(kept), counter.parameters(kept)) == (count_macs(sliced), sliced.count_params())
    assert (counter.macs({}), counter.parameters({})) == (count_macs(channels.model), channels.model.count_params())
    assert counter.macs(kept) < 0.6 * counter.macs({})


def assert_exported(sliced: Any, x: Any, path: Path) -> None:
    """The LiteRT file answers like Keras."""
    single = compute_in(sliced, lambda layer: "float32")
    x = x.astype(np.float32)
    export({"base": single}, path)
    assert relative_difference(predict(path, "base", x), answers(single, x)) < 1e-3
