"""Files of one operator each, written without a converter: additions of any shapes, types and signatures, and products.

Products may be nested in one file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from profiling.profile import Target
from zoo.nesting import nest

SIGNATURE = "main"
INPUTS = 256

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
    path.write_bytes(_file(subgraph, schema.BuiltinOperator.ADD, SIGNATURE if signature else ""))
    return Target(path.stem, path, SIGNATURE if signature else "")


class Product(NamedTuple):
    """A network that multiplies its input, of shape (1, INPUTS), by weights of shape (outputs, INPUTS)."""

    target: Target
    weights: Any

    def answers(self, x: Any) -> Any:
        """What it gives for inputs of shape (n, INPUTS)."""
        return x @ self.weights.T


def nested_products(path: Path, outputs: Mapping[str, int]) -> dict[str, Product]:
    """One file of products of so many outputs each, by signature: the widest, and nested in it the others."""
    random = np.random.default_rng(0)
    whole = random.normal(size=(max(outputs.values()), INPUTS)).astype(np.float32)
    weights = {}
    for name, size in outputs.items():
        factors = random.uniform(0.5, 2, (size, 1)) if size < len(whole) else 1
        weights[name] = (whole[:size] * factors).astype(np.float32)
    path.write_bytes(nest({name: _product(weights[name], name) for name in outputs}))
    return {name: Product(Target(name, path, name), weights[name]) for name in outputs}


def _product(weights: Any, signature: str) -> bytes:
    outputs, inputs = weights.shape
    subgraph = schema.SubGraphT()
    sizes = {"input": (1, inputs), "weights": weights.shape, "output": (1, outputs)}
    subgraph.tensors = [_tensor(name, size, None, "float32") for name, size in sizes.items()]
    subgraph.tensors[1].buffer = 1
    subgraph.inputs, subgraph.outputs = [0], [2]
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1, -1], [2]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    subgraph.operators = [operator]
    constants = schema.BufferT()
    constants.data = np.frombuffer(weights.tobytes(), np.uint8)
    return _file(subgraph, schema.BuiltinOperator.FULLY_CONNECTED, signature, constants)


def _file(subgraph: schema.SubGraphT, kind: int, signature: str, *buffers: schema.BufferT) -> bytes:
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = kind
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [subgraph]
    model.buffers = [schema.BufferT(), *buffers]
    model.signatureDefs = [_signature(subgraph, signature)] if signature else []
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def _tensor(name: str, size: Sequence[int], given_size: Sequence[int] | None, kind: str) -> schema.TensorT:
    tensor = schema.TensorT()
    tensor.name, tensor.shape, tensor.type, tensor.buffer = name, list(size), _TYPES[kind], 0
    tensor.shapeSignature = list(given_size) if given_size else None
    return tensor


def _signature(subgraph: schema.SubGraphT, name: str) -> schema.SignatureDefT:
    signature = schema.SignatureDefT()
    signature.signatureKey, signature.subgraphIndex = name, 0
    signature.inputs = [_named(subgraph, index) for index in subgraph.inputs]
    signature.outputs = [_named(subgraph, index) for index in subgraph.outputs]
    return signature


def _named(subgraph: schema.SubGraphT, index: int) -> schema.TensorMapT:
    named = schema.TensorMapT()
    named.name, named.tensorIndex = subgraph.tensors[index].name, index
    return named
