"""Google's ``benchmark_model``: the command that runs it, and what an invocation that failed means."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fleetfoot.errors import DeviceError
from profiling.android.adb import Answer
from profiling.android.benchmark_log import BenchmarkLog, Runs, parse
from profiling.profile import Conditions

_FLAGS = {
    "cpu": (),
    "xnnpack": ("--use_xnnpack=true",),
    "gpu": ("--use_gpu=true",),
    "nnapi": ("--use_nnapi=true",),
}
_KERNELS = {"gpu": ("TfLiteGpuDelegate", "LITERT_CL"), "nnapi": ("TfLiteNnapiDelegate",)}
_REFERENCE = ("nnapi-reference",)
_SIGNALS = {
    137: "the system killed it, most likely for want of memory",
    134: "it aborted",
    135: "it crashed (bus error)",
    136: "it crashed (arithmetic)",
    139: "it crashed (invalid memory access)",
    132: "it crashed: it has instructions that this processor does not know",
}
_BUSY = "while kill -0 $$ 2>/dev/null; do i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; done"


class Invocation(NamedTuple):
    """What is asked of an invocation.

    Attributes:
        model: the file, on the device.
        signature: of it; empty for the tool's choice.
        seconds: how long runs are recorded, at least; then the run that has begun ends.
        warmup_seconds: how long runs are made before, at least.
        operators: whether the times of single operators are wanted, which slows it down.
    """

    model: str
    signature: str
    seconds: float
    warmup_seconds: float
    operators: bool = False


class Measured(NamedTuple):
    """What an invocation that went well tells."""

    runs: Runs
    load_ms: float
    first_ms: float
    log: BenchmarkLog


def command(binary: str, invocation: Invocation, conditions: Conditions, cores: int) -> str:
    """The shell command, with pinning, and a load on every core beside it where the state is contended."""
    words = [
        *(("taskset", f"{sum(1 << cpu for cpu in set(conditions.cpus)):x}") if conditions.cpus else ()),
        binary,
        f"--graph={invocation.model}",
        f"--num_threads={conditions.threads}",
        "--num_runs=1",
        f"--min_secs={invocation.seconds:g}",
        f"--max_secs={max(1.0, 2 * invocation.seconds):g}",
        "--warmup_runs=1",
        f"--warmup_min_secs={invocation.warmup_seconds:g}",
        *((f"--signature_to_run_for={invocation.signature}",) if invocation.signature else ()),
        *_FLAGS[conditions.delegate],
        *(("--enable_op_profiling=true",) if invocation.operators else ()),
    ]
    plain = shlex.join(words)
    if conditions.state != "contended":
        return plain
    loads = f'p=; for n in {" ".join(map(str, range(cores)))}; do ( {_BUSY} ) & p="$p $!"; done'
    return f"{loads}; {plain}; s=$?; kill $p; wait; exit $s"


def read(answer: Answer, conditions: Conditions, several: Callable[[], bool] = lambda: False) -> Measured:
    """What an invocation tells.

    Args:
        answer: what it printed.
        conditions: those it was run under.
        several: whether the model has several signatures; asked where the tool did not understand which to run.

    Raises:
        DeviceError: it failed, or did not run what was asked for; the message tells why.
    """
    log = parse(answer.output)
    if answer.status or log.runs is None or log.load_ms is None or log.first_ms is None:
        raise DeviceError(explain(answer, log))
    if any("signature_to_run_for" in flag for flag in log.unconsumed) and several():
        raise DeviceError("this benchmark_model is too old to choose a signature: give one of 2023 or later")
    if (why := undelegated(log, conditions.delegate, answer.output)) is not None:
        raise DeviceError(why)
    return Measured(log.runs, log.load_ms, log.first_ms, log)


def undelegated(log: BenchmarkLog, delegate: str, output: str) -> str | None:
    """Why the delegate that was asked for did not compute anything; None where it did."""
    if delegate == "cpu":
        return None
    name = delegate.upper()
    if any(f"use_{delegate}" in flag for flag in log.unconsumed):
        return f"this benchmark_model was built without {name}: give one that has it"
    if log.delegates.get(delegate) == "not":
        return f"{name} cannot run any part of this model"
    if delegate == "nnapi" and log.accelerators == _REFERENCE:
        return "NNAPI has no accelerator on this device, only its own reference on the processor"
    kernels = (f"delegate ({kernel}" in output for kernel in _KERNELS.get(delegate, ()))
    if delegate == "xnnpack" or delegate in log.delegates or any(kernels):
        return None
    return f"the benchmark does not say that {name} ran the model"


def explain(answer: Answer, log: BenchmarkLog) -> str:
    """Why an invocation gave no timings, in one line."""
    lines = [line.strip() for line in answer.output.splitlines() if line.strip()]
    said = lines[-1] if lines else "nothing"
    if log.errors:
        return f"benchmark_model: {'; '.join(log.errors[:3])}"
    if answer.status in _SIGNALS or said.startswith("Killed"):
        return f"benchmark_model ended while it ran this model: {_SIGNALS.get(answer.status, _SIGNALS[137])}"
    if answer.status in (126, 127):
        return f"the device cannot run benchmark_model ({_told(lines)}): is it built for Android and for its ABI?"
    if answer.status:
        return f"benchmark_model ended with status {answer.status}: {said}"
    return f"benchmark_model told no timings: {said}"


def _told(lines: Sequence[str]) -> str:
    """The line that tells of a program that cannot be run."""
    telling = [line for line in lines if "exec" in line.lower() or "denied" in line or "not found" in line]
    return (telling or lines or ["it does not say why"])[-1]
