"""Where benchmarks leave their numbers, with what they were measured on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from fleetfoot.files import write_bytes
from profiling.profile import this_device, tool_versions

RESULTS = Path(__file__).parent / "results"


def save(name: str, numbers: dict[str, Any]) -> None:
    """Writes the numbers of one benchmark, and the machine and versions that they are of, and prints them."""
    document = {"device": this_device(), "versions": tool_versions(), "numbers": numbers}
    text = msgspec.json.format(msgspec.json.encode(document), indent=1)
    write_bytes(RESULTS / f"{name}.json", text + b"\n")
    print(f"{name}: {msgspec.json.encode(numbers).decode()}")
