"""Turns, words and modes: the session's state machine over a stand-in model with a known pace."""
from __future__ import annotations

import numpy as np
import pytest

from streamchar_rt import ConfigError, DeviceMemoryError, Mode, SessionClosedError, StateError
from tests.stand_in import PHONE_LENGTH, WORDS, make_engine

STEP = 320  # samples of a half-frame
LEAD = 1280  # samples by which the audio's plan leads the clock
CHUNK = 10240


@pytest.fixture
def engine(tmp_path):
    with make_engine(tmp_path) as engine:
        yield engine


@pytest.fixture
def session(engine):
    with engine.session("dot", seed=1) as session:
        yield session


def record(session):
    events = []
    session.on_event(lambda name, details: events.append((name, dict(details))))
    return events


def words_of(chunks):
    return [word for chunk in chunks for word in chunk.words]


def random_text(rng, count):
    words = [str(rng.choice(sorted(WORDS))) for _ in range(count)]
    marks = [str(rng.choice(["", "", "", ",", ".", "!"])) for _ in words]
    return " ".join(word + mark for word, mark in zip(words, marks))


def test_words_have_the_times_of_their_phones(session):
    session.say("Hello there")
    words = words_of(session.turn())
    hello, there = len(WORDS["hello"].split()), len(WORDS["there"].split())
    assert [(w.text, w.text_offset) for w in words] == [("Hello", 0), ("there", 6)]
    assert words[0].begin_pts == LEAD
    assert words[0].end_pts == words[1].begin_pts == LEAD + hello * PHONE_LENGTH * STEP
    assert words[1].end_pts == pytest.approx(LEAD + (hello + there) * PHONE_LENGTH * STEP, abs=2 * STEP)


@pytest.mark.parametrize("markup", ["tags", "none"])
def test_no_word_is_lost_or_repeated_however_text_arrives(engine, rng, markup):
    for _ in range(20):
        text = random_text(rng, int(rng.integers(1, 60)))
        cuts = np.sort(rng.integers(0, len(text) + 1, int(rng.integers(0, 12))))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)])]
        chunks = []
        with engine.session("dot", markup=markup) as session:
            for piece in pieces:
                session.push_text(piece)
                if rng.random() < 0.2:
                    session.flush()
                chunks += [session.step() for _ in range(int(rng.integers(0, 4)))]
            flushed_words = sum(len(chunk.words) for chunk in chunks)
            session.end_turn()
            chunks += session.turn()
            assert session.pending_text == ""
        spoken = "".join(word.text for word in words_of(chunks))
        assert spoken == "".join(c for c in text if c.isalpha()), (pieces, flushed_words)
        for word in words_of(chunks):
            assert text[word.text_offset : word.text_offset + len(word.text)] == word.text
        check_clock(chunks)


def check_clock(chunks):
    for i, chunk in enumerate(chunks):
        begin, end = chunk.pts, chunk.pts + CHUNK
        assert (chunk.index, begin) == (chunks[0].index + i, chunks[0].pts + i * CHUNK)
        assert chunk.audio.shape == (CHUNK,) and chunk.audio.dtype == np.float32
        assert chunk.video.shape[0] == 16 and chunk.video.dtype == np.uint8
        assert chunk.duration == 0.64
        assert all(begin <= word.begin_pts < end and word.begin_pts < word.end_pts for word in chunk.words)
        edges = [begin] + [viseme.end_pts for viseme in chunk.visemes]
        assert [viseme.begin_pts for viseme in chunk.visemes] == edges[:-1] and edges[-1] == end
        assert all(0 <= viseme.id < 15 and 0 <= viseme.weight <= 1 for viseme in chunk.visemes)
    begins = [word.begin_pts for word in words_of(chunks)]
    assert begins == sorted(begins)


def test_a_turn_ends_once_and_after_its_last_word(session, rng):
    for turn in range(1, 6):
        text = random_text(rng, int(rng.integers(1, 12)))
        events = record(session)
        assert session.say(text) == turn
        chunks = list(session.turn())
        assert [chunk.end_of_turn for chunk in chunks] == [False] * (len(chunks) - 1) + [True]
        assert {chunk.turn_id for chunk in chunks} == {turn}
        started, ended = [e for e in events if e[0].startswith("turn_") and e[1]["turn_id"] == turn]
        assert (started[0], ended[0]) == ("turn_started", "turn_ended")
        assert started[1]["pts"] == words_of(chunks)[0].begin_pts
        assert words_of(chunks)[-1].begin_pts < ended[1]["pts"] < chunks[-1].pts + CHUNK
        assert ended[1]["pts"] >= chunks[-1].pts
        assert list(session.turn()) == []


def test_turns_that_wait_follow_one_another(session):
    first, second = session.say("one two"), session.say("good morning")
    one, two = list(session.turn()), list(session.turn())
    assert [word.text for word in words_of(one)] == ["one", "two"]
    assert [(word.text, word.text_offset) for word in words_of(two)] == [("good", 0), ("morning", 5)]
    assert {c.turn_id for c in one} == {first} and {c.turn_id for c in two} == {second}


@pytest.mark.parametrize("text", ["", "   ", "🙂🎉", "\x00\x07\u200b", "Привет", "..."])
def test_a_turn_without_words_ends_at_once(session, text):
    events = record(session)
    turn = session.say(text)
    (chunk,) = session.turn()
    assert chunk.end_of_turn and chunk.turn_id == turn and chunk.words == () and chunk.mode is Mode.IDLE
    assert [name for name, _ in events if name != "warning"] == ["turn_started", "turn_ended"]
    session.say("one")
    assert [word.text for word in words_of(session.turn())] == ["one"]


def test_a_number_is_one_word_however_it_is_spoken(session):
    session.say("my $5, friend")
    words = words_of(session.turn())
    assert [(w.text, w.text_offset) for w in words] == [("my", 0), ("$5", 3), ("friend", 7)]
    units = len((WORDS["five"] + " " + WORDS["dollars"]).split())
    assert words[2].begin_pts - words[1].begin_pts >= units * PHONE_LENGTH * STEP


def test_modes(session):
    assert session.mode is Mode.IDLE and session.step().mode is Mode.IDLE
    session.listen()
    assert session.mode is Mode.LISTENING and session.step().mode is Mode.LISTENING
    session.say("hello there")
    assert session.mode is Mode.SPEAKING
    assert next(session.turn()).mode is Mode.SPEAKING
    list(session.turn())
    assert session.mode is Mode.LISTENING and session.step().mode is Mode.LISTENING
    session.rest()
    assert session.step().mode is Mode.IDLE


def test_rest_is_silent_mouth(session):
    chunk = session.step()
    assert [(v.id, v.begin_pts, v.end_pts) for v in chunk.visemes] == [(0, 0, CHUNK)]
    assert (chunk.turn_id, chunk.words) == (0, ())


def test_an_unfinished_word_waits_and_flush_speaks_it(session):
    session.push_text("hello the")
    for _ in range(5):
        session.step()
    assert session.pending_text == " the"
    session.push_text("re")
    session.flush()
    chunks = [session.step() for _ in range(3)]
    assert [word.text for word in words_of(chunks)] == ["there"]


def test_speech_goes_on_after_running_dry(session):
    session.push_text("hello there ")
    dry = [session.step() for _ in range(6)]
    assert dry[-1].mode is Mode.IDLE and not any(chunk.end_of_turn for chunk in dry)
    session.push_text("my friend")
    session.end_turn()
    chunks = [*dry, *session.turn()]
    assert [word.text for word in words_of(chunks)] == ["hello", "there", "my", "friend"]
    assert [word.text_offset for word in words_of(chunks)] == [0, 6, 12, 15]
    check_clock(chunks)


def test_text_that_comes_in_time_leaves_no_gap(session):
    def gaps(chunks):
        words = words_of(chunks)
        return [b.begin_pts - a.begin_pts - len(WORDS[a.text].split()) * PHONE_LENGTH * STEP for a, b in zip(words, words[1:])]

    text = "one two one two one two one two one two"
    for word in text.split():
        session.push_text(word + " ")
        session.push_text("")
    first = [session.step()]
    for _ in range(3):
        session.push_text("one two ")
        first.append(session.step())
    session.end_turn()
    assert set(gaps([*first, *session.turn()])) == {0}


def test_pause_tag_is_heard(engine, rng):
    def gap(text):
        with engine.session("dot") as session:
            session.say(text)
            one, two = words_of(session.turn())
            return two.begin_pts - one.begin_pts

    plain = gap("one two")
    assert gap("one [pause 0] two") == plain
    for seconds in (0.01, 0.62, 0.64, 2.0, *rng.uniform(0.02, 0.7, 12), *rng.uniform(0.7, 5.0, 6)):
        exact = STEP * -(-round(16000 * seconds) // STEP)
        assert gap(f"one [pause {seconds}] two") - plain == exact, seconds
        assert gap(f"one [pause {seconds}][happy] two") - plain == exact, seconds
    for some in (0.1, 0.2, 0.3), (0.5, 0.5), (0.3, 2.0), (2.0, 0.3), (1.0, 1.0):  # pauses one after another are one
        assert gap("one" + "".join(f" [pause {seconds}]" for seconds in some) + " two") - plain == round(16000 * sum(some)), some


def test_every_pause_of_a_text_is_exact(engine, rng):
    for _ in range(10):
        seconds = rng.uniform(0.02, 1.5, 8)
        text = " ".join(f"one [pause {s}]" for s in seconds) + " two"
        with engine.session("dot") as session:
            for piece in text.partition(str(rng.choice(["]", "w", " t"]))):  # the rest comes while there is time
                session.push_text(piece)
            session.end_turn()
            begins = [word.begin_pts for word in words_of(session.turn())]
        spoken = STEP * 3 * PHONE_LENGTH
        assert [b - a - spoken for a, b in zip(begins, begins[1:])] == [STEP * -(-round(16000 * s) // STEP) for s in seconds]


def test_a_cut_ends_a_pause(engine, rng):
    with engine.session("dot") as session:
        session.say("one [pause 0.6] two")
        session.step()
        session.interrupt()
        session.say("two")
        assert words_of(session.turn())[0].begin_pts - session._live.stream.pts % CHUNK < 3 * CHUNK
        assert not session._live.stream.state.holds


def test_cues_come_back_with_their_time_and_show(session):
    events = record(session)
    session.say("hello there [happy] my friend [sad 0.2] one two [wave] good")
    words = {word.text: word for word in words_of(session.turn())}
    cues = {d["name"]: d for name, d in events if name == "cue"}
    assert cues["happy"]["pts"] == words["my"].begin_pts
    assert cues["wave"]["pts"] == words["good"].begin_pts
    assert cues["sad"]["strength"] == 0.2
    assert [d["name"] for name, d in events if name == "warning"] == ["wave"]
    styles = [style.emotion for style in session._live.stream.state.styles]
    assert styles[0] == 0 and 1 in styles and styles[-1] == 0


def test_cue_calls(session):
    events = record(session)
    session.cue("happy", duration=1.0)
    session.cue("marker")
    chunks = [session.step() for _ in range(3)]
    assert [style.emotion for style in session._live.stream.state.styles] == [1, 1, 0]
    assert [d["pts"] for name, d in events if name == "cue"] == [chunks[0].pts] * 2
    session.push_text("one two ")
    session.cue("later")
    session.push_text("good morning")
    session.end_turn()
    words = {word.text: word for word in words_of(session.turn())}
    later = next(d for name, d in events if name == "cue" and d["name"] == "later")
    assert later["pts"] == words["good"].begin_pts and later["text_offset"] == 8
    with pytest.raises(ConfigError):
        session.cue(" ")
    for strength in (-0.1, 1.5, float("nan"), "loud"):
        with pytest.raises(ConfigError):
            session.cue("happy", strength=strength)


def test_tags_are_text_without_markup(engine):
    with engine.session("dot", markup="none") as session:
        session.say("one [happy] two")
        assert [word.text for word in words_of(session.turn())] == ["one", "happy", "two"]


def test_too_much_text_is_refused_and_nothing_lost(engine):
    with engine.session("dot", max_pending_text=20) as session:
        session.push_text("one two one ")
        with pytest.raises(StateError, match="max_pending_text"):
            session.push_text("two one two")
        assert session.pending_text == "one two one "
        session.push_text("two five")
        session.end_turn()
        assert [word.text for word in words_of(session.turn())] == ["one", "two", "one", "two", "five"]
        session.push_text("x" * 20)


def test_long_streams_are_drawn_as_they_are_spoken(engine):
    drawn = 0

    def source():
        nonlocal drawn
        for _ in range(200):
            drawn += 1
            yield "good morning my friend "

    with engine.session("dot", max_pending_text=100) as session:
        assert session.push_stream(source()) == 100
        early = drawn
        session.end_turn()
        chunks = []
        for chunk in session.turn():
            chunks.append(chunk)
            assert len(session.pending_text) <= 100 + 256 + len("good morning my friend ")
    assert early <= 5 and drawn == 200
    assert [word.text for word in words_of(chunks)] == "good morning my friend".split() * 200
    assert words_of(chunks)[-1].text_offset == 200 * 23 - 7


def test_push_stream_takes_short_streams_whole(session):
    assert session.push_stream(iter(["hel", "lo ", "", "there"])) == 11
    session.end_turn()
    assert [word.text for word in words_of(session.turn())] == ["hello", "there"]
    with pytest.raises(ConfigError):
        session.push_stream(["one", 2])


def test_a_failing_stream_does_not_harm_the_session(engine):
    def source():
        yield "one two " * 10
        raise RuntimeError("the writer has gone")

    with engine.session("dot", max_pending_text=40) as session:
        session.push_stream(source())
        session.end_turn()
        chunks, failures = [], 0
        while not (chunks and chunks[-1].end_of_turn):
            try:
                chunks.append(session.step())
            except RuntimeError:
                failures += 1
        assert failures == 1
        assert [word.text for word in words_of(chunks)] == ["one", "two"] * 10


def test_idle_policies(engine):
    with engine.session("dot", idle="stop") as session:
        assert session.step() is None and list(session) == []
        session.say("one")
        chunks = list(session)
        assert chunks[-1].end_of_turn and session.step() is None
    with engine.session("dot", idle="hold") as session:
        before = session.step()
        assert not before.audio.any() and (before.video == before.video[0]).all()
        session.say("one")
        chunks = list(session.turn())
        held = session.step()
        assert (held.video == chunks[-1].video[-1]).all() and not held.audio.any()
        assert held.pts == chunks[-1].pts + CHUNK and held.timings.denoise_steps == 0


def test_pause_and_resume(session):
    session.say("one two")
    session.pause()
    assert session.step() is None and list(session.turn()) == []
    session.resume()
    assert [word.text for word in words_of(session.turn())] == ["one", "two"]


def test_playback_reports(session):
    session.step()
    session.report_playback(5000)
    assert session.stats()["lead_seconds"] == pytest.approx((CHUNK - 5000) / 16000)
    for wrong in (-1, CHUNK + 1, 0.5, True, None):
        with pytest.raises(ConfigError):
            session.report_playback(wrong)


def test_a_failing_callback_is_logged_and_others_hear(session, caplog):
    session.on_event(lambda name, details: 1 / 0)
    events = record(session)
    session.say("one")
    list(session.turn())
    assert [name for name, _ in events] == ["turn_started", "turn_ended"]
    assert "ZeroDivisionError" in caplog.text


def test_callbacks_can_be_taken_back_and_may_call_the_session(session):
    heard = []
    stop = session.on_event(lambda name, details: heard.append(name))
    session.on_event(lambda name, details: session.push_text("two") if name == "turn_ended" else None)
    session.say("one")
    list(session.turn())
    stop()
    session.end_turn()
    assert [word.text for word in words_of(session.turn())] == ["two"]
    assert heard == ["turn_started", "turn_ended"]


def test_closed_sessions_and_engines_say_so(engine):
    session = engine.session("dot")
    session.close()
    session.close()
    for call in (
        lambda: session.push_text("x"), session.step, session.flush, session.end_turn, lambda: session.say("x"),
        session.listen, session.rest, session.reset, session.pause, lambda: session.cue("happy"), session.snapshot,
    ):  # fmt: skip
        with pytest.raises(SessionClosedError):
            call()
    assert list(session) == []
    other = engine.session("dot")
    engine.close()
    engine.close()
    with pytest.raises(SessionClosedError):
        other.step()
    with pytest.raises(StateError):
        engine.session("dot")


def test_session_limit(tmp_path):
    with make_engine(tmp_path, max_sessions=1) as engine:
        session = engine.session("dot")
        with pytest.raises(DeviceMemoryError, match="1 of 1") as caught:
            engine.session("square")
        plan = engine.bundle.memory_plan(sessions=1, element_bytes=4)
        assert (caught.value.required_bytes, caught.value.available_bytes) == (plan["total"] + plan["session"], plan["total"])
        session.close()
        engine.session("square")
