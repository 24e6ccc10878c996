"""One network decomposed as somebody asks for it: ranks chosen or given, kernels fitted, the whole fine-tuned."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fleetfoot.errors import UsageError
from fleetfoot.files import atomic_path
from profiling.device import connected
from zoo.backend import make_deterministic
from zoo.batches import TrainingData
from zoo.cost import count_macs
from zoo.datasets import ReadOptions, load_dataset, split_indices, takes_size
from zoo.export import export
from zoo.finetune import FINE_TUNING_RATE, train
from zoo.formats import call_builder, read_network, register_custom_objects
from zoo.graph import copy_weights, inlined
from zoo.latency import Prices, prices_of
from zoo.lowrank.costs import decomposable, macs_of, ms_of, network_ms
from zoo.lowrank.decomposing import decompose
from zoo.lowrank.factors import at_rank, kept_energy
from zoo.lowrank.forms import groups_of, kernel_of, parts
from zoo.lowrank.rankfile import read_ranks, write_ranks
from zoo.lowrank.ranks import RankChoices, Wanted
from zoo.lowrank.report import CostUnit, LayerReport, Report
from zoo.lowrank.responses import refine
from zoo.models import base_model, image_size
from zoo.recipe import LayerRank

_FITTING_INPUTS = 512


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for.

    Attributes:
        model: the path of a trained network, or ``package.module:function`` for one that a function builds.
        ratio: how many times as fast it is to be; or else
        lines: the ranks of its layers, as ``zoo.lowrank.rankfile`` reads them.
        scheme: what convolutions are decomposed as.
        cost: what the ratio is of.
        device: where latency is measured.
        data: a dataset's name, whose train inputs kernels are fitted to; None fits them to the weights.
        finetune_epochs: passes over the train split, with the whole network as teacher.
        seed: of the splits and the training.
    """

    model: str
    ratio: float | None = None
    lines: tuple[str, ...] = ()
    scheme: Wanted = "auto"
    cost: CostUnit = "macs"
    device: str = "local"
    data: str | None = None
    finetune_epochs: int = 0
    seed: int = 0

    def check(self) -> None:
        """Makes sure that this can be meant.

        Raises:
            UsageError: it cannot.
        """
        if (self.ratio is None) == (not self.lines):
            raise UsageError("say either how many times as fast, with --ratio, or the ranks, with --layer or --config")
        if self.ratio is not None and not 1 <= self.ratio < float("inf"):
            raise UsageError(f"a ratio says how many times as fast, 1 or more, and {self.ratio:g} is not")
        if self.finetune_epochs and self.data is None:
            raise UsageError("fine-tuning takes data: name it with --data")


class Decomposed(NamedTuple):
    """The network that was made, how, and what it comes to."""

    network: Any
    ranks: dict[str, LayerRank]
    report: Report


def decomposed(request: Request, custom_objects: str | None = None, dry_run: bool = False) -> Decomposed:
    """Makes what is asked for; of a rehearsal, the network is neither fitted nor trained.

    Raises:
        FleetfootError: the model, the data or the ranks do not fit, or the device went away.
    """
    request.check()
    if custom_objects:
        register_custom_objects(custom_objects)
    make_deterministic(request.seed)
    is_function = ":" in request.model and not Path(request.model).exists()
    model = inlined(call_builder(request.model) if is_function else read_network(Path(request.model)))
    with connected(request.device) if request.cost == "latency" else nullcontext() as device:
        prices = prices_of(device) if device is not None else None
        if request.ratio is None:
            ranks = read_ranks(request.lines, model, request.scheme)
        else:
            ranks = RankChoices(model, scheme=request.scheme, prices=prices).within(1 / request.ratio).ranks
        network = decompose(model, ranks)
        report = _report(model, network, ranks, prices)
    if request.data is not None and not dry_run:
        accuracy = _brought_near(request, network, ranks)
        report = msgspec.structs.replace(report, accuracy=accuracy)
    return Decomposed(network, ranks, report)


def save(made: Decomposed, out: Path, *, with_ranks: bool) -> None:
    """Writes the network, and beside it the ranks as options that the command takes back.

    Raises:
        ExportError: LiteRT lacks something that the network computes.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    if out.suffix == ".tflite":
        export({"serving_default": made.network}, out)
    else:
        with atomic_path(out) as temporary:
            made.network.save(temporary)
    if with_ranks:
        write_ranks(out.with_suffix(".ranks.json"), made.ranks)


def _brought_near(request: Request, network: Any, ranks: dict[str, LayerRank]) -> dict[str, float]:
    """Fits a decomposed network's kernels to what the whole one answers to data, and trains it on, in place.

    Returns:
        The accuracy on the tune split, by what was done until then.
    """
    assert request.data is not None
    size = image_size(request.model) if takes_size(request.data) else None
    dataset = load_dataset(request.data, ReadOptions(size=size))
    data = TrainingData.of(dataset, split_indices(dataset, request.seed))
    whole = base_model(request.model, dataset, data.train).model
    trained = decompose(whole, ranks)
    accuracy = {"whole": _accuracy(whole, data), "decomposed": _accuracy(trained, data)}
    refine(whole, trained, ranks, data.some_inputs(_FITTING_INPUTS), request.seed)
    accuracy["with its kernels fitted"] = _accuracy(trained, data)
    if request.finetune_epochs:
        epochs, seed = request.finetune_epochs, request.seed
        train(trained, data, epochs=epochs, learning_rate=FINE_TUNING_RATE, teacher=whole, seed=seed)
        accuracy["fine-tuned"] = _accuracy(trained, data)
    copy_weights(trained, network)
    return accuracy


def _accuracy(network: Any, data: TrainingData) -> float:
    return float((network.predict(data.tune_batches(), verbose=0).argmax(axis=1) == data.y_tune).mean())


def _report(model: Any, network: Any, ranks: dict[str, LayerRank], prices: Prices | None) -> Report:
    """What a decomposition comes to, in milliseconds if there are prices."""
    found = decomposable(model)
    if prices is None:
        costs = {name: macs_of(of_layer, [None, ranks.get(name)]) for name, of_layer in found.items()}
    else:
        costs = ms_of({name: (of_layer, [None, ranks.get(name)]) for name, of_layer in found.items()}, prices)
    whole = network_ms(model, prices) if prices else float(count_macs(model))
    rest = max(0.0, whole - sum(before for before, _ in costs.values()))
    return Report(
        model=model.name,
        unit="latency" if prices else "macs",
        layers=tuple(
            _layer_report(of_layer[0].layer, ranks.get(name), *costs[name]) for name, of_layer in found.items()
        ),
        rest=rest,
        before=whole,
        after=rest + sum(after for _, after in costs.values()),
        parameters_before=model.count_params(),
        parameters_after=network.count_params(),
    )


def _layer_report(layer: Any, chosen: LayerRank | None, before: float, after: float) -> LayerReport:
    shapes: tuple[tuple[int, ...], ...] = (tuple(layer.kernel.shape),)
    energy = 1.0
    if chosen:
        shapes = tuple(part.kernel for part in parts(layer, chosen))
        kept = kept_energy(kernel_of(layer), chosen.scheme, groups=groups_of(layer))
        energy = at_rank(kept, chosen.rank)
    return LayerReport(
        name=layer.name, ranks=chosen.text if chosen else "", shapes=shapes, energy=energy, before=before, after=after
    )
