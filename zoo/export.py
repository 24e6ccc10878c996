"""Keras networks to LiteRT files: a signature each, float32 or int8 inside, raw input and probabilities outside."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import ExportError
from fleetfoot.files import write_bytes
from fleetfoot.silence import silenced
from profiling.invoke import Model
from zoo.backend import keras, tf

INPUT, OUTPUT = "input", "probabilities"
FLOAT_TOLERANCE = 1e-4
_CALIBRATION_INPUTS = 128

Array = npt.NDArray[Any]


class Endpoint(NamedTuple):
    """What a signature computes from its one input, as a dictionary of its one output."""

    function: Callable[[Any], dict[str, Any]]
    input: Any


def export(
    networks: Mapping[str, Any], path: Path, *, quantize: str | None = None, calibration: Array | None = None
) -> None:
    """Writes networks of the same input into one LiteRT file, each as the signature of its name.

    Args:
        networks: functional models by signature.
        path: the file to write, atomically.
        quantize: ``"int8"`` for integer arithmetic inside; inputs and outputs stay float.
        calibration: raw inputs, of shape (examples, …), that the int8 ranges are taken from.

    Raises:
        ExportError: the converter refuses, for instance because of an operator that LiteRT lacks.
    """
    endpoints = {name: _endpoint(network) for name, network in networks.items()}
    write_litert(endpoints, path, tracked=list(networks.values()), calibration=calibration if quantize else None)


def write_litert(
    endpoints: Mapping[str, Endpoint],
    path: Path,
    *,
    tracked: Sequence[Any] = (),
    calibration: Array | None = None,
) -> None:
    """Converts functions to one LiteRT file of built-in operators, a signature each.

    Args:
        endpoints: the functions by signature.
        path: the file to write, atomically.
        tracked: the networks whose weights the functions use.
        calibration: raw inputs; if given, the file computes in int8, in ranges taken from them.

    Raises:
        ExportError: the converter refuses.
    """
    with tempfile.TemporaryDirectory() as directory, silenced() as log, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the converter uses what it calls deprecated
        archive = keras.export.ExportArchive()
        for network in tracked:
            archive.track(network)
        for name, endpoint in endpoints.items():
            archive.add_endpoint(name, endpoint.function, [endpoint.input])
        try:
            archive.write_out(directory, verbose=False)
            converter = tf.lite.TFLiteConverter.from_saved_model(directory, signature_keys=list(endpoints))
            if calibration is not None:
                inputs = calibration[:_CALIBRATION_INPUTS]
                converter.optimizations = [tf.lite.Optimize.DEFAULT]
                converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
                converter.representative_dataset = lambda: _calibration(endpoints, inputs)
            data = converter.convert()
        except Exception as error:  # the converter raises whatever its passes raise
            reason = str(error).strip() or log()
            raise ExportError(f"{path.stem} cannot be converted to LiteRT: {reason.splitlines()[0]}") from error
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


def _endpoint(network: Any) -> Endpoint:
    (spec,) = network.inputs
    return Endpoint(
        lambda x: {OUTPUT: network(x, training=False)},
        tf.TensorSpec([1, *spec.shape[1:]], spec.dtype, name=INPUT),
    )


def _calibration(signatures: Iterable[str], x: Array) -> Iterator[tuple[str, dict[str, Array]]]:
    for signature in signatures:
        for index in range(len(x)):
            yield signature, {INPUT: x[index : index + 1]}
