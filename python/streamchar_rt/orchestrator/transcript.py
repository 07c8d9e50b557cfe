"""The transcript of a turn: pushed text → the tokens that the orchestrator reads.

Text may come in any split ("Hel" + "lo"); a word becomes tokens once its end is seen, or at :meth:`Transcript.flush`.
The tokens do not depend on the split.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from streamchar_rt.orchestrator.pronounce import Pronouncer
from streamchar_rt.orchestrator.reading import Mark, SpokenWord
from streamchar_rt.orchestrator.text import Cue, Item, TextReader
from streamchar_rt.orchestrator.units import PAUSE_LONG
from streamchar_rt.orchestrator.written import ScriptWarning


class TranscriptToken(NamedTuple):
    unit: int  # see units.py
    stress: int  # 0 or 1, vowels only
    word_start: bool
    word_index: int  # into the turn's words, -1 for pauses
    char_begin: int  # characters of the text pushed in this turn, [begin, end)
    char_end: int


class TranscriptWord(NamedTuple):
    """A spoken word. "$5" gives two, "five" and "dollars", with the same span."""

    text: str  # as written where that is one word, else as spoken
    char_begin: int
    char_end: int
    first_token: int  # index of its first token in the turn
    num_tokens: int


class TranscriptCue(NamedTuple):
    """An inline tag; it takes effect when token ``token_index`` of the turn is about to be spoken."""

    name: str
    value: float | None
    char_begin: int
    char_end: int
    token_index: int


class TranscriptWarning(NamedTuple):
    """Text that was skipped because the voice does not speak its script."""

    script: str
    char_begin: int
    char_end: int


@dataclass
class TranscriptUpdate:
    """What one call added to the turn."""

    tokens: list[TranscriptToken] = field(default_factory=list)
    words: list[TranscriptWord] = field(default_factory=list)
    cues: list[TranscriptCue] = field(default_factory=list)
    warnings: list[TranscriptWarning] = field(default_factory=list)


class Transcript:
    """The text front end of one session: turns one after another, offsets and indices from 0 in each.

    It keeps only what is held back; the tokens are the caller's. Not thread-safe.
    """

    def __init__(self, pronouncer: Pronouncer, *, tags: bool = True) -> None:
        self._pronouncer = pronouncer
        self._tags = tags
        self.reset()

    def reset(self) -> None:
        """Drop what is held back and begin a new turn."""
        self._reader = TextReader(self._pronouncer.is_word, tags=self._tags)
        self._pushed = 0
        self._waiting: list[Item] = []  # items behind a word whose phones look ahead, or behind a pause
        self._previous_word = ""
        self._num_tokens = 0
        self._num_words = 0
        self._speaking = False  # the last token is a phone

    @property
    def pushed(self) -> int:
        """Characters pushed in this turn."""
        return self._pushed

    @property
    def held_from(self) -> int:
        """Offset of the first character that has no token yet and may still get one."""
        waiting = [item.begin for item in self._waiting if isinstance(item, SpokenWord)]
        return min([*waiting, self._reader.read_until])

    def push(self, text: str) -> TranscriptUpdate:
        """Add text to the turn."""
        self._pushed += len(text)
        return self._take(self._reader.push(text), final=False)

    def flush(self) -> TranscriptUpdate:
        """Take what is held back as complete; the turn goes on."""
        return self._take(self._reader.flush(), final=True)

    def end_turn(self) -> TranscriptUpdate:
        """Flush, close the last sentence with a long pause if no pause stands there, and begin a new turn."""
        update = self.flush()
        if self._speaking:
            update.tokens.append(TranscriptToken(PAUSE_LONG, 0, False, -1, self._pushed, self._pushed))
        self.reset()
        return update

    # ------------------------------------------------------------ items → tokens
    def _take(self, items: list[Item], final: bool) -> TranscriptUpdate:
        update = TranscriptUpdate()
        waiting = self._waiting + items
        done = 0
        while done < len(waiting):
            step = self._emit(waiting, done, final, update)
            if not step:
                break
            done += step
        self._waiting = waiting[done:]
        return update

    def _emit(self, items: list[Item], at: int, final: bool, update: TranscriptUpdate) -> int:
        """Emit what stands at ``at``; returns how many items that took, 0 if it must wait."""
        item = items[at]
        if isinstance(item, Cue):
            update.cues.append(TranscriptCue(item.name, item.value, item.begin, item.end, self._num_tokens))
            return 1
        if isinstance(item, ScriptWarning):
            update.warnings.append(TranscriptWarning(*item))
            return 1
        if isinstance(item, Mark):
            return self._emit_pause(items, at, final, update)
        if self._pronouncer.looks_ahead(item.spoken):
            following = next((i for i in items[at + 1 :] if isinstance(i, SpokenWord | Mark)), None)
            if following is None and not final:
                return 0
        else:
            following = None
        self._emit_word(item, following.spoken if isinstance(following, SpokenWord) else "", update)
        return 1

    def _emit_word(self, word: SpokenWord, following: str, update: TranscriptUpdate) -> None:
        phones = self._pronouncer.in_context(word.spoken, word.is_letter, self._previous_word, following)
        self._previous_word = word.spoken
        if not phones:
            return
        update.words.append(TranscriptWord(word.text, word.begin, word.end, self._num_tokens, len(phones)))
        for position, phone in enumerate(phones):
            update.tokens.append(
                TranscriptToken(phone.unit, phone.stress, position == 0, self._num_words, word.begin, word.end)
            )
        self._num_tokens += len(phones)
        self._num_words += 1
        self._speaking = True

    def _emit_pause(self, items: list[Item], at: int, final: bool, update: TranscriptUpdate) -> int:
        """Marks in a row are one pause, long if one of them is; none before the first word."""
        end = at
        while end < len(items) and not isinstance(items[end], SpokenWord):
            end += 1
        if end == len(items) and not final:
            return 0  # another mark may follow
        marks = [item for item in items[at:end] if isinstance(item, Mark)]
        if self._speaking:
            unit = max(mark.unit for mark in marks)
            update.tokens.append(TranscriptToken(unit, 0, False, -1, marks[0].begin, marks[-1].end))
            self._num_tokens += 1
            self._speaking = False
        self._previous_word = ""
        for item in items[at:end]:
            if not isinstance(item, Mark):
                self._emit([item], 0, final, update)
        return end - at
