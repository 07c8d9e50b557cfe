"""Reports: a run that is taken up again, pages that need nothing else, the figures of both protocols."""
from __future__ import annotations

import base64
import io
import json
import os
import re
import time
import wave
from functools import partial
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tools.evaluate import resumable, seams
from tools.evaluate.report import Page, line_chart, ticks


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


class Squares:
    """Work that says which process did it, and does not end before two have begun."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, key: str) -> dict:
        (self.folder / str(os.getpid())).touch()
        end = time.monotonic() + 60
        while len(list(self.folder.iterdir())) < 2 and time.monotonic() < end:
            time.sleep(0.01)
        return {"square": int(key) ** 2, "process": os.getpid()}


def test_processes_share_what_is_left(tmp_path):
    path, keys, folder = tmp_path / "run.jsonl", [str(i) for i in range(7)], tmp_path / "processes"
    folder.mkdir()
    first = resumable.run_in(1, path, {}, keys[:1], lambda: lambda key: {"square": 0, "process": os.getpid()}, print)
    assert first["0"]["process"] == os.getpid()
    found = resumable.run_in(2, path, {}, keys, partial(Squares, folder), print)
    assert [found[key]["square"] for key in keys] == [i * i for i in range(7)]
    assert len({found[key]["process"] for key in keys[1:]} - {os.getpid()}) == 2
    assert resumable.run_in(2, path, {}, keys, lambda: 1 / 0, print) == found       # nothing is left to do


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


def distances(least: float) -> list[float]:
    return [1.2 if k else least for k in range(-15, 16)]


def test_the_short_clips_page(rng, tmp_path):
    from tools.evaluate.short_clips import page_of, summarize

    side = lambda errors: {"heard": "x", "errors": errors, "words": 20, "seconds": 8.0, "track_frames": 150,
                           "alignment": curve(0.8), "energy": curve(0.4), "similarity": 0.9, "drift": 0.02,
                           "phones": {"errors": 2 * errors, "phones": 60}, "sync": distances(0.8), "frames": 200,
                           "colour": 0.01, "structure": 0.1, "movement": 1.0,
                           "real_time_factors": [0.4, 0.5] if errors else []}
    facts = {"text": "some <text>", "character": "mika", "voice": "slt"}
    records = {str(i): {**facts, "product": side(3), "truth": side(0)} for i in range(3)}
    names = ("product", "truth", "again", "video_product", "video_truth", "video_again")
    sets = {"rest": rng.standard_normal((1, 8)), **{name: rng.standard_normal((5, 8)) for name in names}}
    summary = summarize(records, lambda key: sets)
    assert summary["wer_rise"] == pytest.approx(3 / 20) and summary["similarity_share"] == 1
    assert summary["per_rise"] == pytest.approx(6 / 60)
    assert summary["product"]["sync"] == {"offset": 0, "distance": pytest.approx(0.8), "confidence": pytest.approx(0.4)}
    assert summary["product"]["alignment"] == {"correlation": pytest.approx(0.8), "offset": 0,
                                               "correlation_at_zero": pytest.approx(0.8)}
    assert summary["product"]["real_time_factor"]["median"] == pytest.approx(0.45)
    json.dumps(summary)
    check_self_contained(page_of(summary, records, tmp_path, {"model": "m", "machine": "x", "command": "c"}).html())


def test_a_trend_is_told_from_chance(rng):
    """Streams of different levels that all rise alike, with noise; its own error is what many trials scatter by."""
    from tools.evaluate.long_report import trend

    slope, levels = rng.uniform(-0.02, 0.02), rng.uniform(0, 0.3, 4)
    found = trend([level + slope * np.arange(count) for level, count in zip(levels, (5, 3, 5, 2))])
    assert found == pytest.approx((slope, 0), abs=1e-9)
    noisy = lambda: trend([level + slope * np.arange(5) + rng.normal(0, 0.03, 5) for level in levels])
    trials = np.array([noisy() for _ in range(400)])
    assert trials[:, 0].mean() == pytest.approx(slope, abs=0.0015)
    assert np.sqrt(np.square(trials[:, 1]).mean()) == pytest.approx(trials[:, 0].std(), rel=0.2)
    assert np.isnan(trend([[0.1, 0.2]])).all() and np.isnan(trend([[0.1], [0.2]])).all()


def test_the_long_horizon_page(tmp_path):
    from tools.evaluate.long_horizon import settings_of, variant_name
    from tools.evaluate.long_report import page_of, summarize

    minute = lambda errors, distance: {
        "words": 100, "errors": errors, "similarity": 0.8, "movement": 1.0, "track_frames": 900,
        "phones": 400, "phone_errors": 2 * errors, "sync": distances(0.9), "frames": 1500,
        "alignment": curve(0.7), "energy": curve(0.5), "distance": distance, "colour": 0.01, "structure": 0.1}
    joins = seams.Seams(1.5, 1.4, 0.1, 9).plain
    record = lambda kind, errors: {
        "variant": kind, "character": "mika", "voice": "slt", "words": 200, "seconds": 120.0, "heard": "",
        "minutes": [minute(errors, 0.02), minute(2 * errors, 0.03)], "dropped": ["a"], "repeated": [],
        "runtime": None if kind == "truth" else {"dropped": [], "repeated": ["b"]}, "frame_seams": joins,
        "latent_seams": joins, "sound_seams": joins,
        "end_times": {"words": 100, "median": 0.01, "absolute_median": 0.02, "within_100_ms": 0.9},
        "drift": [0.02] * 100, "real_time_factor": None if kind == "truth" else 0.4, "events": []}
    kinds = [variant_name(sinks, pointer) for sinks in (1, 0, 3) for pointer in ("model", "paced")]
    assert [settings_of(kind) for kind in kinds] == [(s, p) for s in (1, 0, 3) for p in ("model", "paced")]
    records = {f"{kind}/{i}": record(kind, 10) for kind in ("truth", *kinds) for i in range(2)}
    summary = summarize(records)
    assert list(summary)[0] == "sink" and list(summary)[-1] == "truth"
    assert summary["sink"]["wer"] == pytest.approx(0.15) and summary["sink"]["wer_change"] == pytest.approx(0.1)
    assert summary["sink"]["drift_change"] == pytest.approx(0.01)
    assert summary["sink"]["per"] == pytest.approx(30 / 400) and summary["sink"]["sync"]["offset"] == 0
    assert summary["sink"]["per_change"] == pytest.approx(20 / 400)
    assert summary["sink"]["wer_trend"]["a_minute"] == pytest.approx(0.1)
    assert summary["sink"]["dropped"] == 2 and summary["sink"]["runtime"] == {"dropped": 0, "repeated": 2}
    json.dumps(summary)
    settings = {"transcripts": 2, "minutes": 2, "seed": 0, "model": "m", "machine": "x", "words": [300, 310]}
    check_self_contained(page_of(summary, records, tmp_path, settings).html())
