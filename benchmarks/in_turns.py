"""Times several ways to do the same work in turns, so that a busy machine slows all of them.

Rows go to pytest-benchmark's ``extra_info``: ``speedup_vs_torch`` is the ratio of the medians of the turns' wall
times, ``cpu_speedup_vs_torch`` that of their CPU times, which other processes disturb least.
"""
from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from streamchar_rt import ops

TURNS = 60


@contextmanager
def threads_set(threads: int) -> Iterator[None]:
    """Both torch and the native kernels on this many threads."""
    before = torch.get_num_threads(), ops.kernels_in_use()["threads"]
    torch.set_num_threads(threads)
    ops.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        ops.set_num_threads(before[1])


@contextmanager
def busy_cores(count: int) -> Iterator[None]:
    """Keeps ``count`` cores busy with other processes."""
    spin = [sys.executable, "-c", "while True: pass"]
    processes = [subprocess.Popen(spin) for _ in range(count)]
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()


@dataclass(frozen=True)
class Turns:
    """Seconds of every turn, per way."""

    wall: dict[str, list[float]]
    cpu: dict[str, list[float]]

    def median(self, way: str) -> float:
        return statistics.median(self.wall[way])

    def rows(self, native: str = "native", torch_way: str = "torch") -> dict[str, float]:
        """What ``extra_info`` gets; other ways add ``<way>_us``."""
        return {
            "speedup_vs_torch": self.median(torch_way) / self.median(native),
            "cpu_speedup_vs_torch": statistics.median(self.cpu[torch_way]) / statistics.median(self.cpu[native]),
            "best_speedup_vs_torch": min(self.wall[torch_way]) / min(self.wall[native]),
            **{f"{way}_us": self.median(way) * 1e6 for way in self.wall},
            "isa": ops.kernels_in_use()["isa"],
        }


def take_turns(ways: Mapping[str, Callable[[], object]], turns: int = TURNS) -> Turns:
    """Runs every way once to warm up, then ``turns`` times in turns."""
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    for call in ways.values():
        call()
    for _ in range(turns):
        for name, call in ways.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            call()
            cpu[name].append(time.process_time() - cpu_start)
            wall[name].append(time.perf_counter() - start)
    return Turns(wall, cpu)
