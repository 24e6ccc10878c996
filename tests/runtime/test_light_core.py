"""What a device host installs is enough: nothing heavy is there to be imported, and nothing is missed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import fleetfoot

ROOT = Path(fleetfoot.__file__).parents[1]
PACKAGES = ("fleetfoot", "profiling", "zoo", "premodel", "runtime")
HEAVY = ("tensorflow", "keras", "sklearn", "xgboost", "pandas", "pyarrow", "scipy", "joblib", "h5py", "ortools")

Python = Callable[..., subprocess.CompletedProcess[str]]


def requirements(name: str, found: dict[str, Any]) -> dict[str, Any]:
    """The distributions that one needs by their names, itself included, without extras."""
    needed = distribution(name)
    key = needed.name.lower().replace("_", "-")
    if key not in found:
        found[key] = needed
        for text in needed.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                requirements(requirement.name, found)
    return found


def make_site(directory: Path, without: str = "") -> Path:
    """A directory of links to the light core, and to nothing else that is installed here."""
    directory.mkdir()
    for package in PACKAGES:
        (directory / package).symlink_to(ROOT / package)
    core = requirements("fleetfoot", {})
    for name in core.keys() - {"fleetfoot", without}:
        for top in {Path(file).parts[0] for file in core[name].files} - {"..", "__pycache__"}:
            if not (directory / top).exists():
                (directory / top).symlink_to(str(core[name].locate_file(top)))
    return directory


def python_in(site: Path) -> Python:
    """A function that runs code, or starts it, where only ``site`` and the standard library can be imported."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}

    def run(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-S", "-P", "-c", code, *map(str, arguments)],
            capture_output=True, text=True, timeout=60, check=False, cwd=site,
            env=environment | {"PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"},
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def core_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_site(tmp_path_factory.mktemp("core") / "site")


@pytest.fixture(scope="module")
def core(core_site: Path) -> Python:
    """Python on a device host."""
    return python_in(core_site)


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Python:
    """Python where an app is only a client."""
    return python_in(make_site(tmp_path_factory.mktemp("client") / "site", without="ai-edge-litert"))


def printed(done: subprocess.CompletedProcess[str]) -> Any:
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


IMPORT = """
import importlib, json, sys
from contextlib import suppress

there = []
for name in sys.argv[1:]:
    with suppress(ModuleNotFoundError):
        there.append(importlib.import_module(name).__name__)
print(json.dumps(there))
"""


def test_nothing_heavy_can_be_imported_from_the_light_core(core: Python, client: Python) -> None:
    assert printed(core(IMPORT, *HEAVY, "ai_edge_litert.interpreter")) == ["ai_edge_litert.interpreter"]
    assert printed(client(IMPORT, *HEAVY, "ai_edge_litert.interpreter")) == []


def test_the_light_core_holds_what_setup_cfg_says(core_site: Path) -> None:
    there = {path.name for path in core_site.iterdir()}
    assert {"ai_edge_litert", "click", "msgpack", "msgspec", "numpy", "PIL", "Pyro5", "yaml", "rich"} <= there
    assert not there & set(HEAVY)


INFER = """
import json, sys
import numpy as np
from runtime import Selector

answer = Selector.open(sys.argv[1]).infer(np.load(sys.argv[2]), 1000)
print(json.dumps([answer.variant, answer.index]))
"""


def test_a_selector_answers(core: Python, finished_zoo: Path, digit_file: Path, reference: Any) -> None:
    variant, index = printed(core(INFER, finished_zoo, digit_file))
    assert index == reference[variant][0].argmax()


RUN = "import sys; from {module} import {command}; sys.argv[0] = '{command}'; {command}()"


def test_a_service_started_there_answers_a_query_from_there(
    core: Python, core_site: Path, serve: Any, finished_zoo: Path, digit_file: Path, reference: Any
) -> None:
    code = RUN.format(module="runtime.commands", command="serve_zoo")
    command = ("env", f"PYTHONPATH={core_site}", sys.executable, "-S", "-P", "-c", code)
    service = serve(finished_zoo, "--port", 0, command=command)
    code = RUN.format(module="runtime.commands", command="query_zoo")
    answer = printed(core(code, "--uri", service.uri, "--input", digit_file, "--budget-ms", 1000, "--json"))
    assert answer["index"] == reference[answer["variant"]][0].argmax()
    assert service.stop() == (0, "")


def test_inspect_zoo_shows_and_verifies(core: Python, finished_zoo: Path, reference: Any) -> None:
    code = RUN.format(module="zoo.commands", command="inspect_zoo")
    inspected = printed(core(code, finished_zoo, "--verify", "--json"))
    assert {variant["id"] for variant in inspected["zoo"]["variants"]} == set(reference)
    assert inspected["problems"] == []
    assert "variants, 10 classes" in core(code, finished_zoo).stdout


def test_profile_zoo_measures(core: Python, zoo_copy: Path) -> None:
    (path,) = (zoo_copy / "profiles").glob("*.json")
    path.unlink()
    code = RUN.format(module="zoo.commands", command="profile_zoo")
    (made,) = printed(core(code, zoo_copy, "--json", "--min-runs", 20, "--half-width", 0.5, "--max-seconds", 1))
    (profile,) = made["profiles"]
    variants = json.loads((zoo_copy / "zoo.json").read_text())["variants"]
    assert list(profile["measurements"]) == [variant["id"] for variant in variants]
    assert path.exists()


def test_profile_zoo_says_what_to_install_for_accuracy(core: Python, zoo_copy: Path) -> None:
    code = RUN.format(module="zoo.commands", command="profile_zoo")
    done = core(code, zoo_copy, "--accuracy", "--min-runs", 20, "--half-width", 0.5, "--max-seconds", 1)
    assert done.returncode == 1
    assert re.fullmatch(r"profile-zoo: .+fleetfoot\[build\].*\n", done.stderr)


@pytest.mark.parametrize(
    ("module", "command"), [("zoo.commands", "build_zoo"), ("premodel.commands", "train_premodel")]
)
def test_the_commands_of_the_workstation_have_help_there(core: Python, module: str, command: str) -> None:
    done = core(RUN.format(module=module, command=command), "--help")
    assert done.returncode == 0, done.stderr
    assert "Example:" in done.stdout


@pytest.mark.parametrize(
    ("module", "command", "arguments"),
    [("zoo.commands", "build_zoo", ("--out", "new")), ("premodel.commands", "train_premodel", (".",))],
)
def test_the_commands_of_the_workstation_say_what_to_install(
    core: Python, module: str, command: str, arguments: tuple[str, ...]
) -> None:
    done = core(RUN.format(module=module, command=command), *arguments)
    assert done.returncode != 0
    assert re.fullmatch(r".+fleetfoot\[build\].*\n", done.stderr)


QUERY = """
import json, sys
import numpy as np
from runtime import connect

try:
    import ai_edge_litert
except ModuleNotFoundError:
    with connect(sys.argv[1]) as selector:
        answer = selector.infer(np.load(sys.argv[2]), 1000)
    print(json.dumps([answer.variant, answer.index]))
"""


def test_a_client_needs_no_litert(client: Python, service_uri: str, digit_file: Path, reference: Any) -> None:
    variant, index = printed(client(QUERY, service_uri, digit_file))
    assert index == reference[variant][0].argmax()


def test_query_zoo_needs_no_litert(client: Python, service_uri: str, digit_file: Path) -> None:
    code = RUN.format(module="runtime.commands", command="query_zoo")
    done = client(code, "--uri", service_uri, "--input", digit_file, "--budget-ms", 1000, "--json")
    assert printed(done)["index"] in range(10)


SERVED = """
import json, os, signal, sys, threading
import numpy as np
from runtime import Selector, connect
from runtime.service import serve

def ask(uri):
    def query():
        with connect(uri) as selector:
            selector.infer(np.load(sys.argv[2]), 1000)
            selector.choose(np.load(sys.argv[2]), 0.001)
        print(json.dumps(sorted(sys.modules)))
        os.kill(os.getpid(), signal.SIGTERM)
    threading.Thread(target=query).start()

serve(Selector.open(sys.argv[1]), "127.0.0.1", 0, ready=ask)
"""


def test_a_process_that_served_has_imported_nothing_heavy_though_it_is_installed(
    finished_zoo: Path, digit_file: Path
) -> None:
    pytest.importorskip("tensorflow")
    done = subprocess.run(
        [sys.executable, "-c", SERVED, finished_zoo, digit_file],
        capture_output=True, text=True, timeout=60, check=False, cwd=ROOT,
    )  # fmt: skip
    imported = set(printed(done))
    assert {"runtime.selector", "ai_edge_litert.interpreter"} <= imported
    assert not imported & {*HEAVY, "pickle5", "cloudpickle"}


CLIENT_ONLY = "import json, sys, runtime; runtime.connect; print(json.dumps(sorted(sys.modules)))"


def test_a_client_has_imported_neither_litert_nor_the_selector() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLIENT_ONLY], capture_output=True, text=True, timeout=60, check=False, cwd=ROOT
    )
    imported = set(printed(done))
    assert "runtime.client" in imported
    assert not {name for name in imported if name.startswith(("ai_edge_litert", "runtime.selector", "runtime.engine"))}
