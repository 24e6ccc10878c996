"""Other number formats for LiteRT models: float16, dynamic range, and full int8.

By AI Edge Quantizer. Inputs and outputs stay as they are. What integers would ruin stays in float: the
spectra of an audio front end, whose values span many orders of magnitude (there, only the weights of the
Fourier transform become int8), and the softmax, whose few values say how sure the model is.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema
from ai_edge_quantizer import qtyping
from ai_edge_quantizer.algorithm_manager import AlgorithmName
from ai_edge_quantizer.quantizer import Quantizer

from fleetfoot.errors import ExportError, first_line
from fleetfoot.silence import silenced
from zoo.datasets import spread

Operation = qtyping.TFLOperationName
Operator = schema.BuiltinOperator

Array = npt.NDArray[Any]

_CALIBRATION_INPUTS = 128
_MOST_SPARED = 3
_WEIGHTED = {Operator.CONV_2D, Operator.DEPTHWISE_CONV_2D, Operator.FULLY_CONNECTED, Operator.TRANSPOSE_CONV}
_FRONT_END = r"(^|[/;])(log_mel|mfcc)(_\d+)?/"
_TRANSFORM = r"(^|[/;])log_mel(_\d+)?/"


class Calibration(NamedTuple):
    """Raw inputs, of shape (examples, …), that the ranges of ``"int8"`` are taken from.

    ``input`` is what the signatures call their input.
    """

    x: Array
    signatures: Sequence[str]
    input: str


def quantize(model: bytes, numbers: str, calibration: Calibration, keep_float: Sequence[str] = ()) -> bytes:
    """A LiteRT model in another number format.

    Args:
        model: the model in float32.
        numbers: the format, of ``zoo.recipe.QUANTIZATIONS``.
        calibration: what ``"int8"`` is calibrated with.
        keep_float: names of operators, of ``weighted_operators``, that stay as they are.

    Raises:
        ExportError: the quantizer refuses.
    """
    ranges = _ranges(model, calibration) if numbers == "int8" else None
    return _make(model, numbers, ranges, keep_float)


def quantize_sparing(
    model: bytes,
    calibration: Calibration,
    loss: Callable[[bytes], float],
    distortion: Callable[[bytes], float],
    bearable: float,
) -> tuple[bytes, tuple[str, ...]]:
    """A model in int8, with as few operators in float as make its loss bearable, and their names.

    Which operator is spared next is found by sparing each in turn.

    Args:
        model: the model in float32.
        calibration: what it is calibrated with.
        loss: how bad a model is.
        distortion: how far its answers are from those in float; which operator to spare is chosen by it.
        bearable: the loss to get under; after three operators it is given up.

    Raises:
        ExportError: the quantizer refuses.
    """
    ranges = _ranges(model, calibration)
    spared: tuple[str, ...] = ()
    best = _make(model, "int8", ranges)
    least = loss(best)
    while least > bearable and len(spared) < _MOST_SPARED:
        others = [name for name in weighted_operators(model) if name not in spared]
        if not others:
            break
        name = min(others, key=lambda name: distortion(_make(model, "int8", ranges, (*spared, name))))
        trial = _make(model, "int8", ranges, (*spared, name))
        if (lost := loss(trial)) >= least:
            break
        spared, best, least = (*spared, name), trial, lost
    return best, spared


def _ranges(model: bytes, calibration: Calibration) -> Any:
    """The range of every tensor, for the quantizer."""
    with _explained("int8"):
        quantizer = Quantizer(model)
        _int8(quantizer)
        return quantizer.calibrate(_inputs(calibration), num_threads=os.cpu_count() or 1)


def _make(model: bytes, numbers: str, ranges: Any, keep_float: Sequence[str] = ()) -> bytes:
    with _explained(numbers):
        quantizer = Quantizer(model)
        _FORMATS[numbers](quantizer)
        for operator in keep_float:
            _leave(quantizer, f"^{re.escape(operator)};")
        made = quantizer.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
        return bytes(made.quantized_model)


@contextmanager
def _explained(numbers: str) -> Iterator[None]:
    """Keeps back what the quantizer writes, and says in one line what it stumbles over."""
    with silenced(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it calibrates in a way that LiteRT calls debugging
        try:
            yield
        except (RuntimeError, ValueError, KeyError) as error:
            raise ExportError(f"the network cannot be made {numbers}: {first_line(error)}") from error


def weighted_operators(model: bytes) -> list[str]:
    """Names of the convolutions and matrix products of a model: those of the tensors that they give."""
    parsed = schema.ModelT.InitFromPackedBuf(model, 0)
    return [
        graph.tensors[operator.outputs[0]].name.decode()
        for graph in parsed.subgraphs
        for operator in graph.operators
        if parsed.operatorCodes[operator.opcodeIndex].builtinCode in _WEIGHTED
    ]


def _int8(quantizer: Quantizer) -> None:
    quantizer.add_static_config(".*", Operation.ALL_SUPPORTED, activation_num_bits=8, weight_num_bits=8)
    for operation in Operation.INPUT, Operation.OUTPUT, Operation.SOFTMAX:
        _leave(quantizer, ".*", operation)
    _int8_front_end(quantizer)


def _dynamic(quantizer: Quantizer) -> None:
    quantizer.add_dynamic_config(".*", Operation.ALL_SUPPORTED, num_bits=8)
    _int8_front_end(quantizer)


def _float16(quantizer: Quantizer) -> None:
    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
    )
    quantizer.update_quantization_recipe(".*", Operation.ALL_SUPPORTED, config, AlgorithmName.FLOAT_CASTING)


_FORMATS: Mapping[str, Callable[[Quantizer], None]] = {"int8": _int8, "dynamic": _dynamic, "float16": _float16}


def _int8_front_end(quantizer: Quantizer) -> None:
    _leave(quantizer, _FRONT_END)
    quantizer.add_weight_only_config(_TRANSFORM, Operation.FULLY_CONNECTED, num_bits=8)


def _leave(quantizer: Quantizer, scope: str, operation: Any = Operation.ALL_SUPPORTED) -> None:
    """Keeps operators, all or of one kind, in float where their names match."""
    quantizer.update_quantization_recipe(scope, operation, algorithm_key=AlgorithmName.NO_QUANTIZE)


def _inputs(calibration: Calibration) -> dict[str, list[dict[str, Array]]]:
    x = spread(calibration.x, _CALIBRATION_INPUTS)
    return {name: [{calibration.input: x[i : i + 1]} for i in range(len(x))] for name in calibration.signatures}
