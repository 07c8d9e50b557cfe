"""Build the runtime's pronunciation lexicon.

    python -m tools.train.lexicon --out lexicon.bin

The words are those of the CMU dictionary in the pocketsphinx package (BSD licence). That edition has no
stress, so each pronunciation comes from flite, whose own lexicon and rules carry it, wherever flite agrees with
the dictionary; that also makes the transcript units those that the training speech was made from. Where flite's
rules disagree, the dictionary's phones are kept and take their stress from flite's rules, vowel by vowel.
"""

from __future__ import annotations

import argparse
import os
import re
from collections import defaultdict
from pathlib import Path

from streamchar_rt.orchestrator.lexicon import PhoneToken, write_lexicon
from streamchar_rt.orchestrator.units import PHONE_ID, VOWELS, canonical_phone

from tools.studio.flite import Flite, flite

# Function words that flite reads in their reduced form; it looks up all others as content words.
_REDUCED = {"a": "0", "in": "0", "to": "0"}
# Words that the dictionary lacks or that flite looks up wrongly without their context.
_CORRECTIONS = {
    "does": "d ah1 z",
    "miz": "m ih1 z",
    "o'clock": "ax k l aa1 k",
    "oclock": "ax k l aa1 k",
    "oh": "ow1",
    "ok": "ow1 k ey1",
    "okay": "ow1 k ey1",
    "reading": "r iy1 d ih ng",
    "shit": "sh ih1 t",
    "til": "t ih1 l",
    "tis": "t ih1 z",
    "twas": "t w aa1 z",
}


def phone_token(name: str) -> PhoneToken:
    """``ah1`` → the token of ah with stress 1."""
    stress = name[-1] if name[-1].isdigit() else "0"
    phone = canonical_phone(name.rstrip("012"))
    return PhoneToken(PHONE_ID[phone], int(stress != "0") if phone in VOWELS else 0)


def dictionary() -> dict[str, list[list[str]]]:
    """Word → its pronunciations in the CMU dictionary, phones in lower case."""
    import pocketsphinx

    entries: dict[str, list[list[str]]] = defaultdict(list)
    path = os.path.join(pocketsphinx.get_model_path("en-us"), "cmudict-en-us.dict")
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        word, *phones = line.split()
        entries[word.split("(")[0]].append([p.lower() for p in phones])
    return dict(entries)


# Vowels that speakers of American English merge: the reduced ones, caught and cot, and pairs before r.
_MERGED = {"ax": "ah", "ih": "ah", "ao": "aa"}
_MERGED_BEFORE_R = {"uw": "uh", "iy": "ah", "ih": "ah", "ey": "eh", "ao": "aa"}


def _merged(phones: list[str]) -> list[str]:
    result = []
    for phone, following in zip(phones, [*phones[1:], ""]):
        phone = phone.rstrip("012")
        table = _MERGED_BEFORE_R if following == "r" else _MERGED
        result.append(table.get(phone, phone))
    return result


def agrees(names: list[str], variant: list[str]) -> bool:
    """Whether flite's phones are the dictionary's but for reduced and merged vowels."""
    if variant[-2:] == ["n", "t"] and len(names) + 1 == len(variant):  # couldn't, with a syllabic n
        variant = variant[:-3] + variant[-2:]
    return _merged(names) == _merged(variant)


def with_stress(variant: list[str], names: list[str]) -> list[str]:
    """The dictionary's phones with the stress of flite's, by the order of the vowels; unstressed ah is ax."""
    pattern = [n[-1] == "1" for n in names if n.rstrip("012") in VOWELS]
    vowels = [i for i, p in enumerate(variant) if p in VOWELS]
    if len(pattern) != len(vowels):
        stressed = pattern.index(True) if True in pattern else 0
        pattern = [i == min(stressed, len(vowels) - 1) for i in range(len(vowels))]
    if vowels and not any(pattern):
        pattern[0] = True
    result = list(variant)
    for i, stress in zip(vowels, pattern):
        result[i] = variant[i] + "1" if stress else "ax" if variant[i] == "ah" else variant[i]
    return result


def pronunciation(word: str, variants: list[list[str]], speaker: Flite) -> list[str]:
    """Phones of ``word`` with stress digits."""
    if word in _CORRECTIONS:
        return _CORRECTIONS[word].split()
    bare = word.replace("'", "")
    names = speaker.pronounce(bare, _REDUCED.get(word, "n"))
    if names and (speaker.in_lexicon(bare, "n") or any(agrees(names, v) for v in variants)):
        return names
    return with_stress(variants[0], names)


_CLITIC = re.compile(r"'(s|ve|ll|d)$|s'$")


def build() -> dict[str, tuple[PhoneToken, ...]]:
    """All entries: words, and verbs of homographs as ``word/v``. Possessives are the runtime's rule."""
    speaker, entries = flite(), {}
    words = dictionary() | {word: [] for word in _CORRECTIONS if word not in dictionary()}
    for word, variants in words.items():
        if not re.fullmatch(r"[a-z]+('[a-z]+)*", word) or _CLITIC.search(word):
            continue
        entries[word] = tuple(phone_token(n) for n in pronunciation(word, variants, speaker))
        if "'" in word or word in _REDUCED or word in _CORRECTIONS:
            continue
        verb = speaker.pronounce(word, "v")
        if verb != speaker.pronounce(word, "n") and verb != speaker.pronounce(word, "x"):
            entries[word + "/v"] = tuple(phone_token(n) for n in verb)
    return entries


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tools.train.lexicon", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    path = parser.parse_args().out
    entries = build()
    print(f"{len(entries)} entries, {write_lexicon(path, entries)} bytes in {path}")


if __name__ == "__main__":
    main()
