"""Word error rate: the count against a naive truth, the normalisation, and the judge on a true voice."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest

from tools.evaluate.distance import Edits, edit_distance
from tools.evaluate.wer import evaluate, score, words_of


def naive_distance(a: str, b: str) -> int:
    """The least number of edits by trying everything."""
    if not a or not b:
        return len(a) + len(b)
    return min(
        naive_distance(a[1:], b[1:]) + (a[0] != b[0]), naive_distance(a[1:], b) + 1, naive_distance(a, b[1:]) + 1
    )


def test_distance_against_exhaustive_search(rng: np.random.Generator) -> None:
    r = random.Random(int(rng.integers(2**31)))
    for _ in range(200):
        a, b = ("".join(r.choices("xyz", k=r.randint(0, 5))) for _ in range(2))
        edits = edit_distance(a, b)
        assert edits.errors == naive_distance(a, b)
        assert len(a) - edits.deletions + edits.insertions == len(b) and min(edits) >= 0


@pytest.mark.parametrize(
    ("reference", "hypothesis", "edits"),
    [
        ("a b c", "a b c", (0, 0, 0)),
        ("a b c", "", (0, 3, 0)),
        ("", "a b", (0, 0, 2)),
        ("a b c", "a x c", (1, 0, 0)),
        ("a b c", "a c", (0, 1, 0)),
        ("a b c", "a b b c", (0, 0, 1)),
        ("The DOG, barked!", "the dog barked", (0, 0, 0)),
    ],
)
def test_score(reference: str, hypothesis: str, edits: tuple[int, int, int]) -> None:
    assert score(reference, hypothesis) == (Edits(*edits), len(reference.split()))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("It's 21 o'clock.", "it's twenty one o'clock"),
        ("well-known", "well known"),
        ("<s> hello <sil> there(2) [NOISE] ++UH++ </s>", "hello there"),
        ("'quoted' dogs’", "quoted dogs"),
        ("", ""),
        ("1,000", "one zero zero zero"),
    ],
)
def test_normalisation(text: str, words: str) -> None:
    expected = words.split()
    if text == "1,000":  # a digit group is no number of its own: both sides are treated the same way
        expected = words_of("1 000")
    assert words_of(text) == expected


class Oracle:
    """Hears what the test says it hears."""

    def __init__(self, heard: list[str]) -> None:
        self._heard = itertools.cycle(heard)

    def __call__(self, samples: np.ndarray) -> str:
        return next(self._heard)


def test_evaluate_adds_up() -> None:
    said = ["one two three four", "five six"]
    calls = []
    result = evaluate(
        lambda text: np.zeros(8000, np.float32),
        said,
        recogniser=Oracle(["one two four", "five six six"]),
        progress=lambda *a: calls.append(a),
    )
    assert result["wer"] == pytest.approx(2 / 6)
    assert (result["substitutions"], result["deletions"], result["insertions"]) == (0, 1, 1)
    assert result["words"] == 6 and result["sentences"] == 2 and result["seconds"] == 1.0
    assert [u["errors"] for u in result["utterances"]] == [1, 1]
    assert [c[:2] for c in calls] == [(1, 2), (2, 2)]
    # residuals 1 - 4/3 and 1 - 2/3, over 6 words
    assert result["standard_error"] == pytest.approx(np.hypot(1 / 3, 1 / 3) / 6)


def test_the_judge_hears_a_true_voice_and_repeats_itself(voice) -> None:
    pytest.importorskip("pocketsphinx")
    from tools.evaluate.recognise import Recogniser
    from tools.studio.sentences import evaluation_sentences
    from tools.studio.speech import synthesize

    sentences = evaluation_sentences()[:6]
    recogniser = Recogniser()
    true_voice = {s: synthesize(s, voice).samples for s in sentences}
    result = evaluate(true_voice.__getitem__, sentences, recogniser=recogniser)
    assert result["wer"] < 0.35
    first = result["utterances"][0]["hypothesis"]
    assert recogniser(true_voice[sentences[0]]) == first  # whatever was heard in between
    assert recogniser(true_voice[sentences[0]].astype(np.float32) / 32767.0) == first
    noise = np.random.default_rng(0).normal(0, 0.1, 32000).astype(np.float32)
    assert evaluate(lambda text: noise, sentences[:2], recogniser=recogniser)["wer"] > 0.8
    assert recogniser(np.zeros(0, np.int16)) in ("", "<sil>")
