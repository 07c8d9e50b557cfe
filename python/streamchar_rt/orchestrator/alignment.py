"""Monotonic alignment: from the pointer's probabilities to one unit a half-frame.

Speech never goes back and skips nothing. A unit begins at the median of its beginning's posterior: the first
half-frame at which the pointer is more likely to have reached it than not. The most likely path (Viterbi) is no
substitute: where timing is uncertain it favours units with sharp posteriors and squeezes the others into one
inaudible half-frame.
"""
from __future__ import annotations

import numpy as np


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


def elapsed_in(path: np.ndarray, before: int = 0, previous: int | None = None) -> np.ndarray:
    """Half-frames since each half-frame's unit began; ``before``: what ``previous`` had spent already."""
    out = np.empty(len(path), np.int64)
    count, unit = before - 1, previous
    for i, place in enumerate(path):
        count = count + 1 if place == unit else 0
        unit = place
        out[i] = count
    return out
