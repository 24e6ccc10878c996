"""The command ``train-premodel``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleetfoot.console import command, print_json, print_line, print_table

if TYPE_CHECKING:
    from premodel.evaluation import Line
    from premodel.training import Evaluation


@command("train-premodel", example="train-premodel my-zoo")
@click.argument("path", metavar="ZOO", type=click.Path(path_type=Path))
@click.option("--device", default="local", show_default=True, help="Where the premodel's own cost is measured.")
@click.option("--json", "as_json", is_flag=True, help="Print the evaluation as JSON.")
def train_premodel(path: Path, device: str, as_json: bool) -> None:
    """Trains the premodel of a zoo, compiles it, and plans it for each device that the zoo was measured on."""
    from premodel.training import encode
    from premodel.training import train_premodel as train

    evaluations = train(path, device)
    if as_json:
        print_json(encode(evaluations))
        return
    for evaluation in evaluations:
        _print_evaluation(evaluation)


def _print_evaluation(evaluation: Evaluation) -> None:
    columns = [
        "budget ms",
        "static best",
        "random mix",
        "premodel",
        "oracle",
        "premodel − static best (95 %)",
    ]
    rows = [
        [
            f"{report.budget_ms:.3f}",
            _line(report.static_best),
            _line(report.random_mix),
            _line(report.premodel),
            _line(report.oracle),
            "{:+.1%} ({:+.1%} to {:+.1%})".format(report.gain, *report.gain_interval),
        ]
        for report in evaluation.budgets
    ]
    print_table(f"{evaluation.device_id}: test accuracy at mean latency, premodel included", columns, rows)
    if evaluation.apgr is not None:
        print_line(f"APGR between the fastest and the most accurate variant: {evaluation.apgr:.2f} (random: 0.50)")
    if not evaluation.used:
        print_line("On the route split the premodel does not beat both static best and random mix: "
             "the plan goes by the table, which is the static choice.")  # fmt: skip


def _line(line: Line) -> str:
    return f"{line.accuracy:.1%} at {line.mean_ms:.3f} ms"
