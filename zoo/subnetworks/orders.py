"""The orders of a network's channels, in files of a zoo named by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from fleetfoot.errors import DamagedFileError
from fleetfoot.files import write_bytes


def write_order(zoo: Path | None, order: Mapping[str, list[int]]) -> str:
    """Keeps an order of channels.

    Args:
        zoo: the zoo's directory; None to keep nothing.
        order: per channel group a permutation, the most important channel first.

    Returns:
        The file's name in the directory.
    """
    text = msgspec.json.encode(order, order="sorted")
    name = f"base/order-{_digest(text)}.json"
    if zoo:
        write_bytes(zoo / name, text)
    return name


def read_order(zoo: Path, name: str) -> dict[str, list[int]]:
    """The order of channels in a file of a zoo.

    Raises:
        DamagedFileError: it is missing, or its content is not what its name says.
    """
    path = zoo / name
    try:
        text = path.read_bytes()
    except OSError:
        text = b""
    if path.stem != f"order-{_digest(text)}":
        raise DamagedFileError(
            f"{path} is missing or damaged: delete {zoo / 'search'}, and the same command makes both again"
        )
    return msgspec.json.decode(text, type=dict[str, list[int]])


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:8]
