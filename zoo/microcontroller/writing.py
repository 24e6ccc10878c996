"""Networks of a zoo, or any others, as files for microcontrollers."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from fleetfoot.errors import ExportError, UsageError
from fleetfoot.files import write_bytes
from profiling.invoke import Model
from profiling.nested import nested_signatures, standalone
from profiling.operators.flatmodel import damage_explained, graph_of, read_model, signatures_of
from profiling.operators.single import read_operators
from zoo.build import prepare
from zoo.catalog import Variant, Zoo
from zoo.export import export
from zoo.microcontroller.integers import integers_only
from zoo.microcontroller.source import HEADER, Member, header
from zoo.quantize import Calibration, quantize
from zoo.record import BuildRecord

Array = npt.NDArray[Any]


class Source(NamedTuple):
    """A network in a LiteRT file, in float32 or with int8 inside."""

    path: Path
    signature: str


def write_microcontroller(sources: Mapping[str, Source], folder: Path, x: Array) -> tuple[Member, ...]:
    """Writes each network as an int8 file, and a C header with all of them.

    Int8 files keep the integers that they have; others are quantised.

    Args:
        sources: networks of the same raw input and classes, by name.
        folder: where ``NAME.tflite`` and the header go.
        x: raw inputs, of shape (examples, …), that networks in float are calibrated with.

    Returns:
        The networks in the order of the header: ascending in multiply-accumulates.

    Raises:
        UsageError: no networks, or some that differ in input or classes.
        ModelError: a file that cannot be read, or has no such signature.
        ExportError: a network that has no form of integers only.
    """
    if not sources:
        raise UsageError("name at least one network to write")
    with tempfile.TemporaryDirectory() as scratch:
        members = [_member(name, source, Path(scratch), x) for name, source in sources.items()]
    members.sort(key=lambda member: member.macs)
    for member in members:
        if (member.model.shape, member.model.classes) != (members[0].model.shape, members[0].model.classes):
            raise UsageError(f"{member.name} and {members[0].name} differ in input or classes: write them apart")
    text = header(members)
    for member in members:
        write_bytes(folder / f"{member.name}.tflite", member.model.data)
    write_bytes(folder / HEADER, text.encode())
    return tuple(members)


def write_networks(networks: Mapping[str, Any], folder: Path, x: Array) -> tuple[Member, ...]:
    """As ``write_microcontroller``, of Keras networks by name.

    Raises:
        UsageError: no networks, or some that differ in input or classes.
        ExportError: a network that cannot be converted, or has no form of integers only.
    """
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "networks.tflite"
        if networks:
            export(networks, path)
        return write_microcontroller({name: Source(path, name) for name in networks}, folder, x)


def export_zoo(zoo: Zoo, folder: Path, variants: Sequence[str] = ()) -> tuple[Member, ...]:
    """As ``write_microcontroller``, of a zoo's variants, calibrated with inputs of the tune split that it was built on.

    Args:
        zoo: a finished zoo.
        folder: where the files go.
        variants: their ids; by default all subnetworks.

    Raises:
        FleetfootError: as ``zoo_sources`` and ``write_microcontroller``, or the zoo's data is not where it was.
    """
    sources = zoo_sources(zoo, variants)
    record = BuildRecord.read(zoo.path / BuildRecord.FILE)
    _, dataset = prepare(record.options)
    return write_microcontroller(sources, folder, dataset.x[record.indices()["tune"]])


def zoo_sources(zoo: Zoo, variants: Sequence[str] = ()) -> dict[str, Source]:
    """Where a zoo's variants are, for ``write_microcontroller``.

    Args:
        zoo: a finished zoo.
        variants: their ids; by default all subnetworks, which share an order of channels, each once.

    Raises:
        UsageError: no such variant, or no subnetworks.
        ExportError: a variant in a number format that no integers can be made of, or with early exits.
        DamagedFileError: a file that is missing or has changed.
    """
    chosen = [zoo.variant(name) for name in variants] or _subnetworks(zoo)
    if not chosen:
        raise UsageError(f"{zoo.path} has no subnetworks: name the variants to write")
    for variant in chosen:
        if variant.recipe.quantize not in (None, "int8"):
            raise ExportError(f"{variant.id} is in {variant.recipe.quantize}: choose variants in float32 or int8")
        if variant.recipe.exit is not None:
            raise ExportError(f"{variant.id} is one of several exits of a file: choose variants that answer once")
    return {variant.id: Source(zoo.verified_file(variant.id), variant.signature) for variant in chosen}


def _subnetworks(zoo: Zoo) -> list[Variant]:
    """The subnetworks, each in int8 where the zoo has it so, else in float32."""
    found: dict[str, Variant] = {}
    for variant in zoo.manifest.variants:
        recipe = variant.recipe
        if recipe.order and recipe.quantize in (None, "int8"):
            in_float = msgspec.structs.replace(recipe, quantize=None).digest
            if recipe.quantize or in_float not in found:
                found[in_float] = variant
    return list(found.values())


def _member(name: str, source: Source, scratch: Path, x: Array) -> Member:
    signatures_of(source.path)  # a file that cannot be read is named as its owner knows it
    path = scratch / "network.tflite"
    path.write_bytes(standalone(*source) or source.path.read_bytes())
    if not _has_integers(path, source.signature):
        own = [name for name in signatures_of(path) if name not in nested_signatures(path)]
        calibration = Calibration(x, own, Model(path).runner(source.signature).input.name)
        path.write_bytes(quantize(path.read_bytes(), "int8", calibration))
    try:
        model = integers_only(path, source.signature)
    except ExportError as error:
        raise ExportError(f"{name} {error}") from None
    path.write_bytes(model.data)
    return Member(name, model, sum(operator.macs for operator in read_operators(path, "")))


def _has_integers(path: Path, signature: str) -> bool:
    model = read_model(path)
    with damage_explained(path):
        return any(tensor.type == schema.TensorType.INT8 for tensor in graph_of(model, signature).tensors)
