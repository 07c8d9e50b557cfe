"""From any Unicode text to the characters that the text front end reads.

Each source character becomes zero or more plain characters; which ones depends on that character
alone, so text may be cleaned in pieces of any size.
"""

from __future__ import annotations

import functools
import unicodedata

BREAK = "\0"  # stands for a character that is not spoken but separates words (emoji, other scripts)

# Non-ASCII characters that the front end reads as they are.
KEPT = frozenset("–—…€£¥₹¢°×÷±²³")

_SUBSTITUTES = {
    "’": "'", "‘": "'", "ʼ": "'", "′": "'", "`": "'", "“": '"', "”": '"', "„": '"', "«": '"', "»": '"', "″": '"',
    "‐": "-", "‑": "-", "‒": "–", "―": "—", "−": "-", "⁄": "/", "•": BREAK, "·": BREAK, "。": ".", "、": ",", "،": ",",
    "؟": "?", "।": ".", "¿": "", "¡": "", "™": "", "®": "", "©": "", "µ": "u", "№": "#", "¹": "1", "º": "", "ª": "",
    "æ": "ae", "Æ": "AE", "œ": "oe", "Œ": "OE", "ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ß": "ss",
    "ẞ": "SS", "þ": "th", "Þ": "Th", "ð": "th", "Ð": "Th", "ı": "i", "ŋ": "ng", "Ŋ": "Ng", "ə": "e", "Ə": "E",
}  # fmt: skip
_INVISIBLE = frozenset(("Mn", "Me", "Mc", "Cf", "Cc", "Cs", "Co", "Cn"))


@functools.lru_cache(maxsize=1024)
def clean(character: str) -> tuple[str, str | None]:
    """(plain characters, name of the script that had to be skipped or None) for one character."""
    if " " <= character <= "~" and character != "`":
        return character, None
    if character in KEPT:
        return character, None
    if character in _SUBSTITUTES:
        return _SUBSTITUTES[character], None
    if unicodedata.category(character) in _INVISIBLE:
        return "", None
    plain = "".join(
        c if c <= "~" else _SUBSTITUTES.get(c, "") if not unicodedata.combining(c) else ""
        for c in unicodedata.normalize("NFKD", character)
    )
    decomposed = "".join(c for c in plain if c > " ")
    if decomposed and _is_latin_like(character):
        # ½ and raised digits stand for themselves, whatever digits are around them.
        apart = " " if unicodedata.category(character) == "No" else ""
        return apart + decomposed.replace(BREAK, ""), None
    if unicodedata.category(character)[0] in "LN":
        return BREAK, script_of(character)
    return BREAK, None


def _is_latin_like(character: str) -> bool:
    """Whether the ASCII part of the decomposition says all of the character (true of é, ﬁ, ½, Ａ; not of ㎥ or ㈀)."""
    return all(
        c <= "~" or unicodedata.combining(c) or c in _SUBSTITUTES for c in unicodedata.normalize("NFKD", character)
    )


def script_of(character: str) -> str:
    """Name of a letter's script, as its Unicode name begins: ``Cyrillic``, ``CJK``, ``Arabic`` …"""
    first = unicodedata.name(character, "unknown").split()[0].split("-")[0]
    return first if first == "CJK" else first.capitalize()
