"""What layers see, and kernels fitted to answer to it as before."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from networks import answers, randomize, relative_difference

from zoo.backend import keras
from zoo.graph import calls
from zoo.lowrank import decompose, refine
from zoo.lowrank.factors import Rank, full_rank
from zoo.lowrank.forms import groups_of, kernel_per_group
from zoo.lowrank.responses import patches_of, reproduce
from zoo.recipe import LayerRank, Scheme

layers = keras.layers
Array = npt.NDArray[Any]


def inputs_like(shape: tuple[int, ...], count: int = 64, seed: int = 0) -> Array:
    """Inputs whose channels are much alike, always in the same way."""
    mixing = np.random.default_rng(99).normal(size=(shape[-1],) * 2) * 0.6 ** np.arange(shape[-1])[:, np.newaxis]
    x: Array = (np.random.default_rng(seed).normal(size=(count, *shape)) @ mixing + 0.3).astype(np.float32)
    return x


def sorted_rows(rows: Array) -> Array:
    sorted_: Array = rows[np.lexsort(np.round(rows, 3).T)]
    return sorted_


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (layers.Conv2D(3, 3), (6, 7, 4)),
        (layers.Conv2D(3, (3, 2), strides=(2, 3), padding="same"), (6, 7, 4)),
        (layers.Conv2D(3, (2, 4), dilation_rate=(3, 2), padding="same"), (8, 9, 4)),
        (layers.Conv2D(4, 3, strides=2, groups=2), (6, 7, 4)),
        (layers.Conv2D(3, 1, strides=2), (6, 7, 4)),
        (layers.Conv1D(3, 3, padding="causal", dilation_rate=2), (9, 4)),
        (layers.Conv1D(3, 4, padding="same", strides=3), (10, 4)),
        (layers.Conv3D(3, (2, 3, 1), strides=(1, 2, 1), padding="same"), (3, 4, 5, 2)),
        (layers.Dense(3), (7,)),
        (layers.Dense(3), (2, 5, 7)),
    ],
    ids=str,
)
def test_patches_are_what_a_layer_sees(layer: Any, shape: tuple[int, ...]) -> None:
    inputs = keras.Input(shape)
    model = keras.Model(inputs, layer(inputs))
    randomize(model, 0)
    x = inputs_like(shape, 18)  # more than are looked at together
    of_layer = [call for call in calls(model) if call.layer is layer]
    patches = patches_of(model, of_layer, layer, x)
    kernel, bias, groups = layer.kernel.numpy(), layer.bias.numpy(), groups_of(layer)
    own = np.split(patches, groups, axis=-1)
    made = [
        seen.reshape(len(seen), -1) @ part.reshape(-1, part.shape[-1])
        for seen, part in zip(own, np.split(kernel, groups, axis=-1), strict=True)
    ]
    wanted = answers(model, x).reshape(-1, len(bias))
    assert len(patches) == len(wanted)  # all positions, for there are few
    np.testing.assert_allclose(
        sorted_rows(np.concatenate(made, axis=-1) + bias), sorted_rows(wanted), rtol=2e-3, atol=2e-3
    )


def network(bias: bool = True, groups: int = 1) -> Any:
    inputs = keras.Input((8, 8, 6), name="input")
    x = layers.Conv2D(12, 3, padding="same", activation="relu", use_bias=bias, name="a")(inputs)
    x = layers.Conv2D(12, 3, strides=2, activation="relu", groups=groups, use_bias=bias, name="b")(x)
    x = layers.Dense(10, activation="relu", use_bias=bias, name="c")(layers.Flatten()(x))
    model = keras.Model(inputs, x, name="network")
    randomize(model, 0)
    return model


def error(decomposed: Any, model: Any, x: Array) -> float:
    return float(np.square(answers(decomposed, x) - answers(model, x)).sum())


@pytest.mark.parametrize(
    ("scheme", "rank", "bias", "groups"),
    [
        ("spatial", 6, True, 1),
        ("spatial", 6, False, 1),
        ("channel", 4, True, 1),
        ("channel", 2, False, 2),
        ("tucker", (3, 4), True, 1),
        ("tucker", (3, 3), False, 2),
    ],
)
def test_fitted_kernels_answer_better_to_inputs_not_seen(scheme: Scheme, rank: Rank, bias: bool, groups: int) -> None:
    model = network(bias, groups)
    chosen = {name: LayerRank(scheme=scheme, rank=rank) for name in ("a", "b")} | {
        "c": LayerRank(scheme="dense", rank=4)
    }
    decomposed = decompose(model, chosen)
    unseen = inputs_like((8, 8, 6), 32, seed=1)
    before = error(decomposed, model, unseen)
    refine(model, decomposed, chosen, inputs_like((8, 8, 6), 200))
    # Without a bias there is less to fit by, and what is best for a layer need not be so much better for the whole.
    assert error(decomposed, model, unseen) < (0.8 if bias else 0.95) * before


@pytest.mark.parametrize("scheme", ["spatial", "channel", "tucker"])
def test_at_full_rank_fitting_keeps_what_is_computed(scheme: Scheme) -> None:
    model = network(groups=2)
    chosen = {
        layer.name: LayerRank(scheme=own, rank=full_rank(kernel_per_group(layer), own))
        for layer, own in ((model.get_layer("a"), scheme), (model.get_layer("b"), scheme))
    }
    decomposed = decompose(model, chosen)
    x = inputs_like((8, 8, 6))
    refine(model, decomposed, chosen, x)
    assert relative_difference(answers(decomposed, x), answers(model, x)) < 1e-4


def test_calls_are_compared_with_themselves_where_their_order_changes() -> None:
    inputs = keras.Input((8, 8, 6), name="input")
    shared = layers.Conv2D(6, 3, padding="same", name="shared")
    long = layers.Conv2D(6, 3, padding="same", name="longer")(inputs)
    short = layers.ReLU()(layers.ReLU()(layers.Rescaling(-3.0)(inputs)))
    model = keras.Model(inputs, layers.Concatenate()([shared(long), shared(short)]))
    randomize(model, 0)
    chosen = {"longer": LayerRank(scheme="tucker", rank=(6, 6)), "shared": LayerRank(scheme="channel", rank=6)}
    decomposed = decompose(model, chosen)
    x = inputs_like((8, 8, 6))
    refine(model, decomposed, chosen, x)
    assert relative_difference(answers(decomposed, x), answers(model, x)) < 1e-4


def test_names_that_are_taken_lead_to_the_right_layers() -> None:
    inputs = keras.Input((8, 8, 6), name="input")
    model = keras.Model(inputs, layers.ReLU(name="a_rank")(layers.Conv2D(12, 3, name="a")(inputs)))
    randomize(model, 0)
    chosen = {"a": LayerRank(scheme="channel", rank=3)}
    decomposed = decompose(model, chosen)
    x = inputs_like((8, 8, 6))
    before = error(decomposed, model, x)
    refine(model, decomposed, chosen, x)
    assert error(decomposed, model, x) < before


@pytest.mark.parametrize(
    ("scheme", "rank", "shape"),
    [
        ("spatial", 9, (3, 3, 4, 6)),
        ("channel", 5, (3, 3, 4, 6)),
        ("tucker", (4, 5), (3, 3, 4, 6)),
        ("tucker", (1, 6), (3, 2, 20)),
        ("dense", 6, (9, 7)),
    ],
)
def test_fewer_patches_than_the_rank_are_enough(scheme: Scheme, rank: Rank, shape: tuple[int, ...]) -> None:
    random = np.random.default_rng(0)
    kernel = random.normal(size=shape).astype(np.float32)
    patches = random.normal(size=(2, *shape[:-1])).astype(np.float32)
    chosen = LayerRank(scheme=scheme, rank=rank)
    bias = np.zeros(shape[-1], np.float32)
    fitted = reproduce(kernel, bias, chosen, 1, patches, patches)
    assert fitted.bias is not None
    assert all(np.isfinite(one).all() for one in [*fitted.kernels, fitted.bias])
    sizes = chosen.rank if isinstance(chosen.rank, tuple) else (chosen.rank,)
    assert tuple(one.shape[-1] for one in fitted.kernels) == (*sizes, shape[-1])
