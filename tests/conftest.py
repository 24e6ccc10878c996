"""Shared fixtures: a small network trained once, the zoo made of it, and a service of that zoo."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

settings.register_profile("busy machine", deadline=None)
settings.load_profile("busy machine")

BIN = Path(sys.executable).parent
TINY_WIDTH = 32


def run(command: str, *arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs one of Fleetfoot's commands as a user would, in a process of its own."""
    return subprocess.run(
        [BIN / command, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        **options,
    )


@pytest.fixture(scope="session")
def digits() -> Any:
    """The digits dataset."""
    from zoo.datasets import load_dataset

    return load_dataset("digits")


@pytest.fixture(scope="session")
def base_file(tmp_path_factory: pytest.TempPathFactory, digits: Any) -> Path:
    """A narrow digits network, trained for a few seconds, as a Keras file."""
    from zoo.architectures import digits_cnn
    from zoo.backend import make_deterministic
    from zoo.batches import TrainingData
    from zoo.datasets import split_indices
    from zoo.finetune import train

    make_deterministic(0)
    model = digits_cnn(digits.input, len(digits.classes), width=TINY_WIDTH)
    train(model, TrainingData.of(digits, split_indices(digits, 0)), epochs=10)
    path: Path = tmp_path_factory.mktemp("base") / "base.keras"
    model.save(path)
    return path


@pytest.fixture(scope="session")
def finished_zoo(tmp_path_factory: pytest.TempPathFactory, base_file: Path) -> Path:
    """A zoo with its premodel, made by the commands; read-only by agreement: copy it to change it."""
    path = tmp_path_factory.mktemp("zoos") / "digits"
    built = run("build-zoo", "--out", path, "--model", base_file, "--finetune-epochs", 2,
                "--prune", "0.5,0.75", "--subnetworks", "0.25,0.5,0.75")  # fmt: skip
    assert built.returncode == 0, built.stderr
    trained = run("train-premodel", path)
    assert trained.returncode == 0, trained.stderr
    return path


@pytest.fixture
def zoo_copy(tmp_path: Path, finished_zoo: Path) -> Path:
    """A copy of the finished zoo, to be damaged."""
    return Path(shutil.copytree(finished_zoo, tmp_path / "zoo"))


@pytest.fixture(scope="session")
def service_uri(finished_zoo: Path) -> Iterator[str]:
    """The URI of a running ``serve-zoo``."""
    process = subprocess.Popen(
        [BIN / "serve-zoo", str(finished_zoo), "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    yield process.stdout.readline().strip()
    process.terminate()
    process.communicate(timeout=20)
