"""New streams for a session."""
from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .character import Character
from .config import SessionConfig
from .speech import Emit, Speech
from .stream import Emotion, Stream
from .timeline import Timeline

if TYPE_CHECKING:
    from .engine import Engine


class StreamMaker:
    """Makes streams that begin at silence, without a model's state yet; their warnings go to ``warn``."""

    def __init__(self, engine: Engine, character: Character, config: SessionConfig, warn: Emit) -> None:
        self._engine, self._character, self._warn = engine, character, warn
        self._tags = config.markup == "tags"
        self._limit = config.max_pending_text

    def new(self, seed: int, first_turn: int) -> Stream:
        engine = self._engine
        info, half_frames = engine.info, engine.info.chunk_frames * 2
        return Stream(
            make_state=_StateMaker(engine, self._character, seed),
            speech=Speech(
                engine.transcripts(tags=self._tags),
                limit=self._limit,
                warn=self._warn,
                is_known_cue=engine.emotions().__contains__,
                shared=engine.shared_text_tools,
                first_turn=first_turn,
            ),
            timeline=Timeline(info.chunk_samples // half_frames, carry=(0,) * engine.audio_lead),
            emotion=Emotion(),
        )

    def lift_limit(self) -> None:
        """Streams made from now on take all text."""
        self._limit = sys.maxsize


class _StateMaker:
    """Makes the model's state of a stream."""

    def __init__(self, engine: Engine, character: Character, seed: int) -> None:
        self.engine, self.character, self.seed = engine, character, seed

    def __call__(self) -> Any:
        return self.engine.new_state(self.character, self.seed)
