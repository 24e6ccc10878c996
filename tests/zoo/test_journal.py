from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fleetfoot.errors import ZooError
from zoo.catalog import Variant
from zoo.recipe import Recipe, Training
from zoo.search.journal import Journal, Trial

BASE = Recipe()
SMALL = Recipe(keep={"a": (0, 1)})
PAIR = (Recipe(order="o", keep={"a": 2}), Recipe(order="o", keep={"a": 4}))


def trial(*recipes: Recipe, seconds: float = 1.0) -> Trial:
    return Trial(
        variants=tuple(
            Variant(
                id=f"v-{recipe.digest[:8]}", file="variants/v.tflite", sha256="0" * 64, signature="v", recipe=recipe,
                parent=None, accuracy={"tune": 0.5}, macs=1, parameters=1, size=1, peak_activation_bytes=1, parity=0.0,
            )
            for recipe in recipes
        ),
        seconds=seconds,
    )  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "search" / "trials.jsonl"


def test_a_new_journal_knows_nothing_and_writes_nothing(path: Path) -> None:
    assert [BASE] not in Journal(path)
    assert not path.exists()


def test_what_was_appended_is_found_at_once_and_later(path: Path) -> None:
    journal = Journal(path)
    journal.append(trial(BASE))
    journal.append(trial(*PAIR))
    for reader in (journal, Journal(path)):
        assert [BASE] in reader
        assert reader.trial([BASE]) == trial(BASE)
        assert reader.trial(PAIR) == trial(*PAIR)
        assert [SMALL] not in reader
        assert [PAIR[0]] not in reader
        assert PAIR[::-1] not in reader


def test_recipes_are_found_by_their_identity(path: Path) -> None:
    Journal(path).append(trial(Recipe(keep={"a": 1, "b": 2}, training=Training(epochs=3))))
    same = Recipe(keep={"b": 2, "a": 1}, training=Training(epochs=3, seed=0))
    assert [same] in Journal(path)


def test_a_trial_that_was_repeated_counts_as_the_last_one(path: Path) -> None:
    journal = Journal(path)
    journal.append(trial(BASE, seconds=1))
    journal.append(trial(BASE, seconds=2))
    assert journal.trial([BASE]).seconds == 2
    assert Journal(path).trial([BASE]).seconds == 2


@pytest.mark.parametrize("kept", [0.01, 0.5, 0.99])
def test_a_torn_last_line_is_dropped_and_said(path: Path, capsys: pytest.CaptureFixture[str], kept: float) -> None:
    journal = Journal(path)
    journal.append(trial(BASE))
    whole = path.read_bytes()
    journal.append(trial(SMALL))
    line = path.read_bytes()[len(whole) :]
    path.write_bytes(whole + line[: max(1, int(kept * len(line)))])
    reader = Journal(path)
    said = capsys.readouterr().err
    assert f"{path}: the last line was cut short and is dropped" in said
    assert [BASE] in reader
    assert [SMALL] not in reader
    assert path.read_bytes() == whole
    reader.append(trial(SMALL))
    assert [SMALL] in Journal(path)
    assert capsys.readouterr().err == ""


def test_a_journal_that_is_nothing_but_a_torn_line_is_empty(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(msgspec.json.encode(trial(BASE))[:50])
    assert [BASE] not in Journal(path)
    assert path.read_bytes() == b""


def test_a_process_killed_while_it_appends_loses_at_most_its_last_trial(path: Path) -> None:
    Journal(path).append(trial(BASE))
    program = f"""
import sys, msgspec
from pathlib import Path
from zoo.search.journal import Journal, Trial
journal = Journal(Path({str(path)!r}))
print("ready", flush=True)
trial = msgspec.json.decode(sys.stdin.buffer.readline(), type=Trial)
while True:
    journal.append(trial)
"""
    process = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    assert process.stdout.readline() == b"ready\n"
    process.stdin.write(msgspec.json.encode(trial(SMALL)) + b"\n")
    process.stdin.flush()
    start = path.stat().st_size
    while path.stat().st_size < start + 5000:
        assert process.poll() is None
    process.kill()
    process.communicate()
    reader = Journal(path)
    assert reader.trial([BASE]) == trial(BASE)
    assert reader.trial([SMALL]) == trial(SMALL)


def test_a_damaged_line_is_blamed_on_the_file(path: Path) -> None:
    Journal(path).append(trial(BASE))
    path.write_bytes(b"not a trial\n" + path.read_bytes())
    with pytest.raises(ZooError, match=r"trials\.jsonl"):
        Journal(path)
