from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.recipe import LayerRank, Recipe, Training

FULL = Recipe(
    build={"name": "digits-cnn", "width": 32},
    drop=("block1",),
    order="base/order-1.json",
    keep={"conv0": 8, "conv1": (0, 2, 5)},
    ranks={"conv2": LayerRank(scheme="spatial", rank=16), "hidden": LayerRank(scheme="dense", rank=8)},
    training=Training(epochs=4, teacher="base", seed=7, jointly=(0.25, 0.5)),
    quantize="int8",
)

CHANGES: list[dict[str, Any]] = [
    {"build": {"name": "digits-cnn", "width": 33}},
    {"drop": ()},
    {"order": "base/order-2.json"},
    {"keep": {"conv0": 8, "conv1": (0, 2, 6)}},
    {"keep": {"conv0": 9, "conv1": (0, 2, 5)}},
    {"keep": {"conv0": 8}},
    {"ranks": {"conv2": LayerRank(scheme="spatial", rank=16)}},
    {"ranks": FULL.ranks | {"conv2": LayerRank(scheme="spatial", rank=24)}},
    {"training": None},
    {"training": Training(epochs=5, teacher="base", seed=7, jointly=(0.25, 0.5))},
    {"training": Training(epochs=4, seed=7, jointly=(0.25, 0.5))},
    {"training": Training(epochs=4, teacher="base", seed=8, jointly=(0.25, 0.5))},
    {"training": Training(epochs=4, teacher="base", seed=7)},
    {"quantize": None},
]

recipes = st.builds(
    Recipe,
    drop=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    order=st.none() | st.text(max_size=5),
    keep=st.dictionaries(
        st.text(max_size=5), st.integers(1, 99) | st.lists(st.integers(0, 99), min_size=1, max_size=4).map(tuple)
    ),
    ranks=st.dictionaries(
        st.text(max_size=5),
        st.builds(LayerRank, scheme=st.sampled_from(["spatial", "dense"]), rank=st.integers(1, 99)),
    ),
    training=st.none() | st.builds(Training, epochs=st.integers(0, 99), seed=st.integers(0, 99)),
    quantize=st.sampled_from([None, "int8"]),
)


def test_the_identity_of_a_recipe_never_changes_between_versions() -> None:
    assert Recipe().digest == "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"
    assert FULL.digest.startswith("225d0e0f14bf")


@given(recipe=recipes)
def test_a_recipe_reads_as_it_was_written(recipe: Recipe) -> None:
    read = msgspec.json.decode(msgspec.json.encode(recipe), type=Recipe)
    assert read == recipe
    assert read.digest == recipe.digest


@given(recipe=recipes)
def test_the_order_in_which_layers_are_named_does_not_matter(recipe: Recipe) -> None:
    reversed_keep = dict(reversed(recipe.keep.items()))
    reversed_ranks = dict(reversed(recipe.ranks.items()))
    same = msgspec.structs.replace(recipe, keep=reversed_keep, ranks=reversed_ranks)
    assert same.digest == recipe.digest
    assert hash(same) == hash(recipe)
    assert same == recipe


@pytest.mark.parametrize("change", CHANGES, ids=str)
def test_any_change_is_another_recipe(change: dict[str, Any]) -> None:
    assert msgspec.structs.replace(FULL, **change).digest != FULL.digest


def test_all_changes_differ_from_each_other() -> None:
    digests = {msgspec.structs.replace(FULL, **change).digest for change in CHANGES}
    assert len(digests) == len(CHANGES)


def test_a_field_that_says_the_default_is_as_if_absent() -> None:
    explicit = Recipe(keep={}, ranks={}, drop=(), training=Training(epochs=2, teacher=None, seed=0, jointly=()))
    assert explicit.digest == Recipe(training=Training(epochs=2)).digest
    assert msgspec.json.encode(explicit) == b'{"training":{"epochs":2}}'


def test_an_unknown_quantisation_is_refused_naming_those_that_exist() -> None:
    with pytest.raises(ValueError, match="unknown quantisation 'int3': there is int8"):
        Recipe(quantize="int3")
    with pytest.raises(msgspec.ValidationError, match="unknown quantisation 'int3': there is int8"):
        msgspec.json.decode('{"quantize": "int3"}', type=Recipe)


@pytest.mark.parametrize(
    "text", ['{"kep": {}}', '{"ranks": {"a": {"scheme": "svd", "rank": 2}}}', '{"training": {"epoch": 2}}']
)
def test_what_a_recipe_does_not_know_is_refused(text: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(text, type=Recipe)
