"""When the eyes blink and where they look: planned beside the speech, and drawn into the picture's latents.

Blinks and glances follow from nothing that is said, so a denoiser of few steps draws their mean: half a blink, in one
eye. The orchestrator decides them instead, as it decides when each phone is spoken, with a seeded process: blinks after
gamma-distributed pauses, now and then a double one; fixations, on the viewer or away, with saccades between. What
draws them is in ``codecs.eyes``, and in ``codecs.lids`` for lids that are further down.
"""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

FPS = 25                             # of the pictures that a network for eyes has been trained on

# By mode: idle, listening, speaking.
_BLINK_PAUSE = (3.4, 3.8, 3.1)       # mean seconds from one to the next
_SHORTEST_PAUSE = 1.0
_DOUBLE = 0.1                        # share of blinks that another follows at once
_AWAY = (0.62, 0.12, 0.3)            # share of fixations that are not on the viewer
_REACH = (0.75, 0.3, 0.5)            # and how far they go
_CLOSING = (np.array([0.42, 1.0, 0.6, 0.14]), np.array([0.8, 1.0, 0.36]))    # frame by frame
_UNDER_WAY = 0.6                     # of a saccade, in the one frame that it takes
_MOODS = {2: (0.14, 0.0, 0.25)}      # by emotion: the sad have heavy lids and look down


class Eyes(NamedTuple):
    """What they are about, between two chunks."""

    blink_in: int            # frames until a blink begins; negative within one
    blink: int               # how it closes
    rest: int = 0            # frames for which they look where they do
    x: float = 0.0           # right, -1..1
    y: float = 0.0           # down


def first_eyes(random: np.random.Generator) -> Eyes:
    """Of a stream that begins: characters that begin together do not blink together."""
    return Eyes(int(FPS * random.uniform(0.2, 2.5)), int(random.integers(len(_CLOSING))))


def plan_eyes(now: Eyes, frames: int, mode: int, emotion: int, random: np.random.Generator) -> tuple[np.ndarray, Eyes]:
    """Blink 0..1, gaze right and gaze down -1..1 of the next ``frames``, float32 (frames, 3), and how it goes on.

    ``mode``: idle, listening, speaking; it changes what begins from now on. ``emotion``: as a bundle counts them.
    """
    told = np.zeros((frames, 3), np.float32)
    for frame in range(frames):
        if now.rest == 0:
            x, y, rest = _fixation(mode, random)
            told[frame, 1:] = now.x + _UNDER_WAY * (x - now.x), now.y + _UNDER_WAY * (y - now.y)
            now = now._replace(x=x, y=y, rest=rest)
        else:
            told[frame, 1:] = now.x, now.y
        closing = _CLOSING[now.blink]
        if now.blink_in <= 0:
            told[frame, 0] = closing[-now.blink_in]
        now = now._replace(blink_in=now.blink_in - 1, rest=now.rest - 1)
        if now.blink_in <= -len(closing):
            now = now._replace(blink_in=_pause(mode, random) - len(closing), blink=int(random.integers(len(_CLOSING))))
    lids, x, y = _MOODS.get(emotion, (0.0, 0.0, 0.0))
    told[:, 0] = np.maximum(told[:, 0], lids)
    told[:, 1:] = np.clip(told[:, 1:] + (x, y), -1, 1)
    return told, now


def _pause(mode: int, random: np.random.Generator) -> int:
    """Frames from one blink's begin to the next one's."""
    if random.random() < _DOUBLE:
        return int(FPS * random.uniform(0.28, 0.4))
    return int(FPS * (_SHORTEST_PAUSE + random.gamma(2.0, (_BLINK_PAUSE[mode] - _SHORTEST_PAUSE) / 2)))


def _fixation(mode: int, random: np.random.Generator) -> tuple[float, float, int]:
    """Where the eyes look next, right and down, and for how many frames."""
    x, y = random.normal(0.0, 0.07, 2)
    if random.random() < _AWAY[mode]:
        x, y = x + random.uniform(-1, 1) * _REACH[mode], y + random.uniform(-0.4, 0.35) * _REACH[mode]
        rest = random.uniform(0.5, 1.6)
    else:
        rest = random.uniform(0.9, 3.2)
    return float(x), float(y), max(3, int(FPS * rest))
