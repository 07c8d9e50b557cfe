"""Monotonic alignment: from the pointer's probabilities to one unit a half-frame.

Speech never goes back and skips nothing. A unit begins at the median of its beginning's posterior: the first
half-frame at which the pointer is more likely to have reached it than not. The most likely path (Viterbi) is no
substitute: where timing is uncertain it favours units with sharp posteriors and squeezes the others into one
inaudible half-frame.
"""
from __future__ import annotations

import numpy as np
import torch


def monotonic_path(logits: np.ndarray, first: int, *, minimum: np.ndarray, elapsed: int = 0) -> np.ndarray:
    """The units of a chunk's half-frames.

    ``logits``: float (T, W) over the window's units, -inf for those that cannot be used; ``first``: the unit of
    the half-frame before the chunk, in which ``elapsed`` half-frames were spent; ``minimum``: integer (W,),
    half-frames that each unit lasts at least before the next begins. Returns int64 (T,): never decreasing, never
    skipping a unit.
    """
    steps, width = logits.shape
    probability = np.exp(logits - logits.max(1, keepdims=True))
    probability /= probability.sum(1, keepdims=True)
    reached = np.cumsum(probability[:, ::-1], 1)[:, ::-1]      # P(the pointer is at unit w or beyond)
    reached = np.maximum.accumulate(reached, 0)                # what was reached once stays reached
    begin = (reached < 0.5).sum(0)
    earliest = minimum[first] - elapsed
    for unit in range(first + 1, width):
        begin[unit] = max(begin[unit], earliest, 0)
        earliest = begin[unit] + minimum[unit]
    return np.searchsorted(begin[first + 1:], np.arange(steps), side="right") + first


def monotonic_path_on_device(
    logits: torch.Tensor, first: int, *, minimum: torch.Tensor, elapsed: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """``monotonic_path`` and ``elapsed_in`` without a loop or a look at values, for a GPU that must not wait.

    A unit begins when it is due and the one before has lasted its minimum: begin[u] = max(due[u], begin[u - 1] +
    minimum[u - 1]). Less the minimums summed up so far, that is a running maximum.

    ``logits``: float64 (..., T, W); ``minimum``: int64 (..., W); ``elapsed``: int64 (...), 1 or more. Returns the units
    and the half-frames since each began, int64 (..., T); those of ``first`` count on from ``elapsed``.
    """
    probability = (logits - logits.amax(-1, keepdim=True)).exp()
    probability = probability / probability.sum(-1, keepdim=True)
    reached = probability.flip(-1).cumsum(-1).flip(-1).cummax(-2).values
    due = (reached < 0.5).sum(-2)[..., first:]                                       # (..., W - first)
    start = -elapsed[..., None]                                                      # when ``first`` began
    after = minimum[..., first:-1].cumsum(-1)
    after = torch.cat([torch.zeros_like(start), after], -1)
    begin = (torch.cat([start, due[..., 1:]], -1) - after).cummax(-1).values + after
    place = torch.arange(logits.shape[-2], device=logits.device)
    offset = (begin[..., None, 1:] <= place[:, None]).sum(-1)                        # (..., T)
    return offset + first, place - begin.gather(-1, offset)


def elapsed_in(path: np.ndarray, before: int = 0, previous: int | None = None) -> np.ndarray:
    """Half-frames since each half-frame's unit began; ``before``: what ``previous`` had spent already."""
    out = np.empty(len(path), np.int64)
    count, unit = before - 1, previous
    for i, place in enumerate(path):
        count = count + 1 if place == unit else 0
        unit = place
        out[i] = count
    return out
