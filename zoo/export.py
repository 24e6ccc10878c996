"""Keras networks to LiteRT files: one signature per network, float32 or int8 inside, raw input and probabilities outside."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import ExportError
from fleetfoot.files import write_bytes
from profiling.invoke import Model
from zoo.backend import keras, tf

INPUT, OUTPUT = "input", "probabilities"
FLOAT_TOLERANCE = 1e-4
_CALIBRATION_INPUTS = 128

Array = npt.NDArray[Any]


def export(networks: Mapping[str, Any], path: Path, *, quantize: str | None = None, calibration: Array | None = None) -> None:
    """Writes networks of the same input into one LiteRT file, each as the signature of its name.

    Args:
        networks: functional models by signature.
        path: the file to write, atomically.
        quantize: ``"int8"`` for integer arithmetic inside; inputs and outputs stay float.
        calibration: raw inputs, of shape (examples, …), that the int8 ranges are taken from.

    Raises:
        ExportError: the converter refuses, for instance because of an operator that LiteRT lacks.
    """
    with tempfile.TemporaryDirectory() as directory, _silenced() as log:
        archive = keras.export.ExportArchive()
        for name, network in networks.items():
            archive.track(network)
            archive.add_endpoint(name, *_endpoint(network))
        try:
            archive.write_out(directory, verbose=False)
            converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=list(networks))
            if quantize == "int8":
                assert calibration is not None, "int8 needs calibration inputs"
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
                converter.representative_dataset = lambda: _calibration(networks, calibration)
            data = converter.convert()
        except Exception as error:  # the converter raises what its C++ passes raise
            first = str(error).strip().splitlines()[0] if str(error).strip() else log()
            raise ExportError(f"{path.stem} cannot be converted to LiteRT: {first}") from error
    write_bytes(path, data)


def predict(path: Path, signature: str, x: Array, threads: int = 1) -> Array:
    """Probabilities of shape (examples, classes) that an exported network gives for raw inputs, one at a time."""
    runner = Model(path, threads).runner(signature)
    x = x.astype(runner.input.dtype, copy=False)
    return np.concatenate([runner(x[index : index + 1]) for index in range(len(x))])


def parity(network: Any, path: Path, signature: str, x: Array, quantize: str | None) -> float:
    """The largest difference between the probabilities of Keras and LiteRT on raw inputs.

    Raises:
        ExportError: float arithmetic gives another answer. (What integers cost is seen in the accuracy.)
    """
    difference = float(np.abs(network.predict(x, verbose=0) - predict(path, signature, x)).max())
    if quantize is None and not difference <= FLOAT_TOLERANCE:  # so that NaN fails too
        raise ExportError(f"{path.name} answers otherwise than Keras: probabilities differ by {difference:.2g}")
    return difference


def _endpoint(network: Any) -> tuple[Callable[[Any], dict[str, Any]], list[Any]]:
    """What a signature computes, and the one raw input that it takes."""
    (spec,) = network.inputs
    signature = [tf.TensorSpec([1, *spec.shape[1:]], spec.dtype, name=INPUT)]
    return lambda x: {OUTPUT: network(x, training=False)}, signature


def _calibration(networks: Mapping[str, Any], x: Array) -> Iterator[tuple[str, dict[str, Array]]]:
    for signature in networks:
        for index in range(min(len(x), _CALIBRATION_INPUTS)):
            yield signature, {INPUT: x[index : index + 1]}


@contextmanager
def _silenced() -> Iterator[Any]:
    """Keeps what the converter's C++ writes to standard error; yields a function that returns its last line."""
    with tempfile.TemporaryFile() as log:
        stderr = os.dup(2)
        os.dup2(log.fileno(), 2)

        def last_line() -> str:
            log.seek(0)
            lines = log.read().decode(errors="replace").strip().splitlines()
            return lines[-1] if lines else "the converter gave no reason"

        try:
            yield last_line
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
