"""Speech with known truth: text → samples, phones, words and their times, and transcript tokens.

    python -m tools.studio.speech --hours 4 --out corpus --workers 2

writes a corpus (see :mod:`tools.studio.corpus`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from streamchar_rt.orchestrator.units import PAUSE_LONG, PAUSE_SHORT, PHONE_ID, canonical_phone, is_vowel

from tools.studio.flite import SAMPLE_RATE, VOICES, FliteWord, flite

__all__ = ["SAMPLE_RATE", "VOICE_NAMES", "Phone", "Speech", "Token", "synthesize", "to_tokens"]

VOICE_NAMES: tuple[str, ...] = tuple(VOICES)  # a corpus stores a voice as its index here

_FINAL_MARKS = frozenset(".!?")


class Phone(NamedTuple):
    """One segment of the speech; ``name`` is a transcript phone or ``pau``."""

    name: str
    begin: float  # seconds
    end: float
    stress: int  # of its syllable, 0 or 1
    word_index: int  # into Speech.words; -1 for a pause
    word: str


class Token(NamedTuple):
    """One transcript token; word_index is -1 for pauses."""

    unit: int
    stress: int  # of the syllable for vowels, 0 for all else
    word_start: bool
    word_index: int


@dataclass(frozen=True)
class Speech:
    text: str
    voice: str
    rate: float
    samples: np.ndarray  # (n,) int16 at 16 kHz
    phones: tuple[Phone, ...]  # contiguous from 0 s to the end of the samples
    words: tuple[str, ...]  # as spoken, lower case: "$5" gives "five", "dollars"
    punctuation: tuple[str, ...]  # after each word


def synthesize(text: str, voice: str = "rms", rate: float = 1.0, pitch: float = 1.0) -> Speech:
    """Speak ``text`` with flite.

    ``rate`` divides all durations, ``pitch`` scales f0 (slt, awb, kal16; ValueError for rms, which has
    no pitch control). The last segment is cut to the samples: flite rounds durations to its frames and
    kal16 stops in the middle of the final pause.
    """
    samples, segments, flite_words = flite().synthesize(text, voice, 1.0 / rate, pitch)
    index_of, words, punctuation = _merge_clitics(flite_words)
    length = len(samples) / SAMPLE_RATE
    phones, begin = [], 0.0
    for position, segment in enumerate(segments):
        end = length if position == len(segments) - 1 else min(max(segment.end, begin), length)
        if segment.name == "pau":
            phones.append(Phone("pau", begin, end, 0, -1, ""))
        else:
            word = index_of[segment.word]
            phones.append(Phone(canonical_phone(segment.name), begin, end, segment.stress, word, words[word]))
        begin = end
    return Speech(text, voice, rate, samples, tuple(phones), tuple(words), tuple(punctuation))


def _merge_clitics(flite_words: list[FliteWord]) -> tuple[list[int], list[str], list[str]]:
    """Join flite's ``it`` + ``'s``: the front end counts "it's" as one word.

    Returns the merged index of each flite word, the words, and the punctuation after each.
    """
    index_of: list[int] = []
    words: list[str] = []
    punctuation: list[str] = []
    for i, word in enumerate(flite_words):
        same_token = i > 0 and word.token_id == flite_words[i - 1].token_id
        if same_token and word.name.startswith("'"):
            words[-1] += word.name
        else:
            words.append(word.name)
            punctuation.append("")
        index_of.append(len(words) - 1)
        last_of_token = i + 1 == len(flite_words) or flite_words[i + 1].token_id != word.token_id
        if last_of_token:
            punctuation[-1] = word.punctuation
            if word.name.replace("'", "") == word.token.lower().replace("'", ""):
                words[-1] = word.token.lower()  # flite names "wasn't" wasnt
    return index_of, words, punctuation


def to_tokens(speech: Speech) -> tuple[list[Token], list[tuple[float, float]]]:
    """Transcript tokens of what was really spoken, with the (begin, end) seconds of each.

    The leading pause has no token (it belongs to END). An inner or final pause is PAUSE_LONG after
    ``. ! ?`` and at the very end, else PAUSE_SHORT. Neighbouring pauses are one token.
    """
    tokens: list[Token] = []
    spans: list[tuple[float, float]] = []
    previous_word = -1
    for i, phone in enumerate(speech.phones):
        if phone.name == "pau":
            if not tokens:
                continue
            if previous_word == -1:
                spans[-1] = (spans[-1][0], phone.end)
                continue
            marks = speech.punctuation[previous_word]
            last = i == len(speech.phones) - 1
            long_pause = bool(_FINAL_MARKS.intersection(marks)) or (last and not marks)
            tokens.append(Token(PAUSE_LONG if long_pause else PAUSE_SHORT, 0, False, -1))
        else:
            unit = PHONE_ID[phone.name]
            stress = phone.stress if is_vowel(unit) else 0
            tokens.append(Token(unit, stress, phone.word_index != previous_word, phone.word_index))
        spans.append((phone.begin, phone.end))
        previous_word = phone.word_index
    return tokens, spans


if __name__ == "__main__":
    from tools.studio.corpus import main

    main()
