"""Whatever is thrown at it: a typed error with a remedy or sensible speech, never a crash."""
from __future__ import annotations

import numpy as np
import pytest

from streamchar_rt import ConfigError, OutputError, StateError, generate, one_shot
from tests.stand_in import make_engine

STRANGE = (
    [chr(c) for c in (0, 7, 8, 9, 10, 13, 27, 127, 0x80, 0xA0, 0xAD, 0x200B, 0x202E, 0x2028, 0xD800, 0xDFFF, 0xFEFF, 0xFFFF)]
    + list("🙂👩‍👩‍👧‍👦🇺🇳") + ["你好", "Привет", "مرحبا", "שלום", "ไทย", "e\u0301\u0327", "ﬁ", "½", "١٢٣", "Ａ"]
    + ["[", "]", "[[", "[happy", "happy]", "[happy 1e999]", "[pause -5]", "[pause 999999999]x", "$", "$$5", "1e5", "10^9"]
    + ["hello", "a", "5", "999999999999999999999", "3.14.15", "http://x.y/z?a=b#c", "Dr.", "...", "?!", "--", "'", "\\"]
)  # fmt: skip


@pytest.fixture
def engine(tmp_path, monkeypatch):
    with make_engine(tmp_path) as engine:
        monkeypatch.setattr(one_shot.Engine, "load", classmethod(lambda cls, model: engine))
        yield engine


def test_any_text_is_spoken_or_skipped(engine, rng):
    for _ in range(60):
        text = "".join(
            str(rng.choice(STRANGE)) + str(rng.choice(["", " ", " ", "\n"])) for _ in range(int(rng.integers(1, 25)))
        )
        with engine.session("dot") as session:
            for piece in np.array_split(np.array(list(text)), int(rng.integers(1, 5))):
                session.push_text("".join(piece))
                session.step()
            session.end_turn()
            chunks = []
            for chunk in session.turn():
                chunks.append(chunk)
                assert len(chunks) < 1500, repr(text)
            assert chunks[-1].end_of_turn
            for word in (word for chunk in chunks for word in chunk.words):
                assert text[word.text_offset : word.text_offset + len(word.text)] == word.text, repr(text)


def test_scripts_that_are_not_spoken_are_named(engine):
    with engine.session("dot") as session:
        warnings = []
        session.on_event(lambda name, details: warnings.append(details) if name == "warning" else None)
        session.say("hello Привет 你好 there 🙂")
        words = [word.text for chunk in session.turn() for word in chunk.words]
    assert words == ["hello", "there"]
    assert [(w["kind"], w["script"], w["text"]) for w in warnings] == [
        ("script", "Cyrillic", "Привет"), ("script", "CJK", "你好"),
    ]  # fmt: skip


def test_a_hundred_thousand_characters(engine):
    text = ("good morning my friend. " * 4200)[:100_000]
    with engine.session("dot") as session:
        with pytest.raises(StateError, match="push_stream"):
            session.push_text(text)
        assert session.pending_text == ""
        session.push_stream([text])
        session.end_turn()
        for count, chunk in enumerate(session.turn(), 1):
            if count == 50:
                break
        assert chunk.words
        session.reset()
        session.say("hello")
        assert [word.text for chunk in session.turn() for word in chunk.words] == ["hello"]


def test_a_hundred_thousand_characters_without_a_space(engine):
    with engine.session("dot") as session:
        session.push_stream(["ab" * 50_000])
        session.end_turn()
        chunks = [session.step() for _ in range(20)]
    words = [word for chunk in chunks for word in chunk.words]
    assert words and max(len(word.text) for word in words) < 200


@pytest.mark.parametrize("text", [None, 5, b"hello", ["hello"], object()])
def test_text_that_is_no_text(engine, text):
    with engine.session("dot") as session:
        for call in (session.push_text, session.say):
            with pytest.raises(ConfigError):
                call(text)
        assert session.pending_text == "" and list(session.turn()) == []


def test_options_that_are_not_there(engine):
    with pytest.raises(ConfigError, match="seed"):
        engine.session("dot", sed=5)
    with pytest.raises(ConfigError):
        engine.session("dot", {"seed": 5})
    with pytest.raises(ConfigError):
        engine.session(None)


def test_generate_speaks_and_writes(engine, tmp_path):
    out = tmp_path / "a.wav"
    chunks = list(generate("Hello there, my friend.", out=out, seed=3, character="square", voice="high"))
    assert [word.text for chunk in chunks for word in chunk.words] == ["Hello", "there", "my", "friend"]
    assert chunks[-1].end_of_turn and out.stat().st_size == 44 + 2 * 10240 * len(chunks)


def test_generate_that_is_left_early_keeps_a_whole_file(engine, tmp_path):
    stream = generate("good morning my friend " * 20, out=tmp_path / "a.wav")
    next(stream), next(stream)
    stream.close()
    assert (tmp_path / "a.wav").stat().st_size == 44 + 2 * 10240 * 2


def test_generate_complains_before_it_works(tmp_path, monkeypatch):
    def never(cls, model):
        raise AssertionError("loaded in vain")

    monkeypatch.setattr(one_shot.Engine, "load", classmethod(never))
    for text in ("", "  \n", None, 5):
        with pytest.raises(ConfigError):
            generate(text)
    with pytest.raises(OutputError):
        generate("hello", out=tmp_path / "no" / "a.mp4")
    with pytest.raises(ConfigError):
        generate("hello", out=tmp_path / "a.gif")


def test_every_error_of_the_package_has_a_remedy():
    """Wherever a typed error is raised, a hint is given with it."""
    import ast
    from pathlib import Path

    import streamchar_rt

    kinds = {name for name in streamchar_rt.__all__ if name.endswith("Error")}
    found = 0
    for path in sorted(Path(streamchar_rt.__file__).parent.glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
                name = getattr(node.exc.func, "id", "")
                if name in kinds or name == "error":
                    found += 1
                    assert any(k.arg == "hint" for k in node.exc.keywords), f"{path.name}:{node.lineno}"
    assert found > 40
