"""Many sessions, stepped together by the engine."""
from __future__ import annotations

import threading
import time

import pytest

from streamchar_rt import ConfigError, StateError
from streamchar_rt.batch_step import MOST
from tests import stand_in
from tests.schedules import content, finish, perform, random_schedule
from tests.stand_in import make_engine


@pytest.fixture
def engine(tmp_path):
    with make_engine(tmp_path, max_sessions=24) as engine:
        yield engine


def test_the_same_bytes_alone_interleaved_and_together(engine, rng):
    for _ in range(10):
        lives = [[random_schedule(rng, 6) for _ in range(4)] for _ in range(3)]
        configs = [dict(seed=int(rng.integers(1 << 40)), steps=int(rng.integers(1, 3))) for _ in lives]
        alone, interleaved, together = [], [[] for _ in lives], [[] for _ in lives]
        for life, config in zip(lives, configs):
            with engine.session("dot", **config) as session:
                alone.append(content(finish(session, [call for part in life for call in part])))
        for chunks, batched in ((interleaved, False), (together, True)):
            sessions = [engine.session("dot", **config) for config in configs]
            for part in range(4):
                for i, session in enumerate(sessions):  # what each is told, and then as many chunks as it wants
                    for call in [*lives[i][part]]:
                        if call[0] != "step":
                            perform(session, [call])
                            continue
                        for _ in range(call[1]):
                            if not batched:
                                chunks[i].append(session.step())
                                continue
                            for other in sessions:
                                if other is not session:
                                    other.pause()
                            ((stepped, chunk),) = engine.step()
                            assert stepped is session
                            chunks[i].append(chunk)
                            for other in sessions:
                                other.resume()
            for session in sessions:
                session.end_turn()
            if batched:  # to the end in company
                over = lambda i: bool(not sessions[i].pending_text and chunks[i] and chunks[i][-1].end_of_turn)
                ends = [over(i) for i in range(len(sessions))]
                for session, end in zip(sessions, ends):
                    if end:
                        session.pause()
                while not all(ends):
                    for session, chunk in engine.step():
                        i = sessions.index(session)
                        chunks[i].append(chunk)
                        ends[i] = over(i)
                        if ends[i]:
                            session.pause()
                for session in sessions:
                    session.resume()
                for _ in range(2):
                    for session, chunk in engine.step():
                        chunks[sessions.index(session)].append(chunk)
            else:
                for i, session in enumerate(sessions):
                    while session.pending_text or not (chunks[i] and chunks[i][-1].end_of_turn):
                        chunks[i].append(session.step())
                    chunks[i] += perform(session, [("step", 2)])
            for session in sessions:
                session.close()
        assert [content(chunks) for chunks in interleaved] == alone
        assert [content(chunks) for chunks in together] == alone


def test_only_ready_sessions_are_stepped(engine):
    assert engine.step() == []
    speaking, paused = engine.session("dot"), engine.session("dot")
    silent, held = engine.session("square", idle="stop"), engine.session("square", idle="hold", steps=1)
    closed, background = engine.session("dot"), engine.session("dot", threading="background")
    paused.pause()
    closed.close()
    speaking.say("hello")
    done = engine.step()
    assert [session for session, _ in done] == [held, speaking] and [chunk.index for _, chunk in done] == [0, 0]
    assert done[0][1].timings.denoise_steps == 0 and done[1][1].words[0].text == "hello"
    silent.say("one")
    assert {session for session, _ in engine.step()} == {held, speaking, silent}
    background.close()


def test_events_come_with_the_chunks_and_no_lock_is_held(engine):
    session, heard = engine.session("dot"), []
    session.on_event(lambda name, details: heard.append((name, session.pending_text)))
    session.say("one")
    while not any(chunk.end_of_turn for _, chunk in engine.step()):
        pass
    assert [name for name, _ in heard] == ["turn_started", "turn_ended"]


def test_more_sessions_than_a_batch_takes_turns(engine):
    sessions = [engine.session("dot", steps=1) for _ in range(MOST * 2 + 3)]
    for _ in range(19):
        done = engine.step()
        assert len(done) == MOST == len({id(session) for session, _ in done})
    counts = [session.stats()["chunks"] for session in sessions]
    assert sum(counts) == 19 * MOST and max(counts) - min(counts) <= 1


def test_waiting_for_something_to_do(engine):
    session = engine.session("dot", idle="stop")
    begin = time.monotonic()
    assert engine.step(timeout=0.1) == [] and time.monotonic() - begin >= 0.1
    timer = threading.Timer(0.05, session.say, ["hello"])
    timer.start()
    assert [s for s, _ in engine.step(timeout=60)] == [session]
    timer.join()
    list(session.turn())
    session.push_text("one tw")  # not finished: spoken after a while nevertheless
    assert [s for s, _ in engine.step(timeout=60)] == [session]
    with pytest.raises(ConfigError):
        engine.step(timeout=-1)


def test_an_interrupt_takes_one_session_out_of_the_batch(engine, monkeypatch):
    first, second = engine.session("dot", seed=1), engine.session("dot", seed=2)
    first.say("hello there my friend")
    second.say("one two five dollars")
    engine.step()
    receipts = []

    def cut(step):
        if not receipts:
            receipts.append(None)  # the denoising asks again within the call's own thread
            receipts[0] = first.interrupt()

    monkeypatch.setattr(stand_in, "denoise_step", cut)
    done = engine.step()
    assert [session for session, _ in done] == [second]
    assert receipts[0].unspoken_text.endswith("my friend")
    monkeypatch.undo()
    done = dict(engine.step())
    assert done[first].discontinuity and not done[second].discontinuity and done[second].index == 2


def test_who_interrupts_does_not_wait_for_sessions_with_other_steps(engine, monkeypatch):
    first, second = engine.session("dot", steps=1), engine.session("dot", steps=2)
    first.say("hello there my friend")
    second.say("one two five dollars")
    other, epoch = threading.Thread(target=first.interrupt), first._live.epoch

    returned = []

    def cut(step):
        if other.ident is None:  # in the first company
            other.start()
            while first._live.epoch == epoch:
                time.sleep(0.001)
        else:
            other.join(30)
            returned.append(not other.is_alive())

    monkeypatch.setattr(stand_in, "denoise_step", cut)
    assert [session for session, _ in engine.step()] == [second]
    assert returned == [True, True]


def test_a_failing_generation_harms_nobody(engine, monkeypatch):
    with make_engine_sessions(engine) as (first, second):
        truth = [content(finish(session.fork(), [])) for session in (first, second)]

        def fail(step):
            raise RuntimeError("no power")

        monkeypatch.setattr(stand_in, "denoise_step", fail)
        with pytest.raises(RuntimeError, match="no power"):
            engine.step()
        monkeypatch.undo()
        assert [content(finish(session, [])) for session in (first, second)] == truth


def make_engine_sessions(engine):
    from contextlib import contextmanager

    @contextmanager
    def two():
        with engine.session("dot", seed=1) as first, engine.session("dot", seed=2) as second:
            for session in (first, second):
                session.push_text("hello there my friend")
            engine.step()
            yield first, second

    return two()


def test_a_session_that_another_thread_steps_is_left_out(engine, monkeypatch):
    slow, other = engine.session("dot"), engine.session("dot")
    entered, leave = threading.Event(), threading.Event()
    original = stand_in.pipeline.generate_chunk

    def generate(*args, **kwargs):
        entered.set()
        assert leave.wait(60)
        return original(*args, **kwargs)

    monkeypatch.setattr(stand_in.pipeline, "generate_chunk", generate)
    thread = threading.Thread(target=slow.step)
    thread.start()
    assert entered.wait(60)
    threading.Timer(0.2, leave.set).start()
    assert [session for session, _ in engine.step()] == [other]
    thread.join()
    with pytest.raises(StateError):
        engine.close()
        engine.step()
