"""The drift meter: what it must not mind, what it must see, and what a session makes of it."""
from __future__ import annotations

import colorsys

import numpy as np
import pytest

from streamchar_rt import Mode
from streamchar_rt import drift as meter
from streamchar_rt.chunk import StageTimings
from streamchar_rt.drift import BOUND, SETTLED, Drift, drift_between, look_at
from streamchar_rt.telemetry import Counters
from tests import stand_in
from tests.stand_in import make_engine


def blobs(rng: np.random.Generator, side: int) -> np.ndarray:
    """A picture of large patches of colour with some transparency, uint8 (1, side, side, 4)."""
    coarse = rng.integers(0, 256, (1, 8, 8, 4), np.uint8)
    index = np.arange(side) * 8 // side
    return coarse[:, index][:, :, index]


@pytest.mark.parametrize("side", [32, 33, 64, 100, 256, 500])
def test_a_picture_is_no_distance_from_itself(rng, side):
    picture, other = blobs(rng, side), blobs(rng, side)
    assert drift_between(look_at(picture), look_at(picture)) == Drift(0.0, 0.0, 0.0)
    there, back = drift_between(look_at(other), look_at(picture)), drift_between(look_at(picture), look_at(other))
    assert there == back and there.distance >= there.colour > 0
    again = look_at(np.concatenate([other, picture]))  # the last one counts
    assert drift_between(again, look_at(picture)) == Drift(0.0, 0.0, 0.0)
    strided = np.zeros((1, side, side, 8), np.uint8)[..., ::2]
    strided[...] = picture
    assert drift_between(look_at(strided), look_at(picture)) == Drift(0.0, 0.0, 0.0)


def test_colours_are_those_of_oklab(rng):
    """Flat pictures against known values: white has lightness 1, black 0, red as published; hue does not change L."""
    flat = lambda *rgb: look_at(np.full((1, 64, 64, 4), (*rgb, 255), np.uint8)).colour[3, 5]
    assert flat(255, 255, 255) == pytest.approx([1, 0, 0], abs=1e-3)
    assert flat(0, 0, 0) == pytest.approx([0, 0, 0], abs=1e-3)
    assert flat(255, 0, 0) == pytest.approx([0.62796, 0.22486, 0.12585], abs=1e-3)
    grey = int(rng.integers(1, 255))
    assert flat(grey, grey, grey)[1:] == pytest.approx([0, 0], abs=1e-3)


def test_what_is_not_seen_has_no_colour(rng):
    """Colours under full transparency count for nothing, and nothing at all is no distance from nothing."""
    hidden = rng.integers(0, 256, (4, 64, 64, 4), np.uint8)
    hidden[..., 3] = 0
    nothing = np.zeros((1, 64, 64, 4), np.uint8)
    assert drift_between(look_at(hidden), look_at(nothing)) == Drift(0.0, 0.0, 0.0)
    red = np.full((1, 64, 64, 4), (255, 0, 0, 255), np.uint8)
    assert drift_between(look_at(nothing), look_at(red)).distance > BOUND


def test_hue_is_seen_and_a_small_shift_is_not(rng):
    x = np.linspace(0, 1, 320)
    hue = rng.random()
    row = np.array([colorsys.hsv_to_rgb(hue, 0.3 + 0.5 * v, 0.8 - 0.3 * v) for v in x])
    wide = np.full((1, 256, 320, 4), 255, np.uint8)
    wide[0, ..., :3] = np.round(255 * row)
    middle, moved = wide[:, :, 32:288], wide[:, :, 24:280]
    turned = middle.copy()
    turned[..., :3] = middle[..., [1, 2, 0]]
    reference = look_at(middle)
    assert drift_between(look_at(moved), reference).distance < 0.01
    assert drift_between(look_at(turned), reference).distance > 0.1


@pytest.mark.parametrize("shape", [(1, 31, 64, 4), (1, 64, 64, 3), (64, 64, 4), (0, 64, 64, 4)])
def test_other_arrays_are_refused(shape):
    with pytest.raises(ValueError, match="picture"):
        look_at(np.zeros(shape, np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        look_at(np.zeros((1, 64, 64, 4), np.float32))


# ------------------------------------------------------------------ against the studio
def test_performance_is_not_drift_and_drift_is(rng):
    pytest.importorskip("skia", reason="the studio draws with skia-python")
    from tools.evaluate.drift import DAMAGES, blur, fade, performances, tint
    from tools.train.pictures import HELD_OUT

    damage = {"tint": tint, "fade": fade, "blur": blur}
    cast = [performances(int(seed), 2, rng) for seed in rng.choice(HELD_OUT, 4, replace=False)]
    looks = [look_at(picture[None]) for picture, _ in cast]
    own = [drift_between(look_at(c), look).distance for look, (_, played) in zip(looks, cast) for c in played]
    others = [drift_between(look_at(played[0]), look).distance
              for i, look in enumerate(looks) for j, (_, played) in enumerate(cast) if i != j]
    assert max(own) < BOUND, "a performance of the same character raises no event"
    assert np.median(others) > BOUND and np.median(others) > 2.5 * np.median(own)
    for look, (_, played) in zip(looks, cast):
        for name, strengths in DAMAGES.items():
            damaged = [damage[name](played[0], s) for s in (*strengths[1:], 2 * strengths[-1])]
            found = [drift_between(look_at(pictures), look).distance for pictures in damaged]
            assert found == sorted(found), (name, found)
            assert found[-1] > BOUND


# ------------------------------------------------------------------ in a session
def fake(distance: float):
    return lambda present, reference: Drift(distance, distance, 0.0)


def test_a_chunk_tells_its_drift(tmp_path):
    with make_engine(tmp_path) as engine, engine.session("dot") as session:
        chunk = session.step()
        reference = look_at(engine.character("dot").picture[None])
        assert chunk.drift == drift_between(look_at(chunk.video), reference)
        assert 0 < chunk.drift.distance < BOUND
        assert chunk.copy().drift == chunk.drift


def test_drift_does_not_depend_on_the_pixel_format(tmp_path):
    with make_engine(tmp_path) as engine:
        drifts = []
        for pixel_format in ("rgba", "bgra", "rgb"):
            with engine.session("square", pixel_format=pixel_format) as session:
                drifts.append(session.step().drift)
    assert len(set(drifts)) == 1


def test_an_event_once_until_it_has_come_back(tmp_path, monkeypatch):
    """Past the bound: one event; between the bounds nothing; below the lower one, it may be said again."""
    between = (BOUND + SETTLED) / 2
    readings = [0.01, BOUND + 0.01, BOUND + 0.02, between, BOUND + 0.01, SETTLED - 0.001, between, BOUND + 0.03]
    source = iter(readings)
    monkeypatch.setattr("streamchar_rt.finish.drift_between", lambda *looks: fake(next(source))(*looks))
    heard = []
    with make_engine(tmp_path) as engine, engine.session("dot") as session:
        session.on_event(lambda name, details: heard.append((name, details)))
        chunks = [session.step() for _ in readings]
    events = [details for name, details in heard if name == "drift"]
    assert [e["distance"] for e in events] == [readings[1], readings[7]]
    assert [e["pts"] for e in events] == [chunks[1].pts, chunks[7].pts]
    assert all(e["bound"] == BOUND for e in events)


def test_other_pictures_raise_the_event(tmp_path, monkeypatch):
    monkeypatch.setattr(stand_in, "paint", lambda state, noise: noise.integers(0, 256, (16, 64, 64, 4), np.uint8))
    heard = []
    with make_engine(tmp_path) as engine, engine.session("dot") as session:
        session.on_event(lambda name, details: heard.append(name))
        session.say("Hello there.")
        for _ in session.turn():
            pass
    assert heard.count("drift") == 1


def test_the_model_is_taken_back_to_the_reference_once_and_in_silence(tmp_path, monkeypatch):
    reading = [0.5]
    monkeypatch.setattr("streamchar_rt.finish.drift_between", lambda *looks: fake(reading[0])(*looks))
    with make_engine(tmp_path) as engine, engine.session("dot") as session:
        anchors = lambda: session._live.stream.state.anchors
        session.say("Hello there my friend, hello there my friend.")
        for chunk in session.turn():
            assert anchors() == (chunk.mode is not Mode.SPEAKING)
        for _ in range(3):
            session.step()
            assert anchors() == 1
        reading[0] = 0.01
        session.step()
        reading[0] = 0.5
        assert [(session.step(), anchors())[1] for _ in range(3)] == [2, 2, 2]


def test_an_interrupt_does_not_say_it_again(tmp_path, monkeypatch):
    monkeypatch.setattr("streamchar_rt.finish.drift_between", fake(0.5))
    heard = []
    with make_engine(tmp_path) as engine, engine.session("dot") as session:
        session.on_event(lambda name, details: heard.append(name))
        session.say("Hello there my friend.")
        session.step()
        session.interrupt()
        session.step()
    assert heard.count("drift") == 1


def test_counters(rng):
    counters, distances = Counters(), rng.random(5)
    for distance in distances:
        timings = StageTimings(0, 0, 0, 0, 0, 0, 0, 4, 1)
        counters.add(timings, words=0, turn_ends=False, full_steps=4, drift=Drift(distance, distance, 0.0))
    summary = counters.summary(0.64)
    assert summary["drift"] == distances[-1] and summary["worst_drift"] == distances.max()
    assert summary["mean_drift"] == pytest.approx(distances.mean())
    assert Counters().summary(0.64)["worst_drift"] == 0


def test_passing_and_settling():
    at = lambda distance: Drift(distance, 0.0, 0.0)
    assert not meter.passes(at(BOUND), False) and meter.passes(at(BOUND + 1e-9), False)
    assert meter.passes(at(SETTLED + 1e-9), True) and not meter.passes(at(SETTLED), True)
