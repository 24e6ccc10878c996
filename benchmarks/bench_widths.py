"""Choosing the widths of nested subnetworks: how long it takes, how much memory, and how good the widths are.

Each case is solved in a process of its own, in both orders one after the other, and tells the seconds of choosing, by
the clock and of the CPU, and the most memory that this took above what the process had before. The importance of all
kept channels is added up, as REDS does, but for the cases called balanced. It is by Taylor scores on some CIFAR-10
images for the networks trained on them; MobileNet has random weights and random scores. Beside our ladders stand what
REDS's linear estimate of multiply-accumulates would keep, which prices each channel at the full width of its inputs,
and what the greedy choice of widths for pruning keeps, which need not be nested. Latencies are those of a device that
computes 4 channels at once.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cifar import DATA, IMAGES, Cache
from results import save

from profiling.operators.operator import Operator
from zoo.backend import keras
from zoo.batches import TrainingData
from zoo.channels import Channels, Counter, analyse
from zoo.cost import uses
from zoo.datasets import load_dataset, split_indices
from zoo.importance import importance
from zoo.knapsack import Term, solve
from zoo.latency import WidthTimes
from zoo.models import base_model, given_network
from zoo.pruning import Scores, widths_within
from zoo.subnetworks.choosing import ORDERS, Order, Weighing, choose_widths
from zoo.subnetworks.costs import Costs, count_costs, peak_bytes, time_costs, width_choices

CACHE = Cache("widths")
FRACTIONS = (0.25, 0.5, 0.75, 1.0)
TRAINED = {"ds-cnn-s": "reds_cifar10_dscnn_s.h5", "resnet-8": "mlperf_tiny_resnet8_cifar10.h5"}
EVERY = 50
"""Every how many of the training images are looked at."""
BATCHES = 8
CAP = 0.6
"""Of the whole network's peak of activation memory."""
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "macs": {},
    "macs-balanced": {"weighing": "balanced"},
    "macs-balanced-step-8": {"weighing": "balanced", "step": 8},
    "macs-balanced-capped": {"weighing": "balanced", "cap": True},
    "macs-step-8": {"step": 8},
    "macs-capped": {"cap": True},
    "macs-blocks": {"skip": True},
    "macs-blocks-capped": {"skip": True, "cap": True},
    "size": {"unit": "size"},
    "latency": {"unit": "latency"},
    "latency-blocks": {"unit": "latency", "skip": True},
}


class Staircase:
    """Prices of a device that computes 4 channels at once."""

    call_ms = 0.05

    def own_ms(self, operators: Iterable[Operator]) -> dict[Operator, float]:
        """Milliseconds of each operator."""
        return {operator: self._ms(operator) for operator in operators}

    def _ms(self, operator: Operator) -> float:
        channels = operator.outputs[0].shape[-1]
        return 1e-3 + 1e-6 * operator.macs / channels * 4 * -(-channels // 4)


def main() -> None:
    """Solves what is asked for, or starts a process for each case and writes the numbers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", nargs=2, metavar=("NETWORK", "OPTIONS"))
    parser.add_argument("--scores")
    parser.add_argument("--only", choices=[*TRAINED, "mobilenet-0.25-96"], action="append")
    asked = parser.parse_args()
    if asked.scores:
        _keep_scores(asked.scores)
    elif asked.case:
        print(json.dumps(solved(*asked.case)))
    elif not DATA.exists():
        print(f"widths: not measured, {DATA} is absent")
    else:
        names = asked.only or [*TRAINED, "mobilenet-0.25-96"]
        save("widths", {name: _of_network(name) for name in names})


def _of_network(name: str) -> dict[str, Any]:
    if not _scores_file(name).exists():
        _in_a_process("--scores", name)
    blocks = bool(count_costs(network(name), "macs", skip_blocks=True).inner)
    options = [option for option in OPTIONS if blocks or "blocks" not in option]
    ladders = {option: CACHE.once(f"{name}-{option}", partial(_solved_elsewhere, name, option)) for option in options}
    return {"ladders": ladders, "others": CACHE.once(f"{name}-others", partial(compared, name))}


def _solved_elsewhere(name: str, option: str) -> dict[str, Any]:
    answer: dict[str, Any] = json.loads(_in_a_process("--case", name, option))
    return answer


def _in_a_process(*arguments: str) -> str:
    done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout.splitlines()[-1] if done.stdout else ""


def network(name: str) -> Channels:
    """The analysis of a network."""
    if name not in TRAINED:
        return analyse(keras.applications.MobileNet(weights=None, alpha=0.25, input_shape=(96, 96, 3)))
    return analyse(given_network(str(_model_file(name))))


def solved(name: str, option: str) -> dict[str, Any]:
    """The ladders in both orders, and what choosing them took."""
    wanted = OPTIONS[option]
    channels, scores = network(name), _scores(name)
    start = time.perf_counter()
    costs = _costs(channels, wanted)
    tables = time.perf_counter() - start
    cap = int(CAP * peak_bytes(costs, {})) if wanted.get("cap") else None
    choices = [len(widths) for widths in costs.grid.values()]
    weighing = wanted.get("weighing", "sum")
    ladders: dict[str, Any] = {order: _measured(costs, scores, order, cap, weighing) for order in ORDERS}
    return {"tables_seconds": tables, "choices": choices, "peak_bytes": cap, **ladders}


def _measured(costs: Costs, scores: Scores, order: Order, cap: int | None, weighing: Weighing) -> dict[str, Any]:
    Path("/proc/self/clear_refs").write_text("5")  # the most memory is counted from here on
    before, start, cpu = _megabytes("VmRSS"), time.perf_counter(), time.process_time()
    ladder = choose_widths(costs, scores, FRACTIONS, order=order, peak_bytes=cap, weighing=weighing)
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "megabytes": _megabytes("VmHWM") - before,
        "rungs": [
            {
                "fraction": rung.fraction,
                "cost": rung.cost / ladder.whole,
                "importance": rung.importance,
                "gap": rung.gap,
                "free_bound": rung.free_bound,
                "skipped": rung.skipped,
            }
            for rung in ladder.rungs
        ],
    }


def _costs(channels: Channels, wanted: Mapping[str, Any]) -> Costs:
    skip = wanted.get("skip", False)
    if wanted.get("unit") == "latency":
        times = WidthTimes(Counter(channels), width_choices(channels), Staircase())
        return time_costs(channels, times, skip_blocks=skip)
    return count_costs(channels, wanted.get("unit", "macs"), step=wanted.get("step"), skip_blocks=skip)


def _megabytes(field: str) -> float:
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(field))
    return int(line.split()[1]) / 2**10


def compared(name: str) -> dict[str, Any]:
    """What other ways to choose keep of the importance, at each fraction of the multiply-accumulates."""
    channels, scores = network(name), _scores(name)
    costs = count_costs(channels, "macs")
    ways: dict[str, Callable[[float], Mapping[str, int]]] = {
        "linear": lambda fraction: _by_linear_cost(costs, scores, fraction),
        "greedy": lambda fraction: widths_within(costs.grid, scores, Counter(channels).macs, fraction),
    }
    found: dict[str, Any] = {}
    for way, choose in ways.items():
        start = time.perf_counter()
        ladder = {fraction: choose(fraction) for fraction in FRACTIONS}
        found[way] = {"seconds": time.perf_counter() - start, "rungs": []}
        for fraction, widths in ladder.items():
            kept = {"cost": costs.of_widths(widths) / costs.whole, "importance": _kept(scores, widths)}
            found[way]["rungs"].append({"fraction": fraction, **kept})
    return found


def _by_linear_cost(costs: Costs, scores: Scores, fraction: float) -> dict[str, int]:
    """The best widths where each channel costs what it does at the full width of its inputs."""
    prices = _linear_prices(costs.channels)
    worth = [_prefixes(scores[name])[list(widths)] for name, widths in costs.grid.items()]
    terms = [
        Term((number,), prices[name] * np.array(widths, float))
        for number, (name, widths) in enumerate(costs.grid.items())
    ]
    rest = costs.whole - sum(float(term.cost[-1]) for term in terms)
    choice = solve(worth, terms, fraction * costs.whole - rest)
    assert choice is not None, "the least fraction is above what is asked for"
    return {name: widths[number] for (name, widths), number in zip(costs.grid.items(), choice.chosen, strict=True)}


def _linear_prices(channels: Channels) -> dict[str, float]:
    """Multiply-accumulates that make or carry one channel of each group, whatever the other widths."""
    macs: dict[tuple[str, str], int] = {}
    for use in uses(channels.model):
        macs[use.layer, use.weight] = macs.get((use.layer, use.weight), 0) + use.size * use.times
    prices = {}
    for name, group in channels.cuttable.items():
        own = (place for place in channels.places(name) if place.role != "reads")
        parts = [macs.get((place.layer, place.weight), 0) * (place.channels >= 0).mean() for place in own]
        prices[name] = float(sum(parts)) / group.size
    return prices


def _kept(scores: Scores, widths: Mapping[str, int]) -> float:
    total = sum(float(values.sum()) for values in scores.values())
    return sum(float(_prefixes(values)[widths[name]]) for name, values in scores.items()) / total


def _prefixes(values: Any) -> Any:
    return np.concatenate([[0.0], np.cumsum(np.sort(values)[::-1])])


def _keep_scores(name: str) -> None:
    """Writes the importance of a network's channels."""
    if name in TRAINED:
        data = _some_images()
        base = base_model(str(_model_file(name)), data.dataset, data.train)
        scores = importance(base.model, "taylor", data, batches=BATCHES)
    else:
        random = np.random.default_rng(0)
        scores = {group: random.exponential(size=own.size) for group, own in network(name).cuttable.items()}
    _scores_file(name).parent.mkdir(parents=True, exist_ok=True)
    np.savez(_scores_file(name), **scores)  # type: ignore[arg-type]


def _some_images() -> TrainingData:
    """Every so many of the training images."""
    with tempfile.TemporaryDirectory() as directory:
        with tarfile.open(DATA / "cifar10" / IMAGES[0]) as archive:
            members = [member for member in archive if member.isfile()][::EVERY]
            archive.extractall(directory, members, filter="data")
        dataset = load_dataset(f"images:{directory}/train")
        return TrainingData.of(dataset, split_indices(dataset, 0))


def _scores(name: str) -> Scores:
    with np.load(_scores_file(name)) as kept:
        return dict(kept)


def _scores_file(name: str) -> Path:
    return CACHE.folder / f"{name}.npz"


def _model_file(name: str) -> Path:
    return DATA / "models" / TRAINED[name]


if __name__ == "__main__":
    main()
