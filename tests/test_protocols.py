"""The protocols' parts on cases whose answers are known: words, seams, distances, the resumable runner, the page."""
from __future__ import annotations

import base64
import io
import json
import re
import wave
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from tools.evaluate import heard_words, resumable, seams, transcripts
from tools.evaluate.heard_words import HeardWord, align
from tools.evaluate.picture_distance import PictureFeatures, frechet_distance
from tools.evaluate.report import Page, line_chart, ticks
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
    chunk, count = 10_240, 12
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


# ------------------------------------------------------------------ the runner
def test_a_run_that_was_stopped_goes_on(tmp_path):
    path, done, keys = tmp_path / "new" / "run.jsonl", [], [str(i) for i in range(6)]

    def work(key: str) -> dict:
        if len(done) == 4:
            raise KeyboardInterrupt
        done.append(key)
        return {"square": int(key) ** 2}

    lines: list[str] = []
    with pytest.raises(KeyboardInterrupt):
        resumable.run(path, {"seed": 1}, keys, work, lines.append)
    assert done == keys[:4] and "left" in lines[-1]
    with path.open("a") as file:
        file.write('{"key": "4", "squ')  # killed while writing
    again: list[str] = []
    rest = lambda key: again.append(key) or {"square": int(key) ** 2}
    found = resumable.run(path, {"seed": 1}, keys, rest, lines.append)
    assert again == ["4", "5"]
    assert [found[key]["square"] for key in keys] == [0, 1, 4, 9, 16, 25]
    assert resumable.run(path, {"seed": 1}, keys[:2], lambda key: 1 / 0, lines.append).keys() == {"0", "1"}
    assert len(path.read_text().splitlines()) == 7
    before = path.read_bytes()
    with pytest.raises(SystemExit, match="seed"):
        resumable.run(path, {"seed": 2}, keys, work, lines.append)
    assert path.read_bytes() == before


def test_durations_are_readable():
    assert [resumable.duration(s) for s in (0.4, 61, 100, 3600, 5 * 3600 + 300)] == [
        "0 s", "61 s", "2 min", "60 min", "5 h 05 min"]


# ------------------------------------------------------------------ the page
class Strict(HTMLParser):
    """Fails on tags that are not closed in order; keeps what would be fetched."""

    VOID = {"meta", "img", "br"}

    def __init__(self) -> None:
        super().__init__()
        self.open, self.sources = [], []

    def handle_starttag(self, tag, attributes):
        if tag not in self.VOID:
            self.open.append(tag)
        self.sources += [value for name, value in attributes if name in ("src", "href", "data", "xlink:href")]

    def handle_startendtag(self, tag, attributes):
        self.sources += [value for name, value in attributes if name in ("src", "href", "data", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def check_self_contained(html: str) -> Strict:
    parsed = Strict()
    parsed.feed(html)
    parsed.close()
    assert parsed.open == [] and all(source.startswith("data:") for source in parsed.sources)
    text = re.sub(r"data:[a-z/]+;base64,[A-Za-z0-9+/=]*", "", html)
    assert "http" not in text and "url(" not in text and "@import" not in text and "<script" not in text
    assert "nan" not in re.findall(r'(?:points|x1|y1|cx|cy)="([^"]*)"', html)
    return parsed


def test_a_page_needs_nothing_else(tmp_path, rng):
    page = Page('Of "this" & <that>')
    page.heading("<b>")
    page.text("a < b & c")
    page.code("x > y")
    page.table(["name", "value"], [["<i>", 1.23456], ["none", None], ["nan", float("nan")], ["count", 3]])
    page.chart({"one & two": [(0, 1), (1, float("nan")), (2, 3)], "none": []}, x="<x>", y="&y")
    picture = Image.fromarray(rng.integers(0, 256, (8, 9, 3), np.uint8))
    page.picture(picture, 'a "picture"')
    picture.save(tmp_path / "p.jpg")
    page.picture(tmp_path / "p.jpg")
    page.sound(rng.uniform(-2, 2, 1600), "noise")
    page.save(tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    parsed = check_self_contained(html)
    kinds = [source.split(";")[0] for source in parsed.sources]
    assert kinds == ["data:image/png", "data:image/jpeg", "data:audio/wav"]
    content = [base64.b64decode(source.split(",")[1]) for source in parsed.sources]
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(content[0]))), np.asarray(picture))
    with wave.open(io.BytesIO(content[2])) as file:
        assert (file.getnframes(), file.getframerate()) == (1600, 16_000)
    assert "<that>" not in html and "1.235" in html


def test_chart_places_points_on_its_axes(rng):
    values = rng.uniform(-5, 20, 10)
    svg = line_chart({"a": list(enumerate(values))}, x="i", y="v")
    points = np.array([p.split(",") for p in re.search(r'points="([^"]*)"', svg)[1].split()], float)
    slope = np.polyfit(values, points[:, 1], 1)
    assert slope[0] < 0 and points[:, 1] == pytest.approx(np.polyval(slope, values), abs=0.2)
    assert (np.diff(points[:, 0]) > 0).all() and points.min() >= 0 and points[:, 1].max() <= 300


@pytest.mark.parametrize("low_high", [(0, 0), (-3, -3), (0, 1e-9), (2.5, 97), (-1e6, 1e6), (0.011, 0.013)])
def test_ticks_hold_the_range(low_high):
    found = ticks(*low_high)
    assert 2 <= len(found) <= 12 and found[0] <= low_high[0] + 1e-12 and found[-1] >= low_high[1] - 1e-12
    assert found == sorted(set(found))


# ------------------------------------------------------------------ the reports of both protocols
def curve(height: float) -> list[float]:
    return [height * (1 - abs(k) / 20) for k in range(-10, 11)]


def test_the_short_clips_page(rng, tmp_path):
    from tools.evaluate.short_clips import page_of, summarize

    side = lambda errors: {"heard": "x", "errors": errors, "words": 20, "seconds": 8.0, "track_frames": 150,
                           "alignment": curve(0.8), "energy": curve(0.4), "similarity": 0.9, "drift": 0.02,
                           "colour": 0.01, "structure": 0.1, "movement": 1.0,
                           "real_time_factors": [0.4, 0.5] if errors else []}
    facts = {"text": "some <text>", "character": "mika", "voice": "slt"}
    records = {str(i): {**facts, "product": side(3), "truth": side(0)} for i in range(3)}
    sets = {name: rng.standard_normal((5, 8)) for name in ("product", "truth", "again", "rest")}
    sets["rest"] = sets["rest"][:1]
    summary = summarize(records, lambda key: sets)
    assert summary["wer_rise"] == pytest.approx(3 / 20) and summary["similarity_share"] == 1
    assert summary["product"]["alignment"] == {"correlation": pytest.approx(0.8), "offset": 0,
                                               "correlation_at_zero": pytest.approx(0.8)}
    assert summary["product"]["real_time_factor"]["median"] == pytest.approx(0.45)
    json.dumps(summary)
    check_self_contained(page_of(summary, records, tmp_path, {"model": "m", "machine": "x", "command": "c"}).html())


def test_the_long_horizon_page(tmp_path):
    from tools.evaluate.long_horizon import settings_of, variant_name
    from tools.evaluate.long_report import page_of, summarize

    minute = lambda errors, distance: {
        "words": 100, "errors": errors, "similarity": 0.8, "movement": 1.0, "track_frames": 900,
        "alignment": curve(0.7), "energy": curve(0.5), "distance": distance, "colour": 0.01, "structure": 0.1}
    joins = seams.Seams(1.5, 1.4, 0.1, 9).plain
    record = lambda kind, errors: {
        "variant": kind, "character": "mika", "voice": "slt", "words": 200, "seconds": 120.0, "heard": "",
        "minutes": [minute(errors, 0.02), minute(2 * errors, 0.03)], "dropped": ["a"], "repeated": [],
        "runtime": None if kind == "truth" else {"dropped": [], "repeated": ["b"]}, "frame_seams": joins,
        "latent_seams": joins, "sound_seams": joins,
        "end_times": {"words": 100, "median": 0.01, "absolute_median": 0.02, "within_100_ms": 0.9},
        "drift": [0.02] * 100, "real_time_factor": None if kind == "truth" else 0.4, "events": []}
    kinds = [variant_name(sink, pointer) for sink in (True, False) for pointer in ("model", "paced")]
    assert [settings_of(kind) for kind in kinds] == [(s, p) for s in (True, False) for p in ("model", "paced")]
    records = {f"{kind}/{i}": record(kind, 10) for kind in ("truth", *kinds) for i in range(2)}
    summary = summarize(records)
    assert list(summary)[0] == "sink" and list(summary)[-1] == "truth"
    assert summary["sink"]["wer"] == pytest.approx(0.15) and summary["sink"]["wer_change"] == pytest.approx(0.1)
    assert summary["sink"]["drift_change"] == pytest.approx(0.01)
    assert summary["sink"]["dropped"] == 2 and summary["sink"]["runtime"] == {"dropped": 0, "repeated": 2}
    json.dumps(summary)
    settings = {"transcripts": 2, "minutes": 2, "seed": 0, "model": "m", "machine": "x", "words": [300, 310]}
    check_self_contained(page_of(summary, records, tmp_path, settings).html())


# ------------------------------------------------------------------ without the pointer
def test_the_paced_pointer_keeps_its_pace(rng):
    """Chunk after chunk, each phone lasts its fixed time whatever the model says, and nothing is skipped."""
    import torch

    from streamchar_rt.orchestrator.units import END, FIRST_PHONE, NUM_UNITS, PAUSE_SHORT
    from streamchar_rt.pipeline import _Units
    from streamchar_rt.planner import LONGEST
    from tools.evaluate.take import PacedPlan

    config = SimpleNamespace(window_before=4, window=24, slots=32)
    models = SimpleNamespace(orchestrator=SimpleNamespace(config=config), condition=lambda features, voice: None)
    units = _Units()
    kinds = [*rng.integers(FIRST_PHONE, NUM_UNITS, 6), PAUSE_SHORT, *rng.integers(FIRST_PHONE, NUM_UNITS, 9), END]
    units.rows += [(int(kind), 0, 0) for kind in kinds]
    state = SimpleNamespace(models=models, units=units, pointer=0, elapsed=LONGEST, past=np.zeros((8, 4), np.int64))
    places = []
    for _ in range(4):
        plan = PacedPlan(state, SimpleNamespace(voice=0))
        plan.follow(torch.from_numpy(rng.standard_normal((40, 24))))
        places += list(plan.first + plan.path[:32])
        state.pointer, state.elapsed = int(places[-1]), int(plan.elapsed[31])
    lengths = [places.count(place) for place in range(1, len(kinds))]
    assert places == sorted(places) and 0 not in places
    assert lengths == [PacedPlan.PAUSE if kind == PAUSE_SHORT else PacedPlan.PHONE for kind in kinds[:-1]]
