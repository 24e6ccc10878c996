from __future__ import annotations

import time
from pathlib import Path

import pytest

from fleetfoot.errors import DeviceError
from profiling.energy import energy_of, find_meter
from profiling.statistics import Block

RANGE_UJ = 262_143_328_850


def rapl(sys: Path, microjoules: int, zone: str = "intel-rapl:0") -> Path:
    """A package's counter; returns the file that counts."""
    directory = sys / "class/powercap" / zone
    directory.mkdir(parents=True)
    (directory / "max_energy_range_uj").write_text(f"{RANGE_UJ}\n")
    (directory / "energy_uj").write_text(f"{microjoules}\n")
    return directory / "energy_uj"


def ina(sys: Path, number: int, rail: str, millivolts: int, milliamperes: int, hwmon: str = "hwmon3") -> Path:
    """A channel of a power monitor; returns the file of its current."""
    directory = sys / "class/hwmon" / hwmon
    directory.mkdir(parents=True, exist_ok=True)
    (directory / f"in{number}_label").write_text(f"{rail}\n")
    (directory / f"in{number}_input").write_text(f"{millivolts}\n")
    (directory / f"curr{number}_input").write_text(f"{milliamperes}\n")
    return directory / f"curr{number}_input"


def counting(counter: Path, per_run_uj: int) -> tuple[list[int], object]:
    """A model each of whose runs moves the counter on; and how many runs there were."""
    asked: list[int] = []

    def run(runs: int) -> Block:
        asked.append(runs)
        counter.write_text(str((int(counter.read_text()) + runs * per_run_uj) % (RANGE_UJ + 1)))
        return [1.0] * runs

    return asked, run


@pytest.mark.parametrize("start", [0, 12_345, RANGE_UJ - 3])
def test_a_run_s_energy_is_the_counter_s_difference_even_where_it_wraps(tmp_path: Path, start: int) -> None:
    counter = rapl(tmp_path, start)
    _, run = counting(counter, 250)
    energy = energy_of(run, 1.0, find_meter(tmp_path))
    assert energy.source == "RAPL package"
    assert energy.mj == pytest.approx(0.25)


@pytest.mark.parametrize(("run_ms", "runs"), [(0.02, 50_000), (1.0, 1000), (300.0, 3), (5000.0, 1)])
def test_it_is_measured_over_about_a_second(tmp_path: Path, run_ms: float, runs: int) -> None:
    asked, run = counting(rapl(tmp_path, 0), 100)
    assert energy_of(run, run_ms, find_meter(tmp_path)).mj == pytest.approx(0.1)
    assert asked == [runs]


def test_the_energy_of_a_rail_is_its_power_over_the_time_that_the_work_took(tmp_path: Path) -> None:
    current = ina(tmp_path, 1, "VDD_IN", 5000, 1000)

    def run(runs: int) -> Block:
        time.sleep(0.25)
        current.write_text("3000\n")
        time.sleep(0.25)
        return [500.0] * runs

    start = time.perf_counter()
    energy = energy_of(run, 500.0, find_meter(tmp_path))
    seconds = time.perf_counter() - start
    assert energy.source == "INA VDD_IN"
    half_second_at_5_to_15_w = 2 * energy.mj / seconds  # two runs in the second
    assert 5000 < half_second_at_5_to_15_w < 15_000
    assert half_second_at_5_to_15_w == pytest.approx(10_000, rel=0.5)


def test_the_board_s_rail_goes_before_a_part_s_and_before_the_package(tmp_path: Path) -> None:
    rapl(tmp_path, 0)
    ina(tmp_path, 1, "VDD_GPU_SOC", 5000, 100)
    ina(tmp_path, 2, "VDD_CPU_CV", 5000, 100)
    ina(tmp_path, 3, "VDD_IN", 5000, 1000)
    assert find_meter(tmp_path).source == "INA VDD_IN"


def test_where_the_board_s_rail_cannot_be_read_another_is(tmp_path: Path) -> None:
    ina(tmp_path, 1, "VDD_IN", 5000, 1000).unlink()
    ina(tmp_path, 2, "5V_IN", 5000, 1000, hwmon="hwmon4")
    assert find_meter(tmp_path).source == "INA 5V_IN"


@pytest.mark.parametrize("damage", ["unreadable", "empty", "no range", "nothing", "other rail"])
def test_a_machine_that_does_not_tell_has_no_meter(tmp_path: Path, damage: str) -> None:
    if damage == "other rail":
        ina(tmp_path, 1, "VDD_CPU_CV", 5000, 1000)
    elif damage != "nothing":
        counter = rapl(tmp_path, 0)
        if damage == "unreadable":  # root may read it whatever its mode says, so it is no file at all
            counter.unlink()
            counter.mkdir()
        elif damage == "empty":
            counter.write_text("")
        else:
            (counter.parent / "max_energy_range_uj").unlink()
    assert find_meter(tmp_path) is None


def test_a_package_that_cannot_be_read_leaves_the_next(tmp_path: Path) -> None:
    rapl(tmp_path, 0).write_text("")
    _, run = counting(rapl(tmp_path, 0, "intel-rapl:1"), 100)
    assert energy_of(run, 1.0, find_meter(tmp_path)).mj == pytest.approx(0.1)


def test_the_parts_of_a_package_are_no_packages(tmp_path: Path) -> None:
    rapl(tmp_path, 0, "intel-rapl:0:0")
    assert find_meter(tmp_path) is None


@pytest.mark.parametrize("kind", ["counter", "rail"])
def test_a_meter_that_stops_telling_leaves_the_energy_unknown(tmp_path: Path, kind: str) -> None:
    path = rapl(tmp_path, 0) if kind == "counter" else ina(tmp_path, 1, "VDD_IN", 5000, 1000)
    meter = find_meter(tmp_path)

    def run(runs: int) -> Block:
        path.write_text("")
        return [1.0] * runs

    if kind == "counter":
        assert energy_of(run, 1.0, meter) is None
    else:  # what it told before counts
        assert energy_of(run, 1.0, meter).mj >= 0


def test_a_model_that_dies_meanwhile_is_an_error(tmp_path: Path) -> None:
    def run(_: int) -> Block:
        raise DeviceError("it died")

    for path in (tmp_path / "a", tmp_path / "b"):
        ina(path, 1, "VDD_IN", 5000, 1000) if path.name == "a" else rapl(path, 0)
        with pytest.raises(DeviceError, match="it died"):
            energy_of(run, 1.0, find_meter(path))


def test_without_a_meter_the_model_is_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("profiling.energy.find_meter", lambda: None)
    assert energy_of(lambda _: pytest.fail("it ran"), 1.0) is None
