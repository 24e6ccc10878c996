"""What it costs to have all subnetworks of a network at hand: in file size, memory, switching and waiting.

Compared are a file for each subnetwork (``separate``), one file with a signature for each (``joint``), and one file
with the narrower ones nested in the widest (``nested``). The networks are not trained, which neither speed nor memory
depends on; each subnetwork has batch-norm statistics of its own. Times that are compared are of one run, in turns
whose order is shuffled.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from cifar import Cache
from results import save

from fleetfoot.files import sha256
from profiling.invoke import Model, time_runs
from profiling.nested import standalone
from runtime.engine import Engine
from zoo.architectures import ARCHITECTURES
from zoo.backend import keras, tf
from zoo.catalog import InputSpec, Manifest, Variant, Zoo
from zoo.channels import cuttable_groups, kept_positions, permute_model, slice_model
from zoo.export import INPUT, OUTPUT, Endpoint, convert, export
from zoo.nesting import nest
from zoo.pruning import round_width
from zoo.quantize import Calibration, quantize
from zoo.recipe import Recipe

NETWORKS: Mapping[str, tuple[str, tuple[int, ...], dict[str, Any]]] = {
    "ds-cnn": ("ds-cnn", (32, 32, 3), {}),
    "resnet-8": ("resnet-8", (32, 32, 3), {}),
    "mobilenet-v1-0.5": ("mobilenet-v1", (96, 96, 3), {"width": 0.5}),
}
NUMBERS = ("float32", "int8")
CACHE = Cache("switching")
SHARES = {"sub-100": 1.0, "sub-75": 0.75, "sub-50": 0.5, "sub-25": 0.25}
FORMS = ("nested", "joint", "separate")
WIDEST, HALF, NARROWEST = "sub-100", "sub-50", "sub-25"
CALIBRATION_INPUTS = 8
CLASSES = 10
ROUNDS, BLOCK_RUNS = 40, 8
SWITCHES = 1000
AT_ONCE_RUNS, AT_ONCE_ROUNDS = 200, 5
FIRST_USES = 7


class Family(NamedTuple):
    """The files of one network's subnetworks in one number format; ``folder`` can be the directory of a zoo."""

    folder: Path
    spec: InputSpec
    separate: Mapping[str, Path]
    joint: Path
    nested: Path
    masked: Path
    shuffled: Path


def main() -> None:
    """Measures what was not measured before, and saves all that was."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", choices=NETWORKS, action="append")
    for name in arguments.parse_args().only or NETWORKS:
        if not all(CACHE.has(f"{name}-{numbers}") for numbers in NUMBERS):
            with tempfile.TemporaryDirectory() as directory:
                for family_name, family in make(name, Path(directory)).items():
                    CACHE.once(family_name, partial(measured, family))
    names = [f"{name}-{numbers}" for name in NETWORKS for numbers in NUMBERS]
    save("switching", {name: CACHE.read(name) for name in names if CACHE.has(name)})


def measured(family: Family) -> dict[str, Any]:
    """All numbers of one family."""
    return {
        "bytes": sizes(family),
        "memory": {case: child(family, *opened) for case, opened in cases(family).items()},
        "first_use_ms": first_use_ms(family),
        "switching_us": {form: switching_us(zoo_of(family, form), family.spec) for form in FORMS},
        "against_its_own_file": against_its_own_file(family),
        "masked_against_sliced": ratios(family.masked, family.separate[HALF], HALF),
        "shuffled_against_ordered": ratios(family.shuffled, family.separate[HALF], HALF),
        "two_threads_against_one": {
            f"{count} interpreters": two_threads_against_one(zoo_of(family, "nested"), family.spec, count)
            for count in (1, 2)
        },
    }


def make(name: str, directory: Path) -> dict[str, Family]:
    """Builds a network's subnetworks and writes their files, in each number format."""
    architecture, shape, parameters = NETWORKS[name]
    spec = input_spec(shape)
    keras.utils.set_random_seed(0)
    full = ARCHITECTURES[architecture](spec, CLASSES, **parameters)
    groups = cuttable_groups(full)
    networks = {
        subnetwork: with_own_statistics(slice_model(full, widths(groups, share)), seed)
        for seed, (subnetwork, share) in enumerate(SHARES.items())
    }
    order = {group: np.random.default_rng(0).permutation(groups[group].size).tolist() for group in groups}
    half = widths(groups, SHARES[HALF])
    others = {"masked": masked(full, half), "shuffled": slice_model(permute_model(full, order), half)}
    random_inputs = np.random.default_rng(0).uniform(spec.minimum, spec.maximum, (CALIBRATION_INPUTS, *shape))
    x = random_inputs.astype(spec.dtype)
    floats = {key: exported({key: network}, directory) for key, network in networks.items()}
    floats |= {key: exported({HALF: network}, directory) for key, network in others.items()}
    endpoints = {key: endpoint(network, spec) for key, network in networks.items()}
    floats["joint"] = convert(endpoints, list(networks.values()))
    signatures = {key: [key] for key in networks} | {key: [HALF] for key in others} | {"joint": list(networks)}
    families = {}
    for numbers in NUMBERS:
        files = floats
        if numbers != "float32":
            files = {
                key: quantize(file, numbers, Calibration(x, signatures[key], INPUT)) for key, file in floats.items()
            }
        families[f"{name}-{numbers}"] = written(directory / f"{name}-{numbers}", spec, files)
    return families


def input_spec(shape: tuple[int, ...]) -> InputSpec:
    """Images, or waveforms."""
    if len(shape) == 1:
        return InputSpec(kind="audio", shape=shape, dtype="float32", minimum=-1, maximum=1)
    return InputSpec(kind="image", shape=shape, dtype="uint8", minimum=0, maximum=255)


def widths(groups: Mapping[str, Any], share: float) -> dict[str, int]:
    """So much of every channel group."""
    return {name: round_width(group.size * share, group.size) for name, group in groups.items()}


def with_own_statistics(network: Any, seed: int) -> Any:
    """A network with other batch-norm statistics."""
    generator = np.random.default_rng(seed)
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.moving_mean.assign(generator.normal(0, 0.05, layer.moving_mean.shape))
            layer.moving_variance.assign(generator.uniform(0.8, 1.25, layer.moving_variance.shape))
    return network


def masked(full: Any, kept: Mapping[str, int]) -> Any:
    """A network of full width whose weights of the channels that are cut are zero."""
    network = slice_model(full, {})
    positions = kept_positions(full, kept)
    for layer in (layer for layer in network.layers if layer.weights):
        for weight in layer.weights:
            axes = positions.get(layer.name, {}).get(weight.name, {})
            where = np.ix_(*(axes.get(axis, range(size)) for axis, size in enumerate(weight.shape)))
            values = np.zeros(weight.shape, np.float32)
            values[where] = weight.numpy()[where]
            weight.assign(values)
    return network


def endpoint(network: Any, spec: InputSpec) -> Endpoint:
    """A network as a signature among others."""
    given = tf.TensorSpec([1, *spec.shape], network.inputs[0].dtype, name=INPUT)
    return Endpoint(lambda x: {OUTPUT: network(x, training=False)}, given)


def exported(networks: Mapping[str, Any], directory: Path) -> bytes:
    """The file of a network by itself."""
    path = directory / "exported.tflite"
    export(networks, path)
    return path.read_bytes()


def written(folder: Path, spec: InputSpec, files: Mapping[str, bytes]) -> Family:
    """Writes all forms of a family."""
    separate = {name: files[name] for name in SHARES}
    everything = {**files, "nested": nest(separate)}
    (folder / "variants").mkdir(parents=True)
    paths = {name: folder / "variants" / f"{name}.tflite" for name in everything}
    for name, file in everything.items():
        paths[name].write_bytes(file)
    return Family(
        folder,
        spec,
        {name: paths[name] for name in SHARES},
        **{name: paths[name] for name in ("joint", "nested", "masked", "shuffled")},
    )


def zoo_of(family: Family, form: str) -> Zoo:
    """A zoo of the subnetworks in one of the forms."""
    files = {name: f"variants/{name if form == 'separate' else form}.tflite" for name in SHARES}
    variants = tuple(
        Variant(
            id=name, file=file, sha256=sha256(family.folder / file), signature=name, recipe=Recipe(), parent=None,
            accuracy={"route": 1.0, "test": 1.0}, macs=None, parameters=None, size=1, peak_activation_bytes=None,
            parity=None,
        )
        for name, file in files.items()
    )  # fmt: skip
    classes = tuple(map(str, range(CLASSES)))
    return Zoo(family.folder, Manifest(name=form, classes=classes, input=family.spec, variants=variants))


def sizes(family: Family) -> dict[str, int]:
    """Bytes of the files."""
    return {
        "widest": family.separate[WIDEST].stat().st_size,
        "separate": sum(path.stat().st_size for path in family.separate.values()),
        "joint": family.joint.stat().st_size,
        "nested": family.nested.stat().st_size,
    }


def cases(family: Family) -> dict[str, list[tuple[Path, str, str]]]:
    """What a process may have open: files, what of them, and what of that it runs."""
    every = ",".join(SHARES)
    return {
        "widest": [(family.separate[WIDEST], "", WIDEST)],
        "separate, all used": [(path, "", name) for name, path in family.separate.items()],
        "joint, one used": [(family.joint, "", HALF)],
        "joint, all used": [(family.joint, "", every)],
        "nested, one used": [(family.nested, HALF, HALF)],
        "nested, all used": [(family.nested, name, name) for name in SHARES],
    }


def child(family: Family, *opened: tuple[Path, str, str]) -> dict[str, float]:
    """What a process of its own says of having these open."""
    arguments = [family.separate[NARROWEST], *(word for one in opened for word in one)]
    script = Path(__file__).with_name("switching_child.py")
    done = subprocess.run([sys.executable, script, *arguments], capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


def first_use_ms(family: Family) -> dict[str, float]:
    """Milliseconds from wanting the half-width network to its first answer, medians, and of that to put it together."""

    def first(path: Path, signature: str) -> Callable[[], None]:
        return lambda: Model(path, 1, signature).runner(HALF).warm_up(1)

    ways: dict[str, Callable[[], object]] = {
        "separate": first(family.separate[HALF], ""),
        "joint": first(family.joint, ""),
        "nested": first(family.nested, HALF),
        "nested, put together": lambda: standalone(family.nested, HALF),
    }
    return {name: round(float(np.median(samples)), 3) for name, samples in in_turns(ways, FIRST_USES, 1).items()}


def switching_us(zoo: Zoo, spec: InputSpec) -> dict[str, float]:
    """Microseconds that a call of the engine takes longer after one of another subnetwork than after one of its own.

    The caches then hold the other's weights. So it is with files of their own too, which tells what the file adds.
    """
    engine, x = Engine(zoo), zeros(spec)
    longer, stays = [], []
    for _ in range(SWITCHES):
        name, other = random.sample(list(SHARES), 2)
        took = {}
        for before in random.sample([name, other], 2):
            engine.run(before, x)
            start = time.perf_counter_ns()
            engine.run(name, x)
            took[before] = (time.perf_counter_ns() - start) / 1e3
        longer.append(took[other] - took[name])
        stays.append(took[name])
    low, median, high = np.quantile(longer, [0.25, 0.5, 0.75])
    return {name: round(float(value), 2) for name, value in
            {"median": median, "low": low, "high": high, "call": np.median(stays)}.items()}  # fmt: skip


def zeros(spec: InputSpec) -> Any:
    """An input."""
    return np.zeros((1, *spec.shape), spec.dtype)


def against_its_own_file(family: Family) -> dict[str, dict[str, float]]:
    """Each subnetwork's time in the shared files over that in a file of its own."""
    answers = {}
    for name, path in family.separate.items():
        alone, nested, joint = Model(path), Model(family.nested, 1, name), Model(family.joint)
        samples = in_turns(
            {"alone": alone.exercise(name), "nested": nested.exercise(name), "joint": joint.exercise(name)},
            ROUNDS,
            BLOCK_RUNS,
        )
        answers[name] = {
            "ms": round(float(np.median(samples["alone"])), 4),
            "nested": ratio(samples["nested"], samples["alone"]),
            "joint": ratio(samples["joint"], samples["alone"]),
        }
    return answers


def ratios(path: Path, other: Path, signature: str) -> float:
    """The time of a network over that of another."""
    ways = {"one": Model(path).exercise(signature), "other": Model(other).exercise(signature)}
    samples = in_turns(ways, ROUNDS, BLOCK_RUNS)
    return ratio(samples["one"], samples["other"])


def ratio(samples: Sequence[float], others: Sequence[float]) -> float:
    """The median of paired ratios."""
    return round(float(np.median(np.array(samples) / np.array(others))), 4)


def in_turns(ways: Mapping[str, Callable[[], object]], rounds: int, runs: int) -> dict[str, list[float]]:
    """Median milliseconds of each way in each round."""
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name in random.sample(list(ways), len(ways)):
            samples[name].append(float(np.median(time_runs(ways[name], runs, 2 if runs > 1 else 0))))
    return samples


def two_threads_against_one(zoo: Zoo, spec: InputSpec, interpreters: int) -> float:
    """How many times as much two threads get done as one does, all asking for the widest subnetwork."""
    engine, x = Engine(zoo, interpreters=interpreters), zeros(spec)

    def seconds(count: int) -> float:
        barrier = threading.Barrier(count + 1)

        def ask() -> None:
            barrier.wait()
            for _ in range(AT_ONCE_RUNS):
                engine.run(WIDEST, x)

        threads = [threading.Thread(target=ask) for _ in range(count)]
        for thread in threads:
            thread.start()
        barrier.wait()
        start = time.perf_counter()
        for thread in threads:
            thread.join()
        return time.perf_counter() - start

    seconds(2)
    return round(float(np.median([2 * seconds(1) / seconds(2) for _ in range(AT_ONCE_ROUNDS)])), 2)


if __name__ == "__main__":
    main()
