"""Profiling a zoo: its variants measured on devices, each profile written as soon as it is made."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from fleetfoot.console import warn
from fleetfoot.errors import DamagedFileError, NotAZooError, SchemaError
from profiling.device import Device
from profiling.measuring import Request, tell_of_missing_bounds, with_what_is_predicted
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
    record_accuracy = _recorder(zoo) if accuracy else None
    result = DeviceProfiles()
    made.append(result)
    variants = [variant for variant in zoo.manifest.variants if _is_whole(zoo, variant)]
    for number, conditions in enumerate(request.conditions(device.info().cores)):
        targets = targets_of(zoo.path, variants)
        profile = device.measure(targets, conditions=conditions, effort=request.effort, operators=request.operators)
        result.profiles.append(profile)
        tell_of_missing_bounds(profile, request)
        if number == 0 and not profile.covers(zoo.hashes) and _is_served(zoo, profile.device_id):
            warn(f"{zoo.path} keeps the earlier profile of {profile.device_id}, which has all variants")
        else:
            write_profile(zoo.path, profile, beside=number > 0)
            if profile is not (told := with_what_is_predicted(device, profile, targets, request)):
                result.profiles[-1] = told
                write_profile(zoo.path, told, beside=number > 0)
    if record_accuracy:
        measured = result.profiles[0].measurements
        result.accuracy = record_accuracy(device, [variant for variant in variants if variant.id in measured])
    for profile in result.profiles:
        require_all(profile)


def _is_whole(zoo: Zoo, variant: Variant) -> bool:
    try:
        zoo.verified_file(variant.id)
    except DamagedFileError as error:
        warn(f"{variant.id} is left out: {error}")
        return False
    return True


def _is_served(zoo: Zoo, device_id: str) -> bool:
    """Whether there is a profile already that the service can go by."""
    try:
        return Profile.read(zoo.profile_path(device_id)).covers(zoo.hashes)
    except (NotAZooError, SchemaError):
        return False


def _recorder(zoo: Zoo) -> Callable[[Device, Sequence[Variant]], dict[str, float]]:
    """What records the answers of variants on a device, and returns how often each is right on the test split.

    The data is read now, so that what is missing is said before anything is measured.
    """
    from zoo.measure import record_outcomes_on
    from zoo.record import BuildRecord

    record = BuildRecord.read(zoo.path / BuildRecord.FILE)
    dataset = record.load_data()

    def accuracy(device: Device, variants: Sequence[Variant]) -> dict[str, float]:
        right = record_outcomes_on(device, zoo.path, variants, dataset, record.indices()).accuracy("test")
        return {variant.id: right[variant.id] for variant in variants}

    return accuracy
