"""Thinner layers in the place of some: exact at full rank, whatever the layers and the network around them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from networks import NETWORKS, answers, inputs_for, randomize, relative_difference

from fleetfoot.errors import ModelError
from zoo.backend import keras
from zoo.graph import inlined
from zoo.lowrank import decompose, schemes_for
from zoo.lowrank.factors import Rank, full_rank
from zoo.lowrank.forms import kernel_per_group
from zoo.recipe import LayerRank, Scheme

layers = keras.layers


def single(layer: Any, shape: tuple[int | None, ...] = (9, 8, 4)) -> Any:
    inputs = keras.Input(shape, name="input")
    model = keras.Model(inputs, layer(inputs), name="single")
    randomize(model, 0)
    return model


def ranks(scheme: Scheme, rank: Rank, name: str = "layer") -> dict[str, LayerRank]:
    return {name: LayerRank(scheme=scheme, rank=rank)}


def full(layer: Any, scheme: Scheme | None = None) -> LayerRank:
    """The full rank of a layer's scheme, or of its first."""
    scheme = scheme or schemes_for(layer)[0]
    return LayerRank(scheme=scheme, rank=full_rank(kernel_per_group(layer), scheme))


def all_full(model: Any) -> dict[str, LayerRank]:
    """Each layer of a network in turn by another of its schemes, at full rank."""
    able = [layer for layer in inlined(model).layers if schemes_for(layer)]
    return {
        layer.name: full(layer, schemes_for(layer)[number % len(schemes_for(layer))])
        for number, layer in enumerate(able)
    }


def check_exact(model: Any, chosen: Mapping[str, LayerRank], x: Any = None) -> Any:
    """Decomposed, the network answers as before; its inputs and outputs look the same."""
    assert chosen
    decomposed = decompose(model, chosen)
    x = inputs_for(model) if x is None else x
    assert relative_difference(answers(decomposed, x), answers(model, x)) < 1e-5
    assert decomposed.name == model.name
    assert keras.tree.flatten(decomposed.output_shape) == keras.tree.flatten(model.output_shape)
    assert [tensor.name for tensor in decomposed.inputs] == [tensor.name for tensor in model.inputs]
    names = {layer.name for layer in decomposed.layers}
    assert set(chosen) | {f"{name}_rank" for name in chosen} <= names
    return decomposed


PLANE: list[tuple[str, Any]] = [
    ("plain", lambda **more: layers.Conv2D(6, 3, **more)),
    ("same", lambda **more: layers.Conv2D(6, 3, padding="same", **more)),
    ("strides", lambda **more: layers.Conv2D(6, 3, strides=2, padding="same", **more)),
    ("strides of two kinds", lambda **more: layers.Conv2D(6, (3, 5), strides=(2, 1), padding="same", **more)),
    ("strides beyond the window", lambda **more: layers.Conv2D(6, 2, strides=3, padding="same", **more)),
    ("even", lambda **more: layers.Conv2D(6, (2, 4), padding="same", **more)),
    ("dilated", lambda **more: layers.Conv2D(6, 3, dilation_rate=2, padding="same", **more)),
    ("dilated of two kinds", lambda **more: layers.Conv2D(6, (2, 3), dilation_rate=(3, 1), **more)),
    ("groups", lambda **more: layers.Conv2D(6, 3, groups=2, strides=2, padding="same", **more)),
    ("no bias", lambda **more: layers.Conv2D(6, 3, use_bias=False, **more)),
    ("activation", lambda **more: layers.Conv2D(6, 3, activation="relu", **more)),
]


@pytest.mark.parametrize("scheme", ["spatial", "channel", "tucker"])
@pytest.mark.parametrize("make", [make for _, make in PLANE], ids=[name for name, _ in PLANE])
def test_a_convolution_is_exact_at_full_rank(make: Any, scheme: Scheme) -> None:
    model = single(make(name="layer"))
    layer = model.get_layer("layer")
    decomposed = check_exact(model, {"layer": full(layer, scheme)})
    last = decomposed.get_layer("layer")
    assert (last.use_bias, last.activation, last.groups) == (layer.use_bias, layer.activation, layer.groups)
    first = decomposed.get_layer("layer_rank")
    assert (first.use_bias, first.activation) == (False, keras.activations.linear)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Conv2D(6, 1, strides=2, name="layer"), (9, 8, 4)),
        (layers.Conv2D(6, (1, 3), padding="same", name="layer"), (9, 8, 4)),
        (layers.Conv1D(6, 3, padding="causal", name="layer"), (9, 4)),
        (layers.Conv1D(6, 3, padding="causal", dilation_rate=2, activation="tanh", name="layer"), (9, 4)),
        (layers.Conv1D(6, 4, padding="same", strides=2, groups=2, name="layer"), (9, 4)),
        (layers.Conv1D(6, 1, use_bias=False, name="layer"), (9, 4)),
        (layers.Conv3D(5, (2, 3, 2), strides=(1, 2, 1), padding="same", name="layer"), (4, 5, 6, 3)),
        (layers.Conv3D(5, 2, name="layer"), (4, 5, 6, 3)),
        (layers.Dense(5, activation="tanh", name="layer"), (7,)),
        (layers.Dense(9, use_bias=False, name="layer"), (3, 7)),
        (layers.Dense(5, name="layer"), (2, 3, 7)),
    ],
)
def test_other_layers_are_exact_at_full_rank_by_all_schemes(layer: Any, shape: tuple[int, ...]) -> None:
    for scheme in schemes_for(layer):
        model = single(type(layer).from_config(layer.get_config()), shape)
        check_exact(model, {"layer": full(model.get_layer("layer"), scheme)})


@pytest.mark.parametrize("scheme", ["spatial", "channel", "tucker"])
def test_channels_first_stays_so(scheme: Scheme) -> None:
    model = single(
        layers.Conv2D(6, 3, strides=2, padding="same", data_format="channels_first", name="layer"), (4, 9, 8)
    )
    decomposed = decompose(model, {"layer": full(model.get_layer("layer"), scheme)})
    assert decomposed.output_shape == model.output_shape
    assert {layer.data_format for layer in decomposed.layers if layer.weights} == {"channels_first"}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_whole_network_is_exact_at_full_ranks(name: str) -> None:
    model = NETWORKS[name].random(0)
    check_exact(model, all_full(model))


def test_a_batch_norm_after_it_is_as_before() -> None:
    inputs = keras.Input((9, 8, 4), name="input")
    x = layers.Conv2D(6, 3, use_bias=False, name="layer")(inputs)
    model = keras.Model(inputs, layers.ReLU()(layers.BatchNormalization(name="norm")(x)))
    randomize(model, 0)
    decomposed = check_exact(model, all_full(model))
    for same, weight in zip(
        decomposed.get_layer("norm").get_weights(), model.get_layer("norm").get_weights(), strict=True
    ):
        np.testing.assert_array_equal(same, weight)


def test_inputs_may_have_any_size() -> None:
    model = single(layers.Conv2D(6, 3, padding="same", name="layer"), (None, None, 3))
    for size in (7, 12):
        check_exact(model, all_full(model), np.random.default_rng(0).normal(size=(2, size, size + 1, 3)))


def test_several_inputs_and_outputs() -> None:
    one, other = keras.Input((6, 6, 3), name="one"), keras.Input((5,), name="other")
    x = layers.Conv2D(8, 3, activation="relu", name="a")(one)
    y = layers.Dense(8, name="b")(other)
    mixed = layers.Add()([layers.GlobalAveragePooling2D()(x), y])
    model = keras.Model([one, other], [layers.Dense(3, name="c")(mixed), layers.Conv2D(4, 1, name="d")(x)])
    randomize(model, 0)
    check_exact(model, all_full(model))


def test_a_layer_called_twice_is_so_still() -> None:
    model = NETWORKS["shared"].random(0)
    decomposed = check_exact(model, {"twice": full(model.get_layer("twice"), "tucker")})
    assert len(decomposed.get_layer("twice_rank_in")._inbound_nodes) == 2


def test_sequential_models_and_models_inside() -> None:
    inside = keras.Sequential([keras.Input((8, 8, 6)), layers.Conv2D(6, 3, name="c")], name="inside")
    inputs = keras.Input((10, 10, 3), name="input")
    nested = keras.Model(inputs, inside(layers.Conv2D(6, 3, name="a")(inputs)))
    randomize(nested.get_layer("inside"), 0)
    check_exact(nested, all_full(nested))
    sequential = keras.Sequential(
        [
            keras.Input((8, 8, 3), name="input"),
            layers.Conv2D(6, 3, name="a"),
            layers.Flatten(),
            layers.Dense(4, name="b"),
        ]
    )
    randomize(sequential, 0)
    check_exact(sequential, all_full(sequential))


def test_an_input_without_a_name_of_its_own_is_no_hindrance() -> None:
    inputs = keras.Input((7,))
    model = keras.Model(inputs, layers.Dense(5, name="layer")(inputs))
    x = inputs_for(model)
    assert relative_difference(answers(decompose(model, ranks("dense", 5)), x), answers(model, x)) < 1e-5


def test_no_ranks_change_nothing() -> None:
    model = NETWORKS["chain"].random(0)
    for same, weight in zip(decompose(model, {}).get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(same, weight)


def test_the_network_given_stays_as_it_is() -> None:
    model = NETWORKS["chain"].random(0)
    before, names = model.get_weights(), [layer.name for layer in model.layers]
    decompose(model, ranks("spatial", 2, "a"))
    assert [layer.name for layer in model.layers] == names
    for same, weight in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(same, weight)


@pytest.mark.parametrize(
    ("scheme", "some"), [("spatial", [1, 4, 8, 12]), ("channel", [1, 2, 4, 6]), ("tucker", [(1, 1), (2, 4), (3, 5)])]
)
def test_the_error_falls_with_the_rank(scheme: Scheme, some: list[Rank]) -> None:
    model = single(layers.Conv2D(6, 3, name="layer"))
    x = inputs_for(model)
    wanted = answers(model, x)
    errors = [np.linalg.norm(answers(decompose(model, ranks(scheme, rank)), x) - wanted) for rank in some]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1 * np.linalg.norm(wanted)


def test_the_layers_have_the_ranks_between_them() -> None:
    model = single(layers.Conv2D(6, (3, 4), strides=(2, 1), groups=2, name="layer"))

    def forms(chosen: dict[str, LayerRank]) -> list[tuple[Any, ...]]:
        made = [layer for layer in decompose(model, chosen).layers if layer.weights]
        return [(layer.name, layer.kernel_size, layer.strides, layer.filters, layer.use_bias) for layer in made]

    assert forms(ranks("spatial", 4)) == [
        ("layer_rank", (3, 1), (2, 1), 8, False),
        ("layer", (1, 4), (1, 1), 6, True),
    ]
    assert forms(ranks("channel", 2)) == [
        ("layer_rank", (3, 4), (2, 1), 4, False),
        ("layer", (1, 1), (1, 1), 6, True),
    ]
    assert forms(ranks("tucker", (1, 2))) == [
        ("layer_rank_in", (1, 1), (1, 1), 2, False),
        ("layer_rank", (3, 4), (2, 1), 4, False),
        ("layer", (1, 1), (1, 1), 6, True),
    ]


def test_kernels_that_are_given_are_taken() -> None:
    model = single(layers.Dense(5, name="layer"), (7,))
    given = np.ones((7, 2), np.float32), np.full((2, 5), 3, np.float32)
    decomposed = decompose(model, ranks("dense", 2), {"layer": given})
    np.testing.assert_array_equal(decomposed.get_layer("layer_rank").kernel.numpy(), given[0])
    np.testing.assert_array_equal(decomposed.get_layer("layer").kernel.numpy(), given[1])
    np.testing.assert_array_equal(decomposed.get_layer("layer").bias.numpy(), model.get_layer("layer").bias.numpy())


def test_names_that_are_taken_are_left_to_who_has_them() -> None:
    inputs = keras.Input((9, 8, 4), name="input")
    x = layers.Conv2D(5, 3, name="layer_rank", activation="relu")(layers.Conv2D(6, 3, name="layer")(inputs))
    model = keras.Model(inputs, layers.ReLU(name="layer_rank_in")(x))
    randomize(model, 0)
    chosen = {name: full(model.get_layer(name), "tucker") for name in ("layer", "layer_rank")}
    decomposed = decompose(model, chosen)
    x = inputs_for(model)
    assert relative_difference(answers(decomposed, x), answers(model, x)) < 1e-5
    assert decomposed.get_layer("layer_rank").filters == 5
    assert decomposed.get_layer("layer_rank_").kernel_size == (3, 3)


def test_what_is_decomposed_can_be_decomposed_again() -> None:
    model = single(layers.Conv2D(6, 3, name="layer"))
    once = decompose(model, {"layer": full(model.get_layer("layer"), "channel")})
    x = inputs_for(model)
    twice = decompose(once, {name: full(once.get_layer(name)) for name in ("layer", "layer_rank")})
    assert relative_difference(answers(twice, x), answers(model, x)) < 1e-5
    again = decompose(twice, {"layer": full(twice.get_layer("layer"))})
    assert relative_difference(answers(again, x), answers(model, x)) < 1e-5


def test_a_kernel_of_zeros_has_a_rank_too() -> None:
    model = NETWORKS["chain"].random(0)
    model.get_layer("a").set_weights([np.zeros_like(weight) for weight in model.get_layer("a").get_weights()])
    x = inputs_for(model)
    assert relative_difference(answers(decompose(model, ranks("spatial", 3, "a")), x), answers(model, x)) < 1e-5


class OwnConvolution(keras.layers.Conv2D):  # type: ignore[misc]
    """May compute anything."""


@pytest.mark.parametrize(
    ("layer", "schemes"),
    [
        (layers.Conv2D(4, 3), ("spatial", "channel", "tucker")),
        (layers.Conv2D(4, (3, 2), dilation_rate=2, groups=2), ("spatial", "channel", "tucker")),
        (layers.Conv2D(4, 1), ("channel",)),
        (layers.Conv2D(4, (1, 3)), ("channel", "tucker")),
        (layers.Conv1D(4, 3), ("channel", "tucker")),
        (layers.Conv3D(4, 3), ("channel", "tucker")),
        (layers.Dense(4), ("dense",)),
        (layers.DepthwiseConv2D(3), ()),
        (layers.SeparableConv2D(4, 3), ()),
        (layers.Conv2DTranspose(4, 3), ()),
        (OwnConvolution(4, 3), ()),
        (layers.ReLU(), ()),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, tuple) else type(value).__name__,
)
def test_the_schemes_of_layers(layer: Any, schemes: tuple[Scheme, ...]) -> None:
    assert schemes_for(layer) == schemes


def mixed() -> Any:
    inputs = keras.Input((12, 12, 16), name="input")
    x = layers.Conv2D(24, 3, name="first")(inputs)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Conv2DTranspose(8, 3, name="transposed")(x)
    x = OwnConvolution(8, 3, name="own")(x)
    x = layers.Conv2D(8, 1, name="point")(x)
    return keras.Model(inputs, layers.Dense(10, name="out")(layers.Flatten()(x)), name="mixed")


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (ranks("spatial", 8, "frist"), "there is no layer frist .*did you mean first"),
        (ranks("channel", 2, "depthwise"), "layer depthwise is of type DepthwiseConv2D, which cannot be decomposed"),
        (ranks("channel", 2, "transposed"), "layer transposed is of type Conv2DTranspose, which cannot be decomposed"),
        (ranks("channel", 2, "own"), "layer own is of type OwnConvolution, which cannot be decomposed"),
        (ranks("channel", 2, "input"), "layer input is of type InputLayer, which cannot be decomposed"),
        (ranks("dense", 8, "first"), "layer first is decomposed as spatial or channel or tucker, not as dense"),
        (ranks("spatial", 8, "point"), "layer point is decomposed as channel, not as spatial"),
        (ranks("tucker", (8, 8), "out"), "layer out is decomposed as dense, not as tucker"),
        (ranks("spatial", 0, "first"), "layer first as spatial has ranks from 1 to 48, not 0"),
        (ranks("spatial", 49, "first"), "layer first as spatial has ranks from 1 to 48, not 49"),
        (ranks("channel", 25, "first"), "layer first as channel has ranks from 1 to 24, not 25"),
        (ranks("tucker", (17, 8), "first"), "layer first as tucker has ranks from 1 to 16 and from 1 to 24, not 17x8"),
        (ranks("tucker", (16, 0), "first"), "layer first as tucker has ranks from 1 to 16 and from 1 to 24, not 16x0"),
        (ranks("tucker", 8, "first"), "layer first as tucker takes two ranks, of channels and of filters, and not"),
        (ranks("spatial", (8, 8), "first"), "layer first as spatial takes one rank, and not spatial:8x8"),
        (ranks("dense", 11, "out"), "layer out as dense has ranks from 1 to 10, not 11"),
    ],
)
def test_ranks_that_do_not_fit_are_refused(chosen: dict[str, LayerRank], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        decompose(mixed(), chosen)
