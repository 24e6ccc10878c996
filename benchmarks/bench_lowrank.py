"""Low-rank decomposition: what it saves of VGG-16's time, and what it costs in accuracy on CIFAR-10.

VGG-16 at 224×224 has random weights, which decide nothing about its speed. It is decomposed at the ranks that MXNet's
``accnn`` was published with, at ranks chosen for a third of the multiply-accumulates, and at ranks chosen by measured
time that keep as much energy as those.

Accuracies are of a VGG-16 of a quarter of the channels and of ResNet-8, both trained here on CIFAR-10, on the 5,000
test images, which no decision has read; after at most 5 epochs of fine-tuning. Tensorly, in an environment of its own,
decomposes the same layers to as many multiply-accumulates, and is fine-tuned in the same way.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import tempfile
import time
import venv
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import bench_pruning
import numpy as np
from cifar import DATA, Cache, right, training_data
from results import save

from premodel.evaluation import bootstrap_interval
from profiling.device import connected
from profiling.profile import Target
from zoo.architectures import ARCHITECTURES
from zoo.backend import keras, make_deterministic
from zoo.batches import TrainingData
from zoo.channels import analyse, slice_model
from zoo.cost import count_macs
from zoo.export import export
from zoo.finetune import train
from zoo.importance import importance
from zoo.latency import prices_of
from zoo.lowrank import FITTING_INPUTS, RankChoices, decompose, refine
from zoo.pruning import keep_best, priced, widths_within
from zoo.recipe import LayerRank

CACHE = Cache("lowrank")
SEED = 0
"""One only: three would take hours."""
RATIOS = (2.4, 3.0)
BASE_EPOCHS, TUNE_EPOCHS = 12, 5
BASE_RATE = 4e-3
RATE = 1e-3
VGG_WIDTH = 0.25
SHARES = (0.7, 0.5, 0.3)
ACCNN = (5, 32, 64, 64, 96, 160, 192, 256, 256, 320, 384, 384, 384)
ACCNN_DENSE = (2048, 2048)
TENSORLY = ("tensorly==0.10.0", "packaging")


def main() -> None:
    """Measures what is not there yet; writes the numbers when all is."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--only", choices=[*_PARTS, "speed"], action="append")
    asked = arguments.parse_args()
    parts = asked.only or [*_PARTS, "speed"]
    if "speed" in parts:
        CACHE.once("speed", speed)
    if not DATA.exists():
        print(f"lowrank: no accuracies measured, {DATA} is absent")
        return
    data = training_data()
    for part in parts:
        if part in _PARTS:
            _PARTS[part](SEED, data)
    if not asked.only:
        save("lowrank", summary())


def speed() -> dict[str, Any]:
    """VGG-16's time, whole and decomposed, on one thread, all measured in turns in one run.

    Its dense layers take more of the time than of the multiply-accumulates, as every weight is read for one product. So
    its convolutions are measured by themselves too.
    """
    model = keras.applications.VGG16(weights=None)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv2D)]
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    published = _given(convolutions, "spatial", ACCNN)
    start = time.perf_counter()
    by_macs = RankChoices(model)
    looked = time.perf_counter()
    chosen = by_macs.within(1 / 3)
    seconds = time.perf_counter() - looked
    ranks = {"accnn": published | _given(dense, "dense", ACCNN_DENSE), "macs-3": chosen.ranks}
    with connected("local") as device:
        by_time = RankChoices(model, prices=prices_of(device))
        ranks |= {
            "time-3": by_time.within(1 / 3).ranks,
            "time-as-macs-3": _keeping(by_time, _worth(chosen.energy)).ranks,
        }
        networks = {"whole": model} | {name: decompose(model, own) for name, own in ranks.items()}
        without_dense = keras.Model(model.input, model.get_layer("block5_pool").output)
        networks |= {"convolutions": without_dense, "convolutions-accnn": decompose(without_dense, published)}
        with tempfile.TemporaryDirectory() as directory:
            targets = [Target(name, Path(directory) / f"{name}.tflite", name) for name in networks]
            for target in targets:
                export({target.name: networks[target.name]}, target.path)
            profile = device.measure(targets)
    macs = {name: count_macs(network) for name, network in networks.items()}
    ms = {name: profile.measurements[name].latency.p50_ms for name in networks}
    return {
        "spectra_seconds": looked - start,
        "selection_seconds": seconds,
        "kept_log_energy": {"macs-3": _worth(chosen.energy), "time-3": _worth(by_time.within(1 / 3).energy)},
        "networks": {
            name: {
                "macs": macs[name],
                "ms": ms[name],
                "theoretical": macs[whole] / macs[name],
                "measured": ms[whole] / ms[name],
                "ranks": {layer: own.text for layer, own in ranks.get(name, {}).items()},
            }
            for name in networks
            for whole in ["convolutions" if name.startswith("convolutions") else "whole"]
        },
    }


def _given(layers: Sequence[Any], scheme: Any, ranks: Sequence[int]) -> dict[str, LayerRank]:
    return {layer.name: LayerRank(scheme=scheme, rank=rank) for layer, rank in zip(layers, ranks, strict=False)}


def _worth(energy: Mapping[str, float]) -> float:
    return float(np.log(list(energy.values())).sum())


def _keeping(choices: RankChoices, worth: float) -> Any:
    """The fastest ranks that keep as much energy."""
    low, high = choices.least, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        low, high = (low, middle) if _worth(choices.within(middle).energy) >= worth else (middle, high)
    return choices.within(high)


def vgg(seed: int, data: TrainingData) -> None:
    """A small VGG-16, whole and decomposed at some ratios, with kernels fitted and, at one, without."""
    model = _base(seed, data)
    CACHE.once(f"vgg-whole-{seed}", lambda: {"right": right(model, data)})
    for ratio in RATIOS:
        for name in ("fitted", "weights") if ratio == RATIOS[0] else ("fitted",):
            CACHE.once(f"vgg-{name}-{ratio}-{seed}", partial(_ours, model, ratio, seed, data, fit=name == "fitted"))


def _ours(model: Any, ratio: float, seed: int, data: TrainingData, *, fit: bool) -> dict[str, Any]:
    return tuned(model, RankChoices(model).within(1 / ratio).ranks, seed, data, fit=fit)


def peer(seed: int, data: TrainingData) -> None:
    """Tensorly's Tucker decomposition, all layers by the same share of their ranks, at the same cost."""
    CACHE.once(f"vgg-tensorly-{RATIOS[0]}-{seed}", lambda: _theirs(_base(seed, data), RATIOS[0], seed, data))


def _theirs(model: Any, ratio: float, seed: int, data: TrainingData) -> dict[str, Any]:
    ranks = _alike(model, count_macs(model) / ratio)
    return tuned(model, ranks, seed, data, fit=False, kernels=tensorly(model, ranks))


def tuned(model: Any, ranks: Any, seed: int, data: TrainingData, *, fit: bool, kernels: Any = None) -> dict[str, Any]:
    """What a decomposed network answers rightly at once, and after fine-tuning."""
    make_deterministic(seed)
    network = decompose(model, ranks, kernels)
    plain = right(network, data)
    if fit:
        refine(model, network, ranks, data.some_inputs(FITTING_INPUTS), seed)
    before = right(network, data)
    train(network, data, epochs=TUNE_EPOCHS, learning_rate=RATE, teacher=model, seed=seed)
    return {
        "macs": count_macs(network) / count_macs(model),
        "plain": statistics.fmean(plain),
        "fitted": statistics.fmean(before),
        "right": right(network, data),
    }


def _alike(model: Any, limit: float) -> dict[str, LayerRank]:
    """Tucker's ranks as the same share of each layer's channels and filters, the largest within a cost."""
    found = [layer for layer in model.layers if type(layer) is keras.layers.Conv2D and max(layer.kernel_size) > 1]
    for share in np.arange(1.0, 0.0, -0.01):
        ranks = {}
        for layer in found:
            inner, outer = (max(1, round(share * size)) for size in layer.kernel.shape[-2:])
            ranks[layer.name] = LayerRank(scheme="tucker", rank=(inner, outer))
        if count_macs(decompose(model, ranks)) <= limit:
            return ranks
    raise ValueError("no ranks cost so little")


def tensorly(model: Any, ranks: Mapping[str, LayerRank]) -> dict[str, tuple[Any, ...]]:
    """The kernels that Tensorly's partial Tucker decomposition gives, for each layer."""
    script = """
import sys, numpy as np
from tensorly.decomposition import partial_tucker
given = np.load(sys.argv[1])
made = {}
for name in given.files:
    kernel, *rank = given[name], *map(int, name.split(":")[1].split("x"))
    (core, (into, out)), _ = partial_tucker(kernel, rank=rank, modes=[2, 3], init="svd")
    made |= {name + "|0": into[None, None], name + "|1": core, name + "|2": out.T[None, None]}
np.savez(sys.argv[2], **made)
"""
    with tempfile.TemporaryDirectory() as directory:
        given, made = Path(directory) / "given.npz", Path(directory) / "made.npz"
        keys = {name: f"{name}:{chosen.text.split(':')[1]}" for name, chosen in ranks.items()}
        np.savez(given, **{key: model.get_layer(name).kernel.numpy() for name, key in keys.items()})
        subprocess.run([peer_python(), "-c", script, given, made], check=True)
        with np.load(made) as kernels:
            return {
                name: tuple(kernels[f"{key}|{number}"].astype(np.float32) for number in range(3))
                for name, key in keys.items()
            }


def peer_python() -> Path:
    """The interpreter of an environment with Tensorly: ``$FLEETFOOT_TENSORLY_PYTHON``, or that of a new one."""
    if given := os.environ.get("FLEETFOOT_TENSORLY_PYTHON"):
        return Path(given)
    python = CACHE.folder / "tensorly" / "bin" / "python"
    if not python.exists():
        venv.create(CACHE.folder / "tensorly", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *TENSORLY], check=True)
    return python


def front(seed: int, data: TrainingData) -> None:
    """ResNet-8 of one seed at some shares of its cost, low-rank and pruned, all trained alike."""
    model = bench_pruning.base(seed, data)
    if not CACHE.has("front-times"):
        for name, make in _variants(model, seed, data).items():
            CACHE.once(f"front-{name}", lambda name=name, make=make: _on_front(name, make(), model, seed, data))
    CACHE.once("front-times", _front_times)


def _variants(model: Any, seed: int, data: TrainingData) -> dict[str, Callable[[], Any]]:
    """What makes each network of the front, before it is trained."""
    channels = analyse(model)
    scores = importance(channels, "taylor", data, seed=seed)
    made: dict[str, Callable[[], Any]] = {}
    with connected("local") as device:
        for unit, prices in (("macs", None), ("time", prices_of(device))):
            choices = RankChoices(model, prices=prices)
            grid, cost = priced(channels, unit, device)  # type: ignore[arg-type]
            for share in SHARES:
                keep = keep_best(scores, widths_within(grid, scores, cost, share))
                made[f"pruned-{unit}-{share}"] = partial(slice_model, channels, keep)
                if choices.least <= share:
                    made[f"lowrank-{unit}-{share}"] = partial(
                        fit_to_data, model, choices.within(share).ranks, seed, data
                    )
    return made


def fit_to_data(model: Any, ranks: Mapping[str, LayerRank], seed: int, data: TrainingData) -> Any:
    """A decomposed network whose kernels are fitted to what the whole one answers."""
    network = decompose(model, ranks)
    refine(model, network, ranks, data.some_inputs(FITTING_INPUTS), seed)
    return network


def _on_front(name: str, network: Any, model: Any, seed: int, data: TrainingData) -> dict[str, Any]:
    make_deterministic(seed)
    train(network, data, epochs=bench_pruning.TUNE_EPOCHS, learning_rate=bench_pruning.RATE, teacher=model, seed=seed)
    export({name: network}, CACHE.folder / "front" / f"{name}.tflite")
    return {"macs": count_macs(network) / count_macs(model), "accuracy": statistics.fmean(right(network, data))}


def _front_times() -> dict[str, Any]:
    """Milliseconds of all networks of the front, measured in turns in one run."""
    export({"whole": bench_pruning.base(SEED, training_data())}, CACHE.folder / "front" / "whole.tflite")
    paths = sorted((CACHE.folder / "front").glob("*.tflite"))
    with connected("local") as device:
        profile = device.measure([Target(path.stem, path, path.stem) for path in paths])
    return {path.stem: profile.measurements[path.stem].latency.p50_ms for path in paths}


def _base(seed: int, data: TrainingData) -> Any:
    """The small VGG-16 of a seed, trained once."""
    path = CACHE.folder / f"vgg-{seed}.keras"
    if not path.exists():
        make_deterministic(seed)
        built = ARCHITECTURES["vgg-16"](data.dataset.input, len(data.dataset.classes), width=VGG_WIDTH)
        train(built, data, epochs=BASE_EPOCHS, learning_rate=BASE_RATE, seed=seed, name=f"VGG {seed}")
        path.parent.mkdir(parents=True, exist_ok=True)
        built.save(path)
    return keras.saving.load_model(path, compile=False)


def summary() -> dict[str, Any]:
    """All that was measured."""
    whole = {seed: np.array(answer["right"], float) for seed, answer in CACHE.by_seed("vgg-whole").items()}
    times = CACHE.read("front-times")
    return {
        "speed": CACHE.read("speed"),
        "vgg": {
            "network": f"vgg-16 of {VGG_WIDTH} of the channels",
            "train_images": len(training_data().train),
            "base_epochs": BASE_EPOCHS,
            "tune_epochs": TUNE_EPOCHS,
            "rate": RATE,
            "whole": [float(answers.mean()) for answers in whole.values()],
            "decomposed": {
                name: _against(whole, CACHE.by_seed(f"vgg-{name}"))
                for name in (*(f"fitted-{ratio}" for ratio in RATIOS), f"weights-{RATIOS[0]}", f"tensorly-{RATIOS[0]}")
            },
        },
        "front": {
            name: {"ms": ms, "time": ms / times["whole"]} | (CACHE.read(f"front-{name}") if name != "whole" else {})
            for name, ms in times.items()
        },
    }


def _against(whole: Mapping[int, Any], answers: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    """Accuracies by seed, and how much is lost of the whole network's, with its paired 95 % interval."""
    lost = np.array([whole[seed] - np.array(answer["right"], float) for seed, answer in answers.items()])
    return {
        "macs": [answer["macs"] for answer in answers.values()],
        "from_weights": [answer["plain"] for answer in answers.values()],
        "before_fine_tuning": [answer["fitted"] for answer in answers.values()],
        "accuracy": [statistics.fmean(answer["right"]) for answer in answers.values()],
        "lost": float(lost.mean()),
        "lost_interval": bootstrap_interval(lost.mean(axis=0)),
    }


_PARTS: Mapping[str, Callable[[int, TrainingData], Any]] = {"vgg": vgg, "peer": peer, "front": front}

if __name__ == "__main__":
    main()
