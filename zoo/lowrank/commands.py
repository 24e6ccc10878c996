"""The command ``decompose-model``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
import msgspec

from fleetfoot.console import command, note, print_json, print_table
from fleetfoot.errors import UsageError
from zoo.lowrank.report import Report

_UNITS = {"macs": "MACs", "latency": "ms"}


@command("decompose-model", example="decompose-model model.keras --ratio 2 --out smaller.keras")
@click.argument("model", metavar="MODEL")
@click.option("--out", type=click.Path(path_type=Path), help="The model to write: a .keras or .tflite file.")
@click.option("--ratio", type=float, metavar="R", help="How many times as fast, by --cost: ranks are chosen for it and "
              "written beside OUT.")  # fmt: skip
@click.option("--layer", "lines", multiple=True, metavar="NAME=K", help="The rank of a layer; also NAME=SCHEME:K, "
              "NAME=tucker:RxS. A --config FILE can hold them all.")  # fmt: skip
@click.option("--scheme", type=click.Choice(["auto", "spatial", "channel", "tucker"]), default="auto",
              show_default=True, help="What convolutions are decomposed as; auto takes the best for each.")  # fmt: skip
@click.option("--cost", type=click.Choice(["macs", "latency"]), default="macs", show_default=True,
              help="What a ratio is of: multiply-accumulates, or time on --device.")  # fmt: skip
@click.option("--device", default="local", show_default=True, help="Where latency is measured.")
@click.option("--data", help="Inputs that kernels are fitted to, and fine-tuned on, as build-zoo takes them.")
@click.option("--finetune-epochs", type=click.IntRange(0), default=0, show_default=True,
              help="Epochs of fine-tuning on --data, with the whole network as teacher.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True,
              help="Of the data's splits and of all training.")  # fmt: skip
@click.option("--custom-objects", metavar="MODULE", help="The module that registers the model's own layers.")
@click.option("--dry-run", is_flag=True, help="Say what the ranks would be, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def decompose_model(
    model: str, out: Path | None, custom_objects: str | None, dry_run: bool, as_json: bool, **chosen: Any
) -> None:
    """Makes layers of one network low-rank: each becomes two or three that together take less.

    Give either how many times as fast the network is to be, or the rank of each layer. MODEL is a .keras or .h5
    file, a SavedModel directory, or package.module:function.
    """
    from zoo.lowrank.pipeline import Request, decomposed, save

    request = Request(model=model, **chosen)
    if out is None and not dry_run:
        raise UsageError("say where to write the model with --out FILE, or give --dry-run")
    if out is not None and out.suffix not in (".keras", ".tflite"):
        raise UsageError(f"{out} is to end in .keras or .tflite")
    made = decomposed(request, custom_objects, dry_run)
    if out is not None and not dry_run:
        save(made, out, with_ranks=request.ratio is not None)
    if as_json:
        print_json(msgspec.json.encode(made.report))
    else:
        _print(made.report)


def _print(report: Report) -> None:
    unit = _UNITS[report.unit]
    rows = [
        (
            layer.name,
            layer.ranks or "whole",
            "\n".join("×".join(map(str, shape)) for shape in layer.shapes),
            f"{layer.energy:.3f}",
            _number(layer.before),
            _number(layer.after),
        )
        for layer in report.layers
    ]
    rows.append(("all else", "", "", "", _number(report.rest), _number(report.rest)))
    rows.append(("together", f"{report.ratio:.2f}× as fast", "", "", _number(report.before), _number(report.after)))
    print_table(report.model, ("layer", "ranks", "kernels", "kept energy", f"{unit} before", "after"), rows)
    note(f"parameters: {report.parameters_before:,} before, {report.parameters_after:,} after")
    for name, accuracy in report.accuracy.items():
        note(f"right on {accuracy:.1%} of the tune split {name}")


def _number(cost: float) -> str:
    return f"{cost:,.0f}" if cost >= 1000 else f"{cost:.4g}"
