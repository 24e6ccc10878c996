"""What slices of a network take: their operators, the times of these, and the widths that are worth having."""

from __future__ import annotations

import json
from collections import Counter as Tally
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from architecture_inputs import image, waveform
from hypothesis import given
from hypothesis import strategies as st
from networks import NETWORKS, randomize

from fleetfoot.errors import DeviceError, FleetfootError, ModelError, UsageError
from profiling.local import LocalDevice
from profiling.operators import layers as builders
from profiling.operators.operator import WEIGHTED, Operator
from profiling.operators.single import read_operators
from profiling.operators.table import IDLE, OperatorTable, TimedOperator, Timing
from profiling.profile import Conditions, Profile, Target
from profiling.statistics import Effort
from zoo.architectures import ARCHITECTURES
from zoo.backend import keras
from zoo.channels import Counter, Keep, analyse, cuttable_groups, slice_model
from zoo.export import export
from zoo.latency import (
    Lowering,
    MeasuredPrices,
    PredictedPrices,
    WidthTimes,
    calibrate,
    fast_widths,
    prices_of,
    worth_having,
)
from zoo.latency.sizes import Sizes

layers = keras.layers
VERSIONS = {"runtime": "1"}
VIEWS = {"RESHAPE", "EXPAND_DIMS", "SQUEEZE"}
slow = pytest.mark.slow


def staircase_ms(operator: Operator) -> float:
    """A device that computes 4 columns at once."""
    return 0.001 * operator.macs / operator.outputs[0].shape[-1] * -(-operator.outputs[0].shape[-1] // 4)


class Listed:
    """Prices by a function, and what they were asked for."""

    call_ms = 0.5

    def __init__(self, unknown: Iterable[str] = ()) -> None:
        self.unknown = set(unknown)
        self.asked: list[Operator] = []

    def own_ms(self, operators: Iterable[Operator]) -> dict[Operator, float]:
        self.asked = list(dict.fromkeys(operators))
        return {operator: staircase_ms(operator) for operator in self.asked if operator.kind not in self.unknown}


class Bench:
    """Times files by their sizes, and counts them; a later call is on a machine that is slower."""

    def __init__(self, slowdown: float = 1.0) -> None:
        self.timed: list[int] = []
        self.slowdown = slowdown

    def __call__(self, paths: Sequence[Path]) -> list[Timing | None]:
        factor = self.slowdown if self.timed else 1.0
        self.timed.append(len(paths))
        return [Timing(path.stat().st_size * 1e-3 * factor, 3) for path in paths]


def chain_counter() -> Counter:
    return Counter(NETWORKS["chain"].random(0))


def exported(model: Any, tmp_path: Path) -> list[Operator]:
    export({"base": model}, tmp_path / "model.tflite")
    return [op for op in read_operators(tmp_path / "model.tflite", "base") if op.kind not in VIEWS]


def some_widths(model: Any) -> dict[str, int]:
    """About two thirds of the channels, not the same share of all."""
    return {name: -(-group.size * 2 // (3 + n % 2)) for n, (name, group) in enumerate(cuttable_groups(model).items())}


def slice_operators(counter: Counter, keep: Keep, numbers: str = "float32") -> list[Operator]:
    sizes = Sizes(counter.channels, keep)
    return [piece.operator(sizes, numbers) for piece in Lowering(counter).pieces]


def weighted(operators: Iterable[Operator]) -> Tally[Operator]:
    return Tally(operator for operator in operators if operator.kind in WEIGHTED)


@pytest.mark.parametrize(
    "name", ["resnet-8", "ds-cnn", *(pytest.param(name, marks=slow) for name in ("mobilenet-v2", "squeezenet"))]
)
def test_the_operators_are_those_of_the_exported_slice(name: str, tmp_path: Path) -> None:
    model = ARCHITECTURES[name](image(32), 10)
    randomize(model, 0)
    keep = some_widths(model)
    ours, theirs = slice_operators(Counter(model), keep), exported(slice_model(model, keep), tmp_path)
    assert weighted(ours)
    assert Tally(ours) == Tally(theirs)


@slow
@pytest.mark.parametrize("name", ["mobilenet-v1", "mobilenet-v3-small", "shufflenet"])
def test_gates_and_groups_are_lowered_as_the_converter_does(name: str, tmp_path: Path) -> None:
    model = ARCHITECTURES[name](image(32), 10)
    randomize(model, 0)
    keep = some_widths(model)
    ours, theirs = slice_operators(Counter(model), keep), exported(slice_model(model, keep), tmp_path)
    assert weighted(ours) == weighted(theirs)
    assert Tally(operator.kind for operator in ours) == Tally(operator.kind for operator in theirs)


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "frozen"])
def test_every_form_of_network_has_the_operators_of_its_file(name: str, tmp_path: Path) -> None:
    model = NETWORKS[name].random(0)
    keep = some_widths(model)
    ours, theirs = slice_operators(Counter(model), keep), exported(slice_model(model, keep), tmp_path)
    assert weighted(ours) == weighted(theirs)
    assert Tally(operator.kind for operator in ours) == Tally(operator.kind for operator in theirs)


def odd_forms() -> Any:
    """Dilation, blocks, several channels of each, strides that differ, activations that are not fused."""
    inputs = keras.Input((12, 12, 3), name="input")
    x = layers.Conv2D(8, 3, dilation_rate=2, padding="same", activation="hard_silu", name="dilated")(inputs)
    x = layers.Conv2D(12, 3, strides=(2, 1), padding="same", activation=layers.ReLU(6.0), name="oblong")(x)
    x = layers.SeparableConv2D(8, 3, depth_multiplier=2, activation="silu", name="separable")(x)
    x = layers.BatchNormalization()(layers.ReLU()(x))
    x = layers.Concatenate()([x, layers.Maximum()([x, layers.Activation("sigmoid")(x)])])
    x = layers.GlobalMaxPooling2D()(layers.Dense(6, use_bias=False, name="rows")(x))
    return keras.Model(inputs, layers.Dense(4, activation="softmax", name="out")(x))


def test_odd_forms_have_the_operators_of_their_file(tmp_path: Path) -> None:
    model = odd_forms()
    randomize(model, 0)
    ours = slice_operators(Counter(model), some_widths(model))
    theirs = exported(slice_model(model, some_widths(model)), tmp_path)
    assert weighted(ours) == weighted(theirs)
    assert Tally(operator.kind for operator in ours) == Tally(operator.kind for operator in theirs)


def test_what_no_operator_is_known_for_is_named() -> None:
    model = ARCHITECTURES["ds-cnn"](waveform(), 10)
    lowering = Lowering(Counter(model))
    assert lowering.left_out == {"log_mel": "LogMel", "mfcc": "CosineTransform"}
    assert Tally(piece.kind for piece in lowering.pieces)["DEPTHWISE_CONV_2D"] == 4


def test_operators_are_in_the_number_format_that_is_asked_for() -> None:
    (first, *_) = slice_operators(chain_counter(), {"a": 3}, "int8")
    assert (first.numbers, first.outputs[0].shape) == ("int8", (1, 6, 6, 3))


def test_times_are_those_of_the_operators_and_of_the_call() -> None:
    counter = chain_counter()
    times = WidthTimes(counter, {"a": (2, 4, 6), "b": (5, 1)}, Listed())
    for keep in ({}, {"a": 2}, {"a": 4, "b": 1}, {"b": 5, "hidden": 7}):
        expected = 0.5 + sum(staircase_ms(operator) for operator in slice_operators(counter, keep))
        assert times.ms(keep) == pytest.approx(expected)
    assert times.ms({"a": [5, 0], "b": (3,)}) == times.ms({"a": 2, "b": 1})
    assert times.grid == {"a": (2, 4, 6), "b": (1, 5)}


def test_times_are_calibrated_by_those_of_whole_networks() -> None:
    times = WidthTimes(chain_counter(), {"a": (1, 3, 6)}, Listed())
    plain = {width: times.ms({"a": width}) for width in (1, 3, 6)}
    times.calibrate([({}, 1.2 * plain[6]), ({"a": 1}, plain[1])])
    assert times.ms({}) == pytest.approx(1.2 * plain[6])
    assert times.ms({"a": 1}) == pytest.approx(plain[1])
    assert 1 < times.ms({"a": 3}) / plain[3] < 1.2
    with pytest.raises(UsageError, match="positive"):
        times.calibrate([({}, 0.0)])
    times.calibrate([])
    assert times.ms({}) == plain[6]


def test_each_operator_is_priced_once() -> None:
    prices = Listed()
    WidthTimes(Counter(NETWORKS["shared"].random(0)), {"first": (5, 3, 5)}, prices)
    assert len(prices.asked) == len(set(prices.asked))
    assert len([operator for operator in prices.asked if operator.kind == "CONV_2D"]) == 4


def test_a_grid_of_one_width_has_one_time() -> None:
    times = WidthTimes(chain_counter(), {"a": (3,)}, Listed())
    assert times.ms({"a": 3}) > times.call_ms
    with pytest.raises(ModelError, match="no time was measured of group a with 6 channels: there is 3"):
        times.ms({})


def test_a_grid_that_asks_for_too_many_operators_is_thinned() -> None:
    counter = Counter(NETWORKS["residual"].random(0))
    grid = {"stem": range(1, 7), "first": range(1, 6)}
    prices = Listed()
    times = WidthTimes(counter, grid, prices, most=30)
    assert len(prices.asked) <= 30
    assert all(widths[0] == 1 and widths[-1] == grid[name][-1] for name, widths in times.grid.items())
    with pytest.raises(UsageError, match="vary fewer at once"):
        WidthTimes(counter, grid, prices, most=3)


def test_what_the_device_does_not_run_is_left_out_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    times = WidthTimes(chain_counter(), {}, Listed(unknown=["MEAN"]))
    assert set(times.left_out.values()) == {"MEAN"}
    assert "without the time of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("grid", "error", "message"),
    [
        ({"nowhere": (1,)}, ModelError, "no channel group 'nowhere'"),
        ({"a": (7,)}, ModelError, "group a has 6 channels"),
        ({"a": (0,)}, ModelError, "group a has 6 channels"),
        ({"out": (2,)}, ModelError, "out cannot be cut"),
        ({"a": ()}, UsageError, "group a has no widths"),
    ],
)
def test_a_grid_that_cannot_be_meant_is_refused(
    grid: Mapping[str, Sequence[int]], error: type[FleetfootError], message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        WidthTimes(chain_counter(), grid, Listed())
    assert "\n" not in str(caught.value)


def test_a_width_that_was_not_measured_is_refused() -> None:
    times = WidthTimes(chain_counter(), {"a": (2, 4, 6)}, Listed())
    with pytest.raises(ModelError, match="group a with 3 channels: there is 2, 4, 6"):
        times.ms({"a": 3})
    with pytest.raises(ModelError, match="no channel group 'x'"):
        times.ms({"x": 3})


def test_a_network_with_sizes_left_open_is_refused() -> None:
    inputs = keras.Input((None, None, 3), name="input")
    x = layers.Dense(4, name="a")(layers.GlobalAveragePooling2D()(inputs))
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    with pytest.raises(ModelError, match="no fixed shape"):
        slice_operators(Counter(model), {})


def stairs() -> Counter:
    inputs = keras.Input((4, 4, 2), name="input")
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(19, 3, name="a")(inputs))
    return Counter(keras.Model(inputs, layers.Dense(2, name="out")(x)))


class Stairs(Listed):
    """Only convolutions take time, so many for every four of their channels."""

    def own_ms(self, operators: Iterable[Operator]) -> dict[Operator, float]:
        return {op: staircase_ms(op) if op.kind == "CONV_2D" else 0.0 for op in operators}


def test_the_widths_worth_having_are_the_edges_of_the_stairs() -> None:
    assert fast_widths(stairs(), Stairs()) == {"a": (4, 8, 12, 16, 19)}
    assert fast_widths(stairs(), Stairs(), step=8) == {"a": (8, 16, 19)}
    assert fast_widths(stairs(), Stairs(), gain=0.3) == {"a": (4, 12, 19)}


def test_fast_widths_of_a_group_leave_the_others_as_they_are() -> None:
    counter = chain_counter()
    found = fast_widths(counter, Listed())
    assert set(found) == {"a", "b", "hidden"}
    for name, widths in found.items():
        assert widths[-1] == counter.channels.groups[name].size
        times = WidthTimes(counter, {name: widths}, Listed())
        assert sorted({times.ms({name: width}) for width in widths}) == [times.ms({name: width}) for width in widths]
    assert fast_widths(counter, Listed(), groups=["b"]) == {"b": found["b"]}


def test_fast_widths_that_cannot_be_meant_are_refused() -> None:
    with pytest.raises(ModelError, match="no channel group 'x'"):
        fast_widths(chain_counter(), Listed(), groups=["x"])
    with pytest.raises(UsageError, match="not every 0"):
        fast_widths(chain_counter(), Listed(), step=0)


@given(st.dictionaries(st.integers(1, 40), st.floats(0.1, 9), min_size=1))
def test_no_wider_width_is_as_fast_as_one_worth_having(times: dict[int, float]) -> None:
    chosen = worth_having(times, gain=0.0)
    assert chosen[-1] == max(times)
    for width in times:
        wider = [times[other] for other in times if other > width]
        assert (width in chosen) == all(times[width] < ms for ms in wider)


def test_operators_are_measured_once_and_kept() -> None:
    operators = [builders.fully_connected(size, size) for size in (4, 8, 16)]
    bench = Bench()
    first = MeasuredPrices("board", Conditions(), VERSIONS, bench, time_call=lambda path: 0.75)
    measured = first.own_ms(operators)
    assert list(measured) == operators
    assert first.call_ms == 0.75
    again = MeasuredPrices("board", Conditions(), VERSIONS, bench)
    assert again.own_ms(reversed(operators)) == measured
    assert again.call_ms == 0.75
    assert bench.timed == [4]


@pytest.mark.parametrize(
    ("device_id", "conditions", "versions"),
    [
        ("other", Conditions(), VERSIONS),
        ("board", Conditions(threads=2), VERSIONS),
        ("board", Conditions(), {"runtime": "2"}),
    ],
)
def test_other_circumstances_are_measured_anew(
    device_id: str, conditions: Conditions, versions: dict[str, str]
) -> None:
    bench = Bench()
    MeasuredPrices("board", Conditions(), VERSIONS, bench).own_ms([builders.fully_connected(4, 4)])
    MeasuredPrices(device_id, conditions, versions, bench).own_ms([builders.fully_connected(4, 4)])
    assert bench.timed == [2, 2]


def test_damaged_times_are_measured_anew(cache: Path) -> None:
    bench = Bench()
    MeasuredPrices("board", Conditions(), VERSIONS, bench).own_ms([builders.fully_connected(4, 4)])
    (kept,) = (cache / "widths").iterdir()
    kept.write_text("half of a ta")
    MeasuredPrices("board", Conditions(), VERSIONS, bench).own_ms([builders.fully_connected(4, 4)])
    assert bench.timed == [2, 2]
    assert len(json.loads(kept.read_text())["timings"]) == 2


def test_times_of_a_slower_hour_are_told_in_the_units_of_the_first() -> None:
    operators = [builders.fully_connected(size, size) for size in range(4, 44, 2)]
    steady = MeasuredPrices("steady", Conditions(), VERSIONS, Bench()).own_ms(operators)
    drifting = MeasuredPrices("drifting", Conditions(), VERSIONS, Bench(slowdown=3.0))
    drifting.own_ms(operators[:10])
    assert drifting.own_ms(operators) == pytest.approx(steady)


def test_what_does_not_run_alone_has_no_price() -> None:
    strange = builders.elementwise("RELU", (1, 4))
    prices = MeasuredPrices("board", Conditions(), VERSIONS, lambda paths: [Timing(0.1, 3), None])
    assert prices.own_ms([strange]) == {}
    with pytest.raises(DeviceError, match="one RESHAPE"):
        MeasuredPrices("dead", Conditions(), VERSIONS, lambda paths: [None for _ in paths]).own_ms([strange])


def table() -> OperatorTable:
    timed = [builders.fully_connected(size, size) for size in range(8, 40, 4)]
    timings = [TimedOperator(operator=op, ms=0.1 + op.macs * 1e-6, runs=3) for op in (IDLE, *timed)]
    return OperatorTable(
        device_id="far", threads=1, created="", versions={}, overhead_ms=0.1, call_ms=0.2, timings=timings
    )


def test_devices_that_measure_no_operators_of_ones_choice_tell_a_table() -> None:
    class Far:
        def operator_table(self, conditions: Conditions) -> OperatorTable:
            return table()

    prices = prices_of(Far())  # type: ignore[arg-type]
    assert isinstance(prices, PredictedPrices)
    known, strange = builders.fully_connected(8, 8), builders.elementwise("TANH", (1, 4))
    assert prices.own_ms([known, strange]) == {known: pytest.approx(64e-6)}
    assert prices.call_ms == 0.2


class Hasty(LocalDevice):
    """This machine, looking at networks for a moment only."""

    def measure(self, targets: Sequence[Target], **options: Any) -> Profile:
        return super().measure(targets, **(options | {"effort": Effort(min_runs=20, max_seconds=0.2)}))


def test_this_machine_measures_a_small_network() -> None:
    counter = chain_counter()
    prices = prices_of(Hasty())
    times = WidthTimes(counter, {"a": (2, 6)}, prices)
    assert 0 < times.call_ms <= times.ms({"a": 2})
    assert not times.left_out


def test_whole_networks_that_are_measured_calibrate_the_times() -> None:
    model = keras.Sequential([keras.Input((16, 16, 3)), keras.layers.Conv2D(32, 3, name="a"),
                              keras.layers.Flatten(), keras.layers.Dense(2, name="out")])  # fmt: skip
    channels = analyse(model)
    device = Hasty()
    times = WidthTimes(Counter(channels), {"a": (8, 32)}, prices_of(device))
    told = times.ms({})
    calibrate(times, channels, device, [{"a": 32}, {"a": 8}])
    assert 0 < times.ms({"a": 8}) < times.ms({"a": 32})
    assert told / 5 < times.ms({}) < 5 * told
