"""What of a stream goes into a snapshot file, and how it comes back.

Everything does but what a stream has from its session and engine: the weights, the text front end's tables, the
character's pictures, callbacks and locks. Those are the reader's own, so the header says which model and which
character they must be.
"""
from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import heard, speech, timeline
from .interrupt import Fade
from .object_graph import ObjectGraph, fields_of
from .orchestrator import reading, text, written
from .stream import Emotion, Stream

if TYPE_CHECKING:
    from .engine import Engine

_CLASSES = (
    speech._Turn, speech._Token, speech._Pause, speech.CueCall, timeline.SpokenUnit, timeline.WrittenWord,
    timeline.Timeline, Emotion, reading.SpokenWord, reading.Mark, reading.Context, text.Cue, text._Piece,
    written.Unit, written.ScriptWarning, heard._Note, heard._Entry,
)  # fmt: skip
_APART = ("make_state", "speech", "state", "fade")  # fields of Stream that are not written as they are
_STREAM_FIELDS = tuple(field.name for field in dataclasses.fields(Stream) if field.name not in _APART)


class StreamCodec:
    """Writes and reads streams of one engine.

    Args:
        own: any stream of the engine, for what files do not hold.
    """

    def __init__(self, engine: Engine, own: Stream) -> None:
        self._engine, self._own = engine, own
        (pronouncer,) = engine.shared_text_tools
        transcript = own.speech.new_transcript()
        specimens = (transcript, transcript._reader, heard.Ledger())
        texts = {type(thing): fields_of(type(thing), thing) for thing in specimens}
        self._graph = ObjectGraph(
            {**{kind: fields_of(kind) for kind in _CLASSES}, **texts},
            {"pronouncer": pronouncer, "is_word": pronouncer.is_word, "flush": speech.FLUSH},
        )

    @property
    def layout(self) -> list[Any]:
        """Names of all that is written; a file with another layout is of another version."""
        return [self._graph.fingerprint, sorted(self._own.speech.content()), list(_STREAM_FIELDS)]

    def write(self, stream: Stream) -> tuple[dict[str, Any], list[np.ndarray]]:
        """JSON and arrays of a stream that nothing changes meanwhile."""
        return self._graph.write(
            {
                "stream": {name: getattr(stream, name) for name in _STREAM_FIELDS},
                "speech": stream.speech.content(),
                "state": stream.ready().export(),
                "fade": None if stream.fade is None else stream.fade.samples(),
            }
        )

    def read(self, graph: Mapping[str, Any], arrays: Sequence[np.ndarray], features: Any) -> Stream:
        """The stream; it takes over ``own``'s text queue and maker of states.

        Args:
            features: the character's, as the pipeline made them.

        Raises:
            ValueError, TypeError, KeyError, IndexError, AttributeError: where the content makes no sense.
        """
        content = self._graph.read(graph, arrays)
        self._own.speech.fill(content["speech"])
        state = self._engine.import_state(features, content["state"])
        fade = None if content["fade"] is None else Fade.of(content["fade"])
        own = {"make_state": self._own.make_state, "speech": self._own.speech}
        return Stream(**own, state=state, fade=fade, **content["stream"])
