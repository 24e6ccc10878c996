from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fleetfoot.errors import DeviceError
from fleetfoot.files import sha256
from profiling.local import LocalDevice
from profiling.profile import Profile, Target, this_device
from profiling.statistics import Effort

QUICK = Effort(min_runs=20, max_runs=100, max_seconds=0.5)


@pytest.fixture(scope="session")
def targets(finished_zoo: Path) -> dict[str, Target]:
    manifest: dict[str, Any] = json.loads((finished_zoo / "zoo.json").read_text())
    return {
        variant["id"].rpartition("-")[0]: Target(variant["id"], finished_zoo / variant["file"], variant["signature"])
        for variant in manifest["variants"]
    }


def children() -> list[int]:
    """The ids of this process's children, finished ones that nobody waited for included."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == os.getpid():
            found.append(int(stat.parent.name))
    return found


def test_a_model_is_measured_with_plausible_results(targets: dict[str, Target]) -> None:
    before = children()
    base = targets["base"]
    profile = LocalDevice().measure([base], effort=QUICK)
    (measured,) = profile.measurements.values()
    latency = measured.latency
    assert profile.device == this_device()
    assert profile.device_id == this_device().id
    assert profile.threads == 1
    assert measured.file_sha256 == sha256(base.path)
    assert measured.signature == base.signature
    assert latency.count >= QUICK.min_runs
    assert 0.0005 < latency.min_ms <= latency.p50_ms <= latency.p95_ms < 1000
    assert measured.load_ms > 0
    assert measured.first_ms > 0
    assert 0 <= measured.peak_memory_bytes < 200 << 20
    assert profile.covers({base.name: sha256(base.path)})
    assert children() == before


def test_two_models_are_measured_in_one_run_under_their_names(targets: dict[str, Target], tmp_path: Path) -> None:
    before = children()
    large, small = targets["base"], targets["pruned-0.5"]
    profile = LocalDevice().measure([large, small], effort=Effort(min_runs=200, max_runs=400))
    assert list(profile.measurements) == [large.name, small.name]
    assert profile.measurements[small.name].latency.p50_ms < profile.measurements[large.name].latency.p50_ms
    assert children() == before
    profile.write(tmp_path / "profile.json")
    assert Profile.read(tmp_path / "profile.json").measurements == profile.measurements


def test_signatures_of_one_file_are_measured_apart(targets: dict[str, Target]) -> None:
    narrow, wide = targets["sub-0.25"], targets["sub-0.75"]
    assert narrow.path == wide.path
    profile = LocalDevice().measure([wide, narrow], effort=Effort(min_runs=200, max_runs=400))
    assert profile.measurements[narrow.name].latency.p50_ms < profile.measurements[wide.name].latency.p50_ms


def test_a_file_that_is_no_model_is_an_error_in_one_line_and_leaves_no_process(
    tmp_path: Path, targets: dict[str, Target]
) -> None:
    before = children()
    path = tmp_path / "model.tflite"
    path.write_text("not a model")
    with pytest.raises(DeviceError) as error:
        LocalDevice().measure([targets["base"], Target("broken", path, "x")], effort=QUICK)
    assert "broken cannot be measured here" in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert "Traceback" not in str(error.value)
    assert children() == before


def test_an_unknown_signature_is_an_error_that_names_those_that_exist(targets: dict[str, Target]) -> None:
    base = targets["base"]
    with pytest.raises(DeviceError) as error:
        LocalDevice().measure([base._replace(signature="other")], effort=QUICK)
    assert "no signature 'other'" in str(error.value)
    assert base.signature in str(error.value)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DeviceError, match=r"missing\.tflite"):
        LocalDevice().measure([Target("missing", tmp_path / "missing.tflite", "x")], effort=QUICK)


def test_a_model_that_dies_while_it_is_measured_is_an_error_and_leaves_no_process(targets: dict[str, Target]) -> None:
    before = children()

    def kill_the_child() -> None:
        while not (started := set(children()) - set(before)):
            time.sleep(0.01)
        time.sleep(1.5)  # past loading
        os.kill(started.pop(), signal.SIGKILL)

    killer = threading.Thread(target=kill_the_child)
    killer.start()
    endless = Effort(min_runs=10**9, max_seconds=1e9)
    with pytest.raises(DeviceError, match="cannot be measured here: its process ended with status -9"):
        LocalDevice().measure([targets["base"]], effort=endless)
    killer.join()
    assert children() == before
