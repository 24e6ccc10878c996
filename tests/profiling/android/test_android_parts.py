from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest

from fleetfoot.errors import DeviceError
from profiling.android.energy import Reading, energy_between, read_battery
from profiling.android.facts import check_binary, count_cores, parse_battery, parse_properties, processor_name
from profiling.android.files import is_dead, unused


def test_the_chip_names_the_processor() -> None:
    assert processor_name({"ro.soc.manufacturer": "QTI", "ro.soc.model": "SM8550"}) == "QTI SM8550"
    assert processor_name({"ro.soc.manufacturer": "Google", "ro.soc.model": "Google Tensor"}) == "Google Tensor"
    assert processor_name({"ro.board.platform": "msm8998", "ro.product.model": "Pixel 2"}) == "msm8998 Pixel 2"
    assert processor_name({"ro.hardware": "ranchu"}) == "ranchu"
    assert processor_name({}) == "unknown"


@pytest.mark.parametrize(("present", "cores"), [("0-7", 8), ("0-3,6", 5), ("0", 1), ("4", 4), ("", 1)])
def test_cores_are_counted(present: str, cores: int) -> None:
    assert count_cores(present) == cores


def test_properties_and_battery_are_read_by_name() -> None:
    assert parse_properties("[ro.a]: [b c]\n[ro.d]: []\nnoise\n") == {"ro.a": "b c", "ro.d": ""}
    battery = "Current Battery Service state:\n  AC powered: false\n  USB powered: true\n  temperature: 284\n"
    assert parse_battery(battery) == {"AC powered": "false", "USB powered": "true", "temperature": "284"}
    assert parse_battery("Can't find service: battery\n") == {}


def elf(machine: int) -> bytes:
    return b"\x7fELF\x02\x01\x01" + bytes(9) + (3).to_bytes(2, "little") + machine.to_bytes(2, "little") + bytes(44)


def test_a_program_must_be_for_one_of_the_devices_abis() -> None:
    check_binary(elf(183), "tool", "arm64-v8a,armeabi-v7a,armeabi")
    check_binary(elf(40), "tool", "arm64-v8a,armeabi-v7a,armeabi")
    check_binary(b"#!/system/bin/sh\n", "tool", "arm64-v8a")
    check_binary(elf(1234), "tool", "an-abi-of-tomorrow")
    with pytest.raises(DeviceError, match="tool is for x86_64, and the device runs arm64-v8a: give the one for that"):
        check_binary(elf(62), "tool", "arm64-v8a")
    with pytest.raises(DeviceError, match="tool is for arm64-v8a, and the device runs armeabi-v7a,armeabi"):
        check_binary(elf(183), "tool", "armeabi-v7a,armeabi")
    for head in (b"", b"\x7fELF", b"MZ\x90" + bytes(60), b"<html>" + bytes(60)):
        with pytest.raises(DeviceError, match="tool is no program for Android"):
            check_binary(head, "tool", "arm64-v8a")


def battery(**changes: str) -> dict[str, str]:
    told = {"AC powered": "false", "USB powered": "false", "Charge counter": "3486000", "voltage": "4000"}
    return told | {name.replace("_", " "): value for name, value in changes.items()}


def test_a_battery_tells_only_when_nothing_else_powers_the_phone() -> None:
    assert read_battery(battery(), 7) == Reading(3_486_000, 4000, 7)
    assert read_battery(battery(USB_powered="true"), 0) is None
    assert read_battery(battery(Charge_counter="0"), 0) is None
    assert read_battery(battery(voltage="13"), 0) is None
    assert read_battery({}, 0) is None


def test_energy_is_taken_from_step_to_step() -> None:
    charges = [1000, 1000, 900, 900, 800, 700, 700, 600, 500, 400, 400]
    readings = [Reading(charge, 4000, 50 * number) for number, charge in enumerate(charges)]
    energy = energy_between(readings)
    assert energy is not None
    assert energy.mj == pytest.approx((900 - 400) * 3.6 * 4.0 / (50 * (9 - 2)))
    assert "charge counter" in energy.source


def test_too_few_steps_tell_no_energy() -> None:
    charges = [1000, 1000, 900, 900, 800, 800]
    assert energy_between([Reading(charge, 4000, number) for number, charge in enumerate(charges)]) is None
    assert energy_between([]) is None


def test_what_no_living_session_uses_goes() -> None:
    uses = {"session-a": ["1", "2"], "session-b": ["2", "3"]}
    present = ["1", "2", "3", "3.partial", "2.partial", "4", "session-a", "session-b"]
    assert unused(uses, ["session-a"], present) == ["1", "4", "session-a"]
    assert unused(uses, [], present) == ["4"]
    assert unused({}, [], present) == sorted(present)


def test_sessions_of_this_computer_are_dead_when_their_process_is() -> None:
    assert is_dead("session-host-999999999-abc", "host")
    assert is_dead(f"session-host-{os.getpid()}-closed", "host")
    assert not is_dead("session-host-1-abc", "host")
    assert not is_dead("session-other-999999999-abc", "host")
    assert not is_dead("something", "host")


class Quantized:
    """As much of a runner as encoding and decoding take: int8 in, int8 out."""

    class Spec:
        shape = (1, 2)
        dtype = np.dtype(np.float32)

    input = output = Spec()
    encoded_output = np.dtype(np.int8)

    def encode(self, x: Any) -> Any:
        return (x - 128).astype(np.int8)

    def decode(self, x: Any) -> Any:
        return (x.astype(np.float32) + 128) / 256


def test_quantized_inputs_and_outputs_are_the_models_own_integers() -> None:
    from profiling.android.answers import _decoded, _encoded

    assert _encoded(Quantized(), np.array([[0.0, 255.0], [128.0, 1.0]])) == bytes([128, 127, 0, 129])
    answers = _decoded(Quantized(), bytes([128, 0]), 1)
    assert answers.tolist() == [[0.0, 0.5]]
    with pytest.raises(DeviceError, match="3 bytes for 1 inputs, and 2 are 2 values of int8 for each"):
        _decoded(Quantized(), bytes(3), 1)
