"""The commands ``build-zoo``, ``profile-zoo``, ``decompose-model`` and ``inspect-zoo``."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
import msgspec
from click.core import ParameterSource

from fleetfoot.console import CountList, NumberList, Size, WordList, command, note, print_json, print_table, warn
from fleetfoot.errors import DamagedFileError, SchemaError
from profiling.measuring import described, measuring_options, on_each, print_profile, request_of
from profiling.profile import Profile
from zoo.catalog import Manifest, Variant, Zoo
from zoo.profiles import DeviceProfiles, profile_on

if TYPE_CHECKING:
    from zoo.lowrank.report import Report
    from zoo.record import BuildOptions


_GRID = (
    "prune", "prune_by", "criterion", "scope", "drop_blocks", "low_rank", "low_rank_of_pruned", "subnetworks",
    "quantize", "subnetwork_budget", "peak_memory", "order", "skip_blocks", "subnetwork_quantize", "resumable",
    "solver_time_limit",
)  # fmt: skip


@command("build-zoo", example="build-zoo --out my-zoo --data digits --prune 0.25,0.5 --subnetworks 0.25,0.5,1")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The zoo directory to make.")
@click.option("--data", default="digits", show_default=True, help="digits, images:DIR, cifar10:DIR, "
              "fashion-mnist:DIR, mnist:DIR, speech:DIR, npz:FILE or module:PACKAGE.MODULE:FUNCTION.")  # fmt: skip
@click.option("--model", help="A trained model (.keras, .h5, a SavedModel directory), package.module:function, "
              "or a built-in network.  [default: the dataset's own]")  # fmt: skip
@click.option("--device", default="local", show_default=True, help="Where the variants are measured.")
@click.option("--strategy", default="grid", show_default=True, help="How recipes are proposed.")
@click.option("--epochs", type=click.IntRange(1), default=12, show_default=True,
              help="Epochs of a new base model.")  # fmt: skip
@click.option("--prune", type=NumberList(), default="0.25,0.5", show_default=True, metavar="R,…",
              help="Shares of the base model that pruned variants keep.")  # fmt: skip
@click.option("--prune-by", type=click.Choice(["macs", "time", "channels"]), default="macs", show_default=True,
              help="What they are shares of: MACs, time on --device, or channels; low-rank ones by "
              "MACs or time.")  # fmt: skip
@click.option("--criterion", default="taylor", show_default=True, metavar="NAME", help="By which channels are "
              "important: taylor, l1, l2, bn-scale, activation or random.")  # fmt: skip
@click.option("--scope", type=click.Choice(["global", "layer"]), default="global", show_default=True,
              help="Cut the least important channels wherever they are, or the same share everywhere.")  # fmt: skip
@click.option("--drop-blocks", type=CountList(), default="", metavar="N,…",
              help="Numbers of blocks to leave out, those that harm least first.")  # fmt: skip
@click.option("--low-rank", type=NumberList(), default="0.5,0.7", show_default=True, metavar="R,…",
              help="Shares of the base model that low-rank variants keep.")  # fmt: skip
@click.option("--low-rank-of-pruned", type=NumberList(), default="", metavar="R,…",
              help="Shares of each pruned variant that low-rank variants of it keep.")  # fmt: skip
@click.option("--subnetworks", type=NumberList(), default="0.05,0.2,0.5", show_default=True, metavar="F,…",
              help="Fractions of the base model that nested subnetworks take, ascending.")  # fmt: skip
@click.option("--subnetwork-budget", type=click.Choice(["macs", "latency", "size"]), default="macs", show_default=True,
              help="What they are fractions of: MACs, time on --device, or bytes of weights.")  # fmt: skip
@click.option("--peak-memory", type=click.IntRange(1), metavar="BYTES",
              help="The most that the activations of a subnetwork may take at once, in float32.")  # fmt: skip
@click.option("--order", type=click.Choice(["bottom-up", "top-down"]), default="bottom-up", show_default=True,
              help="Which subnetwork is chosen first: the narrowest, or the widest.")  # fmt: skip
@click.option("--skip-blocks", is_flag=True, help="Let subnetworks skip whole blocks too.")
@click.option("--subnetwork-quantize", type=WordList(), default="", metavar="FORMAT,…",
              help="Number formats to have them in besides float32.")  # fmt: skip
@click.option("--resumable", is_flag=True, help="Make them early exits on one trunk, which go on from each other "
              "instead of starting over.")  # fmt: skip
@click.option("--solver-time-limit", type=click.FloatRange(0, min_open=True), default=60, show_default=True,
              metavar="S", help="Seconds for choosing the widths; then the best that was found is taken.")  # fmt: skip
@click.option("--quantize", type=WordList(), default="int8", show_default=True, metavar="FORMAT,…",
              help="Number formats of the base model to add.")  # fmt: skip
@click.option("--finetune-epochs", type=click.IntRange(0), help="Epochs of each variant's fine-tuning; 0 takes "
              "batch-norm statistics anew, no more.  [default: a third of --epochs, more for little data]")  # fmt: skip
@click.option("--train-base", type=click.IntRange(0), metavar="EPOCHS",
              help="Train a model on that comes with weights.  [default: only if it knows nothing]")  # fmt: skip
@click.option("--augment", type=WordList(), default="", metavar="WAY,…",
              help="How train inputs are changed at random: flip (images, left to right), shift.")  # fmt: skip
@click.option("--custom-objects", metavar="MODULE", help="The module that registers the model's own layers.")
@click.option("--on-bad", type=click.Choice(["refuse", "skip"]), default="refuse", show_default=True,
              help="What to do with inputs that cannot be read or are unlike the others.")  # fmt: skip
@click.option("--image-size", type=Size(), metavar="H×W", help="The size that images are brought to.  "
              "[default: the model's, or the data's most common]")  # fmt: skip
@click.option("--seconds", type=click.FloatRange(0, min_open=True), help="The length that recordings are brought to.  "
              "[default: the longest's]")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True,
              help="Of the splits and of all training.")  # fmt: skip
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Variants made at once.")
@click.option("--overwrite", is_flag=True, help="Delete the zoo that is there first.")
@click.option("--dry-run", is_flag=True, help="Say what would be made, how long and how big.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def build_zoo(
    out: Path,
    jobs: int,
    overwrite: bool,
    dry_run: bool,
    as_json: bool,
    on_bad: Literal["refuse", "skip"],
    image_size: tuple[int, int] | None,
    seconds: float | None,
    **chosen: Any,
) -> None:
    """Makes a zoo of faster variants of one network: trains, cuts, fine-tunes, exports and measures them.

    Stopped at any moment, the same command goes on where it was. An empty list, such as --prune "", leaves
    that family out.
    """
    from zoo.build import build_zoo as build
    from zoo.datasets import ReadOptions
    from zoo.record import BuildOptions
    from zoo.search.options import GridOptions

    grid_options = {name: chosen.pop(name) for name in _GRID}
    grid = GridOptions(**grid_options, seed=chosen["seed"])
    options = BuildOptions(**chosen, grid=grid, read=ReadOptions(on_bad=on_bad, size=image_size, seconds=seconds))
    if dry_run:
        _print_forecast(options, as_json)
        return
    zoo = build(out, options, jobs=jobs, overwrite=overwrite)
    if as_json:
        print_json(msgspec.json.encode(zoo.manifest))
    else:
        _print_variants(zoo)


@command("profile-zoo", example="profile-zoo my-zoo --device local --device pyro:raspberrypi:9091 --threads 1,4")
@click.argument("path", metavar="ZOO", type=click.Path(path_type=Path))
@measuring_options
@click.option("--accuracy", is_flag=True, help="Run the route and test inputs there too, as kernels can differ.")
@click.option("--json", "as_json", is_flag=True, help="Print the profiles as JSON.")
def profile_zoo(path: Path, accuracy: bool, as_json: bool, **asked: Any) -> None:
    """Measures a zoo's variants on devices, on all that are named at once."""
    zoo, request = Zoo.open(path), request_of(**asked)
    made: list[DeviceProfiles] = []
    try:
        on_each(request.devices, request.options, lambda device: profile_on(device, zoo, request, accuracy, made))
    finally:  # what was measured before something failed is shown too
        if as_json:
            print_json(msgspec.json.encode(made))
        for of_device in () if as_json else made:
            _print_device(zoo, of_device)
    note(f"train-premodel {path} plans for what was measured")


def _print_device(zoo: Zoo, made: DeviceProfiles) -> None:
    for profile in made.profiles:
        print_profile(profile)
    if made.accuracy:
        rows = [
            [name, f"{there:.1%}", f"{100 * (there - zoo.variants[name].accuracy['test']):+.1f}"]
            for name, there in made.accuracy.items()
        ]
        print_table("test accuracy on the device", ["variant", "there", "against here, points"], rows)


@command("decompose-model", example="decompose-model model.keras --ratio 2 --out smaller.keras")
@click.argument("model", metavar="MODEL")
@click.option("--out", type=click.Path(path_type=Path), help="The model to write: a .keras or .tflite file.")
@click.option("--ratio", type=float, metavar="R", help="How many times as fast, by --cost: ranks are chosen for it and "
              "written beside OUT.")  # fmt: skip
@click.option("--layer", "lines", multiple=True, metavar="NAME=K", help="The rank of a layer; also NAME=SCHEME:K, "
              "NAME=tucker:RxS. A --config FILE can hold them all.")  # fmt: skip
@click.option("--scheme", type=click.Choice(["auto", "spatial", "channel", "tucker"]), default="auto",
              show_default=True, help="What convolutions are decomposed as; auto takes for each what keeps most, and "
              "the first it can have where --layer names a rank alone.")  # fmt: skip
@click.option("--cost", type=click.Choice(["macs", "latency"]), default="macs", show_default=True,
              help="What a ratio is of: multiply-accumulates, or time on --device.")  # fmt: skip
@click.option("--device", default="local", show_default=True, help="Where latency is measured.")
@click.option("--data", help="Inputs that kernels are fitted to, and fine-tuned on, as build-zoo takes them.")
@click.option("--finetune-epochs", type=click.IntRange(0), default=0, show_default=True,
              help="Epochs of fine-tuning on --data, with the whole network as teacher.")  # fmt: skip
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True,
              help="Of the data's splits and of all training.")  # fmt: skip
@click.option("--custom-objects", metavar="MODULE", help="The module that registers the model's own layers.")
@click.option("--overwrite", is_flag=True, help="Replace OUT, and the ranks beside it.")
@click.option("--dry-run", is_flag=True, help="Say what the ranks would come to, and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
@click.pass_context
def decompose_model(
    context: click.Context, /, out: Path | None, lines: tuple[str, ...], dry_run: bool, as_json: bool, **asked: Any
) -> None:
    """Makes layers of one network low-rank: each becomes two or three that together take less.

    Give either how many times as fast the network is to be, or the ranks of its layers. MODEL is a .keras or .h5
    file, a SavedModel directory, or package.module:function.
    """
    if out is None and not dry_run:
        raise click.UsageError("say where to write the model with --out FILE, or give --dry-run")
    from zoo.lowrank.pipeline import Request, decompose_as_asked

    named = context.get_parameter_source("lines") is not ParameterSource.DEFAULT  # a file may name no layer at all
    request = Request(out=None if dry_run else out, lines=lines if named else None, **asked)
    report = decompose_as_asked(request).report
    if as_json:
        print_json(msgspec.json.encode(report))
    else:
        _print_report(report)


@command("inspect-zoo", example="inspect-zoo my-zoo --verify")
@click.argument("path", metavar="ZOO", type=click.Path(path_type=Path))
@click.option("--verify", is_flag=True, help="Check every file against what was recorded of it.")
@click.option("--add", type=click.Path(path_type=Path), metavar="FILE.tflite",
              help="Take an existing LiteRT model of the same task in, measured and recorded.")  # fmt: skip
@click.option("--device", default="local", show_default=True, help="Where what is added is measured.")
@click.option("--remove", metavar="ID", help="Take a variant out.")
@click.option("--export-c", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
              help="Write the subnetworks as int8 files and a C header, for microcontrollers.")  # fmt: skip
@click.option("--variant", "variants", multiple=True, metavar="ID", help="Write this variant rather than all "
              "subnetworks; may be repeated.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def inspect_zoo(
    path: Path,
    verify: bool,
    add: Path | None,
    device: str,
    remove: str | None,
    export_c: Path | None,
    variants: tuple[str, ...],
    as_json: bool,
) -> None:
    """Shows what is in a zoo, changes it by a variant, or writes variants for microcontrollers."""
    if variants and export_c is None:
        raise click.UsageError("--variant says what --export-c DIR writes: give both")
    _edit(path, add, device, remove)
    zoo = Zoo.open(path)
    if export_c:
        from zoo.microcontroller import HEADER, export_zoo

        for member in export_zoo(zoo, export_c, variants):
            note(f"{export_c / member.name}.tflite: {len(member.model.data)} bytes, {member.macs:,} MACs")
        note(f"{export_c / HEADER} has them all")
    problems = zoo.problems() if verify else []
    if as_json:
        print_json(
            msgspec.json.encode(_Inspection(zoo.manifest, _readable_profiles(zoo), problems if verify else None))
        )
    else:
        _print_variants(zoo)
    if problems:
        raise DamagedFileError("; ".join(problems))
    if verify:
        note(f"{path}: all files are as recorded")


def _edit(path: Path, add: Path | None, device: str, remove: str | None) -> None:
    if add or remove:
        from zoo.edit import add_variant, remove_variant

        if add:
            note(f"added {add_variant(path, add, device).id}")
        if remove:
            remove_variant(path, remove)
            note(f"removed {remove}")
        note(f"the premodel does not know of that yet: train-premodel {path}")


class _Inspection(msgspec.Struct):
    """What ``inspect-zoo --json`` prints; ``problems`` is null when nothing was verified."""

    zoo: Manifest
    profiles: list[Profile]
    problems: list[str] | None


def _print_variants(zoo: Zoo) -> None:
    profiles = _readable_profiles(zoo)
    base = zoo.manifest.variants[0]
    columns = ["variant", "test accuracy", "macro-F1", "loses most", "MACs", "parameters", "file"]
    columns += [f"ms on {described(profile)}" for profile in profiles]
    rows: Iterable[list[str]] = (
        [
            variant.id,
            f"{variant.accuracy['test']:.1%}",
            *_balance(variant),
            "unknown" if variant.macs is None or not base.macs else f"{variant.macs / base.macs:.0%}",
            "unknown" if variant.parameters is None else f"{variant.parameters:,}",
            f"{variant.size / 1e6:.2f} MB",
            *(_latency(profile, variant.id) for profile in profiles),
        ]
        for variant in zoo.manifest.variants
    )
    print_table(
        f"{zoo.manifest.name}: {len(zoo.variants)} variants, {len(zoo.manifest.classes)} classes",
        columns,
        rows,
    )


def _balance(variant: Variant) -> tuple[str, str]:
    """Macro-F1, and the class that lost most against the base model, in points."""
    balance = variant.balance
    if balance is None:
        return "unknown", "unknown"
    lost = f"{balance.worst_class} {100 * balance.worst_change:+.1f}" if balance.worst_change < 0 else "none"
    return f"{balance.macro_f1:.3f}", lost


def _readable_profiles(zoo: Zoo) -> list[Profile]:
    """The profiles that can be shown; of the others there is a warning."""
    profiles = []
    for path in zoo.profile_files():
        try:
            profiles.append(Profile.read(path))
        except SchemaError as error:
            warn(str(error))
    return profiles


def _latency(profile: Profile, variant: str) -> str:
    measured = profile.measurements.get(variant)
    return f"{measured.latency.p50_ms:.3f}" if measured else "not measured"


def _print_forecast(options: BuildOptions, as_json: bool) -> None:
    from zoo.dry_run import forecast

    lines = forecast(options)
    if as_json:
        print_json(msgspec.json.encode([line._asdict() for line in lines]))
        return
    total = sum(line.seconds for line in lines)
    rows = [[line.name, f"{line.macs:,}", f"{line.parameters:,}", f"{line.size / 1e6:.2f} MB", f"{line.seconds:.0f} s"]
            for line in lines]  # fmt: skip
    size = sum(line.size for line in lines) / 1e6
    print_table(f"would make {len(lines)} variants, {size:.1f} MB, in about {total / 60:.1f} minutes",
                ["variant", "MACs", "parameters", "size", "time"], rows)  # fmt: skip


def _print_report(report: Report) -> None:
    unit = {"macs": "MACs", "latency": "ms"}[report.unit]
    rows = [
        (
            layer.name,
            layer.ranks or "whole",
            "\n".join("×".join(map(str, shape)) for shape in layer.shapes),
            f"{layer.energy:.3f}",
            _cost(layer.before),
            _cost(layer.after),
        )
        for layer in report.layers
    ]
    faster = f"{report.ratio:.2f}× as fast" if report.ratio else ""
    rows.append(("all else", "", "", "", _cost(report.rest), _cost(report.rest)))
    rows.append(("together", faster, "", "", _cost(report.before), _cost(report.after)))
    print_table(report.model, ("layer", "ranks", "kernels", "kept energy", f"{unit} before", "after"), rows)
    note(f"parameters: {report.parameters_before:,} before, {report.parameters_after:,} after")
    for name, accuracy in report.accuracy.items():
        note(f"right on {accuracy:.1%} of the tune split {name}")


def _cost(cost: float | None) -> str:
    """Multiply-accumulates in full, milliseconds to four digits."""
    if cost is None:
        return "?"
    return f"{cost:,.0f}" if cost >= 1000 else f"{cost:.4g}"
