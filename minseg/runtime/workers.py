"""A team of threads that run one job together."""

from __future__ import annotations

import threading
import weakref
from queue import SimpleQueue
from typing import Protocol


class Job(Protocol):
    """What a team runs: called once on each thread, with the thread's number."""

    def __call__(self, thread: int) -> None: ...

    def abandon(self) -> None:
        """Let threads go that wait for one that will never come."""


class Workers:
    """``count`` threads, the caller's among them. The others wait idle between jobs and end when
    the team is dropped. They don't survive a fork: make a new team in the child."""

    def __init__(self, count: int):
        self.count = count
        self._inboxes: list[SimpleQueue[Job | None]] = [SimpleQueue() for _ in range(count - 1)]
        self._done: SimpleQueue[BaseException | None] = SimpleQueue()
        for index, inbox in enumerate(self._inboxes, start=1):
            arguments = (index, inbox, self._done)
            threading.Thread(
                target=_work, args=arguments, daemon=True, name=f"minseg-{index}"
            ).start()
        weakref.finalize(self, _dismiss, self._inboxes)

    def run(self, job: Job) -> None:
        """Call ``job(thread)`` on every thread, 0 being the caller; return when all are done.

        Raises what a thread raised. An interrupt of the caller waits until the team is done.
        """
        errors: list[BaseException | None] = []
        started = 0
        try:
            for inbox in self._inboxes:
                inbox.put(job)
                started += 1
            job(0)
        except BaseException as error:
            job.abandon()
            errors.append(error)
        while started:
            try:
                errors.append(self._done.get())
                started -= 1
            except KeyboardInterrupt as error:
                errors.append(error)
        for first in filter(None, errors):
            raise first


def _work(
    thread: int, inbox: SimpleQueue[Job | None], done: SimpleQueue[BaseException | None]
) -> None:
    while (job := inbox.get()) is not None:
        try:
            job(thread)
            done.put(None)
        except BaseException as error:
            job.abandon()
            done.put(error)
        del job


def _dismiss(inboxes: list[SimpleQueue[Job | None]]) -> None:
    for inbox in inboxes:
        inbox.put(None)
