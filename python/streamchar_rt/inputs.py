"""What comes into a session: calls of any thread, each of which takes effect with the next chunk that begins."""
from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

from .live import Live
from .rest import recall_rest
from .speech import Speech


class Inputs:
    """The way to a session's text queue. Calls that succeed are written down where the session is recorded."""

    def __init__(self, live: Live) -> None:
        self._live = live

    @contextlib.contextmanager
    def call(self, name: str = "", /, **arguments: Any) -> Iterator[Speech]:
        """The text queue, locked for one call; without a name it is not written down."""
        live = self._live
        with live.changed:
            live.check_open()
            if live.background and self._lets_speech_begin(name, arguments):
                recall_rest(live)
            yield live.stream.speech
            if name:
                live.journalled(name, **arguments)
            live.touch()

    def push(self, text: str) -> None:
        """Adds text; after an interrupt, the turnaround counts from the first text on."""
        with self.call("push_text", text=text) as speech:
            speech.push(text)
            self._live.turnaround.text_comes(time.perf_counter())

    def hold(self, source: Iterator[str]) -> None:
        """Adds a stream of text that is drawn as it is spoken."""
        with self.call() as speech:
            speech.hold(self._watched(source))

    def _watched(self, source: Iterator[str]) -> Iterator[str]:
        """A stream of text whose pieces are written down as they are drawn. The lock is held."""
        live, journal = self._live, self._live.journal
        if journal is None:
            return source
        number = journal.new_stream()
        journal.call("hold", stream=number)

        def watched() -> Iterator[str]:
            for piece in source:
                with live.changed:
                    journal.drawn(number, piece)
                yield piece

        return watched()

    def _lets_speech_begin(self, call: str, arguments: Mapping[str, Any]) -> bool:
        """Whether a call ends a rest: the first text, or the word that no more comes. Each does so but once."""
        speech = self._live.stream.speech
        if call == "push_text":
            return bool(arguments["text"].strip()) and not speech.has_text
        return call in ("flush", "end_turn") and speech.has_text
