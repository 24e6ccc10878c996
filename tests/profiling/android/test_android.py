from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from adbd import Phone
from smallmodels import INPUTS, Product

from fleetfoot.errors import DeviceError
from fleetfoot.files import sha256
from profiling import thermals
from profiling.android import link, summaries, turns
from profiling.android.adb import Adb, Answer
from profiling.android.device import AndroidDevice
from profiling.device import DeviceOptions, connect_device
from profiling.local import LocalDevice
from profiling.nested import alone
from profiling.operators import layers, table
from profiling.profile import Conditions, Profile, Target
from profiling.statistics import Effort

QUICK = Effort(relative_half_width=0.5, min_runs=5, max_seconds=0.3)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(autouse=True)
def keys(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.setattr(link, "CONNECT_SECONDS", 1.0)


@pytest.fixture(autouse=True)
def few_invocations(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (summaries, turns):
        monkeypatch.setattr(module, "MIN_INVOCATIONS", 2)


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[Phone]:
    with Phone(tmp_path) as running:
        yield running
        assert list(running.scratch.iterdir()) == []


@pytest.fixture(scope="session")
def targets(finished_zoo: Path) -> dict[str, Target]:
    manifest: dict[str, Any] = json.loads((finished_zoo / "zoo.json").read_text())
    return {
        variant["id"].rpartition("-")[0]: Target(variant["id"], finished_zoo / variant["file"], variant["signature"])
        for variant in manifest["variants"]
    }


@pytest.fixture
def pair(targets: dict[str, Target]) -> list[Target]:
    return [targets["base"], targets["pruned-0.5"]]


def connect(phone: Phone, **options: Path | None) -> AndroidDevice:
    programs = {"benchmark_binary": phone.tools / "benchmark_model", "runner_binary": phone.tools / "run_model"}
    device = connect_device(f"adb:127.0.0.1:{phone.port}", DeviceOptions(**(programs | options)))
    assert isinstance(device, AndroidDevice)
    return device


@pytest.fixture
def device(phone: Phone) -> Iterator[AndroidDevice]:
    connected = connect(phone)
    yield connected
    connected.close()


def copies(phone: Phone) -> set[str]:
    folder = phone.scratch / "fleetfoot"
    return (
        {path.name for path in folder.iterdir() if not path.name.startswith("session-")} if folder.exists() else set()
    )


def sha256_there(target: Target) -> str:
    """The hash of what the phone is given of a target."""
    with alone(target.path, target.signature) as file:
        return sha256(file)


def benchmarks(phone: Phone) -> list[str]:
    return [shown for shown in phone.commands if "--graph=" in shown]


def when_running(number: int, action: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Does something before the tool's so-manieth invocation."""
    run, count = Adb.run, iter(range(1, 1000))

    def counted(self: Adb, command: str, timeout_s: float = 20.0) -> Answer:
        if "--graph=" in command and next(count) == number:
            action()
        return run(self, command, timeout_s)

    monkeypatch.setattr(Adb, "run", counted)


def test_the_device_is_known_by_its_hardware(phone: Phone, device: AndroidDevice) -> None:
    info = device.info()
    assert (info.processor, info.architecture, info.system) == ("Google Tensor G3", "x86_64", "Android")
    assert info.id.startswith("google-tensor-g3-")
    assert info.cores >= 1
    assert info.memory_bytes > 1 << 28
    assert {"model": "Pixel 8", "android": "14", "sdk": "34", "temperature_c": "28.4", "powered": "AC"}.items() <= (
        info.facts.items()
    )
    phone.battery |= {"temperature": 401, "level": 5}
    phone.properties["ro.build.version.release"] = "15"
    assert device.info().id == info.id
    assert device.info().facts["temperature_c"] == "40.1"


def test_models_are_measured_in_turns(phone: Phone, device: AndroidDevice, pair: list[Target]) -> None:
    profile = device.measure(pair, effort=QUICK, operators=True)
    assert profile.failures == {}
    assert list(profile.measurements) == [target.name for target in pair]
    assert profile.covers({target.name: sha256(target.path) for target in pair})
    assert profile.versions["android"] == "14"
    assert profile.versions["benchmark_model"] == sha256(phone.tools / "benchmark_model")[:12]
    for target in pair:
        measured = profile.measurements[target.name]
        latency = measured.latency
        assert 0 < latency.min_ms <= latency.p50_ms <= latency.p90_ms <= latency.p95_ms <= latency.p99_ms < 1000
        assert latency.interpolated
        assert latency.p90_bound_ms is None
        assert latency.mean_low_ms is not None
        assert measured.load_ms > 0
        assert measured.first_ms > 0
        assert measured.peak_memory_bytes is not None
        assert measured.energy is None
        assert sum(operator.ms for operator in measured.operators) > 0
    base, other = (profile.measurements[target.name] for target in pair)
    assert base.relative is None
    assert other.relative is not None
    timed = [shown for shown in benchmarks(phone) if "profiling" not in shown]
    names = [sha256(target.path) for target in pair]
    assert all({name for name in names if any(name in shown for shown in two)} == set(names)
               for two in zip(timed[::2], timed[1::2], strict=True))  # fmt: skip


def test_a_profile_can_be_written_and_read(device: AndroidDevice, pair: list[Target], tmp_path: Path) -> None:
    profile = device.measure(pair[:1], effort=QUICK)
    profile.write(tmp_path / "profile.json")
    assert Profile.read(tmp_path / "profile.json").measurements == profile.measurements


def test_the_signatures_of_one_file_are_measured_each(
    phone: Phone, device: AndroidDevice, targets: dict[str, Target]
) -> None:
    nested = [target for name, target in targets.items() if name.startswith("sub-")][:2]
    assert len({target.path for target in nested}) == 1
    profile = device.measure(nested, effort=QUICK)
    assert len(profile.measurements) == 2
    assert {target.signature for target in nested} == {one.signature for one in profile.measurements.values()}
    assert profile.covers({target.name: sha256(target.path) for target in nested})
    assert copies(phone) == {*map(sha256_there, nested), sha256(phone.tools / "benchmark_model")}


def test_nested_networks_are_copied_and_run_alone(
    phone: Phone, device: AndroidDevice, products: dict[str, Product], damaged_products: dict[str, Product]
) -> None:
    wide, narrow = products["wide"].target, products["narrow"].target
    damaged = damaged_products["middle"].target._replace(name="damaged")
    profile = device.measure([wide, narrow, damaged], effort=QUICK, operators=True)
    assert list(profile.measurements) == ["wide", "narrow"]
    assert "is damaged, so that middle cannot be put together" in profile.failures["damaged"]
    assert {one.file_sha256 for one in profile.measurements.values()} == {sha256(wide.path)}
    assert profile.measurements["narrow"].relative.value < 1
    sizes = sorted((phone.scratch / "fleetfoot" / sha256_there(target)).stat().st_size for target in (wide, narrow))
    assert sizes[0] < 100_000 < sizes[1]
    x = np.random.default_rng(0).uniform(0, 1, (5, INPUTS)).astype(np.float32)
    for product in products.values():
        np.testing.assert_allclose(device.answer(product.target, x), product.answers(x), atol=1e-3)
    with pytest.raises(DeviceError, match="is damaged, so that middle cannot be put together"):
        device.answer(damaged, x)


def test_conditions_are_kept(phone: Phone, device: AndroidDevice, pair: list[Target]) -> None:
    conditions = Conditions(threads=2, cpus=(0,), delegate="gpu", state="contended")
    profile = device.measure(pair[:1], conditions=conditions, effort=QUICK)
    assert profile.conditions == conditions
    assert profile.failures == {}
    assert all("taskset 1 " in shown and "--num_threads=2" in shown for shown in benchmarks(phone))
    with pytest.raises(DeviceError, match="there is no core 4096"):
        device.measure(pair, conditions=Conditions(cpus=(4096,)))


def test_a_device_is_heated_first(
    phone: Phone, device: AndroidDevice, pair: list[Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(thermals, "_WINDOW_SECONDS", 0.1)
    monkeypatch.setattr(thermals, "_STEADY", 10.0)
    bad = tmp_path / "bad.tflite"
    bad.write_bytes(b"no model")
    unfit = Target("bad", bad, "")
    profile = device.measure([pair[0], unfit], conditions=Conditions(state="sustained"), effort=QUICK)
    assert list(profile.measurements) == [pair[0].name]
    assert list(profile.failures) == ["bad"]


def test_what_is_there_already_is_not_copied_again(phone: Phone, pair: list[Target]) -> None:
    first = connect(phone)
    first.measure(pair[:1], effort=QUICK)
    assert copies(phone) == {sha256(pair[0].path), sha256(phone.tools / "benchmark_model")}
    moved = [shown for shown in phone.commands if "mv -f" in shown]
    assert len(moved) == 2
    damaged = phone.scratch / "fleetfoot" / sha256(pair[0].path)
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"!")
    second = connect(phone)
    second.measure(pair[:1], effort=QUICK)
    assert len([shown for shown in phone.commands if "mv -f" in shown]) == 3
    first.close()
    assert copies(phone) == {sha256(pair[0].path), sha256(phone.tools / "benchmark_model")}
    second.close()


def test_only_what_it_put_there_is_removed(phone: Phone, device: AndroidDevice, pair: list[Target]) -> None:
    (phone.scratch / "mine").write_text("somebody else's")
    device.measure(pair[:1], effort=QUICK)
    device.close()
    assert [path.name for path in phone.scratch.iterdir()] == ["mine"]
    (phone.scratch / "mine").unlink()


def test_a_pulled_cable_keeps_what_was_measured(
    phone: Phone, device: AndroidDevice, pair: list[Target], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = Target("late", tmp_path / "none.tflite", "")
    when_running(6, phone.unplug, monkeypatch)
    effort = Effort(relative_half_width=1e-9, max_seconds=0.3)
    profile = device.measure([*pair, late], effort=effort)
    assert list(profile.measurements) == [target.name for target in pair]
    assert profile.failures == {"late": f"{late.path} cannot be read: No such file or directory"}
    assert all(one.latency.mean_high_ms is not None for one in profile.measurements.values())
    device.close()
    assert copies(phone) != set()
    again = connect(phone)  # and what the dead session left is used, and removed
    again.measure(pair[:1], effort=QUICK)
    assert copies(phone) == {sha256(pair[0].path), sha256(phone.tools / "benchmark_model")}
    again.close()


def test_a_cable_pulled_early_leaves_nothing_to_keep(
    phone: Phone, device: AndroidDevice, pair: list[Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    when_running(3, phone.unplug, monkeypatch)
    with pytest.raises(DeviceError, match="was lost while a command ran"):
        device.measure(pair, effort=QUICK)
    device.close()
    again = connect(phone)
    again.measure(pair[:1], effort=QUICK)
    again.close()


def test_a_cable_pulled_while_copying(phone: Phone, device: AndroidDevice, pair: list[Target]) -> None:
    phone.cut_after_bytes = 20_000
    with pytest.raises(DeviceError, match="was lost while"):
        device.measure(pair, effort=QUICK)
    device.close()
    again = connect(phone)
    again.measure(pair[:1], effort=QUICK)
    again.close()


def test_a_model_that_is_killed_is_a_failure_of_its_own(
    phone: Phone, device: AndroidDevice, pair: list[Target]
) -> None:
    phone.kill_commands_matching = f"--graph=.*{sha256(pair[1].path)}"
    phone.kill_after_s = 0.02
    profile = device.measure(pair, effort=QUICK)
    assert list(profile.measurements) == [pair[0].name]
    assert "killed it, most likely for want of memory" in profile.failures[pair[1].name]


def test_a_file_that_is_no_model_fails_with_the_tools_words(
    device: AndroidDevice, pair: list[Target], tmp_path: Path
) -> None:
    (tmp_path / "bad.tflite").write_bytes(b"no model")
    profile = device.measure([Target("bad", tmp_path / "bad.tflite", ""), pair[0]], effort=QUICK)
    assert profile.failures["bad"].startswith("benchmark_model: The model is not a valid Flatbuffer buffer")
    assert profile.measurements[pair[0].name].relative is None


def test_no_space_for_one_model_leaves_the_others(
    phone: Phone, device: AndroidDevice, pair: list[Target], tmp_path: Path
) -> None:
    phone.space_bytes = 2_000_000
    (tmp_path / "large.tflite").write_bytes(bytes(5_000_000))
    profile = device.measure([pair[0], Target("large", tmp_path / "large.tflite", "")], effort=QUICK)
    assert list(profile.measurements) == [pair[0].name]
    assert "no space left on the device" in profile.failures["large"]


def test_no_permission_is_told(phone: Phone, device: AndroidDevice, pair: list[Target]) -> None:
    phone.deny.add("/data/local/tmp/fleetfoot")
    with pytest.raises(DeviceError, match="permission denied"):
        device.measure(pair, effort=QUICK)


def test_a_tool_is_needed_that_the_device_can_run(phone: Phone, pair: list[Target], tmp_path: Path) -> None:
    arm = tmp_path / "arm"
    arm.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\xb7\x00" + bytes(100))
    broken = tmp_path / "broken"
    broken.write_bytes(b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x03\x00\x3e\x00" + bytes(100))
    for binary, message in (
        (None, "--benchmark-binary; docs/devices.md tells where to get it"),
        (tmp_path / "none", "cannot be read: No such file"),
        (arm, "arm is for arm64-v8a, and the device runs x86_64"),
    ):
        device = connect(phone, benchmark_binary=binary)
        with pytest.raises(DeviceError, match=message):
            device.measure(pair, effort=QUICK)
        device.close()
    device = connect(phone, benchmark_binary=broken)
    profile = device.measure(pair, effort=QUICK)
    assert all("the device cannot run benchmark_model" in why for why in profile.failures.values())
    assert len(profile.failures) == 2
    device.close()


@pytest.mark.parametrize("name", ["base", "base-int8", "sub-0.5"])
def test_answers_are_those_of_this_machine(
    phone: Phone, device: AndroidDevice, targets: dict[str, Target], digits: Any, name: str
) -> None:
    target, x = targets[name], digits.x[:20]
    answers = device.answer(target, x)
    np.testing.assert_allclose(answers, LocalDevice().answer(target, x), atol=1e-5)
    assert answers.dtype == np.float32
    assert copies(phone) == {sha256_there(target), sha256(phone.tools / "run_model")}


def test_answers_need_a_runner_and_a_model(phone: Phone, device: AndroidDevice, pair: list[Target]) -> None:
    x = np.zeros((1, 8, 8, 1), np.float32)
    with pytest.raises(DeviceError, match="no signature 'none'"):
        device.answer(pair[0]._replace(signature="none"), x)
    without = connect(phone, runner_binary=None)
    with pytest.raises(DeviceError, match="need a runner beside benchmark_model"):
        without.answer(pair[0], x)
    without.close()


def test_energy_is_measured_on_battery(
    phone: Phone, device: AndroidDevice, pair: list[Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("profiling.android.bench._ENERGY_SECONDS", 0.05)
    monkeypatch.setattr("profiling.android.energy._MIN_STEPS", 2)
    phone.battery |= {"AC powered": False, "status": 3}
    lock = threading.Lock()
    run = Adb.run

    def draining(self: Adb, command: str, timeout_s: float = 20.0) -> Answer:
        with lock:
            phone.battery["Charge counter"] = int(str(phone.battery["Charge counter"])) - 50
        return run(self, command, timeout_s)

    monkeypatch.setattr(Adb, "run", draining)
    (measured,) = device.measure(pair[:1], effort=QUICK).measurements.values()
    assert measured.energy is not None
    assert measured.energy.source == "battery's charge counter"
    assert measured.energy.mj > 0


def test_single_operators_are_timed_by_the_tool(
    phone: Phone, device: AndroidDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETFOOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(table, "design", lambda: [layers.fully_connected(size, size) for size in (8, 16)])
    made = device.operator_table(Conditions())
    assert made.device_id == device.info().id
    assert len(made.timings) == 3
    assert 0 < made.overhead_ms < 100
    assert all(timed.ms > 0 for timed in made.timings)
    invoked = len(benchmarks(phone))
    assert device.operator_table(Conditions()).timings == made.timings
    assert len(benchmarks(phone)) == invoked
