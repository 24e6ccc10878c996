from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from fleetfoot.files import sha256
from tests.conftest import run
from zoo.backend import keras
from zoo.catalog import Manifest, Zoo
from zoo.commands import build_zoo
from zoo.outcomes import Outcomes

BIN = Path(sys.executable).parent
NOTHING_BUT_INT8 = ["--prune", "", "--low-rank", "", "--subnetworks", "", "--quantize", "int8"]

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="session")
def few(base_file: Path) -> list[str]:
    """Options of a build that is over soon: five variants, fine-tuned for one epoch."""
    return [
        "--model",
        str(base_file),
        "--epochs",
        "3",
        "--finetune-epochs",
        "1",
        "--prune",
        "0.5",
        "--low-rank",
        "",
        "--subnetworks",
        "0.25,0.5",
    ]


@pytest.fixture(scope="session")
def reference(tmp_path_factory: pytest.TempPathFactory, few: list[str]) -> Path:
    """What a build with ``few`` leaves when nothing disturbs it; read-only by agreement."""
    path = tmp_path_factory.mktemp("reference") / "zoo"
    built = run("build-zoo", "--out", path, *few)
    assert built.returncode == 0, built.stderr
    return path


@pytest.fixture
def copy(tmp_path: Path, reference: Path) -> Path:
    return Path(shutil.copytree(reference, tmp_path / "zoo"))


@pytest.fixture
def build(call_here: Call) -> Call:
    """Calls ``build-zoo`` in this process and returns its exit status, standard output and standard error."""

    return partial(call_here, build_zoo)


def contents(path: Path) -> dict[str, str]:
    """Every file below a directory, with its hash."""
    return {str(file.relative_to(path)): sha256(file) for file in sorted(path.rglob("*")) if file.is_file()}


def identities(path: Path) -> dict[str, str]:
    return {variant.id: variant.sha256 for variant in Manifest.read(path / "zoo.json").variants}


def saved(model: Any, path: Path) -> Path:
    model.save(path)
    return path


# What was asked for is there.


def test_the_few_variants_that_were_asked_for_are_made(reference: Path) -> None:
    names = [name.rpartition("-")[0] for name in identities(reference)]
    assert names == ["base", "pruned-0.5", "base-int8", "sub-0.25", "sub-0.5"]
    assert list(Zoo.open(reference).problems()) == []
    assert not list(reference.rglob(".half-written-*"))


def test_the_same_command_again_does_nothing_and_says_so(build: Call, copy: Path, few: list[str]) -> None:
    before = contents(copy)
    status, out, err = build("--out", copy, *few)
    assert status == 0
    assert f"{copy} is already built; --overwrite builds it anew" in err
    assert "pruned-0.5" in out
    assert contents(copy) == before


def test_the_result_is_printed_as_json_for_a_machine(build: Call, reference: Path, few: list[str]) -> None:
    status, out, err = build("--out", reference, *few, "--json", "--quiet")
    assert status == 0
    assert err == ""
    assert json.loads(out) == json.loads((reference / "zoo.json").read_text())


@pytest.mark.parametrize(
    ("changed", "difference"),
    [
        (["--prune", "0.75"], "prune was (0.5,)"),
        (["--subnetworks", "0.5"], "subnetworks was (0.25, 0.5)"),
        (["--quantize", ""], "quantize was ('int8',)"),
        (["--seed", "1"], "seed was 0"),
        (["--finetune-epochs", "2"], "finetune_epochs was 1"),
        (["--train-base", "1"], "train_base was None"),
        (["--augment", "shift"], "augment was ()"),
        (["--on-bad", "skip"], "on_bad was refuse"),
        (["--model", "digits-cnn"], "model was "),
        pytest.param(["--epochs", "2"], "epochs was 3"),
        pytest.param(["--epochs", "12"], "epochs was 3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_other_options_are_refused_naming_the_difference(
    build: Call, copy: Path, few: list[str], changed: list[str], difference: str
) -> None:
    before = contents(copy)
    status, out, err = build("--out", copy, *few, *changed)
    assert status == 2
    assert out == ""
    assert difference in err
    assert "--overwrite" in err
    assert err.count("\n") == 1
    assert contents(copy) == before


def test_other_data_under_the_same_name_are_refused(build: Call, copy: Path, few: list[str]) -> None:
    record = json.loads((copy / "build.json").read_text())
    (copy / "build.json").write_text(json.dumps(record | {"data_fingerprint": "0" * 64}))
    status, _, err = build("--out", copy, *few)
    assert status == 2
    assert "begun with other data under the name digits" in err


def test_an_unfinished_build_is_not_gone_on_with_by_other_versions(build: Call, copy: Path, few: list[str]) -> None:
    record = json.loads((copy / "build.json").read_text())
    record["versions"]["keras"] = "3.0.0"
    (copy / "build.json").write_text(json.dumps(record))
    (copy / "zoo.json").unlink()
    status, _, err = build("--out", copy, *few)
    assert status == 2
    assert "begun with other versions" in err
    assert "3.0.0" in err


def test_a_zoo_is_built_anew_only_when_told_to(build: Call, copy: Path, few: list[str]) -> None:
    old = identities(copy)
    (copy / "premodel").mkdir()
    (copy / "premodel" / "of-the-old-zoo.json").touch()
    status, out, err = build("--out", copy, *few[:4], *NOTHING_BUT_INT8, "--overwrite", "--json")
    assert status == 0, err
    new = identities(copy)
    assert [name.rpartition("-")[0] for name in new] == ["base", "base-int8"]
    assert new.items() <= old.items()
    assert [variant["id"] for variant in json.loads(out)["variants"]] == list(new)
    assert sorted(path.name for path in (copy / "variants").iterdir()) == sorted(f"{name}.tflite" for name in new)
    assert not (copy / "premodel").exists()
    assert list(Zoo.open(copy).problems()) == []


@pytest.mark.parametrize("damage", ["removed", "altered"])
@pytest.mark.parametrize("file", ["variants/base-int8-*", "base/model.keras", "outcomes.parquet", "profiles/*.json"])
def test_a_finished_zoo_whose_files_were_damaged_is_mended(
    build: Call, copy: Path, few: list[str], file: str, damage: str
) -> None:
    before = identities(copy)
    (path,) = copy.glob(file)
    if damage == "removed":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes() + b" ")
    status, _, err = build("--out", copy, *few)
    assert status == 0, err
    assert identities(copy) == before
    assert list(Zoo.open(copy).problems()) == []


def test_a_finished_zoo_whose_record_was_altered_is_mended_or_refused(build: Call, copy: Path, few: list[str]) -> None:
    (copy / "build.json").write_bytes((copy / "build.json").read_bytes() + b" ")
    build("--out", copy, *few)
    assert (copy / "build.json").exists()
    assert build("--out", copy, *few)[0] == 0


@pytest.mark.parametrize("file", ["outcomes.parquet", "profiles/*.json"])
def test_a_measure_that_cannot_be_read_is_taken_again(build: Call, copy: Path, few: list[str], file: str) -> None:
    (path,) = copy.glob(file)
    path.write_bytes(path.read_bytes()[:100])
    status, _, err = build("--out", copy, *few)
    assert status == 0, err
    assert list(Zoo.open(copy).problems()) == []


# What is not ours is never touched.


@pytest.mark.parametrize("overwrite", [[], ["--overwrite"]], ids=["", "overwrite"])
def test_a_directory_with_something_else_in_it_is_refused_and_left_alone(
    build: Call, tmp_path: Path, few: list[str], overwrite: list[str]
) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    status, _, err = build("--out", tmp_path, *few, *overwrite)
    assert status == 1
    expected = f"build-zoo: {tmp_path} holds something that is no zoo: name an empty or a new directory"
    assert err.splitlines()[-1] == expected
    assert contents(tmp_path).keys() == {"thesis.tex"}


@pytest.mark.parametrize("name", ["build.json", "zoo.json"])
def test_somebody_else_s_file_of_the_same_name_does_not_make_a_directory_ours(
    build: Call, tmp_path: Path, few: list[str], name: str
) -> None:
    (tmp_path / name).write_text('{"scripts": {"build": "make"}}')
    (tmp_path / "thesis.tex").write_text("years of work")
    status, _, _ = build("--out", tmp_path, *few[:4], *NOTHING_BUT_INT8, "--overwrite")
    assert (tmp_path / "thesis.tex").exists()
    assert status != 0


def test_what_a_link_in_a_zoo_points_to_is_left_alone(build: Call, tmp_path: Path, copy: Path, few: list[str]) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.tex").write_text("years of work")
    (copy / "personal").symlink_to(elsewhere)
    status, _, err = build("--out", copy, *few[:4], *NOTHING_BUT_INT8, "--overwrite")
    assert status == 0, err
    assert not (copy / "personal").exists()
    assert (elsewhere / "thesis.tex").exists()


def test_a_directory_of_zoos_is_refused_and_the_builds_in_it_are_left_alone(
    build: Call, tmp_path: Path, few: list[str]
) -> None:
    half = tmp_path / "zoos" / "another" / "variants" / ".half-written-0a1b2c3d-base.tflite"
    half.parent.mkdir(parents=True)
    half.write_text("what another build is just writing")
    assert build("--out", tmp_path, *few)[0] == 1
    assert half.exists()


def test_a_build_that_was_killed_before_it_wrote_anything_whole_is_begun_again(
    build: Call, tmp_path: Path, few: list[str]
) -> None:
    (tmp_path / ".half-written-0a1b2c3d-build.json").write_text('{"schema_')
    status, _, err = build("--out", tmp_path, *few[:4], *NOTHING_BUT_INT8)
    assert status == 0, err
    assert not list(tmp_path.rglob(".half-written-*"))


def test_a_file_is_no_place_for_a_zoo(build: Call, tmp_path: Path, few: list[str]) -> None:
    (tmp_path / "file").write_text("content")
    status, _, err = build("--out", tmp_path / "file", *few, "--overwrite")
    assert status == 1
    assert err.splitlines()[-1] == f"build-zoo: {tmp_path}/file is a file: --out names a directory"
    assert (tmp_path / "file").read_text() == "content"


@contextmanager
def being_built(path: Path) -> Iterator[None]:
    """Holds a directory as a running build does."""
    directory = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)


def test_a_second_build_of_the_same_directory_is_refused(build: Call, copy: Path, few: list[str]) -> None:
    with being_built(copy):
        status, _, err = build("--out", copy, *few)
    assert status == 1
    assert f"{copy} is being changed by another process" in err


def test_a_directory_that_is_being_built_is_not_deleted(build: Call, copy: Path, few: list[str]) -> None:
    before = contents(copy)
    with being_built(copy):
        status, _, _ = build("--out", copy, *few[:4], *NOTHING_BUT_INT8, "--overwrite")
    assert status == 1
    assert contents(copy) == before


# What cannot be meant is said at once, and leaves nothing behind.


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--data", "cifar"], 2, "unknown dataset 'cifar': there is digits"),
        (["--model", "resnet"], 2, "unknown model 'resnet': give the path of a Keras file or a SavedModel"),
        (["--model", "missing.keras"], 1, "missing.keras does not exist"),
        (["--strategy", "dqn"], 2, "unknown strategy 'dqn': there is grid"),
        (["--quantize", "int3"], 2, "unknown quantisation 'int3': did you mean int8?"),
        (["--prune", "1.5"], 2, "a keep ratio must be above 0 and at most 1, and 1.5 is not"),
        (["--low-rank", "0"], 2, "a keep ratio must be above 0 and at most 1, and 0 is not"),
        (["--subnetworks", "0.5,0.25"], 2, "fractions of the MACs must ascend"),
        (["--device", "toaster"], 1, "unknown device 'toaster'"),
        (["--epochs", "0"], 2, "--epochs"),
        (["--jobs", "0"], 2, "--jobs"),
        pytest.param(["--prune", "nan"], 2, "a keep ratio must be above 0 and at most 1, and nan is not"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_option_that_cannot_be_meant_is_refused(
    build: Call, tmp_path: Path, few: list[str], options: list[str], status: int, message: str
) -> None:
    refused, out, err = build("--out", tmp_path / "zoo", *few, *options, "--quiet")
    assert refused == status
    assert out == ""
    assert message in err
    assert err.count("\n") == 1
    assert not (tmp_path / "zoo" / "build.json").exists()


def test_a_subnetwork_that_no_widths_are_narrow_enough_for_is_left_out_with_a_warning(
    build: Call, tmp_path: Path, few: list[str]
) -> None:
    options = ["--subnetworks", "0.0001,0.5", "--dry-run", "--json", "--quiet"]
    status, out, err = build("--out", tmp_path / "zoo", *few, *options)
    assert status == 0
    assert "warning: sub-0.0001 is left out: the least possible is 0.0" in err
    assert [line["name"] for line in json.loads(out)] == ["base", "pruned-0.5", "base-int8", "sub-0.5"]


@pytest.mark.parametrize("options", [["--model", "resnet"], ["--prune", "1.5"], ["--subnetworks", "0.5,0.25"]], ids=str)
def test_after_a_mistyped_option_the_right_one_is_taken(
    build: Call, tmp_path: Path, few: list[str], options: list[str]
) -> None:
    assert build("--out", tmp_path / "zoo", *few[:4], *NOTHING_BUT_INT8, *options)[0] == 2
    assert not (tmp_path / "zoo" / "build.json").exists()


def test_a_model_of_other_classes_is_refused(build: Call, tmp_path: Path) -> None:
    inputs = keras.Input((8, 8, 1), name="input")
    seven = keras.Model(inputs, keras.layers.Dense(7, activation="softmax")(keras.layers.Flatten()(inputs)))
    path = saved(seven, tmp_path / "seven.keras")
    status, _, err = build("--out", tmp_path / "zoo", "--model", path)
    assert status == 1
    assert f"{path} answers with shape (7,), and digits has 10 classes" in err
    assert err.count("\n") == 1


def test_a_truncated_model_is_refused(build: Call, tmp_path: Path, base_file: Path) -> None:
    path = tmp_path / "cut.keras"
    path.write_bytes(base_file.read_bytes()[:5000])
    status, _, err = build("--out", tmp_path / "zoo", "--model", path)
    assert status == 1
    assert str(path) in err
    assert err.count("\n") == 1
    assert not (tmp_path / "zoo" / "base").exists()


# A dry run.


def test_a_dry_run_says_what_a_build_makes_and_writes_nothing(
    build: Call, tmp_path: Path, reference: Path, few: list[str]
) -> None:
    status, out, _ = build("--out", tmp_path / "zoo", *few, "--dry-run", "--json")
    assert status == 0
    assert list(tmp_path.iterdir()) == []
    made = Manifest.read(reference / "zoo.json").variants
    forecast = json.loads(out)
    assert [line["name"] for line in forecast] == [variant.id.rpartition("-")[0] for variant in made]
    for line, variant in zip(forecast, made, strict=True):
        assert (line["macs"], line["parameters"]) == (variant.macs, variant.parameters)
        assert line["seconds"] > 0
    assert forecast[0]["size"] == pytest.approx(made[0].size, rel=0.2)


def test_a_dry_run_is_a_table_for_people(build: Call, tmp_path: Path, few: list[str]) -> None:
    status, out, err = build("--out", tmp_path / "zoo", *few, "--dry-run")
    assert status == 0, err
    assert out.startswith("would make 5 variants, ")
    assert all(name in out for name in ("base-int8", "pruned-0.5", "sub-0.25", "sub-0.5"))
    assert not (tmp_path / "zoo").exists()


def test_a_dry_run_refuses_what_a_build_refuses(build: Call, tmp_path: Path, few: list[str]) -> None:
    assert build("--out", tmp_path / "zoo", *few, "--dry-run", "--prune", "2")[0] == 2


# A build that was stopped goes on.


def test_a_build_without_its_last_file_only_writes_that(build: Call, copy: Path, few: list[str]) -> None:
    before = contents(copy)
    (copy / "zoo.json").unlink()
    assert build("--out", copy, *few)[0] == 0
    assert contents(copy) == before


def test_a_missing_variant_is_made_again_just_as_it_was(build: Call, copy: Path, few: list[str]) -> None:
    before = identities(copy)
    (copy / "zoo.json").unlink()
    (pruned,) = copy.glob("variants/pruned-*")
    others = {path: path.stat().st_mtime_ns for path in copy.glob("variants/*") if path != pruned}
    pruned.unlink()
    assert build("--out", copy, *few)[0] == 0
    assert identities(copy) == before
    assert {path: path.stat().st_mtime_ns for path in others} == others


def test_a_damaged_variant_of_an_unfinished_build_is_made_again(build: Call, copy: Path, few: list[str]) -> None:
    before = identities(copy)
    (copy / "zoo.json").unlink()
    (int8,) = copy.glob("variants/base-int8-*")
    int8.write_bytes(b"damaged")
    assert build("--out", copy, *few)[0] == 0
    assert identities(copy) == before


def test_profile_and_outcomes_are_renewed_when_they_are_of_other_variants(
    build: Call, copy: Path, few: list[str]
) -> None:
    before = Outcomes.read(copy / "outcomes.parquet")
    stale = Outcomes(before.table, dict.fromkeys(before.hashes, "0" * 64))
    stale.write(copy / "outcomes.parquet")
    (profile,) = (copy / "profiles").glob("*.json")
    profile.unlink()
    (copy / "zoo.json").unlink()
    assert build("--out", copy, *few)[0] == 0
    assert Outcomes.read(copy / "outcomes.parquet").hashes == before.hashes
    assert profile.exists()
    assert list(Zoo.open(copy).problems()) == []


def test_a_damaged_base_model_of_an_unfinished_build_is_named(build: Call, copy: Path, few: list[str]) -> None:
    (copy / "zoo.json").unlink()
    (copy / "base" / "model.keras").write_bytes(b"damaged")
    status, _, err = build("--out", copy, *few)
    assert status == 1
    assert "base/model.keras" in err
    assert err.count("\n") == 1


Moment = Callable[[Path], bool]


def begun(zoo: Path) -> bool:
    return (zoo / "build.json").exists()


def first_made(zoo: Path) -> bool:
    return any(zoo.glob("variants/*.tflite"))


def all_but_one_made(zoo: Path) -> bool:
    journal = zoo / "search" / "trials.jsonl"
    return journal.exists() and journal.read_bytes().count(b"\n") == 3


def writing(zoo: Path) -> bool:
    return any(zoo.rglob(".half-written-*"))


def profiled(zoo: Path) -> bool:
    return any(zoo.glob("profiles/*.json"))


def recorded(zoo: Path) -> bool:
    return (zoo / "outcomes.parquet").exists()


def stopped(command: list[object], zoo: Path, moment: Moment, how: signal.Signals) -> tuple[int, str]:
    """Starts a build and sends it a signal as soon as ``moment`` has come; exit status and standard error."""
    words = [str(word) for word in command]
    with subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 240
        while not moment(zoo) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)
        process.send_signal(how)
        _, err = process.communicate(timeout=60)
    return process.returncode, err


def assert_finishes_as(reference: Path, zoo: Path, few: list[str]) -> None:
    """The same command finishes a build that was stopped, and makes what one makes that was left alone."""
    finished = run("build-zoo", "--out", zoo, *few)
    assert finished.returncode == 0, finished.stderr
    assert Manifest.read(zoo / "zoo.json").variants == Manifest.read(reference / "zoo.json").variants
    assert list(Zoo.open(zoo).problems()) == []
    assert not list(zoo.rglob(".half-written-*"))


def test_a_build_that_is_interrupted_and_then_killed_ends_as_one_that_was_left_alone(
    tmp_path: Path, reference: Path, few: list[str]
) -> None:
    zoo = tmp_path / "zoo"
    command = [BIN / "build-zoo", "--out", zoo, *few]

    status, err = stopped(command, zoo, first_made, signal.SIGINT)
    assert status == 130, err
    assert err.splitlines()[-1] == "build-zoo: interrupted"
    assert not list(zoo.rglob(".half-written-*"))
    assert "unfinished build" in run("inspect-zoo", zoo).stderr

    status, err = stopped(command, zoo, profiled, signal.SIGKILL)
    assert status == -signal.SIGKILL, err
    assert not (zoo / "zoo.json").exists()

    assert_finishes_as(reference, zoo, few)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_build_that_is_killed_at_every_stage_ends_as_one_that_was_left_alone(
    tmp_path: Path, reference: Path, few: list[str]
) -> None:
    zoo = tmp_path / "zoo"
    moments = [begun, writing, first_made, all_but_one_made, writing, profiled, recorded]
    for moment in moments:
        stopped([BIN / "build-zoo", "--out", zoo, *few], zoo, moment, signal.SIGKILL)
    assert_finishes_as(reference, zoo, few)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_variants_made_at_once_are_the_same_variants(tmp_path: Path, reference: Path, few: list[str]) -> None:
    built = run("build-zoo", "--out", tmp_path / "zoo", *few, "--jobs", 2)
    assert built.returncode == 0, built.stderr
    assert list(identities(tmp_path / "zoo")) == list(identities(reference))
    assert list(Zoo.open(tmp_path / "zoo").problems()) == []


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_built_in_network_is_trained_when_no_model_is_given(tmp_path: Path) -> None:
    built = run("build-zoo", "--out", tmp_path / "zoo", "--epochs", 2, *NOTHING_BUT_INT8)
    assert built.returncode == 0, built.stderr
    base = Manifest.read(tmp_path / "zoo" / "zoo.json").variants[0]
    assert base.accuracy["test"] > 0.5


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sequential_model_that_gives_logits_becomes_a_zoo(tmp_path: Path, digits: Any) -> None:
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(32, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.Conv2D(48, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(10),
        ]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(digits.x[:900], digits.y[:900], epochs=3, verbose=0)
    path = saved(model, tmp_path / "mine.keras")
    options = ["--epochs", 3, "--finetune-epochs", 1, "--prune", "0.5", "--low-rank", "0.7", "--subnetworks", "0.5"]
    built = run("build-zoo", "--out", tmp_path / "zoo", "--model", path, *options)
    assert built.returncode == 0, built.stderr
    names = [name.rpartition("-")[0] for name in identities(tmp_path / "zoo")]
    assert names == ["base", "pruned-0.5", "lowrank-0.7", "base-int8", "sub-0.5"]
    assert "Warning" not in built.stderr
