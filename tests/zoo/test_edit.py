from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt
import pytest

from fleetfoot.errors import UsageError
from fleetfoot.files import sha256
from fleetfoot.silence import silenced
from profiling.invoke import Model
from tests.conftest import run
from zoo.backend import keras, tf
from zoo.build import build_zoo
from zoo.catalog import Manifest, Zoo
from zoo.commands import inspect_zoo
from zoo.datasets import Dataset
from zoo.edit import add_variant, remove_variant
from zoo.export import export
from zoo.outcomes import Outcomes
from zoo.record import BuildRecord

layers = keras.layers

Array = npt.NDArray[Any]
Call = Callable[..., tuple[int, str]]
Build = Callable[[Path], str]


@pytest.fixture(scope="session")
def base(base_file: Path) -> Any:
    return keras.saving.load_model(base_file, compile=False)


@pytest.fixture(scope="session")
def brought(tmp_path_factory: pytest.TempPathFactory, base: Any) -> Path:
    """A LiteRT file of the same task; read-only by agreement."""
    path = tmp_path_factory.mktemp("brought") / "mine.tflite"
    export({"mine": base}, path)
    return path


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls a command in this process and returns its exit status and standard error."""

    def call(command: Any, *arguments: object) -> tuple[int, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            command.main([str(argument) for argument in arguments], command.name)
        return int(end.value.code or 0), capsys.readouterr().err

    return call


def contents(path: Path) -> dict[str, str]:
    return {str(file.relative_to(path)): sha256(file) for file in sorted(path.rglob("*")) if file.is_file()}


def one_profile(path: Path) -> Any:
    (profile,) = Zoo.open(path).profiles()
    return profile


def files_of_variants(path: Path) -> set[str]:
    return {f"variants/{file.name}" for file in (path / "variants").iterdir()}


@pytest.fixture
def build_again(capsys: pytest.CaptureFixture[str]) -> Build:
    """Builds with the options that the zoo was built with; returns what was said on standard error."""

    def build(path: Path) -> str:
        capsys.readouterr()
        build_zoo(path, BuildRecord.read(path / BuildRecord.FILE).options)
        return capsys.readouterr().err

    return build


# What is brought is a variant like the others.


def test_a_file_that_is_brought_is_checked_measured_and_recorded(zoo_copy: Path, brought: Path) -> None:
    before = Zoo.open(zoo_copy).manifest
    added = add_variant(zoo_copy, brought)
    zoo = Zoo.open(zoo_copy)
    assert zoo.manifest.variants == (*before.variants, added)
    assert added.id.startswith("mine-")
    assert added.signature == "mine"
    assert sha256(zoo_copy / added.file) == added.sha256 == sha256(brought)
    assert added.size == brought.stat().st_size
    assert zoo.build_problems() == []

    base = before.variants[0]
    assert added.accuracy.keys() == {"tune", "route", "test"}
    assert added.accuracy == pytest.approx(base.accuracy)
    assert added.balance == base.balance

    rows = Outcomes.read(zoo_copy / Outcomes.FILE).table
    mine, its = (rows[rows["variant"] == name].reset_index(drop=True) for name in (added.id, base.id))
    assert len(mine) == len(its) > 0
    for column in ("input", "split", "label", "predicted"):
        assert mine[column].tolist() == its[column].tolist()

    profile = one_profile(zoo_copy)
    assert profile.measurements[added.id].file_sha256 == added.sha256
    assert profile.measurements[added.id].latency.p50_ms > 0


def test_the_other_variants_and_what_is_known_of_them_stay(zoo_copy: Path, brought: Path) -> None:
    before, profile, rows = Zoo.open(zoo_copy), one_profile(zoo_copy), Outcomes.read(zoo_copy / Outcomes.FILE).table
    files = {name: digest for name, digest in contents(zoo_copy).items() if name.startswith(("variants", "base"))}
    add_variant(zoo_copy, brought)
    assert Zoo.open(zoo_copy).manifest.variants[:-1] == before.manifest.variants
    assert files.items() <= contents(zoo_copy).items()
    after = one_profile(zoo_copy).measurements
    assert {name: after[name] for name in profile.measurements} == profile.measurements
    table = Outcomes.read(zoo_copy / Outcomes.FILE).table
    assert table[: len(rows)].drop(columns="probabilities").equals(rows.drop(columns="probabilities"))


@pytest.mark.slow
def test_a_variant_is_brought_and_removed_by_command_and_the_premodel_trained_anew(
    zoo_copy: Path, brought: Path
) -> None:
    added = run("inspect-zoo", zoo_copy, "--add", brought)
    assert added.returncode == 0, added.stderr
    (variant,) = (variant for variant in Zoo.open(zoo_copy).variants if variant.startswith("mine-"))
    assert f"added {variant}\n" in added.stderr
    assert f"the premodel does not know of that yet: train-premodel {zoo_copy}\n" in added.stderr
    (line,) = (line for line in added.stdout.splitlines() if variant in line)
    assert "unknown" in line

    assert run("inspect-zoo", zoo_copy, "--verify").returncode == 1
    trained = run("train-premodel", zoo_copy)
    assert trained.returncode == 0, trained.stderr
    assert run("inspect-zoo", zoo_copy, "--verify").returncode == 0

    removed = run("inspect-zoo", zoo_copy, "--remove", variant)
    assert removed.returncode == 0, removed.stderr
    assert f"removed {variant}\n" in removed.stderr
    assert variant not in removed.stdout
    assert Zoo.open(zoo_copy).build_problems() == []


@pytest.mark.parametrize(
    "name", ["My model (2) [best].tflite", "ünïcödé.tflite", "a+b.tflite", "model", "..tflite"], ids=str
)
def test_a_file_of_any_name_is_taken(zoo_copy: Path, brought: Path, tmp_path: Path, name: str) -> None:
    shutil.copyfile(brought, tmp_path / name)
    added = add_variant(zoo_copy, tmp_path / name)
    zoo = Zoo.open(zoo_copy)
    assert zoo.verified_file(added.id).parent == zoo_copy / "variants"
    assert added.recipe.build == {"file": name, "sha256": sha256(brought)}
    assert zoo.build_problems() == []


def test_a_model_of_integers_is_taken_as_it_is(zoo_copy: Path, base: Any, digits: Dataset, tmp_path: Path) -> None:
    path = tmp_path / "integers.tflite"
    path.write_bytes(of_integers(base, digits.x[:200]))
    added = add_variant(zoo_copy, path)
    zoo = Zoo.open(zoo_copy)
    assert zoo.build_problems() == []
    assert added.accuracy["test"] > zoo.manifest.variants[0].accuracy["test"] - 0.05


def of_integers(network: Any, x: Array) -> bytes:
    """A network that takes, gives and computes with int8, as microcontrollers have it."""
    with tempfile.TemporaryDirectory() as directory, silenced():
        network.export(directory, verbose=False)
        return converted_to_integers(tf.lite.TFLiteConverter.from_saved_model(directory), x)


def converted_to_integers(converter: Any, x: Array) -> bytes:
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([x[i : i + 1]] for i in range(len(x)))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    converted: bytes = converter.convert()
    return converted


# What does not fit is refused, and the zoo is as it was.


def small(shape: tuple[int, ...] = (8, 8, 1), classes: int = 10, activation: str | None = "softmax") -> Any:
    inputs = keras.Input(shape)
    return keras.Model(inputs, layers.Dense(classes, activation=activation)(layers.Flatten()(inputs)))


def on_top(base: Any, layer: Any) -> Any:
    return keras.Model(base.inputs, layer(base.outputs[0]))


def permuted(base: Any) -> Any:
    """The base model, which calls each digit by the name of the next."""
    return on_top(base, layers.Dense(10, use_bias=False, kernel_initializer=_next_class))


def _next_class(shape: Any, dtype: Any = None) -> Any:
    return tf.constant(np.roll(np.eye(10, dtype=np.float32), 1, axis=1))


def scaled(base: Any) -> Any:
    """The base model for inputs of 0 to 1."""
    inputs = keras.Input((8, 8, 1))
    return keras.Model(inputs, base(layers.Rescaling(1 / 16)(inputs)))


REFUSED: dict[str, tuple[Callable[[Any], dict[str, Any]], str]] = {
    "shape": (lambda _: {"a": small((8, 9, 1))}, "takes inputs of shape (1, 8, 9, 1), and the zoo's are (1, 8, 8, 1)"),
    "classes": (lambda _: {"a": small(classes=9)}, "answers with shape (1, 9), and the zoo has 10 classes"),
    "order of classes": (lambda base: {"a": permuted(base)}, "its classes, their order or its scaling of inputs"),
    "untrained": (lambda _: {"a": small()}, "of the inputs only"),
    "logits": (
        lambda base: {"a": on_top(base, layers.Rescaling(20, -10))},
        "does not answer with probabilities: end it in a softmax",
    ),
    "not a number": (
        lambda base: {"a": on_top(base, layers.Rescaling(float("nan")))},
        "does not answer with probabilities",
    ),
    "several signatures": (lambda base: {"a": base, "b": base}, "has the signatures a, b: bring a file with one"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_file_that_does_not_fit_is_refused_and_the_zoo_left_as_it_was(
    call: Call, zoo_copy: Path, base: Any, tmp_path: Path, what: str
) -> None:
    make, message = REFUSED[what]
    path = tmp_path / "strange.tflite"
    export(make(base), path)
    assert_refused(call, zoo_copy, path, message)


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"", "no LiteRT model"), (b"PK\x03\x04" * 100, "no LiteRT model")],
    ids=["missing", "empty", "something else"],
)
def test_what_is_no_litert_file_is_refused_and_the_zoo_left_as_it_was(
    call: Call, zoo_copy: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "strange.tflite"
    if content is not None:
        path.write_bytes(content)
    assert_refused(call, zoo_copy, path, message)


def assert_refused(call: Call, zoo: Path, path: Path, message: str) -> None:
    before = contents(zoo)
    status, err = call(inspect_zoo, zoo, "--add", path)
    assert status == 1
    assert message in err
    assert str(path) in err
    assert err.count("\n") == 1
    assert contents(zoo) == before


def test_a_directory_is_no_file_to_bring(call: Call, zoo_copy: Path, tmp_path: Path) -> None:
    assert_refused(call, zoo_copy, tmp_path, "does not exist")


@pytest.mark.parametrize("name", ["mine.tflite", "another-name.tflite"])
def test_the_same_file_is_not_taken_twice(zoo_copy: Path, brought: Path, tmp_path: Path, name: str) -> None:
    added = add_variant(zoo_copy, brought)
    before = contents(zoo_copy)
    shutil.copyfile(brought, tmp_path / name)
    with pytest.raises(UsageError, match=f"is in the zoo already, as {added.id}"):
        add_variant(zoo_copy, tmp_path / name)
    assert contents(zoo_copy) == before


def test_what_is_no_zoo_is_not_changed(call: Call, tmp_path: Path, brought: Path) -> None:
    for path in (tmp_path, tmp_path / "missing"):
        for arguments in (["--add", brought], ["--remove", "base"]):
            status, err = call(inspect_zoo, path, *arguments)
            assert status == 1
            assert err.count("\n") == 1
            assert str(path) in err
    assert list(tmp_path.iterdir()) == []


def one_answer(shape: Any, dtype: Any = None) -> Any:
    return np.eye(10, dtype=np.float32)[[1] * 10]


def zero_or_not(shape: Any, dtype: Any = None) -> Any:
    return np.eye(10, dtype=np.float32)[[0] + [1] * 9]


def replace_base(path: Path, network: Any) -> None:
    zoo = Zoo.open(path)
    base, *others = zoo.manifest.variants
    file = path / base.file
    export({base.signature: network}, file)
    base = msgspec.structs.replace(base, sha256=sha256(file))
    msgspec.structs.replace(zoo.manifest, variants=(base, *others)).write(path / Zoo.MANIFEST)


@pytest.mark.slow
def test_a_constant_answer_is_refused_however_often_the_base_model_gives_it(
    call: Call, zoo_copy: Path, base: Any, tmp_path: Path
) -> None:
    imbalanced, constant = (
        on_top(base, layers.Dense(10, use_bias=False, kernel_initializer=kernel))
        for kernel in (zero_or_not, one_answer)
    )
    replace_base(zoo_copy, imbalanced)
    path = tmp_path / "strange.tflite"
    export({"constant": constant}, path)
    assert_refused(call, zoo_copy, path, "of the inputs only, and the same answer to all does on 9")
    export({"mine": imbalanced}, path)
    assert add_variant(zoo_copy, path).signature == "mine"


def test_a_zoo_whose_outcomes_were_damaged_is_left_for_the_build_to_mend(
    call: Call, build_again: Build, zoo_copy: Path, brought: Path
) -> None:
    outcomes = Outcomes.read(zoo_copy / Outcomes.FILE)
    Outcomes(outcomes.table[:-1], outcomes.hashes).write(zoo_copy / Outcomes.FILE)
    before = contents(zoo_copy)
    status, err = call(inspect_zoo, zoo_copy, "--add", brought)
    assert status == 1
    assert f"{zoo_copy / Outcomes.FILE} is gone or is not the file that was built: the same build-zoo command" in err
    assert contents(zoo_copy) == before
    build_again(zoo_copy)
    add_variant(zoo_copy, brought)
    assert Zoo.open(zoo_copy).build_problems() == []


# Where it is measured.


def move_profile(path: Path, keep: bool) -> str:
    """Makes the zoo's profile another device's, or adds that of another."""
    profile = one_profile(path)
    if not keep:
        Zoo.open(path).profile_path(profile.device_id).unlink()
    device = msgspec.structs.replace(profile.device, processor="Elsewhere")
    msgspec.structs.replace(profile, device=device, device_id=device.id).write(Zoo.open(path).profile_path(device.id))
    return str(device.id)


@pytest.mark.parametrize("measured_here", [True, False])
def test_the_profiles_that_do_not_know_what_was_brought_are_named_until_their_device_builds_anew(
    call: Call, build_again: Build, monkeypatch: pytest.MonkeyPatch, zoo_copy: Path, brought: Path, measured_here: bool
) -> None:
    here, elsewhere = one_profile(zoo_copy).device_id, move_profile(zoo_copy, keep=measured_here)
    status, err = call(inspect_zoo, zoo_copy, "--add", brought)
    assert status == 0
    added = id_of(zoo_copy, "mine-")
    (line,) = (line for line in err.splitlines() if line.startswith("warning: "))
    assert f"the profiles of {elsewhere} lack {added}: profile-zoo {zoo_copy} " in line

    zoo = Zoo.open(zoo_copy)
    profiles = {profile.device_id: profile for profile in zoo.profiles()}
    assert profiles.keys() == ({here, elsewhere} if measured_here else {elsewhere})
    assert [name for name, profile in profiles.items() if added in profile.measurements] == [here] * measured_here
    (problem,) = (problem for problem in zoo.problems() if "/profiles/" in problem)
    assert f"{zoo.profile_path(elsewhere)} is of other variants: run profile-zoo" in problem

    monkeypatch.setattr("profiling.local.this_device", lambda: profiles[elsewhere].device)
    build_again(zoo_copy)
    assert not [problem for problem in Zoo.open(zoo_copy).problems() if "/profiles/" in problem]


def test_where_every_profile_knows_what_was_brought_nothing_is_warned_of(
    call: Call, zoo_copy: Path, brought: Path
) -> None:
    assert "warning" not in call(inspect_zoo, zoo_copy, "--add", brought, "--device", "local")[1]
    assert Zoo.open(zoo_copy).build_problems() == []


def test_what_is_no_device_measures_nothing(call: Call, zoo_copy: Path, brought: Path) -> None:
    before = contents(zoo_copy)
    status, err = call(inspect_zoo, zoo_copy, "--add", brought, "--device", "nowhere")
    assert status == 1
    assert "unknown device 'nowhere'" in err
    assert contents(zoo_copy) == before


# What was killed is finished by the same command.


def kill(monkeypatch: pytest.MonkeyPatch, place: Path, moment: str) -> None:
    """Interrupts the process when a file goes to its place, before it is whole or when it is there."""
    replace = Path.replace

    def interrupted(temporary: Path, target: Path) -> None:
        if place not in (target, *target.parents):
            replace(temporary, target)
            return
        if moment == "before":
            half = temporary.read_bytes()[: temporary.stat().st_size // 2]
            temporary.with_name(f".half-written-0-{target.name}").write_bytes(half)
        else:
            replace(temporary, target)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupted)


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("step", ["variants", "profiles", "unfinished", "outcomes.parquet", "zoo.json"])
def test_bringing_a_file_can_be_killed_at_any_step(
    monkeypatch: pytest.MonkeyPatch, zoo_copy: Path, brought: Path, step: str, moment: str
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill(patch, zoo_copy / step, moment)
        add_variant(zoo_copy, brought)
    problems = Zoo.open(zoo_copy).problems()
    if (step, moment) == ("zoo.json", "after"):
        assert all("run train-premodel" in problem for problem in problems)
        assert Zoo.open(zoo_copy).build_problems() == []
        return
    if (step, moment) in [("outcomes.parquet", "after"), ("zoo.json", "before")]:
        (problem,) = problems
        assert "outcomes.parquet is not the file that was built" in problem
    elif (step, moment) != ("profiles", "before"):
        assert problems == []
    added = add_variant(zoo_copy, brought)
    zoo = Zoo.open(zoo_copy)
    assert zoo.manifest.variants[-1] == added
    assert zoo.build_problems() == []
    assert not (zoo_copy / "unfinished").exists()
    assert not list(zoo_copy.rglob(".half-written-*"))
    rows = Outcomes.read(zoo_copy / Outcomes.FILE).table
    assert not rows.duplicated(["variant", "split", "input"]).any()


def test_a_build_too_mends_what_was_killed(
    build_again: Build, monkeypatch: pytest.MonkeyPatch, zoo_copy: Path, brought: Path
) -> None:
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        kill(patch, zoo_copy / "outcomes.parquet", "after")
        add_variant(zoo_copy, brought)
    build_again(zoo_copy)
    assert Zoo.open(zoo_copy).build_problems() == []
    assert not (zoo_copy / "unfinished").exists()


# What is removed is gone.


def id_of(zoo: Path, prefix: str) -> str:
    return next(variant for variant in Zoo.open(zoo).variants if variant.startswith(prefix))


def test_a_variant_that_is_removed_is_gone_with_its_file(zoo_copy: Path) -> None:
    pruned = Zoo.open(zoo_copy).variant(id_of(zoo_copy, "pruned-0.5"))
    before = contents(zoo_copy)
    remove_variant(zoo_copy, pruned.id)
    zoo = Zoo.open(zoo_copy)
    assert pruned.id not in zoo.variants
    assert zoo.build_problems() == []
    after = contents(zoo_copy)
    assert before.keys() - after.keys() == {pruned.file}
    assert {name for name in after if after[name] != before[name]} == {"zoo.json"}


def test_a_file_that_other_subnetworks_are_in_stays_until_the_last_is_removed(zoo_copy: Path) -> None:
    subnetworks = [v for v in Zoo.open(zoo_copy).manifest.variants if v.id.startswith("sub-")]
    (file,) = {variant.file for variant in subnetworks}
    for variant in subnetworks:
        assert (zoo_copy / file).exists()
        remove_variant(zoo_copy, variant.id)
        assert Zoo.open(zoo_copy).build_problems() == []
    assert not (zoo_copy / file).exists()


@pytest.mark.parametrize(
    ("prefix", "message"),
    [("base-", "is the base model, which the others are compared with: it stays"), ("", "no variant 'nonsense'")],
    ids=["base", "unknown"],
)
def test_the_base_model_and_what_there_is_not_cannot_be_removed(
    call: Call, zoo_copy: Path, prefix: str, message: str
) -> None:
    before = contents(zoo_copy)
    variant = id_of(zoo_copy, prefix) if prefix else "nonsense"
    status, err = call(inspect_zoo, zoo_copy, "--remove", variant)
    assert status == 2
    assert message in err
    assert err.count("\n") == 1
    assert contents(zoo_copy) == before


def test_what_was_removed_can_be_brought_again(zoo_copy: Path, brought: Path) -> None:
    first = add_variant(zoo_copy, brought)
    remove_variant(zoo_copy, first.id)
    assert add_variant(zoo_copy, brought) == first
    rows = Outcomes.read(zoo_copy / Outcomes.FILE).table
    assert not rows.duplicated(["variant", "split", "input"]).any()
    assert Zoo.open(zoo_copy).build_problems() == []


def test_removing_a_variant_does_not_pass_off_damage_elsewhere_as_built(zoo_copy: Path) -> None:
    outcomes = zoo_copy / Outcomes.FILE
    outcomes.write_bytes(outcomes.read_bytes() + b" ")
    remove_variant(zoo_copy, id_of(zoo_copy, "pruned-0.5"))
    (problem,) = Zoo.open(zoo_copy).build_problems()
    assert "outcomes.parquet is not the file that was built" in problem


# A build goes on from what was changed.


def test_the_same_build_command_keeps_what_was_changed(build_again: Build, zoo_copy: Path, brought: Path) -> None:
    add_variant(zoo_copy, brought)
    remove_variant(zoo_copy, id_of(zoo_copy, "pruned-0.5"))
    before = contents(zoo_copy)
    said = build_again(zoo_copy)
    assert "is already built" in said
    assert contents(zoo_copy) == before


def test_mending_a_zoo_keeps_what_was_brought_and_leaves_out_what_was_removed(
    build_again: Build, zoo_copy: Path, brought: Path
) -> None:
    added = add_variant(zoo_copy, brought)
    for removed in ("pruned-0.5", "sub-0.25"):
        remove_variant(zoo_copy, id_of(zoo_copy, removed))
    before = Manifest.read(zoo_copy / "zoo.json").variants
    int8 = Zoo.open(zoo_copy).variant(id_of(zoo_copy, "base-int8"))
    (zoo_copy / int8.file).write_bytes(b"damaged")
    build_again(zoo_copy)
    zoo = Zoo.open(zoo_copy)
    assert added.id in zoo.variants
    assert {variant.id: variant.sha256 for variant in zoo.manifest.variants} == {v.id: v.sha256 for v in before}
    assert {variant.id: variant.accuracy for variant in zoo.manifest.variants} == {v.id: v.accuracy for v in before}
    assert zoo.build_problems() == []
    assert files_of_variants(zoo_copy) == {variant.file for variant in zoo.manifest.variants}


def test_a_brought_file_that_was_damaged_is_left_out_and_can_be_brought_again(
    build_again: Build, zoo_copy: Path, brought: Path
) -> None:
    added = add_variant(zoo_copy, brought)
    (zoo_copy / added.file).write_bytes(b"damaged")
    said = build_again(zoo_copy)
    assert f"warning: {zoo_copy / added.file} is gone or damaged" in said
    assert f"inspect-zoo {zoo_copy} --add" in said
    assert added.id not in Zoo.open(zoo_copy).variants
    assert Zoo.open(zoo_copy).build_problems() == []
    assert add_variant(zoo_copy, brought) == added
    assert Model(zoo_copy / added.file).signatures == ("mine",)
