"""Background sessions that want the machine at the same moment: one company, the same bytes, each its own errors."""
from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from streamchar_rt import gathering as gathering_module
from streamchar_rt.batch_step import MOST
from streamchar_rt.gathering import Gathering, Request
from streamchar_rt.journal import replay
from tests import stand_in
from tests.stand_in import make_engine
from tests.test_background import until
from tests.test_interrupt import random_text
from tests.test_journal import content


@pytest.fixture
def engine(tmp_path, monkeypatch):
    """Members of a company are always waited for: who forgets to say that it leaves hangs."""
    monkeypatch.setattr(gathering_module, "_LINGER", 1e6)
    before = threading.active_count()
    with make_engine(tmp_path, max_sessions=64, slots_per_session=3) as engine:
        yield engine
    until(lambda: threading.active_count() == before)


@pytest.fixture
def companies(engine, monkeypatch):
    """How many went together, each time."""
    found, together, alone = [], engine.generate_together, engine.generate
    monkeypatch.setattr(
        engine, "generate_together", lambda states, *rest: found.append(len(states)) or together(states, *rest)
    )
    monkeypatch.setattr(engine, "generate", lambda *rest: found.append(1) or alone(*rest))
    return found


def background(engine, count, **options):
    return [engine.session("dot", seed=i, threading="background", idle="stop", **options) for i in range(count)]


def gather(engine, sessions, texts):
    """Gives all sessions their text while the machine is held, so that they wait for it together, in this order."""
    with engine.computing():
        for count, (session, text) in enumerate(zip(sessions, texts), 1):
            session.say(text)
            until(lambda: len(engine.gathering._waiting) == count)


def alone(engine, count, texts):
    """The truth: content of all chunks of such sessions, stepped by hand one after another."""
    found = []
    for i, text in zip(range(count), texts):
        with engine.session("dot", seed=i) as session:
            session.say(text)
            found.append([content(chunk) for chunk in session.turn()])
    return found


def test_the_same_bytes_in_company(engine, companies, rng):
    texts = [random_text(rng, 12) for _ in range(3)]
    truth = alone(engine, 3, texts)
    companies.clear()
    sessions = background(engine, 3)
    gather(engine, sessions, texts)
    until(lambda: all(len(session._live.ring) == min(3, len(own)) for session, own in zip(sessions, truth)))
    shortest = min(3, *map(len, truth))
    assert companies[:shortest] == [3] * shortest, "who comes back is waited for"
    assert [[content(chunk) for chunk in session.turn()] for session in sessions] == truth


def test_many_calls_of_sessions_in_company_can_be_replayed_alone(engine, rng):
    """Interrupts, resets and text at any moment, among sessions that go together."""
    entries = [[] for _ in range(4)]
    sessions = [
        engine.session("dot", seed=i, threading="background", record=entries[i].append, idle="stop") for i in range(4)
    ]
    draws = [int(seed) for seed in rng.integers(0, 2**31, 4)]

    def live(session, seed):
        draw = np.random.default_rng(seed)
        for _ in range(12):
            call = int(draw.integers(5))
            if call == 0:
                session.interrupt()
            elif call == 1:
                session.reset(seed=int(draw.integers(9)))
            else:
                session.say(random_text(draw, 4))
            for _ in range(int(draw.integers(3))):
                session.step(timeout=0.01)

    threads = [threading.Thread(target=live, args=pair) for pair in zip(sessions, draws)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for session in sessions:
        session.close()
    for i, own in enumerate(entries):
        recorded = [entry["digest"] for entry in own if entry["do"] == "chunk" and entry["steps"]]
        again = []
        with engine.session("dot", seed=i, idle="stop", record=again.append) as session:
            for _ in replay(session, own):
                pass
        assert [entry["digest"] for entry in again if entry["do"] == "chunk" and entry["steps"]] == recorded


@pytest.mark.parametrize("call", ["interrupt", "close", "reset"])
def test_who_is_stopped_can_go_while_its_company_goes_on(engine, companies, monkeypatch, call):
    texts = ["hello there my friend. " * 3, "one two five dollars. " * 3]
    truth = alone(engine, 2, texts)
    companies.clear()
    first, second = background(engine, 2)
    stopper, returned = threading.Thread(target=getattr(first, call)), []

    def stop(step):
        if companies[-1] == 2 and not returned:
            if stopper.ident is None:
                epoch = first._live.epoch
                stopper.start()
                until(lambda: first._live.epoch != epoch)
            else:  # the first one has been asked again
                stopper.join(30)
                returned.append(not stopper.is_alive())

    # The first one is stopped in its own step or while the second one is computed.
    monkeypatch.setattr(stand_in, "denoise_step", stop)
    gather(engine, [first, second], texts)
    assert [content(chunk) for chunk in second.turn()] == truth[1]
    assert returned == [True]
    if call == "close":
        until(lambda: not first._worker._thread.is_alive())
    else:
        first.say("good morning")
        assert any(word.text == "morning" for chunk in first.turn() for word in chunk.words)


def test_who_waits_can_be_closed_while_the_machine_is_taken(engine):
    sessions = background(engine, 3)
    with engine.computing():
        for session in sessions:
            session.say("hello there")
        until(lambda: len(engine.gathering._waiting) == 3)
        led = next(session for session in sessions if session._producer is engine.gathering._waiting[0].maker)
        for session in sessions:
            if session is not led:
                session.close()
                until(lambda: not session._worker._thread.is_alive())
    assert led.step().index == 0


def test_closing_never_waits_for_the_queue(engine):
    """The garbage collector may close a forgotten session anywhere, also in a thread that has the queue locked."""
    (session,) = background(engine, 1)
    session.say("hello there")
    with engine.gathering._gate:
        closer = threading.Thread(target=session._live.close, daemon=True)
        closer.start()
        closer.join(30)
        assert not closer.is_alive()


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_an_error_reaches_its_own_session_only(engine, monkeypatch, bad):
    texts = ["hello there my friend.", "one two five dollars.", "the cat sat."]
    truth = alone(engine, 3, texts)
    original = stand_in.generate_chunk

    def fail(models, state, *args, **kwargs):
        if state.seed == bad:
            raise MemoryError("too large")
        return original(models, state, *args, **kwargs)

    monkeypatch.setattr(stand_in, "generate_chunk", fail)
    monkeypatch.setattr(stand_in.pipeline, "generate_chunk", fail)
    sessions = background(engine, 3)
    gather(engine, sessions, texts)
    for i, session in enumerate(sessions):
        if i == bad:
            with pytest.raises(MemoryError, match="too large"):
                session.step()
        else:
            assert [content(chunk) for chunk in session.turn()] == truth[i]
    monkeypatch.undo()
    monkeypatch.setattr(gathering_module, "_LINGER", 1e6)
    with contextlib.suppress(MemoryError):
        sessions[bad].step()  # of a try that had begun
    assert [content(chunk)[0] for chunk in sessions[bad].turn()]


def test_pause_close_and_silence_keep_nobody_waiting(engine):
    sessions = background(engine, 5)
    gather(engine, sessions, ["hello there my friend " * 20] * 5)
    sessions[0].step()
    sessions[1].pause()
    sessions[2].close()
    sessions[3].interrupt()
    for _ in range(20):
        assert sessions[4].step(timeout=60) is not None
    sessions[1].resume()
    assert sessions[1].step(timeout=60) is not None


# ------------------------------------------------------------------ order, without sessions
class Machine:
    """In place of an engine: notes the companies, by the jobs' numbers."""

    def __init__(self, chunk_seconds=1.0):
        self.lock, self.companies, self.info = threading.Lock(), [], SimpleNamespace(chunk_seconds=chunk_seconds)

    @contextlib.contextmanager
    def computing(self):
        with self.lock:
            yield

    def generate(self, state, style, steps, should_stop):
        return self.generate_together([state], [style], steps, [should_stop])[0]

    def generate_together(self, states, styles, steps, should_stop):
        self.companies.append([state.number for state in states])
        return [state.number for state in states]


class State(SimpleNamespace):
    def clone(self):
        return self


class Maker:
    """Wants one job done; the number of the job is its result."""

    def __init__(self, number, steps=4):
        self.job = SimpleNamespace(stream=SimpleNamespace(state=State(number=number)), style=(0, 0, 0), steps=steps)

    def is_void(self, job):
        return False

    def start(self, job):
        return True

    def stopper(self, job, *, alone):
        return lambda: False


def run(makers, ahead, chunk_seconds=1.0):
    """The companies in which jobs go that all wait when the machine gets free; ``ahead``: seconds of each."""
    machine = Machine(chunk_seconds)
    gathering, results = Gathering(machine), {}

    def ask(i):
        results[i] = gathering.generate(Request(makers[i], makers[i].job, ahead[i], False))
        gathering.leave(makers[i])

    threads = [threading.Thread(target=ask, args=(i,)) for i in range(len(makers))]
    with machine.computing():
        for thread in threads:
            thread.start()
        until(lambda: len(gathering._waiting) == len(makers))
    for thread in threads:
        thread.join()
    assert results == {i: i for i in range(len(makers))}
    return machine.companies


def test_who_runs_out_first_goes_first(rng):
    count = MOST + int(rng.integers(1, MOST + 1))
    ahead = rng.random(count).tolist()
    first, second = run([Maker(i) for i in range(count)], ahead)
    order = sorted(range(count), key=ahead.__getitem__)
    assert first == order[:MOST] and second == order[MOST:]


def test_who_has_much_ahead_does_not_make_others_late():
    ahead = [5.0, 0.1, 3.0, 0.3]
    assert run([Maker(i) for i in range(4)], ahead, chunk_seconds=0.5) == [[1, 3], [2], [0]]
    request = Request(Maker(0), Maker(0).job, 3.0, True)
    assert request.ahead(request._since + 2.0) == 1.0, "what is played gets less"


def test_jobs_of_other_steps_go_by_themselves_and_are_not_passed_over_twice(rng):
    count = 2 * MOST
    steps = rng.choice([1, 2, 4], count).tolist()
    ahead = rng.random(count).tolist()
    companies = run([Maker(i, steps[i]) for i in range(count)], ahead)
    assert sorted(i for company in companies for i in company) == list(range(count))
    for company in companies:
        assert len({steps[i] for i in company}) == 1 and len(company) <= MOST
    assert companies[0][0] == min(range(count), key=ahead.__getitem__)
    assert len(companies) <= 5  # every number of steps once, and one more for each full company


def test_a_closed_machine_fails_all_who_wait():
    machine = Machine()
    machine.computing = contextlib.contextmanager(lambda: (_ for _ in ()).throw(RuntimeError("closed")))
    gathering = Gathering(machine)
    for number in range(3):
        with pytest.raises(RuntimeError, match="closed"):
            gathering.generate(Request(Maker(number), Maker(number).job, 0.0, False))
    assert not gathering._waiting and not gathering._led
