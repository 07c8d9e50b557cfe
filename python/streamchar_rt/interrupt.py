"""Cutting a stream: what lies behind each chunk boundary, and the fade that hides the cut."""
from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from .stream import Mark

_RISE = 0.01  # seconds in which the sound after a cut comes up
_MOST = 256  # chunks whose sound is kept for a playback that is reported far behind


class Fade:
    """The sound that would have followed a cut, dying away.

    It is the beginning of the first chunk after the cut, and known before that chunk is: an application may play
    it at once, and go on with that chunk behind it.

    Args:
        known: what was generated after the cut, float32.
        state: the model's state behind ``known``, asked for sound that is planned already; None: there is none.
        length: samples of the fade.
    """

    def __init__(self, known: npt.NDArray[np.float32], state: Any, length: int) -> None:
        self._known, self._state, self._length = known, state, length
        self._samples: npt.NDArray[np.float32] | None = None
        self._lock = threading.Lock()

    @classmethod
    def of(cls, samples: npt.NDArray[np.float32]) -> Fade:
        """The fade that has these samples."""
        self = cls(samples[:0], None, len(samples))
        self._samples = samples
        return self

    def samples(self) -> npt.NDArray[np.float32]:
        """(length,) float32, read-only. The first call may decode a few frames; any thread may make it."""
        with self._lock:
            if self._samples is None:
                sound = self._known[: self._length]
                if len(sound) < self._length and self._state is not None:
                    sound = np.concatenate([sound, self._state.audio_ahead()])[: self._length]
                samples = np.zeros(self._length, np.float32)
                # From nearly one to zero, over what there is: where little sound is known, it ends the sooner.
                falling = np.cos(np.arange(1, len(sound) + 1) / max(1, len(sound)) * np.pi / 2) ** 2
                samples[: len(sound)] = sound * falling
                samples.flags.writeable = False
                self._samples, self._known, self._state = samples, self._known[:0], None
            return self._samples

    def begin(self, audio: npt.NDArray[np.float32], lead: int, sample_rate: int) -> npt.NDArray[np.float32]:
        """The first chunk after the cut: ``audio`` with the fade as its beginning.

        Args:
            audio: as generated, (samples,).
            lead: samples at its beginning that were planned before the cut; they are not heard.
        """
        out = audio.copy()
        out[:lead] = 0.0
        rise = out[lead : lead + round(_RISE * sample_rate)]
        rise *= np.sin((np.arange(len(rise)) + 1) / (len(rise) + 1) * np.pi / 2) ** 2
        fade = self.samples()
        out[: len(fade)] += fade
        return np.clip(out, -1.0, 1.0, out=out)


@dataclass
class Boundary:
    """The stream before a chunk, and that chunk's sound once it is there."""

    pts: int  # of the session's clock
    mark: Mark | None  # None: it lies too far back for the model's state to be kept
    audio: npt.NDArray[np.float32] | None = None


class History:
    """Boundaries from the oldest that may still be heard up to the newest, which no chunk follows yet."""

    def __init__(self, pts: int, mark: Mark) -> None:
        self._boundaries = deque([Boundary(pts, mark)])
        self._begin = pts

    @property
    def oldest_pts(self) -> int:
        return self._boundaries[0].pts

    @property
    def oldest_place(self) -> int:
        """The first unit that a stream taken back to one of the boundaries may still ask for."""
        return min(entry.mark.timeline.oldest_place for entry in self._boundaries if entry.mark is not None)

    def add(self, audio: npt.NDArray[np.float32], pts: int, mark: Mark) -> None:
        """A chunk with this sound has been made; the stream after it is ``mark``, at ``pts``."""
        self._boundaries[-1].audio = audio.copy()
        self._boundaries.append(Boundary(pts, mark))

    def forget(self, before: float, marks: int) -> None:
        """Drops boundaries that no time from ``before`` on needs, and the model's state of all but ``marks``."""
        boundaries = self._boundaries
        while len(boundaries) > 1 and (boundaries[1].pts <= before or len(boundaries) > _MOST):
            boundaries.popleft()
        for entry in list(boundaries)[:-marks]:
            entry.mark = None

    def back_to(self, pts: int) -> Mark:
        """Drops what lies behind the boundary at ``pts``, which is the newest one then; returns the stream there."""
        while self._boundaries[-1].pts > pts:
            self._boundaries.pop()
        self._boundaries[-1].audio = None
        return self._boundaries[-1].mark

    def mark_at(self, pts: int) -> Mark:
        """The stream at the last boundary at or before ``pts``; where it is not kept, at the first one after."""
        before = next((entry.mark for entry in reversed(self._boundaries) if entry.pts <= pts), None)
        return before or next(entry.mark for entry in self._boundaries if entry.mark is not None)

    def chunks_from(self, pts: int) -> int:
        """How many of the chunks that were made begin at ``pts`` or later."""
        return sum(entry.audio is not None and entry.pts >= pts for entry in self._boundaries)

    def fade(self, pts: int, length: int) -> Fade:
        """The fade for a cut at ``pts``: silence where nothing was heard yet; where there was a cut already and
        nothing was heard since, that one's."""
        for entry in self._boundaries:
            if entry.pts == pts and entry.mark is not None and entry.mark.fade is not None:
                return entry.mark.fade
        if pts == self._begin:
            return Fade(np.zeros(0, np.float32), None, length)
        known = [
            entry.audio[max(0, pts - entry.pts) :]
            for entry in self._boundaries
            if entry.audio is not None and entry.pts + len(entry.audio) > pts
        ]
        sound = np.concatenate([np.zeros(0, np.float32), *known])[:length]
        return Fade(sound, self._boundaries[-1].mark.state, length)
