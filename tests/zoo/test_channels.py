from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import NETWORKS, Network, answers, inputs_for, randomize, relative_difference

from fleetfoot.errors import ModelError
from zoo.backend import keras
from zoo.channels import channel_groups, cuttable_groups, permute_model, slice_model

layers = keras.layers
seeds = st.integers(0, 2**32 - 1)
few = settings(max_examples=3, deadline=None)
every_network = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)


@st.composite
def orders(draw: st.DrawFn, network: Network) -> dict[str, list[int]]:
    return {name: draw(st.permutations(range(size))) for name, (_, size) in network.groups.items()}


@st.composite
def kept_channels(draw: st.DrawFn, network: Network) -> dict[str, list[int]]:
    """Of some groups, some channels in any order."""
    kept = {}
    for name, order in draw(orders(network)).items():
        if draw(st.booleans()) or len(network.groups) == 1:
            kept[name] = order[: draw(st.integers(1, len(order)))]
    return kept


def shapes(model: Any) -> list[Any]:
    return [tensor.shape for tensor in [*model.inputs, *model.outputs]]


@every_network
def test_the_channels_that_belong_together_are_found(network: Network) -> None:
    groups = channel_groups(network.build())
    cuttable = {name: (list(group.producers), group.size) for name, group in groups.items() if not group.fixed}
    assert cuttable == {name: (list(producers), size) for name, (producers, size) in network.groups.items()}
    assert {name for name, group in groups.items() if group.fixed} == set(network.fixed)


@every_network
def test_the_groups_of_a_network_are_the_same_after_it_was_saved(network: Network, tmp_path: Path) -> None:
    model = network.build()
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras", compile=False)
    described = [[(g.name, g.producers, g.size, g.fixed) for g in channel_groups(m).values()] for m in (model, loaded)]
    assert described[0] == described[1]


@every_network
def test_only_groups_that_can_be_cut_are_offered(network: Network) -> None:
    assert list(cuttable_groups(network.build())) == list(network.groups)


@every_network
@given(data=st.data(), seed=seeds)
@few
def test_reordering_channels_keeps_the_function(network: Network, data: st.DataObject, seed: int) -> None:
    model = network.random(seed)
    permuted = permute_model(model, data.draw(orders(network)))
    x = inputs_for(model, seed)
    assert shapes(permuted) == shapes(model)
    assert relative_difference(answers(permuted, x), answers(model, x)) < 1e-5


@every_network
@given(data=st.data(), seed=seeds)
@few
def test_a_slice_answers_as_if_the_other_channels_were_silent(network: Network, data: st.DataObject, seed: int) -> None:
    model = network.random(seed)
    kept = data.draw(kept_channels(network))
    sliced = slice_model(model, kept)
    x = inputs_for(model, seed)
    expected = answers(network.silenced(model, kept), x)
    assert shapes(sliced) == shapes(model)
    assert relative_difference(answers(sliced, x), expected) < 1e-5


@every_network
def test_each_layer_makes_as_many_channels_as_were_kept(network: Network) -> None:
    model = network.build()
    for name, (producers, size) in network.groups.items():
        sliced = slice_model(model, {name: size - 2})
        assert {sliced.get_layer(layer).kernel.shape[-1] for layer in producers} == {size - 2}


@every_network
def test_keeping_all_channels_changes_nothing(network: Network) -> None:
    model = network.random(0)
    for keep in ({}, {name: size for name, (_, size) in network.groups.items()},
                 {name: list(range(size)) for name, (_, size) in network.groups.items()}):  # fmt: skip
        same = slice_model(model, keep)
        assert len(same.get_weights()) == len(model.get_weights())
        for kept, weight in zip(same.get_weights(), model.get_weights(), strict=True):
            np.testing.assert_array_equal(kept, weight)


@every_network
def test_reordering_twice_the_other_way_round_gives_the_network_back(network: Network) -> None:
    model = network.random(0)
    random = np.random.default_rng(0)
    order = {name: random.permutation(size).tolist() for name, (_, size) in network.groups.items()}
    back = {name: np.argsort(indices).tolist() for name, indices in order.items()}
    for restored, weight in zip(permute_model(permute_model(model, order), back).get_weights(), model.get_weights(),
                                strict=True):  # fmt: skip
        np.testing.assert_array_equal(restored, weight)


@every_network
@given(data=st.data())
@settings(max_examples=3, deadline=None)
def test_a_prefix_of_a_length_is_the_first_channels(network: Network, data: st.DataObject) -> None:
    model = network.random(0)
    lengths = {name: data.draw(st.integers(1, size)) for name, (_, size) in network.groups.items()}
    by_length = slice_model(model, lengths)
    by_index = slice_model(model, {name: list(range(length)) for name, length in lengths.items()})
    for one, other in zip(by_length.get_weights(), by_index.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@every_network
def test_slices_nest(network: Network) -> None:
    model = network.random(0)
    wide = {name: max(1, size - 1) for name, (_, size) in network.groups.items()}
    narrow = {name: max(1, size - 3) for name, (_, size) in network.groups.items()}
    at_once, in_steps = slice_model(model, narrow), slice_model(slice_model(model, wide), narrow)
    for one, other in zip(at_once.get_weights(), in_steps.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)


@every_network
def test_the_parameters_of_a_slice_are_those_of_a_network_built_that_wide(network: Network) -> None:
    model = network.random(0)
    sliced = slice_model(model, {name: max(1, size - 2) for name, (_, size) in network.groups.items()})
    rebuilt = keras.Model.from_config(sliced.get_config())
    assert sliced.count_params() == rebuilt.count_params() < model.count_params()


@every_network
def test_the_network_that_is_sliced_stays_as_it_was(network: Network) -> None:
    model = network.random(0)
    before = model.get_weights()
    sliced = slice_model(model, dict.fromkeys(network.groups, 1))
    randomize(sliced, 1)
    for weight, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, old)


def test_all_arms_of_a_residual_sum_are_one_group() -> None:
    inputs = keras.Input((6, 6, 3), name="input")
    x = layers.Conv2D(8, 3, padding="same", name="stem")(inputs)
    for block in range(3):
        arm = layers.Conv2D(4, 3, padding="same", name=f"inner{block}")(x)
        x = layers.Add()([x, layers.Conv2D(8, 3, padding="same", name=f"outer{block}")(arm)])
    model = keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(x)))
    assert channel_groups(model)["stem"].producers == ("stem", "outer0", "outer1", "outer2")
    assert list(cuttable_groups(model)) == ["stem", "inner0", "inner1", "inner2"]


def test_the_two_ways_of_a_projected_shortcut_are_one_group() -> None:
    inputs = keras.Input((6, 6, 3), name="input")
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    arm = layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2, padding="same", name="arm")(x))
    way = layers.BatchNormalization()(layers.Conv2D(8, 1, strides=2, name="way")(x))
    x = layers.Add()([arm, way])
    model = keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(x)))
    assert {frozenset(group.producers) for group in cuttable_groups(model).values()} == {
        frozenset({"stem"}),
        frozenset({"arm", "way"}),
    }


def test_the_answer_is_never_cut() -> None:
    model = NETWORKS["chain"].build()
    with pytest.raises(ModelError, match="group out cannot be cut: it is the network's answer"):
        slice_model(model, {"out": 2})


def test_what_is_added_to_the_input_is_never_cut() -> None:
    inputs = keras.Input((6, 6, 3), name="input")
    x = layers.Add(name="sum")([inputs, layers.Conv2D(3, 3, padding="same", name="a")(inputs)])
    model = keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(x)))
    with pytest.raises(ModelError, match="group a cannot be cut: sum combines it with channels that are fixed"):
        slice_model(model, {"a": 2})


def test_what_a_softmax_compares_is_never_cut() -> None:
    inputs = keras.Input((4,), name="input")
    x = layers.Dense(6, activation="softmax", name="attention")(inputs)
    model = keras.Model(inputs, layers.Dense(4, name="out")(x))
    with pytest.raises(ModelError, match="softmax"):
        slice_model(model, {"attention": 3})


@pytest.mark.parametrize("activation", ["log_softmax", "sparsemax"])
def test_what_another_activation_compares_is_never_cut(activation: str) -> None:
    inputs = keras.Input((4,), name="input")
    x = layers.Activation(activation)(layers.Dense(6, name="a")(inputs))
    y = layers.Dense(6, activation=activation, name="b")(inputs)
    model = keras.Model(inputs, layers.Dense(4, name="out")(layers.Concatenate()([x, y])))
    assert channel_groups(model)["a"].fixed
    assert channel_groups(model)["b"].fixed


def test_an_unknown_group_is_refused_naming_those_that_exist() -> None:
    with pytest.raises(ModelError, match="there is no channel group 'c': there are a, b, hidden, out"):
        slice_model(NETWORKS["chain"].build(), {"c": 2})


def test_a_layer_that_is_in_a_group_but_does_not_name_it_is_no_group() -> None:
    with pytest.raises(ModelError, match="there is no channel group 'second': there are stem, first, out"):
        slice_model(NETWORKS["residual"].build(), {"second": 2})


@pytest.mark.parametrize("chosen", [0, -1, 7, [], [0, 0], [6], [-1], [0, 1, 2, 3, 4, 5, 6]])
def test_channels_that_a_group_does_not_have_are_refused(chosen: int | list[int]) -> None:
    with pytest.raises(ModelError, match="group a has 6 channels: keep some of them, each once"):
        slice_model(NETWORKS["chain"].build(), {"a": chosen})


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4], [0, 1, 2, 3, 4, 4], [1, 2, 3, 4, 5, 6]])
def test_an_order_that_is_no_permutation_is_refused(order: list[int]) -> None:
    with pytest.raises(ModelError, match="the order of group a is no permutation of its 6 channels"):
        permute_model(NETWORKS["chain"].build(), {"a": order})


def test_an_input_without_a_name_of_its_own_is_no_hindrance() -> None:
    inputs = keras.Input((4,))
    x = layers.Dense(6, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="out")(x))
    x = inputs_for(model)
    permuted = permute_model(model, {"hidden": [5, 3, 1, 0, 2, 4]})
    assert relative_difference(answers(permuted, x), answers(model, x)) < 1e-5


def test_a_network_with_nothing_to_cut_says_why() -> None:
    inputs = keras.Input((4,), name="input")
    model = keras.Model(inputs, layers.Dense(3, name="out")(inputs), name="plain")
    with pytest.raises(ModelError, match=r"plain has no channels that can be cut \(out: it is the network's answer\)"):
        cuttable_groups(model)


def test_a_network_that_makes_no_channels_says_so() -> None:
    inputs = keras.Input((4,), name="input")
    model = keras.Model(inputs, layers.ReLU()(inputs), name="bare")
    assert channel_groups(model) == {}
    with pytest.raises(ModelError, match="no layer makes channels"):
        cuttable_groups(model)


def test_what_a_normalization_layer_learnt_outlives_cutting() -> None:
    x = np.random.default_rng(0).normal(50, 20, (200, 6)).astype(np.float32)
    scale = layers.Normalization(name="scale")
    scale.adapt(x)
    inputs = keras.Input((6,))
    hidden = layers.Dense(16, activation="relu", name="hidden")(scale(inputs))
    network = keras.Model(inputs, layers.Dense(3, activation="softmax", name="out")(hidden))
    np.testing.assert_allclose(answers(slice_model(network, {}), x), answers(network, x), atol=1e-6)
    order = {"hidden": list(range(15, -1, -1))}
    np.testing.assert_allclose(answers(permute_model(network, order), x), answers(network, x), atol=1e-5)
