"""Files of one addition each, written without a converter: of any shapes, types and signatures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import flatbuffers
from ai_edge_litert import schema_py_generated as schema

from profiling.profile import Target

SIGNATURE = "main"

_TYPES = {"float32": schema.TensorType.FLOAT32, "int32": schema.TensorType.INT32, "string": schema.TensorType.STRING}


def addition(
    path: Path,
    *,
    size: Sequence[int] = (1, 8),
    given_size: Sequence[int] | None = None,
    two_inputs: bool = False,
    dtype: str = "float32",
    beside: str | None = None,
    signature: bool = True,
) -> Target:
    """A file that adds its input to itself, or two inputs to each other.

    Args:
        path: of the file.
        size: of the inputs and the output.
        given_size: what the file says of that size; -1 where it is left open.
        two_inputs: whether there are two.
        dtype: of the numbers.
        beside: the type of one more input, which nothing uses.
        signature: whether the file has one.
    """
    types = [dtype, *([dtype] if two_inputs else []), *([beside] if beside else []), dtype]
    subgraph = schema.SubGraphT()
    subgraph.tensors = [_tensor(f"t{index}", size, given_size, kind) for index, kind in enumerate(types)]
    subgraph.inputs = list(range(len(types) - 1))
    subgraph.outputs = [len(types) - 1]
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1 if two_inputs else 0], subgraph.outputs
    operator.builtinOptionsType, operator.builtinOptions = schema.BuiltinOptions.AddOptions, schema.AddOptionsT()
    subgraph.operators = [operator]

    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ADD
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [subgraph]
    model.buffers = [schema.BufferT()]
    model.signatureDefs = [_signature(subgraph)] if signature else []
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return Target(path.stem, path, SIGNATURE if signature else "")


def _tensor(name: str, size: Sequence[int], given_size: Sequence[int] | None, kind: str) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(size), _TYPES[kind], 0
    tensor.shapeSignature = list(given_size) if given_size else None
    return tensor


def _signature(subgraph: schema.SubGraphT) -> schema.SignatureDefT:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = SIGNATURE, 0
    signature.inputs = [_named(subgraph, index) for index in subgraph.inputs]
    signature.outputs = [_named(subgraph, index) for index in subgraph.outputs]
    return signature


def _named(subgraph: schema.SubGraphT, index: int) -> schema.TensorMapT:
    named = schema.TensorMapT()
    named.name, named.tensorIndex = subgraph.tensors[index].name, index
    return named
