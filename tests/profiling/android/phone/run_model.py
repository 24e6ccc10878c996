"""Runs a LiteRT model on the inputs of a file: a stand-in for the small program that does so on a phone.

Both files hold tensors one after the other, row by row, in the type of the model's input or output.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ValueError(message)


def _arguments() -> argparse.Namespace:
    parser = _Parser(prog="run_model", allow_abbrev=False)
    for name in ("graph", "signature", "input", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--num_threads", type=int, default=1)
    return parser.parse_args()


def _run(arguments: argparse.Namespace) -> None:
    interpreter = Interpreter(model_path=arguments.graph, num_threads=arguments.num_threads)
    if arguments.signature not in interpreter.get_signature_list():
        raise ValueError(f"no signature {arguments.signature} in {arguments.graph}")
    runner = interpreter.get_signature_runner(arguments.signature)
    ((name, tensor),) = runner.get_input_details().items()
    ((result, _),) = runner.get_output_details().items()
    given = np.fromfile(arguments.input, tensor["dtype"])
    if Path(arguments.input).stat().st_size % (tensor["shape"].prod() * given.itemsize):
        raise ValueError(f"{arguments.input} does not hold whole inputs")
    with Path(arguments.output).open("wb") as output:
        for one in given.reshape(-1, *tensor["shape"]):
            output.write(runner(**{name: one})[result].tobytes())


def main() -> int:
    try:
        _run(_arguments())
    except (OSError, RuntimeError, ValueError) as error:
        print(f"run_model: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
