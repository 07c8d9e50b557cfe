"""Recorded sessions live again, byte for byte."""
from __future__ import annotations

import json
import os

import pytest

from streamchar_rt import ConfigError, OutputError, cli
from streamchar_rt.journal import chunk_digest
from streamchar_rt.recording import Recorder, Recording
from tests.schedules import content, finish, random_schedule
from tests.stand_in import make_engine

CHUNK = 10240
SCHEDULES = int(os.environ.get("STREAMCHAR_SCHEDULES", 40))


@pytest.fixture
def engine(tmp_path):
    with make_engine(tmp_path) as engine:
        yield engine


def record(engine, path, live, **config):
    """A recorded session; returns what ``live`` returned."""
    character = engine.character("dot")
    with Recorder(path, engine, character) as recorder, engine.session(character, record=recorder, **config) as session:
        return live(session)


def replayed(engine, path):
    recording = Recording.load(path)
    with recording.session(engine, engine.character("dot")) as session:
        pairs = list(recording.play(session))
        assert all(same for _, same in pairs)
        return [chunk for chunk, _ in pairs]


def test_random_sessions_live_again(engine, tmp_path, rng):
    for _ in range(SCHEDULES):
        calls = random_schedule(rng, int(rng.integers(1, 25)), extra=("interrupt", "reset", "pause_and_resume"))
        config = dict(seed=int(rng.integers(1 << 40)), idle=str(rng.choice(["generate", "hold"])), steps=1)

        def live(session):
            session.pause_and_resume = lambda: (session.pause(), session.step(), session.resume())
            return finish(session, calls)

        truth = record(engine, tmp_path / "a", live, **config)
        again = replayed(engine, tmp_path / "a")
        assert content(again) == content(truth)
        assert [(c.pts, c.index, c.discontinuity) for c in again] == [(c.pts, c.index, c.discontinuity) for c in truth]


def test_background_sessions_live_again_by_hand(engine, tmp_path, rng):
    for _ in range(max(2, SCHEDULES // 10)):
        calls = random_schedule(rng, 12, extra=("interrupt",))
        config = dict(seed=int(rng.integers(1 << 40)), threading="background", max_lead=2.0)
        truth = record(engine, tmp_path / "a", lambda session: finish(session, calls), **config)
        made = iter(chunk_digest(chunk) for chunk in replayed(engine, tmp_path / "a"))
        assert all(chunk_digest(chunk) in made for chunk in truth)  # in order; some were cut before they came out


def test_held_streams_and_odd_text_live_again(engine, tmp_path):
    def live(session):
        session.push_stream(f"one two {i} \ud800 é " for i in range(40))
        session.end_turn()
        return list(session.turn())

    truth = record(engine, tmp_path / "a", live, max_pending_text=30)
    assert content(replayed(engine, tmp_path / "a")) == content(truth)
    assert (tmp_path / "a").read_bytes().isascii()


def test_a_recording_is_good_up_to_a_crash(engine, tmp_path):
    record(engine, tmp_path / "a", lambda session: finish(session, [("push_text", "hello there my friend")]))
    text = (tmp_path / "a").read_text()
    (tmp_path / "a").write_text(text[: text.rindex('"chunk"') + 3])
    recording = Recording.load(tmp_path / "a")
    assert len(recording.digests) == text.count('"chunk"') - 1
    replayed(engine, tmp_path / "a")


def test_differences_are_found(engine, tmp_path):
    record(engine, tmp_path / "a", lambda session: finish(session, [("push_text", "hello there my friend")]))
    lines = (tmp_path / "a").read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if '"push_text"' in line)
    changed = [*lines[:at], lines[at].replace("friend", "cat"), *lines[at + 1 :]]
    (tmp_path / "b").write_text("\n".join(changed) + "\n")
    recording = Recording.load(tmp_path / "b")
    with recording.session(engine, engine.character("dot")) as session:
        assert [same for _, same in recording.play(session)][0]
        assert "the same package" in recording.differences(session)
    (tmp_path / "c").write_text("\n".join([lines[0].replace('"seed": 0', '"seed": 1'), *lines[1:]]) + "\n")
    recording = Recording.load(tmp_path / "c")
    with recording.session(engine, engine.character("dot")) as session:
        assert not any(same for _, same in recording.play(session))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda facts: "", "line 1"),
        (lambda facts: "\xff", "not a recording"),
        (lambda facts: "{", "line 1"),
        (lambda facts: "[1]", "line 1"),
        (lambda facts: json.dumps({**facts, "version": 2}), "version 2"),
        (lambda facts: json.dumps({**facts, "format": "x"}), "not a recording"),
        (lambda facts: json.dumps({**facts, "steps": "many"}), "options"),
        (lambda facts: json.dumps({k: v for k, v in facts.items() if k != "idle"}), "options"),
        (lambda facts: json.dumps({**facts, "bundle": "abc"}), "another model"),
        (lambda facts: json.dumps({**facts, "picture": "abc"}), "another character"),
        (lambda facts: json.dumps({**facts, "voice": "low"}), "another voice"),
        (lambda facts: json.dumps(facts) + '\n{"do": "restore"}', "restore"),
        (lambda facts: json.dumps(facts) + '\n{"do": "close"}', "close"),
        (lambda facts: json.dumps(facts) + '\n{"do": "push_text", "txt": "a"}', "no sense"),
        (lambda facts: json.dumps(facts) + '\n{"do": "chunk"}', "no sense"),
        (lambda facts: json.dumps(facts) + '\n{"do": "push_text", "text": 3}', "text"),
    ],
)
def test_bad_recordings_are_refused(engine, tmp_path, change, message):
    record(engine, tmp_path / "a", lambda session: session.step())
    facts = json.loads((tmp_path / "a").read_text().splitlines()[0])
    (tmp_path / "a").write_text(change(facts) + "\n", encoding="latin-1")
    with pytest.raises(ConfigError, match=message) as caught:
        replayed(engine, tmp_path / "a")
    assert caught.value.hint
    with pytest.raises(ConfigError):
        Recording.load(tmp_path / "nothing")
    with pytest.raises(OutputError):
        Recorder(tmp_path / "no" / "folder", engine, engine.character("dot"))


def test_what_was_cut_is_not_heard(engine, tmp_path):
    def live(session):
        session.say("hello there my friend one two five dollars")
        chunks = [session.step() for _ in range(4)]
        session.interrupt(2 * CHUNK + 1000)
        chunks.append(session.step())
        session.interrupt(2 * CHUNK + 1500)
        return [*chunks, session.step()]

    record(engine, tmp_path / "a", live, max_lead=10.0)
    recording = Recording.load(tmp_path / "a")
    with recording.session(engine, engine.character("dot")) as session:
        heard = list(recording.heard(chunk for chunk, _ in recording.play(session)))
    assert [chunk.pts for chunk in heard] == [0, CHUNK, 2 * CHUNK, 2 * CHUNK + 1500]
    assert [len(chunk.video) for chunk in heard] == [16, 16, 1, 16]  # the chunk of 500 samples shows no whole frame
    assert [len(chunk.audio) for chunk in heard] == [CHUNK, CHUNK, 640, CHUNK]


def test_the_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "model").mkdir()
    monkeypatch.setattr(cli, "_load", lambda options: make_engine(tmp_path / "model", max_sessions=1))
    monkeypatch.chdir(tmp_path)
    assert cli.main(["say", "Hello there, my friend.", "-o", "a.wav", "--record", "a.jsonl", "--seed", "5"]) == 0
    assert cli.main(["replay", "a.jsonl", "-o", "b.wav", "--check"]) == 0
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
    assert "all as recorded" in capsys.readouterr().err
    text = (tmp_path / "a.jsonl").read_text()
    (tmp_path / "a.jsonl").write_text(text.replace('"seed": 5', '"seed": 6'))
    assert cli.main(["replay", "a.jsonl", "--check"]) == 1
    assert "chunk 1 of" in capsys.readouterr().err
    assert cli.main(["replay", "a.jsonl"]) == 2
    (tmp_path / "a.jsonl").write_text(text.replace('"dot"', '"dog"'))
    assert cli.main(["replay", "a.jsonl", "--check"]) == 2
    assert "-c PICTURE" in capsys.readouterr().err
