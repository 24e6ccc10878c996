from __future__ import annotations

import inspect

import pytest

from fleetfoot import errors
from fleetfoot.errors import FleetfootError


def all_errors() -> list[type[FleetfootError]]:
    return [
        value
        for value in vars(errors).values()
        if inspect.isclass(value) and value.__module__ == errors.__name__ and issubclass(value, BaseException)
    ]


def drawn_tree() -> dict[str, str]:
    """Each class that the module's docstring draws, and the one that it hangs from."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        marks = line.lstrip()
        depth = (len(line) - len(line.lstrip(" │├└─"))) // 4 - 1
        name = marks.lstrip("│├└─ ").split(" ")[0]
        if not line.startswith("    ") or not name.endswith("Error"):
            continue
        path[depth:] = [name]
        parents[name] = path[depth - 1] if depth else "Exception"
    return parents


def test_the_tree_in_the_docstring_is_the_tree_of_the_classes() -> None:
    assert drawn_tree() == {error.__name__: error.__base__.__name__ for error in all_errors() if error.__base__}


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: error.__name__)
def test_an_error_is_its_message(error: type[FleetfootError]) -> None:
    assert str(error("what was wrong, where, and what to do")) == "what was wrong, where, and what to do"


@pytest.mark.parametrize("error", all_errors(), ids=lambda error: error.__name__)
def test_a_command_that_dies_of_an_error_never_returns_success(error: type[FleetfootError]) -> None:
    assert error.exit_status in (1, 2)


def test_wrong_usage_has_the_exit_status_of_wrong_usage() -> None:
    assert errors.UsageError.exit_status == 2
    assert errors.ZooError.exit_status == 1
