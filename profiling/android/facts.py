"""What an Android device tells of itself: its hardware, what changes, and whether it throttles."""

from __future__ import annotations

import re
from collections.abc import Mapping

from fleetfoot.errors import DeviceError
from profiling.android.adb import Adb
from profiling.profile import DeviceInfo

_CPUS = "/sys/devices/system/cpu"
_SLOWED = 0.90
_MACHINES = {"arm64-v8a": 183, "armeabi-v7a": 40, "armeabi": 40, "x86_64": 62, "x86": 3, "riscv64": 243}
_ELF = b"\x7fELF"


def read_info(adb: Adb) -> DeviceInfo:
    """The device's hardware, and facts.

    Raises:
        DeviceError: the connection is lost.
    """
    properties = parse_properties(adb.run("getprop").output)
    memory = re.search(r"MemTotal:\s*(\d+)", adb.run("cat /proc/meminfo").output)
    cores = adb.run(f"cat {_CPUS}/present || nproc").output.split()
    return DeviceInfo(
        processor=processor_name(properties),
        architecture=properties.get("ro.product.cpu.abi", "unknown"),
        system="Android",
        cores=count_cores(cores[0] if cores else ""),
        memory_bytes=int(memory[1]) * 1024 if memory else 0,
        facts={name: value for name, value in _facts(adb, properties).items() if value},
    )


def _facts(adb: Adb, properties: Mapping[str, str]) -> dict[str, str]:
    battery = parse_battery(adb.run("dumpsys battery").output)
    tenths = battery.get("temperature", "")
    governors = adb.run(f"cat {_CPUS}/cpu*/cpufreq/scaling_governor 2>/dev/null")
    return {
        "model": properties.get("ro.product.model", ""),
        "android": properties.get("ro.build.version.release", ""),
        "sdk": properties.get("ro.build.version.sdk", ""),
        "build": properties.get("ro.build.version.incremental", ""),
        "abis": properties.get("ro.product.cpu.abilist", ""),
        "governor": ", ".join(dict.fromkeys(governors.output.split())),
        "temperature_c": f"{int(tenths) / 10:.1f}" if tenths.lstrip("-").isdecimal() else "",
        "battery_percent": battery.get("level", ""),
        "powered": _power_source(battery),
    }  # fmt: skip


def _power_source(battery: Mapping[str, str]) -> str:
    sources = [
        name.removesuffix(" powered") for name, value in battery.items() if value == "true" and "powered" in name
    ]
    return ", ".join(sources) or ("battery" if battery else "")


def parse_properties(output: str) -> dict[str, str]:
    """The properties that ``getprop`` lists."""
    return dict(re.findall(r"^\[(.*?)\]: \[(.*?)\]$", output, re.MULTILINE))


def parse_battery(output: str) -> dict[str, str]:
    """What ``dumpsys battery`` tells, by its names; empty where there is no battery service."""
    return dict(re.findall(r"^  ([^:\n]+): (.*?)\s*$", output, re.MULTILINE))


def processor_name(properties: Mapping[str, str]) -> str:
    """The chip's name, or that of the platform with the product's where the device does not tell the chip's."""
    maker, chip = properties.get("ro.soc.manufacturer", ""), properties.get("ro.soc.model", "")
    if chip:
        return chip if chip.lower().startswith(maker.lower()) else f"{maker} {chip}"
    platform = properties.get("ro.board.platform") or properties.get("ro.hardware", "")
    return f"{platform} {properties.get('ro.product.model', '')}".strip() or "unknown"


def count_cores(present: str) -> int:
    """How many cores a list such as ``0-3,6`` names, or a plain number tells; at least 1."""
    if present.isdecimal() and present != "0":
        return int(present)
    ranges = re.findall(r"(\d+)(?:-(\d+))?", present)
    return max(1, sum(int(last or first) - int(first) + 1 for first, last in ranges))


def check_binary(head: bytes, name: str, abis: str) -> None:
    """Whether a program's first bytes say that the device can run it; a script may be anything.

    Args:
        head: at least 20 bytes, or the whole of a shorter file.
        name: the program's, for messages.
        abis: the device's, separated by commas.

    Raises:
        DeviceError: it is no program, or one for another ABI.
    """
    if head.startswith(b"#!"):
        return
    if not head.startswith(_ELF) or len(head) < 20:
        raise DeviceError(f"{name} is no program for Android: give the one for {abis}, as docs/devices.md has it")
    machine = int.from_bytes(head[18:20], "little" if head[5] == 1 else "big")
    names = sorted(abi for abi, number in _MACHINES.items() if number == machine)
    if not {_MACHINES.get(abi) for abi in abis.split(",")} & {machine, None}:
        built = " or ".join(names) or f"machine {machine}"
        raise DeviceError(f"{name} is for {built}, and the device runs {abis}: give the one for that")


class Heat:
    """Whether a device throttles: its thermal service says so, or the system has lowered what its clocks may do.

    Args:
        adb: the connection.
    """

    def __init__(self, adb: Adb) -> None:
        self._adb = adb
        self._highest = 0
        self.throttled = False
        self.read()

    def read(self) -> None:
        """Takes note of what holds now."""
        answer = self._adb.run(f"cat {_CPUS}/cpu*/cpufreq/scaling_max_freq; dumpsys thermalservice")
        clocks = sum(int(line) for line in answer.output.splitlines() if line.isdecimal())
        severity = re.search(r"Thermal Status: (\d+)", answer.output)
        self._highest = max(self._highest, clocks)
        self.throttled |= clocks < _SLOWED * self._highest or (severity is not None and severity[1] != "0")
