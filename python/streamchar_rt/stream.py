"""All that changes in one live character, in one object."""
from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from .interrupt import Fade
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


@dataclass(frozen=True)
class Mark:
    """A stream at a chunk boundary, without its text: what an interrupt goes back to."""

    state: Any
    timeline: Timeline
    emotion: Emotion
    last_frame: Any
    pts: int
    discontinuity: bool = False
    fade: Fade | None = None
    drifting: bool = False
    anchored: bool = False


@dataclass
class Stream:
    """One stream: the model's state, the text, the clock.

    Attributes:
        make_state: makes the model's state on first use.
        pts: time of the next chunk, in samples of this stream.
        last_frame: the newest picture, to hold while nothing is generated.
        stuck: chunks for which the pointer has not moved though units lie ahead.
        discontinuity: the next chunk does not go on where the one before ended.
        fade: sound of before a cut that the next chunk begins with.
        drifting: the picture is further from the reference than it should be, and an event has said so.
        anchored: and for that the model has been taken back to the reference.
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
    fade: Fade | None = None
    drifting: bool = False
    anchored: bool = False

    def ready(self) -> Any:
        """The model's state."""
        if self.state is None:
            self.state = self.make_state()
        return self.state

    def clone(self) -> Stream:
        """An independent stream that goes on from here."""
        memo: dict[int, Any] = {}  # units, turns and timeline go on sharing their words
        return replace(
            self, speech=self.speech.clone(memo), timeline=copy.deepcopy(self.timeline, memo),
            emotion=replace(self.emotion), state=None if self.state is None else self.state.clone(),
        )  # fmt: skip

    def mark(self) -> Mark:
        """The stream as it is now."""
        state = None if self.state is None else self.state.clone()
        fields = self.last_frame, self.pts, self.discontinuity, self.fade, self.drifting, self.anchored
        return Mark(state, self.timeline.clone(), replace(self.emotion), *fields)

    def back_to(self, mark: Mark) -> Stream:
        """The stream as it was at ``mark``, with the text that it has now."""
        state = None if mark.state is None else mark.state.clone()
        return Stream(
            self.make_state, self.speech.clone(), mark.timeline.clone(), replace(mark.emotion), state, mark.pts,
            mark.last_frame, discontinuity=mark.discontinuity, fade=mark.fade, drifting=mark.drifting,
            anchored=mark.anchored,
        )  # fmt: skip

    def cut(self, mark: Mark, last_turn: int, fade: Fade | None) -> Stream:
        """A stream without text that goes on from ``mark``; ``last_turn`` is the one that was cut."""
        state = None if mark.state is None else mark.state.clone()
        place = 0 if state is None else state.cut()  # a new state stands at the END at place 0
        return Stream(
            self.make_state, self.speech.after_cut(last_turn, place), mark.timeline.after_cut(place),
            replace(mark.emotion), state, mark.pts, mark.last_frame, discontinuity=True, fade=fade,
            drifting=mark.drifting, anchored=mark.anchored,
        )  # fmt: skip
