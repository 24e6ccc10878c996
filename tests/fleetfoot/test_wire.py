"""What travels between clients and services."""

from __future__ import annotations

import math
import pickle
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from Pyro5.serializers import MsgpackSerializer, SerpentSerializer

from fleetfoot import errors
from fleetfoot.errors import FleetfootError, InputError
from fleetfoot.wire import pack_array, register_errors, unpack_array

numbers = st.sampled_from(["<f4", ">f4", "<f8", "f2", "u1", "<i4", ">i8"])


@given(arrays.arrays(numbers, arrays.array_shapes(min_dims=0, max_dims=4, min_side=0)))
def test_any_array_of_numbers_arrives_as_it_was(x: Any) -> None:
    arrived = unpack_array(msgpack.unpackb(msgpack.packb(pack_array(x))))
    assert arrived.dtype == x.dtype
    assert arrived.shape == x.shape
    np.testing.assert_array_equal(arrived, x)


def test_an_array_that_is_not_contiguous_arrives_as_it_was() -> None:
    x = np.arange(24, dtype=np.float32).reshape(2, 3, 4).transpose(2, 0, 1)[::-1]
    np.testing.assert_array_equal(unpack_array(pack_array(x)), x)


@pytest.mark.parametrize("nested", [[[0, 1], [2, 3]], ((0.0, 1.0), (2.0, 3.0))])
def test_nested_lists_of_numbers_are_arrays_too(nested: Any) -> None:
    np.testing.assert_array_equal(unpack_array(nested), [[0, 1], [2, 3]])


def test_objects_are_not_sent() -> None:
    with pytest.raises(InputError):
        pack_array(np.array([object()]))


def test_ragged_lists_are_not_sent() -> None:
    with pytest.raises(InputError):
        pack_array([[1.0], [1.0, 2.0]])


def packed(**fields: Any) -> dict[str, Any]:
    return {"dtype": "<f4", "shape": [2], "data": b"12345678"} | fields


@pytest.mark.parametrize(
    "received",
    [
        pytest.param({}, id="nothing"),
        pytest.param({"dtype": "<f4", "shape": [2]}, id="no data"),
        pytest.param(packed(dtype="O"), id="objects"),
        pytest.param(packed(dtype="S4"), id="strings"),
        pytest.param(packed(dtype="<c8", shape=[1]), id="complex"),
        pytest.param(packed(dtype="?", shape=[8]), id="truth values"),
        pytest.param(packed(dtype="<M8[s]", shape=[1]), id="dates"),
        pytest.param(packed(dtype="f4,f4", shape=[1]), id="records"),
        pytest.param(packed(dtype="f5"), id="no such type"),
        pytest.param(packed(dtype=["<f4"]), id="a list of types"),
        pytest.param(packed(dtype={"names": ["a"]}), id="a dictionary of types"),
        pytest.param(packed(shape=[3]), id="too few bytes"),
        pytest.param(packed(shape=[1]), id="too many bytes"),
        pytest.param(packed(shape=[-1, -2]), id="negative sizes"),
        pytest.param(packed(shape=[2**62, 4, 0]), id="huge sizes"),
        pytest.param(packed(shape=["two"]), id="a word for a size"),
        pytest.param(packed(shape=2), id="no list of sizes"),
        pytest.param(packed(shape=[math.nan]), id="NaN for a size"),
        pytest.param(
            packed(shape=[math.inf]), id="infinity for a size"
        ),
        pytest.param(packed(data="12345678"), id="text for bytes"),
        pytest.param(packed(data=8), id="a number for bytes"),
        pytest.param(packed(data=None), id="no bytes"),
        pytest.param(packed(shape=[1] * 100, data=b"1234"), id="too many axes"),
        pytest.param([[1.0], [1.0, 2.0]], id="ragged lists"),
    ],
)  # fmt: skip
def test_anything_else_is_no_array(received: Any) -> None:
    with pytest.raises(InputError):
        unpack_array(received)


class Exploit:
    """Would run code where it is unpickled."""

    def __reduce__(self) -> Any:
        return print, ("executed",)


def test_a_pickle_is_data_of_the_wrong_size_and_never_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError):
        unpack_array(packed(dtype="O", data=pickle.dumps(Exploit())))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("serializer", [MsgpackSerializer(), SerpentSerializer()])
@pytest.mark.parametrize(
    "kind", [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FleetfootError)]
)
def test_every_error_of_the_tree_arrives_as_what_it_is(serializer: Any, kind: type[FleetfootError]) -> None:
    register_errors()
    arrived = serializer.loads(serializer.dumps(kind("the reason: ü")))
    assert type(arrived) is kind
    assert str(arrived) == "the reason: ü"
