"""What a session yields: synchronized slices of speech and picture."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from .config import Mode
from .drift import Drift
from .errors import StateError


@dataclass(frozen=True, slots=True)
class Word:
    """A written word and when it is heard.

    ``end_pts`` of a word that goes on into the next chunk is an estimate: its end has not been generated yet.
    """

    text: str  # as pushed
    text_offset: int  # character offset in the text pushed for this turn
    begin_pts: int
    end_pts: int


@dataclass(frozen=True, slots=True)
class Viseme:
    """A mouth shape; the visemes of a chunk tile it without gap."""

    id: int  # 0..14, the 15-viseme set (0 = silence)
    weight: float  # 0..1
    begin_pts: int
    end_pts: int


@dataclass(frozen=True, slots=True)
class VideoFrame:
    """One picture of a chunk."""

    pixels: npt.NDArray[np.uint8]  # (height, width, channels)
    pts: int


@dataclass(frozen=True, slots=True)
class StageTimings:
    """Where the time of a chunk went."""

    orchestrator_ms: float
    context_ms: float
    denoise_ms: float
    audio_decode_ms: float
    video_decode_ms: float
    total_ms: float
    real_time_factor: float  # total time / playback time of the chunk
    denoise_steps: int  # fewer than configured when a deadline was near
    deadline_slack_ms: float  # negative: missed


@dataclass(frozen=True, slots=True)
class Interruption:
    """The receipt of an interrupt.

    ``spoken_text + unspoken_text`` is the turn's text, character for character. Whole words are heard or not: a
    word that was cut is unspoken. Both are empty where nothing was being said.
    """

    turn_id: int
    cut_pts: int  # where time goes on: what lies before it counts as heard
    spoken_text: str  # what of the turn was heard
    unspoken_text: str
    dropped_chunks: int  # made, and heard by nobody
    stop_latency_ms: float  # from the call until nothing more was computed
    # The next chunk's first samples, float32: the cut sound, dying away.
    fade: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32), repr=False, compare=False)
    dropped_turns: tuple[tuple[int, str], ...] = ()  # (id, text) of turns that waited behind it


class Chunk:
    """One synchronized slice of speech and picture.

    Attributes:
        turn_id: the turn that is spoken, or was last; 0 before the first one.
        index: 0, 1, 2 … within the session.
        pts: time of the first sample and of the first frame.
        duration: seconds.
        audio: float32 (chunk_samples,) mono in [-1, 1].
        video: uint8 (chunk_frames, height, width, 4|3), the session's pixel format; straight alpha.
        words: those that begin in this chunk.
        visemes: mouth shapes, tiling the chunk.
        mode: what the character does.
        end_of_turn: the turn's speech has ended within this chunk.
        discontinuity: first chunk after a reset, restore or interrupt.
        timings: where the time went.
        drift: how far the picture is from the character's reference picture.

    The arrays belong to the chunk until ``release()``.
    """

    __slots__ = (
        "turn_id", "index", "pts", "duration", "words", "visemes", "mode", "end_of_turn", "discontinuity", "timings",
        "drift", "_audio", "_video",
    )  # fmt: skip

    def __init__(
        self,
        *,
        turn_id: int,
        index: int,
        pts: int,
        duration: float,
        audio: npt.NDArray[np.float32],
        video: npt.NDArray[np.uint8],
        words: tuple[Word, ...],
        visemes: tuple[Viseme, ...],
        mode: Mode,
        end_of_turn: bool,
        discontinuity: bool,
        timings: StageTimings,
        drift: Drift | None = None,
    ) -> None:
        self.turn_id = turn_id
        self.index = index
        self.pts = pts
        self.duration = duration
        self.words = words
        self.visemes = visemes
        self.mode = mode
        self.end_of_turn = end_of_turn
        self.discontinuity = discontinuity
        self.timings = timings
        self.drift = drift or Drift(0.0, 0.0, 0.0)
        self._audio: npt.NDArray[np.float32] | None = audio
        self._video: npt.NDArray[np.uint8] | None = video

    @property
    def audio(self) -> npt.NDArray[np.float32]:
        if self._audio is None:
            raise self._released()
        return self._audio

    @property
    def video(self) -> npt.NDArray[np.uint8]:
        if self._video is None:
            raise self._released()
        return self._video

    def frames(self) -> Iterator[VideoFrame]:
        """The pictures with their times. Frame times are exact where a frame is a whole number of samples."""
        video, samples = self.video, len(self.audio)
        for i in range(len(video)):
            yield VideoFrame(video[i], self.pts + i * samples // len(video))

    def audio_dlpack(self) -> Any:
        """The audio as an object that ``from_dlpack`` of any framework takes; shares memory."""
        return self.audio

    def video_dlpack(self) -> Any:
        """The video as an object that ``from_dlpack`` of any framework takes; shares memory."""
        return self.video

    def copy(self) -> Chunk:
        """An independent chunk that ``release()`` of this one does not touch."""
        return Chunk(
            turn_id=self.turn_id, index=self.index, pts=self.pts, duration=self.duration, audio=self.audio.copy(),
            video=self.video.copy(), words=self.words, visemes=self.visemes, mode=self.mode,
            end_of_turn=self.end_of_turn, discontinuity=self.discontinuity, timings=self.timings,
            drift=self.drift,
        )  # fmt: skip

    def release(self) -> None:
        """Gives the arrays back. They must not be used afterwards; calling it twice is harmless."""
        self._audio = self._video = None

    def _released(self) -> StateError:
        return StateError(f"chunk {self.index} has been released", hint="use copy() to keep a chunk")

    def __repr__(self) -> str:
        words = " ".join(word.text for word in self.words)
        end = ", end of turn" if self.end_of_turn else ""
        return f"<Chunk {self.index} turn={self.turn_id} pts={self.pts} {self.mode.value} {words!r}{end}>"
