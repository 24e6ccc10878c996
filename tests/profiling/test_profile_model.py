"""``profile-model``, as a user runs it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from smallmodels import Product, addition

from profiling.commands import profile_model
from profiling.operators.design import design
from profiling.operators.single import synthesize
from profiling.profile import Profile, this_device

QUICK = ("--min-runs", 20, "--half-width", 0.5, "--max-seconds", 1)

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Call:
    """Calls the command, in this process; returns its exit status, standard output and standard error."""

    def profile(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            profile_model.main([str(argument) for argument in (*QUICK, *arguments)], "profile-model")
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return profile


@pytest.fixture
def convolution(tmp_path: Path) -> Path:
    operator = next(operator for operator in design(("float32",)) if operator.kind == "CONV_2D")
    synthesize(operator, tmp_path / "convolution.tflite")
    return tmp_path / "convolution.tflite"


def test_models_are_shown_under_their_names_in_relation_to_the_first(
    call: Call, tmp_path: Path, convolution: Path
) -> None:
    addition(tmp_path / "small.tflite")
    status, out, _ = call(convolution, tmp_path / "small.tflite")
    assert status == 0
    assert "convolution.tflite" in out
    assert "small.tflite" in out
    assert "× first" in out
    assert this_device().id in out


def test_two_files_of_one_name_are_told_apart_by_their_folders(call: Call, tmp_path: Path) -> None:
    for folder in ("one", "other"):
        (tmp_path / folder).mkdir()
        addition(tmp_path / folder / "model.tflite")
    status, out, _ = call("--json", tmp_path / "one" / "model.tflite", tmp_path / "other" / "model.tflite")
    assert status == 0
    (profile,) = msgspec.json.decode(out, type=list[Profile])
    assert list(profile.measurements) == [str(tmp_path / folder / "model.tflite") for folder in ("one", "other")]


def test_networks_that_are_nested_in_a_file_are_measured_each(call: Call, products: dict[str, Product]) -> None:
    path = products["wide"].target.path
    status, out, err = call(path, "--json")
    assert status == 0, err
    (profile,) = msgspec.json.decode(out, type=list[Profile])
    assert list(profile.measurements) == [f"{path.name}:{name}" for name in products]


def test_a_model_without_signatures_can_be_measured_operators_and_all(call: Call, tmp_path: Path) -> None:
    addition(tmp_path / "bare.tflite", signature=False)
    status, out, err = call(tmp_path / "bare.tflite", "--operators", "--json")
    assert status == 0, err
    (profile,) = msgspec.json.decode(out, type=list[Profile])
    (measured,) = profile.measurements.values()
    assert measured.signature == ""
    assert [operator.kind for operator in measured.operators] == ["ADD"]


def test_the_operators_of_a_model_are_shown_with_their_shares(call: Call, convolution: Path) -> None:
    status, out, _ = call(convolution, "--operators")
    assert status == 0
    assert "operator by operator" in out
    assert "CONV_2D" in out
    assert "100%" in out


def test_a_model_that_fails_does_not_keep_the_others_from_being_shown(
    call: Call, tmp_path: Path, convolution: Path
) -> None:
    addition(tmp_path / "text.tflite", beside="string")
    status, out, err = call(convolution, tmp_path / "text.tflite")
    assert status == 1
    assert "convolution.tflite" in out
    assert "text.tflite cannot be measured here" in err
    assert "only numbers are supported" in err
    assert len(err.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "status", "reason"),
    [
        (["--device", "toaster:1"], 1, "unknown device 'toaster:1': there are local, adb:SERIAL"),
        (["--signature", "other"], 1, "no signature 'other'"),
        (["--threads", "many"], 2, "'many' is no list of numbers of threads"),
        (["--delegate", "gpu"], 1, "this machine has no delegate gpu"),
        (["--device", "adb:127.0.0.1:1"], 1, "127.0.0.1:1 refused the connection"),
    ],
)
def test_what_cannot_be_meant_is_said_in_one_line(
    call: Call, convolution: Path, arguments: list[str], status: int, reason: str
) -> None:
    ended, _, err = call(convolution, *arguments)
    assert ended == status
    assert reason in err
    assert len(err.strip().splitlines()) == 1


def test_a_file_that_is_no_model_is_named(call: Call, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("not a model")
    status, _, err = call(tmp_path / "notes.txt")
    assert status == 1
    assert err.strip() == f"profile-model: {tmp_path / 'notes.txt'} is no LiteRT file: export it again"
