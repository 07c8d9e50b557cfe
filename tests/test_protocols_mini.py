"""The protocols end to end: on the studio's truth with a judge that is told what to hear, and on the shipped model."""
from __future__ import annotations

import json

import numpy as np
import pytest

pytest.importorskip("skia", reason="the studio draws with skia-python")
pytest.importorskip("pocketsphinx")
from streamchar_rt.drift import BOUND  # noqa: E402
from tests.test_reports import check_self_contained  # noqa: E402
from tools.evaluate import long_horizon, short_clips  # noqa: E402
from tools.evaluate.picture_distance import frechet_distance  # noqa: E402
from tools.evaluate.sync_expert import best_sync  # noqa: E402
from tools.evaluate.take import FEATURE_EVERY, Judges, Take, true_take  # noqa: E402
from tools.evaluate.video_distance import VideoFeatures  # noqa: E402
from tools.studio.behaviour import perform  # noqa: E402
from tools.studio.character import Identity, Renderer  # noqa: E402
from tools.studio.sentences import evaluation_sentences  # noqa: E402


class Told:
    """Hears what it is told to: (word, begin, end) of the whole stream."""

    def __init__(self, words: list[tuple[str, float, float]]) -> None:
        self._words = words

    def words(self, samples: np.ndarray) -> list[tuple[str, float, float]]:
        return self._words


def the_truth(voice: str, seed: int) -> Take:
    rng = np.random.default_rng(seed)
    text = " ".join(evaluation_sentences()[i] for i in rng.permutation(100)[:3])
    return true_take(Judges(), int(rng.integers(5000, 6000)), voice, text, seed=seed, still_every=25)


def test_the_truth_is_judged_as_true(voice, seeded):
    take = the_truth(voice, seeded)
    assert take.frames == len(take.audio) * 25 // 16_000
    assert len(take.features) == -(-take.frames // FEATURE_EVERY) and len(take.stills) == -(-take.frames // 25)
    assert len(take.drifts) == -(-take.frames // 16) and max(d.distance for d in take.drifts) < BOUND
    told = [(w.text, w.begin, w.end) for w in take.words]
    found = long_horizon.judge(take, None, Told(told), 0.1, seeded)
    assert found["dropped"] == found["repeated"] == [] and found["words"] >= len(told)
    assert found["end_times"]["absolute_median"] < 1e-6
    (minute,) = found["minutes"]
    assert minute["errors"] == 0 and max(minute["alignment"]) > 0.85
    assert minute["phones"] == pytest.approx(len(take.said), rel=0.1) and minute["phone_errors"] < 0.3 * len(take.said)
    assert abs(best_sync([minute["sync"]], [1]).offset) <= 1
    # A word that is not heard, and one that is heard twice.
    lost = told.pop(2)[0]
    begin, end = told[-1][1:]
    told.append((told[-1][0], begin, end))
    found = long_horizon.judge(take, None, Told(told), 0.1, seeded)
    assert found["dropped"] == [lost.lower()] and len(found["repeated"]) == 1
    json.dumps(found)


def test_short_clips_end_to_end(voice, tmp_path, monkeypatch, capsys):
    """One clip of the shipped model; done again, nothing is generated."""
    command = ["--out", str(tmp_path), "--clips", "1", "--seconds", "2", "--show", "1", "--threads", "1"]
    short_clips.main(command)
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["clips"] == 1 and report["truth"]["alignment"]["correlation"] > 0.85
    assert report["truth"]["per"] < 0.3 and abs(report["truth"]["sync"]["offset"]) <= 1
    frames = round(25 * report["product"]["seconds"])
    assert report["picture_distance"]["pictures"] == -(-frames // FEATURE_EVERY)
    assert report["video_distance"]["clips"] == frames // 16
    parsed = check_self_contained((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert len(parsed.sources) == 4  # two sheets, two sounds
    monkeypatch.setattr(short_clips, "perform_text", lambda *rest, **options: 1 / 0)
    short_clips.main(command)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    with pytest.raises(ZeroDivisionError):
        short_clips.main(["--out", str(tmp_path), "--clips", "2", *command[4:]])


def test_video_features_see_change_alone(rng):
    """Of studio performances: nothing in a picture that stands still; frames out of order, or frozen ones, are further
    from the truth than another performance is."""
    renderer = Renderer(Identity.from_seed(int(rng.integers(5000, 6000))))
    phones = [(str(rng.choice(["aa", "m", "iy", "s", "t", "pau"])), 0.1 * i, 0.1 * i + 0.1, 0) for i in range(64)]
    first, second = (np.stack([renderer.draw(p)[::2, ::2] for p in perform(phones, 160, seed=int(rng.integers(2 ** 31)))])
                     for _ in range(2))
    features = VideoFeatures()
    truth = features(first)
    assert truth.shape == (10, 64) and np.array_equal(truth[:9], VideoFeatures()(first[:-1]))
    assert np.abs(features(np.repeat(first[:1], 16, 0))).max() < 1e-3 * truth.max()
    far = frechet_distance(features(second), truth)
    still = first[np.arange(160) // 16 * 16]
    shuffled = first[np.concatenate([rng.permutation(16) + 16 * i for i in range(10)])]
    assert frechet_distance(features(still), truth) > 2 * far and frechet_distance(features(shuffled), truth) > 2 * far
    assert features(first[:15]).shape == (0, 64)
