"""The commands ``profile-model`` and ``serve-device``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from fleetfoot.console import command, note, print_line, warn
from fleetfoot.errors import UsageError
from fleetfoot.folders import cache_directory
from profiling.device import Device
from profiling.measuring import (
    measuring_options,
    on_each,
    request_of,
    shown_in_any_case,
    tell_of_missing_bounds,
    with_what_is_predicted,
)
from profiling.profile import Profile, Target, require_all

DEFAULT_PORT = 9091
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class ByteCount(click.ParamType[int]):
    """A number of bytes, such as ``512M``."""

    name = "bytes"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number."""
        found = re.fullmatch(r"(\d+)([KMG]?)", str(value).upper())
        if not found:
            self.fail(f"{value!r} is no number of bytes: 512M is, and so are K and G", param, ctx)
        return int(found[1]) * _UNITS[found[2]]


@command("profile-model", example="profile-model model.tflite --device local --threads 1,all --operators")
@click.argument("files", metavar="FILE…", nargs=-1, required=True,
                type=click.Path(exists=True, dir_okay=False, path_type=Path))  # fmt: skip
@click.option("--signature", help="Which signature to run.  [default: each]")
@measuring_options
@click.option("--json", "as_json", is_flag=True, help="Print the profiles as JSON.")
def profile_model(files: tuple[Path, ...], signature: str | None, as_json: bool, **asked: Any) -> None:
    """Measures LiteRT models on devices, on all that are named at once; ratios are to the first."""
    request = request_of(**asked)
    names = _short_names(list(dict.fromkeys(files)))
    targets = [target for file, name in names.items() for target in _targets_in(file, name, signature)]
    profiles: list[Profile] = []

    def measure(device: Device) -> None:
        for conditions in request.conditions(device.info().cores):
            profile = device.measure(targets, conditions=conditions, effort=request.effort, operators=request.operators)
            profiles.append(profile)
            tell_of_missing_bounds(profile, request)
            told = with_what_is_predicted(device, profile, targets, request)
            profiles[profiles.index(profile)] = told
            require_all(profile)

    with shown_in_any_case(profiles, as_json):
        on_each(request.devices, request.options, measure)


def _short_names(files: list[Path]) -> dict[Path, str]:
    """The files' names, without their folders where that tells them apart."""
    short = {file: file.name for file in files}
    return short if len(set(short.values())) == len(files) else {file: str(file) for file in files}


def _targets_in(file: Path, name: str, signature: str | None) -> list[Target]:
    """What to measure of a file; where there is more, the names tell the signatures."""
    from profiling.operators.flatmodel import signatures_of

    signatures = [signature] if signature else list(signatures_of(file)) or [""]
    if len(signatures) == 1:
        return [Target(name, file, signatures[0])]
    return [Target(f"{name}:{one}", file, one) for one in signatures]


@command("serve-device", example="serve-device --host 192.168.1.20 --certificate board.pem --key board.key "
                                 "--authority authority.pem")  # fmt: skip
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=DEFAULT_PORT, show_default=True,
              help="The port; 0 for any that is free.")  # fmt: skip
@click.option("--token-file", type=click.Path(path_type=Path),
              help="What clients must know, if not in FLEETFOOT_TOKEN; made and kept if in neither.")  # fmt: skip
@click.option("--certificate", type=click.Path(path_type=Path), help="For TLS: the board's certificate.")
@click.option("--key", type=click.Path(path_type=Path), help="For TLS: the key of that certificate.")
@click.option("--authority", type=click.Path(path_type=Path),
              help="For TLS: the certificate of who signed the clients'.")  # fmt: skip
@click.option("--insecure", is_flag=True, help="Let other machines connect without TLS.")
@click.option("--name", default="", help="Register under this name at a Pyro name server.")
@click.option("--name-server", default="127.0.0.1", show_default=True, metavar="HOST[:PORT]",
              help="Where the name server is.")  # fmt: skip
@click.option("--cache", type=click.Path(path_type=Path, file_okay=False),
              help="Keeps the models that were sent.  [default: ~/.cache/fleetfoot/models]")  # fmt: skip
@click.option("--max-bytes", type=ByteCount(), default="512M", show_default=True, help="The largest model file.")
@click.option("--max-memory", type=ByteCount(), default="0", help="What a model may take.  [default: no limit]")
def serve_device(
    host: str, port: int, token_file: Path | None, certificate: Path | None, key: Path | None, authority: Path | None,
    insecure: bool, name: str, name_server: str, cache: Path | None, max_bytes: int, max_memory: int,
) -> None:  # fmt: skip
    """Lets workstations measure and run LiteRT models on this board. SIGTERM ends it cleanly."""
    from profiling.board.access import TOKEN_VARIABLE, agent_token, check_reach, server_tls
    from profiling.board.agent import AgentOptions, serve

    tls = server_tls(certificate, key, authority)
    check_reach(host, tls, insecure=insecure)
    token = agent_token(token_file)
    if tls is None and insecure:
        warn("without TLS, everybody on the network can read the token and what is sent")
    if token.new:
        note(f"made a token and keeps it in {token.kept}; on workstations: export {TOKEN_VARIABLE}={token.text}")
    else:
        note(f"workstations need the token in {token.kept}, as their {TOKEN_VARIABLE}")
    options = AgentOptions(
        token=token.text,
        cache=cache or cache_directory() / "models",
        host=host,
        port=port,
        tls=tls,
        max_bytes=max_bytes,
        max_memory_bytes=max_memory,
        name=name,
        name_server=_host_and_port(name_server),
    )
    serve(options, ready=print_line)


def _host_and_port(text: str) -> tuple[str, int]:
    from profiling.board.connection import split_host
    from profiling.board.nameserver import DEFAULT_PORT as NAME_SERVER_PORT

    host, port = split_host(text)
    if not host:
        raise UsageError(f"{text!r} is no name server: HOST or HOST:PORT is")
    return host, port or NAME_SERVER_PORT
