"""The zoo directory: what variants there are, which file holds each, and whether the files are still those."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec
import numpy as np
import numpy.typing as npt

from fleetfoot.console import warn
from fleetfoot.errors import DamagedFileError, InputError, NotAZooError, SchemaError, StaleError, UsageError, ZooError
from fleetfoot.files import Document, is_temporary, sha256
from profiling.profile import Conditions, Profile
from zoo.recipe import Recipe

_BESIDE = "+"

BUILT_FILES = frozenset({"build.json", "base/model.keras", "outcomes.parquet"})
"""What a build makes beside the variants, whose hashes the manifest records."""


class InputSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The raw input that every variant of a zoo takes, as it comes from the decoder.

    ``minimum`` and ``maximum`` are the range of the values; the variants scale it themselves.
    ``sampling_rate`` is how many samples of a recording are a second.
    """

    kind: Literal["image", "audio", "tensor"]
    shape: tuple[int, ...]
    dtype: str
    minimum: float
    maximum: float
    sampling_rate: int | None = None

    def check(self, x: npt.ArrayLike) -> npt.NDArray[Any]:
        """``x`` as the variants take it: of shape (1, *shape) and of this dtype.

        Raises:
            InputError: another shape, values that are not of this type, or NaN or infinity.
        """
        try:
            given = np.asarray(x)
        except ValueError:
            raise InputError("the input is no array: its rows have different lengths") from None
        if given.shape != self.shape:
            raise InputError(f"the input has shape {given.shape}, and this zoo takes {self.shape}")
        if given.dtype.kind not in "iuf":
            raise InputError(f"the input is {given.dtype}, and this zoo takes {self.dtype}")
        if not np.isfinite(given).all():
            raise InputError("the input has values that are NaN or infinite")
        with np.errstate(over="ignore", invalid="ignore"):
            array = given.astype(self.dtype, copy=False)
        if not self._holds(given, array):
            raise InputError(f"the input has {given.dtype} values that {self.dtype}, which this zoo takes, cannot hold")
        return array[np.newaxis]

    def _holds(self, given: npt.NDArray[Any], array: npt.NDArray[Any]) -> bool:
        """Whether a cast kept the values: rounded where this zoo takes floats, exactly where it takes integers."""
        if given.dtype == array.dtype:
            return True
        return bool(np.isfinite(array).all() if array.dtype.kind == "f" else (array == given).all())


class Balance(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How evenly a variant does over the classes of the test split.

    ``worst_class`` is the class whose share of right answers fell most against the base model, by
    ``worst_change`` (negative is worse).
    """

    macro_f1: float
    worst_class: str
    worst_change: float


class Variant(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One runnable model: a signature in a file, how it was made, and what was measured of it.

    ``accuracy`` is by split; ``parity`` is the largest difference between the probabilities that
    Keras and LiteRT give on tune inputs. ``float_operators`` are those that a quantised network computes in
    float, because integers would have cost too much accuracy. ``resumes`` is the variant that this one can go on from,
    by signatures that ``profiling.resume`` names. What only the network's structure tells is null
    for a file that somebody brought.
    """

    id: str
    file: str
    sha256: str
    signature: str
    recipe: Recipe
    parent: str | None
    accuracy: dict[str, float]
    macs: int | None
    parameters: int | None
    size: int
    peak_activation_bytes: int | None
    parity: float | None
    resumes: str | None = None
    balance: Balance | None = None
    float_operators: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"variants/[\w.+-]+\.tflite", self.file):
            raise ValueError(f"a variant's file is variants/NAME.tflite, not {self.file!r}")


class Manifest(Document, frozen=True, kw_only=True):
    """``zoo.json``: written last, so that a directory without it is an unfinished build.

    ``files`` has the hashes of what else the build made, of ``BUILT_FILES``.
    """

    name: str
    classes: tuple[str, ...]
    input: InputSpec
    variants: tuple[Variant, ...]
    files: dict[str, str] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.variants:
            raise ValueError("a zoo has at least its base model")
        if unknown := self.files.keys() - BUILT_FILES:
            raise ValueError(f"no build makes {', '.join(sorted(unknown))}")
        for variant in self.variants:
            if missing := {"route", "test"} - variant.accuracy.keys():
                raise ValueError(f"{variant.id} lacks the accuracy on {', '.join(sorted(missing))}")


def profile_path(zoo: Path, device_id: str, beside: Conditions | None = None) -> Path:
    """Where the profile of a device is kept in a zoo directory, finished or not.

    Args:
        zoo: the directory.
        device_id: the device's.
        beside: the conditions of a profile other than the one that premodel and service go by.
    """
    name = device_id if beside is None else f"{device_id}{_BESIDE}{beside.slug or 'usual'}"
    return zoo / "profiles" / f"{name}.json"


class Zoo:
    """A finished zoo directory."""

    MANIFEST: ClassVar[str] = "zoo.json"

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path = path
        self.manifest = manifest
        self.variants: Mapping[str, Variant] = {variant.id: variant for variant in manifest.variants}

    @classmethod
    def open(cls, path: Path | str) -> Zoo:
        """Opens a zoo directory; its variant files are not read yet.

        Raises:
            NotAZooError: no such directory, an unfinished build, or something else.
            SchemaError: a zoo of a newer version, or a damaged ``zoo.json``.
        """
        path = Path(path)
        if not path.is_dir():
            raise NotAZooError(f"{path}: no such directory")
        if (path / "build.json").exists() and not (path / cls.MANIFEST).exists():
            raise NotAZooError(f"{path} is an unfinished build: run the same build-zoo command to finish it")
        if not (path / cls.MANIFEST).exists():
            raise NotAZooError(f"{path} is not a zoo: it has no {cls.MANIFEST}")
        return cls(path, Manifest.read(path / cls.MANIFEST))

    @property
    def hashes(self) -> dict[str, str]:
        """The file hash of each variant, which files made for them record."""
        return {variant.id: variant.sha256 for variant in self.manifest.variants}

    def variant(self, variant_id: str) -> Variant:
        """The variant of that id.

        Raises:
            UsageError: there is none.
        """
        if variant_id not in self.variants:
            raise UsageError(f"no variant {variant_id!r} in {self.path}: there are {', '.join(self.variants)}")
        return self.variants[variant_id]

    def verified_file(self, variant_id: str) -> Path:
        """The path of a variant's file, after comparing its content with what was recorded.

        Raises:
            DamagedFileError: the file is missing or has changed.
        """
        variant = self.variant(variant_id)
        path = self.path / variant.file
        if not path.is_file():
            raise DamagedFileError(f"{path} is missing: build the zoo anew")
        if sha256(path) != variant.sha256:
            raise DamagedFileError(f"{path} is not the file that was built (its hash differs): build the zoo anew")
        return path

    def profile_path(self, device_id: str) -> Path:
        """Where the profile of a device is kept."""
        return profile_path(self.path, device_id)

    def profile_files(self) -> list[Path]:
        """The files of all profiles, in order of their names."""
        return sorted(path for path in (self.path / "profiles").glob("*.json") if not is_temporary(path))

    def profiles(self) -> Iterator[Profile]:
        """The profiles that premodel and service go by, one a device, in order of their names.

        Of those that cannot be read, such as of an older version, there is a warning.
        """
        for path in self.profile_files():
            if _BESIDE not in path.stem:
                try:
                    yield Profile.read(path)
                except SchemaError as error:
                    warn(f"{error}; profile-zoo on that device renews it")

    def problems(self) -> list[str]:
        """What is wrong with the files of this zoo, a line each."""
        premodel = sorted((self.path / "premodel").glob("*.json"))
        return [
            *self.build_problems(),
            *_complaints((self._require_profile, path) for path in self.profile_files()),
            *_complaints((self._require_premodel, path) for path in premodel),
        ]

    def build_problems(self) -> list[str]:
        """What is wrong with the files that ``build-zoo`` makes, but for profiles, a line each."""
        return [
            *_complaints((self.verified_file, variant.id) for variant in self.manifest.variants),
            *_complaints((self._require_file, item) for item in self.manifest.files.items()),
        ]

    def _require_file(self, recorded: tuple[str, str]) -> None:
        name, digest = recorded
        if not (self.path / name).is_file():
            raise DamagedFileError(f"{self.path / name} is missing: build the zoo anew")
        if sha256(self.path / name) != digest:
            raise DamagedFileError(f"{self.path / name} is not the file that was built (its hash differs)")

    def _require_profile(self, path: Path) -> None:
        if not Profile.read(path).covers(self.hashes):
            raise StaleError(f"{path} is of other variants: run profile-zoo on that device")

    def _require_premodel(self, path: Path) -> None:
        try:
            made_for = msgspec.json.decode(path.read_bytes(), type=_MadeFor)
        except msgspec.DecodeError as error:
            raise SchemaError(f"{path} is damaged: {error}; run train-premodel") from None
        if made_for.variants != self.hashes:
            raise StaleError(f"{path} is of other variants: run train-premodel")
        estimate = self.path / "premodel" / "estimate.tflite"
        if made_for.estimate_sha256 and (not estimate.exists() or sha256(estimate) != made_for.estimate_sha256):
            raise DamagedFileError(f"{estimate} is not the one that {path.name} was made for: run train-premodel")


def _complaints(checks: Iterable[tuple[Callable[[Any], object], object]]) -> list[str]:
    """What checks, each of a subject, have to complain about."""
    complaints = []
    for check, subject in checks:
        try:
            check(subject)
        except ZooError as error:
            complaints.append(str(error))
    return complaints


class _MadeFor(msgspec.Struct):
    """What every file of the premodel says: the file hashes of the variants, and a plan also the estimate's."""

    variants: dict[str, str]
    estimate_sha256: str | None = None
