"""Are the joins of chunks seen or heard? The jump from one frame, or sample, to the next: at joins and inside chunks.

A stream without seams jumps at its joins as it does everywhere. Ratio 1 means that, 2 is a jump twice as large.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

_NEAR = 160  # samples about a place that say how loud it is there: 10 ms at 16 kHz
_CLICK = 2  # samples about a place in which a click may lie
_QUIET = 1e-3  # root mean square below which there is nothing to be clicked upon


class Seams(NamedTuple):
    """Of one kind of jump. NaN where there are no joins, or nothing inside them."""

    ratio: float  # mean jump at joins over the mean inside
    median_ratio: float
    outliers: float  # share of joins beyond the inside's 99th percentile; 0.01 is no seam
    joins: int

    @property
    def plain(self) -> dict[str, float | int]:
        return self._asdict()


def compare(at_joins: np.ndarray, inside: np.ndarray) -> Seams:
    """Two sets of jumps, (M,) and (N,), none negative."""
    at_joins, inside = np.asarray(at_joins, np.float64), np.asarray(inside, np.float64)
    if not len(at_joins) or not len(inside):
        return Seams(float("nan"), float("nan"), float("nan"), len(at_joins))
    share = lambda a, b: float(a / b) if b > 0 else 1.0 if a == 0 else float("inf")
    return Seams(share(at_joins.mean(), inside.mean()), share(np.median(at_joins), np.median(inside)),
                 float((at_joins > np.quantile(inside, 0.99)).mean()), len(at_joins))


def frame_seams(jumps: np.ndarray, chunk_frames: int, latent_frames: int) -> tuple[Seams, Seams]:
    """Seams at the joins of chunks, and at those of the latents inside chunks; both against jumps inside latents.

    ``jumps`` (T,): how far each frame is from the one before; the stream's first is left out.
    """
    at = np.arange(len(jumps))
    chunk, latent = at % chunk_frames == 0, at % latent_frames == 0
    return compare(jumps[chunk & (at > 0)], jumps[~latent]), compare(jumps[latent & ~chunk], jumps[~latent])


def clicks(samples: np.ndarray, places: np.ndarray) -> np.ndarray:
    """How sharp the sound is at places, float64 (k,) with k <= len(places): those in silence are left out.

    The largest second difference within two samples of the place, over the root mean square of 10 ms about it: a step
    or a kink is sharp, a wave that goes on is not.
    """
    x = np.asarray(samples, np.float64)
    kinks = np.abs(np.diff(x, 2, prepend=x[:1], append=x[-1:])) if len(x) else x
    out = []
    for place in places:
        near = x[max(0, place - _NEAR): place + _NEAR]
        level = float(np.sqrt(np.mean(near ** 2))) if len(near) else 0.0
        if level > _QUIET:
            out.append(kinks[max(0, place - _CLICK): place + _CLICK + 1].max() / level)
    return np.array(out)


def sound_seams(samples: np.ndarray, chunk_samples: int, per_chunk: int = 16) -> Seams:
    """Joins every ``chunk_samples``, compared with ``per_chunk - 1`` evenly spaced places between them."""
    places = np.arange(1, len(samples) * per_chunk // chunk_samples) * chunk_samples // per_chunk
    join = np.arange(1, len(places) + 1) % per_chunk == 0
    return compare(clicks(samples, places[join]), clicks(samples, places[~join]))
