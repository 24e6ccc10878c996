from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from readerfiles import refusal

from fleetfoot.errors import DataError, UsageError
from zoo.datasets import load_dataset

HEAD = """
import numpy as np
from fleetfoot.errors import DataError
from zoo.catalog import InputSpec
from zoo.datasets import Dataset

X = np.arange(120, dtype=np.float32).reshape(30, 4)
Y = np.arange(30) % 3
SPEC = InputSpec(kind="tensor", shape=(4,), dtype="float32", minimum=0.0, maximum=119.0)

def dataset(**changed):
    parts = dict(name="mine", x=X, y=Y, classes=("a", "b", "c"), input=SPEC)
    return Dataset(**{**parts, **changed})

def made():
"""


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's project, which is the working directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    (tmp_path / "mydata").mkdir()
    (tmp_path / "mydata" / "__init__.py").write_text("")
    yield tmp_path
    for name in set(sys.modules) - before:
        if name.startswith("mydata"):
            del sys.modules[name]


def write(body: str, head: str = HEAD) -> str:
    Path("mydata/sets.py").write_text(f"{head}    {body}\n")
    return "module:mydata.sets:made"


@pytest.mark.parametrize(
    ("body", "classes"),
    [
        ("return X, Y", ("0", "1", "2")),
        ("return [X.tolist(), Y.tolist()]", ("0", "1", "2")),
        ("return X, Y, ['low', 'mid', 'high']", ("low", "mid", "high")),
        ("return X, [('low', 'mid', 'high')[label] for label in Y]", ("high", "low", "mid")),
        ("return X, np.array([('a', 'b', 'c')[label] for label in Y], object)", ("a", "b", "c")),
        ("return dataset()", ("a", "b", "c")),
        ("return dataset(y=Y.astype(np.uint8), classes=[1, 2, 3])", ("1", "2", "3")),
    ],
)
def test_a_function_in_the_working_directory_makes_a_dataset(body: str, classes: tuple[str, ...]) -> None:
    name = write(body)
    dataset = load_dataset(name)
    assert dataset.name == name
    assert dataset.classes == classes
    assert dataset.x.shape == (30, 4)
    assert load_dataset(dataset.name).fingerprint == dataset.fingerprint


def test_data_frames_do(project: Path) -> None:
    body = "import pandas; f = pandas.DataFrame(X); f['y'] = [('a', 'b', 'c')[i] for i in Y]; return f[[0, 1]], f['y']"
    dataset = load_dataset(write(body))
    assert dataset.classes == ("a", "b", "c")
    assert dataset.x.shape == (30, 2)


def test_a_dataset_of_the_users_keeps_its_test_split_and_groups() -> None:
    dataset = load_dataset(write("return dataset(test=np.arange(3), groups=('me',) * 30)"))
    assert dataset.test is not None
    assert dataset.test.tolist() == [0, 1, 2]
    assert dataset.groups == ("me",) * 30


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise ValueError('no such\\nfile')", "made() raised ValueError: no such file (sets.py, line 16)"),
        ("return X[40]", "raised IndexError: index 40 is out of bounds"),
        (
            "raise FileNotFoundError(2, 'No such file', 'x')",
            "raised FileNotFoundError: [Errno 2] No such file: 'x' (sets.py, line 16)",
        ),
        ("raise SystemExit(3)", "raised SystemExit: 3"),
        ("raise DataError('the server is down')", "the server is down"),
        ("assert False", "raised AssertionError (sets.py, line 16)"),
        ("return None", "returned NoneType: it has to return (x, y), (x, y, classes) or a Dataset"),
        ("return X", "returned ndarray"),
        ("return X, Y, 'abc', 4", "returned tuple"),
        ("return X, Y[:-1]", "30 inputs and 29 labels"),
        ("return [[1], [1, 2]], Y", "x that is no array"),
        ("return [object()] * 30, Y", "x of shape (30,)"),
        ("return X, Y * 0", "only one class"),
        ("return dataset(y=Y.tolist())", "y is list"),
        ("return dataset(y=Y - 1)", "y is not from 0 to 2"),
        ("return dataset(y=Y / 1)", "y is not (examples,) of integers"),
        ("return dataset(x=X.astype(int))", "x is int64, and the input float32"),
        ("return dataset(x=X[:9])", "x has shape (9, 4), not 30 times that of the input, (4,)"),
        ("return dataset(test=np.array([30]))", "test is not from 0 to 29, each once"),
        ("return dataset(test=np.array([1, 1]))", "test is not from 0 to 29, each once"),
        ("return dataset(groups=('me',))", "groups are not 30"),
        ("return dataset(test=np.arange(0))", "a test split apart that is empty"),
        ("return dataset(test=[0, 1])", "test is list"),
        ("return dataset(test=np.arange(30) < 4)", "test is not from 0 to 29, each once"),
        ("return dataset(y=Y.astype(str))", "y is not (examples,) of integers"),
        ("return dataset(x=X * np.nan)", "x has NaN or infinity"),
        (
            "from dataclasses import replace; from msgspec.structs import replace as r; d = dataset(x=X[:, 0]);"
            " return replace(d, input=r(d.input, shape=()))",
            "the input has shape ()",
        ),
        ("return dataset(input=None, classes=3)", "classes is int, input is NoneType"),
        ("return X, Y, 3", "has 3 for classes: it needs to be a list of names"),
        ("return X, Y, 'abc'", "has 'abc' for classes"),
    ],
)
def test_what_goes_wrong_is_told_in_one_line(body: str, said: str) -> None:
    assert said in refusal(write(body), DataError)


@pytest.mark.parametrize(
    ("head", "said"),
    [
        ("import nothing_like_this\ndef made():\n", "ModuleNotFoundError: No module named 'nothing_like_this'"),
        ("def made(:\n", "SyntaxError: "),
        ("1 / 0\ndef made():\n", "ZeroDivisionError: division by zero (sets.py, line 1)"),
        ("import sys\nsys.exit('bye')\ndef made():\n", "SystemExit: bye (sets.py, line 2)"),
    ],
)
def test_a_module_that_cannot_be_imported_is_told(head: str, said: str) -> None:
    message = refusal(write("pass", head), UsageError)
    assert "cannot be imported: " in message
    assert said in message


@pytest.mark.parametrize(
    ("argument", "kind", "said"),
    [
        ("", UsageError, "names no function"),
        ("mydata", UsageError, "names no function"),
        ("mydata:", UsageError, "names no function"),
        (":made", UsageError, "names no function"),
        ("mydata.sets:other", UsageError, "'mydata.sets' has no 'other'"),
        ("mydata.sets:X", UsageError, "'X' of module 'mydata.sets' is no function"),
        ("mydata.gone:made", UsageError, "No module named 'mydata.gone'"),
        ("gone:made", UsageError, "No module named 'gone'"),
        ("..sets:made", UsageError, "cannot be imported"),
    ],
)
def test_what_is_not_there_is_told(argument: str, kind: type[DataError], said: str) -> None:
    write("return X, Y")
    assert said in refusal(f"module:{argument}", kind)


def test_ctrl_c_in_the_users_function_is_no_error_in_the_data() -> None:
    with pytest.raises(KeyboardInterrupt):
        load_dataset(write("raise KeyboardInterrupt"))


def test_the_users_arrays_are_taken_as_they_are() -> None:
    dataset = load_dataset(write("return X, Y"))
    np.testing.assert_array_equal(dataset.x, np.arange(120).reshape(30, 4))
