"""What half of the channels of every network in ``keras.applications`` costs, and which of them cannot be cut.

Each network has its default input size (MobileNetV3, which has none, 224×224), 1,000 classes and random weights. Every
group that can be cut loses half of its channels. What is left is counted without building it; the tests build it. The
table is printed, or written to the file that is named.
"""

from __future__ import annotations

import argparse
import inspect
import time
from collections import Counter as Tally
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from results import save

from zoo.backend import keras
from zoo.channels import ChannelGroup, Channels, Counter, analyse

SIDE_WHERE_NONE_IS_GIVEN = 224


def main() -> None:
    """Counts every network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--table", type=Path, help="the file for the table")
    parser.add_argument("--only", action="append", help="a network; again for more")
    arguments = parser.parse_args()
    numbers = {name: measured(name) for name in arguments.only or applications()}
    if not arguments.only:
        save("applications", numbers)
    text = "\n".join(table(numbers)) + "\n"
    if arguments.table:
        arguments.table.write_text(text)
    else:
        print(text)


def applications() -> list[str]:
    """The constructors of ``keras.applications``."""
    return sorted(name for name, _ in inspect.getmembers(keras.applications, inspect.isfunction))


def network(name: str) -> Any:
    """A network as Keras makes it by default."""
    build = getattr(keras.applications, name)
    side = {"input_shape": (SIDE_WHERE_NONE_IS_GIVEN,) * 2 + (3,)} if name.startswith("MobileNetV3") else {}
    return build(weights=None, **side)


def measured(name: str) -> dict[str, Any]:
    """What one network costs whole and halved."""
    keras.backend.clear_session()
    model = network(name)
    start = time.perf_counter()
    channels = analyse(model)
    seconds = time.perf_counter() - start
    counter = Counter(channels)
    half = {group.name: -(-group.size // 2) for group in channels.cuttable.values()}
    return {
        "side": int(model.input_shape[1]),
        "groups": len(channels.groups),
        "cut": len(channels.cuttable),
        "macs": int(counter.macs({})),
        "macs_halved": int(counter.macs(half)),
        "parameters": int(counter.parameters({})),
        "parameters_halved": int(counter.parameters(half)),
        "frozen": dict(frozen(channels)),
        "analysis_s": round(seconds, 2),
    }


def frozen(channels: Channels) -> Tally[str]:
    """How many groups stay whole, by reason."""
    return Tally(reason(group) for group in channels.groups.values() if group.fixed)


def reason(group: ChannelGroup) -> str:
    """Why a group stays whole, in short."""
    return "the classes" if group.name.endswith(("predictions", "head_dense", "logits", "conv_preds")) else group.fixed


def table(numbers: dict[str, Any]) -> Iterator[str]:
    """The numbers in Markdown."""
    yield "| network | input | groups cut | MMACs | halved | M parameters | halved | stays whole | analysis |"
    yield "|---|--:|--:|--:|--:|--:|--:|---|--:|"
    for name, of in numbers.items():
        yield (
            f"| {name} | {of['side']}² | {of['cut']} of {of['groups']} "
            f"| {of['macs'] / 1e6:,.0f} | {of['macs_halved'] / 1e6:,.0f} ({of['macs_halved'] / of['macs']:.0%}) "
            f"| {of['parameters'] / 1e6:.1f} | {of['parameters_halved'] / 1e6:.1f} "
            f"({of['parameters_halved'] / of['parameters']:.0%}) "
            f"| {'; '.join(of['frozen'])} | {of['analysis_s']:.1f} s |"
        )


if __name__ == "__main__":
    main()
