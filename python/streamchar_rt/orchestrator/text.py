"""The streaming text front end: pushed text, in any split → spoken words, pauses, cues and warnings.

Text is cut at white space into pieces. A piece is read when it is complete (white space follows) and, if its
reading looks ahead, when the next piece is complete too; :meth:`TextReader.flush` reads what is left.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

from streamchar_rt.orchestrator.reading import Context, Mark, SpokenWord, needs_next, read
from streamchar_rt.orchestrator.written import ScriptWarning, Unit, lex

MAX_PIECE = 96  # characters; a longer run without white space is cut, so that what is held back stays bounded
MAX_TAG = 48

_TAG = re.compile(r"\[\s*([A-Za-z][\w-]*)(?:(?:\s+|\s*[=:]\s*)([+-]?(?:\d+\.?\d*|\.\d+))\s*s?)?\s*\]", re.ASCII)


class Cue(NamedTuple):
    """An inline tag, ``[happy]`` or ``[pause 0.5]``; never spoken."""

    name: str  # lower case
    value: float | None
    begin: int  # characters of the pushed text, [begin, end)
    end: int


Item = SpokenWord | Mark | Cue | ScriptWarning


class _Piece(NamedTuple):
    """Either a cue, or the units (and warnings) of a run of text."""

    begin: int
    cue: Cue | None
    units: list[Unit]
    warnings: list[ScriptWarning]


class TextReader:
    """Reads one turn. Offsets count the characters pushed since it was made."""

    def __init__(self, is_word: Callable[[str], bool], *, tags: bool = True) -> None:
        self._is_word = is_word
        self._tags = tags
        self._buffer = ""  # pushed and not yet cut into pieces
        self._offset = 0  # of the buffer's first character
        self._pieces: list[_Piece] = []  # cut and not yet read
        self._newlines = 0  # in the white space before the buffer
        self._context = Context()

    @property
    def read_until(self) -> int:
        """Offset up to which the text has been read; what follows is held back."""
        return self._pieces[0].begin if self._pieces else self._offset

    def push(self, text: str) -> list[Item]:
        """Add text; returns what can be read now."""
        self._buffer += text
        self._cut(final=False)
        return self._read(final=False)

    def flush(self) -> list[Item]:
        """Read what is held back, as though white space and nothing else followed."""
        self._cut(final=True)
        return self._read(final=True)

    # ------------------------------------------------------------ cutting
    def _cut(self, final: bool) -> None:
        position, buffer = 0, self._buffer
        while position < len(buffer):
            if buffer[position].isspace():
                self._newlines += buffer[position] == "\n"
                if self._newlines == 2:  # a blank line ends a paragraph, marks or not
                    at = self._offset + position
                    self._pieces.append(_Piece(at, None, [Unit("long", "\n", at, at + 1)], []))
                position += 1
                continue
            end = self._tag_end(buffer, position, final) if self._tags and buffer[position] == "[" else 0
            if end is None:
                break
            piece = self._cue(buffer, position, end) if end else None
            if piece is None:
                end = self._run_end(buffer, position, final)
                if end is None:
                    break
                units, warnings = lex(buffer[position:end], self._offset + position)
                piece = _Piece(self._offset + position, None, units, warnings)
            self._pieces.append(piece)
            self._newlines = 0
            position = end
        self._buffer = buffer[position:]
        self._offset += position

    def _tag_end(self, buffer: str, begin: int, final: bool) -> int | None:
        """Where the bracket at ``begin`` closes; 0 if it is no tag, None if more text must tell."""
        for position in range(begin + 1, min(len(buffer), begin + MAX_TAG)):
            if buffer[position] == "]":
                return position + 1 if _TAG.fullmatch(buffer, begin, position + 1) else 0
            if buffer[position] in "[\n":
                return 0
        return 0 if final or len(buffer) - begin >= MAX_TAG else None

    def _cue(self, buffer: str, begin: int, end: int) -> _Piece:
        name, value = _TAG.fullmatch(buffer, begin, end).groups()
        at = self._offset + begin
        return _Piece(at, Cue(name.lower(), None if value is None else float(value), at, self._offset + end), [], [])

    def _run_end(self, buffer: str, begin: int, final: bool) -> int | None:
        """Where the run of text at ``begin`` ends, None if more text must tell."""
        limit = begin + MAX_PIECE
        for position in range(begin + 1, min(len(buffer), limit)):
            if buffer[position].isspace() or self._tags and buffer[position] == "[":
                return position
        if len(buffer) >= limit:
            return limit
        return len(buffer) if final else None

    # ------------------------------------------------------------ reading
    def _read(self, final: bool) -> list[Item]:
        items: list[Item] = []
        done = 0
        for index, piece in enumerate(self._pieces):
            if piece.cue is None:
                following: list[Unit] = []
                if needs_next(piece.units):
                    found = next((p.units for p in self._pieces[index + 1 :] if p.cue is None), None)
                    if found is None and not final:
                        break
                    following = found or []
                items += piece.warnings
                items += read(piece.units, following, self._context, self._is_word)
            else:
                items.append(piece.cue)
            done = index + 1
        del self._pieces[:done]
        return items
