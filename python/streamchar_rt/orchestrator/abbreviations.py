"""Tables of the text front end: abbreviations, acronyms, units, currencies, symbols."""

from __future__ import annotations

from typing import Literal, NamedTuple

MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december",
)  # fmt: skip

# title: before a name, with or without its full stop, which never ends the sentence
# number: only before a number ("No. 5"); calendar: only before a number, a month or a comma
# word: with its full stop; ending: likewise, and the stop may end the sentence
Kind = Literal["title", "number", "calendar", "word", "ending"]


class Abbreviation(NamedTuple):
    spoken: str
    kind: Kind
    after_name: str = ""  # reading after a capitalised word: "Elm St." is a street, "St. John" a saint


def _table(kind: Kind, entries: str) -> dict[str, Abbreviation]:
    pairs = (entry.split("=") for entry in entries.split(","))
    return {short.strip(): Abbreviation(spoken.strip(), kind) for short, spoken in pairs}


ABBREVIATIONS: dict[str, Abbreviation] = {
    **_table(
        "title",
        "mr=mister, mrs=missus, ms=miz, mx=mix, prof=professor, rev=reverend, gen=general, col=colonel, capt=captain,"
        "cmdr=commander, lt=lieutenant, sgt=sergeant, cpl=corporal, sen=senator, rep=representative, gov=governor,"
        "hon=honorable, pres=president, mt=mount, ft=fort, messrs=messieurs",
    ),
    "dr": Abbreviation("doctor", "title", "drive"),
    "st": Abbreviation("saint", "title", "street"),
    **_table(
        "number",
        "no=number, nos=numbers, fig=figure, figs=figures, vol=volume, vols=volumes, p=page, pp=pages, ch=chapter,"
        "art=article, eq=equation, op=opus, ed=edition, rm=room, apt=apartment, ext=extension, tel=telephone",
    ),
    **_table(
        "calendar",
        "jan=january, feb=february, mar=march, apr=april, jun=june, jul=july, aug=august, sep=september,"
        "sept=september,"
        "oct=october, nov=november, dec=december, mon=monday, tue=tuesday, tues=tuesday, wed=wednesday, thu=thursday,"
        "thur=thursday, thurs=thursday, fri=friday, sat=saturday, sun=sunday",
    ),
    **_table("word", "vs=versus, approx=approximately, est=estimated, incl=including, misc=miscellaneous, cf=compare"),
    **_table(
        "ending",
        "etc=et cetera, inc=incorporated, ltd=limited, co=company, corp=corporation, bros=brothers,"
        "jr=junior, sr=senior,"
        "esq=esquire, ave=avenue, blvd=boulevard, rd=road, ln=lane, hwy=highway, pkwy=parkway, sq=square,"
        "dept=department,"
        "univ=university, assn=association, govt=government, mins=minutes, hr=hour, hrs=hours, secs=seconds,"
        "avg=average",
    ),
}
# Understood without their full stop too; the titles only before a name.
STOPLESS = frozenset("vs etc jr sr blvd hwy dept govt".split())
STOPLESS_TITLES = frozenset("mr mrs ms mx dr prof st mt ft".split())

# Abbreviations with inner stops that are not read letter by letter.
DOTTED: dict[str, tuple[str, ...]] = {"e.g": ("for", "example"), "i.e": ("that", "is")}

# Spelled although the dictionary has a word of these letters.
LETTER_ACRONYMS = frozenset(
    "AI API AR CD CEO CPU DC DIY DJ DVD EU FAQ FM GPS GPU HD HR HTML ID IP IQ ISO LA LED LLM MC ML NBA "
    "NBC NFL NY PC PDF "
    "PHP PR RAM SD SDK SMS SOS SQL SUV TV UFO UI UK UN URL USA USB UX VIP VR WWW XML".split()
)
# Words in capitals that are an acronym unless the whole text is in capitals.
EMPHATIC_PAIRS = frozenset(("US", "IT"))
# A capitalised word of these after a stop that may belong to an abbreviation begins a new sentence.
SENTENCE_STARTERS = frozenset(
    "the a an it he she they we i you this that these those there what who when where why how if but and "
    "so then in on at "
    "my your his her our their is are do does did can will would however also now well yes no let please".split()
)

ROMAN_AFTER = frozenset(
    "chapter part volume section act scene war type phase title book level stage class episode season version".split()
)
ROYAL_NAMES = frozenset(
    "henry louis george elizabeth john paul pius james charles edward william richard philip peter catherine napoleon "
    "alexander francis leo benedict gregory innocent clement nicholas frederick ivan".split()
)

MAGNITUDES = frozenset("thousand million billion trillion quadrillion".split())
MAGNITUDE_LETTERS = {"k": "thousand", "m": "million", "mn": "million", "b": "billion", "bn": "billion", "t": "trillion"}


class Currency(NamedTuple):
    one: str
    many: str
    one_part: str  # the hundredth; empty if there is none in use
    many_parts: str


CURRENCIES = {
    "$": Currency("dollar", "dollars", "cent", "cents"),
    "€": Currency("euro", "euros", "cent", "cents"),
    "£": Currency("pound", "pounds", "penny", "pence"),
    "¥": Currency("yen", "yen", "", ""),
    "₹": Currency("rupee", "rupees", "paisa", "paise"),
    "¢": Currency("cent", "cents", "", ""),
}

# Units of measure after a number: singular and plural.
_PLAIN_UNITS = (
    "km=kilometer, cm=centimeter, mm=millimeter, m=meter, mi=mile, yd=yard, yds=yard, ft=foot/feet,"
    "kg=kilogram, g=gram,"
    "mg=milligram, lb=pound, lbs=pound, oz=ounce, ml=milliliter, mL=milliliter, kW=kilowatt, MW=megawatt,"
    "kWh=kilowatt hour,"
    "Hz=hertz/hertz, kHz=kilohertz/kilohertz, MHz=megahertz/megahertz, GHz=gigahertz/gigahertz,"
    "KB=kilobyte, kB=kilobyte,"
    "MB=megabyte, GB=gigabyte, TB=terabyte, dB=decibel, ms=millisecond, sec=second, secs=second,"
    "min=minute, mins=minute,"
    "hr=hour, hrs=hour, mph=mile per hour/miles per hour, kph=kilometer per hour/kilometers per hour,"
    "fps=frame per second/frames per second, px=pixel, cal=calorie, kcal=kilocalorie, mAh=milliamp hour, V=volt, W=watt"
)
_GLUED_UNITS = "in=inch/inches, s=second, h=hour, l=liter, L=liter, A=amp, C=degree celsius/degrees celsius"


def _units(entries: str) -> dict[str, tuple[str, str]]:
    table = {}
    for entry in entries.split(","):
        short, names = entry.strip().split("=")
        one, _, many = names.partition("/")
        table[short] = (one, many or one + "s")
    return table


SPACED_UNITS = _units(_PLAIN_UNITS)  # "5 km"
GLUED_UNITS = {**SPACED_UNITS, **_units(_GLUED_UNITS)}  # "5km"; and "5in", where "5 in" is the preposition
