"""A team of threads that run one function together."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from queue import SimpleQueue

Job = Callable[[int], None]


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
        """Call ``job(thread)`` on every thread, 0 being the caller; return when all are done."""
        for inbox in self._inboxes:
            inbox.put(job)
        try:
            job(0)
        finally:
            errors = [self._done.get() for _ in self._inboxes]
        for error in errors:
            if error is not None:
                raise error


def _work(
    thread: int, inbox: SimpleQueue[Job | None], done: SimpleQueue[BaseException | None]
) -> None:
    while (job := inbox.get()) is not None:
        try:
            job(thread)
            done.put(None)
        except BaseException as error:
            done.put(error)
        del job


def _dismiss(inboxes: list[SimpleQueue[Job | None]]) -> None:
    for inbox in inboxes:
        inbox.put(None)
