from __future__ import annotations

import itertools
from typing import Any

import pytest
from networks import randomize

from fleetfoot.errors import UsageError
from zoo.backend import keras
from zoo.candidates import cut
from zoo.cost import count_macs
from zoo.recipe import Recipe, Training
from zoo.search.strategies import GridOptions, Proposal, make_strategy


@pytest.fixture(scope="module")
def base() -> Any:
    inputs = keras.Input((8, 8, 4), name="input")
    x = keras.layers.Conv2D(32, 3, activation="relu", name="a")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(32, 3, activation="relu", name="b")(x))
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax", name="out")(x))
    randomize(model, 0)
    return model


def proposals(base: Any, **options: Any) -> list[Proposal]:
    strategy = make_strategy("grid", base, GridOptions(**options), "base/order.json")
    proposed = list(strategy.propose())
    strategy.observe([])
    assert list(strategy.propose()) == []
    return proposed


def names(proposed: list[Proposal]) -> list[list[str]]:
    return [list(proposal.recipes) for proposal in proposed]


def test_a_grid_proposes_what_was_asked_for_and_the_base_model_first(base: Any) -> None:
    proposed = proposals(base, prune=(0.5, 0.75), low_rank=(0.5,), subnetworks=(0.25, 0.5), quantize=("int8",))
    assert names(proposed) == [
        ["base"],
        ["pruned-0.5"],
        ["pruned-0.75"],
        ["lowrank-0.5"],
        ["base-int8"],
        ["sub-0.25", "sub-0.5"],
    ]
    assert proposed[0].recipes["base"] == Recipe()


def test_recipes_say_how_they_are_trained(base: Any) -> None:
    proposed = proposals(base, prune=(0.5,), low_rank=(0.5,), subnetworks=(0.25, 0.5), epochs=7, seed=3)
    recipes = {name: recipe for proposal in proposed for name, recipe in proposal.recipes.items()}
    alone = Training(epochs=7, teacher="base", seed=3)
    assert recipes["pruned-0.5"].training == recipes["lowrank-0.5"].training == alone
    together = Training(epochs=7, teacher="base", seed=3, jointly=(0.25, 0.5))
    assert recipes["sub-0.25"].training == recipes["sub-0.5"].training == together
    assert recipes["base"].training is None
    assert recipes["base-int8"] == Recipe(quantize="int8")


def test_every_recipe_is_a_cheaper_network_of_the_base_model(base: Any) -> None:
    for proposal in proposals(base, prune=(0.25, 0.5), low_rank=(0.5, 0.7), subnetworks=(0.25, 0.5)):
        for name, recipe in proposal.recipes.items():
            macs = count_macs(cut(base, recipe))
            assert macs == count_macs(base) if name.startswith("base") else macs < count_macs(base)


def test_subnetworks_are_prefixes_of_one_order(base: Any) -> None:
    (*_, together) = proposals(base, subnetworks=(0.25, 0.5, 0.75))
    recipes = list(together.recipes.values())
    assert {recipe.order for recipe in recipes} == {"base/order.json"}
    for narrow, wide in itertools.pairwise(recipes):
        assert all(isinstance(width, int) for width in narrow.keep.values())
        assert all(narrow.keep[group] <= wide.keep[group] for group in narrow.keep)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("family", "left"),
    [
        ("prune", [["base"], ["lowrank-0.5"], ["base-int8"], ["sub-0.5"]]),
        ("low_rank", [["base"], ["pruned-0.5"], ["base-int8"], ["sub-0.5"]]),
        ("subnetworks", [["base"], ["pruned-0.5"], ["lowrank-0.5"], ["base-int8"]]),
        ("quantize", [["base"], ["pruned-0.5"], ["lowrank-0.5"], ["sub-0.5"]]),
    ],
)
def test_an_empty_list_leaves_its_family_out(base: Any, family: str, left: list[list[str]]) -> None:
    options: dict[str, Any] = {"prune": (0.5,), "low_rank": (0.5,), "subnetworks": (0.5,), "quantize": ("int8",)}
    assert names(proposals(base, **(options | {family: ()}))) == left


def test_nothing_asked_for_is_the_base_model_alone(base: Any) -> None:
    assert names(proposals(base, prune=(), low_rank=(), subnetworks=(), quantize=())) == [["base"]]


def test_what_would_be_the_same_is_proposed_once_and_said(base: Any, capsys: pytest.CaptureFixture[str]) -> None:
    proposed = proposals(base, prune=(0.5, 0.51), low_rank=(), subnetworks=(), quantize=())
    assert names(proposed) == [["base"], ["pruned-0.5"]]
    assert capsys.readouterr().err == "warning: pruned-0.51 is left out: it is the same as pruned-0.5\n"


def test_what_would_change_nothing_is_left_out_and_said(base: Any, capsys: pytest.CaptureFixture[str]) -> None:
    proposed = proposals(base, prune=(1.0,), low_rank=(1.0,), subnetworks=(), quantize=())
    assert names(proposed) == [["base"]]
    said = capsys.readouterr().err
    assert "pruned-1 is left out: it would be the base model itself" in said
    assert "lowrank-1 is left out: it would be the base model itself" in said


def test_subnetworks_that_would_be_the_same_are_proposed_once(base: Any) -> None:
    (*_, together) = proposals(base, subnetworks=(0.5, 0.501))
    assert len({recipe.digest for recipe in together.recipes.values()}) == len(together.recipes)


@pytest.mark.parametrize(
    "options", [{"prune": (0.0,)}, {"prune": (2.0,)}, {"low_rank": (-1.0,)}, {"subnetworks": (0.5, 0.25)},
                {"subnetworks": (1.5,)}, {"quantize": ("int3",)}]
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(base: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        proposals(base, **options)


def test_subnetworks_too_small_to_be_are_left_out(base: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for proposal in proposals(base, subnetworks=(0.0001, 0.5)) for name in proposal.recipes]
    assert "sub-0.5" in names
    assert "sub-0.0001" not in names
    assert "sub-0.0001 is left out: the narrowest subnetwork takes 0." in capsys.readouterr().err


def test_an_unknown_strategy_is_refused_naming_those_that_exist(base: Any) -> None:
    with pytest.raises(UsageError, match="unknown strategy 'dqn': there is grid"):
        make_strategy("dqn", base, GridOptions(), "base/order.json")
