"""A model's answers from a phone, by a runner: a program that reads a file of inputs and writes one of outputs."""

from __future__ import annotations

import math
import shlex
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import DeviceError, ModelError
from fleetfoot.files import sha256, write_bytes
from profiling.android.adb import Adb
from profiling.android.files import FOLDER, PhoneFolder
from profiling.invoke import Model, Runner
from profiling.nested import alone
from profiling.profile import Target

_BATCH_BYTES = 32 << 20
_TIMEOUT_SECONDS = 600.0


def answer_on_phone(
    adb: Adb, folder: PhoneFolder, program: Path, target: Target, x: npt.NDArray[Any]
) -> npt.NDArray[np.float32]:
    """The outputs, of shape (n, classes), of a target on inputs of shape (n, …), some MB at a time.

    Raises:
        DeviceError: the target cannot be run, or the device went away.
    """
    try:
        host = Model(target.path, 1, target.signature).runner(target.signature)
        with alone(target.path, target.signature) as file:
            folder.use([sha256(program), sha256(file)])
            files = f"{folder.put(program, 0o755)} --graph={folder.put(file)}"
    except (ModelError, OSError) as error:
        raise DeviceError(str(error)) from None
    base = f"{files} {shlex.quote(f'--signature={target.signature}')} --num_threads=1"
    return np.concatenate([_answers(adb, folder, base, host, part) for part in _parts(x, host)])


def _parts(x: npt.NDArray[Any], host: Runner) -> Iterator[npt.NDArray[Any]]:
    size = math.prod(host.input.shape) * 8
    step = max(1, _BATCH_BYTES // size)
    for start in range(0, len(x), step):
        yield x[start : start + step]


def _answers(adb: Adb, folder: PhoneFolder, base: str, host: Runner, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    with tempfile.TemporaryDirectory() as directory:
        inputs, outputs = Path(directory, "inputs"), Path(directory, "outputs")
        write_bytes(inputs, _encoded(host, x))
        name = sha256(inputs)
        answers = f"{name}.answers"
        folder.use([name, answers])
        answer = adb.run(f"{base} --input={folder.put(inputs)} --output={FOLDER}/{answers}", _TIMEOUT_SECONDS)
        if answer.status:
            said = [line.strip() for line in answer.output.splitlines() if line.strip()]
            raise DeviceError(
                f"the runner ended with status {answer.status}: {said[-1] if said else 'it said nothing'}"
            )
        folder.get(answers, outputs)
        folder.drop([name, answers])
        return _decoded(host, outputs.read_bytes(), len(x))


def _encoded(host: Runner, x: npt.NDArray[Any]) -> bytes:
    """Inputs one after the other, row by row, in the type of the model's input, little-endian."""
    given = host.encode(x)
    return np.ascontiguousarray(given, given.dtype.newbyteorder("<")).tobytes()


def _decoded(host: Runner, data: bytes, count: int) -> npt.NDArray[np.float32]:
    """Outputs as real numbers, of shape (n, classes), from those in the type of the model's output.

    Raises:
        DeviceError: these are not as many as there should be.
    """
    classes = math.prod(host.output.shape[1:])
    dtype = host.encoded_output.newbyteorder("<")
    if len(data) != count * classes * dtype.itemsize:
        raise DeviceError(
            f"the runner wrote {len(data)} bytes for {count} inputs, and {count * classes * dtype.itemsize} "
            f"are {classes} values of {dtype.name} for each"
        )
    raw = np.frombuffer(data, dtype).reshape(count, classes)
    return host.decode(raw).astype(np.float32)
