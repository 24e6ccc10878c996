"""A board's jobs: one at a time, in the order they came, each only as long as somebody asks for it."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from fleetfoot.errors import DeviceError, FleetfootError, first_line
from profiling.board.messages import JobState, Work

_MOST_JOBS = 32
_PATIENCE_SECONDS = 15.0
_TICK_SECONDS = 0.5


class UnwantedError(Exception):
    """Ends a job that nobody wants any more."""


@dataclass(eq=False)
class Job:
    """Work, and what is known of it; ``packed`` is the array that came with it."""

    id: str
    work: Work
    packed: object
    asked_at: float
    running: bool = False
    done: JobState | None = None


class JobQueue:
    """Which job is next, and which are given up; knows no threads.

    Args:
        patience_s: a job that nobody asked for so long is given up, be it waiting, running or done.
        clock: seconds.
    """

    def __init__(self, patience_s: float = _PATIENCE_SECONDS, clock: Callable[[], float] = time.monotonic) -> None:
        self.patience_s, self._clock = patience_s, clock
        self._jobs: dict[str, Job] = {}

    def add(self, work: Work, packed: object = None) -> Job:
        """Queues work.

        Raises:
            DeviceError: too much is queued already.
        """
        self.drop_unwanted()
        if len(self._jobs) >= _MOST_JOBS:
            raise DeviceError(f"the agent has {len(self._jobs)} jobs already: try again later")
        job = Job(secrets.token_hex(8), work, packed, self._clock())
        self._jobs[job.id] = job
        return job

    def next(self) -> Job | None:
        """The job that waited longest, which runs from now on."""
        self.drop_unwanted()
        job = next((job for job in self._jobs.values() if not job.running and job.done is None), None)
        if job is not None:
            job.running = True
        return job

    def finish(self, job: Job, outcome: JobState) -> None:
        """Keeps what came of a job until it is asked for."""
        job.running, job.done, job.packed = False, outcome, None

    def state(self, job_id: str) -> JobState:
        """How far a job is; whoever asks wants it."""
        job = self._jobs.get(job_id)
        if job is None:
            return JobState(state="unknown")
        job.asked_at = self._clock()
        if job.done is not None:
            return job.done
        ahead = [other for other in self._jobs.values() if other.done is None].index(job)
        return JobState(state="running" if job.running else "waiting", ahead=ahead)

    def cancel(self, job_id: str) -> None:
        """Forgets a job; a running one is no longer wanted."""
        self._jobs.pop(job_id, None)

    def wanted(self, job: Job) -> bool:
        """Whether somebody still asks for a job."""
        return job.id in self._jobs and self._clock() - job.asked_at <= self.patience_s

    def drop_unwanted(self) -> None:
        """Forgets the jobs that nobody asks for."""
        self._jobs = {job.id: job for job in self._jobs.values() if self.wanted(job)}

    def files(self) -> set[str]:
        """The hashes of the files that jobs need."""
        return {target.sha256 for job in self._jobs.values() if job.done is None for target in job.work.targets}


class JobRunner:
    """The thread that runs jobs, and what others ask of it.

    Args:
        queue: what is to be run; nobody else touches it from now on.
        run: runs a job, calling its second argument now and then, which raises UnwantedError to end it.
        idle: called twice a second while nothing runs.
    """

    def __init__(
        self, queue: JobQueue, run: Callable[[Job, Callable[[], None]], JobState], idle: Callable[[], None]
    ) -> None:
        self._queue, self._run, self._idle = queue, run, idle
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)
        self._thread.start()

    def start(self, work: Work, packed: object) -> str:
        """Queues work and returns the job's id."""
        with self._changed:
            job = self._queue.add(work, packed)
            self._changed.notify_all()
        return job.id

    def result(self, job_id: str, wait_s: float) -> JobState:
        """How far a job is, after waiting for its end for up to ``wait_s``, or a third of the queue's patience."""
        wait_s = min(wait_s, self._queue.patience_s / 3)
        with self._changed:
            self._changed.wait_for(lambda: self._queue.state(job_id).state in ("done", "unknown"), wait_s)
            return self._queue.state(job_id)

    def cancel(self, job_id: str) -> None:
        """Ends a job, or forgets what came of it."""
        with self._changed:
            self._queue.cancel(job_id)

    def files(self) -> set[str]:
        """The hashes of the files that jobs need."""
        with self._changed:
            return self._queue.files()

    def stop(self, wait_s: float) -> None:
        """Ends the running job and the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._thread.join(wait_s)

    def _work(self) -> None:
        while not self._stopping:
            with self._changed:
                job = self._queue.next()
                if job is None:
                    self._changed.wait(_TICK_SECONDS)
            if job is None:
                self._idle()
                continue
            outcome = self._outcome(job)
            with self._changed:
                self._queue.finish(job, outcome)
                self._changed.notify_all()

    def _outcome(self, job: Job) -> JobState:
        def interrupt() -> None:
            with self._changed:
                if self._stopping or not self._queue.wanted(job):
                    raise UnwantedError

        try:
            return self._run(job, interrupt)
        except FleetfootError as error:
            return JobState(state="done", error=str(error))
        except UnwantedError:
            return JobState(state="done", error="the job was given up")
        except Exception as error:  # whatever a job comes to, the next one is run
            return JobState(state="done", error=f"the agent failed: {type(error).__name__}: {first_line(error)}")
