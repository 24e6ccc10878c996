"""Random networks keep their function when they are reordered, and what is left of it when they are cut."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import answers, inputs_for, randomize, relative_difference, silenced
from random_networks import random_network

from zoo.channels import Counter, analyse, permute_model, slice_model
from zoo.cost import count_macs
from zoo.graph import compute_in

any_draw = given(data=st.data(), seed=st.integers(0, 2**32 - 1))
unhurried = settings(deadline=None, suppress_health_check=list(HealthCheck))


@any_draw
@settings(unhurried, max_examples=4)
def test_any_network_is_reordered_and_cut_rightly(data: st.DataObject, seed: int) -> None:
    assert_reordered_and_cut_rightly(data, seed)


@pytest.mark.slow
@any_draw
@settings(unhurried, max_examples=int(os.environ.get("FLEETFOOT_RANDOM_NETWORKS", "32")))
def test_many_networks_are_reordered_and_cut_rightly(data: st.DataObject, seed: int) -> None:
    assert_reordered_and_cut_rightly(data, seed)


def assert_reordered_and_cut_rightly(data: st.DataObject, seed: int) -> None:
    model = compute_in(random_network(data.draw), lambda layer: "float64")
    randomize(model, seed)
    channels = analyse(model)
    order = {name: data.draw(st.permutations(range(group.size))) for name, group in channels.cuttable.items()}
    x = inputs_for(model, seed).astype("float64")
    assert relative_difference(answers(permute_model(channels, order), x), answers(model, x)) < 1e-5

    kept = {name: indices[: data.draw(st.integers(1, len(indices)))] for name, indices in order.items()}
    sliced = slice_model(channels, kept)
    assert relative_difference(answers(sliced, x), answers(silenced(channels, kept), x)) < 1e-5
    counter = Counter(channels)
    assert (counter.macs(kept), counter.parameters(kept)) == (count_macs(sliced), sliced.count_params())
