"""Recorded input lived again: the same bytes, whoever made the calls and wherever the chunks were made."""
from __future__ import annotations

import json
import threading

import numpy as np
import pytest

from streamchar_rt import ConfigError, replay
from streamchar_rt.producer import Producer
from tests import stand_in
from tests.stand_in import WORDS, make_engine
from tests.test_background import settle, until

CHUNK = 10240


@pytest.fixture
def engine(tmp_path):
    with make_engine(tmp_path, max_sessions=64) as engine:
        yield engine


def content(chunk):
    return (
        chunk.turn_id, chunk.pts, chunk.audio.tobytes(), chunk.video.tobytes(), chunk.words, chunk.visemes, chunk.mode,
        chunk.end_of_turn, chunk.timings.denoise_steps,
    )  # fmt: skip


@pytest.fixture
def made(monkeypatch):
    """What background sessions make, also what is dropped before anyone takes it."""
    chunks, original = [], Producer.finish

    def finish(producer, job, raw, *, hand_out):
        ready = original(producer, job, raw, hand_out=hand_out)
        if ready is not None and not hand_out:
            chunks.append(content(ready.chunk))
        return ready

    monkeypatch.setattr(Producer, "finish", finish)
    return chunks


def act(session, rng, handed):
    """A random call."""
    piece = " ".join(str(rng.choice(sorted(WORDS))) for _ in range(int(rng.integers(1, 5))))
    piece += str(rng.choice([" ", "", ", ", " [happy] ", "[pause 0.4] ", ". "]))
    kind = int(rng.integers(0, 14))
    if kind < 5:
        session.push_text(piece)
    elif kind < 7:
        session.say(piece)
    elif kind == 7:
        session.push_stream([piece, " one two", " five"] * int(rng.integers(1, 20)))
    elif kind == 8:
        handed[0] = session.interrupt().cut_pts
    elif kind == 9:
        handed[0] = max(handed[0], session._live.handed - int(rng.integers(0, CHUNK)))
        session.interrupt(handed[0])
    else:
        call = rng.choice(["flush", "end_turn", "listen", "rest", "reset", "cue"])
        getattr(session, call)(*(["sad"] if call == "cue" else []))
        handed[0] = session._live.handed if call == "reset" else handed[0]


@pytest.mark.parametrize("idle", ["generate", "stop", "hold"])
def test_a_background_session_is_lived_again_by_hand(engine, rng, made, idle):
    for _ in range(6):
        made.clear()
        entries, options = [], {"seed": int(rng.integers(99)), "idle": idle, "max_pending_text": 400}
        with engine.session("dot", threading="background", record=entries.append, **options) as session:
            handed = [0]
            for _ in range(40):
                try:
                    if rng.random() < 0.5:
                        act(session, rng, handed)
                    elif rng.random() < 0.3:
                        settle(session)
                    else:
                        session.step(timeout=0.01)
                except Exception as error:
                    assert "max_pending_text" in str(error)
            session.end_turn()
            settle(session)
        entries = json.loads(json.dumps(entries))  # plain values only
        assert entries[0]["do"] == "session" and entries[0]["seed"] == options["seed"]
        with engine.session("dot", **options) as again:
            lived = [content(chunk) for chunk in replay(again, entries)]
        assert len(made) == len(lived)
        assert made == lived, [i for i, (a, b) in enumerate(zip(made, lived)) if a != b]


def test_calls_from_other_threads_take_effect_with_the_next_chunk(engine, monkeypatch):
    inside, go_on = threading.Event(), threading.Event()
    entries = []

    def step(number):
        inside.set()
        assert go_on.wait(30)

    with engine.session("dot", record=entries.append) as session:
        monkeypatch.setattr(stand_in, "denoise_step", step)
        thread = threading.Thread(target=session.step)
        thread.start()
        assert inside.wait(30)
        session.say("one two")  # while the first chunk is made
        session.listen()
        go_on.set()
        thread.join(30)
        second = session.step()
        assert second.turn_id == 1 and [word.text for word in second.words] == ["one", "two"]
    names = [entry["do"] for entry in entries]
    assert names == ["session", "chunk", "push_text", "end_turn", "listen", "chunk"]
    times = [entry["t"] for entry in entries]
    assert times == sorted(times) or times[1] > times[2]  # a call may have been made before the chunk was done


def test_adaptive_steps_are_repeated(engine):
    entries = [{"do": "say"}]
    with engine.session("dot") as session, pytest.raises(ConfigError, match="replayed"):
        list(replay(session, entries))
    entries = [{"do": "push_text", "text": "one two"}, {"do": "end_turn"}, {"do": "chunk", "steps": 1}]
    with engine.session("dot", steps=4) as session:
        (chunk,) = replay(session, entries)
        assert chunk.timings.denoise_steps == 1


def test_a_fork_is_not_written_into_its_parents_journal(engine):
    entries = []
    with engine.session("dot", record=entries.append) as session, session.fork() as child:
        child.say("one")
        child.step()
        assert [entry["do"] for entry in entries] == ["session"]
        with pytest.raises(ConfigError, match="record"):
            engine.session("dot", record=3)


def test_writers_readers_and_interrupts_at_once(engine, rng, made):
    """Threads do all at the same time; afterwards the journal tells the same story."""
    for _ in range(3):
        made.clear()
        entries, failures = [], []
        options = {"seed": int(rng.integers(99)), "max_pending_text": 2000, "max_lead": 30.0}
        with engine.session("dot", threading="background", record=entries.append, **options) as session:
            seeds = rng.integers(1 << 30, size=4)

            def work(seed):
                own = np.random.default_rng(seed)
                try:
                    for _ in range(60):
                        kind = int(own.integers(0, 10))
                        if kind < 6:
                            session.push_text(str(own.choice(sorted(WORDS))) + str(own.choice(["", " ", ". "])))
                        elif kind == 6:
                            session.end_turn()
                        elif kind == 7:
                            receipt = session.interrupt()
                            assert receipt.cut_pts >= 0
                        else:
                            assert isinstance(session.pending_text, str) and session.mode and session.stats()
                except Exception as error:
                    failures.append(error)

            threads = [threading.Thread(target=work, args=(seed,)) for seed in seeds]
            for thread in threads:
                thread.start()
            while any(thread.is_alive() for thread in threads):
                session.step(timeout=0.005)
            assert failures == []
            settle(session)
            until(lambda: session._live.job is None)
        with engine.session("dot", **options) as again:
            assert [content(chunk) for chunk in replay(again, entries)] == made
