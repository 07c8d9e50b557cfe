"""The text front end: readings of tricky text, and tokens that do not depend on how the text was pushed."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streamchar_rt.errors import BundleError
from streamchar_rt.orchestrator import numbers
from streamchar_rt.orchestrator.letter_to_sound import NUM_CLASSES, SLOTS_PER_LETTER, LetterToSound
from streamchar_rt.orchestrator.lexicon import PHONE_CODES, Lexicon, PhoneToken, encode_phone, write_lexicon
from streamchar_rt.orchestrator.pronounce import Pronouncer
from streamchar_rt.orchestrator.reading import Mark, SpokenWord
from streamchar_rt.orchestrator.text import MAX_PIECE, Cue, TextReader
from streamchar_rt.orchestrator.transcript import Transcript, TranscriptUpdate
from streamchar_rt.orchestrator.units import (
    FIRST_PHONE,
    NUM_UNITS,
    PAUSE_LONG,
    PAUSE_SHORT,
    PHONE_ID,
    PHONES,
    UNIT_NAMES,
    canonical_phone,
    is_pause,
    is_phone,
    is_vowel,
)

SMALL = {
    "the": "dh ax",
    "a": "ax",
    "apple": "ae1 p ax l",
    "dog": "d ao1 g",
    "cat": "k ae1 t",
    "boss": "b ao1 s",
    "they": "dh ey1",
    "record": "r eh1 k er d",
    "record/v": "r ax k ao1 r d",
    "records": "r eh1 k er d z",
    "records/v": "r ax k ao1 r d z",
    "hello": "hh ax l ow1",
    "to": "t ax",
    "five": "f ay1 v",
    "dollars": "d aa1 l er z",
    "we": "w iy1",
    "us": "ah1 s",
    "it": "ih1 t",
    "youtube": "y uw1 t uw b",
    "nasa": "n ae1 s ax",
    "stop": "s t aa1 p",
    "now": "n aw1",
    "i": "ay1",
}


def phones(text: str) -> tuple[PhoneToken, ...]:
    return tuple(PhoneToken(PHONE_ID[p.rstrip("1")], int(p.endswith("1"))) for p in text.split())


def random_net(seed: int) -> LetterToSound:
    """A net of the runtime's form with random weights: it says nonsense, but the same nonsense each time."""
    r = np.random.default_rng(seed)
    e, h = 8, 6
    weights = {
        "embedding": r.normal(size=(26, e)),
        "output.weight": r.normal(size=(SLOTS_PER_LETTER * NUM_CLASSES, 2 * h)) * 3,
        "output.bias": r.normal(size=SLOTS_PER_LETTER * NUM_CLASSES),
    }
    for layer, size in enumerate((e, 2 * h)):
        for direction in ("forward", "backward"):
            name = f"layer{layer}.{direction}."
            weights |= {
                name + "input_weight": r.normal(size=(3 * h, size)),
                name + "hidden_weight": r.normal(size=(3 * h, h)),
                name + "input_bias": r.normal(size=3 * h),
                name + "hidden_bias": r.normal(size=3 * h),
            }
    return LetterToSound(weights)


@pytest.fixture(scope="module")
def pronouncer(tmp_path_factory: pytest.TempPathFactory) -> Pronouncer:
    path = tmp_path_factory.mktemp("lexicon") / "lexicon.bin"
    write_lexicon(path, {word: phones(text) for word, text in SMALL.items()})
    return Pronouncer(Lexicon.load(path), random_net(1))


def read(text: str, known: set[str] | None = None, tags: bool = True) -> str:
    """Readable form of what the reader makes of ``text``: ``|`` short and ``||`` long pause, ``~`` a letter's name."""
    known = COMMON if known is None else known
    reader = TextReader(lambda word: word in known, tags=tags)
    parts = []
    for item in reader.push(text) + reader.flush():
        if isinstance(item, SpokenWord):
            parts.append(item.spoken + "~" * item.is_letter)
        elif isinstance(item, Mark):
            parts.append("||" if item.unit == PAUSE_LONG else "|")
        elif isinstance(item, Cue):
            parts.append(f"<{item.name}>" if item.value is None else f"<{item.name} {item.value:g}>")
        else:
            parts.append(f"!{item.script}")
    return " ".join(parts)


COMMON = set("the a it us is i this stop now open nasa youtube ok go no so".split())


# ---------------------------------------------------------------- units
def test_unit_inventory_is_the_documented_one() -> None:
    assert NUM_UNITS == 44 == len(UNIT_NAMES) and len(PHONES) == 40 and PHONES == tuple(sorted(PHONES))
    assert [PHONE_ID[p] for p in PHONES] == list(range(FIRST_PHONE, NUM_UNITS))
    assert canonical_phone("axr") == "er" and canonical_phone("dx") == "t"
    assert (
        is_vowel(PHONE_ID["ax"]) and not is_vowel(PHONE_ID["z"]) and not is_phone(PAUSE_SHORT) and is_pause(PAUSE_LONG)
    )
    with pytest.raises(KeyError):
        canonical_phone("pau")


# ---------------------------------------------------------------- readings
@pytest.mark.parametrize(
    ("written", "spoken"),
    [
        # numbers
        ("1000", "one thousand"),
        ("1,234,567", "one million two hundred thirty four thousand five hundred sixty seven"),
        ("3.14", "three point one four"),
        ("0.5", "zero point five"),
        (".5", "zero point five"),
        ("-5", "minus five"),
        ("007", "zero zero seven"),
        ("12345678901234567890", " ".join(numbers.digits("12345678901234567890"))),
        ("1st 22nd 103rd 4th", "first twenty second one hundred third fourth"),
        ("100%", "one hundred percent"),
        ("1/2", "one half"),
        ("3/4", "three quarters"),
        ("2/3", "two thirds"),
        ("3 1/2", "three and a half"),
        ("7/0", "seven over zero"),
        ("10-20", "ten to twenty"),
        ("2010–2015", "twenty ten to twenty fifteen"),
        ("24/7", "twenty four seven"),
        ("5*3", "five times three"),
        ("2+2=4", "two plus two equals four"),
        ("#1", "number one"),
        ("~5", "about five"),
        ("5²", "five squared"),
        ("½", "one half"),
        ("3½", "three and a half"),
        ("10⁵", "ten five"),
        # money
        ("$5", "five dollars"),
        ("$1", "one dollar"),
        ("$5.20", "five dollars and twenty cents"),
        ("$0.99", "ninety nine cents"),
        ("$1.01", "one dollar and one cent"),
        ("$5 million", "five million dollars"),
        ("$2.5 billion.", "two point five billion dollars ||"),
        ("$10k", "ten thousand dollars"),
        ("£3.01", "three pounds and one penny"),
        ("¥500", "five hundred yen"),
        ("5€", "five euros"),
        ("$1,000", "one thousand dollars"),
        ("-$5", "minus five dollars"),
        ("$", ""),
        # years, dates, times
        ("1999", "nineteen ninety nine"),
        ("1905", "nineteen oh five"),
        ("1900", "nineteen hundred"),
        ("2000", "two thousand"),
        ("2005", "two thousand five"),
        ("2024", "twenty twenty four"),
        ("1,999", "one thousand nine hundred ninety nine"),
        ("the 1990s", "the nineteen nineties"),
        ("'80s", "eighties"),
        ("Jan. 5, 1999", "january fifth | nineteen ninety nine"),
        ("May 5th", "may fifth"),
        ("5 May 2020", "the fifth of may twenty twenty"),
        ("2024-01-15", "january fifteenth twenty twenty four"),
        ("1/15/2024", "january fifteenth twenty twenty four"),
        ("99/99/2024", "nine nine nine nine two zero two four"),
        ("3:45", "three forty five"),
        ("5:00", "five o'clock"),
        ("5:00 p.m.", "five p~ m~ ||"),
        ("3pm", "three p~ m~"),
        ("12:05 AM", "twelve oh five a~ m~"),
        ("14:30", "fourteen thirty"),
        ("1:30:05", "one thirty and five seconds"),
        ("16:9", "sixteen to nine"),
        # units of measure
        ("5 km", "five kilometers"),
        ("1 km", "one kilometer"),
        ("5km/h", "five kilometers per hour"),
        ("1500 m", "one thousand five hundred meters"),
        ("20°C", "twenty degrees celsius"),
        ("20 °F", "twenty degrees fahrenheit"),
        ("6 ft", "six feet"),
        ("5 in the", "five in the"),
        ("3.5GHz", "three point five gigahertz"),
        # abbreviations
        ("Dr. Smith", "doctor smith"),
        ("Elm Dr. is", "elm drive is"),
        ("St. John on Main St. is", "saint john on main street is"),
        ("Mr. and Mrs. Jones", "mister and missus jones"),
        ("etc. And", "et cetera || and"),
        ("etc. and", "et cetera and"),
        ("e.g. this", "for example this"),
        ("the U.S. Army", "the u~ s~ army"),
        ("the U.S. The", "the u~ s~ || the"),
        ("J. Smith", "j~ smith"),
        ("No. 5", "number five"),
        ("No. Never", "no || never"),
        ("vs. them", "versus them"),
        ("Henry VIII", "henry the eighth"),
        ("Chapter IV", "chapter four"),
        ("I am", "i~ am"),
        # acronyms and mixed words
        ("NASA", "nasa"),
        ("CPU", "c~ p~ u~"),
        ("the US is", "the u~ s~ is"),
        ("THIS IS US", "this is us"),
        ("STOP NOW", "stop now"),
        ("YouTube", "youtube"),
        ("OpenAI", "open a~ i~"),
        ("B2B", "b~ two b~"),
        ("AT&T", "a~ t~ and t~"),
        ("xkcd", "x~ k~ c~ d~"),
        ("CDs", "c~ d's~"),
        ("A dog", "a dog"),
        ("Vitamin A is", "vitamin a~ is"),
        ("A B C", "a~ b~ c~"),
        ("C++", "c~ plus plus"),
        # addresses
        ("www.example.com", "w~ w~ w~ dot example dot c~ o~ m~"),
        ("me@foo.com.", "m~ e~ at f~ o~ o~ dot c~ o~ m~ ||"),
        ("data.txt", "data dot t~ x~ t~"),
        ("555-1234", "five five five | one two three four"),
        # marks
        ("What?! No!!! Yes...", "what || no || yes ||"),
        ("well-known", "well known"),
        ("wow – ok", "wow | ok"),
        ("wow—ok", "wow | ok"),
        ("done -- ok", "done | ok"),
        ("end.Start", "end || start"),
        ("(maybe)", "| maybe |"),
        ("“quote”", "quote"),
        ("it’s", "it's"),
        ("*bold* _it_", "bold it"),
        (":) hi ;-)", "hi"),
        ("one\n\ntwo", "one || two"),
        ("one\ntwo", "one two"),
        ("and/or", "and or"),
        # Unicode
        ("café naïve Straße ﬁne", "cafe naive strasse fine"),
        ("e\u0301t\u00e9", "ete"),
        ("hello😀world", "hello world"),
        ("你好 hi", "!CJK hi"),
        ("при вет", "!Cyrillic !Cyrillic"),
        ("hel\u200blo", "hello"),
        ("a\x00b", "ab"),
        ("你好。", "!CJK ||"),
        ("Ｈｅｌｌｏ", "hello"),
        # cues
        ("[happy] hi", "<happy> hi"),
        ("[pause 0.5]", "<pause 0.5>"),
        ("[Wave=2]now", "<wave 2> now"),
        ("see [not a tag]", "see | not a tag |"),
        ("wor[sad]ld", "wor <sad> l~ d~"),
        ("[", "|"),
        ("[[happy]", "| <happy>"),
    ],
)
def test_reading(written: str, spoken: str) -> None:
    assert read(written) == spoken


def test_tags_are_text_without_markup() -> None:
    assert read("[happy] hi", tags=False) == "| happy | hi"


def test_numbers_against_arithmetic(rng: np.random.Generator) -> None:
    """Read the words back by their values: an independent inverse of cardinal()."""
    values = {w: i for i, w in enumerate(numbers._UNITS)} | {w: 20 + 10 * i for i, w in enumerate(numbers._TENS)}
    powers = {w: 1000**i for i, w in enumerate(numbers._GROUPS) if w}

    def parse(words: list[str]) -> int:
        total = group = 0
        for word in words:
            if word == "hundred":
                group *= 100
            elif word in powers:
                total, group = total + group * powers[word], 0
            else:
                group += values[word]
        return total + group

    r = random.Random(int(rng.integers(2**31)))
    for value in [0, 1, 10, 19, 20, 99, 100, 101, 999, 1000, 10**17, numbers.MAX_CARDINAL] + [
        r.randrange(10 ** r.randint(1, 18)) for _ in range(500)
    ]:
        assert parse(numbers.cardinal(value)) == value
    with pytest.raises(ValueError):
        numbers.cardinal(10**18)


# ---------------------------------------------------------------- pronunciation
def spoken_units(update: TranscriptUpdate) -> list[str]:
    return [UNIT_NAMES[token.unit] + "1" * token.stress for token in update.tokens]


def said(pronouncer: Pronouncer, text: str) -> list[str]:
    transcript = Transcript(pronouncer)
    first, last = transcript.push(text), transcript.end_turn()
    return spoken_units(first) + spoken_units(last)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the dog.", "dh ax d ao1 g <long>"),
        ("the apple", "dh iy ae1 p ax l <long>"),
        ("a dog", "ax d ao1 g <long>"),
        ("the, apple", "dh ax <short> ae1 p ax l <long>"),
        ("the [wave] apple", "dh iy ae1 p ax l <long>"),
        ("cat's dog's boss's", "k ae1 t s d ao1 g z b ao1 s ax z <long>"),
        ("cats", "k ae1 t s <long>"),
        ("it'll they'll", "ih1 t ax l dh ey1 l <long>"),
        ("the record", "dh ax r eh1 k er d <long>"),
        ("to record", "t ax r ax k ao1 r d <long>"),
        ("they record", "dh ey1 r ax k ao1 r d <long>"),
        ("it records", "ih1 t r ax k ao1 r d z <long>"),
        ("record the dog", "r ax k ao1 r d dh ax d ao1 g <long>"),
        ("record.", "r eh1 k er d <long>"),
        ("hellooooo", "hh ax l ow1 <long>"),
        ("$5", "f ay1 v d aa1 l er z <long>"),
        ("...", ""),
        ("", ""),
        (" \n ", ""),
        ("dog, (cat).", "d ao1 g <short> k ae1 t <long>"),
    ],
)
def test_pronunciation(pronouncer: Pronouncer, text: str, expected: str) -> None:
    assert said(pronouncer, text) == expected.split()


def test_words_and_offsets(pronouncer: Pronouncer) -> None:
    transcript = Transcript(pronouncer)
    text = "Hello  $5, [happy] dog!"
    update = transcript.push(text)
    rest = transcript.end_turn()
    words, tokens, cues = update.words + rest.words, update.tokens + rest.tokens, update.cues + rest.cues
    assert [(w.text, text[w.char_begin : w.char_end]) for w in words] == [
        ("Hello", "Hello"),
        ("five", "$5"),
        ("dollars", "$5"),
        ("dog", "dog"),
    ]
    for index, word in enumerate(words):
        own = tokens[word.first_token : word.first_token + word.num_tokens]
        assert all(
            t.word_index == index and (t.char_begin, t.char_end) == (word.char_begin, word.char_end) for t in own
        )
        assert [t.word_start for t in own] == [True] + [False] * (len(own) - 1)
    assert sum(w.num_tokens for w in words) + sum(is_pause(t.unit) for t in tokens) == len(tokens)
    (cue,) = cues
    assert cue.name == "happy" and text[cue.char_begin : cue.char_end] == "[happy]"
    assert cue.token_index == words[3].first_token


def test_words_wait_for_their_end(pronouncer: Pronouncer) -> None:
    transcript = Transcript(pronouncer)
    assert transcript.push("Hel").words == [] and transcript.push("lo").words == []
    assert transcript.held_from == 0
    assert [w.text for w in transcript.push(" the").words] == ["Hello"]
    assert transcript.push(" ").words == []  # dh ax or dh iy?
    assert transcript.held_from == 6
    assert spoken_units(transcript.push("apple ")) == "dh iy ae1 p ax l".split()
    assert [w.text for w in transcript.push("1").words] == [] and transcript.push("000").words == []
    assert [w.text for w in transcript.flush().words] == ["one", "thousand"]
    assert transcript.held_from == transcript.pushed == 20
    update = transcript.push("dog")
    assert update.tokens == []
    assert spoken_units(transcript.end_turn()) == "d ao1 g <long>".split()
    assert transcript.pushed == 0
    assert transcript.push("cat ").words[0].char_begin == 0


def test_reset_forgets(pronouncer: Pronouncer) -> None:
    transcript = Transcript(pronouncer)
    transcript.push("dog, the")
    transcript.reset()
    assert transcript.end_turn() == TranscriptUpdate()


def test_other_scripts_warn_once_per_run(pronouncer: Pronouncer) -> None:
    transcript = Transcript(pronouncer)
    update = transcript.push("dog привет ")
    assert [(w.script, w.char_begin, w.char_end) for w in update.warnings] == [("Cyrillic", 4, 10)]


# ---------------------------------------------------------------- any text, any split
SNIPPETS = [
    "Dr.",
    " Smith",
    "$5",
    " million",
    ".",
    ",",
    "1",
    ",000",
    "3:45",
    " pm",
    "U.S.",
    " The",
    "[happy]",
    "[pause 0.",
    "5]",
    "[",
    "]",
    "the",
    " apple",
    "\n\n",
    "\n",
    " ",
    "—",
    "...",
    "'s",
    "(",
    "\u0301",
    "😀",
    "你",
    "é",
    "A",
    " a",
    "May",
    " 5",
    "1/2",
    "-",
    "http://a.b/c",
    "IT",
    " US",
    "J.",
    "\ud800",
    "\x00",
    "x" * 40,
    "°",
    "C",
    "record",
    "%",
    "etc.",
    "No.",
    "²",
    "&",
]
TEXTS = st.one_of(st.text(max_size=60), st.lists(st.sampled_from(SNIPPETS), max_size=25).map("".join))


def collect(transcript: Transcript, pieces: list[str]) -> TranscriptUpdate:
    total = TranscriptUpdate()
    for update in [transcript.push(piece) for piece in pieces] + [transcript.end_turn()]:
        total.tokens += update.tokens
        total.words += update.words
        total.cues += update.cues
        total.warnings += update.warnings
    return total


@settings(deadline=None, max_examples=400)
@given(text=TEXTS, data=st.data())
def test_any_split_gives_the_same_tokens(pronouncer: Pronouncer, text: str, data: st.DataObject) -> None:
    whole = collect(Transcript(pronouncer), [text])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
    assert collect(Transcript(pronouncer), pieces) == whole
    assert collect(Transcript(pronouncer), list(text)) == whole


@settings(deadline=None, max_examples=300)
@given(text=TEXTS)
def test_offsets_are_valid_and_in_order(pronouncer: Pronouncer, text: str) -> None:
    result = collect(Transcript(pronouncer), [text])
    begin = end = 0
    for index, token in enumerate(result.tokens):
        assert 0 <= token.char_begin <= token.char_end <= len(text)
        assert token.char_begin >= begin and token.char_end >= end  # one character can give several words: ½
        begin, end = token.char_begin, token.char_end
        assert 0 < token.unit < NUM_UNITS and (token.stress == 0 or is_vowel(token.unit))
        assert not (is_pause(token.unit) and (index == 0 or is_pause(result.tokens[index - 1].unit)))
        if is_pause(token.unit):
            assert token.word_index == -1 and not token.word_start
        else:
            word = result.words[token.word_index]
            assert word.first_token <= index < word.first_token + word.num_tokens
    if result.tokens:
        assert is_pause(result.tokens[-1].unit)
    for cue in result.cues:
        assert (
            text[cue.char_begin] == "[" and text[cue.char_end - 1] == "]" and 0 <= cue.token_index <= len(result.tokens)
        )


@settings(deadline=None, max_examples=100)
@given(pieces=st.lists(st.tuples(st.sampled_from(SNIPPETS), st.sampled_from(["push", "flush", "end"])), max_size=30))
def test_flush_anywhere_never_fails(pronouncer: Pronouncer, pieces: list[tuple[str, str]]) -> None:
    transcript, tokens = Transcript(pronouncer), 0
    for text, action in pieces:
        tokens += len(transcript.push(text).tokens)
        if action == "flush":
            tokens += len(transcript.flush().tokens)
            assert transcript.held_from == transcript.pushed
        elif action == "end":
            transcript.end_turn()
    transcript.end_turn()


def test_what_is_held_back_is_bounded(pronouncer: Pronouncer) -> None:
    transcript = Transcript(pronouncer)
    for _ in range(50):
        transcript.push("x" * 97)
        assert transcript.pushed - transcript.held_from <= 3 * MAX_PIECE
    transcript.push("[" * 1000 + " " * 100_000)
    assert transcript.pushed - transcript.held_from <= 3 * MAX_PIECE + 100_000


# ---------------------------------------------------------------- files
def test_lexicon_round_trip(tmp_path: Path, rng: np.random.Generator) -> None:
    r = random.Random(int(rng.integers(2**31)))
    words = {
        "".join(r.choices("abcde'", k=r.randint(1, 12))): tuple(r.choices(PHONE_CODES, k=r.randint(1, 40)))
        for _ in range(3000)
    }
    path = tmp_path / "lexicon.bin"
    assert write_lexicon(path, words) == path.stat().st_size
    lexicon = Lexicon.load(path)
    assert len(lexicon) == len(words) and list(lexicon) == sorted(words)
    for word, expected in words.items():
        assert lexicon.get(word) == expected
    for _ in range(500):
        word = "".join(r.choices("abcdefz'é", k=r.randint(0, 12)))
        assert (lexicon.get(word) is None) == (word not in words)
    assert sorted(encode_phone(p) for p in PHONE_CODES) == list(range(56))


def test_damaged_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "lexicon.bin"
    write_lexicon(path, {"dog": phones("d ao1 g")})
    good = path.read_bytes()
    for bad in (b"", good[:20], b"X" + good[1:], good[:12] + struct.pack("<I", 7) * 10, good[:-8]):
        path.write_bytes(bad)
        with pytest.raises(BundleError, match="lexicon.bin"):
            Lexicon.load(path)
    with pytest.raises(BundleError, match="absent"):
        Lexicon.load(tmp_path / "absent")
    with pytest.raises(BundleError, match="absent"):
        LetterToSound.load(tmp_path / "absent")
    (tmp_path / "net.safetensors").write_bytes(b"nonsense")
    with pytest.raises(BundleError, match="net.safetensors"):
        LetterToSound.load(tmp_path / "net.safetensors")


def test_letter_to_sound_agrees_with_torch(seeded: int) -> None:
    torch = pytest.importorskip("torch")
    from tools.train.letter_to_sound import Net

    net = Net(embedding=12, hidden=10).eval()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.normal_()
    numpy_net = LetterToSound({name: weight.float().numpy() for name, weight in net.exported().items()})
    for module in net.modules():
        for parameter in module.parameters(recurse=False):
            parameter.data = parameter.data.half().float()
    for word in ("a", "hello", "streamchar", "zyzzyva"):
        with torch.no_grad():
            best = net(torch.tensor([[ord(c) - 97 for c in word]]))[0].argmax(-1).tolist()
        expected = [PHONE_CODES[b - 1] for b, before in zip(best, [0, *best]) if b and b != before]
        assert list(numpy_net.phones(word)) == expected
    assert numpy_net.phones("") == () and len(numpy_net.phones("q" * 200)) > 0


# ---------------------------------------------------------------- the shipped bundle
MINI = Path(__file__).parents[1] / "python/streamchar_rt/bundles/mini"


@pytest.mark.skipif(not (MINI / "lexicon.bin").exists(), reason="the mini bundle holds no lexicon.bin")
def test_shipped_lexicon_says_common_words() -> None:
    lexicon = Lexicon.load(MINI / "lexicon.bin")
    assert len(lexicon) > 100_000
    for word, expected in {
        "hello": "hh ax l ow1",
        "world": "w er1 l d",
        "the": "dh ax",
        "character": "k eh1 r ih k t er",
    }.items():
        assert lexicon.get(word) == phones(expected)
    assert Pronouncer(lexicon, random_net(2)).phones("dog's") == phones("d ao1 g z")
