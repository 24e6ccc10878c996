"""Nesting the networks of a family in one LiteRT file; ``profiling.nested`` has the form of it and reads it."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from math import gcd
from typing import Any, NamedTuple

import msgspec
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from profiling.nested import FOLDER, Nested, Number, Slice, prefix

Array = npt.NDArray[Any]
Place = tuple[int, int]

_TYPES: Mapping[int, Number] = {
    schema.TensorType.FLOAT32: "float32",
    schema.TensorType.FLOAT16: "float16",
    schema.TensorType.INT8: "int8",
}
_SURELY_FORETOLD = 0.05
_LEAST_MEMORY = 1  # blocks of 100 kB, which take 0.4 MB to unpack


class _Weights(NamedTuple):
    """Weights in a LiteRT file, and where they begin."""

    at: int
    dtype: Number
    values: Array


def nest(files: Mapping[str, bytes]) -> bytes:
    """One LiteRT file of several: the largest as it is, and the others nested in it.

    Any networks can be nested. Those whose operators are the same and whose weights are prefixes of the largest one's,
    but for factors, take little room.

    Args:
        files: LiteRT files by the signature that each has.
    """
    widest = max(files, key=lambda signature: len(files[signature]))
    whole = io.BytesIO(files[widest])
    others = [signature for signature in files if signature != widest]
    if not others:
        return files[widest]
    with zipfile.ZipFile(whole, "a") as archive:
        for signature in others:
            entry = zipfile.ZipInfo(FOLDER + signature)  # without the time, so that equal networks give equal files
            nested = msgspec.msgpack.encode(_nested(files[widest], files[signature]))
            archive.writestr(entry, nested, zipfile.ZIP_BZIP2, _LEAST_MEMORY)
    return whole.getvalue()


def _nested(widest: bytes, narrower: bytes) -> Nested:
    """A network in terms of the widest."""
    source, rest = np.frombuffer(widest, np.uint8), np.frombuffer(bytearray(narrower), np.uint8)
    theirs = dict(_weights(widest))
    slices = []
    done: set[int] = set()
    for place, weights in _weights(narrower):
        if weights.at in done or place not in theirs:
            continue
        done.add(weights.at)
        found = _slice(theirs[place], weights)
        if found is None:
            continue
        values = found.within(rest)
        left = values - found.foretold(source).view(values.dtype)
        if _room(left) + len(found.factors) < _room(values):
            values[...] = left
            slices.append(found)
    return Nested(tuple(slices), rest.data, zlib.crc32(narrower))


def _weights(file: bytes) -> Iterator[tuple[Place, _Weights]]:
    """The weights of the one signature of a file that have several axes, by operator and input."""
    model = schema.Model.GetRootAs(file, 0)
    graph = model.Subgraphs(0)
    start = np.frombuffer(file, np.uint8).ctypes.data
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        for number in range(operator.InputsLength()):
            if operator.Inputs(number) < 0:
                continue
            tensor = graph.Tensors(operator.Inputs(number))
            buffer = model.Buffers(tensor.Buffer())
            if tensor.ShapeLength() < 2 or tensor.Type() not in _TYPES:
                continue
            if buffer.Offset() > 1:  # the quantizer writes large ones behind the objects; 1 is a placeholder
                at = buffer.Offset()
            elif buffer.DataLength():
                at = buffer.DataAsNumpy().ctypes.data - start
            else:
                continue
            shape = tuple(tensor.ShapeAsNumpy().tolist())
            dtype = _TYPES[tensor.Type()]
            values = np.frombuffer(file, dtype, int(np.prod(shape)), at)
            yield (index, number), _Weights(at, dtype, values.reshape(shape))


def _slice(source: _Weights, weights: _Weights) -> Slice | None:
    """The slice that foretells weights best; None where they cannot be one."""
    shape, source_shape = weights.values.shape, source.values.shape
    if source.dtype != weights.dtype or len(shape) != len(source_shape):
        return None
    if any(size > there for size, there in zip(shape, source_shape, strict=True)):
        return None
    best, least = None, np.inf
    common = gcd(shape[-1], source_shape[-1])
    for runs in (number for number in range(1, common + 1) if common % number == 0):
        kept = prefix(source.values, shape, runs)
        for axis in 0, len(shape) - 1:
            with np.errstate(all="ignore"):  # what is infinite has no error that is least
                factors = _factors(kept, weights.values, axis)
                error = _error(kept, weights.values, factors)
            if error < least:
                least = error
                best = Slice(weights.at, source.at, weights.dtype, shape, source_shape, runs, axis, factors.tobytes())
            if least < _SURELY_FORETOLD:
                return best
    return best


def _factors(kept: Array, weights: Array, axis: int) -> Array:
    """The factor of each channel by least squares, in a shape that spreads over the weights."""
    others = tuple(other for other in range(weights.ndim) if other != axis)
    kept, weights = kept.astype(np.float64), weights.astype(np.float64)
    power = (kept * kept).sum(others, keepdims=True)
    product = (kept * weights).sum(others, keepdims=True)
    factors: Array = np.divide(product, power, out=np.zeros_like(power), where=power > 0).astype(np.float32)
    return factors


def _error(kept: Array, weights: Array, factors: Array) -> float:
    """How far from weights the slice times its factors is, relative to their size."""
    difference = weights - kept * factors
    return float(np.sqrt((difference**2).sum() / max((weights.astype(np.float64) ** 2).sum(), 1e-30)))


def _room(values: Array) -> int:
    """About how many bytes they take when compressed."""
    return len(zlib.compress(values.tobytes(), 1))
