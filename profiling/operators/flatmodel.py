"""LiteRT's files as objects and back, as far as operators need it, with names for what are numbers there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from fleetfoot.errors import FleetfootError, ModelError, first_line
from fleetfoot.files import write_bytes
from profiling.nested import nested_signatures, standalone
from profiling.operators.operator import Operator, Tensor, Value

_IDENTIFIER = b"TFL3"
_MOST_VALUES = 64
_IMPLIED = {"inDataType", "outDataType", "newShape", "quantSpec"}  # the tensors say the same


def _names(enumeration: type) -> dict[int, str]:
    return {number: name for name, number in vars(enumeration).items() if isinstance(number, int)}


KINDS = _names(schema.BuiltinOperator)
TYPES = {number: name.lower() for number, name in _names(schema.TensorType).items()}
_NAMED_OPTIONS = {
    "padding": _names(schema.Padding),
    "fusedActivationFunction": _names(schema.ActivationFunctionType),
}
_OPTIONS_OF = {
    "AVERAGE_POOL_2D": "Pool2D", "MAX_POOL_2D": "Pool2D", "L2_POOL_2D": "Pool2D",
    "MEAN": "Reducer", "SUM": "Reducer", "REDUCE_MAX": "Reducer", "REDUCE_MIN": "Reducer", "REDUCE_PROD": "Reducer",
    "MAXIMUM": "MaximumMinimum", "MINIMUM": "MaximumMinimum", "BATCH_MATMUL": "BatchMatMul",
}  # fmt: skip


@contextmanager
def damage_explained(path: Path) -> Iterator[None]:
    """Says in one line that a file is damaged, whatever reading it or following what it says stumbles over."""
    try:
        yield
    except FleetfootError:
        raise
    except Exception as error:  # every offset and index in the file is trusted, so damage surfaces as anything
        raise ModelError(f"{path} is a damaged LiteRT file: {first_line(error)}") from None


def read_model(path: Path, signature: str = "") -> Any:
    """The objects in a LiteRT file.

    Args:
        path: the file.
        signature: what is wanted of it; of one that is nested in the file, the objects are those of its network alone.

    Raises:
        ModelError: it is not there, is no LiteRT file, or is damaged.
    """
    try:
        data = standalone(path, signature) or path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}") from None
    if data[4:8] != _IDENTIFIER:
        raise ModelError(f"{path} is no LiteRT file: export it again")
    with damage_explained(path):
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        _take_in_buffers(model, data)
        return model


def _take_in_buffers(model: Any, data: bytes) -> None:
    """Puts the constants that stand behind the objects, as the quantizer writes large ones, where others are."""
    for buffer in model.buffers:
        if buffer.offset > 1:  # 1 is a placeholder for an offset
            if buffer.offset + buffer.size > len(data):
                raise ValueError("it ends before its constants do")
            buffer.data = np.frombuffer(data, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0


def write_model(model: Any, path: Path) -> None:
    """Writes objects as a LiteRT file, atomically."""
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    write_bytes(path, bytes(builder.Output()))


def graph_of(model: Any, signature: str, others: Sequence[str] = ()) -> Any:
    """The subgraph behind a signature; behind an empty one, that of a file without signatures.

    Args:
        model: the objects in the file.
        signature: one of theirs.
        others: those that the file has besides, which a refusal names too.

    Raises:
        ModelError: no such signature.
    """
    found = {named.signatureKey.decode(): named.subgraphIndex for named in model.signatureDefs or []}
    if not found and not signature:
        return model.subgraphs[0]
    if signature not in found:
        raise ModelError(f"no signature {signature!r}: there are {', '.join((*found, *others)) or 'none'}")
    return model.subgraphs[found[signature]]


def signatures_of(path: Path) -> tuple[str, ...]:
    """The names of a file's signatures, and after them of those that are nested in it.

    Raises:
        ModelError: a file that cannot be read.
    """
    with damage_explained(path):
        own = tuple(named.signatureKey.decode() for named in read_model(path).signatureDefs or [])
        return own + nested_signatures(path)


def kind_of(model: Any, operator: Any) -> str:
    """The name of an operator's kind; of one that LiteRT does not have built in, with its own name."""
    code = model.operatorCodes[operator.opcodeIndex]
    kind = KINDS[max(code.builtinCode, code.deprecatedBuiltinCode)]
    return f"CUSTOM {code.customCode.decode()}" if kind == "CUSTOM" else kind


def unpackers(model: Any, graph: Any) -> dict[int, Any]:
    """By the tensors that they give, the DEQUANTIZE operators of constants: they run once, at loading."""
    return {
        int(operator.outputs[0]): operator
        for operator in graph.operators
        if kind_of(model, operator) == "DEQUANTIZE" and is_constant(model, graph.tensors[operator.inputs[0]])
    }


def is_constant(model: Any, tensor: Any) -> bool:
    """Whether a tensor's values are in the file."""
    return model.buffers[tensor.buffer].data is not None


def describe(model: Any, graph: Any, operator: Any, unpacked: dict[int, Any]) -> Operator:
    """One operator in our words."""

    def tensor(index: int) -> Tensor | None:
        if index < 0:
            return None
        if index in unpacked:
            stored = graph.tensors[unpacked[index].inputs[0]]
            return Tensor(_shape(stored), TYPES[stored.type], _scales(stored), constant=True, unpacked=True)
        return _tensor(model, graph.tensors[index])

    outputs = tuple(_tensor(model, graph.tensors[index]) for index in operator.outputs)
    inputs = tuple(tensor(int(index)) for index in operator.inputs)
    return Operator(kind_of(model, operator), inputs, outputs, _options(operator.builtinOptions))


def _tensor(model: Any, tensor: Any) -> Tensor:
    dtype, scales, constant = TYPES[tensor.type], _scales(tensor), is_constant(model, tensor)
    values: tuple[int, ...] = ()
    if constant and not scales and dtype in ("int32", "int64") and np.prod(_shape(tensor)) <= _MOST_VALUES:
        data = np.asarray(model.buffers[tensor.buffer].data, np.uint8)
        values = tuple(int(value) for value in np.frombuffer(data.tobytes(), dtype))
    return Tensor(_shape(tensor), dtype, scales, constant=constant, values=values)


def _shape(tensor: Any) -> tuple[int, ...]:
    return tuple(int(size) for size in tensor.shape) if tensor.shape is not None else ()


def _scales(tensor: Any) -> int:
    quantization = tensor.quantization
    return len(quantization.scale) if quantization is not None and quantization.scale is not None else 0


def _options(options: Any) -> tuple[tuple[str, Value], ...]:
    if options is None:
        return ()
    defaults = vars(type(options)())
    return tuple(
        (name, _value(name, value))
        for name, value in sorted(vars(options).items())
        if name not in _IMPLIED and not _equal(value, defaults[name])
    )


def _equal(one: Any, other: Any) -> bool:
    return bool(np.array_equal(one, other)) if one is not None and other is not None else one is other


def _value(name: str, value: Any) -> Value:
    if name in _NAMED_OPTIONS:
        return _NAMED_OPTIONS[name][value]
    if isinstance(value, bytes):
        return value.decode(errors="replace")
    if isinstance(value, bool | int | float | str):
        return value
    return tuple(int(item) for item in value)


def options_for(kind: str, options: Sequence[tuple[str, Value]]) -> tuple[int, Any]:
    """LiteRT's number and object for the options of a kind of operator; 0 and None where it has none.

    Raises:
        ModelError: an option that this kind does not have.
    """
    name = _OPTIONS_OF.get(kind, _camel_case(kind)) + "Options"
    number = vars(schema.BuiltinOptions).get(name, 0)
    made = getattr(schema, f"{name}T")() if number else None
    for option, value in options:
        if not hasattr(made, option):
            raise ModelError(f"{kind} has no option {option!r}")
        numbers = {word: number for number, word in _NAMED_OPTIONS.get(option, {}).items()}
        setattr(made, option, numbers.get(value, value) if isinstance(value, str) else value)
    return number, made


def _camel_case(kind: str) -> str:
    return "".join(word if word[0].isdigit() else word.capitalize() for word in kind.split("_"))
