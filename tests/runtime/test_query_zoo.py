"""Asking a running service from the shell."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime import Answer

BIN = Path(sys.executable).parent
Query = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def query(service_uri: str) -> Query:
    """A function that runs ``query-zoo`` on a file, with a budget and more options."""

    def run(file: object, budget: object = 1000, *options: object) -> subprocess.CompletedProcess[str]:
        return query_zoo("--uri", service_uri, "--input", file, "--budget-ms", budget, *options)

    return run


def query_zoo(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [BIN / "query-zoo", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def refused(done: subprocess.CompletedProcess[str], status: int, reason: str) -> None:
    """Makes sure that a command failed in one line with this status and reason."""
    assert done.returncode == status, done.stderr
    assert done.stdout == ""
    assert re.fullmatch(f"query-zoo: .*{reason}.*\n", done.stderr), done.stderr


@pytest.fixture
def picture(tmp_path: Path, images: Any) -> Path:
    """The digit of ``digit_file`` as a PNG of 0 to 255."""
    pixels = np.round(images[0][..., 0] * (255 / 16)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


def test_a_digit_is_answered_for_people(query: Query, digit_file: Path, reference: Any) -> None:
    done = query(digit_file)
    assert done.returncode == 0
    assert done.stderr == ""
    assert re.search(r"label\W+\d", done.stdout)
    (variant,) = (name for name in reference if name in done.stdout)
    assert re.search(rf"label\W+{reference[variant][0].argmax()}\b", done.stdout)
    assert re.search(r"latency\W+[\d.]+ ms of 1000 ms", done.stdout)
    assert re.search(r"within budget\W+yes", done.stdout)


def test_array_and_image_of_a_digit_are_answered_alike_as_json(
    query: Query, digit_file: Path, picture: Path, reference: Any
) -> None:
    answers = []
    for file in (digit_file, picture):
        done = query(file, 1000, "--json")
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout))
    for answer in answers:
        assert set(answer) == set(Answer.__struct_fields__)
        expected = reference[answer["variant"]][0]
        assert answer["index"] == expected.argmax()
        assert answer["confidence"] == pytest.approx(float(expected.max()), abs=0.02)  # the PNG has 256 levels
        assert answer["label"] == str(answer["index"])


def test_a_budget_that_cannot_be_kept_is_flagged_or_refused(query: Query, digit_file: Path) -> None:
    served = query(digit_file, 0.000001, "--json")
    assert served.returncode == 0
    assert json.loads(served.stdout)["within_budget"] is False
    refused(query(digit_file, 0.000001, "--on-miss", "refuse"), 1, "no variant keeps 1e-06 ms here")


@pytest.mark.parametrize("budget", ["nan", "0", "-1", "-inf"])
def test_a_number_that_is_no_budget_is_refused(query: Query, digit_file: Path, budget: str) -> None:
    refused(query(digit_file, budget), 2, "a budget is a positive number of milliseconds")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--input", "x.npy", "--budget-ms", "abc"], "'abc' is not a valid float"),
        (["--input", "x.npy"], "Missing option '--budget-ms'"),
        (["--budget-ms", "8"], "Missing option '--input'"),
        (["--input", "x.npy", "--budget-ms", "8", "--on-miss", "skip"], "'skip' is not one of"),
        (["--input", "x.npy", "--budget-ms", "8", "--unknown"], "No such option"),
    ],
)
def test_wrong_usage_is_refused(options: list[str], reason: str) -> None:
    refused(query_zoo(*options), 2, re.escape(reason))


def test_no_service_is_said_at_once_with_what_to_run(digit_file: Path) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # and does not listen
        uri = f"PYRO:selector@127.0.0.1:{bound.getsockname()[1]}"
        start = time.monotonic()
        done = query_zoo("--uri", uri, "--input", digit_file, "--budget-ms", 8)
    assert time.monotonic() - start < 5
    refused(done, 1, f"no selector service answers at {uri}: .+; start one with serve-zoo")


def test_what_is_no_uri_is_refused(digit_file: Path) -> None:
    refused(
        query_zoo("--uri", "localhost", "--input", digit_file, "--budget-ms", 8), 1, "no service URI, such as PYRO:"
    )


def test_an_image_of_another_size_is_refused_with_both_sizes(query: Query, tmp_path: Path) -> None:
    Image.new("L", (16, 9)).save(tmp_path / "large.png")
    refused(query(tmp_path / "large.png"), 1, "is 16x9 pixels, and this zoo takes 8x8")


@pytest.mark.parametrize("name", ["note.txt", "note.npy", "note.png"])
def test_a_text_file_is_refused_by_its_name(query: Query, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("a note\nof two lines\n")
    refused(query(tmp_path / name), 1, f"{name} is no readable")


def test_a_missing_file_is_refused_by_its_name(query: Query, tmp_path: Path) -> None:
    refused(query(tmp_path / "nowhere.npy"), 1, "nowhere.npy does not exist")


class Exploit:
    """Would run code where it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_pickled_objects_are_refused_and_not_run(query: Query, tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([Exploit()], object), allow_pickle=True)
    done = query(tmp_path / "objects.npy")
    refused(done, 1, "objects.npy is no readable .npy or image file")
    assert "executed" not in done.stdout + done.stderr


def test_help_has_an_example() -> None:
    done = query_zoo("--help")
    assert done.returncode == 0
    assert "query-zoo --uri PYRO:selector@127.0.0.1:9090 --input digit.png --budget-ms 0.5" in done.stdout
