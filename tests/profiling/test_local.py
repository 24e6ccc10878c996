from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from smallmodels import INPUTS, Product, addition

from fleetfoot.errors import DeviceError
from fleetfoot.files import sha256
from profiling.local import LocalDevice
from profiling.process import ModelProcess
from profiling.profile import Conditions, Energy, Profile, Target, this_device
from profiling.statistics import Effort

QUICK = Effort(min_runs=20, max_runs=100, max_seconds=0.5)
ENDLESS = Effort(min_runs=10**9, max_runs=10**9, max_seconds=1e9)


@pytest.fixture(scope="session")
def targets(finished_zoo: Path) -> dict[str, Target]:
    manifest: dict[str, Any] = json.loads((finished_zoo / "zoo.json").read_text())
    return {
        variant["id"].rpartition("-")[0]: Target(variant["id"], finished_zoo / variant["file"], variant["signature"])
        for variant in manifest["variants"]
    }


@pytest.fixture
def small(tmp_path: Path) -> Target:
    return addition(tmp_path / "small.tflite")


@pytest.fixture
def other(tmp_path: Path) -> Target:
    return addition(tmp_path / "other.tflite", size=(1, 512))


def children() -> list[int]:
    """The ids of this process's children, finished ones that nobody waited for included."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(stat.parent.name))
    return found


def child_of(target: Target) -> int | None:
    """The process that holds a model."""
    for child in children():
        with suppress(FileNotFoundError, ProcessLookupError):
            if str(target.path) in Path(f"/proc/{child}/cmdline").read_text():
                return child
    return None


@pytest.fixture(autouse=True)
def interrupts_between_rounds_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that they can be counted: else there is one every half second that a model takes to open."""
    monkeypatch.setattr("profiling.process._TICK_SECONDS", 60.0)


class AfterRounds:
    """An interrupt that does something once after some rounds, when all ``models`` are open."""

    def __init__(self, models: int, rounds: int, act: Callable[[], None]) -> None:
        self._left, self._act = models + rounds, act

    def __call__(self) -> None:
        self._left -= 1
        if self._left == 0:
            self._act()


def kill(target: Target, number: signal.Signals = signal.SIGKILL) -> None:
    child = child_of(target)
    assert child is not None
    os.kill(child, number)


# --- what is measured ---


def test_a_model_is_measured_with_plausible_results(targets: dict[str, Target]) -> None:
    before = children()
    base = targets["base"]
    profile = LocalDevice().measure([base], effort=QUICK)
    (measured,) = profile.measurements.values()
    latency = measured.latency
    assert profile.device == this_device()
    assert profile.device_id == this_device().id
    assert profile.conditions == Conditions()
    assert profile.failures == {}
    assert measured.file_sha256 == sha256(base.path)
    assert measured.signature == base.signature
    assert latency.count >= QUICK.min_runs
    assert 0.0005 < latency.min_ms <= latency.p50_ms <= latency.p95_ms < 1000
    assert latency.mean_low_ms <= latency.mean_ms <= latency.mean_high_ms
    assert measured.relative is None
    assert measured.load_ms > 0
    assert measured.first_ms > 0
    assert 0 <= measured.peak_memory_bytes < 200 << 20
    assert profile.covers({base.name: sha256(base.path)})
    assert children() == before


def test_two_models_are_measured_in_one_run_under_their_names(targets: dict[str, Target], tmp_path: Path) -> None:
    before = children()
    large, small = targets["base"], targets["pruned-0.5"]
    profile = LocalDevice().measure([large, small], effort=Effort(min_runs=400, max_runs=1000))
    assert list(profile.measurements) == [large.name, small.name]
    assert profile.measurements[large.name].relative is None
    relative = profile.measurements[small.name].relative
    assert relative.low <= relative.value <= relative.high
    assert relative.value < 1
    assert profile.measurements[small.name].latency.min_ms < profile.measurements[large.name].latency.min_ms
    assert children() == before
    profile.write(tmp_path / "profile.json")
    assert Profile.read(tmp_path / "profile.json").measurements == profile.measurements


def test_signatures_of_one_file_are_measured_apart(targets: dict[str, Target]) -> None:
    narrow, wide = targets["sub-0.25"], targets["sub-0.75"]
    assert narrow.path == wide.path
    profile = LocalDevice().measure([wide, narrow], effort=Effort(min_runs=400, max_runs=1000))
    assert profile.measurements[narrow.name].relative.value < 1


def test_a_nested_network_is_measured_as_if_it_were_alone(products: dict[str, Product]) -> None:
    wide, narrow = products["wide"].target, products["narrow"].target
    profile = LocalDevice().measure([wide, narrow], effort=QUICK, operators=True)
    assert profile.failures == {}
    assert profile.covers({one.name: sha256(wide.path) for one in (wide, narrow)})
    of_wide, of_narrow = profile.measurements["wide"], profile.measurements["narrow"]
    assert (of_wide.signature, of_narrow.signature) == ("wide", "narrow")
    assert of_narrow.relative.value < 1
    assert of_narrow.peak_memory_bytes < of_wide.peak_memory_bytes - (4 << 20)  # the wide one's weights have 8 MB
    assert [operator.name for operator in of_wide.operators] == ["256 → 8192"]
    assert [operator.name for operator in of_narrow.operators] == ["256 → 64"]


def test_a_nested_network_that_is_damaged_is_a_failure_while_the_others_are_measured(
    damaged_products: dict[str, Product],
) -> None:
    wide, narrow = damaged_products["wide"].target, damaged_products["narrow"].target
    profile = LocalDevice().measure([wide, narrow], effort=QUICK)
    assert list(profile.measurements) == ["wide"]
    assert f"{narrow.path} is damaged, so that narrow cannot be put together" in profile.failures["narrow"]
    assert "\n" not in profile.failures["narrow"]


def test_models_without_a_signature_and_of_two_inputs_are_measured(tmp_path: Path) -> None:
    plain = addition(tmp_path / "plain.tflite", signature=False)
    two = addition(tmp_path / "two.tflite", two_inputs=True)
    profile = LocalDevice().measure([plain, two], effort=QUICK)
    assert list(profile.measurements) == ["plain", "two"]
    assert profile.measurements["plain"].signature == ""
    assert profile.failures == {}


def test_the_memory_of_a_model_is_what_it_adds(small: Target, tmp_path: Path) -> None:
    large = addition(tmp_path / "large.tflite", size=(1, 8 << 20))  # an array of 32 MB each goes in, and comes out
    profile = LocalDevice().measure([small, large], effort=Effort(min_runs=1, max_runs=1))
    added = [profile.measurements[name].peak_memory_bytes for name in ("small", "large")]
    assert added[1] - added[0] > 60 << 20


def test_no_models_are_an_empty_profile() -> None:
    profile = LocalDevice().measure([], effort=QUICK)
    assert profile.measurements == profile.failures == {}


def test_energy_is_told_where_there_is_a_meter(monkeypatch: pytest.MonkeyPatch, small: Target) -> None:
    def told(run: Callable[[int], Any], run_ms: float) -> Energy:
        assert len(run(7)) == 7
        return Energy(mj=run_ms, source="a meter")

    monkeypatch.setattr("profiling.local.energy_of", told)
    assert LocalDevice().measure([small], effort=QUICK).measurements["small"].energy.source == "a meter"


def test_of_more_models_than_memory_holds_some_are_measured_at_a_time_with_the_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    models = [addition(tmp_path / f"{name}.tflite") for name in "abc"]
    most = 0

    def count() -> None:
        nonlocal most
        most = max(most, len(children()) - before)

    monkeypatch.setattr("profiling.local._RUNTIME_BYTES", this_device().memory_bytes // 4 - (1 << 20))
    before = len(children())
    profile = LocalDevice(interrupt=count).measure(models, effort=QUICK)
    assert most == 2
    assert list(profile.measurements) == ["a", "b", "c"]
    assert [measured.relative is not None for measured in profile.measurements.values()] == [False, True, True]


# --- what cannot be measured ---


def test_a_file_that_is_no_model_is_a_failure_in_one_line_while_the_others_are_measured(
    tmp_path: Path, small: Target, other: Target
) -> None:
    before = children()
    path = tmp_path / "model.tflite"
    path.write_text("not a model")
    missing = Target("missing", tmp_path / "missing.tflite", "x")
    open_size = addition(tmp_path / "open.tflite", given_size=(1, -1))
    text = addition(tmp_path / "text.tflite", beside="string")
    unnamed = small._replace(name="unnamed", signature="?")
    profile = LocalDevice().measure(
        [small, Target("broken", path, "x"), missing, unnamed, open_size, text, other], effort=QUICK
    )
    assert list(profile.measurements) == ["small", "other"]
    assert list(profile.failures) == ["broken", "missing", "unnamed", "open", "text"]
    assert profile.failures["broken"].startswith(f"broken cannot be measured here: {path} ")
    assert str(missing.path) in profile.failures["missing"]
    assert "'t0' has no fixed size (1×?): export the model with one" in profile.failures["open"]
    assert "'t1' holds text, and only numbers are supported" in profile.failures["text"]
    assert profile.failures["unnamed"] == "unnamed cannot be measured here: no signature '?': there are main"
    assert not any("\n" in why or "Traceback" in why for why in profile.failures.values())
    assert children() == before


def test_what_the_others_are_compared_with_may_fail(small: Target) -> None:
    broken = small._replace(name="first", signature="?")
    profile = LocalDevice().measure([broken, small], effort=QUICK)
    assert profile.measurements["small"].relative is None
    assert list(profile.failures) == ["first"]


@pytest.mark.parametrize("limit", [64 << 20, 300 << 20])
def test_a_model_that_needs_more_memory_than_it_may_have_says_so(tmp_path: Path, small: Target, limit: int) -> None:
    large = addition(tmp_path / "large.tflite", size=(1, 32 << 20))
    profile = LocalDevice(max_memory_bytes=limit).measure([small, large], effort=QUICK)
    assert list(profile.measurements) == ["small"]
    assert "it needs more memory than it may have" in profile.failures["large"]
    assert "\n" not in profile.failures["large"]


@pytest.mark.parametrize("state", ["idle", "sustained"])
def test_a_model_that_dies_is_a_failure_while_the_others_are_measured(
    monkeypatch: pytest.MonkeyPatch, small: Target, other: Target, state: Any
) -> None:
    monkeypatch.setattr("profiling.thermals._WINDOW_SECONDS", 0.2)
    before = children()
    device = LocalDevice(interrupt=AfterRounds(2, 3, lambda: kill(other)))
    profile = device.measure([small, other], conditions=Conditions(state=state), effort=QUICK)
    assert list(profile.measurements) == ["small"]
    assert profile.measurements["small"].latency.count >= QUICK.min_runs
    assert profile.failures == {
        "other": "other cannot be measured here: its process was killed, as the system does when memory runs out"
    }
    assert children() == before


def test_a_model_that_crashes_names_the_signal(small: Target, other: Target) -> None:
    device = LocalDevice(interrupt=AfterRounds(2, 1, lambda: kill(other, signal.SIGSEGV)))
    profile = device.measure([small, other], effort=QUICK)
    assert profile.failures == {"other": "other cannot be measured here: its process died of SIGSEGV"}


def test_a_model_that_hangs_is_ended_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, small: Target, other: Target
) -> None:
    before = children()
    running: list[int | None] = []

    def look() -> None:
        hang()
        running.append(child_of(other))

    device = LocalDevice(interrupt=look)
    hang = AfterRounds(2, 1, lambda: (monkeypatch.setattr("profiling.process._REPLY_SECONDS", 2.0),
                                     monkeypatch.setattr("profiling.process._TICK_SECONDS", 0.1),
                                      kill(other, signal.SIGSTOP)))  # fmt: skip
    profile = device.measure([small, other], effort=Effort(min_runs=100, max_runs=100))
    assert profile.failures == {"other": "other cannot be measured here: it did not answer in 2 s"}
    assert list(profile.measurements) == ["small"]
    assert running[-1] is None  # it does not go on beside what is measured after it
    assert children() == before


def test_what_interrupts_a_measurement_ends_it_and_leaves_no_process(small: Target, other: Target) -> None:
    before = children()

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LocalDevice(interrupt=AfterRounds(2, 2, stop)).measure([small, other], effort=ENDLESS)
    assert children() == before


# --- under what conditions ---


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        (Conditions(cpus=(0, 4096)), "there is no core 4096 here: cores are numbered 0 to "),
        (Conditions(delegate="gpu"), "this machine has no delegate gpu"),
        (Conditions(delegate="nnapi"), "this machine has no delegate nnapi"),
    ],
)
def test_conditions_that_this_machine_cannot_have_are_refused(
    small: Target, conditions: Conditions, reason: str
) -> None:
    with pytest.raises(DeviceError, match=reason):
        LocalDevice().measure([small], conditions=conditions, effort=QUICK)


@pytest.mark.parametrize("core", sorted(os.sched_getaffinity(0))[-1:])
def test_a_pinned_model_runs_on_its_cores_only(small: Target, core: int) -> None:
    seen: set[str] = set()

    def look() -> None:
        status = Path(f"/proc/{child_of(small)}/status").read_text()
        (line,) = (line for line in status.splitlines() if line.startswith("Cpus_allowed_list"))
        seen.add(line.split()[1])

    device = LocalDevice(interrupt=AfterRounds(1, 2, look))
    profile = device.measure([small], conditions=Conditions(cpus=(core,), threads=2), effort=QUICK)
    assert profile.conditions.cpus == (core,)
    assert seen == {str(core)}
    assert os.sched_getaffinity(0) != {core} or os.cpu_count() == 1


def test_in_contention_every_core_is_busy_beside_the_model(small: Target) -> None:
    before, beside = len(children()), []
    device = LocalDevice(interrupt=AfterRounds(1, 1, lambda: beside.append(len(children()) - before - 1)))
    profile = device.measure([small], conditions=Conditions(state="contended"), effort=QUICK)
    assert beside == [this_device().cores]
    assert profile.conditions.state == "contended"
    assert len(children()) == before


def test_sustained_latency_is_measured_once_the_device_is_hot(
    monkeypatch: pytest.MonkeyPatch, small: Target, other: Target
) -> None:
    heated: list[list[str]] = []
    monkeypatch.setattr("profiling.local.heat_up", lambda models, interrupt: heated.append(list(models)))
    LocalDevice().measure([small, other], conditions=Conditions(state="sustained"), effort=QUICK)
    assert heated == [["small", "other"]]


# --- answers ---


def test_a_model_answers_there_as_it_does_here(small: Target) -> None:
    x = np.random.default_rng(0).uniform(0, 1, (20, 8)).astype(np.float32)
    before = children()
    answers = LocalDevice().answer(small, x)
    np.testing.assert_array_equal(answers, 2 * x)
    assert answers.dtype == np.float32
    assert children() == before


@pytest.mark.parametrize("name", ["wide", "middle", "narrow"])
def test_a_nested_network_answers_by_itself(products: dict[str, Product], name: str) -> None:
    x = np.random.default_rng(0).uniform(0, 1, (5, INPUTS)).astype(np.float32)
    answers = LocalDevice().answer(products[name].target, x)
    np.testing.assert_allclose(answers, products[name].answers(x), atol=1e-3)


@pytest.mark.parametrize("options", [{"two_inputs": True}, {"signature": False}])
def test_a_model_that_cannot_be_served_does_not_answer(tmp_path: Path, options: dict[str, bool]) -> None:
    target = addition(tmp_path / "model.tflite", **options)
    with pytest.raises(DeviceError, match=r"^model cannot be measured here: .*(2 inputs|no signature)[^\n]*$"):
        LocalDevice().answer(target, np.zeros((1, 8), np.float32))


# --- the process ---


def test_a_process_that_was_found_dead_says_so_again(small: Target) -> None:
    with ModelProcess(small, Conditions()) as process:
        kill(small)
        for _ in range(3):
            with pytest.raises(DeviceError, match="small cannot be measured here: its process was killed"):
                process.run(1)


def test_many_runs_are_timed_at_once(small: Target) -> None:
    with ModelProcess(small, Conditions()) as process:
        assert len(process.run(20_000)) == 20_000
        assert process.finish().peak_memory_bytes > 0


def test_a_process_ends_when_who_measures_is_killed(small: Target) -> None:
    measuring = threading.Event()
    process = os.fork()
    if process == 0:  # pragma: no cover (it is killed)
        try:
            LocalDevice().measure([small], effort=ENDLESS)
        finally:
            os._exit(1)
    try:
        child = None
        while child is None and not measuring.wait(0.1):
            child = next(iter(grandchildren(process, small)), None)
    finally:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    end = time.monotonic() + 60
    while Path(f"/proc/{child}").exists() and time.monotonic() < end:
        time.sleep(0.1)
    assert not Path(f"/proc/{child}").exists()


def grandchildren(parent: int, target: Target) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(FileNotFoundError, ProcessLookupError):
            of = int(stat.read_text().rpartition(")")[2].split()[1])
            if of == parent and str(target.path) in (stat.parent / "cmdline").read_text():
                found.append(int(stat.parent.name))
    return found
