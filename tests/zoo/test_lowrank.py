from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS, answers, inputs_for, randomize, relative_difference

from fleetfoot.errors import ModelError, UsageError
from zoo.backend import keras
from zoo.cost import count_macs
from zoo.lowrank import decompose, ranks_for_energy, scheme_for
from zoo.recipe import LayerRank, Scheme

layers = keras.layers


def single(layer: Any, shape: tuple[int, ...] = (9, 8, 5)) -> Any:
    inputs = keras.Input(shape, name="input")
    model = keras.Model(inputs, layer(inputs), name="single")
    randomize(model, 0)
    return model


def ranks(scheme: Scheme, rank: int, name: str = "layer") -> dict[str, LayerRank]:
    return {name: LayerRank(scheme=scheme, rank=rank)}


@pytest.mark.parametrize("strides", [(1, 1), (2, 2), (2, 1), (1, 3)])
@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [(3, 3), (2, 2), (4, 2), (3, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_is_exact_at_full_rank(
    strides: tuple[int, int], padding: str, kernel: tuple[int, int], bias: bool
) -> None:
    layer = layers.Conv2D(6, kernel, strides=strides, padding=padding, use_bias=bias, activation="relu", name="layer")
    model = single(layer)
    full = min(kernel[0] * 5, kernel[1] * 6)
    decomposed = decompose(model, ranks("spatial", full))
    x = inputs_for(model)
    assert decomposed.output_shape == model.output_shape
    assert relative_difference(answers(decomposed, x), answers(model, x)) < 1e-5
    assert decomposed.get_layer("layer").use_bias == bias


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 7)])
def test_a_dense_layer_is_exact_at_full_rank(bias: bool, shape: tuple[int, ...]) -> None:
    model = single(layers.Dense(5, use_bias=bias, activation="tanh", name="layer"), shape)
    decomposed = decompose(model, ranks("dense", 5))
    x = inputs_for(model)
    assert relative_difference(answers(decomposed, x), answers(model, x)) < 1e-5


@given(rank=st.integers(1, 14), seed=st.integers(0, 1000))
@settings(max_examples=10, deadline=None)
def test_a_rank_is_the_best_approximation_of_that_rank(rank: int, seed: int) -> None:
    model = single(layers.Conv2D(6, 3, name="layer", use_bias=False))
    randomize(model, seed)
    decomposed = decompose(model, ranks("spatial", min(rank, 15)))
    vertical = decomposed.get_layer("layer_rank").kernel.numpy()[:, 0]  # (height, in, rank)
    horizontal = decomposed.get_layer("layer").kernel.numpy()[0]  # (width, rank, out)
    product = np.einsum("hir,wro->hwio", vertical, horizontal)
    kernel = model.get_layer("layer").kernel.numpy()
    # Eckart and Young: nothing of this rank is nearer than by the singular values that are left out.
    values = np.linalg.svd(kernel.transpose(0, 2, 1, 3).reshape(15, 18), compute_uv=False)
    assert np.linalg.norm(kernel - product) == pytest.approx(np.linalg.norm(values[rank:]), rel=1e-3, abs=1e-4)


def test_the_error_falls_with_the_rank() -> None:
    model = single(layers.Conv2D(6, 3, name="layer"))
    x = inputs_for(model)
    errors = [
        relative_difference(answers(decompose(model, ranks("spatial", rank)), x), answers(model, x))
        for rank in (1, 5, 10, 15)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 0.1


def test_both_new_layers_have_the_rank_between_them() -> None:
    model = single(layers.Conv2D(6, (3, 4), strides=(2, 1), name="layer"))
    decomposed = decompose(model, ranks("spatial", 4))
    first, second = decomposed.get_layer("layer_rank"), decomposed.get_layer("layer")
    assert (first.kernel_size, first.strides, first.filters, first.use_bias) == ((3, 1), (2, 1), 4, False)
    assert (second.kernel_size, second.strides, second.filters, second.use_bias) == ((1, 4), (1, 1), 6, True)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_whole_network_is_exact_at_full_ranks(name: str) -> None:
    model = NETWORKS[name].random(0)
    full = {}
    for layer in model.layers:
        if scheme := scheme_for(layer):
            kernel = layer.kernel.shape
            rows, columns = (kernel[0] * kernel[2], kernel[1] * kernel[3]) if scheme == "spatial" else kernel
            full[layer.name] = LayerRank(scheme=scheme, rank=min(rows, columns))
    assert full
    x = inputs_for(model)
    decomposed = decompose(model, full)
    assert relative_difference(answers(decomposed, x), answers(model, x)) < 1e-5
    for layer in full:
        assert decomposed.get_layer(f"{layer}_rank")


def test_no_ranks_change_nothing() -> None:
    model = NETWORKS["chain"].random(0)
    for same, weight in zip(decompose(model, {}).get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(same, weight)


def big() -> Any:
    inputs = keras.Input((8, 8, 16), name="input")
    x = layers.Conv2D(64, 3, padding="same", name="a")(inputs)
    x = layers.Conv2D(64, 1, name="point")(x)
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Conv2D(64, 3, strides=2, name="b")(x)
    x = layers.Dense(96, name="hidden")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(10, name="out")(x))
    randomize(model, 0)
    return model


@pytest.mark.parametrize("energy", [0.2, 0.5, 0.8])
def test_the_ranks_keep_the_energy_asked_for_and_make_the_network_cheaper(energy: float) -> None:
    model = big()
    chosen = ranks_for_energy(model, energy)
    assert chosen
    assert set(chosen) <= {"a", "b", "hidden", "out"}
    for name, layer_rank in chosen.items():
        kernel = model.get_layer(name).kernel.numpy()
        if kernel.ndim == 4:
            height, width, channels, filters = kernel.shape
            kernel = kernel.transpose(0, 2, 1, 3).reshape(height * channels, width * filters)
        squares = np.linalg.svd(kernel, compute_uv=False).astype(np.float64) ** 2
        assert squares[: layer_rank.rank].sum() >= energy * squares.sum() * (1 - 1e-6)
        assert squares[: layer_rank.rank - 8].sum() < energy * squares.sum()
        assert layer_rank.rank % 8 == 0
        assert count_macs(decompose(model, {name: layer_rank})) < count_macs(model)


def test_more_energy_never_takes_a_lower_rank() -> None:
    model = big()
    names = {"a", "b", "hidden"}
    ladder = [ranks_for_energy(model, energy) for energy in (0.1, 0.3, 0.5, 0.7, 0.9, 1.0)]
    for low, high in itertools.pairwise(ladder):
        assert high.keys() <= low.keys()  # what gets no cheaper is left whole
        assert all(low[name].rank <= high[name].rank for name in high.keys() & names)


def test_layers_that_would_get_dearer_are_left_whole() -> None:
    assert ranks_for_energy(big(), 1.0) == {}


def test_a_kernel_of_zeros_has_a_rank_too() -> None:
    model = big()
    model.get_layer("a").set_weights([np.zeros_like(weight) for weight in model.get_layer("a").get_weights()])
    chosen = ranks_for_energy(model, 0.5)
    x = inputs_for(model)
    assert np.isfinite(answers(decompose(model, chosen), x)).all()


@pytest.mark.parametrize("energy", [0, -1, 1.5, float("nan")])
def test_an_energy_that_cannot_be_meant_is_refused(energy: float) -> None:
    with pytest.raises(UsageError, match="energy to keep must be above 0 and at most 1"):
        ranks_for_energy(big(), energy)


@pytest.mark.parametrize(
    ("layer", "scheme"),
    [
        (layers.Conv2D(4, 3), "spatial"),
        (layers.Conv2D(4, (3, 2)), "spatial"),
        (layers.Conv2D(4, 1), None),
        (layers.Conv2D(4, (1, 3)), None),
        (layers.Conv2D(4, 3, dilation_rate=2), None),
        (layers.Conv2D(4, 3, groups=2), None),
        (layers.Conv2D(4, 3, data_format="channels_first"), None),
        (layers.DepthwiseConv2D(3), None),
        (layers.Conv2DTranspose(4, 3), None),
        (layers.Dense(4), "dense"),
        (layers.ReLU(), None),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else value,
)
def test_only_layers_that_the_schemes_are_of_are_decomposed(layer: Any, scheme: str | None) -> None:
    assert scheme_for(layer) == scheme


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (ranks("spatial", 8, "c"), "no layer 'c' that can be decomposed: there are a, b, hidden, out"),
        (ranks("spatial", 8, "point"), "no layer 'point' that can be decomposed"),
        (ranks("dense", 8, "a"), "layer a is decomposed as spatial, not as dense"),
        (ranks("spatial", 8, "hidden"), "layer hidden is decomposed as dense, not as spatial"),
        (ranks("spatial", 0, "a"), "layer a has ranks from 1 to 48, not 0"),
        (ranks("spatial", 49, "a"), "layer a has ranks from 1 to 48, not 49"),
        (ranks("dense", 11, "out"), "layer out has ranks from 1 to 10, not 11"),
    ],
)
def test_ranks_that_do_not_fit_are_refused(chosen: dict[str, LayerRank], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        decompose(big(), chosen)


def test_an_input_without_a_name_of_its_own_is_no_hindrance() -> None:
    inputs = keras.Input((7,))
    model = keras.Model(inputs, layers.Dense(5, name="layer")(inputs))
    x = inputs_for(model)
    assert relative_difference(answers(decompose(model, ranks("dense", 5)), x), answers(model, x)) < 1e-5
