"""Pruning ResNet-8 on CIFAR-10: against Torch-Pruning, and against the same narrow networks trained alone.

The base network is trained from scratch for ``BASE_EPOCHS``. Pruned to a share of its multiply-accumulates, or of its
measured time, it is fine-tuned for ``TUNE_EPOCHS``; the network trained alone has the pruned one's widths and all of
these epochs. Torch-Pruning cuts the same base network, its weights carried over to PyTorch, and is fine-tuned there
for as long. Accuracies are of the 5,000 test images, which no decision has read.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from cifar import DATA, SEEDS, Cache, right, test_indices, training_data
from results import save

from premodel.evaluation import bootstrap_interval
from profiling.device import connected
from profiling.profile import Target
from zoo.architectures import ARCHITECTURES
from zoo.backend import keras, make_deterministic
from zoo.batches import TrainingData
from zoo.catalog import InputSpec
from zoo.channels import Counter, analyse, slice_model
from zoo.export import export
from zoo.finetune import recalibrate_batch_norm, train
from zoo.importance import importance
from zoo.models import base_model
from zoo.pruning import Unit, comparable, keep_best, priced, widths_within

CACHE = Cache("pruning")
WORK = CACHE.folder
NETWORK = "resnet-8"
RATE = 8e-3
"""Where the learning rate starts, of all networks alike: the base network, what was cut, here and by the peer, and what
is trained alone. For the base network, for what was cut here and for what is trained alone it was the best on the tune
split of the first seed, beside 0.004."""
BASE_EPOCHS, TUNE_EPOCHS = 8, 4
TARGETS: Mapping[str, tuple[Unit, float]] = {
    "macs-0.5": ("macs", 0.5),
    "macs-0.25": ("macs", 0.25),
    "time-0.5": ("time", 0.5),
}
PEER_CRITERIA = ("l1", "group-magnitude", "taylor")
PEER_PACKAGES = ("torch==2.13.0", "torch-pruning==1.6.1", "numpy")
LADDER = (0.75, 0.5, 0.25)
WIDE = InputSpec(shape=(32, 32, 3), dtype="uint8", kind="image", minimum=0, maximum=255)


def main() -> None:
    """Trains, cuts, compares and times what is not there yet; writes the numbers when all is."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, action="append", help="only these, and nothing is written")
    arguments.add_argument("--only", choices=[*_PARTS, "times"], action="append")
    asked = arguments.parse_args()
    if not DATA.exists():
        print(f"pruning: not measured, {DATA} is absent")
        return
    data = training_data()
    parts = asked.only or [*_PARTS, "times"]
    for seed in asked.seed or SEEDS:
        for part in parts:
            if part in _PARTS:
                _PARTS[part](seed, data)
    if "times" in parts:
        CACHE.once("times", times)
    if not (asked.seed or asked.only):
        save("pruning", summary(data))


def base(seed: int, data: TrainingData) -> Any:
    """The base network of a seed, trained once."""
    path = WORK / f"base-{seed}.keras"
    if not path.exists():
        make_deterministic(seed)
        model = base_model(NETWORK, data.dataset, data.train).model
        train(
            model,
            data,
            epochs=BASE_EPOCHS,
            learning_rate=RATE,
            seed=seed,
            checkpoint=WORK / f"base-{seed}",
            name=f"base {seed}",
        )
        model.save(path)
    return keras.saving.load_model(path, compile=False)


def pruned(seed: int, data: TrainingData) -> None:
    """Prunes the base network to every target, and fine-tunes it with the base network as teacher."""
    model = base(seed, data)
    channels = analyse(model)
    scores: dict[str, Any] = {}
    for target in TARGETS:
        widths = CACHE.once(
            f"widths-{target}-{seed}", lambda target=target: choose(channels, target, scores, seed, data)
        )
        keep = {name: kept["keep"] for name, kept in widths["groups"].items()}

        def tune(keep: Any = keep, target: str = target) -> dict[str, Any]:
            make_deterministic(seed)
            network = slice_model(channels, keep)
            before = right(network, data)
            recalibrate_batch_norm(network, data)
            recalibrated = right(network, data)
            train(network, data, epochs=TUNE_EPOCHS, learning_rate=RATE, teacher=model, seed=seed,
                  name=f"{target} of seed {seed}")  # fmt: skip
            return {"before": sum(before), "recalibrated": sum(recalibrated), "right": right(network, data)}

        CACHE.once(f"pruned-{target}-{seed}", tune)


def choose(channels: Any, target: str, scores: dict[str, Any], seed: int, data: TrainingData) -> dict[str, Any]:
    """The channels that a target leaves, and what they cost."""
    make_deterministic(seed)
    if not scores:
        scores |= importance(channels, "taylor", data, seed=seed)
    unit, share = TARGETS[target]
    with connected("local") as device:
        grid, cost = priced(channels, unit, device)
    widths = widths_within(grid, scores, cost, share)
    keep = {name: range(width) for name, width in widths.items()} | dict(keep_best(scores, widths))
    counter = Counter(channels)
    return {
        "groups": {name: {"width": widths[name], "keep": list(kept)} for name, kept in keep.items()},
        "macs": counter.macs(widths) / counter.macs({}),
        "parameters": counter.parameters(widths),
    }


def alone(seed: int, data: TrainingData) -> None:
    """Trains networks of the widths of the pruned ones from scratch, for all the epochs that those had."""
    for target in TARGETS:
        CACHE.once(f"alone-{target}-{seed}", lambda: learnt_alone(target, seed, data))  # noqa: B023


def learnt_alone(target: str, seed: int, data: TrainingData) -> dict[str, Any]:
    """What a network of the widths of a pruned one answers rightly, trained from scratch."""
    widths = {name: kept["width"] for name, kept in CACHE.read(f"widths-{target}-{seed}")["groups"].items()}
    cut = slice_model(base(seed, data), widths)
    make_deterministic(seed)
    network = keras.Model.from_config(cut.get_config())
    epochs = BASE_EPOCHS + TUNE_EPOCHS
    train(network, data, epochs=epochs, learning_rate=RATE, seed=seed, name=f"{target} alone, seed {seed}")
    return {"right": right(network, data)}


def peer(seed: int, data: TrainingData) -> None:
    """Has Torch-Pruning do the same, in an environment of its own: ranking channels by layer, as its README does."""
    save_for_peer(seed, data)
    for target, (unit, share) in TARGETS.items():
        for criterion in PEER_CRITERIA if unit == "macs" else ():
            CACHE.once(f"peer-{target}-{criterion}-local-{seed}", lambda: ask(peer_command(seed, criterion, share)))  # noqa: B023


def peer_command(seed: int, criterion: str, share: float) -> list[Any]:
    """What has Torch-Pruning cut and fine-tune the base network of a seed."""
    script = Path(__file__).with_name("torch_pruning_peer.py")
    command = [peer_python(), script, "--work", WORK / "peer", "--seed", seed, "--criterion", criterion]
    command += ["--macs", share, "--epochs", TUNE_EPOCHS, "--learning-rate", RATE, "--teacher"]
    return [*command, "--threads", os.environ.get("PEER_THREADS", "2")]


def ask(command: Sequence[Any]) -> dict[str, Any]:
    """The answer of a script that prints a line of JSON."""
    printed = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE).stdout
    return msgspec.json.decode(printed.splitlines()[-1], type=dict[str, Any])


def peer_python() -> Path:
    """The interpreter of an environment with Torch-Pruning: ``$FLEETFOOT_PEER_PYTHON``, or that of a new one."""
    if given := os.environ.get("FLEETFOOT_PEER_PYTHON"):
        return Path(given)
    python = WORK / "torch" / "bin" / "python"
    if not python.exists():
        venv.create(WORK / "torch", with_pip=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *PEER_PACKAGES], check=True)
    return python


def save_for_peer(seed: int, data: TrainingData) -> None:
    """The images, and the base network's weights, as the peer reads them."""
    folder = WORK / "peer"
    folder.mkdir(exist_ok=True)
    for name, indices in {"train": data.train, "tune": data.tune, "test": test_indices(data)}.items():
        if not (folder / f"{name}_y.npy").exists():
            np.save(folder / f"{name}_x.npy", data.dataset.x[indices])
            np.save(folder / f"{name}_y.npy", data.dataset.y[indices].astype(np.int64))
    weights = {
        f"{layer.name}/{weight.name}": np.asarray(weight)
        for layer in base(seed, data).layers
        for weight in layer.weights
    }
    np.savez(folder / f"base-{seed}.npz", **weights)


def times() -> dict[str, Any]:
    """Measured time against multiply-accumulates: of ladders by either, and of a network of 64 channels and more."""
    narrow = keras.saving.load_model(WORK / f"base-{SEEDS[0]}.keras", compile=False)
    wide = ARCHITECTURES[NETWORK](WIDE, 10, width=64)
    return {
        "ladders": {unit: ladder(narrow, unit) for unit in ("macs", "time")},
        "wide": {unit: ladder(wide, unit) for unit in ("macs", "time")},
    }


def ladder(model: Any, unit: Unit) -> list[dict[str, Any]]:
    """Networks cut to shares of a unit by filter norms, their multiply-accumulates and measured times."""
    channels = analyse(model)
    counter = Counter(channels)
    scores = comparable(importance(channels, "l2"), "l2")
    folder = WORK / "ladder"
    with connected("local") as device:
        grid, cost = priced(channels, unit, device)
        rungs = {f"{share:g}": widths_within(grid, scores, cost, share) for share in LADDER}
        networks = {"1": model} | {name: slice_model(channels, widths) for name, widths in rungs.items()}
        for name, network in networks.items():
            export({name: network}, folder / f"{name}.tflite")
        targets = [Target(name, folder / f"{name}.tflite", name) for name in networks]
        profile = device.measure(targets)
    whole = profile.measurements["1"].latency.p50_ms
    return [
        {
            "share": float(name),
            "widths": widths,
            "macs": counter.macs(widths) / counter.macs({}),
            "time": profile.measurements[name].latency.p50_ms / whole,
            "p50_ms": round(profile.measurements[name].latency.p50_ms, 4),
        }
        for name, widths in ({"1": {}} | rungs).items()
    ]


def summary(data: TrainingData) -> dict[str, Any]:
    """All that was measured, a row for each target; of what is not there for all seeds, those that are."""
    peers = sorted({path.stem.rpartition("-")[0] for path in WORK.glob("peer-*.json")})
    return {
        "network": NETWORK,
        "train_images": len(data.train),
        "test_images": len(test_indices(data)),
        "base_epochs": BASE_EPOCHS,
        "tune_epochs": TUNE_EPOCHS,
        "rate": RATE,
        "base": [statistics.fmean(right(base(seed, data), data)) for seed in SEEDS],
        "targets": {target: row(target) for target in TARGETS},
        "torch_pruning": {
            name.removeprefix("peer-"): [
                {key: answer[key] for key in ("macs", "parameters", "before", "accuracy")}
                for answer in CACHE.by_seed(name).values()
            ]
            for name in peers
        },
        "times": CACHE.read("times"),
    }


def row(target: str) -> dict[str, Any]:
    """One target: accuracies by seed, and how much better than alone, with its paired 95 % interval."""
    widths, tuned, alone = (CACHE.by_seed(f"{made}-{target}") for made in ("widths", "pruned", "alone"))
    gain = np.array([np.array(tuned[seed]["right"], float) - alone[seed]["right"] for seed in tuned])
    images = gain.shape[1]
    return {
        "macs": [chosen["macs"] for chosen in widths.values()],
        "parameters": [chosen["parameters"] for chosen in widths.values()],
        "widths": [{name: kept["width"] for name, kept in chosen["groups"].items()} for chosen in widths.values()],
        "before_fine_tuning": [answer["before"] / images for answer in tuned.values()],
        "recalibrated": [answer["recalibrated"] / images for answer in tuned.values()],
        "accuracy": [statistics.fmean(answer["right"]) for answer in tuned.values()],
        "trained_alone": [statistics.fmean(answer["right"]) for answer in alone.values()],
        "gain_over_alone": float(gain.mean()),
        "gain_interval": bootstrap_interval(gain.mean(axis=0)),
    }


_PARTS: Mapping[str, Callable[[int, TrainingData], Any]] = {
    "base": base,
    "pruned": pruned,
    "alone": alone,
    "peer": peer,
}

if __name__ == "__main__":
    main()
