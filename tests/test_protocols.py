"""The protocols' judges on cases whose answers are known: words, seams, distances, the paced pointer."""
from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from tools.evaluate import heard_words, seams, transcripts
from tools.evaluate.heard_words import HeardWord, align
from tools.evaluate.picture_distance import PictureFeatures, frechet_distance, means_part
from tools.evaluate.wer import words_of


# ------------------------------------------------------------------ words
def random_words(rng, count: int) -> list[str]:
    return [f"w{i}" for i in rng.permutation(10 * count)[:count]]


def test_dropped_and_repeated_words_are_counted(rng):
    """Words that all differ, with known words left out and known blocks said twice, neither near the other."""
    text = random_words(rng, 120)
    heard, lost, twice = [], [], []
    for start in range(0, 120, 12):
        block = text[start: start + 12]
        kind = rng.integers(3)
        if kind == 1:
            at = int(rng.integers(3, 9))
            lost.append(block[at])
            block = block[:at] + block[at + 1:]
        elif kind == 2:
            at, length = int(rng.integers(2, 6)), int(rng.integers(1, 5))
            twice += block[at: at + length]
            block = block[: at + length] + block[at:]
        heard += block
    pairs = align(text, heard)
    assert [text[i] for i in heard_words.dropped(pairs)] == lost
    assert sorted(heard[i] for i in heard_words.repeated(pairs, heard)) == sorted(twice)
    assert heard_words.errors_of(pairs, text, heard).sum() == len(lost) + len(twice)


@pytest.mark.parametrize(("text", "heard", "dropped", "repeated"), [
    ("the old man", "the old man", 0, 0),
    ("the old man", "the old the old man", 0, 2),
    ("the old man", "the the old man", 0, 1),
    ("the old man", "the old man man man", 0, 2),
    ("the the end", "the the end", 0, 0),  # twice in the text
    ("the old man", "the cold man", 0, 0),  # misheard is neither
    ("the old man", "the old uh man", 0, 0),  # nor is noise
    ("the old man", "old man", 1, 0),
    ("the old man", "", 3, 0),
    ("", "hello hello", 0, 2),
    ("", "", 0, 0),
])  # fmt: skip
def test_small_cases(text, heard, dropped, repeated):
    heard = heard.split()
    pairs = align(text.split(), heard)
    assert len(heard_words.dropped(pairs)) == dropped
    assert len(heard_words.repeated(pairs, heard)) == repeated


def test_the_alignment_costs_what_the_edit_distance_says(rng):
    from tools.evaluate.distance import edit_distance

    for _ in range(30):
        a, b = (list(rng.choice(list("abc"), rng.integers(0, 12))) for _ in range(2))
        pairs = align(a, b)
        assert [p.expected for p in pairs if p.expected is not None] == list(range(len(a)))
        assert [p.heard for p in pairs if p.heard is not None] == list(range(len(b)))
        cost = sum(p.expected is None or p.heard is None or a[p.expected] != b[p.heard] for p in pairs)
        assert cost == edit_distance(a, b).errors
        if a:
            assert heard_words.errors_of(pairs, a, b).sum() == cost


def test_late_word_ends_are_found(rng):
    words = random_words(rng, 60)
    ends = np.cumsum(rng.uniform(0.2, 0.5, 60))
    late = rng.uniform(0.03, 0.3)
    heard = [HeardWord(w, e - 0.2, e) for w, e in zip(words, ends)]
    told = ends + late
    told[7] = np.nan
    found = heard_words.end_times(align(words, words), words, told, heard)
    assert found.words == 59 and found.median == pytest.approx(late) and found.absolute_median == pytest.approx(late)
    assert found.within_100_ms == (late < 0.1)
    assert heard_words.end_times([], [], [], []).words == 0


def test_pieces_tile_the_sound_and_are_cut_in_silence(rng):
    rate, seconds = 16_000, float(rng.uniform(20, 60))
    sound = rng.uniform(-0.5, 0.5, int(seconds * rate))
    silences = np.arange(4, seconds, 4.5)  # each stretch of 6 s holds one
    for at in silences:
        sound[int(at * rate): int((at + 0.4) * rate)] = 0
    found = heard_words.pieces(sound)
    assert found[0][0] == 0 and found[-1][1] == len(sound)
    assert all(a[1] == b[0] for a, b in zip(found, found[1:]))
    assert all(6 * rate <= end - begin <= 12 * rate for begin, end in found[:-1])
    assert found[-1][1] - found[-1][0] <= 12 * rate
    for _, cut in found[:-1]:
        assert not sound[cut - 160: cut + 160].any()
    assert heard_words.pieces(sound[:0]) == [] and heard_words.pieces(sound[:7]) == [(0, 7)]


def test_what_a_stream_tells_of_its_words():
    text = 'Hello, my "well-known" friend. Good morning!'
    word = lambda text_, begin, end: SimpleNamespace(text=text_, offset=text.index(text_), begin=begin, end=end)
    said = [word("Hello", 0, 0.4), word("well-known", 0.9, 1.5), word("friend", 1.5, 2), word("friend", 2, 2.5)]
    found = transcripts.committed(text, said)
    assert found.expected == ["hello", "my", "well", "known", "friend"]  # to the last word that was said
    assert found.dropped == ["my"] and found.repeated == ["friend"]
    assert found.ends[0] == 0.4 and np.isnan(found.ends[1:3]).all() and found.ends[3:] == [1.5, 2]
    assert transcripts.committed(text, []).expected == []


def test_texts_are_of_the_length_that_is_asked_for():
    texts = transcripts.clip_texts(20, 10, seed=3)
    assert texts == transcripts.clip_texts(20, 10, seed=3) != transcripts.clip_texts(20, 10, seed=4)
    lengths = [len(words_of(text)) / transcripts.WORDS_A_SECOND for text in texts]
    assert 7 < min(lengths) and max(lengths) < 14
    assert all(len(words_of(text)) > 300 for text in transcripts.long_texts(2, 1.5))


# ------------------------------------------------------------------ seams
def test_a_jump_at_every_join_is_found(rng):
    jumps = rng.uniform(0.9, 1.1, 160)
    assert [s.ratio for s in seams.frame_seams(jumps, 16, 4)] == pytest.approx([1, 1], abs=0.1)
    factor, smaller = rng.uniform(2, 6), rng.uniform(1.5, 2)
    jumps[::4] *= smaller
    jumps[::16] *= factor / smaller
    found, latents = seams.frame_seams(jumps, 16, 4)
    assert latents.joins == 30 and latents.ratio == pytest.approx(smaller, rel=0.15)
    assert found.joins == 9 and found.ratio == pytest.approx(factor, rel=0.15) and found.outliers == 1
    assert found.median_ratio == pytest.approx(factor, rel=0.15)


def test_still_pictures_have_no_seams():
    assert seams.frame_seams(np.zeros(64), 16, 4) == (seams.Seams(1.0, 1.0, 0.0, 3), seams.Seams(1.0, 1.0, 0.0, 12))
    assert np.isnan(seams.frame_seams(np.ones(16), 16, 4)[0].ratio)


def test_clicks_at_joins_are_found(rng):
    chunk, count = 10_240, 80
    t = np.arange(chunk * count) / 16_000
    tone = 0.3 * np.sin(2 * np.pi * (rng.uniform(100, 300) * t + rng.random()))
    tone += 1e-3 * rng.standard_normal(len(t))
    assert seams.sound_seams(tone, chunk).ratio == pytest.approx(1, abs=0.3)
    clicking = tone.copy()
    for join in range(chunk, len(t), chunk):
        clicking[join:] += 0.1 * (-1) ** (join // chunk)
    found = seams.sound_seams(clicking, chunk)
    assert found.ratio > 5 and found.outliers == 1 and found.joins == count - 1
    silent = seams.sound_seams(np.zeros(len(t)), chunk)
    assert silent.joins == 0 and np.isnan(silent.ratio)


# ------------------------------------------------------------------ picture distance
def test_frechet_distance_of_known_distributions(rng):
    """Between two diagonal Gaussians: the sum of squared differences of means and of standard deviations."""
    count, mean, scale = 40_000, rng.uniform(-1, 1, 4), rng.uniform(0.5, 2, 4)
    a, b = rng.standard_normal((count, 4)) * scale + mean, rng.standard_normal((count, 4))
    expected = (np.square(mean).sum() + np.square(scale - 1).sum()) / 4
    assert frechet_distance(a, b) == pytest.approx(expected, abs=0.05)
    assert means_part(a, b) == pytest.approx(np.square(mean).sum() / 4, abs=0.05)
    assert frechet_distance(b, b) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="two"):
        frechet_distance(b[:1], b)
    with pytest.raises(ValueError, match="equal"):
        frechet_distance(b, np.ones((5, 4)))


def test_picture_features_are_fixed(rng):
    pictures = rng.integers(0, 256, (3, 128, 128, 4), np.uint8)
    found = PictureFeatures()(pictures)
    assert found.shape == (3, 64) and np.isfinite(found).all()
    assert np.array_equal(found, PictureFeatures()(pictures))
    pictures[..., 3] = 0
    assert np.ptp(PictureFeatures()(pictures), 0).max() < 1e-5  # what is not seen counts for nothing


# ------------------------------------------------------------------ without the pointer
def test_the_paced_pointer_keeps_its_pace(rng):
    """Chunk after chunk, each phone lasts its fixed time whatever the model says, and nothing is skipped."""
    import torch

    from streamchar_rt.orchestrator.units import END, FIRST_PHONE, NUM_UNITS, PAUSE_SHORT
    from streamchar_rt.model_state import _Units
    from streamchar_rt.planner import LONGEST
    from streamchar_rt.resync import PAUSE, PHONE
    from tools.evaluate.take import PacedPlan

    config = SimpleNamespace(window_before=4, window=24, slots=32)
    models = SimpleNamespace(orchestrator=SimpleNamespace(config=config),
                             orchestration=SimpleNamespace(conditions=lambda rows, voices: None))
    units = _Units()
    kinds = [*rng.integers(FIRST_PHONE, NUM_UNITS, 6), PAUSE_SHORT, *rng.integers(FIRST_PHONE, NUM_UNITS, 9), END]
    units.rows += [(int(kind), 0, 0) for kind in kinds]
    state = SimpleNamespace(models=models, units=units, pointer=0, elapsed=LONGEST, holds={}, stalled=False, past=np.zeros((8, 4), np.int64))
    places = []
    for _ in range(4):
        plan = PacedPlan(state, SimpleNamespace(voice=0))
        plan.follow(torch.from_numpy(rng.standard_normal((40, 24))))
        places += list(plan.first + plan.path[:32])
        state.pointer, state.elapsed = int(places[-1]), int(plan.elapsed[31])
    lengths = [places.count(place) for place in range(1, len(kinds))]
    assert places == sorted(places) and 0 not in places
    assert lengths == [PAUSE if kind == PAUSE_SHORT else PHONE for kind in kinds[:-1]]
