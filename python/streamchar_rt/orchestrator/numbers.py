"""Numbers as spoken English words, without "and" and without hyphens: 121 → one hundred twenty one."""

from __future__ import annotations

_UNITS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen "
    "seventeen eighteen nineteen"
).split()
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
_GROUPS = ("", "thousand", "million", "billion", "trillion", "quadrillion")
_IRREGULAR_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth",
}  # fmt: skip

MAX_CARDINAL = 10**18 - 1


def cardinal(value: int) -> list[str]:
    """Words of an integer of at most 18 digits; ValueError beyond (say those digit by digit)."""
    if abs(value) > MAX_CARDINAL:
        raise ValueError(f"{value} has more than 18 digits; use digits()")
    if value < 0:
        return ["minus", *cardinal(-value)]
    if value == 0:
        return ["zero"]
    words: list[str] = []
    for power in range(len(_GROUPS) - 1, -1, -1):
        group = value // 1000**power % 1000
        if group:
            words += _below_thousand(group)
            if power:
                words.append(_GROUPS[power])
    return words


def _below_thousand(value: int) -> list[str]:
    words: list[str] = []
    if value >= 100:
        words += [_UNITS[value // 100], "hundred"]
        value %= 100
    if value >= 20:
        words.append(_TENS[value // 10 - 2])
        value %= 10
        if not value:
            return words
    if value or not words:
        words.append(_UNITS[value])
    return words


def ordinal(value: int) -> list[str]:
    """Words of a rank: 21 → twenty first."""
    words = cardinal(value)
    return [*words[:-1], ordinal_of(words[-1])]


def ordinal_of(word: str) -> str:
    """The ordinal of one number word: ``twenty`` → ``twentieth``."""
    if word in _IRREGULAR_ORDINALS:
        return _IRREGULAR_ORDINALS[word]
    return word[:-1] + "ieth" if word.endswith("y") else word + "th"


def plural_of(word: str) -> str:
    """The plural of one number word: ``twenty`` → ``twenties``, ``six`` → ``sixes``."""
    if word.endswith("y"):
        return word[:-1] + "ies"
    return word + ("es" if word.endswith("x") else "s")


def digits(text: str) -> list[str]:
    """Each digit by its name; other characters are left out."""
    return [_UNITS[int(c)] for c in text if c in "0123456789"]


def pair(value: int) -> list[str]:
    """Two digits the way they are read in years and times: 5 → oh five, 0 → hundred is the caller's."""
    return ["oh", _UNITS[value]] if value < 10 else cardinal(value)


def year(value: int) -> list[str]:
    """A year from 1000 to 9999: 1999 → nineteen ninety nine, 2005 → two thousand five."""
    century, rest = divmod(value, 100)
    if century % 10 == 0 and rest < 10:
        return cardinal(value)
    if rest == 0:
        return [*cardinal(century), "hundred"]
    return [*cardinal(century), *pair(rest)]
