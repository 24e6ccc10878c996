from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fleetfoot

ROOT = Path(fleetfoot.__file__).parents[1]
ORDER = ("fleetfoot", "profiling", "zoo", "premodel", "runtime")
BUILDING = {"tensorflow", "keras", "sklearn", "xgboost", "pandas", "pyarrow", "joblib", "scipy"}
UNPICKLING = {"pickle", "cPickle", "marshal", "shelve", "dill", "cloudpickle", "joblib"}


def modules(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"{package} has no modules"
    return found


def imported(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in it: at the top, in functions, for type checking only."""
    for node in ast.walk(ast.parse(path.read_text(), path.name)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            yield from (
                value.value
                for value in ast.walk(node)
                if isinstance(value, ast.Constant) and isinstance(value.value, str)
            )


def top(name: str) -> str:
    return name.partition(".")[0]


def file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    candidates = (path.with_suffix(".py"), path / "__init__.py")
    return next((candidate for candidate in candidates if candidate.exists()), None)


def reached(start: list[Path], *, at_run_time: bool) -> set[Path]:
    """The project's files that the given ones import, and those that these import, and so on."""
    seen: set[Path] = set()
    unseen = list(start)
    while unseen:
        path = unseen.pop()
        if path in seen:
            continue
        seen.add(path)
        names = imported(path) if at_run_time else imported_at_once(path)
        prefixes = {".".join(name.split(".")[:depth]) for name in names for depth in (1, 2, 3)}
        unseen += filter(None, map(file_of, sorted(prefixes)))
    return seen


def imported_at_once(path: Path) -> Iterator[str]:
    """What importing a file imports: not what stands in functions or behind ``TYPE_CHECKING``."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("package", ORDER)
def test_imports_run_one_way_only(package: str) -> None:
    later = set(ORDER[ORDER.index(package) + 1 :])
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(package)
        for name in imported(path)
        if top(name) in later
    ]
    assert wrong == []


def test_the_order_names_every_package() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages == set(ORDER)


@pytest.mark.parametrize("path", modules("runtime"), ids=lambda path: path.stem)
def test_the_runtime_imports_nothing_that_builds_or_unpickles(path: Path) -> None:
    assert {top(name) for name in imported(path)} & (BUILDING | UNPICKLING) == set()


@pytest.mark.parametrize("path", modules("runtime"), ids=lambda path: path.stem)
def test_the_runtime_unpickles_nothing_by_way_of_numpy(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "np.load":
            assert "allow_pickle=False" in [ast.unparse(keyword) for keyword in node.keywords]


def test_nothing_that_the_runtime_reaches_imports_what_builds() -> None:
    wrong = {
        str(path.relative_to(ROOT)): sorted(heavy)
        for path in reached(modules("runtime"), at_run_time=True)
        if (heavy := {top(name) for name in imported(path)} & (BUILDING | UNPICKLING))
    }
    assert wrong == {}


@pytest.mark.parametrize("package", ["fleetfoot", "profiling"])
def test_measuring_imports_nothing_that_builds(package: str) -> None:
    for path in modules(package):
        assert {top(name) for name in imported(path)} & (BUILDING | UNPICKLING) == set()


@pytest.mark.parametrize("package", ORDER)
def test_the_modules_of_commands_are_light_so_that_help_comes_at_once(package: str) -> None:
    commands = ROOT / package / "commands.py"
    if not commands.exists():
        assert package in ("fleetfoot", "profiling")
        return
    wrong = {
        path.name: sorted(heavy)
        for path in reached([commands], at_run_time=False)
        if (heavy := {top(name) for name in imported_at_once(path)} & BUILDING)
    }
    assert wrong == {}


def test_opening_a_zoo_loads_nothing_that_builds(finished_zoo: Path) -> None:
    program = """
import sys
from zoo.catalog import Zoo
zoo = Zoo.open(sys.argv[1])
assert list(zoo.profiles()) and list(zoo.problems()) == []
print(*{name.partition(".")[0] for name in sys.modules})
"""
    done = subprocess.run(
        [sys.executable, "-c", program, finished_zoo], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) & BUILDING == set()
    assert "ai_edge_litert" not in done.stdout
