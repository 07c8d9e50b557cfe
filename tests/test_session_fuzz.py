"""Every call of a session in every order: typed errors only, and a clock that never jumps.

STREAMCHAR_FUZZ=1000 python -m pytest tests/test_session_fuzz.py    runs it long.
"""
from __future__ import annotations

import os
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule

from streamchar_rt import Mode, SessionClosedError, Snapshot, StreamCharError
from tests.schedules import content
from tests.stand_in import WORDS, make_engine

CHUNK = 10240
mischief = ["[happy]", "[wave 2]", "[pause 0.2]", ".", ",", "5", "$5", "é", "日", "\ud800", "[", "\n\n"]
words = st.sampled_from([*WORDS, *mischief])
texts = st.lists(words, max_size=12).map(" ".join) | st.text(max_size=30)
anything = st.none() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3)
numbers = st.floats(min_value=0, max_value=1) | anything


class Life:
    """A session, and where its clock stands."""

    def __init__(self, session, pts=0):
        self.session, self.pts, self.closed = session, pts, False


class Sessions(RuleBasedStateMachine):
    lives, snapshots = Bundle("lives"), Bundle("snapshots")

    @initialize()
    def begin(self):
        self.folder = tempfile.TemporaryDirectory()
        self.engine = make_engine(Path(self.folder.name), max_sessions=6)
        self.all = []

    def call(self, life, function, *arguments, **options):
        """The result; None where a typed error with a remedy forbids the call."""
        try:
            return function(*arguments, **options)
        except StreamCharError as error:
            assert error.hint and str(error), repr(error)
            assert life.closed or not isinstance(error, SessionClosedError)
            return None

    def adopt(self, session, pts=0):
        if session is None:
            return multiple()
        self.all.append(Life(session, pts))
        return self.all[-1]

    @rule(target=lives, seed=st.integers(0, 9), idle=st.sampled_from(["generate", "hold", "stop"]),
          limit=st.sampled_from([20, 500]), lead=st.sampled_from([0.0, 1.0, 5.0]))
    def open(self, seed, idle, limit, lead):
        nobody = Life(None)
        return self.adopt(self.call(nobody, self.engine.session, "dot", seed=seed, idle=idle, max_pending_text=limit,
                                    max_lead=lead, steps=1))

    @rule(life=lives, text=texts | anything)
    def push(self, life, text):
        before = life.session.pending_text
        self.call(life, life.session.push_text, text)
        after = life.session.pending_text
        if not life.closed:
            assert after == before or isinstance(text, str) and after == before + text

    @rule(life=lives, text=texts | anything)
    def say(self, life, text):
        self.call(life, life.session.say, text)

    @rule(life=lives, pieces=st.lists(texts, max_size=8) | anything)
    def push_stream(self, life, pieces):
        try:
            self.call(life, life.session.push_stream, pieces)
        except TypeError:
            assert not isinstance(pieces, (list, str))  # what cannot be iterated is Python's own to name

    @rule(life=lives, name=st.sampled_from(["flush", "end_turn", "listen", "rest", "pause", "resume", "stats"]))
    def plain(self, life, name):
        self.call(life, getattr(life.session, name))

    @rule(life=lives, name=st.sampled_from(["happy", "wave"]) | anything, strength=numbers, duration=numbers)
    def cue(self, life, name, strength, duration):
        self.call(life, life.session.cue, name, strength=strength, duration=duration)

    @rule(life=lives, heard=st.none() | st.integers(0, 30 * CHUNK) | anything)
    def interrupt(self, life, heard):
        receipt = self.call(life, life.session.interrupt, heard)
        if receipt is not None:
            assert 0 <= receipt.cut_pts <= life.pts and not life.session.pending_text
            life.pts = receipt.cut_pts

    @rule(life=lives, seed=st.none() | st.integers(0, 9) | anything)
    def reset(self, life, seed):
        self.call(life, life.session.reset, seed=seed)

    @rule(life=lives, pts=st.integers(0, 30 * CHUNK) | anything)
    def report(self, life, pts):
        self.call(life, life.session.report_playback, pts)

    @rule(life=lives, times=st.integers(1, 4))
    def step(self, life, times):
        for _ in range(times):
            self.take(life, self.call(life, life.session.step))

    @rule()
    def step_all(self):
        for session, chunk in self.engine.step():
            self.take(next(life for life in self.all if life.session is session), chunk)

    def take(self, life, chunk):
        if chunk is None:
            return
        assert chunk.pts == life.pts and chunk.audio.shape == (CHUNK,) and chunk.video.shape == (16, 64, 64, 4)
        assert all(chunk.pts <= word.begin_pts < chunk.pts + CHUNK for word in chunk.words)
        life.pts += CHUNK

    @rule(target=snapshots, life=lives, through_bytes=st.booleans())
    def snapshot(self, life, through_bytes):
        snapshot = self.call(life, life.session.snapshot)
        if snapshot is None:
            return multiple()
        return Snapshot.from_bytes(snapshot.to_bytes()) if through_bytes else snapshot

    @rule(life=lives, snapshot=snapshots | anything)
    def restore(self, life, snapshot):
        self.call(life, life.session.restore, snapshot)

    @rule(first=lives, second=lives, snapshot=snapshots)
    def restored_twins(self, first, second, snapshot):
        """Whatever was before, one snapshot in two sessions of one configuration goes on alike."""
        if first.closed or second.closed or first is second or first.session.config.idle != second.session.config.idle:
            return
        runs = []
        for life in (first, second):
            self.call(life, life.session.resume)
            self.call(life, life.session.restore, snapshot)
            chunks = [self.call(life, life.session.step) for _ in range(2)]
            for chunk in chunks:
                self.take(life, chunk)
            runs.append([None if chunk is None else content([chunk]) for chunk in chunks])
        assert runs[0] == runs[1]

    @rule(target=lives, life=lives, seed=st.none() | st.integers(0, 9) | anything)
    def fork(self, life, seed):
        return self.adopt(self.call(life, life.session.fork, seed=seed), life.pts)

    @rule(life=consumes(lives))
    def close(self, life):
        life.closed = True
        life.session.close()
        life.session.close()
        self.call(life, life.session.step)
        self.call(life, life.session.push_text, "late")
        self.call(life, life.session.snapshot)
        assert "closed" in repr(life.session)

    @invariant()
    def sound(self):
        for life in getattr(self, "all", ()):
            if not life.closed:
                assert isinstance(life.session.mode, Mode) and isinstance(life.session.pending_text, str)

    def teardown(self):
        if hasattr(self, "engine"):
            self.engine.close()
            self.folder.cleanup()


Sessions.TestCase.settings = settings(
    max_examples=int(os.environ.get("STREAMCHAR_FUZZ", 12)), stateful_step_count=40, deadline=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
TestSessions = Sessions.TestCase
