from __future__ import annotations

from pathlib import Path

import pytest

from profiling.android.benchmark_log import BenchmarkLog, parse

LOGS = Path(__file__).parent / "benchmark_logs"


def log(name: str) -> BenchmarkLog:
    return parse((LOGS / f"{name}.txt").read_text())


@pytest.mark.parametrize(
    ("name", "count", "mean_ms", "std_ms", "min_ms", "max_ms"),
    [
        ("2018-tf-1.12", 50, 137.722, 0.896, 137.079, 143.416),
        ("2019-taskset-profiled", 50, 115.062, 7.678, 88.216, 129.193),
        ("2020-profiled", 50, 33.2094, 0.450, 32.641, 34.005),
        ("2020-tf-2.2-slow", 9, 16850.5, 69.772, 16767.506, 17015.249),
        ("2020-gpu", 50, 119.375, 1.948, 113.737, 124.776),
        ("2023-profiled", 64, 15.5176, 0.551, 14.661, 17.579),
        ("2023-tf-2.15-nnapi", 520, 1.88574, 0.870, 1.171, 9.925),
        ("2024-percentiles", 50, 115.246, 1.329, 111.842, 119.614),
    ],
)
def test_the_recorded_runs_are_those_after_the_warm_up(
    name: str, count: int, mean_ms: float, std_ms: float, min_ms: float, max_ms: float
) -> None:
    runs = log(name).runs
    assert runs is not None
    assert runs.count == count
    assert (runs.mean_ms, runs.std_ms, runs.min_ms, runs.max_ms) == pytest.approx((mean_ms, std_ms, min_ms, max_ms))


@pytest.mark.parametrize(
    ("name", "load_ms", "first_ms", "memory_mb"),
    [
        ("2018-tf-1.12", 4.452, 146.161, None),
        ("2019-taskset-profiled", 1.892, 91.810, None),
        ("2020-tf-2.2-slow", 48.019, 15908.626, None),
        ("2020-profiled", 0.855, 49.060, 12.8672),
        ("2023-profiled", 32.163, 19.834, 34.8281),
        ("2025-two-delegates", 5664.363, 328.140, 375.48),
        ("2026-litert-gpu", 23744.73, 7441.04, 6391.74),
    ],
)
def test_loading_the_first_run_and_memory(name: str, load_ms: float, first_ms: float, memory_mb: float | None) -> None:
    told = log(name)
    assert told.load_ms == pytest.approx(load_ms)
    assert told.first_ms == pytest.approx(first_ms)
    assert told.memory_bytes == (None if memory_mb is None else round(memory_mb * 2**20))


def test_percentiles_are_told_by_newer_versions_only() -> None:
    newer, older = log("2024-percentiles").runs, log("2023-profiled").runs
    assert newer is not None
    assert older is not None
    assert (newer.p5_ms, newer.median_ms, newer.p95_ms) == pytest.approx((112.107, 115.350, 116.620))
    assert older.p5_ms is older.median_ms is older.p95_ms is None


def test_operators_of_2019_have_no_heading_of_their_own() -> None:
    operators = log("2019-taskset-profiled").operators
    assert [(one.kind, one.ms) for one in operators] == [
        ("CONV_2D", 7.237),
        ("DEPTHWISE_CONV_2D", 3.726),
        ("CONV_2D", 3.711),
        ("AVERAGE_POOL_2D", 0.125),
        ("RESHAPE", 0.005),
    ]
    assert operators[0].name == "[MobilenetV2/Conv/Relu6]"


def test_operators_are_those_of_the_runs_and_not_of_the_start() -> None:
    operators = log("2021-tf-2.4-nnapi-profiled").operators
    assert [one.kind for one in operators] == [
        "STRIDED_SLICE", "TfLiteNnapiDelegate", "RESIZE_NEAREST_NEIGHBOR", "TfLiteNnapiDelegate", "TRANSPOSE"
    ]  # fmt: skip
    assert operators[1].ms == 83.750
    assert operators[1].name.endswith("model/tf.math.multiply_49/Mul]:270")


def test_an_operator_that_a_run_calls_often_takes_all_of_its_calls() -> None:
    operators = {one.name: one for one in log("2023-profiled").operators}
    assert operators["Delegate/Convolution (NHWC, QC8) DWConv:1"].ms == pytest.approx(13 * 0.051)
    assert operators["Delegate/Convolution (NHWC, QC8) DWConv:1"].kind == "Convolution (NHWC, QC8) DWConv"
    assert operators["Delegate/Add (ND, QS8):9"].ms == 0.024


HEAD = "\t [node type]\t [first]\t [avg ms]\t [%]\t [cdf%]\t [mem KB]\t[times called]\t[Name]"


def table(*rows: str) -> str:
    return "\n".join(["============================== Run Order ==============================", HEAD, *rows, "", ""])


def row(kind: str, ms: float, name: str) -> str:
    return f"\t {kind}\t {ms:.3f}\t {ms:.3f}\t 50.000%\t 50.000%\t 0.000\t 1\t{name}"


def test_a_delegates_inside_stands_for_the_delegate() -> None:
    """As TensorFlow 2.10's profile_summary_formatter.cc has it."""
    text = "INFO: Operator-wise Profiling Info for Regular Benchmark Runs:\n" + table(
        row("TfLiteXNNPackDelegate", 3.0, "[a]:4"), row("CUSTOM", 1.0, "[b]:5")
    )
    inside = "Delegate internal: \n" + table(row("Fully Connected (NC, F32) GEMM", 2.9, "Delegate/Fully Connected:0"))
    assert [one.kind for one in parse(text).operators] == ["TfLiteXNNPackDelegate", "CUSTOM"]
    assert [one.kind for one in parse(text + inside).operators] == ["CUSTOM", "Fully Connected (NC, F32) GEMM"]


def test_of_several_graphs_the_primary_counts_and_of_a_signatures_own_graph_that() -> None:
    heading = "INFO: Operator-wise Profiling Info for Regular Benchmark Runs:\n"
    primary = "Primary graph (name: main) :\n" + table(row("WHILE", 3.0, "[a]:4"))
    other = "Subgraph (index: 2, name: half) :\n" + table(row("ADD", 1.0, "[b]:5"))
    other += "Subgraph (index: 2, name: half) Timings (microseconds): count=9 curr=5\n"
    assert [one.kind for one in parse(heading + primary + other).operators] == ["WHILE"]
    assert [one.kind for one in parse(heading + other).operators] == ["ADD"]


@pytest.mark.parametrize(
    ("name", "delegates", "accelerators"),
    [
        ("2018-tf-1.12", {}, None),
        ("2020-gpu", {"gpu": "completely"}, None),
        ("2022-tf-2.8-xnnpack-failed", {"xnnpack": "not"}, None),
        ("2023-tf-2.15-nnapi", {"nnapi": "completely"}, ("synap-npu", "nnapi-reference")),
        ("2025-two-delegates", {"gpu": "completely", "nnapi": "not"}, ("nnapi-reference",)),
    ],
)
def test_delegates(name: str, delegates: dict[str, str], accelerators: tuple[str, ...] | None) -> None:
    assert log(name).delegates == delegates
    assert log(name).accelerators == accelerators


def test_a_delegate_that_runs_a_part() -> None:
    text = "Explicitly applied NNAPI delegate, and the model graph will be partially executed by the delegate w/ 2 ..."
    assert parse(text).delegates == {"nnapi": "partially"}


@pytest.mark.parametrize(
    ("name", "errors"),
    [
        (
            "2021-tf-2.4-nnapi-failed",
            (
                "NN API returned error ANEURALNETWORKS_BAD_DATA at line 1068 while adding operation.",
                "Failed to apply NNAPI delegate.",
            ),
        ),
        ("2022-tf-2.8-xnnpack-failed", ("Failed to apply XNNPACK delegate.",)),
        ("2024-percentiles", ()),
    ],
)
def test_errors_marked_or_not(name: str, errors: tuple[str, ...]) -> None:
    assert log(name).errors == errors
    assert (log(name).runs is None) == bool(errors)


def test_an_old_binary_says_what_it_does_not_know() -> None:
    first, *_, last = log("2021-tf-2.5-old-binary").errors
    assert first.startswith("Didn't find op for builtin opcode 'MUL' version '5'.")
    assert last == "Failed to initialize the interpreter"
    assert parse("WARN: Unconsumed cmdline flags: --use_gpu=true --foo").unconsumed == ("--use_gpu=true", "--foo")


@pytest.mark.parametrize(("line", "ms"), [("count=1 curr=15908626", 15908.626), ("count=7 curr=12(all same)", 0.012)])
def test_runs_that_all_took_the_same(line: str, ms: float) -> None:
    runs = parse(f"{line}\n\nInference timings in us: Init: 0, First inference: 1, Inference (avg): 2").runs
    assert runs is not None
    assert (runs.min_ms, runs.max_ms, runs.mean_ms, runs.std_ms) == pytest.approx((ms, ms, ms, 0))


@pytest.mark.parametrize("text", ["", "count=0", "garbage \x00 count=x\n[node type]\n", "count=5 first=1 curr=2"])
def test_a_log_that_ends_early_tells_no_runs(text: str) -> None:
    assert parse(text).runs is None
    assert parse(text).operators == ()
