"""Profiling a zoo: its variants measured on devices, each profile written as soon as it is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from fleetfoot.console import warn
from fleetfoot.errors import DamagedFileError
from profiling.device import Device
from profiling.measuring import Request, measured_on
from profiling.profile import Profile, Target, require_all
from zoo.catalog import Variant, Zoo, profile_path


class DeviceProfiles(msgspec.Struct):
    """What was measured of a zoo on one device; ``accuracy`` is that of the test split, if it was asked for."""

    profiles: list[Profile] = []
    accuracy: dict[str, float] | None = None


def targets_of(zoo: Path, variants: Sequence[Variant]) -> list[Target]:
    """What to measure of variants: their files in a zoo directory, finished or not."""
    return [Target(variant.id, zoo / variant.file, variant.signature) for variant in variants]


def write_profile(zoo: Path, profile: Profile, *, beside: bool = False) -> None:
    """Writes a profile, unless it is empty, into a zoo directory.

    Args:
        zoo: the zoo directory, finished or not.
        profile: of its variants.
        beside: whether it is kept beside the one that premodel and service go by, rather than as that one.
    """
    if not profile.measurements:
        return
    profile.write(profile_path(zoo, profile.device_id, profile.conditions if beside else None))
    if not beside:  # what it replaces must not stay beside it under its other name
        profile_path(zoo, profile.device_id, profile.conditions).unlink(missing_ok=True)


def profile_on(device: Device, zoo: Zoo, request: Request, accuracy: bool, made: list[DeviceProfiles]) -> None:
    """Measures a finished zoo on a device under all conditions asked for.

    Args:
        device: where.
        zoo: what.
        request: under which conditions, and how well.
        accuracy: whether the route and test inputs are run there too.
        made: takes what was measured, as soon as there is something.

    Raises:
        DeviceError: the device went away, or some variant could not be measured.
    """
    result = DeviceProfiles()
    made.append(result)
    variants = [variant for variant in zoo.manifest.variants if _is_whole(zoo, variant)]
    for number, conditions in enumerate(request.conditions(device.info().cores)):
        profile = measured_on(device, targets_of(zoo.path, variants), conditions, request)
        write_profile(zoo.path, profile, beside=number > 0)
        result.profiles.append(profile)
    if accuracy:
        result.accuracy = _accuracy_on(device, zoo, variants)
    for profile in result.profiles:
        require_all(profile)


def _is_whole(zoo: Zoo, variant: Variant) -> bool:
    try:
        zoo.verified_file(variant.id)
    except DamagedFileError as error:
        warn(f"{variant.id} is left out: {error}")
        return False
    return True


def _accuracy_on(device: Device, zoo: Zoo, variants: Sequence[Variant]) -> dict[str, float]:
    """Records what the variants answer on a device; returns how often each is right on the test split."""
    from zoo.measure import record_outcomes_on
    from zoo.record import BuildRecord

    record = BuildRecord.read(zoo.path / BuildRecord.FILE)
    outcomes = record_outcomes_on(device, zoo.path, variants, record.load_data(), record.indices())
    right = outcomes.accuracy("test")
    return {variant.id: right[variant.id] for variant in variants}
