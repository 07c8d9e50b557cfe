"""Words → phones in context: lexicon, clitics, homographs and, last, the letter-to-sound net."""

from __future__ import annotations

import functools
import re

from streamchar_rt.orchestrator.letter_to_sound import LetterToSound
from streamchar_rt.orchestrator.lexicon import Lexicon, PhoneToken
from streamchar_rt.orchestrator.units import PHONE_ID, is_vowel

Phones = tuple[PhoneToken, ...]


def _phones(text: str) -> Phones:
    return tuple(PhoneToken(PHONE_ID[name.rstrip("1")], int(name.endswith("1"))) for name in text.split())


_LETTER_A = _phones("ey")
_THE_BEFORE_VOWEL = _phones("dh iy")
_SCHWA = _phones("ax")
_CLITICS = {"'s": _phones("z"), "'ve": _phones("v"), "'ll": _phones("l"), "'d": _phones("d")}
_VOICELESS_S = _phones("s")
_SIBILANTS = frozenset(PHONE_ID[p] for p in "s z sh zh ch jh".split())
_VOICELESS = frozenset(PHONE_ID[p] for p in "p t k f th hh".split())

# A homograph is a verb right after one of these ("to record", "they live") …
_BEFORE_VERB = frozenset(
    "to i you we they who will would can could shall should may might must do does did don't doesn't "
    "didn't won't can't "
    "cannot couldn't wouldn't shouldn't let's please not never always i'll you'll we'll they'll he'll she'll it'll "
    "i'd you'd we'd they'd he'd she'd".split()
)
_BEFORE_VERB_S = frozenset("he she it who that which".split())  # "she records"
# … or when an object begins after it ("record the song") that a determiner before it does not make a noun of.
_OBJECT_BEGINS = frozenset(
    "the a an my your his its our their this these those it them me him us every some any all".split()
)
_BEFORE_NOUN = frozenset(
    "the a an my your his her its our their this that these those every some any no each another of for "
    "with in on at by from "
    "is are was were be been very more most so too one two three many few".split()
)
# "live" is mostly the verb; before these, and after what stands before nouns, it is the adjective.
_AFTER_ADJECTIVE_LIVE = frozenset(
    "stream streams streaming show shows music concert audience broadcast video videos chat event events album tv "
    "television performance performances version wire animals coverage now".split()
)


class Pronouncer:
    """Read-only but for its cache; safe to share between threads and sessions."""

    def __init__(self, lexicon: Lexicon, letter_to_sound: LetterToSound) -> None:
        self._lexicon = lexicon
        self._letter_to_sound = letter_to_sound
        self.phones = functools.lru_cache(maxsize=8192)(self._find)  # (word, is_letter, is_verb) → Phones
        self.is_word = functools.lru_cache(maxsize=8192)(self._is_word)
        self.is_homograph = functools.lru_cache(maxsize=8192)(lambda word: word + "/v" in lexicon)

    def _is_word(self, word: str) -> bool:
        base, _ = _split_clitic(word)
        return any(w in self._lexicon for w in (word, base, base.replace("'", "")))

    def looks_ahead(self, word: str) -> bool:
        """Whether the phones of a word depend on the word after it."""
        return word == "the" or self.is_homograph(word)

    def in_context(self, word: str, is_letter: bool, previous: str, following: str) -> Phones:
        """Phones of ``word`` between two others; these are empty where a pause stands."""
        if word == "the" and following:
            next_phones = self.phones(following, False, False)
            return (
                _THE_BEFORE_VOWEL if next_phones and is_vowel(next_phones[0].unit) else self.phones(word, False, False)
            )
        return self.phones(word, is_letter, self.is_homograph(word) and _is_verb(word, previous, following))

    def _find(self, word: str, is_letter: bool = False, is_verb: bool = False) -> Phones:
        if is_letter and word == "a":
            return _LETTER_A
        found = self._lexicon.get(word + "/v") if is_verb else None
        found = found or self._lexicon.get(word)
        if found is not None:
            return found
        base, clitic = _split_clitic(word)
        if clitic:
            return _join(self._find(base, is_letter), clitic)
        if "'" in word:
            return self._find(word.replace("'", ""))
        return self._unknown(word)

    def _unknown(self, word: str) -> Phones:
        for repeats in (r"\1\1", r"\1"):  # sooooo, helloooo
            shorter = re.sub(r"(.)\1{2,}", repeats, word)
            if shorter != word and (found := self._lexicon.get(shorter)) is not None:
                return found
        if word.endswith("s") and (base := self._lexicon.get(word[:-1])) is not None:
            return _join(base, "'s")
        return self._letter_to_sound.phones(word)


def _is_verb(word: str, previous: str, following: str) -> bool:
    if previous in _BEFORE_VERB or word.endswith("s") and previous in _BEFORE_VERB_S:
        return True
    if previous in _BEFORE_NOUN:
        return False
    if word == "live":
        return following not in _AFTER_ADJECTIVE_LIVE
    return following in _OBJECT_BEGINS


def _split_clitic(word: str) -> tuple[str, str]:
    """``dog's`` → (dog, 's); ``dogs'`` → (dogs, ""); (word, "") without one."""
    for clitic in _CLITICS:
        if word.endswith(clitic) and len(word) > len(clitic):
            return word[: -len(clitic)], clitic
    return word.rstrip("'"), ""


def _join(base: Phones, clitic: str) -> Phones:
    """Add 's, 've, 'll or 'd with the sounds that the end of the base asks for."""
    if not base:
        return _CLITICS[clitic]
    last = base[-1].unit
    if clitic == "'s":
        if last in _SIBILANTS:
            return base + _SCHWA + _CLITICS[clitic]
        return base + (_VOICELESS_S if last in _VOICELESS else _CLITICS[clitic])
    return base + (() if is_vowel(last) else _SCHWA) + _CLITICS[clitic]
