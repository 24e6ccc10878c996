"""The table of a device, which is measured once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from smallmodels import Product

from profiling.local import LocalDevice
from profiling.operators import layers, table
from profiling.operators.operator import Operator
from profiling.operators.prediction import with_predictions
from profiling.operators.single import SIGNATURE, read_operators, synthesize
from profiling.operators.table import OperatorTable, Timing, kept_table, measure_table
from profiling.profile import Conditions, Target
from profiling.statistics import Effort

SIZES = range(8, 40, 4)
VERSIONS = {"runtime": "1"}


@pytest.fixture(autouse=True)
def small_design(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLEETFOOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(table, "design", lambda: [dense(size, size) for size in SIZES])


def dense(features: int, units: int) -> Operator:
    return layers.fully_connected(features, units)


class Bench:
    """Times nothing, and counts how often it was asked to."""

    def __init__(self) -> None:
        self.asked = 0

    def __call__(self, paths: Sequence[Path]) -> list[Timing | None]:
        self.asked += 1
        return [Timing(0.5, 3) for _ in paths]


def test_a_table_is_measured_once_for_all_that_it_depends_on() -> None:
    bench = Bench()
    first = kept_table("board", Conditions(), VERSIONS, bench)
    again = kept_table("board", Conditions(), VERSIONS, bench)
    assert bench.asked == 1
    assert again.timings == first.timings
    for device_id, conditions, versions in (
        ("other", Conditions(), VERSIONS),
        ("board", Conditions(threads=2), VERSIONS),
        ("board", Conditions(), {"runtime": "2"}),
    ):
        before = bench.asked
        kept_table(device_id, conditions, versions, bench)
        assert bench.asked == before + 1


def test_a_damaged_table_is_measured_anew(tmp_path: Path) -> None:
    bench = Bench()
    kept_table("board", Conditions(), VERSIONS, bench)
    (kept,) = (tmp_path / "cache" / "operators").iterdir()
    kept.write_text("half of a ta")
    assert kept_table("board", Conditions(), VERSIONS, bench).device_id == "board"
    assert bench.asked == 2


def test_what_a_call_takes_is_measured_as_models_are() -> None:
    made = kept_table("board", Conditions(), VERSIONS, Bench(), time_call=lambda path: 0.75)
    assert (made.overhead_ms, made.call_ms) == (0.5, 0.75)


def test_a_profile_tells_what_was_predicted_for_what_the_table_can_price(tmp_path: Path) -> None:
    device = LocalDevice()
    targets = []
    for name, operator in (("dense", dense(20, 20)), ("pooling", layers.pooling("MAX_POOL_2D", (8, 8), 4, (2, 2), 2))):
        synthesize(operator, tmp_path / f"{name}.tflite")
        targets.append(Target(name, tmp_path / f"{name}.tflite", SIGNATURE))
    made = device.operator_table(Conditions())
    assert isinstance(made, OperatorTable)
    assert made.device_id == device.info().id
    assert made.call_ms > 0
    profile = device.measure(targets, effort=Effort(min_runs=20, max_runs=100, max_seconds=0.5))
    predicted = with_predictions(profile, targets, made)
    priced, unpriced = predicted.measurements["dense"], predicted.measurements["pooling"]
    assert priced.predicted_ms is not None
    assert priced.predicted_ms >= made.call_ms
    assert unpriced.predicted_ms is None
    assert predicted.prediction_error is not None
    assert profile.prediction_error is None


def test_nested_networks_are_predicted_each_from_its_own_operators(products: dict[str, Product]) -> None:
    def by_size(paths: Sequence[Path]) -> list[Timing | None]:
        return [Timing(path.stat().st_size / 1e6, 3) for path in paths]

    targets = [product.target for product in products.values()]
    operators = [operator for target in targets for operator in read_operators(target.path, target.signature)]
    made = measure_table(operators, by_size, device_id="board", threads=1, versions=VERSIONS)
    profile = LocalDevice().measure(targets, effort=Effort(min_runs=5, max_runs=5))
    predicted = [one.predicted_ms for one in with_predictions(profile, targets, made).measurements.values()]
    weights = [product.weights.nbytes / 1e6 for product in products.values()]
    assert predicted == pytest.approx(weights, abs=0.01)
