from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetfoot.errors import DamagedFileError, InputError, NotAZooError, SchemaError, UsageError
from profiling.profile import Conditions, Profile
from zoo.catalog import InputSpec, Manifest, Zoo, profile_path
from zoo.recipe import Recipe

DIGIT = InputSpec(kind="image", shape=(8, 8, 1), dtype="float32", minimum=0, maximum=16)
PHOTO = InputSpec(kind="image", shape=(4, 4, 3), dtype="uint8", minimum=0, maximum=255)


def base_id(zoo: Zoo) -> str:
    return next(iter(zoo.variants))


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "int64", "int32", "uint8"])
def test_a_digit_of_any_number_type_is_taken(dtype: str) -> None:
    image = np.arange(64).reshape(8, 8, 1).astype(dtype)
    checked = DIGIT.check(image)
    assert checked.shape == (1, 8, 8, 1)
    assert checked.dtype == np.float32
    np.testing.assert_array_equal(checked[0], image)


def test_a_list_of_lists_is_taken() -> None:
    image = [[[value] for value in range(8)] for _ in range(8)]
    assert DIGIT.check(image)[0, 3, 5, 0] == 5


def test_an_input_that_needs_no_conversion_is_not_copied() -> None:
    image = np.zeros((8, 8, 1), np.float32)
    assert np.shares_memory(DIGIT.check(image), image)


@given(values=st.lists(st.integers(0, 255), min_size=48, max_size=48))
def test_pixels_are_taken_as_they_are(values: list[int]) -> None:
    image = np.array(values, np.uint8).reshape(4, 4, 3)
    np.testing.assert_array_equal(PHOTO.check(image)[0], image)


@pytest.mark.parametrize("shape", [(), (64,), (8, 8), (8, 8, 3), (1, 8, 8, 1), (8, 9, 1), (0,)])
def test_another_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InputError, match=re.escape(f"has shape {shape}, and this zoo takes (8, 8, 1)")):
        DIGIT.check(np.zeros(shape))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(value: float) -> None:
    image = np.zeros((8, 8, 1), np.float32)
    image[7, 7, 0] = value
    with pytest.raises(InputError, match="NaN or infinite"):
        DIGIT.check(image)


@pytest.mark.parametrize("dtype", ["complex64", "bool", "U5", "S5", "object", "datetime64[s]"])
def test_values_of_another_kind_are_refused(dtype: str) -> None:
    with pytest.raises(InputError, match="and this zoo takes float32"):
        DIGIT.check(np.zeros((8, 8, 1)).astype(dtype))


@pytest.mark.parametrize("dtype", ["int8", "int64", "uint16", "float32", "float64"])
def test_whole_numbers_of_any_type_are_taken_as_pixels(dtype: str) -> None:
    image = np.arange(48).reshape(4, 4, 3)
    checked = PHOTO.check(image.astype(dtype))
    assert checked.dtype == np.uint8
    np.testing.assert_array_equal(checked[0], image)


@pytest.mark.parametrize("value", [0.5, -1, 256, 300.0, 1e10, np.uint16(300), np.int64(-200)])
def test_values_that_are_no_pixels_are_refused(value: float) -> None:
    with pytest.raises(InputError, match="values that uint8, which this zoo takes, cannot hold"):
        PHOTO.check(np.full((4, 4, 3), value))


@pytest.mark.parametrize("nonsense", ["digit.png", None, {"pixels": []}, [], 3])
def test_what_is_no_array_is_refused(nonsense: Any) -> None:
    with pytest.raises(InputError):
        DIGIT.check(nonsense)


def test_a_ragged_list_is_refused() -> None:
    with pytest.raises(InputError, match="its rows have different lengths"):
        DIGIT.check([[1.0, 2.0], [3.0]])


def test_a_value_that_would_become_infinite_is_refused() -> None:
    with pytest.raises(InputError, match="values that float32, which this zoo takes, cannot hold"):
        DIGIT.check(np.full((8, 8, 1), 1e300))


def test_a_finished_zoo_opens(finished_zoo: Path) -> None:
    zoo = Zoo.open(str(finished_zoo))
    assert zoo.path == finished_zoo
    assert list(zoo.variants) == [variant.id for variant in zoo.manifest.variants]
    assert zoo.hashes == {variant.id: variant.sha256 for variant in zoo.manifest.variants}
    assert len(zoo.manifest.classes) == 10


def test_no_directory_is_no_zoo(tmp_path: Path) -> None:
    with pytest.raises(NotAZooError, match="nothing: no such directory"):
        Zoo.open(tmp_path / "nothing")


def test_an_empty_directory_is_no_zoo(tmp_path: Path) -> None:
    with pytest.raises(NotAZooError, match="is not a zoo: it has no zoo.json"):
        Zoo.open(tmp_path)


def test_a_file_is_no_zoo(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotAZooError, match="file"):
        Zoo.open(tmp_path / "file")


def test_an_unfinished_build_says_how_to_finish_it(zoo_copy: Path) -> None:
    (zoo_copy / "zoo.json").unlink()
    with pytest.raises(NotAZooError, match="unfinished build: run the same build-zoo command"):
        Zoo.open(zoo_copy)


def test_a_zoo_of_a_newer_version_is_refused(zoo_copy: Path) -> None:
    manifest = json.loads((zoo_copy / "zoo.json").read_text()) | {"schema_version": 99, "news": True}
    (zoo_copy / "zoo.json").write_text(json.dumps(manifest))
    with pytest.raises(SchemaError, match=r"zoo\.json has schema_version 99.*upgrade fleetfoot"):
        Zoo.open(zoo_copy)


def test_a_truncated_manifest_is_named(zoo_copy: Path) -> None:
    text = (zoo_copy / "zoo.json").read_text()
    (zoo_copy / "zoo.json").write_text(text[: len(text) // 2])
    with pytest.raises(SchemaError, match=r"zoo\.json is damaged"):
        Zoo.open(zoo_copy)


def test_a_recipe_that_this_version_cannot_make_is_blamed_on_the_file(zoo_copy: Path) -> None:
    text = (zoo_copy / "zoo.json").read_text()
    (zoo_copy / "zoo.json").write_text(text.replace('"quantize": "int8"', '"quantize": "float4"'))
    with pytest.raises(SchemaError, match=r"zoo\.json"):
        Zoo.open(zoo_copy)


def test_a_manifest_reads_as_it_was_written(finished_zoo: Path, tmp_path: Path) -> None:
    manifest = Manifest.read(finished_zoo / "zoo.json")
    manifest.write(tmp_path / "zoo.json")
    assert Manifest.read(tmp_path / "zoo.json") == manifest
    assert (tmp_path / "zoo.json").read_bytes() == (finished_zoo / "zoo.json").read_bytes()


def test_a_variant_is_found_by_its_id(finished_zoo: Path) -> None:
    zoo = Zoo.open(finished_zoo)
    assert zoo.variant(base_id(zoo)).recipe == Recipe()


def test_an_unknown_variant_is_refused_naming_those_that_exist(finished_zoo: Path) -> None:
    zoo = Zoo.open(finished_zoo)
    with pytest.raises(UsageError, match=f"no variant 'base' in .*there are {base_id(zoo)}, "):
        zoo.variant("base")


def test_a_variant_s_file_is_verified(finished_zoo: Path) -> None:
    zoo = Zoo.open(finished_zoo)
    for variant in zoo.manifest.variants:
        assert zoo.verified_file(variant.id) == finished_zoo / variant.file
        assert variant.size == (finished_zoo / variant.file).stat().st_size


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def alter(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


damages = pytest.mark.parametrize("damage", [truncate, empty, alter, remove])


@damages
def test_a_damaged_variant_is_refused_by_name(zoo_copy: Path, damage: Callable[[Path], None]) -> None:
    zoo = Zoo.open(zoo_copy)
    variant = zoo.variant(base_id(zoo))
    damage(zoo_copy / variant.file)
    with pytest.raises(DamagedFileError, match=re.escape(str(zoo_copy / variant.file))):
        zoo.verified_file(variant.id)


def test_a_whole_zoo_has_no_problems(finished_zoo: Path) -> None:
    assert list(Zoo.open(finished_zoo).problems()) == []


@damages
def test_every_damaged_variant_is_a_problem_of_its_own(zoo_copy: Path, damage: Callable[[Path], None]) -> None:
    zoo = Zoo.open(zoo_copy)
    files = sorted({variant.file for variant in zoo.manifest.variants})
    damaged = {files[0], files[2]}
    for file in damaged:
        damage(zoo_copy / file)
    problems = list(zoo.problems())
    assert {file for file in files if any(file in problem for problem in problems)} == damaged


def test_a_damaged_profile_is_a_problem_beside_the_others(zoo_copy: Path) -> None:
    zoo = Zoo.open(zoo_copy)
    (profile,) = (zoo_copy / "profiles").glob("*.json")
    truncate(profile)
    alter(zoo_copy / zoo.variant(base_id(zoo)).file)
    problems = "\n".join(zoo.problems())
    assert str(profile) in problems
    assert zoo.variant(base_id(zoo)).file in problems


def test_a_profile_of_other_variants_is_a_problem(zoo_copy: Path) -> None:
    zoo = Zoo.open(zoo_copy)
    (path,) = (zoo_copy / "profiles").glob("*.json")
    profile = Profile.read(path)
    measurements = dict(profile.measurements)
    del measurements[base_id(zoo)]
    msgspec.structs.replace(profile, measurements=measurements).write(path)
    (problem,) = zoo.problems()
    assert str(path) in problem
    assert "run profile-zoo" in problem


@damages
@pytest.mark.parametrize("file", ["outcomes.parquet", "base/model.keras", "build.json"])
def test_any_other_damaged_file_is_a_problem_too(zoo_copy: Path, file: str, damage: Callable[[Path], None]) -> None:
    damage(zoo_copy / file)
    (problem,) = Zoo.open(zoo_copy).problems()
    assert str(zoo_copy / file) in problem


def test_a_damaged_premodel_is_a_problem(zoo_copy: Path) -> None:
    for plan in sorted((zoo_copy / "premodel").glob("*.json")):
        whole = plan.read_bytes()
        plan.write_bytes(whole[: len(whole) // 2])
        (problem,) = Zoo.open(zoo_copy).problems()
        assert str(plan) in problem
        assert "train-premodel" in problem
        plan.write_bytes(whole)


@damages
def test_a_damaged_estimate_is_a_problem(zoo_copy: Path, damage: Callable[[Path], None]) -> None:
    damage(zoo_copy / "premodel" / "estimate.tflite")
    assert any("estimate.tflite" in problem for problem in Zoo.open(zoo_copy).problems())


def test_the_profiles_of_a_zoo_come_in_order(zoo_copy: Path) -> None:
    zoo = Zoo.open(zoo_copy)
    (profile,) = zoo.profiles()
    assert zoo.profile_path(profile.device_id).exists()
    msgspec.structs.replace(profile, device_id="aaa").write(zoo.profile_path("aaa"))
    assert [found.device_id for found in zoo.profiles()] == ["aaa", profile.device_id]


def test_a_profile_beside_the_service_s_is_named_by_its_conditions_and_only_inspected(zoo_copy: Path) -> None:
    zoo = Zoo.open(zoo_copy)
    (profile,) = zoo.profiles()
    for conditions, slug in (Conditions(threads=4), "threads-4"), (Conditions(), "usual"):
        path = profile_path(zoo_copy, profile.device_id, conditions)
        assert path == zoo_copy / "profiles" / f"{profile.device_id}+{slug}.json"
        msgspec.structs.replace(profile, conditions=conditions).write(path)
    assert len(zoo.profile_files()) == 3
    assert [found.conditions for found in zoo.profiles()] == [profile.conditions]
    path.write_text("{")
    (problem,) = zoo.problems()
    assert str(path) in problem
