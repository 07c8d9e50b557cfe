"""How written units are read: units of one piece → spoken words and pauses.

The reading of a unit depends on the units of its piece, on :class:`Context` (what was read before) and,
where :func:`needs_next` says so, on the next piece.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple

from streamchar_rt.orchestrator import numbers
from streamchar_rt.orchestrator.abbreviations import (
    ABBREVIATIONS,
    CURRENCIES,
    DOTTED,
    EMPHATIC_PAIRS,
    GLUED_UNITS,
    LETTER_ACRONYMS,
    MAGNITUDE_LETTERS,
    MAGNITUDES,
    MONTHS,
    ROMAN_AFTER,
    ROYAL_NAMES,
    SENTENCE_STARTERS,
    SPACED_UNITS,
    STOPLESS,
    STOPLESS_TITLES,
    Abbreviation,
)  # fmt: skip
from streamchar_rt.orchestrator.units import PAUSE_LONG, PAUSE_SHORT
from streamchar_rt.orchestrator.written import Unit


class SpokenWord(NamedTuple):
    """One word to pronounce."""

    spoken: str  # lower case
    text: str  # for captions: as written where that is one word, else as spoken
    begin: int  # characters of the pushed text, [begin, end)
    end: int
    is_letter: bool = False  # the name of a letter: "a" is ey, not ax


class Mark(NamedTuple):
    """A pause: PAUSE_SHORT or PAUSE_LONG."""

    unit: int
    begin: int
    end: int


@dataclass
class Context:
    """What was read before, as far as readings depend on it."""

    text: str = ""  # the last unit read, as written
    kind: str = ""  # its kind; also month, initial, measure, pause
    is_one: bool = False  # the last number was 1, so that its unit stands in the singular
    starts_sentence: bool = True  # the last unit began a sentence, or nothing was read since the last long pause
    skip_until: int = 0  # units that begin before this offset have been read with an earlier one

    @property
    def is_name(self) -> bool:
        """The last word was capitalised, and not only because it began a sentence."""
        return self.kind in ("word", "initial") and self.text[:1].isupper() and not self.starts_sentence


_NUMERIC = frozenset(("number", "money", "ordinal", "decade", "fraction", "version"))
_QUANTITY = frozenset(("number", "fraction"))


def needs_next(units: list[Unit]) -> bool:
    """Whether reading these units takes a look at the piece after them.

    "$5" may go on with "million" and "5" with "May"; the stop of "etc." or "J." ends a sentence or does
    not; a lone "US" is a country unless its neighbours are in capitals too.
    """
    if not units:
        return False
    last = units[-1]
    if last.kind == "stop" and len(units) > 1:
        before = units[-2]
        return (
            before.kind == "dotted"
            or before.kind == "word"
            and (before.text.lower() in ABBREVIATIONS or len(before.text) == 1)
        )
    if last.kind == "word":
        entry = ABBREVIATIONS.get(last.text.lower()) if last.text[0].isupper() else None
        stopless = entry is not None and (entry.kind == "calendar" or last.text.lower() in STOPLESS_TITLES)
        return stopless or last.text in EMPHATIC_PAIRS or last.text == "A"
    return last.kind in ("number", "money", "time", "dotted")


def read(
    units: list[Unit], following: list[Unit], context: Context, is_word: Callable[[str], bool]
) -> list[SpokenWord | Mark]:
    """Read one piece; ``following`` (the units of the next piece) is looked at only for its first unit.

    ``context`` is brought up to date in place. ``is_word`` tells whether a lower-case word is in the lexicon.
    """
    return _PieceReader(units, following, context, is_word).read()


class _PieceReader:
    def __init__(
        self, units: list[Unit], following: list[Unit], context: Context, is_word: Callable[[str], bool]
    ) -> None:
        self._units = units
        self._following = following
        self._context = context
        self._is_word = is_word
        self._out: list[SpokenWord | Mark] = []
        self._i = 0

    def read(self) -> list[SpokenWord | Mark]:
        while self._i < len(self._units):
            unit = self._units[self._i]
            if unit.begin >= self._context.skip_until:
                getattr(self, "_read_" + unit.kind)(unit)
            self._i += 1
        return self._out

    # ------------------------------------------------------------ neighbours
    @property
    def _previous(self) -> Unit | None:
        """The unit before in the same piece."""
        return self._units[self._i - 1] if self._i else None

    @property
    def _glued(self) -> Unit | None:
        """The unit after in the same piece."""
        return self._at(1)

    def _at(self, distance: int) -> Unit | None:
        return self._units[self._i + distance] if self._i + distance < len(self._units) else None

    def _after(self, distance: int = 1) -> Unit | None:
        """The unit ``distance`` on, in this piece or first in the next one."""
        if self._i + distance < len(self._units):
            return self._units[self._i + distance]
        return self._following[0] if self._i + distance == len(self._units) and self._following else None

    @property
    def _stop_follows(self) -> bool:
        return self._glued is not None and self._glued.kind == "stop"

    def _absorb_stop(self) -> None:
        """The stop after this unit marks an abbreviation; it is not read."""
        if self._stop_follows:
            self._context.skip_until = self._glued.end

    # ------------------------------------------------------------ output
    def _say(
        self, unit: Unit, words: Iterable[str], *, end: int | None = None, kind: str = "", letters: bool = False
    ) -> None:
        words = list(words)
        for word in words:
            caption = unit.text if len(words) == 1 and unit.text.lower() == word else word
            self._out.append(SpokenWord(word, caption, unit.begin, end or unit.end, letters))
        if words:
            context = self._context
            context.starts_sentence = context.kind in ("", "long")
            context.text, context.kind = unit.text, kind or unit.kind

    def _spell(self, unit: Unit, text: str | None = None) -> None:
        self._say(unit, [c for c in (text or unit.text).lower() if c.isalpha()], letters=True)

    def _pause(self, unit: Unit, pause: int) -> None:
        self._out.append(Mark(pause, unit.begin, unit.end))
        self._context.kind = "long" if pause == PAUSE_LONG else "pause"
        self._context.text = unit.text

    def _measured(self, names: tuple[str, str]) -> list[str]:
        """A unit of measure in the number of the number before it."""
        return names[0 if self._context.is_one else 1].split()

    # ------------------------------------------------------------ marks
    def _read_skip(self, unit: Unit) -> None:
        self._context.kind = "skip"

    def _read_other(self, unit: Unit) -> None:
        pass  # quotes and the like change nothing

    def _read_long(self, unit: Unit) -> None:
        self._pause(unit, PAUSE_LONG)

    def _read_stop(self, unit: Unit) -> None:
        previous, following = self._previous, self._glued
        if previous is not None and following is not None and {previous.kind, following.kind} <= {"word", "number"}:
            missing_space = previous.text[-1].islower() and following.text[0].isupper()
            if not missing_space:
                self._say(unit, ["dot"])  # file.txt
                return
        self._pause(unit, PAUSE_LONG)

    def _read_short(self, unit: Unit) -> None:
        previous, following = self._previous, self._glued
        if previous is not None and following is not None and unit.text in ("–", "—", ":"):
            if previous.kind in _NUMERIC | {"time"} and following.kind in _NUMERIC | {"time"}:
                self._say(unit, ["to"])
                return
        self._pause(unit, PAUSE_SHORT)

    def _read_hyphen(self, unit: Unit) -> None:
        previous, following = self._previous, self._glued
        if previous is None and following is None:
            self._pause(unit, PAUSE_SHORT)  # a dash between spaces
        elif following is not None and following.kind in _NUMERIC:
            if previous is None or previous.kind in ("short", "symbol"):
                self._say(unit, ["minus"])
            elif previous.kind in _NUMERIC:
                self._say(unit, ["to"])

    def _read_symbol(self, unit: Unit) -> None:
        previous, following, symbol = self._previous, self._glued, unit.text
        speakable = _NUMERIC | {"word", "dotted"}
        left = previous is not None and (previous.kind in speakable or previous.text == symbol == "+")  # C++
        right = following is not None and following.kind in speakable
        alone = previous is None and following is None
        number_left = previous is not None and previous.kind in _NUMERIC
        number_right = following is not None and following.kind in _NUMERIC
        words: list[str] = []
        if symbol in CURRENCIES:
            if number_left or previous is None and self._context.kind in _QUANTITY:
                words = self._measured(CURRENCIES[symbol][:2])
        elif symbol == "#":
            words = ["number"] if number_right else ["hashtag"] if right else []
        elif symbol == "°":
            after_number = number_left or previous is None and self._context.kind in _QUANTITY
            words = self._measured(("degree", "degrees")) if after_number else []
        elif symbol == "~":
            words = ["about"] if number_right else []
        elif symbol in "*<>":
            numeric = number_left and number_right or alone and self._context.kind in _NUMERIC
            words = {"*": ["times"], "<": ["less", "than"], ">": ["greater", "than"]}[symbol] if numeric else []
        elif left or right or alone:
            words = _SYMBOL_WORDS[symbol].split()
        self._say(unit, words, kind="degree" if symbol == "°" else "")

    # ------------------------------------------------------------ numbers
    def _number_words(self, text: str) -> list[str]:
        """Words of ``1,234.5``."""
        whole, point, decimals = text.replace(",", "").partition(".")
        if len(whole) > 15 or (len(whole) > 1 and whole[0] == "0"):
            words = numbers.digits(whole)
        else:
            words = numbers.cardinal(int(whole or "0"))
        return [*words, "point", *numbers.digits(decimals)] if point else words

    def _read_number(self, unit: Unit) -> None:
        text, glued, after = unit.text, self._glued, self._after()
        day = text.isdigit() and 1 <= int(text[:3]) <= 31 and len(text) <= 2
        if day and self._context.kind == "month":
            self._say(unit, numbers.ordinal(int(text)))
        elif day and glued is None and after is not None and _is_month(after):
            self._say(unit, ["the", *numbers.ordinal(int(text)), "of"])
        elif self._is_year(unit):
            self._say(unit, numbers.year(int(text)))
        elif self._fraction_follows() and text.isdigit():
            self._say(unit, [*self._number_words(text), "and"])
        else:
            self._say(unit, self._number_words(text))
        self._context.is_one = text == "1"

    def _fraction_follows(self) -> bool:
        """3 1/2, or 3½, which comes with a space inside the piece."""
        following = self._at(2) if self._glued is not None and self._glued.text == " " else self._glued or self._after()
        return following is not None and following.kind == "fraction"

    def _is_year(self, unit: Unit) -> bool:
        if not (unit.text.isdigit() and len(unit.text) == 4 and 1100 <= int(unit.text) <= 2099):
            return False
        after, glued = self._after(), self._glued is not None
        if after is None:
            return True
        measured = after.kind == "rate" or after.text in (GLUED_UNITS if glued else SPACED_UNITS)
        return not measured and not (after.kind == "symbol" and after.text in "%°$€£¥₹")

    def _read_ordinal(self, unit: Unit) -> None:
        value = unit.text[:-2].replace(",", "")
        self._say(unit, numbers.ordinal(int(value)) if len(value) <= 15 else numbers.digits(value))

    def _read_decade(self, unit: Unit) -> None:
        value = unit.text.strip("'s")
        words = numbers.year(int(value)) if len(value) == 4 and value[0] != "0" else numbers.cardinal(int(value))
        if words == ["zero"]:
            words = ["two", "thousand"]
        self._say(unit, [*words[:-1], numbers.plural_of(words[-1])])

    def _read_fraction(self, unit: Unit) -> None:
        above, below = unit.text.split("/")
        if unit.text == "24/7":
            words = ["twenty", "four", "seven"]
        elif max(len(above), len(below)) > 6 or int(below) < 2 or int(above) > int(below):
            words = [*self._number_words(above), "over", *self._number_words(below)]
        elif int(below) == 2 and self._context.kind == "number":
            words = ["a", "half"]
        else:
            part = {2: ["half"], 4: ["quarter"]}.get(int(below)) or numbers.ordinal(int(below))
            if int(above) != 1:
                part = [*part[:-1], part[-1] + "s"] if part != ["half"] else ["halves"]
            words = [*numbers.cardinal(int(above)), *part]
        self._say(unit, words)
        self._context.is_one = False

    def _read_version(self, unit: Unit) -> None:
        parts = [self._number_words(part) for part in unit.text.split(".")]
        self._say(unit, [word for part in parts for word in ("point", *part)][1:])

    def _read_phone(self, unit: Unit) -> None:
        groups = re.findall(r"\d+", unit.text)
        for position, group in enumerate(groups):
            if position:
                self._pause(unit, PAUSE_SHORT)  # between the groups, as people read them
            self._say(unit, numbers.digits(group))

    def _read_time(self, unit: Unit) -> None:
        hour, minute, *seconds = (int(part) for part in unit.text.split(":"))
        after = self._after()
        words = numbers.cardinal(hour)
        if minute:
            words += numbers.pair(minute)
        elif hour > 12:
            words += ["hundred"]
        elif not seconds and not (after is not None and _is_meridiem(after)):
            words += ["o'clock"]
        for second in seconds:
            words += ["and", *numbers.cardinal(second), "second" if second == 1 else "seconds"]
        self._say(unit, words)

    def _read_isodate(self, unit: Unit) -> None:
        year, month, day = (int(part) for part in unit.text.split("-"))
        self._say_date(unit, year, month, day)

    def _read_usdate(self, unit: Unit) -> None:
        month, day, year = (int(part) for part in unit.text.split("/"))
        if month > 12 >= day:
            month, day = day, month
        self._say_date(unit, year, month, day)

    def _say_date(self, unit: Unit, year: int, month: int, day: int) -> None:
        if 1 <= month <= 12 and 1 <= day <= 31:
            spoken_year = numbers.year(year) if year >= 1000 else numbers.cardinal(year)
            self._say(unit, [MONTHS[month - 1], *numbers.ordinal(day), *spoken_year])
        else:
            self._say(unit, numbers.digits(unit.text))

    def _read_money(self, unit: Unit) -> None:
        currency = CURRENCIES[unit.text[0]]
        amount, suffix = re.fullmatch(r"([\d,]*(?:\.\d+)?)(\D*)", unit.text[1:]).groups()
        magnitude, end, after = MAGNITUDE_LETTERS.get(suffix.lower(), ""), unit.end, self._after()
        if not magnitude and self._glued is None and after is not None and after.text.lower() in MAGNITUDES:
            magnitude, end = after.text.lower(), after.end
            self._context.skip_until = end
        whole, _, decimals = amount.replace(",", "").partition(".")
        if magnitude:
            words = [*self._number_words(amount), magnitude, currency.many]
        elif len(decimals) > 2 or decimals and not currency.one_part:
            words = [*self._number_words(amount), currency.many]
        else:
            parts = int((decimals + "0")[:2]) if decimals else 0
            words = []
            if whole.strip("0") or not parts:
                words = [*self._number_words(whole), currency.one if whole == "1" else currency.many]
            if parts:
                words += ["and"] if words else []
                words += [*numbers.cardinal(parts), currency.one_part if parts == 1 else currency.many_parts]
        self._say(unit, words, end=end)

    # ------------------------------------------------------------ words
    def _read_email(self, unit: Unit) -> None:
        self._say_address(unit, unit.text)

    def _read_url(self, unit: Unit) -> None:
        self._say_address(unit, re.sub(r"^https?://", "", unit.text))

    def _say_address(self, unit: Unit, text: str) -> None:
        for part in re.findall(r"[A-Za-z]+|\d+|[./@_+-]", text):
            if part in _ADDRESS_WORDS:
                self._say(unit, [_ADDRESS_WORDS[part]])
            elif part.isdigit():
                self._say(unit, numbers.digits(part))
            elif part.lower() != "www" and (self._is_word(part.lower()) or len(part) > 3 and _has_vowel(part)):
                self._say(unit, [part.lower()])
            else:
                self._spell(unit, part)

    def _read_rate(self, unit: Unit) -> None:
        length, _, time = unit.text.partition("/")
        self._say(unit, [*self._measured(SPACED_UNITS[length]), "per", "second" if time == "s" else "hour"])

    def _read_clipped(self, unit: Unit) -> None:
        self._say(unit, [_CLIPPED.get(unit.text, unit.text[1:])])

    def _read_dotted(self, unit: Unit) -> None:
        words = DOTTED.get(unit.text.lower().rstrip("."))
        if words is None:
            self._spell(unit)
        else:
            self._say(unit, words)
        if unit.text.endswith(".") and words is None:
            self._pause_if_sentence_ends(unit, 1, any_capital=_is_meridiem(unit))

    def _read_word(self, unit: Unit) -> None:
        text, lower, context = unit.text, unit.text.lower(), self._context
        previous = self._previous
        attached = previous is not None and previous.kind in _QUANTITY
        after_number = previous is None and context.kind in _QUANTITY
        if lower in ("am", "pm") and (attached or after_number or context.kind == "time"):
            self._spell(unit)
        elif attached and text in GLUED_UNITS:
            self._say(unit, self._measured(GLUED_UNITS[text]), kind="measure")
        elif after_number and text in SPACED_UNITS:
            self._say(unit, self._measured(SPACED_UNITS[text]), kind="measure")
        elif context.kind == "degree" and text in ("C", "F"):
            self._say(unit, ["celsius" if text == "C" else "fahrenheit"])
        elif self._read_abbreviation(unit):
            pass
        elif text.isupper() and lower in _ROMAN and self._read_roman(unit):
            pass
        elif len(text) == 1:
            self._read_letter(unit)
        elif text.isupper() and text.isalpha():
            self._read_capitals(unit)
        elif not self._is_word(lower) and re.fullmatch(r"[A-Z]{2,5}'?s", text):
            letters = text.rstrip("s").rstrip("'").lower()  # CDs
            self._say(unit, [*letters[:-1], letters[-1] + "'s"], letters=True)
        elif not self._is_word(lower) and len(parts := _CAMEL_CASE.findall(text.replace("'", ""))) > 1:
            for part in parts:  # OpenAI, YouTube
                if len(part) < 4 and (part.isupper() or len(part) == 1):
                    self._spell(unit, part)
                else:
                    self._say(unit, [part.lower()])
        elif self._is_word(lower) or _has_vowel(lower):
            self._say(unit, [lower], kind="month" if lower in MONTHS and text[0].isupper() else "")
        else:
            self._spell(unit)

    def _read_abbreviation(self, unit: Unit) -> bool:
        """Read ``unit`` if it stands for a longer word here: in "No. 5" it does, in "No. Never." it does not."""
        lower = unit.text.lower()
        entry = ABBREVIATIONS.get(lower)
        if entry is None:
            return False
        stop = self._stop_follows
        if stop and self._at(2) is not None:  # "etc.)" is one, "co.uk" and "no.reply" are not
            if self._at(2).kind in ("word", "number") and entry.kind != "number":
                return False
        after = self._after(2 if stop else 1)
        if not self._abbreviates(unit, entry, stop, after):
            return False
        capital_before = self._context.kind in ("word", "initial") and self._context.text[:1].isupper()
        after_name = self._context.is_name or not _is_capitalised(after) and (capital_before or lower == "st")
        spoken = entry.after_name if entry.after_name and after_name else entry.spoken
        self._say(unit, spoken.split(), kind="month" if spoken in MONTHS else "word")
        if stop:
            self._absorb_stop()
            if entry.kind == "ending" or spoken == entry.after_name:
                self._pause_if_sentence_ends(self._glued, 2, any_capital=spoken == "et cetera")
        return True

    def _abbreviates(self, unit: Unit, entry: Abbreviation, stop: bool, after: Unit | None) -> bool:
        if entry.kind == "title":
            stopless = unit.text.lower() in STOPLESS_TITLES and _is_capitalised(after)
            return unit.text[0].isupper() and (stop or stopless)
        if entry.kind == "number":
            return stop and after is not None and after.kind in ("number", "ordinal")
        if entry.kind == "calendar":
            dated = after is not None and (after.kind in ("number", "ordinal") or after.text == "," or _is_month(after))
            return unit.text[0].isupper() and dated and (stop or after.kind != "short")
        return stop or unit.text.lower() in STOPLESS

    def _pause_if_sentence_ends(self, stop: Unit, distance: int, *, any_capital: bool) -> None:
        """Its stop ends the sentence too before a capital (``any_capital``) or before a word that begins sentences."""
        if self._at(distance) is not None:
            return
        after = self._after(distance)
        if after is None or _is_capitalised(after) and (any_capital or after.text.lower() in SENTENCE_STARTERS):
            self._pause(stop._replace(begin=stop.end), PAUSE_LONG)  # the stop itself belongs to the word

    def _read_roman(self, unit: Unit) -> bool:
        before, value = self._context.text.lower(), _ROMAN[unit.text.lower()]
        if before in ROMAN_AFTER and (len(unit.text) > 1 or unit.text in "VX"):
            self._say(unit, numbers.cardinal(value))
        elif before in ROYAL_NAMES and unit.text != "I":
            self._say(unit, ["the", *numbers.ordinal(value)])
        else:
            return False
        return True

    def _read_letter(self, unit: Unit) -> None:
        text, after, context = unit.text, self._after(), self._context
        after_capital = context.kind in ("", "long", "initial") or context.kind == "word" and context.text[:1].isupper()
        word_follows = self._glued is None and after is not None and after.kind == "word" and len(after.text) > 1
        if text == "a" and (self._glued is None or self._glued.kind in ("hyphen", "short", "other")):
            self._say(unit, ["a"])
        elif text == "A" and word_follows and (context.kind != "word" or after.text[0].isupper()):
            self._say(unit, ["a"])
        else:
            self._spell(unit)
        if not text.isupper():
            return
        context.kind = "initial"
        if self._stop_follows and text != "I" and self._at(2) is None and after_capital:
            after = self._after(2)
            if _is_capitalised(after) and after.text.lower() not in SENTENCE_STARTERS:
                self._absorb_stop()  # J. Smith

    def _read_capitals(self, unit: Unit) -> None:
        text, after = unit.text, self._after()
        neighbours = (self._context.text, after.text if after is not None else "")
        if text in EMPHATIC_PAIRS:
            spelled = not any(len(word) > 1 and word.isalpha() and word.isupper() for word in neighbours)
        elif len(text) <= 3 and "&" in [n.text for n in (self._previous, self._glued) if n is not None]:
            spelled = True  # AT&T
        elif text in LETTER_ACRONYMS:
            spelled = True
        else:
            spelled = not self._is_word(text.lower()) and (len(text) <= 4 or not _has_vowel(text))
        if spelled:
            self._spell(unit)
        else:
            self._say(unit, [text.lower()])


_SYMBOL_WORDS = {
    "&": "and", "%": "percent", "@": "at", "+": "plus", "=": "equals", "×": "times", "÷": "divided by",
    "±": "plus or minus", "²": "squared", "³": "cubed",
}  # fmt: skip
_ADDRESS_WORDS = {".": "dot", "@": "at", "/": "slash", "-": "dash", "_": "underscore", "+": "plus"}
_CLIPPED = {"'em": "them", "'cause": "because", "'til": "until", "'bout": "about", "'n": "and"}
_CAMEL_CASE = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def _has_vowel(text: str) -> bool:
    return any(c in "aeiouyAEIOUY" for c in text)


def _is_capitalised(unit: Unit | None) -> bool:
    return unit is not None and unit.text[:1].isupper()


def _is_month(unit: Unit) -> bool:
    lower = unit.text.lower()
    entry = ABBREVIATIONS.get(lower)
    return (
        unit.kind == "word"
        and unit.text[0].isupper()
        and (lower in MONTHS or entry is not None and entry.spoken in MONTHS)
    )


def _is_meridiem(unit: Unit) -> bool:
    return unit.text.lower().rstrip(".") in ("am", "pm", "a.m", "p.m")


def _roman_numerals(limit: int) -> dict[str, int]:
    result = {}
    for value in range(1, limit + 1):
        rest, text = value, ""
        for amount, letters in ((10, "x"), (9, "ix"), (5, "v"), (4, "iv"), (1, "i")):
            text += letters * (rest // amount)
            rest %= amount
        result[text] = value
    return result


_ROMAN = _roman_numerals(39)
