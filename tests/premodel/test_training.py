"""Training the premodel of a zoo, on outcomes in which there is something to learn, or nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fleetfoot.errors import DataError, FleetfootError, NotAZooError, SchemaError, StaleError, UsageError, ZooError
from fleetfoot.files import sha256
from premodel.plan import ESTIMATE_FILE, Plan
from premodel.training import FEATURES_FILE, Evaluation, train_premodel
from profiling.profile import Profile, this_device
from zoo.catalog import Manifest, Zoo
from zoo.datasets import split_indices
from zoo.outcomes import Outcomes
from zoo.record import BuildRecord

HERE = this_device().id
ELSEWHERE = "another-board-0badcafe"

Array = np.ndarray[Any, Any]


def scaled(profile: Profile, factor: float, device_id: str | None = None) -> Profile:
    """The profile of a device on which every variant takes ``factor`` times as long."""

    def slower(latency: Any) -> Any:
        fields = msgspec.structs.asdict(latency)
        times = {name: factor * value for name, value in fields.items() if name.endswith("_ms") and value is not None}
        return msgspec.structs.replace(latency, **times)

    return msgspec.structs.replace(
        profile,
        device_id=device_id or profile.device_id,
        measurements={
            name: msgspec.structs.replace(measured, latency=slower(measured.latency))
            for name, measured in profile.measurements.items()
        },
    )


def change_profile(path: Path, change: Callable[[Profile], Profile]) -> Profile:
    """Writes into the zoo what ``change`` makes of its profile of this machine."""
    zoo = Zoo.open(path)
    changed = change(Profile.read(zoo.profile_path(HERE)))
    changed.write(zoo.profile_path(changed.device_id))
    return changed


def train(path: Path) -> dict[str, Evaluation]:
    return {evaluation.device_id: evaluation for evaluation in train_premodel(path, "local")}


@pytest.fixture
def write_correct(zoo_copy: Path) -> Callable[[Callable[[str, Array, Array], Array]], None]:
    """A function that rewrites who was right: from a variant's id, raw inputs and random numbers, per input."""

    def write(right: Callable[[str, Array, Array], Array]) -> None:
        from zoo.datasets import load_dataset

        data = load_dataset("digits")
        every = np.concatenate([split_indices(data, 0)[split] for split in ("route", "test")])
        images = dict(zip(data.input_ids(every), data.x[every], strict=True))
        outcomes = Outcomes.read(zoo_copy / Outcomes.FILE)
        generator = np.random.default_rng(0)
        for variant, rows in outcomes.table.groupby("variant").groups.items():
            x = np.stack([images[name] for name in outcomes.table.loc[rows, "input"]])
            outcomes.table.loc[rows, "correct"] = right(str(variant), x, generator.random(len(rows)))
        outcomes.write(zoo_copy / Outcomes.FILE)

    return write


# --- what training leaves behind ---


def test_a_trained_zoo_has_an_estimate_and_a_plan_of_the_variants_it_has(finished_zoo: Path) -> None:
    zoo = Zoo.open(finished_zoo)
    plan = Plan.read(Plan.path(finished_zoo, HERE))
    assert plan.device_id == HERE
    assert plan.variants == zoo.hashes
    assert list(plan.variants) == list(zoo.variants)  # the order of the estimate's outputs
    assert plan.estimate_sha256 == sha256(finished_zoo / ESTIMATE_FILE)
    assert plan.measured
    assert plan.p_right == pytest.approx({name: v.accuracy["route"] for name, v in zoo.variants.items()})
    assert plan.stages[0].name == "table"
    assert plan.stages[0].mean_ms == 0


def test_the_evaluation_is_of_the_test_split_under_budgets_that_can_be_kept(finished_zoo: Path) -> None:
    zoo = Zoo.open(finished_zoo)
    evaluation = Evaluation.read(finished_zoo / f"premodel/evaluation-{HERE}.json")
    assert evaluation.split == "test"
    assert evaluation.variants == zoo.hashes
    for report in evaluation.budgets:
        for line in (report.static_best, report.premodel, report.oracle):
            assert 0 < line.mean_ms <= report.budget_ms
            assert 0 <= line.accuracy <= 1
        assert report.oracle.accuracy >= max(report.static_best.accuracy, report.premodel.accuracy)
        assert sum(report.chosen.values()) == len(split_indices_of(finished_zoo)["test"])
        assert set(report.chosen) <= set(zoo.variants)


def split_indices_of(path: Path) -> Any:
    return BuildRecord.read(path / BuildRecord.FILE).indices()


def test_a_premodel_that_tells_inputs_apart_is_used(zoo_copy: Path, write_correct: Any) -> None:
    """One half of the variants is right on what is bright, the other on what is dark."""
    bright = set(list(Zoo.open(zoo_copy).variants)[::2])

    def right(variant: str, x: Array, _random: Array) -> Array:
        brightness = x.mean(axis=(1, 2, 3))
        return (brightness > 4.9) == (variant in bright)

    write_correct(right)
    change_profile(zoo_copy, lambda profile: scaled(profile, 1000))  # beside these the premodel costs nothing
    evaluation = train(zoo_copy)[HERE]

    assert evaluation.used
    assert [stage.name for stage in Plan.read(Plan.path(zoo_copy, HERE)).stages] == ["table", "estimate"]
    leisurely = evaluation.budgets[-1]
    assert leisurely.premodel.accuracy > 0.9
    assert leisurely.static_best.accuracy < 0.7
    assert leisurely.gain_interval[0] > 0.2


def test_a_premodel_that_does_not_pay_is_left_out_of_the_plan(zoo_copy: Path, write_correct: Any) -> None:
    base, *_ = Zoo.open(zoo_copy).variants
    write_correct(lambda variant, _x, random: random < (0.95 if variant == base else 0.4))
    change_profile(zoo_copy, lambda profile: scaled(profile, 1000))
    evaluation = train(zoo_copy)[HERE]
    assert not evaluation.used
    assert [stage.name for stage in Plan.read(Plan.path(zoo_copy, HERE)).stages] == ["table"]


def test_verifying_a_zoo_notices_an_estimate_that_is_not_the_one_of_its_plans(zoo_copy: Path) -> None:
    assert list(Zoo.open(zoo_copy).problems()) == []
    (zoo_copy / ESTIMATE_FILE).write_bytes(b"damaged")
    assert any(ESTIMATE_FILE in problem for problem in Zoo.open(zoo_copy).problems())


# --- another device ---


def test_a_second_profile_gets_a_plan_of_its_own_whose_cost_is_scaled(zoo_copy: Path, write_correct: Any) -> None:
    bright = set(list(Zoo.open(zoo_copy).variants)[::2])
    write_correct(lambda variant, x, _random: (x.mean(axis=(1, 2, 3)) > 4.9) == (variant in bright))
    here = change_profile(zoo_copy, lambda profile: scaled(profile, 1000))
    scaled(here, 2, ELSEWHERE).write(Zoo.open(zoo_copy).profile_path(ELSEWHERE))

    evaluations = train(zoo_copy)

    assert evaluations.keys() == {HERE, ELSEWHERE}
    mine, theirs = (Plan.read(Plan.path(zoo_copy, device)) for device in (HERE, ELSEWHERE))
    assert mine.measured
    assert not theirs.measured
    assert theirs.estimate_sha256 == mine.estimate_sha256
    (_, my_estimate), (_, their_estimate) = mine.stages, theirs.stages
    assert their_estimate.mean_ms == pytest.approx(2 * my_estimate.mean_ms)
    assert their_estimate.variance == pytest.approx(4 * my_estimate.variance)
    assert (zoo_copy / f"premodel/evaluation-{ELSEWHERE}.json").exists()


def test_a_stale_profile_is_left_out_with_a_warning(zoo_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def of_other_variants(profile: Profile) -> Profile:
        changed = {
            name: msgspec.structs.replace(measured, file_sha256="0" * 64)
            for name, measured in profile.measurements.items()
        }
        return msgspec.structs.replace(profile, device_id=ELSEWHERE, measurements=changed)

    change_profile(zoo_copy, of_other_variants)
    assert train(zoo_copy).keys() == {HERE}
    assert re.search(f"^warning: the profile of {ELSEWHERE} is of other variants.*run ", capsys.readouterr().err)
    assert not Plan.path(zoo_copy, ELSEWHERE).exists()


def test_a_device_on_which_no_budget_of_the_sweep_can_be_kept_goes_by_the_table(zoo_copy: Path) -> None:
    """The base model is so fast there that all budgets are below what any choice takes."""
    base, *_ = Zoo.open(zoo_copy).variants

    def fast_base_in_the_median(profile: Profile) -> Profile:
        measured = profile.measurements[base]
        latency = msgspec.structs.replace(measured.latency, p50_ms=measured.latency.p50_ms / 1000)
        changed = profile.measurements | {base: msgspec.structs.replace(measured, latency=latency)}
        return msgspec.structs.replace(profile, measurements=changed)

    change_profile(zoo_copy, fast_base_in_the_median)
    evaluation = train(zoo_copy)[HERE]
    assert evaluation.budgets == ()
    assert not evaluation.used


# --- what is kept ---


def test_training_again_computes_no_features_and_gives_the_same_estimate(zoo_copy: Path) -> None:
    features, plan = (zoo_copy / FEATURES_FILE).stat(), Plan.read(Plan.path(zoo_copy, HERE))
    train(zoo_copy)
    features_after, plan_after = (zoo_copy / FEATURES_FILE).stat(), Plan.read(Plan.path(zoo_copy, HERE))
    assert (features_after.st_mtime_ns, features_after.st_ino) == (features.st_mtime_ns, features.st_ino)
    assert plan_after.p_right == plan.p_right
    assert plan_after.estimate_sha256 == plan.estimate_sha256


def test_features_that_were_lost_or_are_of_other_names_are_computed_anew(zoo_copy: Path) -> None:
    import pandas as pd

    path = zoo_copy / FEATURES_FILE
    features = pd.read_parquet(path)
    features.rename(columns={"mean": "average"}).to_parquet(path)
    train(zoo_copy)
    pd.testing.assert_frame_equal(pd.read_parquet(path), features)
    path.unlink()
    train(zoo_copy)
    pd.testing.assert_frame_equal(pd.read_parquet(path), features)


def test_damaged_features_are_computed_anew(zoo_copy: Path) -> None:
    path = zoo_copy / FEATURES_FILE
    path.write_bytes(path.read_bytes()[:1000])
    train(zoo_copy)
    assert path.stat().st_size > 1000


# --- what cannot be trained on ---


def refused(path: Path, kind: type[FleetfootError]) -> str:
    with pytest.raises(kind) as caught:
        train_premodel(path, "local")
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_a_zoo_without_outcomes_says_what_to_run(zoo_copy: Path) -> None:
    (zoo_copy / Outcomes.FILE).unlink()
    assert re.search(r"outcomes\.parquet does not exist: run build-zoo", refused(zoo_copy, NotAZooError))


def test_truncated_outcomes_say_which_file_is_damaged(zoo_copy: Path) -> None:
    path = zoo_copy / Outcomes.FILE
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert f"{path} is damaged" in refused(zoo_copy, SchemaError)


@pytest.mark.parametrize("content", [b"", b"PAR1", b"no parquet at all"])
def test_outcomes_that_are_no_table_are_refused(zoo_copy: Path, content: bytes) -> None:
    (zoo_copy / Outcomes.FILE).write_bytes(content)
    assert "outcomes.parquet" in refused(zoo_copy, SchemaError)


def test_damaged_outcomes_say_what_to_run(zoo_copy: Path) -> None:
    (zoo_copy / Outcomes.FILE).write_bytes(b"no parquet at all")
    assert "build-zoo" in refused(zoo_copy, SchemaError)


def test_outcomes_of_other_variants_are_stale(zoo_copy: Path) -> None:
    outcomes = Outcomes.read(zoo_copy / Outcomes.FILE)
    first, *_ = outcomes.hashes
    Outcomes(outcomes.table, outcomes.hashes | {first: "0" * 64}).write(zoo_copy / Outcomes.FILE)
    assert re.search("outcomes.parquet is of other variants.*: run build-zoo", refused(zoo_copy, StaleError))


def test_outcomes_of_inputs_that_the_data_does_not_have_are_refused(zoo_copy: Path) -> None:
    outcomes = Outcomes.read(zoo_copy / Outcomes.FILE)
    Outcomes(outcomes.table.assign(input="x" + outcomes.table["input"]), outcomes.hashes).write(
        zoo_copy / Outcomes.FILE
    )
    refused(zoo_copy, FleetfootError)


def test_a_zoo_that_was_never_measured_says_what_to_run(zoo_copy: Path) -> None:
    shutil.rmtree(zoo_copy / "profiles")
    assert re.search("has no current profile: run profile-zoo", refused(zoo_copy, ZooError))


def test_a_zoo_measured_elsewhere_only_says_what_to_run(zoo_copy: Path) -> None:
    change_profile(zoo_copy, lambda profile: scaled(profile, 2, ELSEWHERE))
    Zoo.open(zoo_copy).profile_path(HERE).unlink()
    assert re.search(f"has no profile of {HERE}: run ", refused(zoo_copy, ZooError))


def test_a_refused_training_leaves_the_premodel_as_it_was(zoo_copy: Path, write_correct: Any) -> None:
    change_profile(zoo_copy, lambda profile: scaled(profile, 2, ELSEWHERE))
    Zoo.open(zoo_copy).profile_path(HERE).unlink()
    write_correct(lambda _variant, x, _random: x.mean(axis=(1, 2, 3)) > 4.9)  # so that the new estimate is another
    refused(zoo_copy, ZooError)
    assert sha256(zoo_copy / ESTIMATE_FILE) == Plan.read(Plan.path(zoo_copy, HERE)).estimate_sha256


def test_one_variant_leaves_nothing_to_choose(zoo_copy: Path) -> None:
    path = zoo_copy / Zoo.MANIFEST
    manifest = Manifest.read(path)
    msgspec.structs.replace(manifest, variants=manifest.variants[:1]).write(path)
    assert "one variant only" in refused(zoo_copy, UsageError)


def test_other_data_under_the_same_name_is_refused(zoo_copy: Path) -> None:
    (zoo_copy / FEATURES_FILE).unlink()
    path = zoo_copy / BuildRecord.FILE
    msgspec.structs.replace(BuildRecord.read(path), data_fingerprint="0" * 64).write(path)
    assert "digits is not the data that the zoo was built on" in refused(zoo_copy, DataError)


# --- the command ---


def command(path: Path, *options: str) -> int:
    """Runs the command in this process, and returns its exit status."""
    from premodel.commands import train_premodel as entry

    with pytest.raises(SystemExit) as exited:
        entry.main([str(path), *options])
    status = exited.value.code
    assert isinstance(status, int)
    return status


def test_the_command_prints_json_and_nothing_else(zoo_copy: Path) -> None:
    done = subprocess.run(
        [Path(sys.executable).parent / "train-premodel", zoo_copy, "--json"],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (evaluation,) = msgspec.json.decode(done.stdout, type=list[Evaluation])
    assert evaluation.device_id == HERE
    assert evaluation.budgets
    assert done.stderr == ""


def test_the_command_prints_a_table_of_every_way_to_choose(zoo_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(zoo_copy) == 0
    printed = capsys.readouterr()
    for column in ("budget ms", "static best", "random mix", "premodel", "oracle"):
        assert column in printed.out
    used = Evaluation.read(zoo_copy / f"premodel/evaluation-{HERE}.json").used
    assert ("does not beat" in printed.out) == (not used)


@pytest.mark.parametrize("damaged", ["outcomes.parquet", "zoo.json", "build.json"])
def test_the_command_names_a_damaged_file_in_one_line(
    zoo_copy: Path, damaged: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (zoo_copy / damaged).write_bytes((zoo_copy / damaged).read_bytes()[:100])
    assert command(zoo_copy) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert re.fullmatch(f"train-premodel: .*{re.escape(damaged)} .+\n", printed.err)


def test_a_damaged_profile_is_named_with_what_renews_it(zoo_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = zoo_copy / f"profiles/{HERE}.json"
    path.write_bytes(path.read_bytes()[:100])
    assert command(zoo_copy) == 1
    warning, error = capsys.readouterr().err.splitlines()
    assert warning.startswith(f"warning: {path} is damaged")
    assert "profile-zoo" in warning
    assert error == f"train-premodel: {zoo_copy} has no current profile: run profile-zoo"


def test_the_command_refuses_a_zoo_of_one_variant_as_wrong_usage(
    zoo_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = zoo_copy / Zoo.MANIFEST
    manifest = Manifest.read(path)
    msgspec.structs.replace(manifest, variants=manifest.variants[:1]).write(path)
    assert command(zoo_copy) == 2
    assert re.fullmatch(r"train-premodel: .* one variant only.*\n", capsys.readouterr().err)


def test_the_command_refuses_a_device_that_it_does_not_know(zoo_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(zoo_copy, "--device", "abacus") == 1
    assert re.fullmatch(r"train-premodel: unknown device 'abacus'.*\n", capsys.readouterr().err)
