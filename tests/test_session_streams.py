"""Streams as wholes: repeatable bytes, reset, snapshot, fork, consumers and formats, over the stand-in model."""
from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from streamchar_rt import ConfigError, StateError, UnsupportedError
from streamchar_rt.pixels import BACKGROUND
from tests import stand_in
from tests.stand_in import make_engine


@pytest.fixture
def engine(tmp_path):
    with make_engine(tmp_path) as engine:
        yield engine


def content(chunks):
    """What must repeat, without times of the session's clock."""
    return [
        (
            c.audio.tobytes(), c.video.tobytes(), c.mode, c.end_of_turn,
            [(w.text, w.text_offset, w.begin_pts - c.pts, w.end_pts - c.pts) for w in c.words],
            [(v.id, v.begin_pts - c.pts) for v in c.visemes],
        )
        for c in chunks
    ]  # fmt: skip


def script(session):
    session.push_text("Hello there, my fr")
    chunks = [session.step(), session.step()]
    session.push_text("iend. [happy] One two five ")
    session.listen()
    chunks.append(session.step())
    session.end_turn()
    chunks += session.turn()
    session.rest()
    return [*chunks, session.step()]


def test_same_seed_same_bytes(engine):
    runs = []
    for seed in (7, 7, 8):
        with engine.session("dot", seed=seed) as session:
            runs.append(content(script(session)))
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


def test_other_sessions_do_not_disturb(engine):
    with engine.session("dot", seed=7) as alone:
        truth = content(script(alone))
    with engine.session("dot", seed=7) as session, engine.session("square", seed=9) as other:
        other.say("good morning")
        original = session.step

        def step():
            other.step()
            return original()

        session.step = step
        assert content(script(session)) == truth


def test_reset_begins_anew_on_the_same_clock(engine):
    with engine.session("dot", seed=7) as session:
        truth = script(session)
        session.say("this is never heard")
        session.step()
        session.reset()
        assert session.pending_text == ""
        again = script(session)
        assert content(again) == content(truth)
        assert again[0].discontinuity and not again[1].discontinuity and not truth[0].discontinuity
        assert again[0].pts == truth[-1].pts + 2 * 10240 and again[0].index == truth[-1].index + 2
        assert again[0].turn_id == 3
        session.reset(seed=8)
        assert content(script(session)) != content(truth)


def test_snapshot_goes_back_any_number_of_times(engine):
    with engine.session("dot", seed=7) as session:
        session.push_text("Hello there, my friend. One two fi")
        session.step()
        snapshot = session.snapshot()
        assert snapshot.nbytes > 0

        def rest():
            session.push_text("ve dollars")
            session.end_turn()
            return list(session.turn())

        truth = rest()
        for _ in range(2):
            session.restore(snapshot)
            again = rest()
            assert content(again) == content(truth)
            assert again[0].discontinuity and again[0].turn_id == 1
    with engine.session("square") as other, pytest.raises(ConfigError):
        other.restore(snapshot)


def test_a_fork_goes_on_alone(engine):
    with engine.session("dot", seed=7) as session:
        session.push_text("Hello there, my friend. One two fi")
        first = session.step()
        with session.fork() as child, session.fork(seed=99) as stranger:
            ends = []
            for one in (child, session, stranger):
                one.push_text("ve dollars")
                one.end_turn()
                ends.append(list(one.turn()))
            assert content(ends[0]) == content(ends[1]) != content(ends[2])
            assert ends[0][0].pts == first.pts + 10240 and ends[0][0].index == 1


def test_what_cannot_be_copied_is_refused(engine):
    with engine.session("dot", max_pending_text=10) as session:
        session.push_stream(["one two "] * 30)
        with pytest.raises(StateError, match="push_stream"):
            session.snapshot()


def test_one_consumer(engine, monkeypatch):
    entered, leave = threading.Event(), threading.Event()
    original = stand_in.pipeline.generate_chunk

    def slow(*args, **kwargs):
        entered.set()
        assert leave.wait(30)
        return original(*args, **kwargs)

    monkeypatch.setattr(stand_in.pipeline, "generate_chunk", slow)
    with engine.session("dot") as session:
        chunks = []
        thread = threading.Thread(target=lambda: chunks.append(session.step()))
        thread.start()
        assert entered.wait(30)
        with pytest.raises(StateError, match="consumer"):
            session.step()
        session.push_text("one two")  # input does not wait for the chunk
        session.end_turn()
        session.listen()
        session.cue("happy")
        leave.set()
        thread.join()
        assert chunks[0].index == 0
        assert [word.text for chunk in session.turn() for word in chunk.words] == ["one", "two"]


def test_async_iteration(engine):
    async def main():
        with engine.session("dot") as session:
            session.say("one two")
            words = []
            async for chunk in session:
                words += [word.text for word in chunk.words]
                if chunk.end_of_turn:
                    session.close()
            return words

    assert asyncio.run(main()) == ["one", "two"]


def test_iteration_ends_when_the_session_is_closed(engine):
    session = engine.session("dot")
    for count, _ in enumerate(session, 1):
        if count == 3:
            session.close()
    assert count == 3


def test_pixel_formats(engine, rng):
    chunks = {}
    for name in ("rgba", "bgra", "rgb"):
        with engine.session("dot", seed=4, pixel_format=name) as session:
            chunks[name] = session.step().video
    rgba = chunks["rgba"].astype(float)
    np.testing.assert_array_equal(chunks["bgra"][..., [2, 1, 0, 3]], chunks["rgba"])
    alpha = rgba[..., 3:] / 255
    truth = rgba[..., :3] * alpha + np.array(BACKGROUND) * (1 - alpha)
    assert chunks["rgb"].shape[-1] == 3
    assert np.abs(chunks["rgb"] - truth).max() <= 0.5 + 1e-9


def test_chunks_give_frames_dlpack_and_copies(engine):
    with engine.session("dot") as session:
        session.step()
        chunk = session.step()
    frames = list(chunk.frames())
    assert [frame.pts for frame in frames] == [10240 + 640 * i for i in range(16)]
    assert all(frame.pixels is not None and np.shares_memory(frame.pixels, chunk.video) for frame in frames)
    audio, video = torch.from_dlpack(chunk.audio_dlpack()), torch.from_dlpack(chunk.video_dlpack())
    assert audio.data_ptr() == chunk.audio.ctypes.data and video.shape == chunk.video.shape
    assert np.shares_memory(np.from_dlpack(chunk.audio_dlpack()), chunk.audio)
    copy = chunk.copy()
    assert not np.shares_memory(copy.video, chunk.video) and (copy.video == chunk.video).all()
    chunk.release()
    chunk.release()
    with pytest.raises(StateError, match="released"):
        chunk.video
    assert copy.words == chunk.words and copy.audio.shape == (10240,)


def test_what_comes_later_says_what_to_do(engine):
    with pytest.raises(UnsupportedError, match="host"):
        engine.session("dot", memory="cuda")


def test_torch_threads_and_modes_are_put_back(engine):
    before = torch.get_num_threads(), torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    torch.set_num_threads(2)
    with engine.session("dot") as session:
        session.step()
        assert torch.get_num_threads() == 2
    torch.set_num_threads(before[0])
    assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == before[1:]


def test_warmup_memory_and_trim(engine):
    timings = engine.warmup(sessions=2)
    assert timings.total_ms > 0 and timings.denoise_steps == 2
    plan = engine.memory()
    assert plan["weights"] == 4 * (8 * 4 + 1) and plan["process"] > 0
    assert plan["sessions"] == 0
    with engine.session("dot"):
        assert engine.memory()["sessions"] == engine.session_bytes > 1000
    engine.trim()
    assert engine.character("dot").name == "dot"


def test_torch_is_imported_with_sleeping_threads_and_nothing_else_changes():
    """Beside a busy process a spinning barrier takes many times as long as its work."""
    code = (
        "import os; before = dict(os.environ)\n"
        "from streamchar_rt.threads import import_torch; import_torch()\n"
        "assert os.environ == before\n"
    )
    environment = {k: v for k, v in os.environ.items() if k not in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME")}
    environment["OMP_DISPLAY_ENV"] = "TRUE"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("this OpenMP does not show its settings")
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in done.stderr
