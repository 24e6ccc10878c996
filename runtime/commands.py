"""The commands ``serve-zoo`` and ``query-zoo``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from fleetfoot.console import command, print_json, print_table

DEFAULT_PORT = 9090


@command("serve-zoo", example="serve-zoo my-zoo --port 9090")
@click.argument("path", metavar="ZOO", type=click.Path(path_type=Path))
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True,
              help="The port; 0 for any that is free.")  # fmt: skip
@click.option("--device", default="auto", show_default=True,
              help="The device-id whose profile holds here; auto finds this machine's.")  # fmt: skip
def serve_zoo(path: Path, host: str, port: int, device: str) -> None:
    """Serves a zoo to apps, choosing a variant for each input and budget. SIGTERM ends it cleanly."""
    from runtime.selector import Selector
    from runtime.service import serve

    serve(Selector.open(path, device, pinned=True), host, port, ready=click.echo)


@command("query-zoo", example="query-zoo --uri PYRO:selector@127.0.0.1:9090 --input digit.png --budget-ms 0.5")
@click.option("--uri", default=f"PYRO:selector@127.0.0.1:{DEFAULT_PORT}", show_default=True, help="The service.")
@click.option("--input", "input_file", type=click.Path(path_type=Path), required=True,
              help="One raw input: a .npy array or an image.")  # fmt: skip
@click.option("--budget-ms", type=float, required=True, help="Milliseconds that the answer may take.")
@click.option("--on-miss", type=click.Choice(["serve", "refuse"]), default="serve", show_default=True,
              help="What to do when no variant keeps the budget.")  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")
def query_zoo(uri: str, input_file: Path, budget_ms: float, on_miss: str, as_json: bool) -> None:
    """Asks a running service what an input is, within a budget."""
    from runtime.client import connect
    from runtime.inputs import read_input

    with connect(uri) as selector:
        x = read_input(input_file, selector.describe())
        answer = selector.infer(x, budget_ms, on_miss=on_miss)  # type: ignore[arg-type]
    if as_json:
        print_json(msgspec.json.encode(answer))
        return
    rows = [
        ["confidence", f"{answer.confidence:.1%}"],
        ["variant", answer.variant],
        ["because", answer.why],
        ["latency", f"{answer.latency_ms:.3f} ms of {budget_ms:g} ms"],
        ["expected of the variant", f"{answer.expected_ms:.3f} ms"],
        ["within budget", "yes" if answer.within_budget else "no"],
    ]
    print_table("", ["label", answer.label], rows)
