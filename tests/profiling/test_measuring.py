from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import msgspec
import pytest

from fleetfoot.errors import DeviceError, UsageError
from profiling.device import Device, DeviceOptions
from profiling.measuring import Request, described, measuring_options, on_each, print_profile, request_of
from profiling.profile import Conditions, DeviceInfo, Energy, Measurement, OperatorTime, Profile, this_device
from profiling.statistics import Effort, Ratio, summarize

USUAL = Conditions()

Typed = Callable[..., Request]


@pytest.fixture
def typed() -> Typed:
    """What a command with the options makes of its arguments."""

    def request(*arguments: object) -> Request:
        @click.command
        @measuring_options
        def command(**asked: Any) -> Request:
            return request_of(**asked)

        made = command.main([str(argument) for argument in arguments], standalone_mode=False)
        assert isinstance(made, Request)
        return made

    return request


# --- what is asked for ---


def test_without_options_this_machine_is_measured_with_one_thread(typed: Typed) -> None:
    request = typed()
    assert request.devices == ("local",)
    assert request.effort == Effort()
    assert not request.operators
    assert list(request.conditions(8)) == [Conditions()]


def test_all_conditions_come_in_order_the_usual_ones_first(typed: Typed) -> None:
    request = typed("--threads", "2,all,1,4", "--cpus", "0,3", "--sustained", "--contended")
    cores = (0, 3)
    assert list(request.conditions(4)) == [
        Conditions(threads=2, cpus=cores),
        Conditions(threads=4, cpus=cores),
        Conditions(threads=1, cpus=cores),
        Conditions(threads=2, cpus=cores, state="contended"),
        Conditions(threads=2, cpus=cores, state="sustained"),
    ]


def test_all_threads_are_as_many_as_the_device_has_cores(typed: Typed) -> None:
    request = typed("--threads", "all")
    assert [[one.threads for one in request.conditions(cores)] for cores in (1, 6)] == [[1], [6]]


def test_the_effort_is_as_asked_and_its_caps_leave_room_for_its_floor(typed: Typed) -> None:
    asked = typed("--half-width", 0.01, "--min-runs", 50_000, "--max-seconds", 30, "--percentile", 0.99).effort
    assert asked == Effort(
        relative_half_width=0.01, min_runs=50_000, max_runs=50_000, max_seconds=30.0, percentile=0.99
    )
    assert typed("--min-runs", 5).effort.max_runs == Effort().max_runs


def test_a_device_that_is_named_twice_is_measured_once(typed: Typed) -> None:
    assert typed("--device", "adb:1", "--device", "local", "--device", "adb:1").devices == ("adb:1", "local")


def test_the_token_comes_from_its_file_or_the_environment(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("from a file\n")
    monkeypatch.setenv("FLEETFOOT_TOKEN", "from the environment")
    assert typed().options == DeviceOptions(token="from the environment")
    assert typed("--token-file", tmp_path / "token").options.token == "from a file"


@pytest.mark.parametrize("threads", ["0", "-1", "", "two", "1.5", "1,,x", "1;2"])
def test_what_is_no_number_of_threads_is_refused(typed: Typed, threads: str) -> None:
    with pytest.raises(click.BadParameter, match=re.escape(f"{threads!r} is no list of numbers of threads")):
        typed("--threads", threads)


@pytest.mark.parametrize("cpus", ["1.5", "-1", "nan", "inf", "0,0.1"])
def test_what_is_no_number_of_a_core_is_refused(typed: Typed, cpus: str) -> None:
    with pytest.raises(UsageError, match="--cpus are the numbers of cores, from 0"):
        typed("--cpus", cpus)


@pytest.mark.parametrize(
    ("option", "value"),
    [("--cpus", "first"), ("--half-width", 0), ("--min-runs", 0), ("--max-seconds", 0), ("--percentile", 1),
     ("--delegate", "abacus"), ("--token-file", "/nowhere")],
)  # fmt: skip
def test_other_values_that_make_no_sense_are_refused(typed: Typed, option: str, value: object) -> None:
    with pytest.raises(click.UsageError) as error:
        typed(option, value)
    assert option in error.value.format_message()


# --- on each device ---


class FakeDevice:
    """A device of some hardware, that is connected once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.closed = False

    def info(self) -> DeviceInfo:
        return msgspec.structs.replace(this_device(), processor=self.name)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[[Mapping[str, str]], dict[str, FakeDevice]]:
    """Makes URIs lead to devices of these names; returns those that were connected."""

    def lead(processors: Mapping[str, str]) -> dict[str, FakeDevice]:
        made: dict[str, FakeDevice] = {}

        @contextmanager
        def connected(uri: str, options: DeviceOptions) -> Iterator[FakeDevice]:
            if uri not in processors:
                raise DeviceError(f"nothing answers at {uri}")
            made[uri] = FakeDevice(processors[uri])
            try:
                yield made[uri]
            finally:
                made[uri].close()

        monkeypatch.setattr("profiling.measuring.connected", connected)
        return made

    return lead


def do_on(uris: Sequence[str], work: Callable[[Any], None]) -> None:
    on_each(uris, DeviceOptions(), work)


def test_devices_are_measured_all_at_once(connect: Any) -> None:
    made = connect({"a": "A", "b": "B", "c": "C"})
    together = threading.Barrier(3, timeout=60)
    do_on(["a", "b", "c"], lambda device: together.wait() and None)
    assert sorted(made) == ["a", "b", "c"]
    assert all(device.closed for device in made.values())


def test_one_that_fails_does_not_stop_the_others_and_is_named(connect: Any) -> None:
    made, done = connect({"a": "A", "b": "B", "c": "C"}), []

    def work(device: FakeDevice) -> None:
        if device.name == "B":
            raise DeviceError("it went away")
        done.append(device.name)

    with pytest.raises(DeviceError, match=r"^b: it went away; nowhere: nothing answers at nowhere$"):
        do_on(["a", "b", "nowhere", "c"], work)
    assert sorted(done) == ["A", "C"]
    assert all(device.closed for device in made.values())


def test_the_same_device_under_two_names_is_measured_once(connect: Any) -> None:
    connect({"adb:1": "A", "adb:host:1": "A", "b": "B"})
    done: list[str] = []
    with pytest.raises(DeviceError, match=r"^adb:\S+: it is the same kind of device as adb:\S+, or the same one"):
        do_on(["adb:1", "adb:host:1", "b"], lambda device: done.append(device.name))
    assert sorted(done) == ["A", "B"]


def test_a_single_device_s_error_is_its_own_and_its_work_is_done_in_the_caller_s_thread(connect: Any) -> None:
    made, threads = connect({"a": "A"}), []

    def work(_: Device) -> None:
        threads.append(threading.current_thread())
        raise UsageError("not like this")

    with pytest.raises(UsageError, match="^not like this$"):
        do_on(["a"], work)
    assert threads == [threading.current_thread()]  # the one that Ctrl-C interrupts
    assert made["a"].closed


# --- what is shown ---


def measurement(**changes: Any) -> Measurement:
    plain = Measurement(
        file_sha256="aa",
        signature="main",
        latency=summarize([[1.0, 1.25], [1.0, 1.5], [1.125, 1.25]]),
        load_ms=12.3456,
        first_ms=2.0,
        peak_memory_bytes=None,
    )
    return msgspec.structs.replace(plain, **changes)


def profile_of(conditions: Conditions = USUAL, **measurements: Measurement) -> Profile:
    board = msgspec.structs.replace(this_device(), processor="Board")
    return Profile(
        device_id=board.id, device=board, conditions=conditions, created="2025-01-01T00:00:00+00:00", versions={},
        measurements=measurements,
    )  # fmt: skip


def test_a_profile_is_a_table_of_what_was_measured_and_no_more(capsys: pytest.CaptureFixture[str]) -> None:
    small = measurement(relative=Ratio(value=0.5, low=0.4, high=0.6), latency=summarize([[0.01234567] * 10] * 3))
    print_profile(profile_of(base=measurement(), small=small))
    shown = capsys.readouterr().out
    assert shown.startswith(f"Board, 1 thread ({profile_of().device_id}) ")
    (heads,) = (line for line in shown.splitlines() if "median ms" in line)
    assert re.findall(r"[^┃\s][^┃]*[^┃\s]", heads) == ["median ms", "mean", "± 95 %", "p95", "p99", "× first", "load"]
    (row,) = (line for line in shown.splitlines() if "small" in line)
    assert re.findall(r"[^│\s]+", row) == [
        "small", "0.0123", "0.0123", "0.0%", "0.0123", "0.0123", "0.500", "12.35"
    ]  # fmt: skip


def test_what_only_some_devices_tell_is_shown_where_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    told = measurement(
        peak_memory_bytes=12_345_678, energy=Energy(mj=1.2345, source="a meter"), unstable=("drift", "two-modes"),
        predicted_ms=1.3, operators=(OperatorTime(name="conv", kind="CONV_2D", ms=0.75),
                                     OperatorTime(name="out", kind="SOFTMAX", ms=0.25)),
    )  # fmt: skip
    print_profile(profile_of(told=told, plain=measurement()))
    shown = capsys.readouterr().out
    for text in "MB", "12.3", "mJ", "1.23", "predicted", "1.3", "unstable", "drift, two-modes":
        assert text in shown
    assert "told, operator by operator" in shown
    (row,) = (line for line in shown.splitlines() if "CONV_2D" in line)
    assert re.findall(r"[^│\s]+", row) == ["conv", "CONV_2D", "0.7500", "75%"]
    assert "plain, operator by operator" not in shown


def test_of_a_single_block_no_interval_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_profile(profile_of(one=measurement(latency=summarize([[5000.0]]))))
    shown = capsys.readouterr().out
    assert "inf" not in shown
    assert "± 95 %" not in shown


def test_of_a_profile_without_measurements_there_is_nothing_to_show(capsys: pytest.CaptureFixture[str]) -> None:
    print_profile(profile_of())
    assert capsys.readouterr().out == ""


def test_the_conditions_are_said_in_words() -> None:
    assert described(profile_of(Conditions(threads=2, cpus=(0, 1), delegate="xnnpack", state="contended"))) == (
        "Board, 2 threads, cores 0, 1, xnnpack, contended"
    )
