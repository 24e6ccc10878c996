"""What ``solve`` takes for a network of VGG-16's layers, by itself in a process: seconds of the CPU, and memory.

Called with the path of ``zoo/knapsack.py``, which needs NumPy alone, and the name of a spectrum.
"""

from __future__ import annotations

import importlib.util
import json
import resource
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]

CONVOLUTIONS = [
    (3, 64, 224), (64, 64, 224), (64, 128, 112), (128, 128, 112), (128, 256, 56), (256, 256, 56), (256, 256, 56),
    (256, 512, 28), (512, 512, 28), (512, 512, 28), (512, 512, 14), (512, 512, 14), (512, 512, 14),
]  # fmt: skip
DENSE = [(25088, 4096), (4096, 4096), (4096, 1000)]
SHARES = (0.9, 0.5, 0.25, 0.1, 0.05)


def kept(spectrum: str, count: int, random: np.random.Generator, decay: float) -> Numbers:
    """The share of the energy that each rank keeps."""
    place = np.arange(1.0, count + 1)
    values = {
        "flat": np.ones(count),
        "exponential": np.exp(-8 * decay * place / count),
        "power": place ** -(1 + decay),
        "random": np.sort(random.random(count))[::-1],
    }[spectrum]
    energy: Numbers = values.cumsum() / values.sum()
    return energy


def convolution(
    spectrum: str, channels: int, filters: int, size: int, random: np.random.Generator, decay: float
) -> Any:
    """Worth and cost of all ranks as spatial, channel and Tucker, and of the whole."""
    worth, cost = [np.zeros(1)], [np.full(1, 9.0 * channels * filters)]
    for full, each in ((3 * min(channels, filters), 3 * (channels + filters)), (filters, 9 * channels + filters)):
        full = min(full, 9 * channels)
        worth.append(np.log(kept(spectrum, full, random, decay)))
        cost.append(np.arange(1.0, full + 1) * each)
    into, out = (kept(spectrum, count, random, decay) for count in (channels, filters))
    inner, outer = (places.ravel() for places in np.mgrid[1 : channels + 1 : 3, 1 : filters + 1 : 3])
    worth.append(np.log(into[inner - 1] * out[outer - 1]))
    cost.append((channels * inner + 9 * inner * outer + outer * filters).astype(float))
    return np.concatenate(worth), np.concatenate(cost) * size**2


def dense(spectrum: str, channels: int, filters: int, random: np.random.Generator, decay: float) -> Any:
    """Worth and cost of all ranks, and of the whole."""
    energy = kept(spectrum, min(channels, filters), random, decay)
    cost = np.arange(1.0, len(energy) + 1) * (channels + filters)
    return np.append(np.log(energy), 0.0), np.append(cost, float(channels * filters))


def problem(knapsack: Any, spectrum: str, seed: int | None) -> list[Any]:
    """Worth and cost of the choices of each layer, of spectra that decay alike or, by a seed, each in its own way."""
    random = np.random.default_rng(seed)
    decays = iter(np.ones(16) if seed is None else random.random(16))
    made = [convolution(spectrum, *sizes, random, next(decays)) for sizes in CONVOLUTIONS]
    layers = [tuple(axis[knapsack.undominated(*one)] for axis in one) for one in made]
    return layers + [dense(spectrum, *sizes, random, next(decays)) for sizes in DENSE]


def most_megabytes() -> float:
    """The most memory that this process had; on Linux, getrusage would tell the most of whoever started it too."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main(arguments: Sequence[str]) -> None:
    """Prints the most that any of the problems took."""
    path, spectrum = arguments
    spec = importlib.util.spec_from_file_location("knapsack", path)
    assert spec is not None
    assert spec.loader is not None
    knapsack = importlib.util.module_from_spec(spec)
    sys.modules["knapsack"] = knapsack
    spec.loader.exec_module(knapsack)
    seconds, found, problems = [0.0], 0, [problem(knapsack, spectrum, seed) for seed in (None, 0, 1)]
    for layers in problems:
        whole = sum(float(cost.max()) for _, cost in layers)
        worth = [own for own, _ in layers]
        terms = [knapsack.Term((number,), cost) for number, (_, cost) in enumerate(layers)]
        for share in SHARES:
            start = time.process_time()
            choice = knapsack.solve(worth, terms, share * whole)
            seconds.append(time.process_time() - start)
            found += choice is not None and choice.cost <= share * whole and choice.gap == 0
    measured = {
        "layers": len(problems[0]),
        "most_options": max(len(cost) for _, cost in problems[0]),
        "asked": len(SHARES) * len(problems),
        "found": found,
        "seconds": max(seconds),
        "megabytes": most_megabytes(),
    }
    sys.stdout.write(json.dumps(measured))


if __name__ == "__main__":
    main(sys.argv[1:])
