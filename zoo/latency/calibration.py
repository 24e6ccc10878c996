"""Bringing the summed times of operators to those of whole networks that are measured."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from profiling.device import Device
from profiling.profile import Target, require_all
from zoo.channels import Channels, slice_model
from zoo.export import export
from zoo.latency.widths import WidthTimes

MOST_CACHED_BYTES = 4_000_000
"""Weights up to here mostly stay in a processor's cache: operators take alone what they take together."""


def calibrate(times: WidthTimes, channels: Channels, device: Device, slices: Sequence[Mapping[str, int]]) -> None:
    """Measures some slices on the device, and brings the times to theirs.

    Args:
        times: what is calibrated, in place.
        channels: the analysis of the network.
        device: where the times are from.
        slices: widths of the network as it is, and of some narrower.

    Raises:
        ExportError: the network cannot be converted to LiteRT.
        DeviceError: the device went away, or does not run the network.
    """
    names = {f"slice{number}": widths for number, widths in enumerate(slices)}
    with tempfile.TemporaryDirectory() as directory:
        targets = [Target(name, Path(directory) / f"{name}.tflite", name) for name in names]
        for target in targets:
            export({target.name: slice_model(channels, names[target.name])}, target.path)
        profile = device.measure(targets)
    require_all(profile)
    times.calibrate([(widths, profile.measurements[name].latency.p50_ms) for name, widths in names.items()])
