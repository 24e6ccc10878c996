"""Peak activation memory, operator by operator as a runtime has them."""

from __future__ import annotations

import math
from typing import Any

import pytest
from architecture_inputs import image
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS

from fleetfoot.errors import ModelError
from zoo.architectures import ARCHITECTURES
from zoo.architectures.grouped import GroupedConv2D
from zoo.backend import keras
from zoo.channels import analyse, cuttable_groups, slice_model
from zoo.memory import peak_activation_bytes, steps

layers = keras.layers


def after(shape: tuple[int, ...], *chain: Any, dtype: str = "float32") -> Any:
    inputs = x = keras.Input(shape, name="input", dtype=dtype)
    for layer in chain:
        x = layer(x)
    return keras.Model(inputs, x)


def sizes(model: Any) -> list[list[int]]:
    """Values in each tensor that is alive, by operator."""
    return [sorted(math.prod(tensor.shape[1:]) for tensor in alive) for alive in steps(model)]


def test_the_peak_of_a_chain_is_its_largest_pair_of_neighbours() -> None:
    model = after((4, 4, 2), layers.Conv2D(6, 1), layers.Conv2D(3, 1), layers.GlobalAveragePooling2D())
    # input and first map: 32 + 96; first and second: 96 + 48; second and average: 48 + 3.
    assert sizes(model) == [[32, 96], [48, 96], [3, 48]]
    assert peak_activation_bytes(model) == 4 * (96 + 48)


def test_a_residual_sum_keeps_its_shortcut_alive() -> None:
    inputs = keras.Input((4, 4, 2), name="input")
    stem = layers.Conv2D(3, 1)(inputs)
    wide = layers.Conv2D(8, 1)(stem)
    back = layers.Conv2D(3, 1)(wide)
    model = keras.Model(inputs, layers.Add()([stem, back]))
    # While the arm narrows again, the shortcut (16·3) waits beside both of its maps (16·8 and 16·3).
    assert peak_activation_bytes(model) == 4 * 16 * (3 + 8 + 3)
    assert peak_activation_bytes(model, bytes_per_value=1) == 16 * (3 + 8 + 3)


def test_what_is_read_for_the_last_time_is_forgotten() -> None:
    inputs = keras.Input((4, 4, 2), name="input")
    a = layers.Conv2D(4, 1)(inputs)
    b = layers.Conv2D(4, 1)(inputs)
    model = keras.Model(inputs, layers.Concatenate()([a, b]))
    # At the concatenation the input is gone: 16·4 + 16·4 + 16·8.
    assert sizes(model) == [[32, 64], [32, 64, 64], [64, 64, 128]]


@pytest.mark.parametrize(
    "more",
    [
        [layers.BatchNormalization()],
        [layers.ReLU()],
        [layers.BatchNormalization(), layers.ReLU(6.0)],
        [layers.Dropout(0.5), layers.Reshape((8, 12))],
        [layers.Flatten()],
    ],
)
def test_what_is_fused_or_only_looked_at_otherwise_takes_nothing(more: list[Any]) -> None:
    assert sizes(after((4, 4, 2), layers.Conv2D(6, 1), *more)) == [[32, 96]]


def test_the_scaling_of_the_raw_input_takes_nothing() -> None:
    scaled = after((4, 4, 2), layers.Rescaling(1 / 127.5, offset=-1), layers.Conv2D(6, 1), dtype="uint8")
    assert sizes(scaled) == [[32, 96]]


def test_an_activation_that_is_not_fused_has_an_output_of_its_own() -> None:
    assert sizes(after((4, 4, 2), layers.Conv2D(6, 1), layers.LeakyReLU())) == [[32, 96], [96, 96]]
    assert sizes(after((4, 4, 2), layers.Conv2D(6, 1, activation="tanh"))) == [[32, 96], [96, 96]]
    # x · sigmoid(x) needs x until the product is made.
    assert sizes(after((4, 4, 2), layers.Activation("silu"))) == [[32, 32], [32, 32, 32]]


def test_what_is_made_between_the_operators_of_a_layer_counts() -> None:
    separable = after((4, 4, 2), layers.SeparableConv2D(6, 3, padding="same", depth_multiplier=2))
    assert sizes(separable) == [[32, 32, 32], [32, 32, 96]]
    grouped = after((4, 4, 2), GroupedConv2D(6, 1, groups=2))
    assert max(map(sum, sizes(grouped))) == 96 + 96
    normalized = after((4, 4, 2), layers.LeakyReLU(), layers.BatchNormalization())
    assert sizes(normalized) == [[32, 32], [32, 32], [32, 32]]


def test_a_sum_of_three_is_made_in_two_steps() -> None:
    inputs = keras.Input((4,), name="input")
    arms = [layers.Dense(4)(inputs) for _ in range(3)]
    assert sizes(keras.Model(inputs, layers.Add()(arms)))[-2:] == [[4, 4, 4, 4], [4, 4, 4]]


def test_the_tensors_are_those_of_the_analysis() -> None:
    channels = analyse(NETWORKS["gate"].build())
    found = steps(channels)
    assert {name for alive in found for name in channels.carried(alive)} == {"body", "squeeze", "head"}
    assert peak_activation_bytes(channels) == peak_activation_bytes(channels.model)


def test_a_network_that_computes_nothing_holds_its_input() -> None:
    assert sizes(after((4, 3), layers.Flatten())) == [[12]]


def test_a_size_that_is_left_open_is_an_error_in_one_line() -> None:
    with pytest.raises(ModelError, match="give the input a size") as error:
        peak_activation_bytes(after((None, None, 3), layers.Conv2D(4, 3)))
    assert "\n" not in str(error.value)


# Of images of 32×32 pixels, in int8: what TensorFlow Lite Micro recorded of them.
@pytest.mark.parametrize(
    ("name", "recorded"), [("resnet-8", 49152), ("ds-cnn", 32768), ("lenet-5", 9408), ("mobilenet-v3-small", 92160)]
)
def test_peaks_are_those_that_tensorflow_lite_micro_records(name: str, recorded: int) -> None:
    assert peak_activation_bytes(ARCHITECTURES[name](image(32), 10), 1) == recorded


@settings(deadline=None, max_examples=10)
@given(st.sampled_from([name for name in NETWORKS if name != "frozen"]), st.data())
def test_a_narrower_network_never_needs_more(name: str, data: st.DataObject) -> None:
    model = NETWORKS[name].build()
    groups = cuttable_groups(model)
    keep = {group: data.draw(st.integers(1, groups[group].size)) for group in groups}
    assert peak_activation_bytes(slice_model(model, keep)) <= peak_activation_bytes(model)
