"""The examples run without screen, loudspeaker and network, over the stand-in model; so do captions."""
from __future__ import annotations

import importlib
import os
import struct
import subprocess
import sys
import wave
from pathlib import Path

import pytest

from streamchar_rt import ConfigError, Engine, OutputError, UnsupportedError, Word, examples
from streamchar_rt.captions import Caption, captions, write_captions
from tests.stand_in import make_engine

NAMES = sorted(path.stem for path in Path(examples.__file__).parent.glob("*.py") if path.stem != "__init__")


@pytest.fixture(autouse=True)
def stand_in(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    load = lambda cls, model="mini", **options: make_engine(tmp_path / "model", **options)
    monkeypatch.setattr(Engine, "load", classmethod(load))
    monkeypatch.chdir(tmp_path)


def run(name, *arguments):
    importlib.import_module(f"streamchar_rt.examples.{name}").main(list(arguments))


@pytest.mark.parametrize("name", NAMES)
def test_examples_are_short_and_have_help(name, capsys):
    module = importlib.import_module(f"streamchar_rt.examples.{name}")
    assert len(Path(module.__file__).read_text().splitlines()) < 60
    with pytest.raises(SystemExit) as stop:
        module.main(["--help"])
    assert stop.value.code == 0 and "usage:" in capsys.readouterr().out
    assert name in examples.__doc__


def test_hello(capsys):
    pytest.importorskip("av")
    run("hello", "Hello there", "-o", "a.mp4")
    assert capsys.readouterr().out.split() == ["Hello", "there", "a.mp4"] and Path("a.mp4").stat().st_size > 1000


def test_barge_in(capsys):
    from streamchar_rt.examples import barge_in

    run("barge_in", "--headless", "--cut", "2", "-o", "a.wav")
    out = capsys.readouterr().out
    heard, unheard = (line.split(": ", 1)[1].strip()[1:-1] for line in out.splitlines())
    assert heard.startswith("Once") and heard + unheard == barge_in.STORY and unheard.endswith("waves."), out
    with wave.open("a.wav") as file:
        assert file.getnframes() > 2 * 16000  # what was heard, and the answer


def test_dialogue():
    av = pytest.importorskip("av")
    run("dialogue", "--lines", "2", "-o", "a.mp4")
    with av.open("a.mp4") as container:
        assert (container.streams.video[0].width, container.streams.video[0].height) == (128, 64)
        assert container.streams.audio[0].duration > 0


def test_captioned():
    run("captioned", "Hello there. One two.", "-o", "a.wav", "--captions", "a.vtt")
    text = Path("a.vtt").read_text()
    assert text.startswith("WEBVTT\n\n1\n00:00:00.080 --> ") and "Hello there" in text


def test_server(capsys):
    run("server", "--port", "0", "--headless", "Hello there!")
    address, received = capsys.readouterr().out.splitlines()
    assert address.startswith("http://127.0.0.1:") and int(received.split()[0]) > 50_000


def test_packets_of_the_server():
    from streamchar_rt.examples.server import packets

    with Engine.load() as engine, engine.session("dot", pixel_format="rgb") as session:
        session.say("hello there")
        body = b"".join(packet for chunk in session.turn() for packet in packets(chunk))
    found = []
    while body:
        kind, size, pts = struct.unpack(">cIQ", body[:13])
        found.append((kind, pts, body[13 : 13 + size]))
        body = body[13 + size :]
    assert [data.decode() for kind, _, data in found if kind == b"W"] == ["hello", "there"]
    sound = [(pts, len(data)) for kind, pts, data in found if kind == b"A"]
    assert sound == [(10240 * i, 20480) for i in range(len(sound))]
    pictures = [(pts, data[:2]) for kind, pts, data in found if kind == b"V"]
    assert pictures == [(640 * i, b"\xff\xd8") for i in range(16 * len(sound))]


def test_window(capsys):
    pytest.importorskip("pygame")
    run("window", "--headless", "2")


def test_window_names_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(UnsupportedError) as caught:
        run("window")
    assert "streamchar-rt[play]" in caught.value.hint


def test_errors_are_said_in_words(tmp_path):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run(
        [sys.executable, "-m", "streamchar_rt.examples.hello", " "], capture_output=True, text=True, env=environment,
        cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1 and "Traceback" not in done.stderr and "try:" in done.stderr


def word(text, begin, end, offset):
    return Word(text, offset, int(begin * 16000), int(end * 16000))


def test_captions_part_at_pauses_lengths_and_turns(rng):
    words = [word("one", 0.1, 0.5, 0), word("two", 0.5, 0.9, 4), word("three", 2.0, 2.5, 8), word("<a&b>", 2.5, 4.0, 0)]
    found = captions(words, 16000)
    assert found == [Caption(0.1, 0.9, "one two"), Caption(2.0, 2.5, "three"), Caption(2.5, 4.0, "<a&b>")]
    times, words = 0.0, []
    for i in range(300):
        length = float(rng.uniform(0.1, 0.6))
        words.append(word("w" * int(rng.integers(1, 12)), times, times + length + 0.05, 20 * i))  # overlapping
        times += length + (float(rng.uniform(0, 2)) if rng.random() < 0.1 else 0.0)
    found = captions(words, 16000)
    assert " ".join(caption.text for caption in found).split() == [each.text for each in words]
    for a, b in zip(found, found[1:]):
        assert a.begin < a.end <= b.begin + 1e-9
    assert all(len(caption.text) <= 42 and caption.end - caption.begin <= 6.1 for caption in found)


def test_caption_files(tmp_path):
    words = [word("<a&b>", 0.1, 0.5, 0), word("é\ud800", 3661.2345, 3662.0, 8)]
    write_captions(tmp_path / "a.srt", words, 16000)
    assert (tmp_path / "a.srt").read_text() == (
        "1\n00:00:00,100 --> 00:00:00,500\n<a&b>\n\n2\n01:01:01,234 --> 01:01:02,000\né?\n"
    )
    write_captions(tmp_path / "a.vtt", words, 16000)
    assert (tmp_path / "a.vtt").read_text() == (
        "WEBVTT\n\n1\n00:00:00.100 --> 00:00:00.500\n&lt;a&amp;b&gt;\n\n2\n01:01:01.234 --> 01:01:02.000\né?\n"
    )
    write_captions(tmp_path / "empty.srt", [], 16000)
    assert (tmp_path / "empty.srt").read_text() == ""
    with pytest.raises(ConfigError, match="neither"):
        write_captions(tmp_path / "a.txt", words, 16000)
    with pytest.raises(OutputError):
        write_captions(tmp_path / "no" / "a.srt", words, 16000)
