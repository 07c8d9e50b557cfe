"""Written units: a piece of text without white space → words, numbers, sums of money, times, marks …"""

from __future__ import annotations

import re
from typing import NamedTuple

from streamchar_rt.orchestrator.characters import BREAK, clean


class Unit(NamedTuple):
    kind: str  # name of a group of the lexer, or "skip"
    text: str  # in plain characters
    begin: int  # characters of the pushed text, [begin, end)
    end: int


class ScriptWarning(NamedTuple):
    """Text in a script that the voice cannot speak was skipped."""

    script: str
    begin: int
    end: int


_LEXER = re.compile(
    r"""
    (?P<skip>(?<![\w)])[:;=]['-]?[()DPpOo3|*]+(?!\w)|\0)
  | (?P<email>[\w.+-]+@[\w-]+(?:\.[\w-]+)+)
  | (?P<url>https?://\S*[\w/]|www\.\S*[\w/]|(?:[A-Za-z0-9-]+\.)+(?:com|org|net|edu|gov|io|dev|app|info)\b(?:/\S*[\w/])?)
  | (?P<isodate>(?<!\d)\d{4}-\d{1,2}-\d{1,2}(?!\d))
  | (?P<usdate>(?<!\d)\d{1,2}/\d{1,2}/\d{4}(?!\d))
  | (?P<phone>(?<![\d-])(?:\+?\d{1,3}[-.])?(?:\(\d{3}\)|\d{3}[-.])\d{3}[-.]\d{4}(?!\d)|(?<![\d-])\d{3}-\d{4}(?![\d-]))
  | (?P<time>(?<![\d:])(?:[01]?\d|2[0-4]):[0-5]\d(?::[0-5]\d)?(?![\d:]))
  | (?P<money>[$€£¥₹](?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)?(?:\.\d+)?(?<=\d)(?:(?:bn|mn|[kKmMbBT])(?![A-Za-z]))?)
  | (?P<decade>(?:'|(?<!\d))(?:\d\d)?\d0's\b|(?:'|(?<!\d))(?:\d\d)?\d0s\b)
  | (?P<ordinal>(?:\d{1,3}(?:,\d{3})+|\d+)(?:st|nd|rd|th|ST|ND|RD|TH)\b)
  | (?P<fraction>(?<![\d/])\d+/\d+(?![\d/]))
  | (?P<version>\d+(?:\.\d+){2,})
  | (?P<number>\d{1,3}(?:,\d{3})+(?!\d)(?:\.\d+)?|\d+(?:\.\d+)?|(?<![\w.])\.\d+)
  | (?P<dotted>(?<![A-Za-z])(?:(?:[A-Za-z]\.){2,}(?:[A-Za-z](?![A-Za-z']))?|[Pp]h\.?[Dd](?![A-Za-z])\.?))
  | (?P<rate>(?<![A-Za-z])(?:km|m|mi|ft)/(?:hr|h|s)(?![A-Za-z]))
  | (?P<clipped>(?<!\w)'(?:em|cause|til|bout|tis|twas|n)(?![A-Za-z]))
  | (?P<word>[A-Za-z]+(?:'[A-Za-z]+)*)
  | (?P<long>[.!?…]*[!?…][.!?…]*|\.{2,})
  | (?P<stop>\.)
  | (?P<short>[,;:]+|—+|–+|-{2,}|[()\[\]{}]+)
  | (?P<hyphen>-)
  | (?P<symbol>[&%@\#+=*<>~°×÷±²³$€£¥₹¢])
  | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
assert BREAK == "\0"  # as spelled in the lexer


def lex(piece: str, offset: int) -> tuple[list[Unit], list[ScriptWarning]]:
    """Units of one piece of text that begins at ``offset``, and the scripts skipped in it."""
    plain: list[str] = []
    origin: list[int] = []
    warnings: list[ScriptWarning] = []
    for position, character in enumerate(piece, offset):
        text, script = clean(character)
        plain.append(text)
        origin += [position] * len(text)
        if script is None:
            continue
        if warnings and warnings[-1].script == script and warnings[-1].end == position:
            warnings[-1] = warnings[-1]._replace(end=position + 1)
        else:
            warnings.append(ScriptWarning(script, position, position + 1))
    units = [
        Unit(match.lastgroup or "other", match.group(), origin[match.start()], origin[match.end() - 1] + 1)
        for match in _LEXER.finditer("".join(plain))
    ]
    return units, warnings
