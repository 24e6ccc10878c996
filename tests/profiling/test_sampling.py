from __future__ import annotations

from collections.abc import Callable

import pytest

from fleetfoot.errors import DeviceError
from profiling.sampling import Turns, block_runs, take_turns
from profiling.statistics import Block, Effort

STEADY = Effort(min_runs=100, max_runs=1000, max_seconds=1e9)


class Models:
    """Models of injected latencies, which write down who ran when."""

    def __init__(self, **latency_ms: Callable[[int], float]) -> None:
        self._latency_ms = latency_ms
        self.order: list[str] = []
        self.runs = {name: self._model(name) for name in latency_ms}
        self.run_ms = {name: latency(20) for name, latency in latency_ms.items()}

    def _model(self, name: str) -> Callable[[int], Block]:
        count = 0

        def run(runs: int) -> Block:
            nonlocal count
            self.order.append(name)
            count += runs
            return [self._latency_ms[name](count - runs + index) for index in range(runs)]

        return run

    def measured(self, effort: Effort = STEADY, **options: Callable[[Turns[str]], None]) -> Turns[str]:
        return take_turns(self.runs, self.run_ms, effort, **options)


def constant(ms: float) -> Callable[[int], float]:
    return lambda _: ms


def wild(run: int) -> float:
    """Two values whose mean takes hundreds of runs to be known."""
    return 3.0 if run // 10 % 2 else 1.0


def failing_after(blocks: int, ms: float = 1.0) -> Callable[[int], float]:
    def latency(run: int) -> float:
        if run >= 10 * blocks:
            raise DeviceError("it broke")
        return ms

    return latency


@pytest.mark.parametrize(("run_ms", "runs"), [(1e-6, 10), (0.02, 10), (2, 10), (2.5, 8), (11, 1), (20, 1), (5000, 1)])
def test_a_block_is_of_ten_runs_at_most_and_of_20_ms_if_it_can(run_ms: float, runs: int) -> None:
    assert block_runs(run_ms) == runs


def test_models_take_turns_in_an_order_that_is_another_each_round() -> None:
    models = Models(a=constant(1.0), b=constant(1.0), c=constant(1.0))
    turns = models.measured()
    rounds = [tuple(models.order[start : start + 3]) for start in range(0, len(models.order), 3)]
    assert len(rounds) == 10
    assert all(sorted(members) == ["a", "b", "c"] for members in rounds)
    assert len(set(rounds)) > 3
    assert {name: sum(map(len, blocks)) for name, blocks in turns.items()} == {"a": 100, "b": 100, "c": 100}


def test_all_take_part_until_the_last_is_measured_well_enough() -> None:
    models = Models(steady=constant(1.0), wild=wild)
    turns = models.measured()
    assert len(turns["steady"]) == len(turns["wild"]) > 20
    alone = Models(steady=constant(1.0)).measured()
    assert len(alone["steady"]) == 10


def test_a_model_at_a_cap_runs_no_more_while_others_go_on() -> None:
    models = Models(slow=constant(30.0), fast=constant(0.1))
    turns = models.measured(Effort(min_runs=100, max_runs=1000, max_seconds=0.15))
    assert [len(block) for block in turns["slow"]] == [1] * 5
    assert sum(map(len, turns["fast"])) == 100


def test_what_never_settles_ends_at_the_cap_of_runs() -> None:
    models = Models(wild=wild)
    effort = Effort(min_runs=100, max_runs=300, max_seconds=1e9, relative_half_width=1e-6)
    assert sum(map(len, models.measured(effort)["wild"])) == 300


@pytest.mark.parametrize("blocks", [0, 3])
def test_what_fails_is_given_up_with_its_reason_and_the_others_go_on(blocks: int) -> None:
    models = Models(sound=constant(1.0), broken=constant(1.0))
    models.runs["broken"] = Models(broken=failing_after(blocks)).runs["broken"] if blocks else fail
    turns = models.measured()
    assert turns.failures == {"broken": "it broke"}
    assert len(turns["broken"]) == blocks
    assert sum(map(len, turns["sound"])) == 100


def fail(_: int) -> Block:
    raise DeviceError("it broke")


def test_when_all_fail_it_ends() -> None:
    turns = take_turns({"a": fail, "b": fail}, {"a": 1.0, "b": 1.0}, STEADY)
    assert turns.failures == {"a": "it broke", "b": "it broke"}


def test_without_models_nothing_happens() -> None:
    assert take_turns({}, {}, STEADY) == {}


def test_an_error_that_is_not_the_device_s_ends_the_measurement() -> None:
    def crash(_: int) -> Block:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        take_turns({"a": crash}, {"a": 1.0}, STEADY)


def test_after_each_round_the_caller_sees_what_there_is_and_may_end_it() -> None:
    seen: list[list[int]] = []

    def look(turns: Turns[str]) -> None:
        seen.append([len(blocks) for blocks in turns.values()])
        if len(seen) == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Models(a=constant(1.0), b=constant(2.0)).measured(after_round=look)
    assert seen == [[1, 1], [2, 2], [3, 3], [4, 4]]
