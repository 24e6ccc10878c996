from __future__ import annotations

from typing import Any

import pytest
from networks import NETWORKS

from zoo.backend import keras
from zoo.channels import slice_model
from zoo.cost import Use, count_macs, uses

layers = keras.layers


def after(shape: tuple[int, ...], *chain: Any) -> Any:
    inputs = x = keras.Input(shape, name="input")
    for layer in chain:
        x = layer(x)
    return keras.Model(inputs, x)


@pytest.mark.parametrize(
    ("model", "macs"),
    [
        (after((10,), layers.Dense(3)), 10 * 3),
        (after((4, 10), layers.Dense(3)), 4 * 10 * 3),
        (after((8, 6, 3), layers.Conv2D(5, (3, 2), padding="same")), 8 * 6 * 3 * 2 * 3 * 5),
        (after((8, 6, 3), layers.Conv2D(5, 3, padding="valid", use_bias=False)), 6 * 4 * 9 * 3 * 5),
        (after((8, 6, 3), layers.Conv2D(5, 3, strides=2, padding="same")), 4 * 3 * 9 * 3 * 5),
        (after((8, 6, 4), layers.Conv2D(6, 3, groups=2, padding="same")), 8 * 6 * 9 * 2 * 6),
        (after((8, 6, 4), layers.DepthwiseConv2D(3, padding="same")), 8 * 6 * 9 * 4),
        (after((8, 6, 4), layers.DepthwiseConv2D(3, depth_multiplier=2, padding="same")), 8 * 6 * 9 * 4 * 2),
        (after((9, 4), layers.Conv1D(5, 3, strides=2)), 4 * 3 * 4 * 5),
        (after((9, 4), layers.DepthwiseConv1D(3)), 7 * 3 * 4),
        (after((5, 6, 7, 2), layers.Conv3D(3, 2)), 4 * 5 * 6 * 8 * 2 * 3),
        (after((4, 5, 3), layers.Conv2DTranspose(6, 2, strides=2)), 4 * 5 * 4 * 3 * 6),
        (after((9, 4), layers.Conv1DTranspose(5, 3)), 9 * 3 * 4 * 5),
        (after((8, 6, 4), layers.SeparableConv2D(5, 3, depth_multiplier=2)), 6 * 4 * (9 * 4 * 2 + 4 * 2 * 5)),
        (after((9, 4), layers.SeparableConv1D(5, 3)), 7 * (3 * 4 + 4 * 5)),
        (after((5, 10), keras.Sequential([layers.Dense(3), layers.Dense(2)])), 5 * (10 * 3 + 3 * 2)),
        (after((8, 6, 3), layers.BatchNormalization(), layers.ReLU(), layers.GlobalAveragePooling2D()), 0),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else "",
)
def test_multiply_accumulates_are_those_counted_by_hand(model: Any, macs: int) -> None:
    assert count_macs(model) == macs


def test_a_layer_that_is_called_twice_counts_twice() -> None:
    layer = layers.Dense(5, name="twice")
    assert count_macs(after((5,), layer, layer)) == 2 * 5 * 5


@pytest.mark.parametrize("number_format", ["int8", "int4", "float8"])
def test_a_layer_that_keras_quantized_counts_like_any_other(number_format: str) -> None:
    model = after((8,), layers.Dense(6, name="a"), layers.Dense(4, name="b"))
    model.get_layer("a").quantize(number_format)
    assert count_macs(model) == 8 * 6 + 6 * 4


def test_each_kernel_of_a_network_has_its_uses() -> None:
    model = after((8, 6, 4), layers.SeparableConv2D(5, 3, name="a"), layers.Flatten(), layers.Dense(3, name="b"))
    assert uses(model) == [
        Use("a", "depthwise_kernel", 9 * 4, 24),
        Use("a", "pointwise_kernel", 4 * 5, 24),
        Use("b", "kernel", 24 * 5 * 3, 1),
    ]


def test_the_multiply_accumulates_of_a_whole_network_are_the_sum_over_its_layers() -> None:
    # stem: 6·6 positions of 3×3 over 3 → 6 channels; first: 6 → 5; second: 5 → 6; out: 6 → 4.
    expected = 36 * 9 * (3 * 6 + 6 * 5 + 5 * 6) + 6 * 4
    assert count_macs(NETWORKS["residual"].build()) == expected


def test_half_the_channels_take_a_quarter_between_two_cut_layers() -> None:
    model = after((6, 6, 4), layers.Conv2D(8, 1, name="a"), layers.Conv2D(8, 1, name="b"), layers.Dense(2, name="out"))
    half = slice_model(model, {"a": 4, "b": 4})
    assert count_macs(model) == 36 * (4 * 8 + 8 * 8 + 8 * 2)
    assert count_macs(half) == 36 * (4 * 4 + 4 * 4 + 4 * 2)


def test_a_narrower_network_never_needs_more() -> None:
    model = NETWORKS["residual"].build()
    assert count_macs(slice_model(model, {"stem": 3, "first": 2})) < count_macs(model)
