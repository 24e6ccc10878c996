"""Measures a LiteRT model: a stand-in for LiteRT's ``benchmark_model``, with its flags, texts, formats and streams.

Times and memory are measured as there. The times of single operators are not: a run's time is divided among them in
fixed parts.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
LOGGED = {
    "num_runs": "Min num runs",
    "min_secs": "Min runs duration (seconds)",
    "max_secs": "Max runs duration (seconds)",
    "num_threads": "Num threads",
    "warmup_runs": "Min warmup runs",
    "warmup_min_secs": "Min warmup runs duration (seconds)",
    "report_peak_memory_footprint": "Report the peak memory footprint",
    "graph": "Graph",
    "signature_to_run_for": "Signature to run",
    "enable_op_profiling": "Enable op profiling",
    "op_profiling_output_mode": "Op profiling output mode.",
    "use_gpu": "Use gpu",
    "use_nnapi": "Use NNAPI",
    "use_xnnpack": "Use xnnpack",
}
ALWAYS_LOGGED = ("graph", "signature_to_run_for")
SHARES = {"CONV_2D": 12, "TRANSPOSE_CONV": 12, "DEPTHWISE_CONV_2D": 5, "FULLY_CONNECTED": 4}
FUSED = {
    "CONV_2D": "Convolution (NHWC, F32) IGEMM",
    "DEPTHWISE_CONV_2D": "Convolution (NHWC, F32) DWConv",
    "FULLY_CONNECTED": "Fully Connected (NC, F32) GEMM",
    "ADD": "Add (ND, F32)",
    "SOFTMAX": "Softmax (NC, F32)",
    "MEAN": "Mean (ND, F32)",
}


class BenchmarkError(Exception):
    """The benchmark ends here, after these lines about it."""


def info(text: object) -> None:
    print(f"INFO: {text}", flush=True)


def short(number: float) -> str:
    """A number as C++ streams print it."""
    return str(number) if isinstance(number, int) else f"{number:g}"


def boolean(text: str) -> bool:
    return BOOLEANS[text]


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmark_model", allow_abbrev=False)
    for name, kind in (
        *((name, str) for name in ("graph", "signature_to_run_for", "op_profiling_output_mode")),
        *((name, int) for name in ("num_runs", "num_threads", "warmup_runs")),
        *((name, float) for name in ("min_secs", "max_secs", "warmup_min_secs")),
    ):
        parser.add_argument(f"--{name}", type=kind)
    for name in ("use_gpu", "use_nnapi", "use_xnnpack", "enable_op_profiling", "report_peak_memory_footprint"):
        parser.add_argument(f"--{name}", type=boolean, nargs="?", const=True)
    given, unknown = parser.parse_known_args()
    if unknown:
        print(f"WARN: Unconsumed cmdline flags: {' '.join(unknown)}", flush=True)
    return given


class Stat:
    """Times of runs in µs, described as the tool does."""

    def __init__(self, values: list[int]) -> None:
        self.values = values

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values)

    def percentile(self, percent: int) -> int:
        return sorted(self.values)[len(self.values) * percent // 100]

    def plain(self) -> str:
        values = self.values
        if min(values) == max(values):
            return f"count={len(values)} curr={values[-1]}" + "(all same)" * (len(values) > 1)
        return (
            f"count={len(values)} first={values[0]} curr={values[-1]} min={min(values)} max={max(values)} "
            f"avg={short(self.mean)} std={int(statistics.pstdev(values))}"
        )

    def __str__(self) -> str:
        return f"{self.plain()} p5={self.percentile(5)} median={self.percentile(50)} p95={self.percentile(95)}"


class Network:
    """The model that is measured."""

    def __init__(self, given: argparse.Namespace) -> None:
        from ai_edge_litert import interpreter as litert

        kinds = litert.OpResolverType
        kind = kinds.BUILTIN_WITHOUT_DEFAULT_DELEGATES if given.use_xnnpack is False else kinds.AUTO
        try:
            self._interpreter = litert.Interpreter(
                model_path=given.graph, num_threads=given.num_threads, experimental_op_resolver_type=kind
            )
            self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError):
            missing = not Path(given.graph).is_file()
            reason = f"Could not open '{given.graph}'." if missing else "The model is not a valid Flatbuffer buffer"
            raise BenchmarkError(reason, f"Failed to load model {given.graph}") from None
        info(f"Loaded model {given.graph}")
        keys = list(self._interpreter.get_signature_list())
        wanted = given.signature_to_run_for or (keys[0] if len(keys) == 1 else "")
        self.invoke = self._signature(keys, wanted) if keys else self._plain(wanted)

    def _signature(self, keys: list[str], key: str) -> Callable[[], object]:
        if key not in keys:
            text = (
                'Signature not specified or incorrect. Pass one of the following to the flag "--signature_to_run_for"'
            )
            raise BenchmarkError(text, *(f" #> Signature key: {key}" for key in keys))
        info(f"Using signature: {key}")
        runner = self._interpreter.get_signature_runner(key)
        inputs = {name: random_like(tensor) for name, tensor in runner.get_input_details().items()}
        return lambda: runner(**inputs)

    def _plain(self, key: str) -> Callable[[], object]:
        if key:
            raise BenchmarkError("Signature key is specified, but the model does not have any signatures.")
        for tensor in self._interpreter.get_input_details():
            self._interpreter.set_tensor(tensor["index"], random_like(tensor))
        return lambda: self._interpreter.invoke()

    def operators(self) -> list[tuple[str, str]]:
        """Type and outputs of each operator, the delegates that stand for some of them included."""
        names = {tensor["index"]: tensor["name"] for tensor in self._interpreter.get_tensor_details()}
        return [
            (operator["op_name"], f"[{', '.join(names.get(index, 'Unknown') for index in operator['outputs'])}]")
            for operator in self._interpreter._get_ops_details()
        ]


def random_like(tensor: dict[str, Any]) -> Any:
    values = np.random.default_rng(0).random(tensor["shape"])
    dtype = np.dtype(tensor["dtype"])
    return values.astype(dtype) if dtype.kind == "f" else (values * 100).astype(dtype)


def repeat(invoke: Callable[[], object], runs: int, min_secs: float, max_secs: float) -> Stat:
    info(
        f"Running benchmark for at least {runs} iterations and at least {short(min_secs)} seconds but terminate if "
        f"exceeding {short(max_secs)} seconds."
    )
    times: list[int] = []
    begin = now = time.perf_counter()
    while (len(times) < runs or now < begin + min_secs) and now <= begin + max_secs:
        started = time.perf_counter()
        invoke()
        now = time.perf_counter()
        times.append(max(1, int((now - started) * 1e6)))
    stat = Stat(times)
    info(f"{stat}\n")
    return stat


class Row(NamedTuple):
    """An operator's times over the runs, in µs."""

    kind: str
    name: str
    first: float
    mean: float


def rows_of(operators: Iterable[tuple[str, str]], total: Stat) -> list[Row]:
    """Divides the runs' times among operators of the given types and names."""
    operators = list(operators)
    weights = [SHARES.get(kind, 20 if "Delegate" in kind else 1) for kind, _ in operators]
    parts = [weight / sum(weights) for weight in weights]
    return [
        Row(kind, name, total.values[0] * part, total.mean * part)
        for (kind, name), part in zip(operators, parts, strict=True)
    ]


def print_table(title: str, rows: list[Row]) -> None:
    print(f"============================== {title} ==============================")
    heads = ("[node type]", "[first]", "[avg ms]", "[%]", "[cdf%]", "[mem KB]", "[times called]")
    print(
        "".join(f"\t{head:>{width}}" for head, width in zip(heads, (40, 9, 9, 8, 8, 10, 9), strict=True)) + "\t[Name]"
    )
    whole, cumulative = sum(row.mean for row in rows), 0.0
    for row in rows:
        cumulative += row.mean
        percent, until = (100 * part / whole for part in (row.mean, cumulative))
        times = f"\t{row.first / 1e3:9.3f}\t{row.mean / 1e3:9.3f}\t{percent:7.3f}%\t{until:7.3f}%\t{0:10.3f}\t{1:9d}"
        print(f"\t{row.kind:>40}{times}\t{row.name}")
    print()


def print_types(rows: list[Row]) -> None:
    print(f"Number of nodes executed: {len(rows)}")
    print("============================== Summary by node type ==============================")
    heads = ("[Node type]", "[count]", "[avg ms]", "[avg %]", "[cdf %]", "[mem KB]", "[times called]")
    print("".join(f"\t{head:>{width}}" for head, width in zip(heads, (40, 9, 10, 11, 11, 10, 10), strict=True)))
    kinds = {row.kind: [other for other in rows if other.kind == row.kind] for row in rows}
    times = {kind: int(sum(row.mean for row in alike)) for kind, alike in kinds.items()}
    whole, cumulative = max(1, sum(times.values())), 0.0
    for kind, mean in sorted(times.items(), key=lambda item: item[1], reverse=True):
        percent = 100 * mean / whole
        cumulative += percent
        count = len(kinds[kind])
        columns = f"\t{count:9d}\t{mean / 1e3:10.3f}\t{percent:10.3f}%\t{cumulative:10.3f}%\t{0:10.3f}\t{count:9d}"
        print(f"\t{kind:>40}{columns}")
    print()


def print_profile(rows: list[Row], total: Stat) -> None:
    print_table("Run Order", rows)
    print_table("Top by Computation Time", sorted(rows, key=lambda row: row.mean, reverse=True))
    print_types(rows)
    print(f"Timings (microseconds): {total.plain()}\nMemory (bytes): count=0\n{len(rows)} nodes observed\n\n")


def print_profiles(network: Network, init_us: int, total: Stat) -> None:
    info("Profiling Info for Benchmark Initialization:")
    once = Stat([init_us])
    print_profile(rows_of([("AllocateTensors", "AllocateTensors/0")], once), once)
    print()
    info("Operator-wise Profiling Info for Regular Benchmark Runs:")
    operators = [(kind, f"{name}:{index}") for index, (kind, name) in enumerate(network.operators())]
    delegates = [("TfLiteXNNPackDelegate", name) for kind, name in operators if kind == "DELEGATE"]
    operators = [operator for operator in operators if operator[0] != "DELEGATE"]
    if not delegates:
        print_profile(rows_of(operators, total), total)
        return
    print_profile(rows_of(delegates, total), total)
    print("Delegate internal: ")
    fused = [FUSED.get(kind, kind) for kind, _ in operators]
    inside = [(kind, f"Delegate/{kind}:{index}") for index, kind in enumerate(fused)]
    print_profile(rows_of(inside, total), total)


def log_parameters(given: argparse.Namespace) -> None:
    info("Log parameter values verbosely: [0]")
    for name, text in LOGGED.items():
        if name == "use_gpu" and given.num_threads is not None:
            info(f"#threads used for CPU inference: [{given.num_threads}]")
        value = getattr(given, name)
        if value is not None or name in ALWAYS_LOGGED:
            info(f"{text}: [{'' if value is None else value if isinstance(value, str) else short(value + 0)}]")


def memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def apply_delegate(name: str) -> None:
    print(f"INFO: Created TensorFlow Lite delegate for {name}.", file=sys.stderr, flush=True)
    text = "delegate, and the model graph will be completely executed by the delegate."
    info(f"Explicitly applied {name} {text}")


def report(given: argparse.Namespace, init_us: int, warm: Stat, runs: Stat, memory: tuple[float, float]) -> None:
    info(
        f"Inference timings in us: Init: {init_us}, First inference: {warm.values[0]}, "
        f"Warmup (avg): {short(warm.mean)}, Inference (avg): {short(runs.mean)}"
    )
    info(
        "Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the actual "
        "memory footprint of the model at runtime. Take the information at your discretion."
    )
    init_mb, overall_mb = memory
    delta = f"init={short(init_mb)} overall={short(overall_mb)}"
    info(f"Memory footprint delta from the start of the tool (MB): {delta}")
    if given.report_peak_memory_footprint:
        info(f"Overall peak memory footprint (MB) via periodic monitoring: {short(memory_mb())}")
        resident, shared = (int(pages) * 4096 >> 20 for pages in Path("/proc/self/statm").read_text().split()[1:3])
        info("Memory status at the end of exeution:")  # as the tool spells it
        info(f"- VmRSS              : {resident} MB")
        info(f"+ RssAnnon           : {resident - shared} MB")
        info(f"+ RssFile + RssShmem : {shared} MB")


def benchmark(given: argparse.Namespace) -> None:
    if not given.graph:
        raise BenchmarkError("Please specify the name of your TF Lite input file with --graph")
    if given.op_profiling_output_mode not in (None, "stdout"):
        raise BenchmarkError(f"This stand-in knows no output mode {given.op_profiling_output_mode}.")
    log_parameters(given)
    import ai_edge_litert.interpreter  # noqa: F401 - is no part of what is measured

    memory, begin = memory_mb(), time.perf_counter()
    network = Network(given)
    for name in (name for name in ("GPU", "NNAPI") if getattr(given, f"use_{name.lower()}")):
        apply_delegate(name)
    init_us, init_mb = int((time.perf_counter() - begin) * 1e6), memory_mb() - memory
    info(f"The input model file size (MB): {short(Path(given.graph).stat().st_size / 1e6)}")
    info(f"Initialized session in {short(init_us / 1e3)}ms.")

    def value(name: str, default: float) -> Any:
        chosen = getattr(given, name)
        return default if chosen is None else chosen

    longest = value("max_secs", 150.0)
    warm = repeat(network.invoke, max(1, value("warmup_runs", 1)), value("warmup_min_secs", 0.5), longest)
    runs = repeat(network.invoke, max(1, value("num_runs", 50)), value("min_secs", 1.0), longest)
    report(given, init_us, warm, runs, (init_mb, memory_mb() - memory))
    if given.enable_op_profiling:
        print_profiles(network, init_us, runs)


def main() -> int:
    info("STARTING!")
    try:
        benchmark(arguments())
    except BenchmarkError as error:
        sys.stdout.flush()
        for line in (*error.args, "Benchmarking failed."):
            print(f"ERROR: {line}", file=sys.stderr, flush=True)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
