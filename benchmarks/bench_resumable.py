"""Cascades that go on where the probe stopped, against cascades that start over, on DS-CNN S and CIFAR-10.

Exits at shares of the multiply-accumulates are trained together from scratch, once by each loss, and each network
alone for as many epochs. Confidence thresholds are chosen on the tune split, for every limit of the mean
multiply-accumulates; what is reported is of the 5,000 test images, which no decision has read. Times are of one thread,
all called in turns in one run.
"""

from __future__ import annotations

import argparse
import itertools
import random
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from cifar import DATA, Cache, test_indices, training_data
from results import save

from premodel.evaluation import bootstrap_interval
from profiling.invoke import Model
from profiling.resume import BEGIN, GO_ON, Step
from zoo.backend import keras, make_deterministic
from zoo.batches import TrainingData
from zoo.cost import count_macs
from zoo.finetune import train
from zoo.graph import copy_layer, rebuild
from zoo.models import base_model
from zoo.subnetworks import JOINT_LOSSES
from zoo.subnetworks.exits import Exits, train_exits, with_exits
from zoo.subnetworks.resumable import resumable

CACHE = Cache("resumable")
NETWORKS = {"ds_cnn_s": "reds_cifar10_dscnn_s.h5", "resnet_8": "mlperf_tiny_resnet8_cifar10.h5"}
TRAINED = "ds_cnn_s"
SHARES: Mapping[str, Sequence[float]] = {"ds_cnn_s": (0.35, 0.6), "resnet_8": (0.45, 0.75)}
RATE = 4e-3
EPOCHS = 8
LIMITS = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Of the mean multiply-accumulates, as shares of the whole network's."""
THRESHOLDS = 24
ROUNDS, BLOCK = 400, 3

Array = npt.NDArray[Any]


class Cascade(NamedTuple):
    """What the networks of a cascade answer to some inputs, the first first, and what it costs to have come so far.

    Attributes:
        answers: of shape (networks, inputs, classes).
        labels: the right classes.
        costs: of all that has run when a network has answered.
    """

    answers: Array
    labels: Array
    costs: Sequence[float]

    def run(self, thresholds: Sequence[float]) -> tuple[Array, Array]:
        """Which inputs are answered rightly, and the cost of each, going on while less sure than a threshold."""
        sure = self.answers[:-1].max(axis=2) >= np.array(thresholds)[:, None]
        last = np.where(sure.any(axis=0), sure.argmax(axis=0), len(self.answers) - 1)
        right = self.answers.argmax(axis=2) == self.labels
        return right[last, np.arange(len(last))], np.array(self.costs)[last]


def main() -> None:
    """Trains what is not there yet, and writes the numbers."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=0)
    arguments.add_argument("--epochs", type=int, default=EPOCHS)
    arguments.add_argument("--train-only", action="store_true", help="leave what is timed to a later run")
    arguments.add_argument("--times-only", action="store_true", help="train nothing")
    asked = arguments.parse_args()
    if not DATA.exists():
        print(f"resumable: not measured, {DATA} is absent")
        return
    data = training_data()
    made = None if asked.times_only else learnt(asked.seed, asked.epochs, data)
    if asked.train_only:
        return
    times = {name: CACHE.once(f"times-{name}", partial(timed, untrained(name, data))) for name in NETWORKS}
    numbers: dict[str, Any] = {"times": times}
    if made is not None:
        numbers |= {
            "train_images": len(data.train),
            "test_images": len(test_indices(data)),
            "epochs": asked.epochs,
            "seed": asked.seed,
            TRAINED: compared(made, times[TRAINED], data),
        }
    save("resumable", numbers)


def untrained(name: str, data: TrainingData) -> Exits:
    """A network with its exits, without what it has learnt."""
    base = base_model(str(DATA / "models" / NETWORKS[name]), data.dataset, data.train).model
    return with_exits(rebuild(base, copy_layer), SHARES[name])


class Learnt(NamedTuple):
    """What networks answer: trained together, by loss, and each alone."""

    together: Mapping[str, Mapping[str, Any]]
    alone: Sequence[Mapping[str, Any]]


def learnt(seed: int, epochs: int, data: TrainingData) -> Learnt:
    """Trains what was not trained before."""
    together = {
        loss: CACHE.once(f"{loss}-{epochs}-{seed}", partial(jointly, loss, seed, epochs, data)) for loss in JOINT_LOSSES
    }
    alone = [
        CACHE.once(f"alone-{number}-{epochs}-{seed}", partial(learnt_alone, number, seed, epochs, data))
        for number in range(len(SHARES[TRAINED]) + 1)
    ]
    return Learnt(together, alone)


def compared(made: Learnt, times: Mapping[str, Any], data: TrainingData) -> dict[str, Any]:
    """What exits lose against networks trained alone, and what cascades of either reach."""
    labels = {"tune": data.y_tune, "test": data.dataset.y[test_indices(data)]}
    answers = {loss: {split: np.array(own[split]) for split in labels} for loss, own in made.together.items()}
    separate = {split: np.array([own[split] for own in made.alone]) for split in labels}
    best = max(answers, key=lambda loss: (answers[loss]["tune"].argmax(axis=2) == labels["tune"]).mean())
    ways = {
        "continued": (answers[best], going_on(times)),
        "started_over": (answers[best], starting_over(times)),
        "started_over_alone": (separate, starting_over(times)),
    }
    return {
        "loss_chosen_on_tune": best,
        "exits": {loss: against_alone(own["test"], separate["test"], labels["test"]) for loss, own in answers.items()},
        "trained_alone": (separate["test"].argmax(axis=2) == labels["test"]).mean(axis=1).tolist(),
        "cascades": {name: frontier(own, labels, costs) for name, (own, costs) in ways.items()},
    }


def jointly(loss: Any, seed: int, epochs: int, data: TrainingData) -> dict[str, Any]:
    """What exits that were trained together answer."""
    make_deterministic(seed)
    exits = untrained(TRAINED, data)
    train_exits(exits, data, epochs=epochs, learning_rate=RATE, loss=loss, seed=seed, name=f"exits, {loss}")
    made = [answers_of(network, data) for network in exits.networks]
    return {split: [each[split] for each in made] for split in ("tune", "test")}


def learnt_alone(number: int, seed: int, epochs: int, data: TrainingData) -> dict[str, Any]:
    """What the network of an exit answers when it is trained without the others."""
    make_deterministic(seed)
    network = untrained(TRAINED, data).networks[number]
    train(network, data, epochs=epochs, learning_rate=RATE, seed=seed, name=f"exit {number} alone")
    return answers_of(network, data)


def answers_of(network: Any, data: TrainingData) -> dict[str, Any]:
    """Probabilities on the tune and the test split."""
    splits = {"tune": data.tune, "test": test_indices(data)}
    return {
        split: network.predict(data.dataset.x[indices], verbose=0, batch_size=256).round(5).tolist()
        for split, indices in splits.items()
    }


def against_alone(together: Array, alone: Array, labels: Array) -> list[dict[str, Any]]:
    """Accuracy of each exit, and how much better than alone, with its paired 95 % interval."""
    rows = []
    for one, other in zip(together, alone, strict=True):
        gain = (one.argmax(axis=1) == labels).astype(float) - (other.argmax(axis=1) == labels)
        rows.append(
            {
                "accuracy": float((one.argmax(axis=1) == labels).mean()),
                "gain_over_alone": float(gain.mean()),
                "gain_interval": bootstrap_interval(gain),
            }
        )
    return rows


def going_on(times: Mapping[str, Any]) -> dict[str, list[float]]:
    """What each network costs when it goes on from the one before, in shares of the whole and in microseconds."""
    whole = times["macs"][-1]
    paths = [">".join(names(len(times["macs"]))[: number + 1]) for number in range(len(times["macs"]))]
    return {
        "macs": [macs / whole for macs in times["continued_macs"]],
        "us": [times["median_us"][path] for path in paths],
    }


def starting_over(times: Mapping[str, Any]) -> dict[str, list[float]]:
    """What each network costs when all before it were for nothing."""
    macs, us = np.array(times["macs"]), [times["median_us"][f"{name} alone"] for name in names(len(times["macs"]))]
    return {"macs": (macs.cumsum() / macs[-1]).tolist(), "us": np.cumsum(us).tolist()}


def frontier(
    answers: Mapping[str, Array], labels: Mapping[str, Array], costs: Mapping[str, Sequence[float]]
) -> list[dict[str, Any]]:
    """For each limit, what the thresholds that are best within it on the tune split do on the test split."""
    tune = Cascade(answers["tune"], labels["tune"], costs["macs"])
    grid = [np.unique(np.quantile(each.max(axis=1), np.linspace(0, 1, THRESHOLDS))) for each in answers["tune"][:-1]]
    tried = []
    for thresholds in itertools.product(*([*quantiles, 1.01] for quantiles in grid)):
        right, spent = tune.run(thresholds)
        tried.append((right.mean(), -spent.mean(), thresholds))
    rows = []
    for limit in LIMITS:
        if within := [row for row in tried if -row[1] <= limit]:
            *_, thresholds = max(within)
            right, spent = Cascade(answers["test"], labels["test"], costs["macs"]).run(thresholds)
            _, us = Cascade(answers["test"], labels["test"], costs["us"]).run(thresholds)
            rows.append(
                {
                    "limit": limit,
                    "thresholds": [float(threshold) for threshold in thresholds],
                    "accuracy": float(right.mean()),
                    "macs": float(spent.mean()),
                    "us": float(us.mean()),
                }
            )
    return rows


def names(count: int) -> list[str]:
    """The ids of networks, the shallowest first."""
    return [f"exit{number}" for number in range(count)]


def timed(exits: Exits) -> dict[str, Any]:
    """Median microseconds of each network alone, and of beginning at each exit and going on to each later one."""
    ids = names(len(exits.networks))
    CACHE.folder.mkdir(parents=True, exist_ok=True)
    file = CACHE.folder / "timed.tflite"
    file.write_bytes(resumable(dict(zip(ids, exits.networks, strict=True)), exits.features))
    model = Model(file)
    x = np.random.default_rng(0).integers(0, 256, exits.networks[0].inputs[0].shape[1:]).astype(np.uint8)[None]
    runners = {name: model.runner(name) for name in ids}
    begin = {name: Step(model, f"{name}/{BEGIN}") for name in ids[:-1]}
    go_on = {name: Step(model, f"{name}/{GO_ON}") for name in ids[1:]}

    def through(path: Sequence[str]) -> None:
        reached = begin[path[0]](x)
        for name in path[1:]:
            assert reached.features is not None
            reached = go_on[name](reached.features)

    paths = [ids[first:end] for first in range(len(ids) - 1) for end in range(first + 1, len(ids) + 1)]
    calls: dict[str, Callable[[], object]] = {f"{name} alone": partial(runners[name], x) for name in ids}
    samples = in_turns(calls | {">".join(path): partial(through, path) for path in paths})
    whole = samples[f"{ids[-1]} alone"]
    macs = [count_macs(network) for network in exits.networks]
    added = [
        count_macs(keras.Model(features, network.output))
        for features, network in zip(exits.features, exits.networks[1:], strict=True)
    ]
    return {
        "median_us": {name: round(float(np.median(values)), 1) for name, values in samples.items()},
        "median_ratio_to_whole": {name: round(float(np.median(values / whole)), 3) for name, values in samples.items()},
        "bytes": file.stat().st_size,
        "macs": macs,
        "continued_macs": np.cumsum([macs[0], *added]).tolist(),
    }


def in_turns(calls: Mapping[str, Callable[[], object]]) -> dict[str, Array]:
    """Microseconds of each call in each round, in small blocks whose order is shuffled."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name in random.sample(list(calls), len(calls)):
            calls[name]()
            start = time.perf_counter_ns()
            for _ in range(BLOCK):
                calls[name]()
            samples[name].append((time.perf_counter_ns() - start) / 1e3 / BLOCK)
    return {name: np.array(values) for name, values in samples.items()}


if __name__ == "__main__":
    main()
