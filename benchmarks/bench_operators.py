"""How well the latency of networks is told from a table of single operators.

The table is measured once, and the networks with it in the same turns: those of ``DEVELOPMENT``, by which the method
was chosen, and those of ``HELD_OUT``, of other architectures. Each is predicted twice: from its own operators, made
from their descriptions and timed alone, and from the operators of the design only, none of which are chosen from a
network. Compared is the time of a quiet run (the fifth percentile), and, for what is usual, the median.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
from results import save

from profiling.operators.design import FORMATS, design
from profiling.operators.operator import Operator
from profiling.operators.prediction import Predictor
from profiling.operators.single import read_operators
from profiling.operators.table import OperatorTable, Timing, measure_table
from profiling.operators.timing import QUIET, sample_models
from profiling.profile import this_device, tool_versions
from zoo.architectures import ARCHITECTURES
from zoo.backend import keras
from zoo.catalog import InputSpec
from zoo.export import INPUT, export
from zoo.quantize import Calibration, quantize

SIGNATURE = "base"
CALIBRATION_INPUTS = 8
QUANTIZED = ("int8", "dynamic")
Network = tuple[str, tuple[int, ...], dict[str, Any]]

DEVELOPMENT: Sequence[Network] = (
    ("digits-cnn", (8, 8, 1), {}),
    ("digits-cnn", (8, 8, 1), {"width": 64}),
    ("digits-cnn", (16, 16, 1), {"width": 96}),
    ("resnet-8", (32, 32, 3), {}),
    ("resnet-8", (32, 32, 3), {"width": 24}),
    ("resnet-8", (48, 48, 3), {"width": 40}),
    ("ds-cnn", (8000,), {}),
    ("ds-cnn", (8000,), {"size": "L"}),
    ("dnn", (8000,), {}),
    ("mobilenet-v2", (96, 96, 3), {"width": 0.5}),
    ("mobilenet-v2", (160, 160, 3), {}),
    ("squeezenet", (64, 64, 3), {}),
    ("squeezenet", (128, 128, 3), {"base_expand": 64}),
    ("alexnet", (64, 64, 3), {"width": 0.25}),
)
HELD_OUT: Sequence[Network] = (
    ("lenet-5", (28, 28, 1), {}),
    ("lenet-5", (32, 32, 3), {"form": "relu"}),
    ("resnet-20", (32, 32, 3), {}),
    ("resnet-20", (32, 32, 3), {"width": 32, "depth": 14}),
    ("cnn", (8000,), {}),
    ("cnn", (8000,), {"size": "L"}),
    ("mobilenet-v1", (96, 96, 3), {"width": 0.25}),
    ("mobilenet-v1", (128, 128, 3), {"width": 0.5}),
    ("mobilenet-v1", (224, 224, 3), {"width": 0.75}),
    ("mobilenet-v3-small", (64, 64, 3), {}),
    ("mobilenet-v3-small", (224, 224, 3), {}),
    ("shufflenet", (64, 64, 3), {"complexity": 0.5}),
    ("shufflenet", (224, 224, 3), {}),
    ("vgg-16", (32, 32, 3), {"width": 0.25}),
    ("vgg-16", (48, 48, 3), {"width": 0.5}),
)


class Built(NamedTuple):
    """A network's file."""

    name: str
    numbers: str
    held_out: bool
    path: Path


class Result(msgspec.Struct):
    """A network as measured and as told from its operators; errors are relative to the quiet run."""

    quiet_ms: float
    median_ms: float
    error_from_its_operators: float
    error_from_design: float
    expected_error: float
    unpriced: tuple[str, ...]


def main() -> None:
    """Builds, times and predicts everything."""
    with tempfile.TemporaryDirectory() as directory:
        networks = [*build(DEVELOPMENT, False, Path(directory)), *build(HELD_OUT, True, Path(directory))]
        designed = design((*FORMATS, "dynamic"))
        operators = {network: read_operators(network.path, SIGNATURE) for network in networks}
        table, samples = measure([*designed, *(one for many in operators.values() for one in many)], networks)
    by_design = set(designed)
    timings = [timed for timed in table.timings if timed.operator in by_design]
    whole, learned = Predictor(table), Predictor(msgspec.structs.replace(table, timings=timings))
    results = {network: result(operators[network], samples[network], whole, learned) for network in networks}
    save("operators", {
        "table": {"operators": len(timings), "seconds": table_seconds(designed)},
        "errors": {name: summary(results, *which) for name, which in groups()},
        "networks": {f"{network.name} {network.numbers}": results[network] for network in networks},
    })  # fmt: skip


def build(networks: Sequence[Network], held_out: bool, folder: Path) -> Iterator[Built]:
    """Exports untrained networks in each number format."""
    for architecture, shape, parameters in networks:
        name = " ".join([architecture, "x".join(map(str, shape)), *(f"{k}={v}" for k, v in parameters.items())])
        keras.utils.set_random_seed(0)
        spec = input_spec(shape)
        path = folder / f"{name} float32.tflite"
        export({SIGNATURE: ARCHITECTURES[architecture](spec, 10, **parameters)}, path)
        yield Built(name, "float32", held_out, path)
        for numbers in QUANTIZED:
            quantized = path.with_name(f"{name} {numbers}.tflite")
            calibration = Calibration(random_inputs(spec), [SIGNATURE], INPUT)
            quantized.write_bytes(quantize(path.read_bytes(), numbers, calibration))
            yield Built(name, numbers, held_out, quantized)


def input_spec(shape: tuple[int, ...]) -> InputSpec:
    """Images, or waveforms."""
    if len(shape) == 1:
        return InputSpec(kind="audio", shape=shape, dtype="float32", minimum=-1, maximum=1)
    return InputSpec(kind="image", shape=shape, dtype="uint8", minimum=0, maximum=255)


def random_inputs(spec: InputSpec) -> Any:
    """Values over the whole range of the input."""
    generator = np.random.default_rng(0)
    return generator.uniform(spec.minimum, spec.maximum, (CALIBRATION_INPUTS, *spec.shape)).astype(spec.dtype)


def measure(operators: Sequence[Operator], networks: Sequence[Built]) -> tuple[OperatorTable, dict[Built, list[float]]]:
    """Times operators and networks in the same turns."""
    samples: dict[Built, list[float]] = {}

    def time_all(paths: Sequence[Path]) -> list[Timing | None]:
        everything = sample_models([*paths, *(network.path for network in networks)])
        samples.update(zip(networks, everything[len(paths) :], strict=True))
        return [Timing(quiet(runs), len(runs)) if runs else None for runs in everything[: len(paths)]]

    return measure_here(operators, time_all), samples


def measure_here(operators: Sequence[Operator], time_models: Any) -> OperatorTable:
    """A table of this machine on one thread."""
    return measure_table(operators, time_models, device_id=this_device().id, threads=1, versions=tool_versions())


def table_seconds(operators: Sequence[Operator]) -> float:
    """How long the table alone takes, of the formats that it has by default."""
    from profiling.operators.timing import time_models

    default = [operator for operator in operators if operator.numbers != "dynamic"]
    start = time.perf_counter()
    measure_here(default, time_models)
    return round(time.perf_counter() - start, 1)


def quiet(samples_ms: Sequence[float]) -> float:
    """The time of a run that nothing else slowed."""
    return float(np.quantile(samples_ms, QUIET))


def result(operators: Sequence[Operator], samples_ms: Sequence[float], whole: Predictor, learned: Predictor) -> Result:
    """Both predictions against the measurement."""
    quiet_ms, prediction = quiet(samples_ms), learned.predict(operators)
    return Result(
        quiet_ms=round(quiet_ms, 4),
        median_ms=round(float(np.median(samples_ms)), 4),
        error_from_its_operators=round(whole.predict(operators).ms / quiet_ms - 1, 4),
        error_from_design=round(prediction.ms / quiet_ms - 1, 4),
        expected_error=round(prediction.expected_error, 4),
        unpriced=prediction.unpriced,
    )


def groups() -> Iterator[tuple[str, tuple[bool, str]]]:
    """The groups of networks that are summed up."""
    for held_out in (False, True):
        for numbers in (*FORMATS, "dynamic"):
            yield f"{'held out' if held_out else 'development'} {numbers}", (held_out, numbers)


def summary(results: dict[Built, Result], held_out: bool, numbers: str) -> dict[str, float]:
    """Mean and greatest absolute errors of a group."""
    group = [found for network, found in results.items() if network.held_out == held_out and network.numbers == numbers]
    own = np.abs([found.error_from_its_operators for found in group])
    learned = np.abs([found.error_from_design for found in group])
    against_median = np.abs([
        (1 + found.error_from_design) * found.quiet_ms / found.median_ms - 1 for found in group
    ])  # fmt: skip
    return {
        "networks": len(group),
        "mean_from_its_operators": round(float(own.mean()), 4),
        "greatest_from_its_operators": round(float(own.max()), 4),
        "mean_from_design": round(float(learned.mean()), 4),
        "greatest_from_design": round(float(learned.max()), 4),
        "mean_from_design_against_median": round(float(against_median.mean()), 4),
        "mean_expected": round(float(np.mean([found.expected_error for found in group])), 4),
    }


if __name__ == "__main__":
    main()
