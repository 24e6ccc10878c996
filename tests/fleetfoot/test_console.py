from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleetfoot import __version__
from fleetfoot.console import NumberList, WordList, command, note, print_json, print_table, progress, warn
from fleetfoot.errors import DataError, UsageError
from tests.conftest import run


@command("greet", example="greet --name Ada --times 3")
@click.option("--name", default="you", help="Who.")
@click.option("--times", type=click.IntRange(1), default=1, help="How often.")
@click.option("--shares", type=NumberList(), default="0.5", help="Numbers.")
@click.option("--words", type=WordList(), default="a,b", help="Words.")
@click.option("--loudly", is_flag=True, help="With an exclamation mark.")
@click.option("--to", type=click.Path(path_type=Path), help="A file.")
@click.option("--fail", help="How to fail.")
def greet(
    name: str, times: int, shares: tuple[float, ...], words: tuple[str, ...], loudly: bool, to: Path | None,
    fail: str | None,
) -> None:  # fmt: skip
    """Greets somebody."""
    note("about to greet")
    if fail == "usage":
        raise UsageError("--fail usage cannot be meant:\n  at all")
    if fail == "data":
        raise DataError("the data\nis   bad")
    if fail == "system":
        Path("/nowhere/at/all").read_text()
    if fail == "interrupt":
        raise KeyboardInterrupt
    warn("greetings wear off")
    print_json(repr((name, times, shares, words, loudly, to)).encode())


def call(*arguments: object) -> int:
    """The exit status of the command above."""
    with pytest.raises(SystemExit) as exit_info:
        greet.main([str(argument) for argument in arguments], "greet")
    return int(exit_info.value.code or 0)


def config(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "options.yaml"
    path.write_text(text)
    return path


def test_a_success_prints_results_on_standard_output_and_notes_on_standard_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert call("--name", "Ada") == 0
    said = capsys.readouterr()
    assert said.out == "('Ada', 1, (0.5,), ('a', 'b'), False, None)\n"
    assert said.err == "about to greet\nwarning: greetings wear off\n"


@pytest.mark.parametrize("option", ["--quiet", "-q"])
def test_quiet_silences_notes_but_not_warnings(capsys: pytest.CaptureFixture[str], option: str) -> None:
    assert call(option) == 0
    assert capsys.readouterr().err == "warning: greetings wear off\n"
    assert call() == 0
    assert "about to greet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--fail", "usage"], 2, "greet: --fail usage cannot be meant: at all (see greet --help)"),
        (["--fail", "data"], 1, "greet: the data is bad"),
        (["--fail", "system"], 1, "greet: /nowhere/at/all: No such file or directory"),
        (["--fail", "interrupt"], 130, "greet: interrupted"),
        (["--nmae", "Ada"], 2, "--nmae"),
        (["--times", "0"], 2, "--times"),
        (["--times", "often"], 2, "'often'"),
        (["--shares", "0.5,half"], 2, "0.5,half"),
        (["stray"], 2, "stray"),
        (["--config", "/nowhere.yaml"], 2, "/nowhere.yaml"),
    ],
)
def test_every_failure_is_one_line_and_an_exit_status(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    assert call("--quiet", *arguments) == status
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.strip().count("\n") == 0
    assert said.err.strip().startswith("greet: ")
    assert ("(see greet --help)" in said.err) == (status == 2)


@pytest.mark.parametrize("name", ["build-zoo", "inspect-zoo"])
def test_help_shows_an_example(name: str) -> None:
    helped = run(name, "--help")
    assert helped.returncode == 0, helped.stderr
    assert f"Example:\n    {name} " in helped.stdout
    assert "--config" in helped.stdout
    assert "--quiet" in helped.stdout


def test_the_version_is_that_of_the_distribution() -> None:
    said = run("inspect-zoo", "--version")
    assert said.returncode == 0
    assert said.stdout == f"inspect-zoo, version {__version__}\n"


def test_a_real_command_fails_in_one_line_without_a_traceback(tmp_path: Path) -> None:
    failed = run("inspect-zoo", tmp_path / "nothing")
    assert failed.returncode == 1
    assert failed.stdout == ""
    assert failed.stderr == f"inspect-zoo: {tmp_path}/nothing: no such directory\n"


def test_a_real_command_without_its_argument_is_wrong_usage() -> None:
    failed = run("inspect-zoo")
    assert failed.returncode == 2
    assert failed.stderr == "inspect-zoo: Missing argument 'ZOO'. (see inspect-zoo --help)\n"


def assert_ctrl_c_ends(script: Path) -> None:
    """Interrupts a script that runs a command called ``wait``, once it has said that it is ready."""
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 130
    assert stderr.strip() == "wait: interrupted"


def test_ctrl_c_ends_a_command_with_one_line(tmp_path: Path) -> None:
    script = tmp_path / "wait.py"
    script.write_text(
        "import sys, time\n"
        "from fleetfoot.console import command\n"
        "@command('wait', example='wait')\n"
        "def wait() -> None:\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "wait()\n"
    )
    assert_ctrl_c_ends(script)


def test_ctrl_c_is_not_lost_when_it_comes_while_an_object_is_finalized(tmp_path: Path) -> None:
    script = tmp_path / "wait.py"
    script.write_text(
        "import time\n"
        "from fleetfoot.console import command\n"
        "class Slow:\n"
        "    def __del__(self) -> None:\n"
        "        print('ready', flush=True)\n"
        "        time.sleep(60)\n"
        "@command('wait', example='wait')\n"
        "def wait() -> None:\n"
        "    Slow()\n"
        "    for _ in range(30):\n"
        "        time.sleep(0.1)\n"
        "wait()\n"
    )
    assert_ctrl_c_ends(script)


def test_a_reader_that_goes_away_causes_no_traceback(finished_zoo: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    program = Path(sys.executable).parent / "inspect-zoo"
    done = subprocess.run(
        [program, finished_zoo, "--json"], stdout=writer, stderr=subprocess.PIPE, check=False, text=True
    )
    os.close(writer)
    assert "Traceback" not in done.stderr
    assert done.returncode != 0


def test_options_come_from_a_file(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = config(
        tmp_path,
        "name: Ada\ntimes: 3\nshares: [0.25, 1]\nwords:\n- x\n- y z\nloudly: true\nto: out/file\n",
    )
    assert call("--config", path) == 0
    expected = "('Ada', 3, (0.25, 1.0), ('x', 'y z'), True, PosixPath('out/file'))\n"
    assert capsys.readouterr().out == expected


@pytest.mark.parametrize("text", ["shares: 0.25,1", "shares: '0.25, 1'", "shares: [0.25, '1']"])
def test_a_list_in_a_file_may_be_written_as_on_the_command_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    assert call("--config", config(tmp_path, text)) == 0
    assert "(0.25, 1.0)" in capsys.readouterr().out


def test_one_number_in_a_file_is_a_list_of_one(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("--config", config(tmp_path, "shares: 0.25")) == 0
    assert "(0.25,)" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["shares: []", "shares: ''"])
def test_an_empty_list_in_a_file_is_an_empty_list(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str
) -> None:
    assert call("--config", config(tmp_path, text)) == 0
    assert "'you', 1, (), " in capsys.readouterr().out


def test_the_command_line_wins_over_the_file_wherever_it_stands(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = config(tmp_path, "name: Ada\ntimes: 3\n")
    assert call("--times", 5, "--config", path) == 0
    assert call("--config", path, "--times", 5) == 0
    assert capsys.readouterr().out.splitlines() == ["('Ada', 5, (0.5,), ('a', 'b'), False, None)"] * 2


def test_any_option_may_come_from_the_file_under_its_name_on_the_command_line(tmp_path: Path) -> None:
    path = config(tmp_path, f"out: {tmp_path}/zoo\nlow-rank: [0.5]\nepochs: 2\ndata: no-such-data\n")
    refused = run("build-zoo", "--config", path)
    assert refused.returncode == 2
    assert refused.stderr.startswith("build-zoo: unknown dataset 'no-such-data': there is digits, ")
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nmae: Ada\n", "['nmae']"),
        ("- name\n", "must be a mapping"),
        ("Ada\n", "must be a mapping"),
        ("name: [Ada\n", "is not YAML"),
        ("times: often\n", "'often'"),
        ("times: 0\n", "--times"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_in_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, text: str, message: str
) -> None:
    assert call("--config", config(tmp_path, text)) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert message in said.err
    assert said.err.count("\n") == 1


def test_a_file_that_is_no_text_is_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "options.yaml"
    path.write_bytes(b"\xff\xfe\x00\x01")
    assert call("--config", path) == 2
    assert str(path) in capsys.readouterr().err


def test_an_empty_file_changes_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("--config", config(tmp_path, "# nothing yet\n")) == 0
    assert capsys.readouterr().out == "('you', 1, (0.5,), ('a', 'b'), False, None)\n"


def test_a_number_where_a_path_belongs_is_a_path(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert call("--config", config(tmp_path, "to: 2024\n")) == 0
    assert "PosixPath('2024')" in capsys.readouterr().out


@given(numbers=st.lists(st.floats(allow_nan=False)))
def test_a_list_of_numbers_reads_as_it_is_written(numbers: list[float]) -> None:
    written = ",".join(map(repr, numbers))
    assert NumberList().convert(written, None, None) == tuple(numbers)
    assert NumberList().convert(numbers, None, None) == tuple(numbers)


@given(words=st.lists(st.from_regex(r"[a-z0-9.-]+", fullmatch=True)))
def test_a_list_of_words_reads_as_it_is_written_whatever_the_blanks(words: list[str]) -> None:
    assert WordList().convert(" , ".join(words), None, None) == tuple(words)
    assert WordList().convert(",".join(["", *words, ""]), None, None) == tuple(words)


def test_what_is_no_number_is_named() -> None:
    with pytest.raises(click.BadParameter, match="'0.5;1' is no list of numbers"):
        NumberList().convert("0.5;1", None, None)


def test_a_table_shows_every_cell(capsys: pytest.CaptureFixture[str]) -> None:
    print_table("fruit", ["name", "count"], [["apples", 3], ["pears", 12]])
    said = capsys.readouterr().out
    assert said.startswith("fruit")
    assert all(cell in said for cell in ("name", "count", "apples", "3", "pears", "12"))


def test_no_progress_bar_is_drawn_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with progress("counting", 3) as advance:
        for _ in range(3):
            advance(1)
    said = capsys.readouterr()
    assert said.out == said.err == ""


def test_a_progress_bar_is_drawn_on_a_terminal() -> None:
    program = """
import time
from fleetfoot.console import be_quiet, progress
import sys
be_quiet(len(sys.argv) > 1)
with progress("counting", 3) as advance:
    for _ in range(3):
        time.sleep(0.15)
        advance(1)
"""
    assert "counting" in said_on_a_terminal(program)
    assert "counting" not in said_on_a_terminal(program, "quiet")


def test_beside_a_progress_bar_another_is_not_drawn_and_both_go_on() -> None:
    program = """
import threading, time
from fleetfoot.console import progress

def count(name):
    with progress(name, 2) as advance:
        for _ in range(2):
            time.sleep(0.15)
            advance(1)

with progress("outer", 1) as advance:
    count("inner")
    thread = threading.Thread(target=count, args=("beside",))
    thread.start()
    thread.join()
    advance(1)
count("after")
"""
    said = said_on_a_terminal(program)
    assert "outer" in said
    assert "after" in said
    assert "inner" not in said
    assert "beside" not in said
    assert "Traceback" not in said


def said_on_a_terminal(program: str, *arguments: str) -> str:
    """What a program writes to a terminal that is its standard error."""
    parent, child = os.openpty()
    environment = os.environ | {"TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", program, *arguments], stderr=child, env=environment)
    os.close(child)
    said = b""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            part = os.read(parent, 10_000)
        except OSError:  # what Linux says when the last writer has gone
            break
        if not part:
            break
        said += part
    os.close(parent)
    assert process.wait(timeout=20) == 0
    return said.decode()
