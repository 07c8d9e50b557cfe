"""Hostile text through the text front end and a session: tokens that make sense, the same however it was split.

STREAMCHAR_HOSTILE=100000 python -m pytest tests/test_hostile_text.py    runs it long.
"""
from __future__ import annotations

import os
import time

import numpy as np
import pytest

from streamchar_rt.bundle import LETTER_TO_SOUND, LEXICON, MANIFEST, SHIPPED
from streamchar_rt.orchestrator.letter_to_sound import LetterToSound
from streamchar_rt.orchestrator.lexicon import Lexicon
from streamchar_rt.orchestrator.pronounce import Pronouncer
from streamchar_rt.orchestrator.transcript import Transcript
from streamchar_rt.orchestrator.units import END, NUM_UNITS
from tests.stand_in import make_engine
from tests.test_bad_input import STRANGE

COUNT = int(os.environ.get("STREAMCHAR_HOSTILE", 300))
_PIECES = [
    *STRANGE, "[happy 0.5]", "[pause]", "[pause 1e9]", "[a=-.5s]", "[\n]", "[[[[", "]]]]", "\r\n\r\n", "\t", "a" * 200,
    "9" * 60, "-" * 50, "A.B.C.", "1,000,000.50", "12:34:56", "1/2/3/4", "£€¥₿", "2nd 3rd", "MCMXCIV", "C++",
    "O'Neil's", "\u0300" * 40, "\U0010ffff", "%s%n{0}", "</s><|endoftext|>", "NaN", "-0", "İıſß", "Ⅷ", "²³", "١٢", "㊿",
]  # fmt: skip


def hostile(rng: np.random.Generator) -> str:
    """A random string: known mischief, any code points, or both."""
    kind, parts = int(rng.integers(4)), []
    for _ in range(int(rng.integers(0, 30))):
        if kind == 0 or kind == 2 and rng.random() < 0.5:
            top = (0x80, 0x800, 0x3000, 0x110000)[int(rng.integers(4))]
            parts.append("".join(map(chr, map(int, rng.integers(0, top, int(rng.integers(1, 8)))))))
        elif kind == 3:
            alphabet = list("0123456789.,:/-$%[]ap m'\"x+=°")
            parts.append("".join(map(str, rng.choice(alphabet, int(rng.integers(1, 12))))))
        else:
            parts.append(_PIECES[int(rng.integers(len(_PIECES)))])
        parts.append(("", " ", "  ", "\n")[int(rng.integers(4))])
    return "".join(parts)


@pytest.fixture(scope="module")
def pronouncer():
    if not (SHIPPED / "mini" / MANIFEST).is_file():
        pytest.skip("the mini model is not in this tree")
    folder = SHIPPED / "mini"
    return Pronouncer(Lexicon.load(folder / LEXICON), LetterToSound.load(folder / LETTER_TO_SOUND))


def test_tokens_make_sense_and_do_not_depend_on_the_split(pronouncer, rng):
    slowest = (0.0, "")
    for _ in range(COUNT):
        text, tags = hostile(rng), bool(rng.random() < 0.7)
        begin = time.process_time()
        whole = read(pronouncer, [text], tags)
        slowest = max(slowest, (time.process_time() - begin, text))
        cuts = sorted(map(int, rng.integers(0, len(text) + 1, int(rng.integers(1, 6)))))
        assert read(pronouncer, [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])], tags) == whole, repr(text)
        tokens, words, cues, warnings = whole
        last = 0
        for token in tokens:
            assert END < token.unit < NUM_UNITS and token.stress in (0, 1, 2), (token, repr(text))
            assert 0 <= token.char_begin <= token.char_end <= len(text), (token, repr(text))
            assert token.word_index < len(words)
            last = max(last, token.char_begin)
        assert all(0 <= w.char_begin < w.char_end <= len(text) and w.num_tokens > 0 for w in words), repr(text)
        assert [w.char_begin for w in words] == sorted(w.char_begin for w in words), repr(text)
        assert tags or not cues
        assert all(0 <= cue.token_index <= len(tokens) for cue in cues)
        assert all(0 <= warning.char_begin < warning.char_end <= len(text) for warning in warnings)
        assert len(tokens) <= 40 * len(text) + 1, repr(text)  # a digit may be a long word, but not a novel
    assert slowest[0] < 20, slowest  # no catastrophic pattern: usual are milliseconds


def read(pronouncer, pieces, tags):
    transcript = Transcript(pronouncer, tags=tags)
    updates = [transcript.push(piece) for piece in pieces] + [transcript.end_turn()]
    return tuple(sum((getattr(u, name) for u in updates), []) for name in ("tokens", "words", "cues", "warnings"))


def test_sessions_speak_or_skip_it_to_the_end(tmp_path, rng):
    with make_engine(tmp_path) as engine, engine.session("dot", max_pending_text=100_000, steps=1) as session:
        for _ in range(max(10, COUNT // 50)):
            text = hostile(rng)
            session.push_text(text)
            pending = session.pending_text
            assert pending == text
            session.end_turn()
            for count, chunk in enumerate(session.turn()):
                assert count < 3000, repr(text)
                for word in chunk.words:
                    assert text[word.text_offset : word.text_offset + len(word.text)] == word.text, repr(text)
            assert session.pending_text == "" and chunk.end_of_turn
