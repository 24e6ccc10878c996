from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetfoot.errors import DeviceError, NotAZooError, SchemaError
from profiling.device import DeviceOptions, connect_device, connected
from profiling.profile import Conditions, DeviceInfo, Measurement, Profile, this_device, tool_versions
from profiling.statistics import summarize

BOARD = DeviceInfo(
    processor="Raspberry Pi 4 Model B Rev 1.5", architecture="aarch64", system="Linux", cores=4, memory_bytes=4 << 30
)


def profile(**files: str) -> Profile:
    return Profile(
        device_id=BOARD.id,
        device=BOARD,
        conditions=Conditions(),
        created="2025-01-01T00:00:00+00:00",
        versions=tool_versions(),
        measurements={
            name: Measurement(
                file_sha256=digest,
                signature=name,
                latency=summarize([[1.0, 2.0, 4.0], [1.0, 3.0]]),
                load_ms=3.0,
                first_ms=2.0,
                peak_memory_bytes=1 << 20,
            )
            for name, digest in files.items()
        },
    )


def test_the_id_of_a_board_never_changes() -> None:
    assert BOARD.id == "raspberry-pi-4-model-b-rev-1-5-97e3f9d2"


@pytest.mark.parametrize(
    "change", [{"processor": "Raspberry Pi 5"}, {"architecture": "armv7l"}, {"system": "Darwin"}, {"cores": 2}]
)
def test_other_hardware_is_another_device(change: dict[str, object]) -> None:
    assert msgspec.structs.replace(BOARD, **change).id != BOARD.id


def test_equal_boards_are_one_device_even_if_the_system_reserves_other_amounts_of_memory() -> None:
    assert msgspec.structs.replace(BOARD, memory_bytes=BOARD.memory_bytes - 4096).id == BOARD.id


@given(processor=st.text(max_size=100).map(lambda text: f"x{text}"), cores=st.integers(1, 256))
def test_an_id_is_a_slug_that_can_name_a_file(processor: str, cores: int) -> None:
    info = msgspec.structs.replace(BOARD, processor=processor, cores=cores)
    assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*-[0-9a-f]{8}", info.id)
    assert len(info.id) <= 49


def test_this_device_is_described_and_is_always_the_same() -> None:
    info = this_device()
    assert info == this_device()
    assert info.processor
    assert info.architecture
    assert info.cores >= 1
    assert info.memory_bytes > 64 << 20


def test_a_profile_reads_as_it_was_written(tmp_path: Path) -> None:
    written = profile(base="aa", small="bb")
    written.write(tmp_path / "profile.json")
    assert msgspec.structs.replace(Profile.read(tmp_path / "profile.json"), schema_version=0) == written


def test_a_missing_profile_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotAZooError, match=re.escape(str(tmp_path / "profile.json"))):
        Profile.read(tmp_path / "profile.json")


def test_a_profile_with_a_field_missing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    profile(base="aa").write(path)
    path.write_text(path.read_text().replace('"p95_ms"', '"p96_ms"'))
    with pytest.raises(SchemaError, match="profile.json"):
        Profile.read(path)


def test_a_profile_of_the_form_before_this_one_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "profile.json"
    profile(base="aa").write(path)
    old = path.read_text().replace('"schema_version": 2', '"schema_version": 1').replace('"conditions"', '"threads"')
    path.write_text(old)
    with pytest.raises(SchemaError, match=r"profile\.json was written by an older Fleetfoot.* make it anew"):
        Profile.read(path)


@pytest.mark.parametrize("wrong", ['{"threads":0}', '{"cpus":[-1]}', '{"state":"asleep"}', '{"delegate":"abacus"}'])
def test_a_profile_of_impossible_conditions_is_refused(tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "profile.json"
    profile(base="aa").write(path)
    data = msgspec.json.decode(path.read_bytes()) | {"conditions": msgspec.json.decode(wrong)}
    path.write_bytes(msgspec.json.encode(data))
    with pytest.raises(SchemaError, match="profile.json"):
        Profile.read(path)


@pytest.mark.parametrize("device_id", ["", "../up", "A", "a b", "a/b"])
def test_an_id_that_could_name_another_file_is_refused(device_id: str) -> None:
    with pytest.raises(ValueError, match="a device-id has small letters"):
        msgspec.structs.replace(profile(base="aa"), device_id=device_id)


def test_conditions_are_called_by_what_is_not_as_usual() -> None:
    assert Conditions().slug == ""
    assert Conditions(threads=4, state="contended").slug == "threads-4-contended"
    everything = Conditions(threads=2, cpus=(0, 2), state="sustained", delegate="gpu")
    assert everything.slug == "threads-2-cpus-0-2-sustained-gpu"


def test_a_profile_covers_the_models_that_it_measured_and_no_others() -> None:
    measured = profile(base="aa", small="bb")
    assert measured.covers({"base": "aa", "small": "bb"})
    assert measured.covers({"base": "aa"})
    assert measured.covers({})
    assert not measured.covers({"base": "aa", "small": "cc"})
    assert not measured.covers({"base": "aa", "large": "bb"})


def test_the_versions_name_what_took_part() -> None:
    assert {"fleetfoot", "ai-edge-litert", "numpy", "python", "kernel"} <= tool_versions().keys()


def test_this_machine_is_the_local_device() -> None:
    assert connect_device("local").info() == this_device()


def test_a_connection_lasts_for_a_block() -> None:
    with connected("local") as device:
        assert device.info() == this_device()


def test_the_environment_says_what_connecting_takes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("FLEETFOOT_TOKEN", "secret")
    monkeypatch.setenv("FLEETFOOT_CERTIFICATE", str(tmp_path / "own.pem"))
    monkeypatch.setenv("FLEETFOOT_KEY", "")
    assert DeviceOptions.from_environment() == DeviceOptions(token="secret", certificate=tmp_path / "own.pem")


@pytest.mark.parametrize("uri", ["", "Local", "usb:1", "locals", "adb:", "pyro:", "adb", "local:1"])
def test_an_unknown_kind_of_device_is_named(uri: str) -> None:
    with pytest.raises(DeviceError, match=f"unknown device {uri!r}"):
        connect_device(uri)
