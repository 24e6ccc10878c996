from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from smallmodels import SIGNATURE, addition

from fleetfoot.errors import ModelError
from profiling.invoke import Model
from profiling.resume import Step


def test_a_step_answers_as_the_signature_does(tmp_path: Path) -> None:
    target = addition(tmp_path / "one.tflite")
    model = Model(target.path)
    step = Step(model, SIGNATURE)
    for factor in (1.0, -2.5):
        x = np.full((1, 8), factor, np.float32)
        reached = step(x)
        np.testing.assert_array_equal(reached.probabilities, model.runner(SIGNATURE)(x))
        assert reached.features is None


def test_what_a_step_returned_stays_when_it_runs_again(tmp_path: Path) -> None:
    step = Step(Model(addition(tmp_path / "one.tflite").path), SIGNATURE)
    first = step(np.ones((1, 8), np.float32))
    step(np.zeros((1, 8), np.float32))
    np.testing.assert_array_equal(first.probabilities, np.full((1, 8), 2.0))


def test_arrays_of_another_type_or_shape(tmp_path: Path) -> None:
    step = Step(Model(addition(tmp_path / "one.tflite").path), SIGNATURE)
    np.testing.assert_array_equal(step(np.full((1, 8), 3, np.uint8)).probabilities, np.full((1, 8), 6.0))
    with pytest.raises(ModelError, match=r"cannot take an array of shape \(1, 9\)"):
        step(np.ones((1, 9), np.float32))


def test_signatures_that_neither_begin_nor_go_on_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no signature 'other'"):
        Step(Model(addition(tmp_path / "one.tflite").path), "other")
    with pytest.raises(ModelError, match="takes or returns more than one"):
        Step(Model(addition(tmp_path / "two.tflite", two_inputs=True).path), SIGNATURE)
