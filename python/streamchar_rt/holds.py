"""Pauses of a told length in a chunk's plan.

The model plans when speech goes on after a pause, but not how long one was asked for. So its share of the plan is made
as long as it is to be, and what follows moves with it at its own pace.
"""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

NOT_HELD = -1


def held_units(holds: dict[int, int], first: int, window: int) -> np.ndarray:
    """int64 (window,): half-frames for which the units from place ``first`` on are held, ``NOT_HELD`` for most."""
    out = np.full(window, NOT_HELD)
    for place, half_frames in holds.items():
        if 0 <= place - first < window:
            out[place - first] = half_frames
    return out


def with_holds(path: Tensor, first: int, hold: Tensor) -> Tensor:
    """The path with units held as long as they are to be.

    Args:
        path: int64 (T,), the units of half-frames: never decreasing, never skipping a unit.
        first: the unit of the half-frame before the chunk.
        hold: int64 (W,) half-frames that are to belong to a unit; ``NOT_HELD``: as many as in ``path``. A unit that the
            path does not leave keeps what it has: nobody knows what comes after it.

    Returns:
        int64 (T,). Where units are held for less time than the path has for them, its last unit goes on at the end.
    """
    time, unit = torch.arange(len(path), device=path.device), torch.arange(len(hold), device=path.device)
    length = (path[:, None] == unit).sum(0)
    length = torch.where((hold != NOT_HELD) & (unit >= first) & (unit < path[-1]), hold, length)
    return ((length.cumsum(0) <= time[:, None]) & (unit < path[-1])).sum(1)


def elapsed_along(path: Tensor, first: int, elapsed: Tensor) -> Tensor:
    """int64 (T,): half-frames since each one's unit began; ``first`` had begun ``elapsed`` before the chunk."""
    begin = (path[:, None] > path).sum(1)
    time = torch.arange(len(path), device=path.device)
    return torch.where(path == first, time + elapsed, time - begin)
