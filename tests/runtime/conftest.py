"""Selectors of the finished zoo, and of copies in which time is known exactly."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from premodel.plan import ESTIMATE_FILE, Plan, Stage
from profiling.profile import Profile, this_device
from profiling.statistics import LatencySummary
from runtime import Selector
from zoo.catalog import Zoo
from zoo.datasets import split_indices

BIN = Path(sys.executable).parent
HERE = this_device().id
ESTIMATE_MS = 50.0


@pytest.fixture(scope="session")
def images(digits: Any) -> Any:
    """Test images, of shape (100, 8, 8, 1)."""
    return digits.x[split_indices(digits, 0)["test"][:100]]


@pytest.fixture(scope="session")
def reference(finished_zoo: Path, images: Any) -> Mapping[str, Any]:
    """Per variant the probabilities that its file gives for ``images``, without any of the runtime."""
    from zoo.export import predict

    zoo = Zoo.open(finished_zoo)
    return {name: predict(finished_zoo / v.file, v.signature, images) for name, v in zoo.variants.items()}


@pytest.fixture
def selector(finished_zoo: Path) -> Selector:
    """A new selector of the finished zoo."""
    return Selector.open(finished_zoo)


@pytest.fixture
def staircase(zoo_copy: Path) -> Path:
    """A zoo whose profile says that its variants take 100, 200, 300 … ms, the more accurate the longer.

    Beside these the time that tests really take is nothing.
    """
    zoo = Zoo.open(zoo_copy)
    profile = Profile.read(zoo.profile_path(HERE))
    by_accuracy = sorted(zoo.variants.values(), key=lambda variant: variant.accuracy["route"])
    measurements = {
        variant.id: msgspec.structs.replace(profile.measurements[variant.id], latency=steady(100.0 * (step + 1)))
        for step, variant in enumerate(by_accuracy)
    }
    msgspec.structs.replace(profile, measurements=measurements).write(zoo.profile_path(HERE))
    return zoo_copy


@pytest.fixture
def plan_estimate() -> Callable[[Path], None]:
    """A function that plans the estimate of a zoo for this machine, whether or not it pays."""

    def plan(path: Path) -> None:
        planned = Plan.read(Plan.path(path, HERE))
        stages = (
            Stage(name="table", mean_ms=0.0, variance=0.0),
            Stage(name="estimate", mean_ms=ESTIMATE_MS, variance=0.0),
        )
        msgspec.structs.replace(planned, stages=stages).write(Plan.path(path, HERE))
        assert (path / ESTIMATE_FILE).exists()

    return plan


def steady(ms: float) -> LatencySummary:
    """Latencies that are always the same."""
    return LatencySummary(
        count=100, mean_ms=ms, mean_low_ms=ms, mean_high_ms=ms, std_ms=0.0, min_ms=ms, p5_ms=ms,
        p50_ms=ms, p90_ms=ms, p95_ms=ms, p99_ms=ms,
    )  # fmt: skip


@pytest.fixture
def digit_file(tmp_path: Path, images: Any) -> Path:
    """One test image as a .npy file."""
    np.save(tmp_path / "digit.npy", images[0])
    return tmp_path / "digit.npy"


class Service:
    """A service in a process of its own; ``uri`` is the line that it printed when it was ready."""

    def __init__(self, *command: object) -> None:
        self.process = subprocess.Popen(
            list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.uri = self.line()

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, port = self.uri.split("@")[1].rsplit(":", 1)
        return host, int(port)

    def line(self) -> str:
        """The next line that it prints."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def stop(self, number: signal.Signals = signal.SIGTERM, within_s: float = 10) -> tuple[int, str]:
        """Sends a signal, and returns the exit status and what was written to standard error."""
        self.process.send_signal(number)
        _, stderr = self.process.communicate(timeout=within_s)
        return self.process.returncode, stderr


@pytest.fixture
def serve() -> Iterator[Callable[..., Service]]:
    """A function that runs ``serve-zoo``, or another command, until the test ends."""
    services: list[Service] = []

    def start(*arguments: object, command: tuple[object, ...] = (BIN / "serve-zoo",)) -> Service:
        services.append(Service(*command, *arguments))
        return services[-1]

    yield start
    for service in services:
        service.process.kill()
        service.process.communicate()


SLOW_SERVICE = """
import sys, time
from runtime import Selector
from runtime.service import serve

selector = Selector.open(sys.argv[1])
infer = selector.infer

def slow(*arguments, **options):
    print("under way", flush=True)
    time.sleep(1)
    return infer(*arguments, **options)

selector.infer = slow
serve(selector, "127.0.0.1", 0, ready=lambda uri: print(uri, flush=True))
"""


@pytest.fixture
def slow_service(serve: Callable[..., Service], finished_zoo: Path) -> Service:
    """A service that prints ``under way`` and takes a second for each request."""
    return serve(finished_zoo, command=(sys.executable, "-c", SLOW_SERVICE))
