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
        quantize: the number format inside, of ``zoo.recipe.QUANTIZATIONS``; inputs and outputs stay as they are.
        calibration: raw inputs, of shape (examples, …), that the ranges of ``"int8"`` are taken from.

    Raises:
        ExportError: the converter refuses, for instance because of an operator that LiteRT lacks.
    """
    endpoints = {name: _endpoint(network) for name, network in networks.items()}
    write_litert(endpoints, path, tracked=list(networks.values()), quantize=quantize, calibration=calibration)


def write_litert(
    endpoints: Mapping[str, Endpoint],
    path: Path,
    *,
    tracked: Sequence[Any] = (),
    quantize: str | None = None,
    calibration: Array | None = None,
) -> None:
    """Converts functions to one LiteRT file of built-in operators, a signature each.

    Args:
        endpoints: the functions by signature.
        path: the file to write, atomically.
        tracked: the networks whose weights the functions use.
        quantize: the number format inside, or None for float32.
        calibration: raw inputs that the ranges of ``"int8"`` are taken from.

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
            if quantize:
                _quantize(converter, quantize, list(endpoints), calibration)
            data = converter.convert()
        except Exception as error:  # the converter raises whatever its passes raise
            reason = str(error).strip() or log()
            raise ExportError(f"{path.stem} cannot be converted to LiteRT: {reason.splitlines()[0]}") from error
    write_bytes(path, data)


def _quantize(converter: Any, quantize: str, signatures: Sequence[str], calibration: Array | None) -> None:
    """Tells the converter which number format to use."""
    converter.optimizations = [tf.lite.Optimize.DEFAULT]  # on its own, this is "dynamic"
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantize == "int8":
        assert calibration is not None, "int8 needs calibration inputs"
        inputs = spread(calibration, _CALIBRATION_INPUTS)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: _calibration(signatures, inputs)


def predict(path: Path, signature: str, x: Array, threads: int = 1) -> Array:
    """Probabilities of shape (examples, classes) that an exported network gives for raw inputs, one at a time."""
    runner = Model(path, threads).runner(signature)
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


def spread(x: Array, count: int) -> Array:
    """At most so many of some examples, from first to last: data is often in the order of its classes."""
    chosen: Array = x[np.linspace(0, len(x) - 1, min(count, len(x))).round().astype(int)]
    return chosen


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
