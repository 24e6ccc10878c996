"""The ranks that keep most within a cost: what they are said to cost, they cost."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
from networks import randomize

from fleetfoot.errors import ModelError, UsageError
from profiling.operators.operator import Operator
from zoo.backend import keras
from zoo.cost import count_macs
from zoo.latency import operators_of
from zoo.lowrank import RankChoices, decompose
from zoo.lowrank.factors import kept_energy
from zoo.lowrank.ranks import Wanted

layers = keras.layers


def network() -> Any:
    """With all kinds of layers that can be decomposed, some that cannot, and one that is called twice."""
    inputs = keras.Input((12, 10, 8), name="input")
    twice = layers.Conv2D(32, 3, padding="same", groups=2, name="twice")
    x = layers.Conv2D(32, 3, strides=2, padding="same", activation="relu", name="a")(inputs)
    x = twice(layers.ReLU()(twice(x)))
    x = layers.DepthwiseConv2D(3, name="depthwise")(x)
    x = layers.Conv2D(48, 1, name="point")(x)
    x = layers.Conv2D(24, (2, 3), name="b")(x)
    x = layers.Dense(64, name="hidden")(layers.Flatten()(x))
    model = keras.Model(inputs, layers.Dense(10, name="out")(x), name="mixed")
    randomize(model, 0)
    return model


@pytest.fixture(scope="module")
def model() -> Any:
    return network()


@pytest.fixture(scope="module")
def choices(model: Any) -> RankChoices:
    return RankChoices(model)


@pytest.mark.parametrize("share", [1.0, 0.7, 0.3])
def test_the_share_is_what_the_decomposed_network_really_costs(model: Any, choices: RankChoices, share: float) -> None:
    chosen = choices.within(share)
    assert chosen.share <= share
    assert chosen.share == count_macs(decompose(model, chosen.ranks)) / count_macs(model)


def test_more_cost_keeps_more(choices: RankChoices) -> None:
    kept = [sum(np.log(list(choices.within(share).energy.values()))) for share in (0.15, 0.3, 0.5, 0.8, 1.0)]
    assert kept == sorted(kept)


def test_each_layer_that_can_be_decomposed_has_its_energy(model: Any, choices: RankChoices) -> None:
    chosen = choices.within(0.4)
    assert list(chosen.energy) == ["a", "twice", "point", "b", "hidden", "out"]
    assert chosen.ranks.keys() <= chosen.energy.keys()
    for name, layer_rank in chosen.ranks.items():
        layer = model.get_layer(name)
        kept = kept_energy(layer.kernel.numpy(), layer_rank.scheme, groups=getattr(layer, "groups", 1))
        at = tuple(np.atleast_1d(np.subtract(layer_rank.rank, 1)))
        assert chosen.energy[name] == pytest.approx(float(kept[at]))
    assert {chosen.energy[name] for name in chosen.energy.keys() - chosen.ranks.keys()} <= {1.0}


@pytest.mark.parametrize("scheme", ["spatial", "channel", "tucker"])
def test_a_scheme_is_that_of_all_convolutions(model: Any, scheme: Wanted) -> None:
    by_scheme = RankChoices(model, scheme=scheme)
    chosen = by_scheme.within(min(1.0, by_scheme.least + 0.01)).ranks
    assert {chosen[name].scheme for name in ("a", "twice", "b")} == {scheme}
    assert {chosen[name].scheme for name in ("point", "hidden", "out") if name in chosen} <= {"channel", "dense"}
    assert "hidden" in chosen


def test_of_all_schemes_the_best_are_at_least_as_good_as_one(model: Any, choices: RankChoices) -> None:
    spatial = RankChoices(model, scheme="spatial").within(0.5).energy.values()
    assert sum(np.log(list(choices.within(0.5).energy.values()))) >= sum(np.log(list(spatial))) - 1e-9


def test_ranks_are_multiples(model: Any) -> None:
    def numbers(choices: RankChoices) -> list[int]:
        ranks = [layer_rank.rank for layer_rank in choices.within(0.3).ranks.values()]
        return [number for rank in ranks for number in (rank if isinstance(rank, tuple) else (rank,))]

    fulls = {8, 10, 16, 24, 32, 48, 64}  # of which there is no higher multiple
    assert all(number % 5 == 0 or number in fulls for number in numbers(RankChoices(model, multiple=5)))
    assert any(number % 4 for number in numbers(RankChoices(model, multiple=1)))


def test_the_least_share_can_be_had_and_no_less(model: Any, choices: RankChoices) -> None:
    least = choices.least
    chosen = choices.within(least)
    assert chosen.share == pytest.approx(least)
    with pytest.raises(ModelError, match=r"no ranks bring mixed to .* of its cost: the least possible is") as error:
        choices.within(least * 0.99)
    told = re.search(r"is ([\d.]+), a ratio of ([\d.]+)", str(error.value))
    assert told is not None
    for share in (float(told[1]), 1 / float(told[2])):
        assert least <= share < least * 1.05
        assert choices.within(share).ranks


@pytest.mark.parametrize("share", [0, -1, 1.001, float("nan")])
def test_a_share_that_cannot_be_meant_is_refused(choices: RankChoices, share: float) -> None:
    with pytest.raises(UsageError, match=r"share to keep must be above 0 and at most 1"):
        choices.within(share)


def test_with_nothing_to_decompose_it_says_what_there_is() -> None:
    inputs = keras.Input((9, 9, 3), name="input")
    model = keras.Model(inputs, layers.DepthwiseConv2D(3, name="only")(inputs), name="thin")
    with pytest.raises(ModelError, match=r"thin has nothing to decompose: .*only \(DepthwiseConv2D\)"):
        RankChoices(model)


def test_a_size_that_is_left_open_has_no_cost() -> None:
    inputs = keras.Input((None, None, 3), name="input")
    model = keras.Model(inputs, layers.Conv2D(8, 3, name="open")(inputs))
    with pytest.raises(ModelError, match="give the input a size"):
        RankChoices(model)


def test_inputs_tell_what_of_a_layer_is_needed() -> None:
    inputs = keras.Input((64,), name="input")
    model = keras.Model(inputs, layers.Dense(64, name="only")(inputs))
    randomize(model, 0)
    random = np.random.default_rng(0)
    x = (random.normal(size=(300, 8)) @ random.normal(size=(8, 64))).astype(np.float32)  # of rank 8
    blind, seeing = RankChoices(model).within(0.25), RankChoices(model, x=x).within(0.25)
    assert blind.ranks == seeing.ranks
    assert blind.energy["only"] < 0.5
    assert seeing.energy["only"] > 0.99


class Stairs:
    """A device that computes 32 columns at once, and says no more than that of what it runs."""

    call_ms = 0.25

    def own_ms(self, operators: Iterable[Operator]) -> dict[Operator, float]:
        return {operator: self.one(operator) for operator in operators}

    def one(self, operator: Operator) -> float:
        columns = operator.outputs[0].shape[-1]
        return 1e-5 * operator.macs / columns * -(-columns // 32) * 32 + 1e-4

    def network(self, model: Any) -> float:
        return self.call_ms + sum(self.one(operator) for operator in operators_of(model))


def test_with_prices_it_is_milliseconds_that_are_limited(model: Any) -> None:
    prices = Stairs()
    timed = RankChoices(model, prices=prices)
    for share in (0.6, 1.0):
        chosen = timed.within(share)
        ms = prices.network(decompose(model, chosen.ranks))
        assert chosen.share <= share * (1 + 1e-9)
        assert ms / prices.network(model) == pytest.approx(chosen.share, rel=1e-6)


def test_what_gets_no_faster_stays_whole() -> None:
    inputs = keras.Input((8, 8, 32), name="input")
    model = keras.Model(inputs, layers.Conv2D(32, 1, name="point")(inputs))
    randomize(model, 0)
    choices = RankChoices(model, prices=Stairs())  # 32 columns twice take longer than once
    assert choices.least == 1
    assert choices.within(1.0).ranks == {}
