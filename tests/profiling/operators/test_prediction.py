from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest

from fleetfoot.errors import DeviceError
from profiling.operators import layers
from profiling.operators.costs import nonnegative_least_squares
from profiling.operators.design import design
from profiling.operators.operator import Operator
from profiling.operators.prediction import Predictor, predict
from profiling.operators.single import SIGNATURE, read_operators
from profiling.operators.table import IDLE, OperatorTable, Timing, measure_table, time_operators
from profiling.operators.timing import time_models

OVERHEAD_MS = 0.01


def staircase_ms(operator: Operator) -> float:
    """A device whose kernels compute 4 rows and 16 columns of a matrix product at once."""
    if operator.weights is None:
        return OVERHEAD_MS + 2e-7 * operator.bytes
    columns = operator.outputs[0].shape[-1]
    rows = operator.outputs[0].size / columns
    products = operator.macs / rows / columns
    padded = math.ceil(rows / 4) * 4 * math.ceil(columns / 16) * 16
    return OVERHEAD_MS + padded * products * 2e-8 + 1e-7 * operator.bytes


def staircase(paths: Sequence[Path]) -> list[Timing | None]:
    """Times models of one operator on that device."""
    return [Timing(staircase_ms(read_operators(path, SIGNATURE)[0]), 5) for path in paths]


def table_of(operators: Sequence[Operator]) -> OperatorTable:
    return measure_table(operators, staircase, device_id="staircase", threads=1, versions={"device": "1"})


@pytest.fixture(scope="module")
def table() -> OperatorTable:
    return table_of([operator for operator in design(("float32",)) if operator.kind in ("CONV_2D", "ADD")])


@pytest.fixture(scope="module")
def predictor(table: OperatorTable) -> Predictor:
    return Predictor(table)


def test_a_table_is_read_as_it_was_written(tmp_path: Path, table: OperatorTable) -> None:
    table.write(tmp_path / "table.json")
    read = OperatorTable.read(tmp_path / "table.json")
    assert msgspec.structs.replace(read, schema_version=0) == table
    assert read.overhead_ms == staircase_ms(IDLE)


def test_what_a_device_does_not_run_is_not_in_its_table() -> None:
    def without_int8(paths: Sequence[Path]) -> list[Timing | None]:
        operators = [read_operators(path, SIGNATURE)[0] for path in paths]
        return [None if operator.numbers == "int8" else Timing(1.0, 1) for operator in operators]

    both = [layers.convolution(4, 4, 4), layers.convolution(4, 4, 4, numbers="int8")]
    table = measure_table(both, without_int8, device_id="x", threads=1, versions={})
    assert [timed.operator for timed in table.timings] == [IDLE, both[0]]


def test_a_device_that_runs_nothing_is_an_error() -> None:
    with pytest.raises(DeviceError, match="does not run a model of one RESHAPE"):
        measure_table([], lambda paths: [None] * len(paths), device_id="x", threads=1, versions={})


def test_the_time_of_operators_in_the_table_is_the_measured_one(table: OperatorTable) -> None:
    operators = [timed.operator for timed in table.timings if timed.operator != IDLE][:7]
    prediction = predict(table, [*operators, operators[0]])
    expected = [staircase_ms(operator) - table.overhead_ms for operator in (*operators, operators[0])]
    assert prediction.operator_ms == pytest.approx(expected)
    assert prediction.ms == pytest.approx(table.overhead_ms + sum(expected))
    assert prediction.measured_share == pytest.approx(1)
    assert prediction.unpriced == ()


def test_the_time_of_others_is_told_within_a_few_percent(predictor: Predictor) -> None:
    generator = np.random.default_rng(1)
    network = [
        layers.convolution(int(size), int(channels), int(filters), kernel)
        for size, channels, filters in generator.integers((4, 8, 8), (40, 100, 100), (30, 3))
        for kernel in (1, 3)
    ]
    prediction = predictor.predict(network)
    actual = [staircase_ms(operator) for operator in network]
    told = np.array(prediction.operator_ms, float) + OVERHEAD_MS
    assert np.abs(told / actual - 1).mean() < 0.05
    assert prediction.ms == pytest.approx(sum(actual) - (len(actual) - 1) * OVERHEAD_MS, rel=0.03)
    assert prediction.measured_share < 0.01
    assert 0.02 < prediction.expected_error < 0.1


def test_the_staircase_is_found(predictor: Predictor) -> None:
    at, above, far = (
        predictor.predict([layers.convolution(16, 64, filters, 3)]).ms for filters in (48, 49, 64)
    )  # fmt: skip
    assert above / at == pytest.approx(64 / 48, rel=0.05)
    assert far / above == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize("what", ["size", "channels", "filters", "kernel"])
def test_much_more_work_takes_longer(predictor: Predictor, what: str) -> None:
    little = {"size": 8, "channels": 16, "filters": 16, "kernel": 1}
    sizes = [8, 24, 48] if what != "kernel" else [1, 3, 5]
    times = [predictor.predict([layers.convolution(**{**little, what: size})]).ms for size in sizes]
    assert times == sorted(times)


def test_a_network_of_nothing_takes_the_call(predictor: Predictor) -> None:
    assert predictor.predict([]).ms == pytest.approx(staircase_ms(IDLE))
    assert predictor.predict([layers.reshape((1, 4, 4, 8), (1, 128))]).ms == pytest.approx(staircase_ms(IDLE))


def test_what_the_table_does_not_know_is_named_and_not_guessed(predictor: Predictor) -> None:
    known = layers.convolution(8, 8, 8)
    strangers = [
        layers.elementwise("TANH", (1, 8, 8, 8)),
        layers.convolution(8, 8, 8, numbers="int8"),
    ]
    prediction = predictor.predict([known, *strangers])
    assert prediction.unpriced == ("CONV_2D in int8", "TANH in float32")
    assert prediction.operator_ms[1:] == (None, None)
    assert prediction.ms == predictor.predict([known]).ms


def test_weights_of_another_use_are_not_guessed_either(predictor: Predictor) -> None:
    plain = layers.convolution(8, 8, 8)
    image, weights, bias = plain.inputs
    assert weights is not None
    computed = msgspec.structs.replace(weights, constant=False)
    narrow = msgspec.structs.replace(weights, shape=(8, 3, 3, 4))
    prediction = predictor.predict([
        msgspec.structs.replace(plain, inputs=(image, computed, bias)),
        msgspec.structs.replace(plain, inputs=(image, narrow, bias)),
    ])  # fmt: skip
    assert prediction.unpriced == ("CONV_2D in float32 (computed weights)", "CONV_2D in float32 (grouped)")


def test_fewer_operators_than_teach_anything_are_not_learned_from() -> None:
    few = table_of([layers.fully_connected(units, units) for units in (4, 8, 16)])
    assert predict(few, [layers.fully_connected(4, 4)]).unpriced == ()
    assert predict(few, [layers.fully_connected(5, 5)]).unpriced == ("FULLY_CONNECTED in float32",)


def test_the_error_to_expect_grows_away_from_what_was_measured(predictor: Predictor) -> None:
    usual = predictor.predict([layers.convolution(16, 48, 48)] * 4)
    strange = predictor.predict([layers.convolution(400, 4000, 4000)] * 4)
    assert strange.expected_error > usual.expected_error


def test_the_operators_of_a_file_are_timed_alone(tmp_path: Path, table: OperatorTable) -> None:
    from profiling.operators.single import synthesize

    operator = layers.convolution(8, 8, 8)
    synthesize(operator, tmp_path / "x.tflite")
    ((timed, ms),) = time_operators(tmp_path / "x.tflite", SIGNATURE, staircase)
    assert timed == operator
    assert ms == pytest.approx(staircase_ms(operator) - table.overhead_ms)


def test_this_machine_times_models(tmp_path: Path) -> None:
    from profiling.operators.single import synthesize

    small, large, broken = (tmp_path / f"{name}.tflite" for name in ("small", "large", "broken"))
    synthesize(layers.convolution(4, 4, 4), small)
    synthesize(layers.convolution(32, 64, 64), large)
    broken.write_bytes(b"nothing")
    fast, slow, absent = time_models([small, large, broken])
    assert fast is not None
    assert slow is not None
    assert 0 < fast.ms < slow.ms
    assert fast.runs >= 20
    assert absent is None


def test_weights_of_least_squares_are_not_negative() -> None:
    generator = np.random.default_rng(0)
    terms = generator.uniform(0, 1, (50, 4))
    true = np.array([1.0, 0.0, 2.0, 0.5])
    assert nonnegative_least_squares(terms, terms @ true) == pytest.approx(true, abs=1e-6)
    opposed = nonnegative_least_squares(terms, terms @ np.array([1.0, -1.0, 0.0, 0.0]))
    assert (opposed >= 0).all()
