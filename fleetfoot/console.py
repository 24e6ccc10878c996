"""What people see: commands with one-line errors, progress bars, tables.

Results go to standard output, everything else to standard error, so that a pipe gets results only.
"""

from __future__ import annotations

import _thread
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import click
import yaml
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fleetfoot import __version__
from fleetfoot.errors import FleetfootError

_RETRY_SECONDS = 0.05

_bar_shown = threading.Lock()

_stderr = Console(stderr=True, highlight=False)
_stdout = Console(highlight=False, width=None if sys.stdout and sys.stdout.isatty() else 140)


def be_quiet(quiet: bool = True) -> None:
    """Silences notes and progress bars; results, warnings and errors stay."""
    _stderr.quiet = quiet


def note(message: str) -> None:
    """Says ``message`` on standard error, unless ``--quiet``."""
    _stderr.print(message, markup=False, soft_wrap=True)


def warn(message: str) -> None:
    """Says ``message`` on standard error as a warning, even with ``--quiet``."""
    click.echo(f"warning: {message}", err=True)


def print_json(text: bytes) -> None:
    """Prints a JSON text on standard output."""
    click.echo(text.decode())


def print_line(text: str) -> None:
    """Prints a result of one line on standard output."""
    click.echo(text)


def print_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Prints a table on standard output; all but the first column are right-aligned."""
    table = Table(title=Text(title), title_justify="left")
    for index, column in enumerate(columns):
        table.add_column(column, justify="left" if index == 0 else "right", overflow="fold", no_wrap=index == 0)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    _stdout.print(table)


@contextmanager
def progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """Shows a progress bar; yields the function that moves it on by a number of steps, of ``total`` if that is known.

    Nothing is shown when standard error is no terminal, or with ``--quiet``, or beside a bar that is shown already.
    """
    if not _bar_shown.acquire(blocking=False):
        yield lambda steps: None
        return
    try:
        with _shown_progress(description, total) as advance:
            yield advance
    finally:
        _bar_shown.release()


@contextmanager
def _shown_progress(description: str, total: int | None) -> Iterator[Callable[[int], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    shown = _stderr.is_terminal and not _stderr.quiet
    with Progress(*columns, console=_stderr, disable=not shown, transient=True) as bar:
        task = bar.add_task(description, total=total)
        yield lambda steps: bar.advance(task, steps)


def command(name: str, *, example: str) -> Callable[[Callable[..., None]], Command]:
    """Makes a function a command with ``--config``, ``--quiet``, ``--version`` and an example in its help."""

    def decorate(function: Callable[..., None]) -> Command:
        made: Command = click.command(name, cls=Command, epilog=f"\b\nExample:\n  {example}")(function)
        made.params += [_config_option(), _quiet_option()]
        return click.version_option(__version__, prog_name=name)(made)

    return decorate


class WordList(click.ParamType[tuple[str, ...]]):
    """Words separated by commas, or a YAML list."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        """The words, without empty ones."""
        words = value if isinstance(value, list | tuple) else str(value).split(",")
        return tuple(str(word).strip() for word in words if str(word).strip())


class NumberList(click.ParamType[tuple[float, ...]]):
    """Numbers separated by commas, or a YAML list."""

    name = "list"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[float, ...]:
        """The numbers."""
        try:
            return tuple(float(word) for word in WordList().convert(value, param, ctx))
        except ValueError:
            self.fail(f"{value!r} is no list of numbers separated by commas", param, ctx)


class CountList(NumberList):
    """Whole positive numbers separated by commas, or a YAML list."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """The numbers."""
        numbers = super().convert(value, param, ctx)
        if any(number < 1 or number != int(number) for number in numbers):
            self.fail(f"{value!r} is no list of whole positive numbers separated by commas", param, ctx)
        return tuple(int(number) for number in numbers)


class Size(click.ParamType[tuple[int, int]]):
    """Height and width, such as ``96x128``; a single number is both."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """The two numbers."""
        sizes = str(value).lower().replace("×", "x").split("x")
        if not all(size.isdecimal() and int(size) > 0 for size in sizes) or len(sizes) > 2:
            self.fail(f"{value!r} is no size: give height and width, as in 96x128", param, ctx)
        return int(sizes[0]), int(sizes[-1])


class Command(click.Command):
    """A command whose every failure is one line on standard error and an exit status."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the command and exits: 0 on success, 1 on failure, 2 on wrong usage, 130 on Ctrl-C."""
        kwargs["standalone_mode"] = False
        _heed_interrupts()
        try:
            sys.exit(super().main(*args, **kwargs) or 0)
        except click.ClickException as error:
            self._die(error.format_message(), error.exit_code)
        except FleetfootError as error:
            self._die(str(error), error.exit_status)
        except ModuleNotFoundError as error:
            self._die(f"{error.name} is not installed: pip install 'fleetfoot[build]'", 1)
        except click.Abort:
            self._die("interrupted", 130)
        except OSError as error:
            self._die(f"{error.filename or 'the system'}: {error.strerror or error}", 1)

    def _die(self, message: str, status: int) -> NoReturn:
        hint = f" (see {self.name} --help)" if status == 2 else ""
        click.echo(f"{self.name}: {' '.join(message.split())}{hint}", err=True)
        sys.exit(status)


def _as_typed(value: Any) -> Any:
    """A YAML value as it would have been typed: text, but for flags and lists."""
    return value if isinstance(value, bool | list) or value is None else str(value)


def _heed_interrupts() -> None:
    """Makes Ctrl-C count even when it comes inside a finalizer, where Python would print and forget it."""
    default = sys.unraisablehook

    def hook(unraisable: sys.UnraisableHookArgs) -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            threading.Timer(_RETRY_SECONDS, _thread.interrupt_main).start()
        else:
            default(unraisable)

    sys.unraisablehook = hook


def _quiet_option() -> click.Option:
    def set_quiet(_context: click.Context, _parameter: click.Parameter, value: bool) -> None:
        be_quiet(value)

    return click.Option(
        ["--quiet", "-q"], is_flag=True, expose_value=False, callback=set_quiet, help="Say results only."
    )


def _config_option() -> click.Option:
    return click.Option(
        ["--config"],
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        expose_value=False,
        callback=_read_config,
        help="Options from a YAML file; those on the command line win.",
    )


def _read_config(context: click.Context, _parameter: click.Parameter, path: Path | None) -> None:
    if path is None:
        return
    try:
        options = yaml.safe_load(path.read_text()) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise click.UsageError(f"{path} is not YAML: {error}") from None
    if not isinstance(options, dict):
        raise click.UsageError(f"{path} must be a mapping from option names to values")
    known = {opt.lstrip("-"): parameter.name for parameter in context.command.params for opt in parameter.opts}
    named = {str(name).replace("_", "-"): _as_typed(value) for name, value in options.items()}
    if unknown := sorted(named.keys() - known.keys()):
        raise click.UsageError(f"{path} has options that {context.info_name} does not know: {unknown}")
    several = {parameter.name for parameter in context.command.params if getattr(parameter, "multiple", False)}
    context.default_map = {
        str(known[name]): [value] if known[name] in several and isinstance(value, str) else value
        for name, value in named.items()
    }
