"""Profiling a zoo: its variants measured on devices, each profile written as soon as it is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from fleetfoot.console import warn
from fleetfoot.errors import DamagedFileError, DeviceError
from profiling.device import Device
from profiling.measuring import Request
from profiling.profile import Conditions, Profile, Target
from profiling.statistics import Effort
from zoo.catalog import Variant, Zoo, profile_path


class DeviceProfiles(msgspec.Struct):
    """What was measured of a zoo on one device; ``accuracy`` is that of the test split, if it was asked for."""

    profiles: list[Profile] = []
    accuracy: dict[str, float] | None = None


def targets_of(zoo: Path, variants: Sequence[Variant]) -> list[Target]:
    """What to measure of variants: their files in a zoo directory, finished or not."""
    return [Target(variant.id, zoo / variant.file, variant.signature) for variant in variants]


def profile_variants(
    zoo: Path,
    variants: Sequence[Variant],
    device: Device,
    conditions: Conditions = Conditions(),  # noqa: B008 (frozen)
    effort: Effort = Effort(),  # noqa: B008 (frozen)
    *,
    operators: bool = False,
    beside: bool = False,
) -> Profile:
    """Measures variants on a device in one run and writes the profile into the zoo directory.

    Args:
        zoo: the zoo directory, finished or not.
        variants: the base model first, which the others' latencies are put in relation to.
        device: where they are measured.
        conditions: what holds meanwhile.
        effort: when enough is measured.
        operators: whether single operators are timed too.
        beside: whether the profile is kept beside the one that the service goes by, rather than as that one.

    Raises:
        DeviceError: the device went away before anything was measured.
    """
    profile = device.measure(targets_of(zoo, variants), conditions=conditions, effort=effort, operators=operators)
    if profile.measurements:
        profile.write(profile_path(zoo, profile.device_id, conditions if beside else None))
        if not beside:  # what it replaces must not stay beside it under its other name
            profile_path(zoo, profile.device_id, conditions).unlink(missing_ok=True)
    return profile


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
        profile = profile_variants(
            zoo.path, variants, device, conditions, request.effort, operators=request.operators, beside=number > 0
        )
        result.profiles.append(profile)
    if accuracy:
        result.accuracy = _accuracy_on(device, zoo)
    for profile in result.profiles:
        require_all(profile)


def require_all(profile: Profile) -> None:
    """Makes sure that nothing of a profile failed.

    Raises:
        DeviceError: something did; what was measured is kept all the same.
    """
    if profile.failures:
        raise DeviceError("; ".join(profile.failures.values()))


def _is_whole(zoo: Zoo, variant: Variant) -> bool:
    try:
        zoo.verified_file(variant.id)
    except DamagedFileError as error:
        warn(f"{variant.id} is left out: {error}")
        return False
    return True


def _accuracy_on(device: Device, zoo: Zoo) -> dict[str, float]:
    """Records what the variants answer on a device; returns how often each is right on the test split."""
    from zoo.measure import record_outcomes_on
    from zoo.record import BuildRecord

    record = BuildRecord.read(zoo.path / BuildRecord.FILE)
    outcomes = record_outcomes_on(device, zoo.path, zoo.manifest.variants, record.load_data(), record.indices())
    right = outcomes.accuracy("test")
    return {name: right[name] for name in zoo.variants}
