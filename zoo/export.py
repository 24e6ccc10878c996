"""Keras networks to LiteRT files: a signature each, raw input and probabilities outside."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import ExportError
from fleetfoot.files import write_bytes
from fleetfoot.silence import silenced
from profiling.invoke import Model
from zoo.backend import keras, tf
from zoo.datasets import Rows, spread
from zoo.nesting import nest
from zoo.paired import sure_gain
from zoo.quantize import Calibration, quantize_sparing
from zoo.quantize import quantize as quantize_to

INPUT, OUTPUT = "input", "probabilities"
FLOAT_TOLERANCE = 1e-4
_BEARABLE_LOSS = 0.005
_DISTORTION_INPUTS = 256

Array = npt.NDArray[Any]


class Endpoint(NamedTuple):
    """What a signature computes from its one input, as a dictionary of its one output."""

    function: Callable[[Any], dict[str, Any]]
    input: Any


def export(
    networks: Mapping[str, Any],
    path: Path,
    *,
    quantize: str | None = None,
    x: Array | None = None,
    y: npt.NDArray[np.int64] | None = None,
) -> tuple[str, ...]:
    """Writes networks of the same input into one LiteRT file, each as the signature of its name.

    The largest is the file, the others are nested in it (``profiling.nested``): subnetworks then take little room.

    Where int8 loses more than half a point of accuracy and that is not by chance, the operators that lose most
    are kept in float.

    Args:
        networks: functional models by signature.
        path: the file to write, atomically.
        quantize: the number format inside, of ``zoo.recipe.QUANTIZATIONS``; inputs and outputs stay as they are.
        x: raw inputs, of shape (examples, …), that a format is calibrated with and chosen by.
        y: their class indices.

    Returns:
        The names of the operators that were kept in float, in any of the networks, because integers ruined them.

    Raises:
        ExportError: the converter refuses, for instance because of an operator that LiteRT lacks.
    """
    files: dict[str, bytes] = {}
    spared: dict[str, None] = {}
    for name, network in networks.items():
        files[name] = convert({name: _endpoint(network)}, [network])
        if quantize:
            assert x is not None, "a number format needs inputs to calibrate it with"
            assert y is not None
            files[name], in_float = _quantized(files[name], quantize, Calibration(x, [name], INPUT), y)
            spared |= dict.fromkeys(in_float)
    write_bytes(path, nest(files))
    return tuple(spared)


def convert(endpoints: Mapping[str, Endpoint], tracked: Sequence[Any] = ()) -> bytes:
    """Converts functions to one LiteRT model of built-in operators, a signature each.

    Args:
        endpoints: the functions by signature.
        tracked: the networks whose weights the functions use.

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
            model: bytes = converter.convert()
        except Exception as error:  # the converter raises whatever its passes raise
            reason = str(error).strip() or log()
            names = ", ".join(endpoints)
            raise ExportError(f"{names} cannot be converted to LiteRT: {reason.splitlines()[0]}") from error
    return model


def _quantized(
    model: bytes, numbers: str, calibration: Calibration, y: npt.NDArray[np.int64]
) -> tuple[bytes, tuple[str, ...]]:
    if numbers != "int8":
        return quantize_to(model, numbers, calibration), ()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "trial.tflite"

        def answers(trial: bytes, x: Array) -> Array:
            path.write_bytes(trial)
            return np.concatenate([predict(path, signature, x) for signature in calibration.signatures])

        labels = np.tile(y, len(calibration.signatures))
        right = answers(model, calibration.x).argmax(axis=1) == labels
        some = spread(calibration.x, _DISTORTION_INPUTS)
        expected = answers(model, some)
        return quantize_sparing(
            model,
            calibration,
            loss=lambda trial: sure_gain(answers(trial, calibration.x).argmax(axis=1) == labels, right),
            distortion=lambda trial: float(np.abs(answers(trial, some) - expected).mean()),
            bearable=_BEARABLE_LOSS,
        )


def predict(path: Path, signature: str, x: Array | Rows, threads: int = 1) -> Array:
    """Probabilities of shape (examples, classes) that an exported network gives for raw inputs, one at a time."""
    return Model(path, threads, signature).runner(signature).each(x)


def parity(network: Any, path: Path, signature: str, x: Array, quantize: str | None) -> float:
    """The largest difference between the probabilities of Keras and LiteRT on raw inputs.

    Raises:
        ExportError: float arithmetic gives another answer, or any a NaN. (What else fewer bits cost is seen in the
            accuracy.)
    """
    difference = float(np.abs(network.predict(x, verbose=0) - predict(path, signature, x)).max())
    if not np.isfinite(difference) or (quantize is None and difference > FLOAT_TOLERANCE):
        raise ExportError(f"{path.name} answers otherwise than Keras: probabilities differ by {difference:.2g}")
    return difference


def _endpoint(network: Any) -> Endpoint:
    (spec,) = network.inputs
    return Endpoint(
        lambda x: {OUTPUT: network(x, training=False)},
        tf.TensorSpec([1, *spec.shape[1:]], spec.dtype, name=INPUT),
    )
