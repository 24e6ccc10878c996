"""What subnetworks cost by tables is what their networks cost when they are built."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from networks import NETWORKS
from random_networks import random_network

from fleetfoot.errors import ModelError, UsageError
from profiling.operators.operator import Operator
from zoo.backend import keras
from zoo.blocks import drop_blocks, droppable_blocks
from zoo.channels import Channels, Counter, analyse, slice_model
from zoo.cost import count_macs
from zoo.latency import WidthTimes
from zoo.memory import peak_activation_bytes
from zoo.subnetworks.costs import (
    Costs,
    count_costs,
    memory_terms,
    peak_bytes,
    time_costs,
    width_choices,
)
from zoo.subnetworks.skipping import skippable_blocks, widths_without

layers = keras.layers
CHANNELS = {name: analyse(network.build()) for name, network in NETWORKS.items()}


class Priced:
    """Prices by the size of what is computed."""

    call_ms = 0.02

    def own_ms(self, operators: Iterable[Operator]) -> dict[Operator, float]:
        return {operator: 0.001 + 1e-4 * operator.macs for operator in operators}


def drawn_widths(grid: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, int]:
    random = np.random.default_rng(seed)
    return {name: int(random.choice(widths)) for name, widths in grid.items()}


def residual_blocks() -> Any:
    """Like ResNet-8: blocks with the input beside the arm, and with a convolution there."""
    inputs = keras.Input((8, 8, 3), name="input")
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(4, 3, padding="same", name="stem")(inputs)))
    for number, (filters, stride) in enumerate(((4, 1), (6, 2), (6, 1)), start=1):
        arm = layers.Conv2D(filters, 3, strides=stride, padding="same", name=f"first{number}")(x)
        arm = layers.ReLU()(layers.BatchNormalization()(arm))
        arm = layers.BatchNormalization()(layers.Conv2D(filters, 3, padding="same", name=f"second{number}")(arm))
        if stride > 1:
            x = layers.Conv2D(filters, 1, strides=stride, padding="same", name=f"beside{number}")(x)
        x = layers.ReLU()(layers.Add(name=f"sum{number}")([arm, x]))
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(x)))


def inverted_residuals() -> Any:
    """Like MobileNet: an expansion, a depthwise convolution, gates in the second block, a projection."""
    inputs = keras.Input((8, 8, 3), name="input")
    x = layers.Conv2D(4, 3, padding="same", name="stem")(inputs)
    for number in (1, 2):
        arm = layers.ReLU(6.0)(layers.BatchNormalization()(layers.Conv2D(6, 1, name=f"expand{number}")(x)))
        arm = layers.DepthwiseConv2D(3, padding="same", name=f"depthwise{number}")(arm)
        if number == 2:
            gate = layers.GlobalAveragePooling2D(keepdims=True)(arm)
            gate = layers.Conv2D(3, 1, activation="relu", name="squeeze")(gate)
            arm = layers.Multiply()([arm, layers.Conv2D(6, 1, activation="sigmoid", name="excite")(gate)])
        arm = layers.BatchNormalization()(layers.Conv2D(4, 1, name=f"project{number}")(arm))
        x = layers.Add(name=f"sum{number}")([x, arm])
    return keras.Model(inputs, layers.Dense(4, name="out")(layers.GlobalAveragePooling2D()(x)))


IN_BLOCKS = {"residual": analyse(residual_blocks()), "inverted": analyse(inverted_residuals())}


def with_blocks(channels: Channels, seed: int) -> tuple[dict[str, int], list[str], Any]:
    """Widths of which some blocks have none, these blocks, and the network that they mean."""
    costs = count_costs(channels, "macs", step=1, skip_blocks=True)
    random = np.random.default_rng(seed)
    skipped = [name for name in costs.inner if random.random() < 0.5]
    widths = {name: max(1, width) for name, width in drawn_widths(costs.grid, seed).items()}
    widths |= {name: 0 for block in skipped for name in costs.inner[block]}
    shorter = drop_blocks(channels.model, skipped) if skipped else channels.model
    return widths, skipped, slice_model(shorter, widths_without(channels, shorter, widths))


@pytest.mark.parametrize("name", NETWORKS)
@given(seed=st.integers(0, 10**6), step=st.integers(1, 3))
@settings(max_examples=10, deadline=None)
def test_counted_costs_are_those_of_the_slice_whatever_the_widths(name: str, seed: int, step: int) -> None:
    channels = CHANNELS[name]
    counter = Counter(channels)
    macs, size = (count_costs(channels, unit, step=step) for unit in ("macs", "size"))  # type: ignore[arg-type]
    widths = drawn_widths(macs.grid, seed)
    assert macs.of_widths(widths) == counter.macs(widths)
    assert size.of_widths(widths) == 4 * counter.parameters(widths)
    assert (macs.whole, size.whole) == (counter.macs({}), 4 * counter.parameters({}))


@given(data=st.data(), seed=st.integers(0, 10**6))
@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
def test_counted_costs_are_exact_for_random_networks(data: st.DataObject, seed: int) -> None:
    channels = analyse(random_network(data.draw))
    if not channels.cuttable:
        return
    macs = count_costs(channels, "macs")
    size = count_costs(channels, "size", bytes_per_parameter=1)
    widths = drawn_widths(macs.grid, seed)
    assert macs.of_widths(widths) == Counter(channels).macs(widths)
    assert size.of_widths(widths) == Counter(channels).parameters(widths)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "frozen"])
@given(seed=st.integers(0, 10**6))
@settings(max_examples=3, deadline=None)
def test_peak_memory_is_that_of_the_slice(name: str, seed: int) -> None:
    costs = count_costs(CHANNELS[name], "macs", step=1)
    widths = drawn_widths(costs.grid, seed)
    sliced = slice_model(CHANNELS[name], widths)
    assert peak_bytes(costs, widths) == peak_activation_bytes(sliced)
    assert peak_bytes(costs, widths, 1) == peak_activation_bytes(sliced, 1)


@pytest.mark.parametrize("name", ["chain", "residual", "concatenate"])
def test_what_needs_too_much_memory_costs_infinitely(name: str) -> None:
    costs = count_costs(CHANNELS[name], "macs", step=2)
    peaks = {}
    for chosen in itertools.product(*(range(len(widths)) for widths in costs.grid.values())):
        widths = {name: own[place] for (name, own), place in zip(costs.grid.items(), chosen, strict=True)}
        peaks[chosen] = peak_bytes(costs, widths)
    cap = int(np.median(list(peaks.values())))
    terms = memory_terms(costs, costs.grid, cap)
    for chosen, peak in peaks.items():
        total = sum(float(term.cost[tuple(chosen[variable] for variable in term.on)]) for term in terms)
        assert total == (np.inf if peak > cap else 0)
    with pytest.raises(ModelError, match=f"the least possible is {min(peaks.values())} bytes"):
        memory_terms(costs, costs.grid, min(peaks.values()) - 1)
    assert memory_terms(costs, costs.grid, max(peaks.values())) == []


def timed(channels: Channels, step: int = 2) -> WidthTimes:
    return WidthTimes(Counter(channels), width_choices(channels, step), Priced())


@pytest.mark.parametrize("name", ["chain", "residual", "separable", "gate"])
@pytest.mark.parametrize("calibrated", [False, True])
def test_times_are_those_of_the_slice(name: str, calibrated: bool) -> None:
    channels = CHANNELS[name]
    times = timed(channels)
    if calibrated:
        narrow = {group: widths[0] for group, widths in times.grid.items()}
        times.calibrate([({}, 3 * times.ms({})), (narrow, times.ms(narrow))])
    costs = time_costs(channels, times)
    assert (costs.calibration is not None) == calibrated
    for seed in range(20):
        widths = drawn_widths(costs.grid, seed)
        assert costs.of_widths(widths) == pytest.approx(times.ms(widths), rel=1e-12)


def test_times_of_some_groups_leave_the_others_whole() -> None:
    channels = CHANNELS["chain"]
    times = WidthTimes(Counter(channels), {"a": (2, 6)}, Priced())
    assert time_costs(channels, times).grid == {"a": (2, 6), "b": (5,), "hidden": (7,)}
    with pytest.raises(UsageError, match="no time of group a with all its channels"):
        time_costs(channels, WidthTimes(Counter(channels), {"a": (2, 4)}, Priced()))


def test_widths_that_are_not_in_the_grid_are_refused() -> None:
    with pytest.raises(ModelError, match="group a has no 3 channels among the widths to choose from: there is 2, 4, 6"):
        count_costs(CHANNELS["chain"], "macs", step=2).of_widths({"a": 3})


def test_blocks_with_groups_of_their_own_can_be_skipped() -> None:
    assert skippable_blocks(IN_BLOCKS["residual"]) == {"sum1": ("first1",), "sum2": ("first2",), "sum3": ("first3",)}
    assert skippable_blocks(IN_BLOCKS["inverted"]) == {"sum1": ("expand1",), "sum2": ("expand2", "squeeze")}
    assert skippable_blocks(CHANNELS["chain"]) == {}


@pytest.mark.parametrize("name", IN_BLOCKS)
@given(seed=st.integers(0, 10**6))
@settings(max_examples=8, deadline=None)
def test_costs_without_blocks_are_those_of_the_network_without_them(name: str, seed: int) -> None:
    channels = IN_BLOCKS[name]
    widths, _, network = with_blocks(channels, seed)
    macs, size = (count_costs(channels, unit, step=1, skip_blocks=True) for unit in ("macs", "size"))  # type: ignore[arg-type]
    assert macs.of_widths(widths) == count_macs(network)
    assert size.of_widths(widths) == 4 * network.count_params()
    assert peak_bytes(macs, widths) >= peak_activation_bytes(network)


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_groups_of_one_block_are_empty_together(name: str) -> None:
    costs = count_costs(IN_BLOCKS[name], "macs", skip_blocks=True)
    for inner in costs.inner.values():
        for group in inner[1:]:
            assert costs.of_widths({group: 0}) == np.inf


@pytest.mark.parametrize("name", IN_BLOCKS)
def test_the_time_without_a_block_lacks_the_operators_of_its_layers(name: str) -> None:
    channels = IN_BLOCKS[name]
    times = timed(channels)
    costs = time_costs(channels, times, skip_blocks=True)
    parts = times.parts()
    for block, inner in costs.inner.items():
        lost = count_costs(channels, "macs", skip_blocks=True).whole - count_macs(drop_blocks(channels.model, [block]))
        without = costs.of_widths(dict.fromkeys(inner, 0))
        assert costs.whole - without > 0
        assert costs.whole - without == pytest.approx(
            1e-4 * lost + 0.001 * _operators_in(costs, parts, block), rel=1e-6
        )


def _operators_in(costs: Costs, parts: Any, block: str) -> int:
    inside = droppable_blocks(costs.channels.model)[block].layers
    return sum(part.layer in inside for part in parts)


def test_choices_are_multiples_and_all_channels() -> None:
    wide = keras.Sequential([keras.Input((4,)), layers.Dense(130, name="wide"), layers.Dense(7, name="few"),
                             layers.Dense(2, name="out")])  # fmt: skip
    assert width_choices(wide, 4) == {"wide": (*range(4, 130, 4), 130), "few": (4, 7)}
    assert width_choices(wide) == {"wide": (*range(3, 130, 3), 130), "few": tuple(range(1, 8))}
    assert width_choices(wide, 8)["few"] == (7,)
    with pytest.raises(UsageError, match="multiples of one or more channels"):
        width_choices(wide, 0)
    with pytest.raises(ModelError, match="no channels that can be cut"):
        width_choices(keras.Sequential([keras.Input((4,)), layers.Dense(2)]))
