from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from architecture_inputs import SPECS, examples, image, tensor, waveform

from fleetfoot.errors import ModelError, UsageError
from zoo.architectures import ARCHITECTURES, DEFAULT_ARCHITECTURE, Architecture, Parameter
from zoo.architectures.blocks import strides
from zoo.architectures.resnet import resnet
from zoo.architectures.shufflenet import CHANNELS
from zoo.backend import keras
from zoo.catalog import InputSpec
from zoo.channels import channel_groups, slice_model
from zoo.models import base_model

every_architecture = pytest.mark.parametrize("architecture", ARCHITECTURES.values(), ids=ARCHITECTURES)
every_network = pytest.mark.parametrize(
    ("name", "kind"), [(name, kind) for name, architecture in ARCHITECTURES.items() for kind in architecture.kinds]
)

WITH_LAYERS_OF_THEIR_OWN = ("dnn", "cnn", "ds-cnn", "shufflenet")

NARROWED: dict[str, dict[str, Any]] = {
    "vgg-16": {"width": 0.25},
    "alexnet": {"width": 0.25},
    "digits-cnn": {"width": 16},
    "resnet-20": {"depth": 14},
}


@cache
def network(name: str, kind: str) -> Any:
    """A network for seven classes, of a size that is quick to make, shared by the tests."""
    return ARCHITECTURES[name](SPECS[kind], 7, **NARROWED.get(name, {}))


def ends() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """For each network and kind of input, all parameters at the low ends of their ranges, and at the high ends."""
    for name, architecture in ARCHITECTURES.items():
        for kind in architecture.kinds:
            ranges = {name: p for name, p in architecture.parameters.items() if kind in p.kinds}
            for end in (0, -1):
                chosen = {name: parameter.values[end] for name, parameter in ranges.items()}
                if any(chosen[name] != parameter.default for name, parameter in ranges.items()):
                    yield name, kind, chosen


@pytest.mark.parametrize(("name", "kind", "parameters"), list(ends()))
def test_every_network_builds_at_the_ends_of_its_ranges(name: str, kind: str, parameters: dict[str, Any]) -> None:
    model = ARCHITECTURES[name](SPECS[kind], 7, **parameters)
    assert [tuple(x.shape) for x in model.inputs] == [(None, *SPECS[kind].shape)]
    assert model.inputs[0].dtype == SPECS[kind].dtype
    assert [tuple(x.shape) for x in model.outputs] == [(None, 7)]


@every_network
def test_every_network_answers_with_probabilities(name: str, kind: str) -> None:
    answers = np.asarray(network(name, kind)(examples(SPECS[kind])))
    assert answers.min() >= 0
    np.testing.assert_allclose(answers.sum(axis=1), 1, atol=1e-5)


@every_network
def test_names_are_the_same_every_time(name: str, kind: str) -> None:
    one = network(name, kind)
    other = ARCHITECTURES[name](SPECS[kind], 7, **NARROWED.get(name, {}))
    assert one.name == other.name
    assert [layer.name for layer in one.layers] == [layer.name for layer in other.layers]
    assert [weight.path for weight in one.weights] == [weight.path for weight in other.weights]
    assert (one.layers[0].name, one.layers[-1].name) == ("input", "probabilities")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=() if name in WITH_LAYERS_OF_THEIR_OWN else pytest.mark.slow)
        for name, architecture in ARCHITECTURES.items()
        for kind in architecture.kinds
    ],
)
def test_a_saved_network_is_the_same_when_it_is_loaded(name: str, kind: str, tmp_path: Path) -> None:
    network(name, kind).save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    x = examples(SPECS[kind])
    np.testing.assert_allclose(np.asarray(loaded(x)), np.asarray(network(name, kind)(x)), atol=1e-6)


@every_network
def test_all_but_the_answers_can_be_cut(name: str, kind: str) -> None:
    model = network(name, kind)
    groups = channel_groups(model)
    assert name == "shufflenet" or len([group for group in groups.values() if group.fixed]) == 1
    cut = slice_model(model, {name: max(1, group.size // 2) for name, group in groups.items() if not group.fixed})
    assert cut.count_params() < model.count_params()
    assert np.asarray(cut(examples(SPECS[kind]))).shape == (2, 7)


def test_shufflenet_can_be_cut_where_its_groups_and_shuffles_leave_channels_apart() -> None:
    groups = channel_groups(ARCHITECTURES["shufflenet"](image(8), 7, groups=1, complexity=0.25))
    assert [name for name, group in groups.items() if group.fixed] == ["probabilities"]
    groups = channel_groups(ARCHITECTURES["shufflenet"](image(8), 7, groups=2))
    assert groups["stage4_unit4_squeeze_conv"].size == 50
    assert groups["stage2_unit1_squeeze_conv"].fixed == "all its channels hang together"


@pytest.mark.slow
@pytest.mark.parametrize("groups", CHANNELS)
def test_shufflenet_takes_every_complexity(groups: int) -> None:
    for complexity in (0.25, 0.3, 0.5, 0.77, 1.0):
        ARCHITECTURES["shufflenet"](image(8), 7, groups=groups, complexity=complexity)


@every_architecture
def test_the_registry_says_the_defaults_of_the_builder(architecture: Architecture) -> None:
    signature = inspect.signature(architecture.builder).parameters
    optional = {name: p.default for name, p in signature.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
    assert optional == {name: parameter.default for name, parameter in architecture.parameters.items()}
    assert all(parameter.covers(parameter.default) for parameter in architecture.parameters.values())


@every_architecture
def test_a_value_out_of_range_is_refused_naming_the_range(architecture: Architecture) -> None:
    for name, parameter in architecture.parameters.items():
        kind = next(kind for kind in architecture.kinds if kind in parameter.kinds)
        wrong = "Q" if isinstance(parameter.default, str) else 10_000
        with pytest.raises(UsageError) as error:
            architecture(SPECS[kind], 7, **{name: wrong})
        assert str(error.value) == f"{name} of {architecture.name} is {parameter}, not {wrong!r}"


@every_architecture
def test_inputs_of_another_kind_are_refused(architecture: Architecture) -> None:
    for kind in SPECS.keys() - set(architecture.kinds):
        with pytest.raises(ModelError, match=f"^{architecture.name} takes [a-z ]+, and these are of kind {kind}$"):
            architecture(SPECS[kind], 7)


@pytest.mark.parametrize(
    ("name", "spec"),
    [(name, image(1)) for name, architecture in ARCHITECTURES.items() if architecture.kinds == ("image",)]
    + [(name, waveform(300)) for name in ("dnn", "cnn", "ds-cnn")]
    + [("cnn", waveform(2000)), ("cnn", image(18))],
)
def test_inputs_that_are_too_small_are_refused(name: str, spec: InputSpec) -> None:
    with pytest.raises(ModelError, match=rf"^{name}: (images|recordings) of .* are too s(mall|hort): .+$"):
        ARCHITECTURES[name](spec, 7)


def test_an_image_without_channels_is_refused() -> None:
    flat = InputSpec(kind="image", shape=(32, 32), dtype="uint8", minimum=0, maximum=255)
    for name in ("resnet-8", "ds-cnn"):
        with pytest.raises(ModelError, match=r": an image has shape .* and this input has \(32, 32\)$"):
            ARCHITECTURES[name](flat, 7)


@pytest.mark.parametrize("size", [8, 9, 18, 28, 33, 65])
def test_alexnet_leaves_something_of_every_image(size: int) -> None:
    assert min(ARCHITECTURES["alexnet"](image(size, 1), 7, width=0.25).get_layer("step5_pool").output.shape[1:3]) > 0


def test_small_images_are_halved_less() -> None:
    def halvings(size: int, least: int) -> int:
        return sum(stride == 2 for stride in strides(keras.Input((size, size + 9, 3)), 5, least))

    assert [halvings(size, 3) for size in (8, 18, 28, 32, 64, 95, 96, 224)] == [1, 3, 3, 3, 4, 5, 5, 5]
    assert [halvings(size, 2) for size in (8, 28, 32, 64, 224)] == [2, 4, 4, 5, 5]
    assert strides(keras.Input((32, 32, 3)), 5) == (1, 1, 2, 2, 2)


def test_large_images_are_halved_by_the_stem_of_a_residual_network() -> None:
    def first_map(size: int) -> int:
        return int(ARCHITECTURES["resnet-8"](image(size), 7).get_layer("stage1_block1_add").output.shape[1])

    assert [first_map(size) for size in (64, 65, 128, 224)] == [64, 33, 64, 56]


def test_the_resolution_is_a_share_of_the_image() -> None:
    resized = ARCHITECTURES["resnet-8"](image(224), 7, resolution=0.572)
    assert resized.get_layer("resize").output.shape == (None, 128, 128, 3)
    assert "resize" not in [layer.name for layer in ARCHITECTURES["resnet-8"](image(32), 7).layers]


def test_a_residual_network_has_a_depth_that_blocks_make() -> None:
    with pytest.raises(UsageError, match=r"6n \+ 2"):
        resnet(image(32), 10, depth=18)


def test_raw_values_are_scaled_inside() -> None:
    spec = InputSpec(kind="image", shape=(4, 4, 1), dtype="float32", minimum=-3, maximum=5)
    scale = ARCHITECTURES["digits-cnn"](spec, 3, width=16).get_layer("scale")
    np.testing.assert_allclose(np.asarray(scale(np.array([-3.0, 1.0, 5.0]))), [0, 0.5, 1])


@pytest.mark.parametrize(
    ("dtype", "low", "silence", "high"),
    [("int16", -32768, 0, 32767), ("uint8", 0, 127.5, 255), ("float32", -1, 0, 1)],
)
def test_waveforms_are_scaled_about_silence(dtype: str, low: float, silence: float, high: float) -> None:
    spec = InputSpec(kind="audio", shape=(8000,), dtype=dtype, minimum=low, maximum=high)
    scale = ARCHITECTURES["dnn"](spec, 3).get_layer("scale")
    np.testing.assert_allclose(np.asarray(scale(np.array([low, silence, high]))), [-1, 0, 1], atol=1e-4)


def test_a_parameter_that_means_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="resnet-8 has no parameter 'depth' for image inputs: there is width, resol"):
        ARCHITECTURES["resnet-8"](image(32), 7, depth=14)
    with pytest.raises(UsageError, match="ds-cnn has no parameter 'features' for image inputs: there is size"):
        ARCHITECTURES["ds-cnn"](image(32), 7, features="mfcc")


def test_a_parameter_covers_what_lies_between_only_where_it_says_so() -> None:
    share = Parameter((0.25, 0.5, 1.0), 1.0, between=True)
    assert all(share.covers(value) for value in (0.25, 0.3, 1))
    assert not any(share.covers(value) for value in (0.2, 1.01, float("nan"), "1", True, None))
    choice = Parameter((1, 2, 4), 2)
    assert all(choice.covers(value) for value in (1, 4))
    assert not any(choice.covers(value) for value in (3, 2.0, True, "2"))
    assert (str(share), str(choice)) == ("float from 0.25 to 1.0", "1 or 2 or 4")


def test_every_default_takes_that_kind_of_input() -> None:
    assert all(kind in ARCHITECTURES[DEFAULT_ARCHITECTURE[kind]].kinds for kind in SPECS)


def test_a_dataset_without_a_network_of_its_own_gets_that_of_its_kind(digits: Any) -> None:
    none = np.arange(0)
    assert base_model(None, digits, none).model.name == "digits-cnn"
    vectors = replace(digits, name="arrays:somewhere", input=tensor(64))
    assert base_model(None, vectors, none).model.name == "dnn"
