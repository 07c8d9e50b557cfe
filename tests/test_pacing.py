"""The listener's clock, the choice of steps, and paced delivery, with clocks made by hand."""
from __future__ import annotations

import threading
from types import SimpleNamespace

import numpy as np
import pytest

from streamchar_rt import ConfigError, StageTimings, paced
from streamchar_rt.pacing import PlaybackClock, StepChooser
from tests import stand_in
from tests.stand_in import make_engine
from tests.test_background import settle
from tests.test_interrupt import words_of

RATE, CHUNK, SECONDS = 16000, 10240, 0.64


@pytest.fixture
def engine(tmp_path):
    with make_engine(tmp_path, max_sessions=64) as engine:
        yield engine


class Time:
    """A clock that only moves when it is slept on, or moved."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now

    def sleep(self, seconds):
        assert seconds > 0
        self.now += seconds


def timings(denoise_ms, total_ms, steps):
    return StageTimings(0, 0, denoise_ms, 0, 0, total_ms, total_ms / 640, steps, 0)


def test_playback_goes_on_between_reports():
    clock = PlaybackClock(RATE)
    assert not clock.reported and not clock.running
    assert clock.handed(0, now=5.0) == 0 and not clock.running  # nothing was ever reported
    clock.report(0, now=5.0, end=CHUNK)
    assert clock.due(CHUNK) == pytest.approx(5.64)
    clock.report(1600, now=5.2, end=CHUNK)  # the device is slower than thought
    assert clock.due(CHUNK) == pytest.approx(5.74)
    clock.report(800, now=5.3, end=CHUNK)  # an old report
    assert clock.pts == 1600 and clock.due(CHUNK) == pytest.approx(5.74)


def test_a_late_chunk_moves_what_follows():
    clock = PlaybackClock(RATE)
    clock.report(0, now=0.0, end=CHUNK)
    assert clock.handed(CHUNK, now=0.5) == 0 and clock.due(2 * CHUNK) == pytest.approx(1.28)
    assert clock.handed(2 * CHUNK, now=1.5) == pytest.approx(0.22)
    assert clock.due(3 * CHUNK) == pytest.approx(2.14)


def test_a_player_at_its_end_tells_nothing_about_time():
    clock = PlaybackClock(RATE)
    clock.report(0, now=0.0, end=CHUNK)
    clock.report(CHUNK, now=3.0, end=CHUNK)
    assert clock.pts == CHUNK and clock.due(CHUNK) == pytest.approx(0.64)
    clock.cut(5000)
    clock.report(5000, now=4.0, end=5000)
    assert clock.pts == 5000 and not clock.running
    assert clock.handed(5000, now=7.0) == 0 and clock.due(5000) == pytest.approx(7.0)


def test_steps_are_as_many_as_there_is_time_for(rng):
    for _ in range(50):
        full = int(rng.integers(1, 33))
        step, rest = rng.uniform(5, 50, 2)
        chooser = StepChooser(full)
        assert chooser.choose(-1.0) == full  # nothing is known yet
        for _ in range(5):
            chooser.learn(timings(full * step, full * step + rest, full))
        choices = [full]
        while choices[-1] > 1:
            choices.append(choices[-1] // 2)
        for slack in rng.uniform(0, 3, 10):
            fitting = [n for n in choices if (n * step + rest) * 1.1 <= slack * 1e3]
            assert chooser.choose(slack) == max(fitting, default=1)
        assert chooser.choose(-5.0) == 1


def test_costs_are_followed():
    chooser = StepChooser(4)
    chooser.learn(timings(100, 150, 4))
    assert chooser.choose(0.2) == 4
    for _ in range(30):
        chooser.learn(timings(800, 850, 4))
    assert chooser.choose(0.5) == 2
    for _ in range(60):
        chooser.learn(timings(50, 100, 2))
    assert chooser.choose(0.2) == 4
    chooser.learn(timings(0, 1, 0))  # a held chunk tells nothing
    assert chooser.choose(0.2) == 4


def test_paced_chunks_come_when_they_are_due(engine, rng):
    ahead = float(rng.uniform(0, 0.3))
    clock = Time()
    with engine.session("dot") as session:
        session.say("hello there my friend one two five dollars")
        begin, seen = clock.now, []
        for chunk in paced(session, session.turn(), ahead=ahead, clock=clock, sleep=clock.sleep):
            assert clock.now - begin == pytest.approx(max(0, chunk.pts / RATE), abs=1e-3)
            played = max(0, chunk.pts - round(ahead * RATE))
            assert session.stats()["lead_seconds"] == pytest.approx((chunk.pts + CHUNK - played) / RATE, abs=1e-3)
            clock.now += float(rng.uniform(0, 0.6))  # the consumer's work fits between
            seen.append(chunk)
        assert len(seen) > 2 and seen[-1].end_of_turn


def test_a_late_chunk_delays_and_nothing_is_skipped(engine):
    clock = Time()
    with engine.session("dot") as session:
        session.say("hello there my friend one two five dollars good morning")
        begin, times, seen = clock.now, [], []
        for chunk in paced(session, session.turn(), ahead=0.1, clock=clock, sleep=clock.sleep):
            times.append(clock.now - begin)
            seen.append(chunk)
            clock.now += {1: 1.0, 2: 0.7}.get(chunk.index, 0.0)
        # The second chunk ends to be heard at 1.38; the third comes at 1.64 and so moves all that follow, the
        # fourth comes within what is held ahead.
        assert times[:5] == pytest.approx([0, 0.64, 1.64, 2.34, 2.92], abs=1e-3)
        assert words_of(seen) == "hello there my friend one two five dollars good morning".split()
        assert [chunk.pts for chunk in seen] == [i * CHUNK for i in range(len(seen))]


def test_after_an_interrupt_the_next_chunk_comes_at_once(engine):
    clock = Time()
    with engine.session("dot") as session:
        session.say("hello there my friend one two five dollars")
        stream = paced(session, ahead=0.1, clock=clock, sleep=clock.sleep)
        for _ in range(3):
            chunk = next(stream)
        clock.now += 0.3
        session.report_playback(chunk.pts + 3200)
        receipt = session.interrupt()
        session.say("one two")
        before = clock.now
        chunk = next(stream)
        assert clock.now == before and chunk.pts == receipt.cut_pts and chunk.discontinuity
        assert next(stream).pts == receipt.cut_pts + CHUNK and clock.now == pytest.approx(before + SECONDS)


def test_a_chunk_that_waits_to_be_played_is_dropped_by_an_interrupt(engine):
    with engine.session("dot", threading="background", max_lead=30.0) as session:
        session.say("hello there my friend one two five dollars")
        stream, got = paced(session, ahead=0.0), []
        got.append(next(stream))
        settle(session)
        waiting = threading.Thread(target=lambda: got.append(next(stream)))  # for 0.64 seconds
        waiting.start()
        while session._live.handed < 2 * CHUNK:
            pass
        receipt = session.interrupt()
        assert receipt.cut_pts == 0  # playback was reported with the first chunk only
        waiting.join(30)
        assert got[1].pts == 0 and got[1].discontinuity and session.is_valid(got[1])
        assert not session.is_valid(got[0])


def test_bad_arguments(engine):
    with engine.session("dot") as session:
        for wrong in ({"ahead": -1}, {"ahead": None}, {"clock": 3}, {"sleep": "long"}):
            with pytest.raises(ConfigError):
                paced(session, **wrong)


class SlowSteps:
    """Makes the stand-in's steps take time on a clock of its own."""

    def __init__(self, monkeypatch, seconds):
        self.now, self.seconds = 50.0, seconds
        clock = SimpleNamespace(monotonic=lambda: self.now, perf_counter=lambda: self.now)
        for module in ("producer", "outlet", "finish"):
            monkeypatch.setattr(f"streamchar_rt.{module}.time", clock)
        monkeypatch.setattr(stand_in, "denoise_step", self.step)
        original = stand_in.pipeline.generate_chunk

        def timed(*args, steps, **kwargs):
            raw = original(*args, steps=steps, **kwargs)
            if raw is not None:
                raw.timings.update(denoise=steps * self.seconds * 1e3, total=steps * self.seconds * 1e3)
            return raw

        monkeypatch.setattr(stand_in.pipeline, "generate_chunk", timed)

    def step(self, number):
        self.now += self.seconds


@pytest.mark.parametrize("adaptive", [True, False])
def test_steps_go_down_before_a_deadline_is_missed_and_nothing_is_lost(engine, monkeypatch, adaptive, rng):
    slow = SlowSteps(monkeypatch, 0.1)
    text = "hello there my friend one two five dollars " * 5
    options = {"steps": 4, "adaptive_steps": adaptive, "threading": "background", "max_lead": 0.6, "idle": "stop"}
    with engine.session("dot", **options) as session:
        session.say(text.strip())
        chunks, steps, due = [], [], [4]
        session.report_playback(0)
        for chunk in session.turn():
            if not chunk.end_of_turn:
                slack = float(rng.uniform(0.05, 0.6))
                due.append(next((n for n in (4, 2, 1) if n * 0.1 * 1.1 < slack), 1))
                session.report_playback(chunk.pts + CHUNK - round(slack * RATE))  # now the next one is begun
                settle(session)
            chunks.append(chunk)
            steps.append(chunk.timings.denoise_steps)
        assert words_of(chunks) == text.split()
        assert [chunk.pts for chunk in chunks] == [i * CHUNK for i in range(len(chunks))]
        reduced = session.stats()["reduced_chunks"]
        assert reduced == sum(n < 4 for n in steps)
        assert steps == (due if adaptive else [4] * len(steps)) and len(steps) > 10


def test_no_steps_are_saved_by_hand(engine, monkeypatch):
    slow = SlowSteps(monkeypatch, 5.0)
    with engine.session("dot", steps=4) as session:
        session.say("hello there my friend")
        for chunk in session.turn():
            session.report_playback(chunk.pts)
            assert chunk.timings.denoise_steps == 4
        assert slow.now > 50 and session.stats()["late_chunks"] > 0 and np.isfinite(chunk.timings.deadline_slack_ms)
