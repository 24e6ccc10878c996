"""The one way a LiteRT model is opened, warmed and run, when it is measured and when it serves.

Measuring and serving through the same code is what makes a profile hold in the app.
"""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from fleetfoot.errors import DeviceError, ModelError, first_line
from fleetfoot.silence import silenced
from profiling.nested import nested_signatures, standalone

Array = npt.NDArray[Any]


class TensorSpec(NamedTuple):
    """Name, shape and type of a signature's input or output."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def pin(cpus: Iterable[int]) -> None:
    """Keeps this thread, and those that it starts from now on, on some processor cores; on all where none is named.

    Raises:
        DeviceError: there is no such core, or the system does not pin.
    """
    if not (wanted := set(cpus)):
        return
    try:
        os.sched_setaffinity(0, wanted)
    except (AttributeError, OSError):
        there = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else "none that can be chosen"
        raise DeviceError(f"cannot run on cores {sorted(wanted)}: there are {there}") from None


def time_runs(run: Callable[[], object], runs: int, unrecorded: int) -> list[float]:
    """Milliseconds of some runs, after some that do not count: something else had the core and its caches before."""
    for _ in range(unrecorded):
        run()
    samples = []
    for _ in range(runs):
        start = time.perf_counter_ns()
        run()
        samples.append((time.perf_counter_ns() - start) / 1e6)
    return samples


def return_freed_memory() -> None:
    """Gives the system back what was freed, such as by putting a network together; the C library would keep it."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Model:
    """A LiteRT file in an interpreter of its own, whose number of threads is fixed.

    Not re-entrant: the interpreter runs one signature at a time.

    Args:
        path: the file.
        threads: of the interpreter.
        signature: what alone will be run; of networks that are nested in one file, only this one is opened then.

    Attributes:
        signatures: the names of those that can be run. One that is nested in the file gets an interpreter of its own.
        size: bytes of what was opened.

    Raises:
        ModelError: the file is missing, damaged or no LiteRT file, or needs what cannot be had here.
    """

    def __init__(self, path: Path, threads: int = 1, signature: str = "") -> None:
        from ai_edge_litert.interpreter import Interpreter

        content = standalone(path, signature)
        source = {"model_content": content} if content else {"model_path": str(path)}
        try:
            with silenced():  # it announces the delegate that it uses
                self._interpreter = Interpreter(**source, num_threads=threads)
                self._interpreter.allocate_tensors()
            self._opened: tuple[str, ...] = tuple(self._interpreter.get_signature_list())
        except (ValueError, RuntimeError) as error:
            reason = first_line(error) if str(error) else "it needs more memory than it may have"  # LiteRT says nothing
            raise ModelError(f"{path} is no LiteRT model that can be run here: {reason}") from None
        self.signatures = self._opened if content else self._opened + nested_signatures(path)
        self.size = len(content) if content else path.stat().st_size
        self._path, self._threads = path, threads
        if content:
            return_freed_memory()

    def runner(self, signature: str) -> Runner:
        """The function behind a signature.

        Raises:
            ModelError: no such signature, one with several inputs or outputs, or with some that cannot be filled.
        """
        return Runner(self._signature_runner(signature))

    def exercise(self, signature: str) -> Callable[[], object]:
        """What runs the model once on random inputs: through a runner where there is one input and one output.

        Args:
            signature: one of the model's; empty for a file without any, whose tensors are used as they are.

        Raises:
            ModelError: no such signature, or inputs of no fixed size or of no numbers.
        """
        if not self.signatures and not signature:
            return self._exercise_tensors()
        run = self._signature_runner(signature)
        inputs = run.get_input_details()
        if len(inputs) == len(run.get_output_details()) == 1:
            runner = Runner(run)
            x = _random(runner.input)
            return lambda: runner(x)
        arrays = {name: _random(_raw_spec(name, detail)) for name, detail in inputs.items()}
        return lambda: run(**arrays)

    def invocation(self, signature: str) -> Callable[[], object]:
        """What runs the model once on inputs that it was given once and for all; its outputs are not taken.

        Raises:
            ModelError: no such signature, or inputs of no fixed size or of no numbers.
        """
        model = self._holding(signature)
        model.exercise(signature)()
        invoke: Callable[[], object] = model._interpreter.invoke
        return invoke

    def _exercise_tensors(self) -> Callable[[], object]:
        details = self._interpreter.get_input_details()
        arrays = [(detail["index"], _random(_raw_spec(detail["name"], detail))) for detail in details]
        outputs = [detail["index"] for detail in self._interpreter.get_output_details()]

        def run() -> object:
            for index, array in arrays:
                self._interpreter.set_tensor(index, array)
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(index) for index in outputs]

        return run

    def _signature_runner(self, signature: str) -> Any:
        return self._holding(signature)._interpreter.get_signature_runner(signature)

    def _holding(self, signature: str) -> Model:
        """This model, or that of a nested network alone."""
        if not self.signatures:
            raise ModelError(f"{self._path} has no signature: export it with one, as current converters do")
        if signature not in self.signatures:
            raise ModelError(f"no signature {signature!r}: there are {', '.join(self.signatures)}")
        return self if signature in self._opened else Model(self._path, self._threads, signature)


class Runner:
    """One signature of an open model, with one input and one output.

    Where they are integers that stand for real numbers, the caller gives and gets the real numbers. Bytes are the
    exception, as is the convention: uint8 given to a network of uint8 or int8 inputs is not scaled but passes as it
    is, or less 128, since what the file calls 0 to 1 or -1 to 1 are the values 0 to 255 of an image.
    """

    def __init__(self, signature_runner: Any) -> None:
        self._run = signature_runner
        inputs = signature_runner.get_input_details()
        outputs = signature_runner.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ModelError(
                f"the signature has {len(inputs)} inputs and {len(outputs)} outputs: "
                "only networks of one input and one output are supported"
            )
        ((input_name, input_detail),) = inputs.items()
        ((output_name, output_detail),) = outputs.items()
        self.input, self._input_code = _tensor_spec(input_name, input_detail), _quantization(input_detail)
        self.output, self._output_code = _tensor_spec(output_name, output_detail), _quantization(output_detail)

    def __call__(self, x: Array) -> Array:
        """Runs ``x`` (the input's shape, and a type that its type holds) and returns the output, a copy."""
        output: Array = self._run(**{self.input.name: self.encode(x)})[self.output.name]
        return self.decode(output)

    def encode(self, x: Array) -> Array:
        """``x`` as the file's own input takes it."""
        return self._input_code.encode(x) if self._input_code else x.astype(self.input.dtype, copy=False)

    def decode(self, output: Array) -> Array:
        """The real numbers that the file's own output stands for."""
        return self._output_code.decode(output) if self._output_code else output

    @property
    def encoded_output(self) -> np.dtype[Any]:
        """The type of the file's own output."""
        return self._output_code.dtype if self._output_code else self.output.dtype

    def each(self, x: Any) -> Array:
        """Runs inputs of shape (n, …), which may be anything that can be sliced, one at a time; outputs (n, …)."""
        return np.concatenate([self(x[index : index + 1]) for index in range(len(x))])

    @property
    def output_step(self) -> float:
        """How far apart the numbers are that it can answer with; 0 where they are not integers inside."""
        return float(self._output_code.scale) if self._output_code else 0.0

    def warm_up(self, runs: int = 3) -> None:
        """Runs zeros, so that the first real input does not pay for allocation and packing."""
        zeros = np.zeros(self.input.shape, self.input.dtype)
        for _ in range(runs):
            self(zeros)


class _Quantization(NamedTuple):
    """Integers that stand for real numbers: real = scale · (integer - zero), as in Jacob et al., 2018, eq. 1."""

    scale: float
    zero: int
    dtype: np.dtype[Any]

    def encode(self, x: Array) -> Array:
        if x.dtype == np.uint8 and self.dtype == np.uint8:
            return x
        if x.dtype == np.uint8 and self.dtype == np.int8:
            return (x.astype(np.int16) - 128).astype(np.int8)
        limits = np.iinfo(self.dtype)
        integers: Array = np.rint(x / self.scale) + self.zero
        return integers.clip(limits.min, limits.max).astype(self.dtype)

    def decode(self, x: Array) -> Array:
        real: Array = (x.astype(np.float32) - self.zero) * np.float32(self.scale)
        return real


def _quantization(detail: dict[str, Any]) -> _Quantization | None:
    """How a tensor's integers stand for real numbers; None where its values are what they are."""
    scale, zero = detail["quantization"]
    return _Quantization(scale, zero, np.dtype(detail["dtype"])) if scale else None


def _tensor_spec(name: str, detail: dict[str, Any]) -> TensorSpec:
    raw = _raw_spec(name, detail)
    return raw._replace(dtype=np.dtype(np.float32)) if _quantization(detail) else raw


def _raw_spec(name: str, detail: Mapping[str, Any]) -> TensorSpec:
    """A tensor as the file has it.

    Raises:
        ModelError: it holds text, or has a dimension other than the first whose size is left open.
    """
    dtype, shape = np.dtype(detail["dtype"]), tuple(int(size) for size in detail["shape"])
    if dtype.kind not in "iufb":
        raise ModelError(f"the tensor {name!r} holds text, and only numbers are supported")
    if any(int(size) < 0 for size in detail["shape_signature"][1:]):
        given = "×".join("?" if size < 0 else str(size) for size in detail["shape_signature"])
        raise ModelError(f"the tensor {name!r} has no fixed size ({given}): export the model with one")
    return TensorSpec(name, shape, dtype)


def _random(spec: TensorSpec) -> Array:
    """Numbers that any network takes: reals from 0 to 1, bytes, and of wider integers, which may be indices, zeros."""
    random = np.random.default_rng(0)
    if spec.dtype.kind == "f":
        return random.uniform(0, 1, spec.shape).astype(spec.dtype)
    if spec.dtype.itemsize == 1 and spec.dtype.kind in "iu":
        limits = np.iinfo(spec.dtype)
        return random.integers(limits.min, limits.max, spec.shape, spec.dtype, endpoint=True)
    return np.zeros(spec.shape, spec.dtype)
