"""The command: texts from everywhere, files of every kind, exit codes. Over the stand-in model, in this process."""
from __future__ import annotations

import io
import json
import sys
import wave

import numpy as np
import pytest
from PIL import Image

from streamchar_rt import bench, cli
from streamchar_rt.bundle import open_bundle
from tests.stand_in import make_bundle, make_engine


@pytest.fixture(autouse=True)
def stand_in(tmp_path, monkeypatch):
    """The stand-in engine for every command that loads one."""
    (tmp_path / "model").mkdir()
    loaded = []

    def load(options):
        loaded.append(make_engine(tmp_path / "model", max_sessions=1))
        return loaded[-1]

    monkeypatch.setattr(cli, "_load", load)
    monkeypatch.chdir(tmp_path)
    return loaded


def run(*arguments, stdin=None, monkeypatch=None):
    if stdin is not None:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
    try:
        return cli.main(list(arguments))
    except SystemExit as stop:
        return stop.code


def seconds_of(path):
    with wave.open(str(path)) as file:
        return file.getnframes() / file.getframerate()


def test_say_to_every_kind_of_file(tmp_path, capsys):
    for name in ("a.mp4", "a.webm", "a.wav", "frames"):
        assert run("say", "Hello there,", "my friend.", "-o", name) == 0
        captured = capsys.readouterr()
        assert captured.out == "" and f"{name}: " in captured.err and "real-time factor" in captured.err
        assert (tmp_path / name).exists()
    pictures = sorted((tmp_path / "frames").glob("*.png"))
    assert len(pictures) == round(seconds_of("a.wav") * 25)
    assert Image.open(pictures[0]).mode == "RGBA"
    assert seconds_of("frames/audio.wav") == seconds_of("a.wav") > 1


def test_text_from_arguments_files_and_standard_input(tmp_path, monkeypatch):
    text = "Hello there, my friend."
    (tmp_path / "text.txt").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert run("say", text, "-o", "a.wav") == 0
    assert run("say", "-f", "text.txt", "-o", "b.wav") == 0
    assert run("say", "-o", "c.wav", stdin=text.encode(), monkeypatch=monkeypatch) == 0
    assert run("say", "-", "-o", "d.wav", stdin=text.encode(), monkeypatch=monkeypatch) == 0
    sounds = {(tmp_path / f"{name}.wav").read_bytes() for name in "abcd"}
    assert len(sounds) == 1


def test_seed_voice_character_and_emotion(tmp_path, stand_in):
    def sound(*options):
        assert run("say", "hello", "-q", "-o", "a.wav", *options) == 0
        return (tmp_path / "a.wav").read_bytes()

    Image.fromarray(np.full((50, 70, 3), 99, np.uint8)).save(tmp_path / "me.png")
    truth = sound()
    assert sound("--seed", "0") == sound("-c", "dot") == truth
    different = [("--seed", "7"), ("--voice", "low"), ("--emotion", "happy"), ("-c", "square"), ("--steps", "3")]
    assert len({truth, *(sound(*options) for options in different)}) == 1 + len(different) - 1  # square's voice is low
    assert sound("--character", "me.png", "--voice", "high") == truth


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "COMMAND"),
        (["dance"], 2, "dance"),
        (["say", "hi"], 2, "--out"),
        (["say", "hi", "-o", "a.avi"], 2, ".avi"),
        (["say", "hi", "-o", "nowhere/a.mp4"], 1, "nowhere"),
        (["say", "hi", "-o", "a.wav", "-f", "x"], 2, "both"),
        (["say", "-f", "missing.txt", "-o", "a.wav"], 2, "missing.txt"),
        (["say", "", "-o", "a.wav"], 2, "empty"),
        (["say", " \n", "-o", "a.wav"], 2, "empty"),
        (["say", "hi", "-o", "a.wav", "--voice", "nobody"], 2, "low, high"),
        (["say", "hi", "-o", "a.wav", "-c", "nobody"], 2, "dot, square"),
        (["say", "hi", "-o", "a.wav", "-c", "no.png"], 2, "no.png"),
        (["say", "hi", "-o", "a.wav", "--emotion", "bored"], 2, "neutral"),
        (["say", "hi", "-o", "a.wav", "--seed", "-1"], 2, "seed"),
        (["say", "hi", "-o", "a.wav", "--seed", "x"], 2, "seed"),
        (["say", "hi", "-o", "a.wav", "--steps", "0"], 2, "steps"),
        (["bench", "--chunks", "0"], 2, "chunks"),
        (["profile", "--chunks", "0"], 2, "chunks"),
        (["characters", "--model", "nothing"], 1, "nothing"),
        (["characters", "--model", "bundle", "-o", "sheet.txt"], 2, "sheet.txt"),
    ],
)
def test_errors_are_readable(tmp_path, capsys, arguments, status, message):
    make_bundle(tmp_path / "bundle")
    assert run(*arguments) == status
    captured = capsys.readouterr()
    assert message in captured.err and "try:" in captured.err and "Traceback" not in captured.err
    assert captured.out == "" and not list(tmp_path.glob("*.wav"))


def test_nothing_to_say_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", type("Terminal", (), {"isatty": lambda self: True})())
    assert run("say", "-o", "a.wav") == 2
    assert "no text" in capsys.readouterr().err


def test_stopping_keeps_what_was_spoken(tmp_path, monkeypatch, capsys):
    from streamchar_rt.session import Session

    original, count = Session.step, iter(range(100))

    def step(self, timeout=None):
        if next(count) == 3:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(Session, "step", step)
    assert run("say", "good morning my friend " * 50, "-o", "a.wav") == 130
    assert seconds_of("a.wav") == pytest.approx(3 * 0.64)
    assert "stopped" in capsys.readouterr().err


def test_progress_bar_on_terminals_only(capsys, monkeypatch):
    assert run("say", "good morning my friend", "-o", "a.wav") == 0
    assert "[" not in capsys.readouterr().err
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert run("say", "good morning my friend", "-o", "a.wav") == 0
    shown = capsys.readouterr().err
    assert "speaking [" in shown and "#" in shown and "left" in shown
    assert run("say", "good morning my friend", "-q", "-o", "a.wav") == 0
    assert capsys.readouterr().err == ""


def test_characters(tmp_path, capsys):
    make_bundle(tmp_path / "bundle")
    assert run("characters", "--model", "bundle", "-o", "sheet.png") == 0
    out = capsys.readouterr().out
    assert "dot" in out and "square" in out and "voice high" in out and "neutral, happy, sad" in out
    sheet = np.array(Image.open(tmp_path / "sheet.png"))
    assert (np.abs(sheet.astype(int) - (200, 80, 40)).sum(-1) < 30).mean() > 0.2  # both are of that colour
    assert run("characters", "--model", "bundle", "--json") == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)] == ["dot", "square"]


def test_bench_row_and_table(capsys):
    assert run("bench", "--chunks", "7", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["chunks"] == 7 and row["steps"] == 2 and row["chunk_ms"] == 640
    assert row["rtf_median"] <= row["rtf_p99"] and row["first_chunk_ms_median"] <= row["first_chunk_ms_max"]
    assert set(row["stages"]) == set(bench.STAGES) and row["stages"]["denoise_ms"]["median"] == 0.25
    assert {"commit", "device", "cpu", "threads", "torch", "time"} <= set(row)
    assert run("bench", "--chunks", "2") == 0
    table = capsys.readouterr().out
    assert "real-time factor" in table and "first chunk" in table and "video decode" in table


def test_profile_prints_and_writes(capsys, tmp_path, monkeypatch):
    from streamchar_rt import profile

    ceilings = profile.Ceilings({"fp32": 1e9, "bf16": 1e9, "int8": 1e9}, 1e9)
    monkeypatch.setattr(profile, "measure_ceilings", lambda: ceilings)
    assert run("profile", "--chunks", "1", "--trace", "trace.json") == 0
    assert "all ops" in capsys.readouterr().out
    assert json.loads((tmp_path / "trace.json").read_text())["otherData"]["chunks"] == 1
    assert run("profile", "--chunks", "1", "--json") == 0
    row = json.loads(capsys.readouterr().out)
    assert row["model"] == "stand-in" and row["ceilings"]["bytes"] == 1e9 and row["ops"] is not None
    assert run("profile", "--help") == 0
    assert "ncu" in capsys.readouterr().out


def test_percentiles(rng):
    values = list(rng.random(1000))
    for share in (0.0, 0.01, 0.5, 0.99, 1.0):
        found = bench.percentile(values, share)
        assert found == np.quantile(values, share, method="inverted_cdf")
    assert bench.percentile([3.0], 0.99) == 3.0


def test_doctor_names_what_is_broken(tmp_path, capsys):
    folder = make_bundle(tmp_path / "bundle")
    assert run("doctor", "--quick", "--model", str(folder)) == 0
    out = capsys.readouterr().out
    for fact in ("usable cores", "torch", "kernels", "whole", "all is well"):
        assert fact in out
    weights = open_bundle(folder).path("model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    assert run("doctor", "--quick", "--json", "--model", str(folder)) == 1
    facts = json.loads(capsys.readouterr().out)
    assert any("model.safetensors" in problem for problem in facts["problems"])
