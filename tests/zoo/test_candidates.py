from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fleetfoot.errors import FleetfootError, ModelError, UsageError
from profiling.invoke import Model
from zoo.backend import keras
from zoo.batches import TrainingData
from zoo.candidates import Bench, base_path, cut, make_candidate, make_networks, variant_id
from zoo.catalog import Zoo
from zoo.datasets import Dataset, split_indices
from zoo.recipe import LayerRank, Recipe, Training
from zoo.search.strategy import Proposal
from zoo.subnetworks import read_order, write_order


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, base_file: Path, digits: Dataset) -> Bench:
    zoo = tmp_path_factory.mktemp("bench")
    base_path(zoo).parent.mkdir()
    base_path(zoo).write_bytes(base_file.read_bytes())
    data = TrainingData.of(digits, split_indices(digits, 0))
    return Bench.open(zoo, dataclasses.replace(data, train=data.train[:64]))


def proposal(**recipes: Recipe) -> Proposal:
    return Proposal(recipes=recipes)


def test_a_candidate_is_exported_and_measured(bench: Bench) -> None:
    recipe = Recipe(keep={"conv1": tuple(range(0, 32, 2))}, ranks={"conv2": LayerRank(scheme="spatial", rank=8)})
    (variant,) = make_candidate(bench, proposal(small=recipe)).variants
    assert variant.id == variant.signature == variant_id("small", recipe)
    assert variant.file == f"variants/{variant.id}.tflite"
    network = cut(bench.base, recipe)
    assert variant.parameters == network.count_params()
    answers = network.predict(bench.data.x_tune, verbose=0).argmax(axis=1)
    assert variant.accuracy == {"tune": pytest.approx((answers == bench.data.y_tune).mean())}
    assert Model(bench.zoo / variant.file).signatures == (variant.id,)


def test_what_is_low_rank_is_fitted_to_what_the_whole_answers(bench: Bench) -> None:
    ranks = {"conv2": LayerRank(scheme="spatial", rank=8)}
    x = bench.data.x_tune
    wanted = bench.base.predict(x, verbose=0)
    (plain,) = make_networks(bench, {"small": Recipe(ranks=ranks)}).values()
    (fitted,) = make_networks(bench, {"small": Recipe(ranks=ranks, training=Training(epochs=0))}).values()
    errors = [float(np.square(network.predict(x, verbose=0) - wanted).mean()) for network in (plain, fitted)]
    assert errors[1] < errors[0]


def test_the_empty_recipe_is_the_base_model(bench: Bench) -> None:
    network = cut(bench.base, Recipe())
    for one, other in zip(network.get_weights(), bench.base.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_fine_tuning_is_repeatable_and_leaves_the_base_model_alone(bench: Bench) -> None:
    before = bench.base.get_weights()
    recipe = Recipe(keep={"conv1": 8}, training=Training(epochs=1, teacher="base", seed=3))
    first, again = (make_networks(bench, {"small": recipe})["small"].get_weights() for _ in range(2))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not np.array_equal(first[0], cut(bench.base, recipe).get_weights()[0])
    for one, two in zip(bench.base.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, two)


def test_only_a_nested_family_is_made_together(bench: Bench) -> None:
    with pytest.raises(UsageError, match="only the subnetworks of one order are made together"):
        make_networks(bench, {"a": Recipe(keep={"conv1": 8}), "b": Recipe(keep={"conv1": 16})})


def test_a_subnetwork_is_a_prefix(bench: Bench) -> None:
    order = write_order(bench.zoo, {"conv1": list(range(32))})
    with pytest.raises(UsageError, match="keeps a prefix of each channel group: give its length"):
        make_networks(bench, {"a": Recipe(order=order, keep={"conv1": (0, 1)})})


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(keep={"conv9": 8}),
        Recipe(keep={"conv1": 64}),
        Recipe(keep={"probabilities": 5}),
        Recipe(ranks={"conv1": LayerRank(scheme="dense", rank=8)}),
        Recipe(ranks={"conv1": LayerRank(scheme="spatial", rank=10_000)}),
    ],
    ids=lambda recipe: msgspec.json.encode(recipe).decode(),
)
def test_a_recipe_that_does_not_fit_the_base_model_is_refused(bench: Bench, recipe: Recipe) -> None:
    with pytest.raises(ModelError):
        make_candidate(bench, proposal(strange=recipe))
    assert not list(bench.zoo.glob("variants/strange*"))


@pytest.mark.parametrize(
    "recipe", [Recipe(drop=("block1",)), Recipe(build={"name": "digits-cnn", "width": 8})], ids=["drop", "build"]
)
def test_what_no_version_can_make_yet_is_refused_rather_than_left_out(bench: Bench, recipe: Recipe) -> None:
    with pytest.raises(FleetfootError):
        cut(bench.base, recipe)


def test_subnetworks_in_two_number_formats_are_trained_once(bench: Bench) -> None:
    order = write_order(bench.zoo, {"conv1": list(range(32))})
    training = Training(epochs=1, jointly=(0.5, 1.0))
    recipes = {
        name: Recipe(order=order, keep={"conv1": width}, training=training, quantize=quantize)
        for name, width, quantize in (
            ("half", 16, None), ("whole", 32, None), ("half-int8", 16, "int8"), ("whole-int8", 32, "int8"),
        )
    }  # fmt: skip
    networks = make_networks(bench, recipes)
    assert networks["half"] is networks["half-int8"]
    assert networks["half"] is not networks["whole"]
    half, whole, small, _ = make_candidate(bench, Proposal(recipes=recipes)).variants
    assert half.file == whole.file != small.file
    assert half.size > small.size


def test_ranks_of_a_subnetwork_are_made_or_refused(bench: Bench) -> None:
    order = write_order(bench.zoo, {"conv1": list(range(32))})
    recipe = Recipe(order=order, keep={"conv1": 8}, ranks={"conv2": LayerRank(scheme="spatial", rank=8)})
    try:
        network = make_networks(bench, {"a": recipe})["a"]
    except FleetfootError:
        return
    assert network.get_layer("conv2_rank")


def test_orders_are_read_from_their_file(finished_zoo: Path) -> None:
    orders = {variant.recipe.order for variant in Zoo.open(finished_zoo).manifest.variants} - {None}
    (file,) = orders
    order = read_order(finished_zoo, str(file))
    assert order.keys() == {"conv0", "conv1", "conv2", "conv3", "hidden"}
    assert sorted(order["conv1"]) == list(range(32))


def test_a_quantised_candidate_is_calibrated_with_tune_inputs_only(bench: Bench) -> None:
    x = bench.data.dataset.x.copy()
    x[bench.data.train] = np.nan
    unseen = dataclasses.replace(bench.data, dataset=dataclasses.replace(bench.data.dataset, x=x))
    (variant,) = make_candidate(bench._replace(data=unseen), proposal(small=Recipe(quantize="int8"))).variants
    assert variant.accuracy["tune"] > 0.5
    assert keras.saving.load_model(base_path(bench.zoo), compile=False).count_params() == variant.parameters


def test_exits_are_made_together_and_go_on_from_each_other(bench: Bench) -> None:
    training = Training(epochs=1, jointly=(0.3, 1.0))
    recipes = {f"exit-{share:g}": Recipe(exit=share, training=training) for share in (0.3, 1.0)}
    early, whole = make_candidate(bench, Proposal(recipes=recipes)).variants
    assert early.file == whole.file
    assert (early.resumes, whole.resumes) == (None, early.id)
    assert early.macs
    assert whole.macs
    assert early.macs <= 0.3 * whole.macs
    model = Model(bench.zoo / whole.file)
    assert set(model.signatures) == {early.id, f"{early.id}/begin", whole.id, f"{whole.id}/go-on"}
    with pytest.raises(UsageError, match="early exits are of the base model as it is"):
        make_candidate(bench, Proposal(recipes=recipes | {"other": Recipe(keep={"conv1": 8}, training=training)}))
    with pytest.raises(UsageError, match="made together with the whole network"):
        make_candidate(bench, Proposal(recipes={"alone": recipes["exit-0.3"]}))
    with pytest.raises(UsageError, match="trained together: give them one training"):
        make_candidate(bench, Proposal(recipes=recipes | {"exit-1": Recipe(exit=1.0)}))
