"""``profile-zoo``, as a user runs it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fleetfoot.files import sha256
from profiling.profile import Conditions, Profile, this_device
from runtime import Selector
from tests.conftest import BIN, run
from zoo.catalog import Zoo, profile_path
from zoo.commands import inspect_zoo, profile_zoo
from zoo.outcomes import Outcomes

HERE = this_device().id
QUICK = ("--min-runs", 20, "--half-width", 0.5, "--max-seconds", 1)

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls ``profile-zoo``, in this process; returns its exit status, standard output and standard error."""

    def profile(zoo: Path, *arguments: object, effort: tuple[object, ...] = QUICK) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            profile_zoo.main([str(argument) for argument in (zoo, *effort, *arguments)], "profile-zoo")
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return profile


@pytest.fixture
def little_zoo(zoo_copy: Path) -> Path:
    """A zoo of three variants, one a subnetwork, since each takes a while to open."""
    zoo = Zoo.open(zoo_copy)
    ids = list(zoo.variants)
    kept = [ids[0], next(name for name in ids if name.startswith("pruned-")),
            next(name for name in ids if name.startswith("sub-"))]  # fmt: skip
    variants = tuple(zoo.variants[name] for name in kept)
    msgspec.structs.replace(zoo.manifest, variants=variants).write(zoo_copy / Zoo.MANIFEST)
    for file in (zoo_copy / "premodel").iterdir():
        file.unlink()
    return zoo_copy


def profiles(zoo: Path) -> dict[str, Profile]:
    """The profiles of a zoo by the names of their files."""
    return {path.stem: Profile.read(path) for path in Zoo.open(zoo).profile_files()}


def remove_profiles(zoo: Path) -> None:
    for path in Zoo.open(zoo).profile_files():
        path.unlink()


# --- what is measured and kept ---


def test_a_zoo_is_measured_here_and_shown_as_a_table(little_zoo: Path) -> None:
    remove_profiles(little_zoo)
    done = run("profile-zoo", little_zoo, *QUICK)
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"train-premodel {little_zoo} plans for what was measured\n"
    assert f"({HERE})" in " ".join(done.stdout.split())
    assert "median ms" in done.stdout
    zoo = Zoo.open(little_zoo)
    for name in zoo.variants:
        assert name in done.stdout
    ((stem, profile),) = profiles(little_zoo).items()
    assert stem == profile.device_id == HERE
    assert list(profile.measurements) == list(zoo.variants)
    assert profile.covers(zoo.hashes)
    assert profile.conditions == Conditions()
    base, *others = profile.measurements.values()
    assert base.relative is None
    assert all(other.relative is not None for other in others)


def test_a_machine_reads_the_profiles_as_json(call: Call, little_zoo: Path) -> None:
    status, out, _ = call(little_zoo, "--json", "--quiet")
    assert status == 0
    (of_device,) = json.loads(out)
    (shown,) = of_device["profiles"]
    kept = json.loads(profile_path(little_zoo, HERE).read_text())
    assert shown | {"schema_version": 2} == kept
    assert of_device["accuracy"] is None


def test_the_first_conditions_are_those_that_the_service_goes_by_and_others_are_kept_beside(
    call: Call, little_zoo: Path
) -> None:
    status, out, _ = call(little_zoo, "--threads", "1,2", "--contended")
    assert status == 0
    found = profiles(little_zoo)
    assert {stem: profile.conditions for stem, profile in found.items()} == {
        HERE: Conditions(),
        f"{HERE}+threads-2": Conditions(threads=2),
        f"{HERE}+contended": Conditions(state="contended"),
    }
    assert [words in " ".join(out.split()) for words in ("1 thread (", "2 threads", "1 thread, contended")] == [
        True
    ] * 3
    (service_s,) = Zoo.open(little_zoo).profiles()
    assert service_s.conditions == Conditions()

    # Now the other way round: what was beside the first takes its place.
    assert call(little_zoo, "--threads", "2,1")[0] == 0
    found = profiles(little_zoo)
    assert {stem: profile.conditions for stem, profile in found.items()} == {
        HERE: Conditions(threads=2),
        f"{HERE}+usual": Conditions(),
        f"{HERE}+contended": Conditions(state="contended"),
    }
    assert Zoo.open(little_zoo).problems() == []


def test_all_profiles_can_be_inspected(little_zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    profile = profiles(little_zoo)[HERE]
    beside = Conditions(threads=2)
    msgspec.structs.replace(profile, conditions=beside).write(profile_path(little_zoo, HERE, beside))
    with pytest.raises(SystemExit):
        inspect_zoo.main([str(little_zoo)], "inspect-zoo")
    assert capsys.readouterr().out.count("ms on") == 2
    with pytest.raises(SystemExit):
        inspect_zoo.main([str(little_zoo), "--json"], "inspect-zoo")
    kept = json.loads(capsys.readouterr().out)["profiles"]
    assert sorted(one["conditions"]["threads"] for one in kept) == [1, 2]


def test_cores_are_kept_to_when_measuring_and_when_serving(call: Call, little_zoo: Path) -> None:
    core = max(os.sched_getaffinity(0))
    assert call(little_zoo, "--cpus", core)[0] == 0
    assert profiles(little_zoo)[HERE].conditions == Conditions(cpus=(core,))
    process = subprocess.Popen(
        [BIN / "serve-zoo", str(little_zoo), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("PYRO:")
        assert os.sched_getaffinity(process.pid) == {core}
    finally:
        process.terminate()
        process.communicate(timeout=60)


# --- what the variants answer there ---


def test_with_accuracy_the_inputs_are_run_there_and_the_premodel_plans_by_it(call: Call, little_zoo: Path) -> None:
    before = sha256(little_zoo / Outcomes.FILE)
    status, out, _ = call(little_zoo, "--accuracy")
    assert status == 0
    assert "test accuracy on the device" in out
    assert sha256(little_zoo / Outcomes.FILE) == before
    zoo, path = Zoo.open(little_zoo), little_zoo / f"outcomes-{HERE}.parquet"
    outcomes = Outcomes.read(path)
    assert outcomes.device_id == HERE
    assert outcomes.hashes == zoo.hashes
    for split in ("route", "test"):
        assert outcomes.accuracy(split) == pytest.approx({v.id: v.accuracy[split] for v in zoo.variants.values()})

    # Pretend that there all but the smallest variant are wrong on every input.
    smallest = list(zoo.variants)[-1]
    changed = outcomes.table.assign(correct=outcomes.table["correct"] & (outcomes.table["variant"] == smallest))
    Outcomes(changed, outcomes.hashes, HERE).write(path)
    trained = run("train-premodel", little_zoo)
    assert trained.returncode == 0, trained.stderr
    plan = json.loads((little_zoo / "premodel" / f"{HERE}.json").read_text())
    assert {name: p > 0 for name, p in plan["p_right"].items()} == {name: name == smallest for name in zoo.variants}


def test_outcomes_of_a_device_that_are_of_other_variants_are_left_out(little_zoo: Path) -> None:
    table = Outcomes.read(little_zoo / Outcomes.FILE)
    first, *_ = Zoo.open(little_zoo).variants
    Outcomes(table.table, table.hashes | {first: "0" * 64}, HERE).write(Outcomes.path(little_zoo, HERE))
    trained = run("train-premodel", little_zoo)
    assert trained.returncode == 0
    assert (
        f"outcomes-{HERE}.parquet is of other variants, and is left out: run profile-zoo --accuracy" in trained.stderr
    )


# --- what fails ---


def test_a_damaged_variant_is_left_out_with_a_warning(call: Call, little_zoo: Path) -> None:
    zoo = Zoo.open(little_zoo)
    base, damaged, other = zoo.manifest.variants
    # A sound model, but not the one that was recorded: its answers are not that variant's.
    (little_zoo / damaged.file).write_bytes((little_zoo / base.file).read_bytes())
    status, out, err = call(little_zoo, "--accuracy")
    assert status == 0
    assert f"warning: {damaged.id} is left out: {little_zoo / damaged.file} is not the file that was built" in err
    assert f"keeps the earlier profile of {HERE}, which has all variants" in err
    assert damaged.id in profiles(little_zoo)[HERE].measurements
    assert damaged.id not in out
    assert set(Outcomes.read(Outcomes.path(little_zoo, HERE)).hashes) == {base.id, other.id}


def test_without_an_earlier_profile_what_could_be_measured_is_kept(call: Call, little_zoo: Path) -> None:
    remove_profiles(little_zoo)
    base, damaged, other = Zoo.open(little_zoo).manifest.variants
    (little_zoo / damaged.file).unlink()
    status, _, _ = call(little_zoo)
    assert status == 0
    assert list(profiles(little_zoo)[HERE].measurements) == [base.id, other.id]


def test_a_device_that_cannot_be_reached_is_named_and_the_others_are_measured(call: Call, little_zoo: Path) -> None:
    remove_profiles(little_zoo)
    status, out, err = call(little_zoo, "--device", "abacus:1", "--device", "local")
    assert status == 1
    assert re.search(r"^profile-zoo: abacus:1: unknown device 'abacus:1': there are local, adb:SERIAL.*$", err, re.M)
    assert list(profiles(little_zoo)) == [HERE]
    assert HERE in "".join(out.split())


def test_without_any_device_nothing_changes(call: Call, little_zoo: Path) -> None:
    before = profile_path(little_zoo, HERE).read_bytes()
    status, out, err = call(little_zoo, "--device", "abacus")
    assert (status, out) == (1, "")
    assert err.startswith("profile-zoo: unknown device 'abacus'")
    assert err.count("\n") == 1
    assert profile_path(little_zoo, HERE).read_bytes() == before


def test_what_cannot_run_is_named_and_what_can_is_measured_and_kept(call: Call, little_zoo: Path) -> None:
    zoo = Zoo.open(little_zoo)
    broken = zoo.manifest.variants[1]
    (little_zoo / broken.file).write_bytes(b"not a model")
    variants = [
        msgspec.structs.replace(one, sha256=sha256(little_zoo / one.file), size=11) if one is broken else one
        for one in zoo.manifest.variants
    ]
    msgspec.structs.replace(zoo.manifest, variants=tuple(variants)).write(little_zoo / Zoo.MANIFEST)
    status, out, err = call(little_zoo)
    assert status == 1
    assert f"profile-zoo: {broken.id} cannot be measured here" in err
    assert err.count("\n") == 1
    profile = profiles(little_zoo)[HERE]
    assert broken.id not in profile.measurements
    assert list(profile.failures) == [broken.id]
    assert len(profile.measurements) == 2
    assert all(name in out for name in profile.measurements)


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (("--threads", "0"), 2, "'0' is no list of numbers of threads"),
        (("--threads", "many"), 2, "'many' is no list of numbers of threads"),
        (("--cpus", "1.5"), 2, "--cpus are the numbers of cores"),
        (("--cpus", "nan"), 2, "--cpus are the numbers of cores"),
        (("--cpus", "4096"), 1, "there is no core 4096 here: cores are numbered 0 to"),
        (("--delegate", "gpu"), 1, "this machine has no delegate gpu"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(
    call: Call, finished_zoo: Path, arguments: tuple[str, ...], status: int, reason: str
) -> None:
    ended, out, err = call(finished_zoo, *arguments)
    assert (ended, out) == (status, "")
    assert reason in err
    assert err.startswith("profile-zoo: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("what", ["nothing", "empty", "file"])
def test_what_is_no_zoo_is_refused_in_one_line(call: Call, tmp_path: Path, what: str) -> None:
    path = tmp_path / what
    if what == "file":
        path.touch()
    elif what == "empty":
        path.mkdir()
    status, out, err = call(path)
    assert (status, out) == (1, "")
    assert err.startswith(f"profile-zoo: {path}")
    assert err.count("\n") == 1


def test_ctrl_c_ends_it_soon_and_leaves_the_profile_as_it_was(little_zoo: Path) -> None:
    before = profile_path(little_zoo, HERE).read_bytes()
    process = subprocess.Popen(
        [BIN / "profile-zoo", str(little_zoo), "--min-runs", str(10**9), "--max-seconds", "1e9", "--contended"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    end = time.monotonic() + 60
    while not models_open(process.pid, little_zoo) and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err.strip()) == (130, "", "profile-zoo: interrupted")
    assert profile_path(little_zoo, HERE).read_bytes() == before
    assert not list((little_zoo / "profiles").glob(".*"))


def models_open(parent: int, zoo: Path) -> bool:
    """Whether a process has children that hold models of a zoo."""
    try:
        children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        return any(str(zoo / "variants") in Path(f"/proc/{child}/cmdline").read_text() for child in children)
    except FileNotFoundError:
        return False


# --- what becomes of it ---


def test_the_service_goes_by_what_was_measured_last(call: Call, little_zoo: Path) -> None:
    remove_profiles(little_zoo)
    assert call(little_zoo)[0] == 0
    profile = profiles(little_zoo)[HERE]
    described = Selector.open(little_zoo).describe()
    assert described.device_id == HERE
    assert dict(described.variants) == {
        name: measured.latency.mean_ms for name, measured in profile.measurements.items()
    }


def test_a_profile_of_the_older_form_is_made_anew(call: Call, little_zoo: Path) -> None:
    path = profile_path(little_zoo, HERE)
    old: dict[str, Any] = json.loads(path.read_text())
    old["schema_version"], old["threads"] = 1, old.pop("conditions")["threads"]
    path.write_text(json.dumps(old))
    (problem,) = Zoo.open(little_zoo).problems()
    assert f"{path} was written by an older Fleetfoot" in problem
    assert call(little_zoo)[0] == 0
    assert Zoo.open(little_zoo).problems() == []
