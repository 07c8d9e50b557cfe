"""Background threading: the ring, the lead, underruns, errors, closing, async iteration; over the stand-in model."""
from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import time
import weakref

import pytest

from streamchar_rt import ConfigError, Mode, SessionClosedError, StateError
from tests import stand_in
from tests.stand_in import WORDS, make_engine
from tests.test_interrupt import heard_text, random_text, words_of

RATE, CHUNK = 16000, 10240


@pytest.fixture
def engine(tmp_path):
    before = threading.active_count()
    with make_engine(tmp_path, max_sessions=64, slots_per_session=3) as engine:
        yield engine
    assert threading.active_count() == before, "a thread was left"


@pytest.fixture
def session(engine):
    with engine.session("dot", seed=1, threading="background") as session:
        yield session


def until(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.002)


def settle(session):
    """Waits until the worker has stopped by itself: nothing more may be made."""
    live, worker = session._live, session._worker
    until(lambda: live.job is None and not worker._may_begin())
    return session.stats()["seconds_generated"] * RATE


def test_chunks_are_those_of_a_session_stepped_by_hand(engine):
    text = "hello there, my friend. one two five dollars"
    with engine.session("dot", seed=3) as by_hand:
        by_hand.say(text)
        truth = list(by_hand.turn())
    with engine.session("dot", seed=3, threading="background", idle="stop") as session:
        session.say(text)
        chunks = list(session.turn())
        assert session.step(timeout=0.05) is None
    for a, b in zip(chunks, truth, strict=True):
        assert (a.audio == b.audio).all() and (a.video == b.video).all()
        assert (a.words, a.visemes, a.pts) == (b.words, b.visemes, b.pts)
        assert (a.index, a.end_of_turn, a.mode) == (b.index, b.end_of_turn, b.mode)


def test_the_ring_is_bounded(session):
    assert settle(session) == 3 * CHUNK
    assert session.step().index == 0
    assert settle(session) == 4 * CHUNK


@pytest.mark.parametrize("max_lead", [0.0, 0.3, 1.0, 1.5])
def test_no_chunk_is_begun_further_ahead_of_playback_than_max_lead(engine, max_lead):
    with engine.session("dot", threading="background", max_lead=max_lead) as session:
        settle(session)
        session.step()
        at_first = settle(session)  # what was made before the first report is not taken back
        for played in range(0, 9 * CHUNK, 3777):
            played = min(played, int(session._live.handed))
            session.report_playback(played)
            generated = settle(session)
            while session.step(timeout=0) is not None:
                generated = settle(session)
            if generated > at_first:
                lead = (generated - CHUNK - played) / RATE  # with which the newest chunk was begun
                assert lead < max_lead or lead <= 0
            assert (generated - played) / RATE >= max_lead and generated > played  # it goes as far as it may
        assert generated > 5 * CHUNK


def test_a_step_waits_for_the_chunk_and_not_longer_than_it_may(engine, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(stand_in, "denoise_step", lambda step: go_on.wait(30))
    with engine.session("dot", threading="background") as session:
        assert session.step(timeout=0) is None and session.step(timeout=0.02) is None
        threading.Timer(0.05, go_on.set).start()
        assert session.step().index == 0
        for wrong in (-1, float("nan"), "long"):
            with pytest.raises(ConfigError):
                session.step(timeout=wrong)


def test_no_second_consumer(engine, monkeypatch):
    go_on = threading.Event()
    monkeypatch.setattr(stand_in, "denoise_step", lambda step: go_on.wait(30))
    with engine.session("dot", threading="background") as session:
        chunks = []
        consumer = threading.Thread(target=lambda: chunks.append(session.step()))
        consumer.start()
        until(session._consumer.locked)
        with pytest.raises(StateError, match="consumer"):
            session.step(timeout=0)
        go_on.set()
        consumer.join(30)
        assert chunks[0].index == 0


def test_errors_of_the_worker_reach_the_consumer_behind_the_chunks_before(engine):
    def source():
        yield "one two " * 5
        raise RuntimeError("the writer has gone")

    with engine.session("dot", threading="background", max_pending_text=20, idle="stop") as session:
        session.push_stream(source())
        session.end_turn()
        chunks, failures = [], 0
        while not (chunks and chunks[-1].end_of_turn):
            try:
                chunks.append(session.step(timeout=30))
            except RuntimeError:
                failures += 1
        assert failures == 1 and words_of(chunks) == ["one", "two"] * 5


def test_a_failing_model_fails_every_step_and_does_not_spin(engine, monkeypatch):
    calls = []

    def broken(step):
        calls.append(step)
        raise MemoryError("full")

    monkeypatch.setattr(stand_in, "denoise_step", broken)
    with engine.session("dot", threading="background") as session:
        for _ in range(3):
            with pytest.raises(MemoryError):
                session.step()
        until(lambda: len(calls) == 4)
        time.sleep(0.05)
        assert len(calls) == 4
        monkeypatch.setattr(stand_in, "denoise_step", lambda step: None)
        with pytest.raises(MemoryError):
            session.step()
        assert session.step().index == 0


def test_interrupt_drops_the_ring_and_nobody_hears_of_it(engine, rng):
    for _ in range(15):
        text, events = random_text(rng, 25), []
        with engine.session("dot", seed=5, threading="background", idle="stop", max_lead=30.0) as session:
            session.on_event(lambda name, details: events.append((name, details)))
            session.cue("marker")
            session.say(text)
            chunks = [session.step() for _ in range(int(rng.integers(1, 6)))]
            if rng.random() < 0.7:
                settle(session)
            handed = len(chunks) * CHUNK
            cut = int(rng.integers(max(0, handed - CHUNK), handed + 1))
            session.report_playback(cut)
            receipt = session.interrupt()
            assert receipt.spoken_text == heard_text(text, chunks, receipt.cut_pts)
            assert receipt.spoken_text + receipt.unspoken_text == text
            assert 0 <= receipt.dropped_chunks <= 4 and receipt.cut_pts == cut
            session.say("good morning")
            assert session.mode is Mode.SPEAKING
            after = list(session.turn())
            assert words_of(after) == ["good", "morning"] and after[0].discontinuity
            assert [c.index for c in after] == list(range(len(chunks), len(chunks) + len(after)))
            assert [c.pts for c in after] == [receipt.cut_pts + i * CHUNK for i in range(len(after))]
            assert (after[0].audio[:640] == receipt.fade).all()
            assert not session.is_valid(chunks[-1]) or chunks[-1].pts < cut
        assert [d["turn_id"] for name, d in events if name == "turn_ended"] == [2]


def test_text_is_not_heard_behind_chunks_of_rest_that_nobody_has_taken(engine, rng):
    for _ in range(5):
        seed, taken = int(rng.integers(99)), int(rng.integers(0, 3))
        with engine.session("dot", seed=seed) as by_hand:
            truth = [by_hand.step() for _ in range(taken)]
            by_hand.say("hello there my friend")
            truth += by_hand.turn()
        with engine.session("dot", seed=seed, threading="background") as session:
            chunks = [session.step() for _ in range(taken)]
            if rng.random() < 0.7:
                settle(session)
            session.say("hello there my friend")
            chunks += session.turn()
            assert session.stats()["recalled_chunks"] <= 3
            for a, b in zip(chunks, truth, strict=True):
                assert (a.audio == b.audio).all() and (a.video == b.video).all() and not a.discontinuity
                assert (a.words, a.pts, a.index, a.mode) == (b.words, b.pts, b.index, b.mode)


def test_calls_without_text_take_nothing_back(engine):
    with engine.session("dot", threading="background") as session:
        settle(session)
        for _ in range(20):
            session.push_text("")
            session.push_text(" ")
            session.flush()
        assert session.end_turn() == 1
        assert session.stats()["recalled_chunks"] == 0
        (chunk,) = [chunk for chunk in session.turn() if chunk.end_of_turn]
        assert chunk.turn_id == 1


def test_cues_before_text_are_not_taken_back(engine):
    events = []
    with engine.session("dot", threading="background") as session:
        session.on_event(lambda name, details: events.append(name))
        session.cue("marker")
        settle(session)
        session.say("hello there")
        chunks = list(session.turn())
        assert words_of(chunks) == ["hello", "there"] and events.count("cue") == 1


def test_the_fade_survives_text_that_comes_at_once(engine):
    with engine.session("dot", threading="background", max_lead=30.0) as session:
        session.say("hello there my friend " * 4)
        for _ in range(2):
            session.step()
        receipt = session.interrupt()
        settle(session)
        session.say("one two")
        chunk = session.step()
        assert chunk.mode is Mode.SPEAKING and chunk.discontinuity and chunk.pts == receipt.cut_pts
        assert receipt.fade.any() and (chunk.audio[:640] == receipt.fade).all()
        assert not session.step().discontinuity


def test_pending_text_and_mode_are_those_of_the_consumer(engine):
    with engine.session("dot", threading="background", idle="stop") as session:
        text = "hello there my friend, one two five dollars"
        session.say(text)
        settle(session)
        assert session.pending_text == text and session.mode is Mode.SPEAKING
        spoken = []
        for chunk in session.turn():
            spoken += chunk.words
            rest = text[spoken[-1].text_offset + len(spoken[-1].text) :]
            assert session.pending_text == ("" if chunk.end_of_turn else rest)
        assert session.mode is Mode.IDLE


def test_pause_and_resume(session):
    settle(session)
    session.pause()
    assert session.step(timeout=0.02) is None
    consumer_got = []
    consumer = threading.Thread(target=lambda: consumer_got.append(session.step()))
    consumer.start()
    session.resume()
    consumer.join(30)
    assert consumer_got[0].index == 0


def test_unfinished_text_is_spoken_after_a_while(engine):
    with engine.session("dot", threading="background", idle="stop") as session:
        session.push_text("hello there ")
        chunk = session.step(timeout=30)
        assert words_of([chunk])[0] == "hello"


def test_reset_restore_snapshot_and_fork(engine):
    with engine.session("dot", seed=3, threading="background", idle="stop") as session:
        session.say("hello there my friend")
        truth = list(session.turn())
        snapshot = session.snapshot()
        session.say("one two")
        second = list(session.turn())
        session.restore(snapshot)
        session.say("one two")
        again = list(session.turn())
        assert again[0].discontinuity and not again[1].discontinuity
        assert [c.pts - second[-1].pts for c in again] == [(i + 1) * CHUNK for i in range(len(again))]
        assert all((a.video == b.video).all() for a, b in zip(again, second, strict=True))
        with session.fork() as child:
            for one in (session, child):
                one.say("good morning")
            ends = [list(one.turn()) for one in (session, child)]
            assert all((a.video == b.video).all() for a, b in zip(*ends, strict=True))
        session.reset()
        session.say("hello there my friend")
        assert all((a.video == b.video).all() for a, b in zip(session.turn(), truth, strict=True))


def test_closing_ends_a_step_and_the_worker_at_once(engine, monkeypatch):
    inside, go_on = threading.Event(), threading.Event()
    for manual in (True, False):
        inside.clear()
        go_on.clear()
        taken = []

        def step(number):
            taken.append(number)
            inside.set()
            go_on.wait(30)

        monkeypatch.setattr(stand_in, "denoise_step", step)
        session = engine.session("dot", steps=50, threading="manual" if manual else "background")
        failures = []

        def consume():
            try:
                session.step()
            except SessionClosedError as error:
                failures.append(error)

        consumer = threading.Thread(target=consume)
        consumer.start()
        assert inside.wait(30)
        closer = threading.Thread(target=session.close)
        closer.start()
        until(lambda: session._live.closed)
        go_on.set()
        closer.join(30)
        consumer.join(30)
        assert len(failures) == 1 and taken == [0]
        assert session._live.stream.state is None and list(session) == []


def test_a_forgotten_session_ends_its_worker(engine):
    session = engine.session("dot", threading="background")
    session.step()
    gone, thread = weakref.ref(session), session._worker._thread
    del session
    gc.collect()
    assert gone() is None
    thread.join(30)
    assert not thread.is_alive()


def test_a_callback_and_a_text_stream_may_close(engine):
    session = engine.session("dot", threading="background")
    session.on_event(lambda name, details: session.close())
    session.say("one")
    assert list(session)[-1].words
    other = engine.session("dot", threading="background", max_pending_text=10)

    def source():
        yield "one two one two "
        other.close()

    other.push_stream(source())
    for _ in other:
        pass
    other._worker._thread.join(30)


def test_engine_close_ends_all(engine):
    sessions = [engine.session("dot", threading="background") for _ in range(4)]
    engine.close()
    for session in sessions:
        assert not session._worker._thread.is_alive()
        with pytest.raises(SessionClosedError):
            session.step()


def test_async_iteration_without_polling(engine):
    async def main():
        with engine.session("dot", threading="background", idle="stop") as session:
            async def late():
                await asyncio.sleep(0.02)
                session.say("one two")

            words, task = [], asyncio.create_task(late())
            async for chunk in session:
                words += words_of([chunk])
                if chunk.end_of_turn:
                    session.close()
            await task
            return words

    assert asyncio.run(main()) == ["one", "two"]


def test_async_waiting_ends_when_closed_and_can_be_cancelled(engine):
    async def main(how):
        session = engine.session("dot", threading="background", idle="stop")

        async def consume():
            async for _ in session:
                pass
            return "ended"

        task = asyncio.create_task(consume())
        await asyncio.sleep(0.02)
        assert not task.done()
        with pytest.raises(StateError, match="consumer"):
            session.step(timeout=0)
        if how == "close":
            session.close()
            return await task
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        session.say("one")
        assert session.step(timeout=30) is not None  # the consumer's place is free
        session.close()

    assert asyncio.run(main("close")) == "ended"
    asyncio.run(main("cancel"))


def test_underruns_are_told_once_each_and_counted(engine, monkeypatch):
    go_on = threading.Event()
    go_on.set()
    monkeypatch.setattr(stand_in, "denoise_step", lambda step: go_on.wait(30))
    events = []
    with engine.session("dot", threading="background", max_lead=0.0) as session:
        session.on_event(lambda name, details: events.append((name, details)))
        settle(session)
        while session.step(timeout=0) is not None:
            pass
        handed = session._live.handed
        go_on.clear()
        session.report_playback(handed - 160)  # ten milliseconds are left
        time.sleep(0.05)
        assert session.step(timeout=0) is None and session.step(timeout=0.05) is None
        assert [name for name, _ in events] == ["underrun"]
        assert events[0][1]["pts"] == handed and events[0][1]["late_ms"] > 20
        go_on.set()
        session.report_playback(handed)
        assert session.step().pts == handed
        stats = session.stats()
        assert stats["underruns"] == 1 and stats["underrun_ms"] > events[0][1]["late_ms"]


def test_the_interpreter_ends_whatever_the_worker_does(tmp_path):
    code = f"""
import sys, threading
sys.path[:0] = {sys.path!r}
from pathlib import Path
from tests import stand_in
engine = stand_in.make_engine(Path({str(tmp_path)!r}), max_sessions=4)
inside = threading.Event()
def step(number):
    inside.set()
    sum(range(10**4))
stand_in.denoise_step = step
sessions = [engine.session("dot", steps=256, threading="background") for _ in range(2)]
waiting = engine.session("dot", threading="background", idle="stop")
threading.Thread(target=lambda: waiting.step(), daemon=True).start()
assert inside.wait(30)
print("end", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr


def test_text_from_many_threads_comes_whole(engine, rng):
    """Each writer's words keep their order, whatever the others and the worker do."""
    writers, count = 6, 40
    names = sorted(WORDS)[:writers]
    with engine.session("dot", threading="background", idle="stop") as session:
        def write(name):
            for _ in range(count):
                session.push_text(name + " ")
                if hash((name, threading.get_ident())) % 3 == 0:
                    session.flush()

        threads = [threading.Thread(target=write, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        chunks = [session.step(timeout=30) for _ in range(5)]
        for thread in threads:
            thread.join(30)
        session.end_turn()
        chunks += session.turn()
        spoken = words_of(chunks)
        assert sorted(spoken) == sorted(names * count)
        assert session.pending_text == ""
