"""The C header that carries integer models into a firmware."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from fleetfoot.errors import ExportError
from zoo.microcontroller.integers import IntegerModel

HEADER = "subnetworks.h"

_BYTES_PER_LINE = 24
_ADDING = {
    "CONV_2D": "Conv2D", "DEPTHWISE_CONV_2D": "DepthwiseConv2D", "FULLY_CONNECTED": "FullyConnected",
    "TRANSPOSE_CONV": "TransposeConv", "AVERAGE_POOL_2D": "AveragePool2D", "MAX_POOL_2D": "MaxPool2D", "MEAN": "Mean",
    "REDUCE_MAX": "ReduceMax", "SUM": "Sum", "ADD": "Add", "SUB": "Sub", "MUL": "Mul", "MAXIMUM": "Maximum",
    "MINIMUM": "Minimum", "PAD": "Pad", "PADV2": "PadV2", "CONCATENATION": "Concatenation", "SPLIT": "Split",
    "RESHAPE": "Reshape", "TRANSPOSE": "Transpose", "STRIDED_SLICE": "StridedSlice", "EXPAND_DIMS": "ExpandDims",
    "SQUEEZE": "Squeeze", "RELU": "Relu", "RELU6": "Relu6", "LEAKY_RELU": "LeakyRelu", "ELU": "Elu",
    "HARD_SWISH": "HardSwish", "LOGISTIC": "Logistic", "TANH": "Tanh", "SOFTMAX": "Softmax", "QUANTIZE": "Quantize",
}  # fmt: skip
"""What TensorFlow Lite Micro's resolver calls each kind of operator that it runs in int8."""


class Member(NamedTuple):
    """A model by its name, and the multiply-accumulates of an inference."""

    name: str
    model: IntegerModel
    macs: int


def header(members: Sequence[Member]) -> str:
    """A header with the models as constants, a table of them in the given order, and the operators they use.

    Args:
        members: models of one input shape and the same classes.

    Raises:
        ExportError: an operator that TensorFlow Lite Micro has no int8 form of.
    """
    model = members[0].model
    kinds = list(dict.fromkeys(kind for member in members for kind in member.model.operators))
    if unknown := [kind for kind in kinds if kind not in _ADDING]:
        raise ExportError(f"TensorFlow Lite Micro does not run {', '.join(unknown)} in int8: use other layers")
    adding = " ".join(f"(resolver).Add{_ADDING[kind]}();" for kind in kinds)
    names = _identifiers([member.name for member in members])
    text = [
        "/* Made by Fleetfoot: nested int8 networks for TensorFlow Lite Micro, ascending in cost. */",
        "#ifndef FLEETFOOT_SUBNETWORKS_H\n#define FLEETFOOT_SUBNETWORKS_H\n",
        "#include <stddef.h>\n#include <stdint.h>\n",
        _ALIGNED,
        f"#define FLEETFOOT_SUBNETWORKS {len(members)}",
        f"#define FLEETFOOT_INPUT_VALUES {math.prod(model.shape)}",
        f"#define FLEETFOOT_CLASSES {model.classes}",
        f"#define FLEETFOOT_ARENA_BYTES {max(member.model.arena_bytes for member in members)}",
        f"#define FLEETFOOT_OPERATORS {len(kinds)}",
        "/* C++: adds what the networks use to a tflite::MicroMutableOpResolver<FLEETFOOT_OPERATORS>. */",
        f"#define FLEETFOOT_ADD_OPERATORS(resolver) do {{ {adding} }} while (0)\n",
        _STRUCTURE,
        *(_array(f"fleetfoot_{names[member.name]}", member.model.data) for member in members),
        f"static const fleetfoot_subnetwork fleetfoot_subnetworks[{len(members)}] = {{",
        *(_row(member, f"fleetfoot_{names[member.name]}") for member in members),
        "};\n\n#endif\n",
    ]
    return "\n".join(text)


_ALIGNED = """#ifdef __cplusplus
#define FLEETFOOT_ALIGNED alignas(16)
#else
#define FLEETFOOT_ALIGNED _Alignas(16)
#endif
"""
_STRUCTURE = """/* A raw input value is (integer - input_zero_point) * input_scale, a probability is
 * (integer - output_zero_point) * output_scale. arena_bytes is what TensorFlow Lite Micro needs
 * with its reference kernels. */
typedef struct {
  const char *name;
  const unsigned char *data;
  size_t size;
  uint64_t macs;
  size_t arena_bytes;
  float input_scale;
  int32_t input_zero_point;
  float output_scale;
  int32_t output_zero_point;
} fleetfoot_subnetwork;
"""


def _array(name: str, data: bytes) -> str:
    return (
        f"FLEETFOOT_ALIGNED static const unsigned char {name}[{len(data)}] = {{\n" + "\n".join(_lines(data)) + "\n};\n"
    )


def _lines(data: bytes) -> Iterator[str]:
    for start in range(0, len(data), _BYTES_PER_LINE):
        yield "".join(f"{byte}," for byte in data[start : start + _BYTES_PER_LINE])


def _row(member: Member, array: str) -> str:
    model = member.model
    scales = ", ".join(f"{q.scale:.9e}f, {q.zero_point}" for q in (model.input, model.output))
    return f'  {{"{member.name}", {array}, {len(model.data)}, {member.macs}, {model.arena_bytes}, {scales}}},'


def _identifiers(names: Sequence[str]) -> Mapping[str, str]:
    """For each name one that C takes, no two the same."""
    taken: dict[str, str] = {}
    for name in names:
        identifier = re.sub(r"\W", "_", name, flags=re.ASCII)
        while identifier in taken.values():
            identifier += "_"
        taken[name] = identifier
    return taken
