"""From the unit of every half-frame to words and visemes on the clock."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from .chunk import Viseme, Word
from .orchestrator.units import NUM_UNITS, UNIT_NAMES, is_phone
from .orchestrator.visemes import PHONE_TO_VISEME

_SILENCE = PHONE_TO_VISEME["pau"]
_USUAL_PHONE = 4.0  # half-frames; what is assumed of phones that have not been generated


@dataclass(slots=True)
class WrittenWord:
    """A word as it stands in the pushed text. "$5" is one, though it is spoken as two."""

    text: str
    begin: int  # characters of the turn's text, [begin, end)
    end: int
    units: int = 0  # how many phones speak it


@dataclass(frozen=True, slots=True)
class SpokenUnit:
    """What stands at one place of the transcript."""

    unit: int
    turn_id: int
    word: WrittenWord | None = None
    number: int = 0  # of this phone within the word


class Reached(NamedTuple):
    """The place that speech arrives at, and when."""

    place: int
    pts: int


class _Run(NamedTuple):
    """Half-frames [begin, end) of one window that belong to one place."""

    place: int
    begin: int
    end: int


class TimelineChunk(NamedTuple):
    words: tuple[Word, ...]  # that begin in the chunk
    visemes: tuple[Viseme, ...]  # tiling it
    reached: tuple[Reached, ...]  # places that speech arrives at in the chunk, in order


@dataclass
class Timeline:
    """Follows the pointer along a stream.

    The audio's plan leads the clock: the last ``lead`` half-frames that come with a chunk sound in the next
    one, and are kept for it.

    Args:
        step: samples of a half-frame.
        carry: places of the ``lead`` half-frames that begin the next chunk.
    """

    step: int
    carry: tuple[int, ...]
    place: int = 0  # at the end of the last chunk
    _word: WrittenWord | None = None  # the last one that has begun
    _phone_length: float = _USUAL_PHONE  # running mean in half-frames

    def clone(self) -> Timeline:
        return replace(self)

    def after_cut(self, place: int) -> Timeline:
        """Goes on at ``place``, an END: of what was planned to be heard next, nothing is."""
        return replace(self, place=place, carry=(place,) * len(self.carry), _word=None)

    @property
    def oldest_place(self) -> int:
        """Units before this one are not asked for any more."""
        return min(self.place, *self.carry)

    def advance(
        self, pts: int, places: Sequence[int], unit_at: Callable[[int], SpokenUnit], ahead: Sequence[int] = ()
    ) -> TimelineChunk:
        """Words, visemes and reached places of the chunk that begins at ``pts``.

        Args:
            places: the unit's place for every half-frame of the chunk's plan.
            unit_at: what stands at a place.
            ahead: how the plan goes on. The next chunk may say otherwise, so it only makes estimates better.
        """
        window = [*self.carry, *np.asarray(places).tolist()]
        count = len(places)  # half-frames of the chunk; what follows is known but sounds later
        runs = _runs(window)
        self._learn_phone_length(runs, len(window), unit_at)
        foreseen = [*window, *np.asarray(ahead, np.int64).tolist()]
        result = TimelineChunk(
            tuple(self._words(pts, _runs(foreseen), count, len(foreseen), unit_at)),
            tuple(self._visemes(pts, window[:count], unit_at)),
            tuple(
                Reached(run.place, pts + run.begin * self.step)
                for run in runs
                if run.begin < count and not (run.begin == 0 and run.place == self.place)
            ),
        )
        self.place = window[count - 1]
        self.carry = tuple(window[count:])
        return result

    def _words(
        self, pts: int, runs: list[_Run], count: int, known: int, unit_at: Callable[[int], SpokenUnit]
    ) -> list[Word]:
        words = []
        for i, run in enumerate(runs):
            word = unit_at(run.place).word
            if run.begin >= count or word is None or word is self._word:
                continue
            self._word = word
            last = next(j for j in range(len(runs) - 1, i - 1, -1) if unit_at(runs[j].place).word is word)
            unit, end = unit_at(runs[last].place), float(runs[last].end)
            missing = word.units - 1 - unit.number
            if runs[last].end == known:  # its last phone may still go on
                end = max(end, runs[last].begin + self._phone_length)
            end += max(0, missing) * self._phone_length
            words.append(Word(word.text, word.begin, pts + run.begin * self.step, pts + round(end * self.step)))
        return words

    def _visemes(self, pts: int, places: list[int], unit_at: Callable[[int], SpokenUnit]) -> list[Viseme]:
        shapes = [_VISEMES[unit_at(place).unit] for place in places]
        return [
            Viseme(run.place, 1.0, pts + run.begin * self.step, pts + run.end * self.step) for run in _runs(shapes)
        ]

    def _learn_phone_length(self, runs: list[_Run], known: int, unit_at: Callable[[int], SpokenUnit]) -> None:
        for run in runs:
            whole = run.begin > 0 and run.end < known
            if whole and is_phone(unit_at(run.place).unit):
                self._phone_length += (run.end - run.begin - self._phone_length) / 16


def viseme_of(unit: int) -> int:
    """The viseme of a transcript unit; silence for pauses and END."""
    return PHONE_TO_VISEME[UNIT_NAMES[unit]] if is_phone(unit) else _SILENCE


def _runs(values: Sequence[int]) -> list[_Run]:
    """Runs of equal values: (value, begin, end)."""
    runs: list[_Run] = []
    begin, current = 0, values[0]
    for i, value in enumerate(values):
        if value != current:
            runs.append(_Run(current, begin, i))
            begin, current = i, value
    runs.append(_Run(current, begin, len(values)))
    return runs


_VISEMES = tuple(map(viseme_of, range(NUM_UNITS)))
