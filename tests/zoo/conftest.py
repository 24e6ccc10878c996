"""No test writes to the cache of whoever runs it; commands are called in this process."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from fleetfoot.console import Command


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for decoded datasets."""
    path: Path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FLEETFOOT_CACHE", str(path))
    return path


@pytest.fixture
def call_here(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Calls a command in this process and returns its exit status, standard output and standard error."""

    def call(command: Command, *arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            command.main([str(argument) for argument in arguments], command.name)
        said = capsys.readouterr()
        return int(end.value.code or 0), said.out, said.err

    return call
