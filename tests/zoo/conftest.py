"""No test writes to the cache of whoever runs it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for decoded datasets."""
    path: Path = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("FLEETFOOT_CACHE", str(path))
    return path
