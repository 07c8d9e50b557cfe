"""Word times against known ones: the arithmetic on made-up words, the aligner on the true voice, the shipped model."""
from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("pocketsphinx")
from tests.test_reports import check_self_contained  # noqa: E402
from tools.evaluate import word_times  # noqa: E402
from tools.evaluate.aligner import Aligner, SpokenWord  # noqa: E402
from tools.evaluate.heard_words import HeardWord  # noqa: E402
from tools.evaluate.sound_only import sound_only  # noqa: E402
from tools.evaluate.word_times import Said, ToldWord, WrittenSpan  # noqa: E402
from tools.studio.sentences import evaluation_sentences  # noqa: E402
from tools.studio.speech import synthesize  # noqa: E402


# ------------------------------------------------------------------ arithmetic
def test_figures_of_known_errors(rng):
    late = rng.uniform(0.02, 0.05)
    errors = late + np.linspace(-0.01, 0.01, 101)
    found = word_times.figures(rng.permutation(errors))
    assert found["words"] == 101 and found["within_100_ms"] == 1
    assert [found[name] for name in ("mean", "signed_median", "median")] == pytest.approx([late] * 3)
    assert found["p95"] == pytest.approx(late + 0.009)
    mirrored = word_times.figures(-errors)
    assert mirrored["mean"] == pytest.approx(-late) and mirrored["p95"] == pytest.approx(found["p95"])
    none = word_times.figures([])
    assert none["words"] == 0 and np.isnan(none["median"])


def test_phones_of_half_frames():
    from streamchar_rt.orchestrator.units import END, PAUSE_LONG, PHONE_ID

    ay = PHONE_ID["ay"]
    spoken = [(0, END, 0)] * 3 + [(1, ay, 1)] * 2 + [(2, ay, 0)] * 4 + [(3, PAUSE_LONG, 0)] * 2 + [(4, ay, 1)]
    assert np.allclose(word_times.phone_spans(spoken, 4), [(0.14, 0.18), (0.18, 0.26), (0.3, 0.32)])


def test_all_times_of_written_words():
    """"$5" is told once and spoken as two words; a word that the runtime did not tell is left out."""
    words = [WrittenSpan("$5", 0, (SpokenWord("five", ("f", "ay", "v")), SpokenWord("dollars", ("d", "aa")))),
             WrittenSpan("or", 3, (SpokenWord("or", ("ao", "r")),)), WrittenSpan("so", 6, (SpokenWord("so", ("s",)),))]
    spans = [(0.1 * i, 0.1 * (i + 1)) for i in range(8)]
    told = [ToldWord(0, 0.02, 0.5, 0.64), ToldWord(6, 0.7, 0.75, 0.64)]
    heard = [HeardWord("five", 0.01, 0.3), HeardWord("dollars", 0.3, 0.49), HeardWord("or", 0.5, 0.7),
             HeardWord("so", 0.7, 0.82)]
    assert word_times.heard_spans(words, heard) == [(0.01, 0.49), (0.5, 0.7), (0.7, 0.82)]
    first, last = word_times.rows_of(words, Said(np.zeros(0), told, spans), heard)
    assert first["text"] == "$5" and first["pointer"] == pytest.approx([0, 0.5]) and not first["goes_on"]
    assert last["text"] == "so" and last["pointer"] == pytest.approx([0.7, 0.8]) and last["goes_on"]
    assert word_times.errors_of([first, last], "told") == pytest.approx([0.01, -0.07])
    assert word_times.errors_of([first, last], "told", 0) == pytest.approx([0.01, 0])
    rows = {"everyday/0": {"product": [first, last], "judge": None, "words": 3,
                           "taught": {"places": [0.0, -2.0], "ends": [0.02]}},
            "late/0": {"product": None, "judge": None, "words": 1, "taught": None}}
    found = word_times.summarize(rows)
    assert found["everyday"]["told_going_on"]["mean"] == pytest.approx(-0.07)
    assert found["everyday"]["estimate"]["mean"] == pytest.approx(-0.05)
    assert found["everyday"]["told_whole"]["words"] == 1 and found["late"]["not_aligned"] == 1
    assert found["taught"]["place_exact"] == 0.5 and found["taught"]["ends"]["median"] == pytest.approx(0.02)
    json.dumps(found)


# ------------------------------------------------------------------ the judge
def test_the_aligner_hears_the_true_times(voice, rng):
    aligner, errors = Aligner(), []
    for i in rng.permutation(100)[:5]:
        speech = synthesize(evaluation_sentences()[i], voice)
        rows = word_times.judge_rows(aligner, speech)
        assert [row["text"] for row in rows] == list(speech.words)
        errors += word_times.errors_of(rows, "true")
    found = word_times.figures(errors)
    assert found["median"] < 0.02 and found["p95"] < 0.08 and abs(found["mean"]) < 0.02


def test_later_sound_is_heard_later(voice, seeded):
    """Words that no dictionary has, and silence put before them."""
    speech = synthesize("The zorblax met the quimbly.", voice)
    names = [tuple(p.name for p in speech.phones if p.word_index == i) for i in range(len(speech.words))]
    words = [SpokenWord(*pair) for pair in zip(speech.words, names)]
    aligner, silence = Aligner(), int(np.random.default_rng(seeded).integers(1, 40)) * 160
    at = aligner(speech.samples, words)
    late = aligner(np.concatenate([np.zeros(silence, np.int16), speech.samples]), words)
    assert [word.text for word in at] == list(speech.words)
    later = np.array([b.end - a.end for a, b in zip(at, late)])
    assert np.median(later) == pytest.approx(silence / 16_000, abs=0.011)
    assert np.allclose(later, silence / 16_000, atol=0.06)
    again = aligner((speech.samples / 32768).astype(np.float32), words)
    assert np.allclose([a.end for a in at], [a.end for a in again], atol=0.06)


# ------------------------------------------------------------------ the shipped model
def test_one_sentence_of_the_shipped_model(voice, tmp_path, monkeypatch):
    command = ["--out", str(tmp_path), "--sentences", "1", "--no-hard", "--threads", "1"]
    word_times.main(command)
    report = json.loads((tmp_path / "report.json").read_text())
    found = report["everyday"]
    assert found["told"]["words"] == found["words"] == 10 and found["not_aligned"] == 0
    assert found["pointer"]["median"] < 0.04 and found["told"]["median"] < 0.06 and found["judge"]["median"] < 0.03
    assert report["taught"]["chunks"] >= 4 and report["taught"]["ends"]["median"] < 0.2
    check_self_contained((tmp_path / "report.html").read_text(encoding="utf-8"))
    monkeypatch.setattr(word_times, "say", lambda *rest: 1 / 0)
    word_times.main(command)  # nothing is said again
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_sound_without_pictures_is_the_same():
    from streamchar_rt import Engine

    with Engine.load("mini", threads=1) as engine:
        def sound() -> tuple[np.ndarray, list]:
            with engine.session(engine.characters()[0], seed=3) as session:
                session.push_text("Now then, ")
                chunks = [session.step() for _ in range(2)]
                return np.concatenate([c.audio for c in chunks]), [c.words for c in chunks]

        whole = sound()
        with sound_only():
            part = sound()
    assert np.array_equal(whole[0], part[0]) and whole[1] == part[1]
