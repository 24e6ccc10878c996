"""What travels between the selector's client and service, as a zoo takes it."""

from __future__ import annotations

import numpy as np
import pytest

from fleetfoot.errors import InputError, RequestError
from fleetfoot.wire import unpack_array
from premodel.policy import Objective
from runtime.wire import pack_objective, unpack_objective
from zoo.catalog import InputSpec


def test_nested_lists_of_whole_numbers_are_taken_by_a_zoo_of_bytes() -> None:
    spec = InputSpec(kind="image", shape=(2, 2, 1), dtype="uint8", minimum=0.0, maximum=255.0)
    checked = spec.check(unpack_array([[[0], [255]], [[7], [8]]]))
    assert checked.dtype == np.uint8
    np.testing.assert_array_equal(checked.ravel(), [0, 255, 7, 8])


@pytest.mark.parametrize("value", [-1, 256])
def test_numbers_that_no_byte_holds_are_not_taken_by_a_zoo_of_bytes(value: int) -> None:
    spec = InputSpec(kind="tensor", shape=(1,), dtype="uint8", minimum=0.0, maximum=255.0)
    with pytest.raises(InputError):
        spec.check(unpack_array([value]))


@pytest.mark.parametrize("objective", [None, Objective()])
def test_an_objective_arrives_as_it_was(objective: Objective | None) -> None:
    assert unpack_objective(pack_objective(objective)) == objective


@pytest.mark.parametrize("received", ["fast", 3, [], {"speed": 1}])
def test_anything_else_is_no_objective(received: object) -> None:
    with pytest.raises(RequestError, match="the objective is none"):
        unpack_objective(received)
