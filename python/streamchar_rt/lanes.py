"""Cores used side by side: each lane is a thread whose torch stays on one core.

Parts of a chunk that do not depend on each other (its latents' pictures) and streams that do not (a company of
sessions) are work enough for the cores of a small machine, and one barrier at the end costs next to nothing. torch's
own way, to cut every product in pieces, has hundreds of barriers in a chunk, each as slow as its slowest thread.
So torch gets one thread everywhere, and a result does not depend on how many lanes there are.

A lane that has nothing left to do helps the others with calls that they make from inside theirs.
"""
from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class _Job(Generic[Item, Result]):
    """A call's items, for any number of threads to take."""

    def __init__(self, function: Callable[[Item], Result], items: Sequence[Item]) -> None:
        self.function, self.items = function, items
        self.results: list[Result] = [None] * len(items)  # type: ignore[list-item]
        self.errors: list[BaseException] = []
        self.workers = 0  # threads inside ``work``; the lanes' condition guards it
        self._turn = itertools.count()
        self._begun = 0

    @property
    def open(self) -> bool:
        """Whether there may be items that nobody has taken."""
        return self._begun < len(self.items) and not self.errors

    def work(self) -> None:
        """Does items until none is left or one has failed."""
        while not self.errors and (i := next(self._turn)) < len(self.items):
            self._begun = i + 1
            try:
                self.results[i] = self.function(self.items[i])
            except BaseException as error:
                self.errors.append(error)
        self._begun = len(self.items)


class Lanes:
    """``count`` lanes, the caller's included. Threads are made on first use and end with ``close``."""

    def __init__(self, count: int = 1) -> None:
        if count < 1:
            raise ValueError(f"{count} lanes")
        self.count = count
        self._busy = threading.Lock()  # held by the caller that has the lanes
        self._change = threading.Condition()
        self._inner: list[_Job] = []  # calls from inside, newest last
        self._here = threading.local()  # .inside: whether this thread works in a lane
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """``function`` of every item; in inference mode where lanes are used. Any thread may call.

        A call from inside ``function`` gets help from lanes that have nothing left to do; another thread's call, while
        this one has the lanes, does all items itself. What an item raises is raised again once no lane works on the
        call any more; items that were not begun then are left out.
        """
        items = list(items)
        inside = getattr(self._here, "inside", False)
        if self.count == 1 or len(items) < 2 or not (inside or self._busy.acquire(blocking=False)):
            return [function(item) for item in items]
        job = _Job(function, items)
        if inside:
            self._with_help(job)
        else:
            try:
                self._with_lanes(job)
            finally:
                self._busy.release()
        for error in job.errors:
            raise error
        return job.results

    def _with_help(self, job: _Job) -> None:
        with self._change:
            self._inner.append(job)
            self._change.notify_all()
        job.work()
        with self._change:
            self._inner.remove(job)
            while job.workers:
                self._change.wait()

    def _with_lanes(self, job: _Job) -> None:
        def lane() -> None:
            with torch.inference_mode():
                self._serve(job)

        helpers = self._start(lane, self.count - 1)
        try:
            lane()
        finally:
            for helper in helpers:
                if not helper.cancel():  # what has not begun is not needed
                    helper.exception()

    def _serve(self, job: _Job) -> None:
        """Works on the job, then helps those who still do."""
        self._here.inside = True
        try:
            with self._change:
                job.workers += 1
            job.work()
            with self._change:
                job.workers -= 1
                self._change.notify_all()
            while (other := self._in_need(job)) is not None:
                other.work()
                with self._change:
                    other.workers -= 1
                    self._change.notify_all()
        finally:
            self._here.inside = False

    def _in_need(self, job: _Job) -> _Job | None:
        """A call from inside to help with, waiting for one as long as ``job`` is under way."""
        with self._change:
            while True:
                for other in reversed(self._inner):
                    if other.open:
                        other.workers += 1
                        return other
                if not job.workers:
                    return None
                self._change.wait()

    def _start(self, work: Callable[[], None], count: int) -> list:
        if self._closed:
            return []
        if self._threads is None:
            self._threads = ThreadPoolExecutor(
                self.count - 1, thread_name_prefix="streamchar lane", initializer=torch.set_num_threads, initargs=(1,))
        try:
            return [self._threads.submit(work) for _ in range(count)]
        except RuntimeError:  # the interpreter is ending: the caller does it all
            return []

    def close(self) -> None:
        """Ends the threads; ``map`` goes on without them."""
        self._closed = True
        with self._busy:
            if self._threads is not None:
                self._threads.shutdown()
                self._threads = None
