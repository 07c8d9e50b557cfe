"""Cores used side by side: each lane is a thread whose torch stays on one core.

Parts of a chunk that do not depend on each other (its latents' pictures) and streams that do not (a company of
sessions) are work enough for the cores of a small machine, and one barrier at the end costs next to nothing. torch's
own way, to cut every product in pieces, has hundreds of barriers in a chunk, each as slow as its slowest thread.
So torch gets one thread everywhere, and a result does not depend on how many lanes there are.
"""
from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lanes:
    """``count`` lanes, the caller's included. Threads are made on first use and end with ``close``."""

    def __init__(self, count: int = 1) -> None:
        if count < 1:
            raise ValueError(f"{count} lanes")
        self.count = count
        self._busy = threading.Lock()  # held by the caller that has the lanes
        self._threads: ThreadPoolExecutor | None = None
        self._closed = False

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
        """``function`` of every item; on the other lanes in inference mode. Any thread may call.

        A call while another one has the lanes, also from inside ``function``, does all items itself. What an item
        raises is raised again once no lane works any more; items that were not begun then are left out.
        """
        items = list(items)
        if self.count == 1 or len(items) < 2 or not self._busy.acquire(blocking=False):
            return [function(item) for item in items]
        try:
            return self._share(function, items)
        finally:
            self._busy.release()

    def _share(self, function: Callable[[Item], Result], items: list[Item]) -> list[Result]:
        results: list[Result] = [None] * len(items)  # type: ignore[list-item]
        turn, failed = itertools.count(), False

        def work() -> None:
            nonlocal failed
            with torch.inference_mode():
                while not failed and (i := next(turn)) < len(items):
                    try:
                        results[i] = function(items[i])
                    except BaseException:
                        failed = True
                        raise

        helpers = self._start(work, min(self.count, len(items)) - 1)
        try:
            work()
        finally:
            running = [helper for helper in helpers if not helper.cancel()]  # what has not begun is not needed
            errors = [helper.exception() for helper in running]
        for error in filter(None, errors):
            raise error
        return results

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
