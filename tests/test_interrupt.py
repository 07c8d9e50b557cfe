"""Interrupts: what was heard, what is heard next, and where the stream goes on; over the stand-in model."""
from __future__ import annotations

import threading

import numpy as np
import pytest

from streamchar_rt import ConfigError, Mode, SessionClosedError
from tests import stand_in
from tests.stand_in import PHONE_LENGTH, WORDS, make_engine

RATE, CHUNK, STEP, LEAD, FADE = 16000, 10240, 320, 1280, 640


@pytest.fixture
def engine(tmp_path):
    with make_engine(tmp_path, max_sessions=64) as engine:
        yield engine


def random_text(rng, count):
    words = [str(rng.choice(sorted(WORDS))) for _ in range(count)]
    marks = [str(rng.choice(["", "", "", ",", ".", "!"])) for _ in words]
    return " ".join(word + mark for word, mark in zip(words, marks))


def heard_text(text, chunks, cut):
    """The stand-in speaks each phone for the same time: a word is over that long after it began."""
    ends = [0]
    for word in (word for chunk in chunks for word in chunk.words):
        if word.begin_pts + len(WORDS[word.text].split()) * PHONE_LENGTH * STEP <= cut:
            ends.append(word.text_offset + len(word.text))
    return text[: max(ends)]


def words_of(chunks):
    return [word.text for chunk in chunks for word in chunk.words]


def finish(session, text="good morning"):
    session.say(text)
    return list(session.turn())


def test_the_receipt_is_exact_wherever_the_cut(engine, rng):
    for _ in range(30):
        text = random_text(rng, int(rng.integers(1, 25)))
        with engine.session("dot", seed=int(rng.integers(99)), max_lead=60.0) as session:
            session.say(text)
            chunks = list(session.turn())[: int(rng.integers(1, 12))] if rng.random() < 0.5 else [session.step()]
            end = chunks[-1].pts + CHUNK if len(chunks) < 12 else session.stats()["seconds_generated"] * RATE
            cut = int(rng.integers(0, end + 1))
            receipt = session.interrupt(cut)
            assert (receipt.turn_id, receipt.cut_pts) in ((1, cut),)
            if receipt.spoken_text or receipt.unspoken_text:
                assert receipt.spoken_text == heard_text(text, chunks, cut), (text, cut)
                assert receipt.spoken_text + receipt.unspoken_text == text
            else:
                assert heard_text(text, chunks, cut) == text.rstrip(",.! ") or text == ""
            assert session.pending_text == "" and session.mode is Mode.IDLE
            following = session.step()
            assert (following.pts, following.discontinuity, following.words) == (cut, True, ())


def test_nothing_heard_lasts_and_what_was_heard_does(engine, rng):
    """A cut anywhere goes on as though nothing beyond the boundary before it had ever been made."""
    for _ in range(12):
        text, seed = random_text(rng, 30), int(rng.integers(99))
        made, cut = int(rng.integers(1, 7)), 0
        results = []
        for ahead in (True, False):
            with engine.session("dot", seed=seed, max_lead=60.0) as session:
                session.say(text)
                if ahead:
                    for _ in range(made):
                        session.step()
                    cut = int(rng.integers(0, made * CHUNK + 1))
                    session.interrupt(cut)
                else:
                    for _ in range(cut // CHUNK):
                        session.step()
                    session.interrupt()
                results.append([session.step(), *finish(session)])
        heard_open = LEAD + 160  # from here on nothing depends on the sound that was cut
        for i, (a, b) in enumerate(zip(*results, strict=True)):
            assert (a.video == b.video).all() and a.mode == b.mode and a.end_of_turn == b.end_of_turn
            begin = 0 if i else heard_open
            assert (a.audio[begin:] == b.audio[begin:]).all()
            shift = cut - cut // CHUNK * CHUNK
            assert [(w.text, w.begin_pts - shift) for w in a.words] == [(w.text, w.begin_pts) for w in b.words]
        assert results[0][0].pts == cut
        assert words_of(results[0]) == ["good", "morning"]


def test_the_old_sound_dies_away_and_is_gone_until_the_new(engine, rng):
    for fade in (0.04, 0.0, 0.01, 0.1):
        seed, samples = int(rng.integers(99)), round(fade * RATE)
        made = int(rng.integers(1, 5))
        with engine.session("dot", seed=seed, interrupt_fade=fade, max_lead=60.0) as session, engine.session(
            "dot", seed=seed
        ) as uncut:
            for one in (session, uncut):
                one.say("hello there my friend " * 4)
            truth = np.concatenate([uncut.step().audio for _ in range(made + 2)])
            for _ in range(made):
                session.step()
            cut = int(rng.integers(1, made * CHUNK + 1)) if rng.random() < 0.7 else made * CHUNK
            receipt = session.interrupt(cut)
            chunk = session.step()
            known = min(samples, made * CHUNK + stand_in.AHEAD - cut)
            sound = truth[cut : cut + known]
            assert receipt.fade.shape == (samples,) and receipt.fade.dtype == np.float32
            before_new = min(samples, LEAD)
            assert (chunk.audio[:before_new] == receipt.fade[:before_new]).all()
            silent = sound == 0  # the stream's first samples are
            assert not receipt.fade[:known][silent].any()
            gain = receipt.fade[:known][~silent] / sound[~silent]
            assert (np.diff(gain) < 1e-6).all() and np.abs(gain - gain.clip(0, 1)).max(initial=0) < 1e-6
            if known > 100 and not silent[0]:
                assert gain[0] > 0.99 and abs(gain[-1]) < 1e-3
            assert not receipt.fade[known:].any()
            assert not chunk.audio[samples:LEAD].any()
            assert np.abs(chunk.audio[LEAD + 160 :]).max() > 0.5 and np.abs(chunk.audio).max() <= 1


def test_nothing_fades_where_nothing_was_heard(engine):
    with engine.session("dot") as session:
        session.say("hello there my friend")
        session.step()
        receipt = session.interrupt(0)
        assert receipt.fade.shape == (FADE,) and not receipt.fade.any()
        assert not session.step().audio[:LEAD].any()


def test_the_fade_comes_even_where_nothing_else_is_generated(engine):
    for idle in ("stop", "hold", "generate"):
        with engine.session("dot", idle=idle) as session:
            session.say("hello there my friend")
            session.step()
            fade = session.interrupt().fade
            chunk = session.step()
            assert fade.any() and (chunk.audio[:FADE] == fade).all() and chunk.mode is Mode.IDLE
            if idle == "stop":
                assert session.step() is None


def test_default_cut_is_what_was_reported_else_what_was_handed_out(engine):
    with engine.session("dot", max_lead=60.0) as session:
        assert session.interrupt().cut_pts == 0
        session.say("hello there my friend " * 3)
        for _ in range(3):
            session.step()
        assert session.interrupt().cut_pts == 3 * CHUNK
        session.say("hello there my friend " * 3)
        for _ in range(3):
            session.step()
        session.report_playback(3 * CHUNK + 12345)
        receipt = session.interrupt()
        assert receipt.cut_pts == 3 * CHUNK + 12345
        assert receipt.dropped_chunks == 1  # of three, one is heard and one is heard in part
        chunk = session.step()
        assert (chunk.pts, chunk.index) == (3 * CHUNK + 12345, 6)


def test_times_that_cannot_be_cut_at_are_refused_and_change_nothing(engine):
    with engine.session("dot", max_lead=1.0) as session:
        session.say("hello there my friend " * 5)
        for _ in range(8):
            session.step()
        for wrong in (-1, 8 * CHUNK + 1, 0.5, True, "now", 0):  # 0 is further back than max_lead
            with pytest.raises(ConfigError, match="heard_pts"):
                session.interrupt(wrong)
        assert session.mode is Mode.SPEAKING and session.stats()["interrupts"] == 0
        assert session.interrupt(np.int64(8 * CHUNK - RATE)).cut_pts == 8 * CHUNK - RATE
        with pytest.raises(ConfigError):
            session.interrupt(8 * CHUNK - RATE - 1)  # the clock has been cut there
    with pytest.raises(SessionClosedError):
        session.interrupt()


def test_a_cut_far_behind_has_an_exact_receipt(engine, rng):
    """The model's state is not kept that long, but words and clock are."""
    text = random_text(rng, 60)
    with engine.session("dot", max_lead=0.5) as session:
        session.say(text)
        session.report_playback(0)
        chunks = list(session.turn())
        assert len(chunks) > 12
        session.report_playback(CHUNK + 1234)
        receipt = session.interrupt()
        assert receipt.cut_pts == CHUNK + 1234 and receipt.dropped_chunks == len(chunks) - 2
        assert receipt.spoken_text == heard_text(text, chunks, receipt.cut_pts)
        assert receipt.spoken_text + receipt.unspoken_text == text
        after = finish(session)
        assert words_of(after) == ["good", "morning"] and after[0].pts == CHUNK + 1234


def test_before_between_twice_and_while_paused(engine):
    with engine.session("dot") as session:
        nothing = session.interrupt()
        assert (nothing.turn_id, nothing.spoken_text, nothing.unspoken_text) == (0, "", "")
        session.say("hello there")
        session.push_text("my fri")
        receipt = session.interrupt()  # nothing of it was spoken
        assert (receipt.turn_id, receipt.spoken_text, receipt.unspoken_text) == (1, "", "hello there")
        assert receipt.dropped_turns == ((2, "my fri"),)
        assert session.say("one two") == 3
        list(session.turn())
        between = session.interrupt()
        assert (between.turn_id, between.spoken_text, between.unspoken_text) == (3, "", "")
        session.say("good morning")
        session.step()
        first, second = session.interrupt(), session.interrupt()
        assert first.spoken_text + first.unspoken_text == "good morning"
        assert (second.turn_id, second.spoken_text, second.unspoken_text) == (4, "", "")
        assert second.cut_pts == first.cut_pts and (second.fade == first.fade).all() and first.fade.any()
        assert (session.step().audio[:FADE] == first.fade).all()
        session.say("the cat sat")
        session.step()
        session.pause()
        assert session.interrupt().turn_id == 5 and session.step() is None
        session.resume()
        assert session.step().discontinuity and not session.step().discontinuity
        assert session.stats()["interrupts"] == 6


def test_what_is_pushed_next_is_a_new_turn_and_comes_whole(engine):
    events = []
    with engine.session("dot") as session:
        session.on_event(lambda name, details: events.append((name, dict(details))))
        session.push_text("hello there my fri")
        session.step()  # an unfinished text may wait for more that long
        session.step()
        receipt = session.interrupt()
        assert session.push_text("end one") is None and session.end_turn() == 2
        assert words_of(session.turn()) == ["end", "one"]
    (details,) = [details for name, details in events if name == "interrupted"]
    assert details["unspoken_text"] == receipt.unspoken_text and details["turn_id"] == 1
    assert [d["turn_id"] for name, d in events if name == "turn_started"] == [1, 2]
    assert [d["turn_id"] for name, d in events if name == "turn_ended"] == [2]


def test_a_held_stream_ends_with_its_turn(engine):
    drawn = []

    def source():
        for i in range(100):
            drawn.append(i)
            yield "one two "

    with engine.session("dot", max_pending_text=40) as session:
        session.push_stream(source())
        session.step()
        receipt = session.interrupt()
        count = len(drawn)
        assert receipt.spoken_text + receipt.unspoken_text == "one two " * (count - 1) + ("one two " * 9)[
            : len(receipt.spoken_text + receipt.unspoken_text) - 8 * (count - 1)
        ]
        assert words_of(finish(session)) == ["good", "morning"]
        assert len(drawn) == count


def test_turn_ends_at_an_interrupt(engine):
    with engine.session("dot") as session:
        session.say("hello there my friend " * 3)
        seen = []
        for chunk in session.turn():
            seen.append(chunk)
            if len(seen) == 2:
                session.interrupt()
                session.say("one two")
        assert len(seen) == 2
        assert words_of(session.turn()) == ["one", "two"]


@pytest.mark.parametrize("steps", [1, 4])
def test_a_chunk_under_way_is_given_up_within_a_step(engine, monkeypatch, steps):
    inside, go_on = threading.Event(), threading.Event()
    taken = []

    def slow_step(step):
        taken.append(step)
        inside.set()
        assert go_on.wait(30)

    with engine.session("dot", steps=steps) as session, engine.session("dot", steps=steps) as twin:
        for one in (session, twin):
            one.say("hello there my friend")
            one.step()
        monkeypatch.setattr(stand_in, "denoise_step", slow_step)
        chunks, receipts = [], []
        stepper = threading.Thread(target=lambda: chunks.append(session.step()))
        stepper.start()
        assert inside.wait(30)
        cutter = threading.Thread(target=lambda: receipts.append(session.interrupt()))
        cutter.start()
        while session.stats()["interrupts"] == 0:  # the cut is made before the step is over
            pass
        session.push_text("one")  # not lost, though the step still runs
        session.end_turn()
        monkeypatch.setattr(stand_in, "denoise_step", lambda step: None)
        assert cutter.is_alive()
        go_on.set()
        for thread in (cutter, stepper):
            thread.join(30)
        if steps > 1:
            assert taken == [0]  # the second step was not begun
        (chunk,), (receipt,) = chunks, receipts
        assert receipt.cut_pts == CHUNK == chunk.pts and chunk.discontinuity and chunk.index == 1
        twin.interrupt()
        twin.say("one")
        again = twin.step()
        assert (again.video == chunk.video).all() and (again.audio == chunk.audio).all()
        assert words_of([chunk, *session.turn()]) == ["one"]
        assert receipt.stop_latency_ms > 0 and session.stats()["interrupt_turnaround_ms"] > 0


def test_latencies_are_counted(engine):
    with engine.session("dot", interrupt_fade=0.02) as session:
        for _ in range(3):
            session.say("hello there")
            session.step()
            session.interrupt()
        stats = session.stats()
        assert stats["interrupts"] == 3
        assert stats["interrupt_quiet_ms"] == stats["interrupt_quiet_worst_ms"] == pytest.approx(20)
        assert 0 < stats["interrupt_stop_ms"] <= stats["interrupt_stop_worst_ms"]
        assert 0 < stats["interrupt_turnaround_ms"] <= stats["interrupt_turnaround_worst_ms"]


def test_emotions_are_those_of_the_boundary(engine):
    with engine.session("dot", max_lead=60.0) as session:
        session.cue("happy")
        session.step()
        session.cue("sad")
        session.step()
        session.interrupt(CHUNK)
        session.step()
        assert [style.emotion for style in session._live.stream.state.styles] == [1, 1]
