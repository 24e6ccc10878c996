from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from zoo.catalog import Zoo
from zoo.commands import inspect_zoo

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def inspect(call_here: Call) -> Call:
    """Calls ``inspect-zoo`` and returns its exit status, standard output and standard error."""

    return partial(call_here, inspect_zoo)


def test_a_zoo_is_shown_as_a_table_of_its_variants(inspect: Call, finished_zoo: Path) -> None:
    status, out, err = inspect(finished_zoo)
    assert status == 0
    assert err == ""
    for variant in Zoo.open(finished_zoo).manifest.variants:
        (line,) = (line for line in out.splitlines() if variant.id in line)
        assert f"{variant.accuracy['test']:.1%}" in line
        assert f"{variant.parameters:,}" in line
        assert "not measured" not in line


def test_a_machine_reads_the_same_as_json(inspect: Call, finished_zoo: Path) -> None:
    status, out, _ = inspect(finished_zoo, "--json")
    shown = json.loads(out)
    assert status == 0
    assert shown["zoo"] == json.loads((finished_zoo / "zoo.json").read_text())
    assert shown["problems"] is None
    (profile,) = shown["profiles"]
    assert profile["measurements"].keys() == {variant["id"] for variant in shown["zoo"]["variants"]}


def test_a_whole_zoo_is_verified(inspect: Call, finished_zoo: Path) -> None:
    status, _, err = inspect(finished_zoo, "--verify")
    assert status == 0
    assert err == f"{finished_zoo}: all files are as recorded\n"
    assert json.loads(inspect(finished_zoo, "--verify", "--json")[1])["problems"] == []


def test_every_damaged_file_is_named_in_one_line(inspect: Call, zoo_copy: Path) -> None:
    variants = Zoo.open(zoo_copy).manifest.variants
    (zoo_copy / variants[0].file).write_bytes(b"damaged")
    (zoo_copy / variants[1].file).unlink()
    status, out, err = inspect(zoo_copy, "--verify")
    assert status == 1
    assert variants[2].id in out
    assert err.count("\n") == 1
    assert f"{zoo_copy / variants[0].file} is not the file that was built" in err
    assert f"{zoo_copy / variants[1].file} is missing" in err
    assert variants[2].file not in err
    status, out, err = inspect(zoo_copy, "--verify", "--json")
    assert status == 1
    assert len(json.loads(out)["problems"]) == 2


def test_a_damaged_profile_does_not_hide_the_other_problems(inspect: Call, zoo_copy: Path) -> None:
    variants = Zoo.open(zoo_copy).manifest.variants
    (zoo_copy / variants[0].file).write_bytes(b"damaged")
    (profile,) = (zoo_copy / "profiles").glob("*.json")
    profile.write_text("{")
    status, _, err = inspect(zoo_copy, "--verify")
    assert status == 1
    assert str(profile) in err
    assert variants[0].file in err


def test_a_variant_that_was_not_measured_is_shown_as_such(inspect: Call, zoo_copy: Path) -> None:
    (profile,) = (zoo_copy / "profiles").glob("*.json")
    data = json.loads(profile.read_text())
    dropped, _ = data["measurements"].popitem()
    profile.write_text(json.dumps(data))
    _, out, _ = inspect(zoo_copy)
    (line,) = (line for line in out.splitlines() if dropped in line)
    assert "not measured" in line


@pytest.mark.parametrize("what", ["nothing", "empty", "file", "unfinished"])
def test_what_is_no_zoo_is_refused_in_one_line(inspect: Call, tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "file":
        path.touch()
    elif what != "nothing":
        path.mkdir()
    if what == "unfinished":
        (path / "build.json").touch()
    status, out, err = inspect(path)
    assert status == 1
    assert out == ""
    assert err.startswith(f"inspect-zoo: {path}")
    assert err.count("\n") == 1
