"""Jobs: one at a time, in the order they came, each only as long as somebody asks for it."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from fleetfoot.errors import DeviceError
from profiling.board.jobs import Job, JobQueue, JobRunner
from profiling.board.messages import Answering, JobState, SentTarget

DONE = JobState(state="done")


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def work(name: str) -> Answering:
    return Answering(target=SentTarget(name=name, sha256=name, signature=""))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(clock: Clock) -> JobQueue:
    return JobQueue(patience_s=15, clock=clock)


def test_jobs_come_in_the_order_they_were_added(queue: JobQueue) -> None:
    added = [queue.add(work(name)) for name in "abc"]
    assert [queue.next(), queue.next(), queue.next(), queue.next()] == [*added, None]


def test_a_job_says_how_many_come_before_it(queue: JobQueue) -> None:
    first, second, third = (queue.add(work(name)) for name in "abc")
    queue.next()
    assert queue.state(first.id) == JobState(state="running")
    assert queue.state(third.id) == JobState(state="waiting", ahead=2)
    queue.finish(first, DONE)
    assert queue.state(first.id) == DONE
    assert queue.state(second.id) == JobState(state="waiting", ahead=0)


def test_what_came_of_a_job_can_be_asked_for_twice(queue: JobQueue) -> None:
    job = queue.add(work("a"))
    queue.next()
    queue.finish(job, DONE)
    assert queue.state(job.id) == queue.state(job.id) == DONE


def test_a_job_that_nobody_asks_for_is_forgotten_whatever_its_state(queue: JobQueue, clock: Clock) -> None:
    done, running, waiting, asked = (queue.add(work(name)) for name in "abcd")
    queue.next()
    queue.finish(done, DONE)
    assert queue.next() is running
    clock.now = 10
    queue.state(asked.id)
    assert queue.wanted(running)
    clock.now = 16
    assert not queue.wanted(running)
    assert queue.next() is asked
    for job in (done, running, waiting):
        assert queue.state(job.id).state == "unknown"


def test_a_cancelled_job_is_not_wanted(queue: JobQueue) -> None:
    running, waiting = queue.add(work("a")), queue.add(work("b"))
    queue.next()
    queue.cancel(running.id)
    queue.cancel(waiting.id)
    queue.cancel("another")
    assert not queue.wanted(running)
    assert queue.next() is None


def test_the_files_of_unfinished_jobs_are_known(queue: JobQueue) -> None:
    done = queue.add(work("a"))
    queue.add(work("b"))
    queue.next()
    queue.finish(done, DONE)
    assert queue.files() == {"b"}


def test_there_is_an_end_to_how_many_wait(queue: JobQueue) -> None:
    with pytest.raises(DeviceError, match="jobs already: try again later"):
        for _ in range(1000):
            queue.add(work("a"))


# --- the thread that runs them ---


def outcome_of(run: Callable[[Job, Callable[[], None]], JobState]) -> JobState:
    runner = JobRunner(JobQueue(), run, lambda: None)
    try:
        return runner.result(runner.start(work("a"), None), 10)
    finally:
        runner.stop(10)


def test_a_job_that_fails_says_why_in_one_line() -> None:
    def refuse(job: Job, interrupt: Callable[[], None]) -> JobState:
        raise DeviceError("there is no core 9 here")

    def fail(job: Job, interrupt: Callable[[], None]) -> JobState:
        raise ZeroDivisionError("first line\nsecond line")

    assert outcome_of(refuse).error == "there is no core 9 here"
    assert outcome_of(fail).error == "the agent failed: ZeroDivisionError: first line"


def test_one_job_runs_at_a_time_and_a_failed_one_does_not_stop_the_next() -> None:
    under_way = threading.Lock()

    def run(job: Job, interrupt: Callable[[], None]) -> JobState:
        assert under_way.acquire(blocking=False)
        under_way.release()
        raise ValueError(job.packed)

    runner = JobRunner(JobQueue(), run, lambda: None)
    started = [runner.start(work("a"), number) for number in range(20)]
    errors = [runner.result(job, 10).error for job in started]
    runner.stop(10)
    assert errors == [f"the agent failed: ValueError: {number}" for number in range(20)]


@pytest.mark.parametrize("how", ["cancel", "stop"])
def test_a_running_job_is_interrupted(how: str) -> None:
    started, ended = threading.Event(), threading.Event()

    def run(job: Job, interrupt: Callable[[], None]) -> JobState:
        started.set()
        try:
            while True:
                interrupt()
        finally:
            ended.set()

    runner = JobRunner(JobQueue(), run, lambda: None)
    job = runner.start(work("a"), None)
    assert started.wait(10)
    if how == "cancel":
        runner.cancel(job)
        assert ended.wait(10)
    runner.stop(10)
    assert ended.is_set()
    assert "jobs" not in {thread.name for thread in threading.enumerate()}
