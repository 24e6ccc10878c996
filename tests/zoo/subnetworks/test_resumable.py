from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from networks import answers, randomize

from profiling.invoke import Model
from profiling.resume import Step
from zoo.architectures import digits_cnn
from zoo.backend import keras
from zoo.datasets import Dataset
from zoo.export import export
from zoo.subnetworks.exits import Exits, with_exits
from zoo.subnetworks.resumable import resumable

layers = keras.layers
IDS = ("early", "middle", "whole")


@pytest.fixture(scope="module")
def exits(digits: Dataset) -> Exits:
    model = digits_cnn(digits.input, 10, width=16)
    randomize(model, 0)
    return with_exits(model, [0.3, 0.8])


@pytest.fixture(scope="module")
def file(exits: Exits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("resumable") / "exits.tflite"
    path.write_bytes(resumable(dict(zip(IDS, exits.networks, strict=True)), exits.features))
    return path


@pytest.fixture(scope="module")
def x(digits: Dataset) -> Any:
    return digits.x[:8]


def test_a_file_has_what_begins_and_what_goes_on(file: Path) -> None:
    assert set(Model(file).signatures) == {
        "early", "early/begin", "middle", "middle/begin", "middle/go-on", "whole", "whole/go-on",
    }  # fmt: skip


@pytest.mark.parametrize("path", [IDS, IDS[:2], IDS[1:]])
def test_going_on_answers_what_the_whole_path_does(path: tuple[str, ...], file: Path, exits: Exits, x: Any) -> None:
    model = Model(file)
    first, *rest = path
    for index in range(len(x)):
        one = x[index : index + 1]
        reached = Step(model, f"{first}/begin")(one)
        np.testing.assert_allclose(reached.probabilities, model.runner(first)(one), atol=1e-5)
        for name in rest:
            assert reached.features is not None
            reached = Step(model, f"{name}/go-on")(reached.features)
            np.testing.assert_allclose(reached.probabilities, model.runner(name)(one), atol=1e-5)
        network = exits.networks[IDS.index(path[-1])]
        np.testing.assert_allclose(reached.probabilities, answers(network, one), atol=1e-5)
    assert (reached.features is None) == (path[-1] == "whole")


def test_shared_weights_are_in_the_file_once(file: Path, exits: Exits, tmp_path: Path) -> None:
    whole = tmp_path / "whole.tflite"
    export({"whole": exits.networks[-1]}, whole)
    heads = {id(weight): weight for network in exits.networks for weight in network.weights}
    extra = sum(np.prod(weight.shape) for weight in heads.values()) - exits.networks[-1].count_params()
    structure = 20_000
    assert file.stat().st_size < whole.stat().st_size + 4 * extra + structure
