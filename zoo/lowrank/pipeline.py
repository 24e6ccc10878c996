"""One network decomposed as somebody asks for it: ranks chosen or given, kernels fitted, the whole fine-tuned."""

from __future__ import annotations

import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fleetfoot.errors import ModelError, UsageError
from fleetfoot.files import atomic_path
from profiling.device import connected
from zoo.backend import make_deterministic
from zoo.batches import TrainingData
from zoo.datasets import Dataset, ReadOptions, load_dataset, split_indices, takes_size
from zoo.export import export
from zoo.finetune import FINE_TUNING_RATE, train
from zoo.formats import register_custom_objects
from zoo.graph import compute_in, copy_weights, inlined
from zoo.latency import prices_of
from zoo.lowrank.decomposing import decompose
from zoo.lowrank.rankfile import read_ranks, write_ranks
from zoo.lowrank.ranks import RankChoices, Wanted
from zoo.lowrank.report import CostUnit, Report, report_on
from zoo.lowrank.responses import FITTING_INPUTS, refine
from zoo.models import check_weights, conform, given_network, image_size_of
from zoo.recipe import LayerRank

_SUFFIXES = (".keras", ".tflite")


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked for.

    Attributes:
        model: the path of a trained network, or ``package.module:function`` for one that a function builds.
        out: the file to write; None for a rehearsal, of which the network is neither fitted nor trained.
        overwrite: whether that may be there.
        ratio: how many times as fast the network is to be; or else
        lines: the ranks of its layers, as ``zoo.lowrank.rankfile`` reads them.
        scheme: what convolutions are decomposed as.
        cost: what the ratio is of.
        device: where latency is measured.
        data: a dataset's name, whose train inputs kernels are fitted to; None fits them to the weights.
        finetune_epochs: passes over the train split, with the whole network as teacher.
        seed: of the splits and the training.
        custom_objects: the module that registers the model's own layers.
    """

    model: str
    out: Path | None = None
    overwrite: bool = False
    ratio: float | None = None
    lines: tuple[str, ...] | None = None
    scheme: Wanted = "auto"
    cost: CostUnit = "macs"
    device: str = "local"
    data: str | None = None
    finetune_epochs: int = 0
    seed: int = 0
    custom_objects: str | None = None

    @property
    def ranks_file(self) -> Path | None:
        """Where chosen ranks are written."""
        return self.out.with_suffix(".ranks.json") if self.out and self.ratio is not None else None

    def check(self) -> None:
        """Makes sure that this can be meant, and that there is room for what comes of it.

        Raises:
            UsageError: it cannot, or a file is in the way.
            OSError: the folder cannot be written in.
        """
        if (self.ratio is None) == (self.lines is None):
            raise UsageError("say either how many times as fast, with --ratio, or the ranks, with --layer or --config")
        if self.ratio is not None and not 1 <= self.ratio < float("inf"):
            raise UsageError(f"a ratio says how many times as fast, 1 or more, and {self.ratio:g} is not")
        if self.finetune_epochs and self.data is None:
            raise UsageError("fine-tuning takes data: name it with --data")
        if self.out is not None:
            self._check_out(self.out)

    def _check_out(self, out: Path) -> None:
        if out.suffix not in _SUFFIXES:
            raise UsageError(f"{out} is to end in {' or '.join(_SUFFIXES)}")
        if out.exists() and Path(self.model).exists() and out.samefile(self.model):
            raise UsageError(f"{out} is the model itself: give --out another name")
        for path in filter(None, (out, self.ranks_file)):
            if path.is_dir() or (path.exists() and not self.overwrite):
                raise UsageError(f"{path} is there already: give --out another name, or --overwrite")
        out.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out.parent):  # what cannot be written is found out before anything takes long
            pass


class Decomposed(NamedTuple):
    """The network that was made, how, and what it comes to."""

    network: Any
    ranks: dict[str, LayerRank]
    report: Report


def decompose_as_asked(request: Request) -> Decomposed:
    """Makes what is asked for, and writes it.

    Raises:
        FleetfootError: the model, the data or the ranks do not fit, or the device went away.
    """
    request.check()
    if request.custom_objects:
        register_custom_objects(request.custom_objects)
    make_deterministic(request.seed)
    model = _network(request)
    made = _decomposed(model, request)
    if request.out is None:
        return made
    if request.data is not None:
        accuracy = _bring_near(model, made, request)
        made = made._replace(report=msgspec.structs.replace(made.report, accuracy=accuracy))
    if request.ranks_file:
        write_ranks(request.ranks_file, made.ranks)
    _write(made.network, request.out)
    return made


def _network(request: Request) -> Any:
    """The network as it is, opened up.

    Raises:
        ModelError: it cannot be read, has weights that are no numbers, or is not of a form that can be written.
    """
    model = inlined(given_network(request.model))
    check_weights(model, request.model)
    ends = len(model.inputs), len(model.outputs)
    if request.out is not None and request.out.suffix == ".tflite" and ends != (1, 1):
        raise ModelError(
            f"{request.model} has {ends[0]} inputs and {ends[1]} outputs, and a .tflite file takes one of each: "
            "write a .keras file"
        )
    return model


def _decomposed(model: Any, request: Request) -> Decomposed:
    """The network, its kernels those nearest to the weights."""
    with connected(request.device) if request.cost == "latency" else nullcontext() as device:
        prices = prices_of(device) if device is not None else None
        if request.ratio is None:
            ranks = read_ranks(request.lines or (), model, request.scheme)
        else:
            ranks = RankChoices(model, scheme=request.scheme, prices=prices).within(1 / request.ratio).ranks
        network = decompose(model, ranks)
        return Decomposed(network, ranks, report_on(model, network, ranks, prices))


def _bring_near(model: Any, made: Decomposed, request: Request) -> dict[str, float]:
    """Fits kernels to what the whole network answers to data, and trains them on, in place.

    Returns:
        The accuracy on the tune split, by what was done until then.
    """
    dataset = _dataset(model, request)
    data = TrainingData.of(dataset, split_indices(dataset, request.seed))
    whole = conform(model, dataset, request.model, data.train)
    near = decompose(whole, made.ranks)
    accuracy = {"whole": _accuracy(whole, data), "decomposed": _accuracy(near, data)}
    if not made.ranks:
        return accuracy
    refine(whole, near, made.ranks, data.some_inputs(FITTING_INPUTS), request.seed)
    accuracy["with its kernels fitted"] = _accuracy(near, data)
    if request.finetune_epochs:
        epochs, seed = request.finetune_epochs, request.seed
        train(near, data, epochs=epochs, learning_rate=FINE_TUNING_RATE, teacher=whole, seed=seed)
        accuracy["fine-tuned"] = _accuracy(near, data)
    copy_weights(near, made.network)
    return accuracy


def _dataset(model: Any, request: Request) -> Dataset:
    assert request.data is not None
    size = image_size_of(model) if takes_size(request.data) else None
    return load_dataset(request.data, ReadOptions(size=size))


def _accuracy(network: Any, data: TrainingData) -> float:
    return float((data.tune_answers(network) == data.y_tune).mean())


def _write(network: Any, out: Path) -> None:
    """Writes a network as Keras or as LiteRT."""
    if out.suffix == ".tflite":
        export({"serving_default": compute_in(network, lambda _: "float32")}, out)
        return
    with atomic_path(out) as temporary:
        network.save(temporary)
