from __future__ import annotations

import dataclasses
import itertools
import re
from pathlib import Path
from typing import Any

import pytest
from networks import randomize

from fleetfoot.errors import ModelError, UsageError
from zoo.architectures import ARCHITECTURES
from zoo.backend import keras
from zoo.batches import TrainingData
from zoo.candidates import cut
from zoo.channels import cuttable_groups
from zoo.cost import count_macs
from zoo.datasets import Dataset, split_indices
from zoo.memory import peak_activation_bytes
from zoo.recipe import Recipe, Training
from zoo.search.options import GridOptions
from zoo.search.strategies import make_strategy
from zoo.search.strategy import Proposal, Task


@pytest.fixture(scope="module")
def base() -> Any:
    inputs = keras.Input((8, 8, 4), name="input")
    x = keras.layers.Conv2D(32, 3, activation="relu", name="a")(inputs)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(32, 3, activation="relu", name="b")(x))
    model = keras.Model(inputs, keras.layers.Dense(10, activation="softmax", name="out")(x))
    randomize(model, 0)
    return model


@pytest.fixture(scope="module")
def data(digits: Dataset) -> TrainingData:
    full = TrainingData.of(digits, split_indices(digits, 0))
    return dataclasses.replace(full, train=full.train[:256], tune=full.tune[:128])


def proposals(base: Any, **options: Any) -> list[Proposal]:
    strategy = make_strategy("grid", Task(base), GridOptions(**options))
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


def test_low_rank_variants_take_the_share_of_the_base_model_that_they_are_named_by(base: Any) -> None:
    proposed = proposals(base, prune=(), low_rank=(0.3, 0.6), subnetworks=(), quantize=())
    recipes = {name: recipe for proposal in proposed for name, recipe in proposal.recipes.items()}
    for share in (0.3, 0.6):
        taken = count_macs(cut(base, recipes[f"lowrank-{share}"])) / count_macs(base)
        assert 0.8 * share < taken <= share


def test_pruned_variants_are_decomposed_too(base: Any) -> None:
    options: dict[str, Any] = {"low_rank": (), "subnetworks": (), "quantize": ()}
    proposed = proposals(base, prune=(0.5, 0.75), low_rank_of_pruned=(0.6,), **options)
    assert names(proposed)[3:] == [["pruned-0.5-lowrank-0.6"], ["pruned-0.75-lowrank-0.6"]]
    recipes = {name: recipe for proposal in proposed for name, recipe in proposal.recipes.items()}
    for pruned in ("pruned-0.5", "pruned-0.75"):
        both = recipes[f"{pruned}-lowrank-0.6"]
        assert both.keep == recipes[pruned].keep
        assert both.ranks
        assert count_macs(cut(base, both)) <= 0.6 * count_macs(cut(base, recipes[pruned]))


def test_a_share_that_no_ranks_reach_is_left_out_and_said(base: Any, capsys: pytest.CaptureFixture[str]) -> None:
    proposed = proposals(base, prune=(), low_rank=(0.001, 0.5), subnetworks=(), quantize=())
    assert names(proposed) == [["base"], ["lowrank-0.5"]]
    assert "warning: lowrank-0.001 is left out: no ranks bring" in capsys.readouterr().err


def test_subnetworks_are_prefixes_of_one_order(base: Any) -> None:
    (*_, together) = proposals(base, subnetworks=(0.25, 0.5, 0.75))
    recipes = list(together.recipes.values())
    (file,) = {recipe.order for recipe in recipes}
    assert re.fullmatch(r"base/order-[0-9a-f]{8}\.json", str(file))
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
    proposed = proposals(base, prune=(0.5, 0.50001), low_rank=(), subnetworks=(), quantize=())
    assert names(proposed) == [["base"], ["pruned-0.5"]]
    assert capsys.readouterr().err == "warning: pruned-0.50001 is left out: it is the same as pruned-0.5\n"


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
                {"subnetworks": (1.5,)}, {"quantize": ("int3",)}, {"criterion": "l3"}, {"scope": "all"},
                {"prune_by": "bytes"}, {"drop_blocks": (0,)}, {"subnetworks": (0.5, 0.5)}, {"order": "sideways"},
                {"subnetwork_budget": "joules"}, {"peak_memory": 0}, {"solver_time_limit": -1.0}]
)  # fmt: skip
def test_options_that_cannot_be_meant_are_refused(base: Any, options: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        proposals(base, **options)


def test_subnetworks_too_small_to_be_are_left_out(base: Any, capsys: pytest.CaptureFixture[str]) -> None:
    names = [name for proposal in proposals(base, subnetworks=(0.0001, 0.5)) for name in proposal.recipes]
    assert "sub-0.5" in names
    assert "sub-0.0001" not in names
    assert "sub-0.0001 is left out: the least possible is 0." in capsys.readouterr().err


def test_subnetworks_are_within_their_budgets(base: Any) -> None:
    for unit, cost in (("macs", count_macs), ("size", lambda model: model.count_params())):
        (*_, together) = proposals(base, subnetworks=(0.25, 0.5), subnetwork_budget=unit)
        for name, recipe in together.recipes.items():
            fraction = float(name.removeprefix("sub-"))
            assert 0.8 * fraction < cost(cut(base, recipe)) / cost(base) <= fraction


def test_subnetworks_keep_to_a_peak_of_memory(base: Any) -> None:
    (*_, together) = proposals(base, subnetworks=(0.5, 1.0), peak_memory=6000)
    for recipe in together.recipes.values():
        assert peak_activation_bytes(cut(base, recipe)) <= 6000
    with pytest.raises(ModelError, match=r"within 100 bytes: the least possible is \d+ bytes"):
        proposals(base, peak_memory=100)


def test_an_unknown_strategy_is_refused_naming_those_that_exist(base: Any) -> None:
    with pytest.raises(UsageError, match="unknown strategy 'dqn': there is grid"):
        make_strategy("dqn", Task(base), GridOptions())


def test_an_unknown_criterion_is_refused_offering_the_nearest(base: Any) -> None:
    with pytest.raises(UsageError, match=r"unknown criterion 'tailor': did you mean taylor\?"):
        proposals(base, criterion="tailor")


def test_pruned_variants_take_the_shares_that_were_asked_for(digits: Dataset, data: TrainingData) -> None:
    model = ARCHITECTURES["digits-cnn"](digits.input, 10)
    for by in "macs", "channels":
        options = GridOptions(prune=(0.3, 0.6), prune_by=by, low_rank=(), subnetworks=(), quantize=())  # type: ignore[arg-type]
        _, narrow, wide = make_strategy("grid", Task(model, data), options).propose()
        for proposal, share in ((narrow, 0.3), (wide, 0.6)):
            (recipe,) = proposal.recipes.values()
            kept = sum(map(len, recipe.keep.values())) + 0.0  # type: ignore[arg-type]
            reached = kept / sum(group.size for name, group in cuttable_groups(model).items() if name in recipe.keep)
            macs = count_macs(cut(model, recipe)) / count_macs(model)
            assert share - 0.2 < (macs if by == "macs" else reached) <= share + 1e-9


def test_blocks_are_dropped_the_least_harmful_first(digits: Dataset, data: TrainingData) -> None:
    model = ARCHITECTURES["resnet-8"](digits.input, 10)
    options = GridOptions(prune=(), low_rank=(), subnetworks=(), quantize=(), drop_blocks=(1, 2))
    _, one, two = make_strategy("grid", Task(model, data), options).propose()
    (first,), (second,) = one.recipes.values(), two.recipes.values()
    assert second.drop[:1] == first.drop
    assert len(second.drop) == 2
    assert count_macs(cut(model, second)) < count_macs(cut(model, first)) < count_macs(model)


def test_more_blocks_than_there_are_is_refused(base: Any) -> None:
    with pytest.raises(ModelError, match=r"has no blocks that can be dropped \(a makes"):
        proposals(base, drop_blocks=(99,))


def test_a_network_without_channels_to_cut_says_why(digits: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = keras.Input((8, 8, 1), name="input")
    model = keras.Model(inputs, keras.layers.Dense(10, name="out")(keras.layers.Flatten()(inputs)), name="plain")
    proposed = list(make_strategy("grid", Task(model), GridOptions()).propose())
    assert names(proposed) == [["base"], ["lowrank-0.5"], ["lowrank-0.7"], ["base-int8"]]
    assert "plain has no channels that can be cut (out: it is the network's answer)" in capsys.readouterr().err


def test_proposals_are_the_same_when_a_search_is_resumed(base: Any, tmp_path: Path) -> None:
    task = Task(base, zoo=tmp_path)
    first = list(make_strategy("grid", task, GridOptions(prune=(0.5,))).propose())
    kept = tmp_path / "search" / "proposals.json"
    written = kept.stat().st_mtime_ns
    assert list(make_strategy("grid", task, GridOptions(prune=(0.5,))).propose()) == first
    assert kept.stat().st_mtime_ns == written
    others = list(make_strategy("grid", task, GridOptions(prune=(0.25,))).propose())
    assert names(others)[1] == ["pruned-0.25"]
    kept.write_bytes(b"{")
    assert list(make_strategy("grid", task, GridOptions(prune=(0.5,))).propose()) == first


def test_resumable_subnetworks_are_exits_of_which_the_whole_network_is_the_last(base: Any) -> None:
    (*_, together) = proposals(base, subnetworks=(0.3, 0.9), resumable=True)
    assert [(name, recipe.exit) for name, recipe in together.recipes.items()] == [("exit-0.3", 0.3), ("exit-1", 1.0)]
    narrow = cut(base, together.recipes["exit-0.3"])
    assert count_macs(narrow) <= 0.3 * count_macs(base)


@pytest.mark.parametrize(
    ("others", "named"),
    [({"subnetwork_budget": "size"}, "a budget of size"), ({"peak_memory": 1000}, "a limit of memory"),
     ({"order": "top-down"}, "an order of choosing"), ({"skip_blocks": True}, "skipped blocks"),
     ({"subnetwork_quantize": ("int8",), "peak_memory": 1}, "a limit of memory and other number formats")]
)  # fmt: skip
def test_what_exits_cannot_keep_to_is_refused(base: Any, others: dict[str, Any], named: str) -> None:
    with pytest.raises(UsageError, match=f"leave out {named}$"):
        proposals(base, subnetworks=(0.5,), resumable=True, **others)
