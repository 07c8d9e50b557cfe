"""Transcript units: what the orchestrator reads, one integer each.

Four control units stand before the phones:

====  ===========  =====================================================
 id   name         meaning
====  ===========  =====================================================
 0    PAD          filler outside the transcript window
 1    END          nothing more to say: silence (also heads every stream)
 2    PAUSE_SHORT  a comma, semicolon, colon or dash
 3    PAUSE_LONG   the end of a sentence: ``. ! ?``
====  ===========  =====================================================

The phones are those of the US English phone set of the Festival family (``radio``), without its
allophones, which :func:`canonical_phone` folds into their base phone.
"""

from __future__ import annotations

from typing import Final

PAD: Final = 0
END: Final = 1
PAUSE_SHORT: Final = 2
PAUSE_LONG: Final = 3
FIRST_PHONE: Final = 4

PHONES: Final[tuple[str, ...]] = tuple(
    "aa ae ah ao aw ax ay b ch d dh eh er ey f g hh ih iy jh k l m n ng ow oy p r s sh t th uh uw v w y z zh".split()
)
PHONE_ID: Final[dict[str, int]] = {name: FIRST_PHONE + i for i, name in enumerate(PHONES)}
NUM_UNITS: Final = FIRST_PHONE + len(PHONES)
UNIT_NAMES: Final[tuple[str, ...]] = ("<pad>", "<end>", "<short>", "<long>", *PHONES)

VOWELS: Final[frozenset[str]] = frozenset("aa ae ah ao aw ax ay eh er ey ih iy ow oy uh uw".split())
_VOWEL_IDS: Final[frozenset[int]] = frozenset(PHONE_ID[v] for v in VOWELS)

_ALLOPHONES: Final[dict[str, str]] = {
    "axr": "er",
    "dx": "t",
    "el": "l",
    "em": "m",
    "en": "n",
    "nx": "n",
    "eng": "ng",
    "hv": "hh",
    "ax-h": "ax",
}


def is_phone(unit: int) -> bool:
    """True for units that are spoken (neither control unit nor pause)."""
    return FIRST_PHONE <= unit < NUM_UNITS


def is_pause(unit: int) -> bool:
    """True for PAUSE_SHORT and PAUSE_LONG."""
    return unit in (PAUSE_SHORT, PAUSE_LONG)


def is_vowel(unit: int) -> bool:
    """True for vowel phones, the only units that carry stress."""
    return unit in _VOWEL_IDS


def canonical_phone(name: str) -> str:
    """The inventory's name for a phone of the ``radio`` set; KeyError for a name outside it."""
    name = _ALLOPHONES.get(name, name)
    if name not in PHONE_ID:
        raise KeyError(f"{name!r} is not a phone of the transcript inventory")
    return name


def unit_name(unit: int) -> str:
    """Readable name of a unit, for logs and tests."""
    return UNIT_NAMES[unit]
