from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from fleetfoot.errors import DeviceError
from profiling.android.adb import Answer
from profiling.android.benchmark_log import parse
from profiling.android.benchmark_tool import Invocation, command, explain, read, undelegated
from profiling.profile import Conditions

LOGS = Path(__file__).parent / "benchmark_logs"
INVOCATION = Invocation("/model", "half", 0.3, 0.15)


def log(name: str) -> str:
    return (LOGS / f"{name}.txt").read_text()


def test_threads_pinning_and_delegates_are_the_tools_own() -> None:
    conditions = Conditions(threads=4, cpus=(4, 5, 7), delegate="gpu")
    assert command("/tool", INVOCATION, conditions, 8).split() == [
        "taskset", "b0", "/tool", "--graph=/model", "--num_threads=4", "--num_runs=1", "--min_secs=0.3",
        "--max_secs=1", "--warmup_runs=1", "--warmup_min_secs=0.15", "--signature_to_run_for=half", "--use_gpu=true",
    ]  # fmt: skip
    plain = command("/tool", INVOCATION._replace(signature="", operators=True), Conditions(), 8).split()
    assert plain[0] == "/tool"
    assert plain[-1] == "--enable_op_profiling=true"
    assert not any("signature" in word or "--use" in word for word in plain)
    assert "--use_xnnpack=true" in command("/tool", INVOCATION, Conditions(delegate="xnnpack"), 8)


def test_a_signature_cannot_run_commands() -> None:
    evil = INVOCATION._replace(signature="x; touch '/tmp/y'")
    shell = command("/bin/echo", evil, Conditions(), 1)
    said = subprocess.run(["/bin/sh", "-c", shell], capture_output=True, text=True, check=True).stdout
    assert said.endswith("--signature_to_run_for=x; touch '/tmp/y'\n")


def test_the_load_beside_it_ends_with_it_and_its_status_stays() -> None:
    shell = command("/bin/false", INVOCATION, Conditions(state="contended"), 2)
    finished = subprocess.run(["/bin/sh", "-c", f"( {shell} )"], timeout=20, check=False)
    assert finished.returncode == 1


@pytest.mark.parametrize(
    ("name", "delegate", "why"),
    [
        ("2018-tf-1.12", "cpu", None),
        ("2020-gpu", "gpu", None),
        ("2024-percentiles", "gpu", None),
        ("2023-tf-2.15-nnapi", "nnapi", None),
        ("2025-two-delegates", "gpu", None),
        ("2025-two-delegates", "nnapi", "NNAPI cannot run any part of this model"),
        ("2023-profiled", "gpu", "the benchmark does not say that GPU ran the model"),
        ("2023-profiled", "xnnpack", None),
    ],
)
def test_a_delegate_that_did_not_run_the_model_is_found_out(name: str, delegate: str, why: str | None) -> None:
    assert undelegated(parse(log(name)), delegate, log(name)) == why


def test_other_ways_of_not_delegating() -> None:
    unknown = log("2024-percentiles") + "\nWARN: Unconsumed cmdline flags: --use_gpu=true\n"
    assert undelegated(parse(unknown), "gpu", unknown) == (
        "this benchmark_model was built without GPU: give one that has it"
    )
    replaced = (
        log("2018-tf-1.12") + "Replacing 31 out of 31 node(s) with delegate (LITERT_CL) node, yielding 1 partitions"
    )
    assert undelegated(parse(replaced), "gpu", replaced) is None
    reference = log("2023-tf-2.15-nnapi").replace("[synap-npu,nnapi-reference]", "[nnapi-reference]")
    assert "only its own reference" in str(undelegated(parse(reference), "nnapi", reference))


def test_an_old_tool_that_cannot_choose_a_signature_is_no_use_where_there_are_several() -> None:
    text = log("2018-tf-1.12") + "Unconsumed cmdline flags: --signature_to_run_for=half\n"
    assert read(Answer(0, text), Conditions(), lambda: False).runs.count == 50
    with pytest.raises(DeviceError, match="too old to choose a signature"):
        read(Answer(0, text), Conditions(), lambda: True)


@pytest.mark.parametrize(
    ("status", "output", "why"),
    [
        (137, "INFO: STARTING!\nKilled \n", "killed it, most likely for want of memory"),
        (139, "Segmentation fault \n", "invalid memory access"),
        (132, "Illegal instruction \n", "instructions that this processor does not know"),
        (126, "/system/bin/sh: /data/x: not executable: 64-bit ELF file\n", r"\(.*not executable: 64-bit ELF file\)"),
        (126, "/system/bin/sh: /data/x: can't execute: Permission denied\n", "Permission denied"),
        (127, "/system/bin/sh: taskset: inaccessible or not found\n", "taskset: inaccessible or not found"),
        (1, 'CANNOT LINK EXECUTABLE "/x": library "libz.so" not found\n', "status 1: CANNOT LINK EXECUTABLE"),
        (1, log("2021-tf-2.4-nnapi-failed"), "ANEURALNETWORKS_BAD_DATA .* Failed to apply NNAPI delegate"),
        (1, log("2021-tf-2.5-old-binary"), "Are you using an old TFLite binary"),
        (1, "", "status 1: nothing"),
        (0, "hello\n", "told no timings: hello"),
    ],
)
def test_each_failure_is_told_apart(status: int, output: str, why: str) -> None:
    with pytest.raises(DeviceError, match=why) as raised:
        read(Answer(status, output), Conditions())
    assert len(str(raised.value).splitlines()) == 1
    assert explain(Answer(status, output), parse(output)) == str(raised.value)
