"""The 15 visemes (Oculus order) and the viseme of each phone. Pure data."""

from __future__ import annotations

VISEMES: tuple[str, ...] = (
    "sil",
    "PP",
    "FF",
    "TH",
    "DD",
    "kk",
    "CH",
    "SS",
    "nn",
    "RR",
    "aa",
    "E",
    "ih",
    "oh",
    "ou",
)

_MEMBERS: dict[str, str] = {
    "sil": "pau",
    "PP": "p b m",
    "FF": "f v",
    "TH": "th dh",
    "DD": "t d",
    "kk": "k g hh ng",
    "CH": "ch jh sh zh",
    "SS": "s z",
    "nn": "n l",
    "RR": "r er",
    "aa": "aa ae ah ax ay aw",
    "E": "eh ey",
    "ih": "ih iy y",
    "oh": "ao ow oy",
    "ou": "uw uh w",
}

#: phone name -> viseme id (index into VISEMES)
PHONE_TO_VISEME: dict[str, int] = {
    phone: VISEMES.index(viseme) for viseme, phones in _MEMBERS.items() for phone in phones.split()
}
