"""What of the text has been heard by a given time: exact character offsets, for receipts and for captions.

Speech notes when each word begins, when it is over and when each turn is over. Generated chunks may lie seconds
ahead of the listener; any time back to the oldest one that may still be asked for has its exact answer. Of what
had been heard by then, only the chunks that begin before that time can tell: whether those behind it are made
already, or under way, changes nothing.
"""
from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol


class Turn(Protocol):
    id: int

    @property
    def whole_text(self) -> str: ...


class TurnText(NamedTuple):
    """A turn's text, cut in two at a time."""

    turn_id: int
    before: str
    after: str


class _Note(NamedTuple):
    pts: int
    chunk: int  # pts of the chunk that tells
    begun: int  # characters of the turn up to the end of the last word that has begun
    over: int  # the same for the last word that is over


@dataclass
class _Entry:
    turn: Turn
    notes: deque[_Note] = field(default_factory=deque)  # the first one may lie before the oldest time asked for
    end_pts: int | None = None
    end_chunk: int | None = None  # pts of the chunk in which the turn is over


class Ledger:
    """Times are those of the stream."""

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque()  # turns in the order in which they are spoken

    def open(self, turn: Turn) -> None:
        """The turn is next to be spoken. Saying so again changes nothing."""
        if not self._entries or self._entries[-1].turn is not turn:
            self._entries.append(_Entry(turn))

    def word_begins(self, turn: Turn, pts: int, chunk_pts: int, char_end: int) -> None:
        self._note(turn, pts, chunk_pts, char_end, 0)

    def word_is_over(self, turn: Turn, pts: int, chunk_pts: int, char_end: int) -> None:
        self._note(turn, pts, chunk_pts, 0, char_end)

    def turn_is_over(self, turn: Turn, pts: int, chunk_pts: int) -> None:
        entry = self._entry(turn)
        entry.end_pts, entry.end_chunk = pts, chunk_pts

    def heard(self, pts: int) -> list[TurnText]:
        """Turns that are not over at ``pts``, cut behind the last word that was heard whole by then."""
        return [
            self._cut(entry, max((note.over for note in entry.notes if note.pts <= pts and note.chunk < pts), default=0))
            for entry in self._entries
            if entry.end_pts is None or entry.end_pts > pts or entry.end_chunk >= pts
        ]

    def given(self, pts: int) -> list[TurnText]:
        """Turns that do not end in the chunks before ``pts``, cut behind the last word that begins in those."""
        return [
            self._cut(entry, max((note.begun for note in entry.notes if note.pts < pts), default=0))
            for entry in self._entries
            if entry.end_chunk is None or entry.end_chunk >= pts
        ]

    def turn(self, turn_id: int) -> Turn | None:
        """The turn of that number, while it is kept."""
        return next((entry.turn for entry in self._entries if entry.turn.id == turn_id), None)

    def knows(self, turn: Turn) -> bool:
        return any(entry.turn is turn for entry in self._entries)

    def forget_before(self, pts: int) -> None:
        """Nobody will ask for times before ``pts``."""
        while self._entries and self._entries[0].end_pts is not None and self._entries[0].end_chunk < pts:
            self._entries.popleft()
        for entry in self._entries:
            while len(entry.notes) > 1 and entry.notes[1].pts < pts:
                entry.notes.popleft()

    def _cut(self, entry: _Entry, at: int) -> TurnText:
        text = entry.turn.whole_text
        return TurnText(entry.turn.id, text[:at], text[at:])

    def _entry(self, turn: Turn) -> _Entry:
        return next(entry for entry in reversed(self._entries) if entry.turn is turn)

    def _note(self, turn: Turn, pts: int, chunk_pts: int, begun: int, over: int) -> None:
        notes = self._entry(turn).notes
        last = notes[-1] if notes else _Note(pts, chunk_pts, 0, 0)
        notes.append(_Note(pts, chunk_pts, max(begun, last.begun), max(over, last.over)))
