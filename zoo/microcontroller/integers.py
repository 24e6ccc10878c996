"""A network of a LiteRT file as a file of its own, with integers only: for runtimes that hold no float activations."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from profiling.operators.flatmodel import damage_explained, graph_of, read_model
from zoo.microcontroller.network import Network, Quantization
from zoo.microcontroller.packing import pack


class IntegerModel(NamedTuple):
    """A LiteRT model of int8 input and output, without floats inside.

    Attributes:
        data: the file's content.
        operators: the kinds of its operators, in their order.
        shape: of the input, without its batch.
        input: what its integers are of the raw input, whose scaling is in it.
        classes: how many values it answers with.
        output: what its integers are of the probabilities.
        activation_bytes: the memory that its activations take, as planned in the file.
        arena_bytes: what TensorFlow Lite Micro needs for it in all, its own structures included.
    """

    data: bytes
    operators: tuple[str, ...]
    shape: tuple[int, ...]
    input: Quantization
    classes: int
    output: Quantization
    activation_bytes: int
    arena_bytes: int


def integers_only(path: Path, signature: str) -> IntegerModel:
    """A signature's network in int8 from end to end.

    The scaling of the raw input goes into what the input's integers stand for, the softmax is computed in int8, and
    so is what the quantizer leaves in float between integers.

    Args:
        path: a LiteRT file in int8 inside, whatever its inputs and outputs are.
        signature: one of its signatures.

    Raises:
        ModelError: a file that cannot be read, or has no such signature.
        ExportError: operators that have no int8 form.
    """
    model = read_model(path)
    with damage_explained(path):
        network = Network(model, graph_of(model, signature))
        factor, offset = network.bare_input()
        network.fill_float_islands()
        network.bare_output()
        network.drop_unread()
        network.require_integers()
        packed = pack(network)
        scaled = network.quantization(network.input)
        return IntegerModel(
            data=packed.data,
            operators=tuple(map(network.kind, network.operators)),
            shape=tuple(int(size) for size in network.tensors[network.input].shape[1:]),
            input=Quantization(scaled.scale / factor, round(scaled.zero_point + offset / scaled.scale)),
            classes=int(network.tensors[network.output].shape[-1]),
            output=network.quantization(network.output),
            activation_bytes=packed.activation_bytes,
            arena_bytes=packed.arena_bytes,
        )
