"""A team of threads that run one job together."""

from __future__ import annotations

import threading
import weakref
from queue import SimpleQueue
from typing import Protocol


class Job(Protocol):
    """What a team runs: called once on each thread, with the thread's number. It holds the memory
    that it works on: after interrupts, threads may be at it longer than its caller."""

    def __call__(self, thread: int) -> None: ...

    def abandon(self) -> None:
        """Let threads go that wait for one that will never come."""


class Workers:
    """``count`` threads, the caller's among them. The others wait idle between jobs and end when
    the team is dropped. They don't survive a fork: make a new team in the child."""

    def __init__(self, count: int):
        self.count = count
        self._inboxes: list[SimpleQueue[_Round | None]] = [SimpleQueue() for _ in range(count - 1)]
        self._round: _Round | None = None
        weakref.finalize(self, _dismiss, self._inboxes)
        for index, inbox in enumerate(self._inboxes, start=1):
            threading.Thread(
                target=_work, args=(index, inbox), daemon=True, name=f"minseg-{index}"
            ).start()

    def run(self, job: Job) -> None:
        """Call ``job(thread)`` on every thread, 0 being the caller; return when all are done.

        Raises what a thread raised. An interrupt of the caller waits until the team is idle.
        """
        self.settle()
        self._round = round_ = _Round(job, len(self._inboxes))
        try:
            for inbox in self._inboxes:
                inbox.put(round_)
            job(0)
            round_.wait()
            self._round = None
        finally:
            self.settle()
        for error in filter(None, round_.answers):
            raise error

    def settle(self) -> None:
        """End what an interrupt left unfinished, and return when the team is idle.

        Interrupted itself, it can be called again: `run` does before anything else.
        """
        if self._round is not None:
            self._round.close()
            self._round.wait()
            self._round = None


class _Round:
    """A job for ``count`` threads besides the caller's, and how far they are.

    Threads write, each by appending; the caller only looks. So an interrupt of the caller, wherever
    it comes, loses nothing that it would have to know.
    """

    def __init__(self, job: Job, count: int):
        self._job = job
        self._count = count
        self._is_closed = False
        self._entered: list[int] = []
        self._wake: SimpleQueue[None] = SimpleQueue()
        self.answers: list[BaseException | None] = []

    def join(self, thread: int) -> None:
        """Do a thread's part of the job, unless it is too late for that."""
        self._entered.append(thread)
        error = None
        try:
            if not self._is_closed:
                self._job(thread)
        except BaseException as raised:
            self._job.abandon()
            error = raised
        self.answers.append(error)
        self._wake.put(None)

    def close(self) -> None:
        """Keep out threads that haven't begun, and hurry those that have."""
        self._is_closed = True
        self._job.abandon()

    def wait(self) -> None:
        """Return when all threads have answered; once closed, all that have begun."""
        while len(self.answers) < (len(self._entered) if self._is_closed else self._count):
            self._wake.get()


def _work(thread: int, inbox: SimpleQueue[_Round | None]) -> None:
    while (round_ := inbox.get()) is not None:
        round_.join(thread)
        del round_


def _dismiss(inboxes: list[SimpleQueue[_Round | None]]) -> None:
    for inbox in inboxes:
        inbox.put(None)
