"""Every kind of layer, in networks that are described by hand."""

from __future__ import annotations

import numpy as np
import pytest
from layer_networks import LAYER_NETWORKS
from networks import NETWORKS, Network, answers, inputs_for, relative_difference, silenced

from zoo.channels import Counter, analyse, permute_model, slice_model
from zoo.cost import count_macs

every_network = pytest.mark.parametrize(
    "network", (LAYER_NETWORKS | NETWORKS).values(), ids=list(LAYER_NETWORKS | NETWORKS)
)


@every_network
def test_channels_of_every_kind_of_layer_are_found_reordered_and_cut(network: Network) -> None:
    model = network.random(0)
    channels = analyse(model)
    found = {name: (list(group.producers), group.size) for name, group in channels.cuttable.items()}
    assert found == {name: (list(dict.fromkeys(producers)), size) for name, (producers, size) in network.groups.items()}
    assert {name for name, group in channels.groups.items() if group.fixed} == set(network.fixed)

    random = np.random.default_rng(1)
    x = inputs_for(model)
    order = {name: random.permutation(size).tolist() for name, (_, size) in network.groups.items()}
    assert relative_difference(answers(permute_model(channels, order), x), answers(model, x)) < 1e-5

    kept = {name: indices[: random.integers(1, len(indices))] for name, indices in order.items()}
    sliced = slice_model(channels, kept)
    expected = answers(network.silenced(model, kept), x)
    assert relative_difference(answers(sliced, x), expected) < 1e-5
    assert [output.shape for output in sliced.outputs] == [output.shape for output in model.outputs]

    counter = Counter(channels)
    assert all(counter.parameters({name: kept[name]}) < model.count_params() for name in kept)
    assert (counter.macs(kept), counter.parameters(kept)) == (count_macs(sliced), sliced.count_params())
    assert (counter.macs({}), counter.parameters({})) == (count_macs(model), model.count_params())
    if network is not LAYER_NETWORKS["unit-norm"]:  # which has no weights that would show whom it hears
        assert relative_difference(answers(silenced(channels, kept), x), expected) < 1e-5
