"""Monotonic alignment: from the pointer's logits to one unit a half-frame.

Speech never goes back and skips nothing, so at run time the most likely monotonic path is taken (a Viterbi
search): no unit of the transcript can be lost or said twice, whatever the logits' noise.
"""
from __future__ import annotations

import numpy as np


def monotonic_path(logits: np.ndarray, first: int, *, minimum: int = 1, elapsed: int = 0,
                   optional: np.ndarray | None = None) -> np.ndarray:
    """The best path through a chunk.

    ``logits``: float (T, W), -inf for units that cannot be used; ``first``: the unit of the half-frame before
    the chunk, in which ``elapsed`` half-frames were spent; every unit that is left has lasted at least
    ``minimum`` half-frames, and none is skipped except where ``optional`` (W,) bool allows it (pauses).
    Returns int64 (T,).
    """
    steps, width = logits.shape
    peak = logits.max(1, keepdims=True)
    scores = logits - peak - np.log(np.exp(logits - peak).sum(1, keepdims=True))
    scores = np.maximum(scores, -30.0) + np.where(np.isfinite(logits), 0.0, -np.inf)
    if optional is None:
        optional = np.zeros(width, bool)
    # best[m, w]: score of a path now in unit w that has spent m + 1 half-frames there (the last m: or more).
    # The first chunk's unit carries what it spent before.
    best = np.full((minimum, width), -np.inf)
    best[min(max(elapsed, 1), minimum) - 1, first] = 0.0
    came = np.zeros((steps, minimum, width), np.int64)          # flat index into the previous best
    places = np.arange(width)
    for t in range(steps):
        leave = best[minimum - 1]
        step_one = np.concatenate([[-np.inf], leave[:-1]])
        source = np.concatenate([[0], places[:-1]])
        skip = np.concatenate([[-np.inf, -np.inf], np.where(optional[1:-1], leave[:-2], -np.inf)])
        use_skip = skip > step_one
        enter = np.where(use_skip, skip, step_one)
        source = np.where(use_skip, np.maximum(places - 2, 0), source)
        new = np.full_like(best, -np.inf)
        if minimum == 1:
            stay = best[0]
            new[0] = np.maximum(stay, enter)
            came[t, 0] = np.where(stay >= enter, places, source)
        else:
            new[0] = enter
            came[t, 0] = (minimum - 1) * width + source
            for m in range(1, minimum - 1):
                new[m] = best[m - 1]
                came[t, m] = (m - 1) * width + places
            older, stay = best[minimum - 2], best[minimum - 1]
            new[minimum - 1] = np.maximum(older, stay)
            came[t, minimum - 1] = np.where(stay >= older, (minimum - 1) * width, (minimum - 2) * width) + places
        best = new + scores[t]
    at = int(np.argmax(best))
    path = np.empty(steps, np.int64)
    for t in range(steps - 1, -1, -1):
        path[t] = at % width
        at = int(came[t].reshape(-1)[at])
    return path


def elapsed_in(path: np.ndarray, before: int = 0, previous: int | None = None) -> np.ndarray:
    """Half-frames since each half-frame's unit began; ``before``: what ``previous`` had spent already."""
    out = np.empty(len(path), np.int64)
    count, unit = before - 1, previous
    for i, place in enumerate(path):
        count = count + 1 if place == unit else 0
        unit = place
        out[i] = count
    return out
