"""Measuring on one or many devices at once, as ``profile-model`` and ``profile-zoo`` do: options, work, tables."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_args

import click
import msgspec

from fleetfoot.console import NumberList, WordList, note, print_json, print_line, print_table
from fleetfoot.errors import DeviceError, FleetfootError, ModelError, UsageError
from profiling.board.access import read_token
from profiling.device import Device, DeviceOptions, connected
from profiling.profile import Conditions, Delegate, Measurement, Profile, State, Target
from profiling.statistics import Effort

Function = TypeVar("Function", bound=Callable[..., Any])
Work = Callable[[Device], None]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked to be measured, and where.

    Attributes:
        devices: their URIs.
        options: what connecting to them takes.
        threads: how many, in turn; 0 for as many as the device has cores.
        cpus: the cores to keep to.
        delegate: what computes.
        states: in which the device is measured, with the first number of threads, after it was while idle.
        effort: when enough is measured.
        operators: whether single operators are timed too.
        predict: whether the profiles tell what a table of single operators would have predicted.
    """

    devices: tuple[str, ...]
    options: DeviceOptions
    threads: tuple[int, ...]
    cpus: tuple[int, ...]
    delegate: Delegate
    states: tuple[State, ...]
    effort: Effort
    operators: bool = False
    predict: bool = False

    def conditions(self, cores: int) -> Iterator[Conditions]:
        """What is to hold, measurement by measurement, on a device of so many cores; the first is the usual one."""
        counts = list(dict.fromkeys(count or cores for count in self.threads))
        for count in counts:
            yield Conditions(threads=count, cpus=self.cpus, delegate=self.delegate)
        for state in self.states:
            yield Conditions(threads=counts[0], cpus=self.cpus, delegate=self.delegate, state=state)


class _Threads(click.ParamType[tuple[int, ...]]):
    """Numbers of threads separated by commas, or a YAML list; 0 stands for ``all``, one for each core."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        words = WordList().convert(value, param, ctx)
        if not words or not all(word == "all" or (word.isdecimal() and int(word) > 0) for word in words):
            self.fail(f"{value!r} is no list of numbers of threads, such as 1,4 or 1,all", param, ctx)
        return tuple(0 if word == "all" else int(word) for word in words)


_OPTIONS = (
    click.option("--device", "devices", multiple=True, default=["local"], show_default=True, metavar="URI",
                 help="local, adb:SERIAL, adb:HOST:PORT, pyro:HOST:PORT or pyro:NAME@HOST; may be given repeatedly."),
    click.option("--threads", type=_Threads(), default="1", show_default=True, metavar="N,…",
                 help="Threads of a model; all is one for each core. The service uses the first."),
    click.option("--cpus", type=NumberList(), default="", metavar="N,…", help="The cores to run on.  [default: any]"),
    click.option("--delegate", type=click.Choice(get_args(Delegate)), default="cpu", show_default=True,
                 help="What computes; all but the processor need a phone."),
    click.option("--contended", is_flag=True, help="Measure beside busy processes too, a profile of its own."),
    click.option("--sustained", is_flag=True, help="Measure on the device once hot too, a profile of its own."),
    click.option("--half-width", type=click.FloatRange(0, 1, min_open=True), default=Effort().relative_half_width,
                 show_default=True, help="Go on until half the mean's 95 % interval is under this share of it,"),
    click.option("--min-runs", type=click.IntRange(1), default=Effort().min_runs, show_default=True,
                 help="with at least so many runs of each model,"),
    click.option("--max-seconds", type=click.FloatRange(0, min_open=True), default=Effort().max_seconds,
                 show_default=True, help="and at most so long of each."),
    click.option("--percentile", type=click.Choice(["0.9", "0.99"]),
                 help="Go on until a bound of this share of the runs is sure to 99 %, by MLPerf's rule."),
    click.option("--operators", is_flag=True, help="Time the single operators of each model too."),
    click.option("--predict", is_flag=True, help="Tell what the device's table of single operators, measured once, "
                 "would have predicted."),
    click.option("--benchmark-binary", type=_FILE, envvar="FLEETFOOT_BENCHMARK_BINARY",
                 help="Phones: Google's benchmark_model for the phone's ABI."),
    click.option("--runner-binary", type=_FILE, envvar="FLEETFOOT_RUNNER_BINARY",
                 help="Phones: a program for the phone's ABI that runs a model on inputs."),
    click.option("--token-file", type=_FILE, help="Boards: the agent's token.  [default: from FLEETFOOT_TOKEN]"),
    click.option("--certificate", type=_FILE, envvar="FLEETFOOT_CERTIFICATE", help="Boards: the certificate for TLS,"),
    click.option("--key", type=_FILE, envvar="FLEETFOOT_KEY", help="its key,"),
    click.option("--authority", type=_FILE, envvar="FLEETFOOT_AUTHORITY", help="and whoever signed the agent's."),
    click.option("--insecure", is_flag=True, envvar="FLEETFOOT_INSECURE",
                 help="Boards: tell another machine the token without TLS."),
)  # fmt: skip


def measuring_options(function: Function) -> Function:
    """Gives a command the options that ``request_of`` understands."""
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


def request_of(
    *,
    devices: tuple[str, ...],
    threads: tuple[int, ...],
    cpus: tuple[float, ...],
    delegate: Delegate,
    contended: bool,
    sustained: bool,
    half_width: float,
    min_runs: int,
    max_seconds: float,
    percentile: str | None,
    operators: bool,
    predict: bool,
    token_file: Path | None,
    insecure: bool,
    **paths: Path | None,
) -> Request:
    """What the options of ``measuring_options`` ask for.

    Raises:
        UsageError: a core that is no whole number.
    """
    if not all(float(cpu).is_integer() and cpu >= 0 for cpu in cpus):
        raise UsageError("--cpus are the numbers of cores, from 0")
    states: list[State] = []
    states += ["contended"] if contended else []
    states += ["sustained"] if sustained else []
    effort = Effort(
        relative_half_width=half_width,
        min_runs=min_runs,
        max_runs=max(min_runs, Effort().max_runs),
        max_seconds=max_seconds,
        percentile=float(percentile) if percentile else None,
    )
    token = read_token(token_file) if token_file else DeviceOptions.from_environment().token
    return Request(
        devices=tuple(dict.fromkeys(devices)),
        options=DeviceOptions(token=token, insecure=insecure, **paths),
        threads=threads,
        cpus=tuple(int(cpu) for cpu in cpus),
        delegate=delegate,
        states=tuple(states),
        effort=effort,
        operators=operators,
        predict=predict,
    )


def with_what_is_predicted(device: Device, profile: Profile, targets: Sequence[Target], request: Request) -> Profile:
    """A profile with what the device's table of single operators would have predicted, if that was asked for.

    Of what the table cannot be had for, nothing is said but a note: the measurements are not lost for it.
    """
    if not request.predict or profile.conditions.state != "idle":  # the table is of an idle device
        return profile
    from profiling.operators.prediction import with_predictions

    try:
        return with_predictions(profile, targets, device.operator_table(profile.conditions))
    except (DeviceError, ModelError) as error:
        note(f"nothing is predicted: {error}")
        return profile


def tell_of_missing_bounds(profile: Profile, request: Request) -> None:
    """Says which models had too few runs within the caps for the bound that was asked for."""
    bounds = {0.90: "p90_bound_ms", 0.99: "p99_bound_ms"}
    if request.effort.percentile is None:
        return
    lacking = [
        name for name, one in profile.measurements.items()
        if getattr(one.latency, bounds[request.effort.percentile]) is None
    ]  # fmt: skip
    if lacking:
        note(f"too few runs for a bound of {request.effort.percentile:.0%}: {', '.join(lacking)}; raise --max-seconds")


def on_each(uris: Sequence[str], options: DeviceOptions, work: Work) -> None:
    """Connects to devices, all at once, and does the work on each; one that fails does not stop the others.

    Raises:
        FleetfootError: what failed, of which device, when all are through.
    """
    known = _Known()

    def on(uri: str) -> None:
        with connected(uri, options) as device:
            known.add(device.info().id, uri)
            work(device)

    def attempt(uri: str) -> str | None:
        try:
            on(uri)
        except FleetfootError as error:
            return f"{uri}: {error}"
        return None

    if len(uris) == 1:  # in this thread, which Ctrl-C interrupts
        on(uris[0])
        return
    failures: list[str | None] = []
    threads = [threading.Thread(target=lambda uri=uri: failures.append(attempt(uri)), daemon=True) for uri in uris]
    for thread in threads:  # daemons, so that Ctrl-C does not wait for what they measure
        thread.start()
    for thread in threads:
        thread.join()
    if told := sorted(filter(None, failures)):
        raise DeviceError("; ".join(told))


class _Known:
    """The devices that are being measured: at once, one device would be measured beside itself."""

    def __init__(self) -> None:
        self._uris: dict[str, str] = {}
        self._lock = threading.Lock()

    def add(self, device_id: str, uri: str) -> None:
        with self._lock:
            other = self._uris.setdefault(device_id, uri)
        if other != uri:
            raise DeviceError(f"it is the same kind of device as {other}, or the same one: measure one at a time")


@contextmanager
def shown_in_any_case(profiles: list[Profile], as_json: bool) -> Iterator[None]:
    """Prints the profiles that a block leaves in a list, also when it fails half-way."""
    try:
        yield
    finally:
        if as_json:
            print_json(msgspec.json.encode(profiles))
        for profile in () if as_json else profiles:
            print_profile(profile)


def print_profile(profile: Profile) -> None:
    """Prints a profile as a table, with columns for what was measured only; nothing where nothing was."""
    measured = profile.measurements
    if not measured:
        return
    columns = {title: [show(one) for one in measured.values()] for title, show in _COLUMNS.items()}
    shown = {title: cells for title, cells in columns.items() if any(cells)}
    title = f"{described(profile)} ({profile.device_id})"
    print_table(title, ["", *shown], [[name, *row] for name, *row in zip(measured, *shown.values(), strict=True)])
    if (error := profile.prediction_error) is not None:
        print_line(f"predicted from single operators: off the undisturbed latency by {error:.1%} on average")
    for name, one in measured.items():
        if one.operators:
            _print_operators(name, one)


def _print_operators(name: str, measurement: Measurement) -> None:
    total = sum(operator.ms or 0.0 for operator in measurement.operators) or 1.0
    rows = [
        [operator.name, operator.kind, _ms(operator.ms), "" if operator.ms is None else f"{operator.ms / total:.0%}"]
        for operator in measurement.operators
    ]
    print_table(f"{name}, operator by operator", ["operator", "kind", "ms", "share"], rows)


def described(profile: Profile) -> str:
    """The device, and what held while it was measured, in a few words."""
    conditions = profile.conditions
    parts = [profile.device.processor, f"{conditions.threads} thread{'s' if conditions.threads > 1 else ''}"]
    parts += [f"cores {', '.join(map(str, conditions.cpus))}"] if conditions.cpus else []
    parts += [conditions.delegate] if conditions.delegate != "cpu" else []
    parts += [conditions.state] if conditions.state != "idle" else []
    return ", ".join(parts)


def _ms(value: float | None) -> str:
    """Milliseconds to four digits, and no finer than a tenth of a microsecond."""
    return "" if value is None else f"{value:.4f}" if value < 1 else f"{value:.4g}"


_COLUMNS: dict[str, Callable[[Measurement], str]] = {
    "median ms": lambda one: _ms(one.latency.p50_ms),
    "mean": lambda one: _ms(one.latency.mean_ms),
    "± 95 %": lambda one: (
        "" if one.latency.mean_low_ms is None else f"{one.latency.half_width_ms / one.latency.mean_ms:.1%}"
    ),
    "p95": lambda one: _ms(one.latency.p95_ms),
    "p99": lambda one: _ms(one.latency.p99_ms),
    "× first": lambda one: f"{one.relative.value:.3f}" if one.relative else "",
    "load": lambda one: _ms(one.load_ms),
    "MB": lambda one: "" if one.peak_memory_bytes is None else f"{one.peak_memory_bytes / 1e6:.1f}",
    "mJ": lambda one: f"{one.energy.mj:.3g}" if one.energy else "",
    "predicted": lambda one: _ms(one.predicted_ms),
    "unstable": lambda one: ", ".join(one.unstable),
}
