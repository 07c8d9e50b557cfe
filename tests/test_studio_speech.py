"""The studio's speech: alignments, tokens, determinism, and the corpus on disk."""

from __future__ import annotations

import random
import re
from pathlib import Path

import numpy as np
import pytest
from streamchar_rt.orchestrator.units import PAUSE_LONG, PAUSE_SHORT, UNIT_NAMES, is_pause, is_phone, is_vowel

from tools.studio.flite import FliteMissingError, flite
from tools.studio.sentences import SentenceGenerator, dictionary_bands, evaluation_sentences, normalized
from tools.studio.speech import SAMPLE_RATE, VOICE_NAMES, Speech, synthesize, to_tokens


@pytest.fixture(scope="module", autouse=True)
def _flite() -> None:
    try:
        flite()
    except FliteMissingError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module", autouse=True)
def _dictionary() -> None:
    pytest.importorskip("pocketsphinx", reason="the sentence generator draws from pocketsphinx's dictionary")


@pytest.fixture
def seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))


def energy(speech: Speech, begin: float, end: float) -> float:
    part = speech.samples[int(begin * SAMPLE_RATE) : int(end * SAMPLE_RATE)].astype(np.float64)
    return float(np.sqrt(np.mean(part**2))) if len(part) else 0.0


# ---------------------------------------------------------------- alignment
@pytest.mark.parametrize("voice", VOICE_NAMES)
def test_phones_tile_the_audio(voice: str, seed: int) -> None:
    for i in range(5):
        speech = synthesize(
            SentenceGenerator(f"{seed}/{i}").turn(), voice, rate=random.Random(seed + i).uniform(0.9, 1.15)
        )
        assert speech.samples.dtype == np.int16 and speech.samples.ndim == 1
        phones = speech.phones
        assert phones[0].begin == 0.0 and phones[-1].end == len(speech.samples) / SAMPLE_RATE
        assert all(a.end == b.begin and a.begin <= a.end for a, b in zip(phones, phones[1:]))
        assert phones[0].name == phones[-1].name == "pau"
        indices = [p.word_index for p in phones if p.word_index >= 0]
        assert sorted(set(indices)) == list(range(len(speech.words))) and indices == sorted(indices)
        assert all(p.word == (speech.words[p.word_index] if p.word_index >= 0 else "") for p in phones)


@pytest.mark.parametrize("voice", VOICE_NAMES)
def test_phone_times_fit_the_sound(voice: str) -> None:
    """Independent of flite's word: vowels are loud, pauses are silent, s is noisy (crosses zero often)."""
    speech = synthesize("She sells sea shells, so she says. Some are silver.", voice)
    crossings, loud, quiet = {"s": [], "vowel": []}, [], []
    for phone in speech.phones[:-1]:
        middle = 0.25 * (phone.end - phone.begin)
        begin, end = phone.begin + middle, phone.end - middle
        part = speech.samples[int(begin * SAMPLE_RATE) : int(end * SAMPLE_RATE)].astype(np.int64)
        if phone.name == "pau":
            quiet.append(energy(speech, begin, end))
        elif phone.name in ("iy", "eh", "ow", "ey", "aa"):
            loud.append(energy(speech, begin, end))
        if phone.name in ("s", "iy", "ow", "eh"):
            crossings["s" if phone.name == "s" else "vowel"].append(np.mean(part[1:] * part[:-1] < 0))
    assert np.median(loud) > 10 * np.median(quiet)
    assert np.median(crossings["s"]) > 2 * np.median(crossings["vowel"])


def test_same_bytes_whatever_came_before() -> None:
    for voice in VOICE_NAMES:
        first = synthesize("The rain in Spain.", voice)
        synthesize("Something else entirely, at another rate.", voice, rate=0.9)
        assert np.array_equal(first.samples, synthesize("The rain in Spain.", voice).samples)


@pytest.mark.parametrize("voice", VOICE_NAMES)
def test_rate_divides_durations(voice: str) -> None:
    text = "The quick brown fox jumps over the lazy dog."
    plain, slow = synthesize(text, voice), synthesize(text, voice, rate=0.8)
    assert [p.name for p in plain.phones] == [p.name for p in slow.phones]
    assert len(slow.samples) / len(plain.samples) == pytest.approx(1.25, rel=0.05)


def fundamental(samples: np.ndarray) -> float:
    """Median f0 in Hz of the voiced frames, by autocorrelation."""
    found = []
    for begin in range(0, len(samples) - 1024, 320):
        frame = samples[begin : begin + 1024].astype(np.float64)
        frame -= frame.mean()
        if np.mean(frame**2) < 3e5:
            continue
        correlation = np.correlate(frame, frame, "full")[1023:]
        lag = 50 + int(np.argmax(correlation[50:260]))
        if correlation[lag] > 0.5 * correlation[0]:
            found.append(SAMPLE_RATE / lag)
    return float(np.median(found))


@pytest.mark.parametrize("voice", ["slt", "awb", "kal16"])
def test_pitch_scales_f0(voice: str) -> None:
    text = "Nobody knew why we all were away for a year."
    plain, high = (fundamental(synthesize(text, voice, pitch=p).samples) for p in (1.0, 1.2))
    assert high / plain == pytest.approx(1.2, rel=0.06)


def test_rms_has_no_pitch_control() -> None:
    with pytest.raises(ValueError, match="rms"):
        synthesize("Hello.", "rms", pitch=1.1)
    with pytest.raises(ValueError, match="unknown"):
        synthesize("Hello.", "nobody")


# ---------------------------------------------------------------- tokens
def test_tokens_of_a_known_sentence() -> None:
    speech = synthesize("It's the boy's dog, wasn't it? Well, very very good.", "kal16")
    tokens, spans = to_tokens(speech)
    assert speech.words == ("it's", "the", "boy's", "dog", "wasn't", "it", "well", "very", "very", "good")
    names = " ".join(UNIT_NAMES[t.unit] for t in tokens)
    assert names == (
        "ih t s dh ax b oy z d ao g <short> w aa z n t ih t <long> w eh l <short> v eh r iy v eh r iy g uh d <long>"
    )
    assert [t.word_index for t in tokens if t.word_start] == list(range(10))  # equal neighbours are two words
    assert spans[0][0] > 0.05 and spans[-1][1] == len(speech.samples) / SAMPLE_RATE


def test_tokens_of_any_sentence(seed: int) -> None:
    for i in range(20):
        text = SentenceGenerator(f"{seed}/t{i}").turn()
        speech = synthesize(text, "kal16")
        tokens, spans = to_tokens(speech)
        assert len(tokens) == len(spans) and is_pause(tokens[-1].unit) and is_phone(tokens[0].unit)
        assert all(a[1] == b[0] for a, b in zip(spans, spans[1:]))
        assert sum(t.word_start for t in tokens) == len(speech.words)
        for before, token in zip(tokens, tokens[1:]):
            assert not (is_pause(before.unit) and is_pause(token.unit))
            assert token.word_start == (is_phone(token.unit) and token.word_index != before.word_index)
        for token in tokens:
            assert is_phone(token.unit) != is_pause(token.unit)
            assert (token.word_index == -1) == is_pause(token.unit) and (not token.stress or is_vowel(token.unit))
        # Whether a lone capital with a period ends a sentence ("at ten A M. We") is flite's to say.
        stops, initials = len(re.findall(r"[.!?]", text)), len(re.findall(r"\b[A-Z]\.(?=.)", text))
        assert stops - initials <= sum(t.unit == PAUSE_LONG for t in tokens) <= stops
        assert sum(t.unit == PAUSE_SHORT for t in tokens) == len(re.findall("[,;]", text))


# ---------------------------------------------------------------- sentences
def test_generator_repeats_by_seed_and_covers_the_dictionary(seed: int) -> None:
    turns = [SentenceGenerator(f"{seed}/c{i}").turn() for i in range(1500)]
    assert turns == [SentenceGenerator(f"{seed}/c{i}").turn() for i in range(1500)]
    assert len(set(turns)) > 1200
    assert all(turn[0].isupper() and turn[-1] in ".!?" and "  " not in turn and turn.isascii() for turn in turns)
    vocabulary = {word for turn in turns for word in normalized(turn).split()}
    assert len(vocabulary) > 3000
    for band in dictionary_bands():
        assert len(vocabulary.intersection(band)) > 100


def test_evaluation_sentences_are_held_out(seed: int) -> None:
    held_out = evaluation_sentences()
    assert len(held_out) == len({normalized(s) for s in held_out}) == 100
    assert all(s[0].isupper() and s[-1] in ".?!" and 5 <= len(s.split()) <= 12 for s in held_out)
    made = {
        normalized(s) for i in range(1500) for s in re.split(r"(?<=[.!?]) ", SentenceGenerator(f"{seed}/e{i}").turn())
    }
    assert not made.intersection(map(normalized, held_out))


def test_generator_skips_a_held_out_sentence(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    import tools.studio.sentences as sentences

    first = next(
        t for t in (SentenceGenerator(f"{seed}/h{i}").turn() for i in range(100)) if len(re.findall("[.!?]", t)) == 1
    )
    key = next(f"{seed}/h{i}" for i in range(100) if SentenceGenerator(f"{seed}/h{i}").turn() == first)
    monkeypatch.setattr(sentences, "_HELD_OUT", frozenset([normalized(first)]))
    assert normalized(first) not in normalized(SentenceGenerator(key).turn())


# ---------------------------------------------------------------- corpus
def test_corpus_round_trip_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    import tools.studio.corpus as corpus_module
    from tools.studio.corpus import load_corpus

    monkeypatch.setattr(corpus_module, "UTTERANCES_PER_SHARD", 3)
    plan = corpus_module._Plan(tmp_path, seed % 1000, (("kal16", 1.0), ("rms", 1.0)))
    written = [corpus_module._write_shard((plan, index)) for index in range(2)]
    corpus = load_corpus(tmp_path)
    assert len(corpus) == 6 and corpus.lengths.sum() == sum(written)
    assert corpus.hours == pytest.approx(sum(written) / SAMPLE_RATE / 3600)
    for utterance in corpus:
        again = synthesize(utterance.text, VOICE_NAMES[utterance.voice], rate=utterance.rate)
        tokens, spans = to_tokens(again)
        assert abs(len(again.samples) - len(utterance.samples)) <= 160  # the rate is stored as float32
        assert utterance.unit.tolist() == [t.unit for t in tokens] and utterance.word_index.tolist() == [
            t.word_index for t in tokens
        ]
        assert utterance.stress.tolist() == [t.stress for t in tokens] and utterance.word_start.tolist() == [
            t.word_start for t in tokens
        ]
        assert np.allclose(utterance.begin, [s[0] for s in spans], atol=0.011) and np.array_equal(
            utterance.begin[1:], utterance.end[:-1]
        )
        assert utterance.end[-1] == pytest.approx(utterance.seconds, abs=1e-4) and utterance.words == list(again.words)
    before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert corpus_module._write_shard((plan, 0)) == written[0]
    assert before == {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    content = (tmp_path / "shard_00001.npz").read_bytes()
    (tmp_path / "shard_00001.npz").unlink()
    assert len(load_corpus(tmp_path)) == 3
    corpus_module._write_shard((plan, 1))
    with np.load(tmp_path / "shard_00001.npz") as again:
        assert int(again["sample_offsets"][-1]) == written[1]
    assert len(content) == (tmp_path / "shard_00001.npz").stat().st_size


def test_a_folder_without_speech_says_how_to_make_some(tmp_path: Path) -> None:
    from tools.studio.corpus import load_corpus

    with pytest.raises(FileNotFoundError, match="tools.studio.speech"):
        load_corpus(tmp_path)
