"""Whatever somebody's own code does is told in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fleetfoot.errors import DataError, ModelError, UsageError
from fleetfoot.modules import call_theirs, function_from_here, import_from_here

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module in the directory that a command is run in, and returns its name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))

    def write_module(code: str) -> str:
        Path("their_module.py").write_text(code)
        return "their_module"

    yield write_module
    sys.modules.pop("their_module", None)


def test_a_module_and_what_is_in_it(write: Write) -> None:
    module = write("X = 3\ndef f(): return 4\n")
    assert import_from_here(module).X == import_from_here(module, "X") == 3
    assert function_from_here(f"{module}:f")() == 4


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (
            "import sys\nsys.exit(3)",
            "module 'their_module' cannot be imported: SystemExit: 3 (their_module.py, line 2)",
        ),
        ("def f(:", "cannot be imported: SyntaxError: "),
        ("\nraise ValueError('a\\nb')", "cannot be imported: ValueError: a b (their_module.py, line 2)"),
        ("import json\njson.loads('{')", "(their_module.py, line 2)"),
        ("raise ValueError('word ' * 1000)", "word … (their_module.py, line 1)"),
        ("", "module 'their_module' has no 'f'"),
        ("f = 3", "'f' of module 'their_module' is no function"),
    ],
)
def test_what_cannot_be_had_is_wrong_usage(write: Write, code: str, said: str) -> None:
    with pytest.raises(UsageError) as error:
        function_from_here(f"{write(code)}:f")
    assert said in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


@pytest.mark.parametrize("name", ["", ":", "json", "json:", ":loads"])
def test_what_names_no_function_is_wrong_usage(name: str) -> None:
    with pytest.raises(UsageError, match="names no function"):
        function_from_here(name)


def test_what_a_function_raises_is_told_with_the_place(write: Write) -> None:
    module = write("import sys\ndef f():\n    sys.exit()")
    fail = function_from_here(f"{module}:f")
    with pytest.raises(ModelError, match=r"^their_module:f\(\) raised SystemExit \(their_module.py, line 3\)$"):
        call_theirs("their_module:f", fail, ModelError)


def test_errors_of_ours_and_ctrl_c_pass(write: Write) -> None:
    def raising(error: BaseException) -> Callable[[], None]:
        def function() -> None:
            raise error

        return function

    for error in (DataError("the server is down"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as raised:
            call_theirs("f", raising(error), ModelError)
        assert raised.value is error
