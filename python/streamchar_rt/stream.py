"""All that changes in one live character, in one object."""
from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .speech import CueCall, Speech
from .timeline import Timeline


@dataclass
class Emotion:
    """The emotion in force, and the time at which it ends."""

    index: int = 0
    until: int | None = None

    def act(self, cue: CueCall, emotions: Sequence[str], pts: int, sample_rate: int) -> None:
        """Takes a cue's emotion. The model knows an emotion or none: strengths below a half mean neutral."""
        if cue.name in emotions:
            self.index = emotions.index(cue.name) if cue.strength >= 0.5 else 0
            self.until = None if cue.duration is None else pts + round(cue.duration * sample_rate)

    def at(self, pts: int) -> int:
        if self.until is not None and pts >= self.until:
            self.index, self.until = 0, None
        return self.index


@dataclass
class Stream:
    """One stream: the model's state, the text, the clock.

    Attributes:
        make_state: makes the model's state on first use.
        pts: time of the next chunk, in samples of this stream.
        last_frame: the newest picture, to hold while nothing is generated.
        stuck: chunks for which the pointer has not moved though units lie ahead.
    """

    make_state: Callable[[], Any]
    speech: Speech
    timeline: Timeline
    emotion: Emotion
    state: Any = None
    pts: int = 0
    last_frame: Any = None
    stuck: int = 0
    discontinuity: bool = False

    def ready(self) -> Any:
        """The model's state."""
        if self.state is None:
            self.state = self.make_state()
        return self.state

    def clone(self) -> Stream:
        """An independent stream that goes on from here."""
        memo: dict[int, Any] = {}  # units, turns and timeline go on sharing their words
        return Stream(
            self.make_state, self.speech.clone(memo), copy.deepcopy(self.timeline, memo), Emotion(self.emotion.index, self.emotion.until),
            self.ready().clone(), self.pts, self.last_frame, self.stuck, self.discontinuity,
        )  # fmt: skip
