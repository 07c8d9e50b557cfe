"""The in-loop check of the pointer: where it has left the speech, the text goes on at a steady pace until it is back.

A chunk's sound is made to say what the pointer's path says. A path skips nothing (``monotonic_path``), but a pointer that
leaps ahead leaves each unit that it leaps over its shortest time, in which nobody hears it, and one that stands still keeps
the rest of the text to itself. So a path with a leap is found again with steady lengths as the shortest, before any sound
is made of it; and once a session finds that the pointer stands still (``finish``), the text is pushed on, until the
pointer moves by itself.
"""
from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .orchestrator.alignment import monotonic_path_on_device
from .orchestrator.units import FIRST_PHONE, PAUSE_SHORT

LEAP = 8               # phones in a row at their shortest: the long protocol's speech, which reports such events, has none
PHONE, PAUSE = 4, 12   # half-frames: the studio's mean
JUMPED, STALLED = "jumped", "stalled"


def steady_lengths(units: np.ndarray) -> np.ndarray:
    """Half-frames, int64 (W,), for which each unit of a window lasts at a steady pace."""
    return np.where(units >= FIRST_PHONE, PHONE, np.where(units >= PAUSE_SHORT, PAUSE, 1))


def steady_path(lengths: np.ndarray, blocked: np.ndarray, first: int, elapsed: int, steps: int) -> np.ndarray:
    """The units of ``steps`` half-frames at a steady pace, int64 (steps,), from ``first`` on, in which ``elapsed`` were
    spent; a unit before a ``blocked`` one goes on."""
    stop = first + 1 + int(np.argmax(np.append(blocked[first + 1:], True)))
    begin = max(0, int(lengths[first]) - elapsed) + np.cumsum(np.append(0, lengths[first + 1: stop - 1]))
    return first + np.searchsorted(begin[: stop - first - 1], np.arange(steps), side="right")


def leaps(path: Tensor, minimum: Tensor) -> Tensor:
    """Whether ``LEAP`` phones in a row have their shortest time: bool (...) for int64 paths (..., T) and minimums (..., W).

    Phones are the units whose minimum is more than one half-frame.
    """
    unit = torch.arange(minimum.shape[-1], device=path.device)
    length = (path[..., None] == unit).sum(-2)
    whole = (unit > path[..., :1]) & (unit < path[..., -1:])
    short = (whole & (minimum > 1) & (length <= minimum)).long()
    if short.shape[-1] < LEAP:
        return torch.zeros(path.shape[:-1], dtype=torch.bool, device=path.device)
    return short.unfold(-1, LEAP, 1).sum(-1).amax(-1) == LEAP


def checked_path_on_device(
    logits: Tensor, first: int, *, minimum: Tensor, steady: Tensor, elapsed: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """``monotonic_path_on_device``, again where it leaps. Also whether it did: bool (...).

    ``steady``: int64 (..., W), half-frames that each unit lasts at least where the pointer leaps.
    """
    find = lambda shortest: monotonic_path_on_device(logits, first, minimum=shortest, elapsed=elapsed)
    (path, spent), (walked, walked_spent) = find(minimum), find(steady)
    jumped = leaps(path, minimum)
    return (torch.where(jumped[..., None], walked, path), torch.where(jumped[..., None], walked_spent, spent), jumped)
