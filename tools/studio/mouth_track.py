"""Phones with times to mouth curves: coarticulated visemes with closures that always land."""

from __future__ import annotations

from typing import Sequence

import numpy as np

from .visemes import MOUTH_FIELDS, MOUTH_SHAPES, PHONE_TO_VISEME, VISEMES

Segment = tuple[str, float, float, int]  # phone, begin s, end s, stress 0/1/2

_OPEN, _WIDE, _ROUND, _TEETH, _TONGUE = range(len(MOUTH_FIELDS))
_SIL, _PP, _FF = (VISEMES.index(v) for v in ("sil", "PP", "FF"))

#: a diphthong's two halves; the first takes 60 % of its time
_GLIDES = {"ay": ("aa", "ih"), "aw": ("aa", "ou"), "oy": ("oh", "ih"), "ey": ("E", "ih"), "ow": ("oh", "ou")}

# How strongly a viseme insists on its own opening, and on its own spread or rounding.
_OPEN_WEIGHT = np.array([1, 1, 1, 0.9, 0.6, 0.5, 0.9, 0.9, 0.55, 0.7, 1, 1, 1, 1, 1], np.float32)
_SHAPE_WEIGHT = np.array([0.5, 0.3, 0.5, 0.5, 0.35, 0.2, 0.9, 0.8, 0.3, 0.8, 1, 1, 1, 1.1, 1.4], np.float32)

_OPEN_LEAD = 0.015  # s the jaw runs ahead of the sound
_SHAPE_LEAD = 0.050  # s the lips' spread and rounding run ahead
_RELEASE = 0.045  # s to open from a closure


def _targets(segments: Sequence[Segment]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Viseme ids, begins, ends, shapes (N, 5) and opening weights of the visemes spoken."""
    ids, begins, ends, shapes, weights = [], [], [], [], []
    for phone, begin, end, stress in segments:
        halves = _GLIDES.get(phone)
        if halves:
            cut = begin + 0.6 * (end - begin)
            parts = [(VISEMES.index(halves[0]), begin, cut), (VISEMES.index(halves[1]), cut, end)]
        else:
            parts = [(PHONE_TO_VISEME.get(phone, _SIL), begin, end)]
        for viseme, b, e in parts:
            shape = MOUTH_SHAPES[viseme].copy()
            if viseme >= VISEMES.index("aa"):
                shape[_OPEN] *= (0.78, 1.04, 0.92)[stress if stress in (1, 2) else 0]
                if phone == "ax":
                    shape[_OPEN] *= 0.62
            ids.append(viseme)
            begins.append(b)
            ends.append(max(e, b + 1e-3))
            shapes.append(shape)
            # /h/ has no shape of its own: it borrows the vowel's.
            weights.append(0.2 if phone == "hh" else float(_OPEN_WEIGHT[viseme]))
    return (
        np.array(ids, int),
        np.array(begins),
        np.array(ends),
        np.array(shapes, np.float32).reshape(-1, len(MOUTH_FIELDS)),
        np.array(weights, np.float32),
    )


def mouth_track(segments: Sequence[Segment], n_frames: int, fps: float = 25.0) -> np.ndarray:
    """Mouth fields float32 (n_frames, 5) in MOUTH_FIELDS order; frame i is seen at (i + 0.5) / fps.

    Visemes blend by Gaussian dominance. /p b m/ close the lips and /f v/ bring lip to teeth in
    at least one frame each, however short they are.
    """
    t = (np.arange(n_frames) + 0.5) / fps
    out = np.zeros((n_frames, len(MOUTH_FIELDS)), np.float32)
    total = np.full((n_frames, len(MOUTH_FIELDS)), 1e-4, np.float32)
    ids, begins, ends, shapes, weights = _targets(segments)
    for viseme, b, e, shape, weight in zip(ids, begins, ends, shapes, weights):
        sigma = 0.42 * min(e - b, 0.5) + 0.026
        i0, i1 = (int(np.clip(x * fps, 0, n_frames)) for x in (b - 4 * sigma, e + 4 * sigma + 1))
        if i1 <= i0:
            continue
        centre, half = (b + e) / 2, max(0.0, (e - b) / 2 - 0.25)
        tt = t[i0:i1]

        def dominance(lead: float) -> np.ndarray:
            # Long silences and held vowels are flat in the middle.
            away = np.maximum(np.abs(tt - centre + lead) - half, 0.0)
            return np.exp(-0.5 * (away / sigma) ** 2)

        d = np.empty((i1 - i0, len(MOUTH_FIELDS)), np.float32)
        d[:, [_OPEN, _TEETH, _TONGUE]] = dominance(_OPEN_LEAD)[:, None]
        d[:, [_WIDE, _ROUND]] = dominance(_SHAPE_LEAD)[:, None] * _SHAPE_WEIGHT[viseme]
        d[:, _OPEN] *= weight
        out[i0:i1] += d * shape
        total[i0:i1] += d
    out /= total
    for viseme, b, e in zip(ids, begins, ends):
        if viseme in (_PP, _FF):
            _close(out, t, fps, int(viseme), b, e)
    return out


def _close(out: np.ndarray, t: np.ndarray, fps: float, viseme: int, b: float, e: float) -> None:
    """Pull the frames of a closure, and the approach to it, to its target."""
    if not len(t) or e < t[0] - 0.5 / fps or b > t[-1] + 0.5 / fps:
        return
    nearest = t[int(np.clip(round((b + e) / 2 * fps - 0.5), 0, len(t) - 1))]
    b, e = min(b + 0.01, nearest), max(e - 0.01, nearest)
    i0, i1 = (int(np.clip(x * fps, 0, len(t))) for x in (b - _RELEASE - 0.1, e + _RELEASE + 0.1))
    away = np.clip(np.maximum(b - t[i0:i1], t[i0:i1] - e) / _RELEASE, 0.0, 1.0)
    pull = (1 - away * away * (3 - 2 * away)).astype(np.float32)
    for field in (_OPEN, _TEETH, _TONGUE):
        out[i0:i1, field] += pull * (MOUTH_SHAPES[viseme, field] - out[i0:i1, field])
