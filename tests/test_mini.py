"""The shipped model end to end: command, session, repeatable bytes, memory."""
from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

from streamchar_rt import Engine, Mode
from streamchar_rt.bundle import MANIFEST, SHIPPED

pytestmark = pytest.mark.skipif(not (SHIPPED / "mini" / MANIFEST).is_file(), reason="the mini model is not in this tree")
SENTENCE = "Hello! I am a streaming character, and I can speak."


@pytest.fixture(scope="module")
def engine():
    with Engine.load("mini", max_sessions=4) as engine:
        yield engine


def words_of(chunks):
    return [word.text for chunk in chunks for word in chunk.words]


def command(*arguments):
    """Runs ``streamchar`` in a process of its own, which ends by printing its peak memory."""
    code = (
        "import sys; from streamchar_rt import cli, machine\n"
        "status = cli.main(); print(machine.peak_bytes()); sys.exit(status)"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=300
    )


def test_say_writes_a_talking_character(tmp_path):
    av = pytest.importorskip("av")
    done = command("say", SENTENCE, "-o", str(tmp_path / "hello.mp4"))
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert 0 < int(done.stdout) < 1.5 * 2**30  # peak memory
    with av.open(str(tmp_path / "hello.mp4")) as container:
        frames = [frame.to_ndarray(format="rgb24").astype(int) for frame in container.decode(video=0)]
    with av.open(str(tmp_path / "hello.mp4")) as container:
        sound = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)])
    assert frames[0].shape == (256, 256, 3)
    assert len(frames) / 25 == pytest.approx(len(sound) / 16000, abs=0.1)
    assert 2.0 < len(sound) / 16000 < 8.0
    assert np.std(sound) > 0.01
    assert max(np.abs(b - a).mean() for a, b in zip(frames, frames[1:])) > 0.1  # it moves


def test_every_word_is_spoken_in_order(engine):
    with engine.session(engine.characters()[0], seed=5) as session:
        session.say(SENTENCE)
        chunks = list(session.turn())
        assert words_of(chunks) == ["Hello", "I", "am", "a", "streaming", "character", "and", "I", "can", "speak"]
        begins = [word.begin_pts for chunk in chunks for word in chunk.words]
        assert begins == sorted(begins) and begins[-1] < chunks[-1].pts + 10240
        assert 3 < len(chunks) < 14
        shapes = {viseme.id for chunk in chunks for viseme in chunk.visemes}
        assert len(shapes) > 5


def test_a_word_alone_among_pauses_is_heard(engine, rng):
    """What was told is there in the sound: the denoiser once drew such words as the silence around them."""
    seed = int(rng.integers(1 << 30))
    with engine.session(engine.characters()[0], seed=seed) as session:
        session.say("One, [pause 0.5] two, [pause 0.5] three.")
        chunks = list(session.turn())
    sound = np.concatenate([chunk.audio for chunk in chunks])
    words = [word for chunk in chunks for word in chunk.words]
    assert [word.text for word in words] == ["One", "two", "three"]
    for word in words:
        loudness = np.sqrt(np.square(sound[word.begin_pts: word.end_pts]).mean())
        assert loudness > 0.03, f"{word}: {loudness:.4f} (seed {seed})"


def test_pauses_last_as_long_as_they_are_told(engine, rng):
    seed, told = int(rng.integers(1 << 30)), rng.uniform(0.05, 1.0, 4)
    with engine.session(engine.characters()[int(rng.integers(8))], seed=seed) as session:
        session.say("This is one" + " ".join(f" [pause {seconds}] and here is another one" for seconds in told))
        chunks = list(session.turn())
    shapes = [viseme for chunk in chunks for viseme in chunk.visemes]
    begins = [word.begin_pts for chunk in chunks for word in chunk.words if word.text == "and"]
    for begin, seconds in zip(begins, told, strict=True):
        pause = 0                                          # silent mouth right before the word
        for viseme in reversed([viseme for viseme in shapes if viseme.end_pts <= begin]):
            if viseme.id != shapes[0].id:
                break
            pause += viseme.end_pts - viseme.begin_pts
        assert 0 <= pause - 16000 * seconds < 320, (seed, told, seconds)


def test_int8_denoises_as_float32_does(monkeypatch, rng):
    """From the same state and noise: latents within 2 % of those of float32, chunk by chunk."""
    latents = {"fp32": [], "int8": []}
    with Engine.load("mini", dtype="fp32") as plain, Engine.load("mini", dtype="int8") as narrow:
        for engine in (plain, narrow):
            def seen(video, kept=latents[engine.dtype], call=engine.models.denoiser.unpatchify):
                kept.append(call(video))
                return kept[-1]
            monkeypatch.setattr(engine.models.denoiser, "unpatchify", seen)
        generate, look = plain.generate, narrow.character(narrow.characters()[0]).features

        def generate_both(state, style, steps, should_stop=None):
            narrow.generate(narrow.import_state(look, state.export()), style, steps)
            return generate(state, style, steps, should_stop)

        monkeypatch.setattr(plain, "generate", generate_both)
        with plain.session(plain.characters()[0], seed=int(rng.integers(1000))) as session:
            session.say(SENTENCE)
            for _ in range(4):
                session.step()
    assert len(latents["int8"]) == len(latents["fp32"]) == 4
    for got, wanted in zip(latents["int8"], latents["fp32"]):
        assert 0 < float((got - wanted).norm() / wanted.norm()) < 0.02


def test_same_seed_same_bytes(engine):
    def stream(seed):
        with engine.session(engine.characters()[0], seed=seed) as session:
            session.push_text("Good morning, my fr")
            chunks = [session.step() for _ in range(3)]
            session.push_text("iend.")
            session.end_turn()
            chunks += session.turn()
            return [(chunk.audio.tobytes(), chunk.video.tobytes(), chunk.words) for chunk in chunks]

    first = stream(7)
    assert stream(7) == first
    assert stream(8) != first


def test_bytes_do_not_depend_on_threads(engine):
    def chunks(engine):
        with engine.session(engine.characters()[1], seed=3) as session:
            session.say("Good morning.")
            return [(chunk.audio.tobytes(), chunk.video.tobytes()) for chunk in (session.step() for _ in range(3))]

    truth = chunks(engine)
    for threads in {1, 2, 3} - {engine.threads}:
        with Engine.load("mini", max_sessions=1, threads=threads) as other:
            assert chunks(other) == truth, threads


def test_idle_and_listening_are_generated_picture_with_silence(engine):
    with engine.session(engine.characters()[0], seed=5) as session:
        speaking = []
        session.say("Good morning.")
        speaking = list(session.turn())
        session.listen()
        rest = [session.step() for _ in range(3)]
        assert all(chunk.mode is Mode.LISTENING and not chunk.words for chunk in rest)
        loud = max(np.abs(chunk.audio).max() for chunk in speaking)
        assert max(np.abs(chunk.audio).max() for chunk in rest[1:]) < 0.1 * loud
        assert any((chunk.video[i] != chunk.video[i - 1]).any() for chunk in rest for i in range(1, 16))


def test_fork_and_snapshot_of_the_real_thing(engine):
    with engine.session(engine.characters()[0], seed=5) as session:
        session.say("Good morning, my friend.")
        session.step()
        snapshot = session.snapshot()
        with session.fork() as child:
            assert child.step().video.tobytes() == (truth := session.step()).video.tobytes()
        session.restore(snapshot)
        again = session.step()
        assert (again.audio.tobytes(), again.video.tobytes()) == (truth.audio.tobytes(), truth.video.tobytes())


def what_follows(session):
    """The sound of the next chunk, which the session itself has yet to generate."""
    with session.fork() as other:
        return other.step().audio.copy()


def test_interrupt_of_the_real_thing(engine):
    """Stopped inside a chunk, it goes on as though that chunk had never been begun, without a click."""
    results = []
    for stopped in (True, False):
        with engine.session(engine.characters()[0], seed=5, steps=2) as session:
            session.say(SENTENCE)
            chunks = [session.step()]
            while min(np.std(chunks[-1].audio[-320:]), np.std(what_follows(session)[:320])) < 0.02:
                chunks.append(session.step())  # a cut in a silence would show nothing
            if stopped:
                generate, asked = engine.pipeline.generate_chunk, []
                other = threading.Thread(target=session.interrupt)

                def interrupted_inside(models, state, style, *, steps, should_stop):
                    def stop():
                        asked.append(None)
                        if len(asked) == 5:  # in the middle of the pictures' decoding
                            other.start()
                            while not should_stop():
                                time.sleep(0.001)
                        return should_stop()

                    return generate(models, state, style, steps=steps, should_stop=stop)

                engine.pipeline.generate_chunk = interrupted_inside
                try:
                    results.append([session.step()])
                finally:
                    engine.pipeline.generate_chunk = generate
                other.join(60)
                assert len(asked) > 5 and session.stats()["interrupts"] == 1
            else:
                fade = session.interrupt().fade
                results.append([session.step()])
            session.say("Good morning.")
            results[-1] += session.turn()
    a, b = results
    assert all((x.audio == y.audio).all() and (x.video == y.video).all() for x, y in zip(a, b, strict=True))
    assert words_of(a) == ["Good", "morning"] and a[0].discontinuity and a[0].pts == len(chunks) * 10240
    before = chunks[-1].audio
    assert np.std(fade) > 0.002
    assert abs(a[0].audio[0] - before[-1]) <= np.abs(np.diff(before)).max()
    assert (a[0].audio[:640] == fade).all() and not a[0].audio[640:1280].any()
    assert np.abs(np.diff(a[0].audio)).max() <= 1.5 * np.abs(np.diff(before)).max()


def test_memory_does_not_grow(engine):
    """Of what the allocator has given out, not of what the system counts: that goes up and down by 100 MiB."""
    if memory_in_use() is None:
        pytest.skip("this C library does not say how much memory is in use (no mallinfo2)")
    with engine.session(engine.characters()[0], seed=5) as session:
        session.push_stream("Good morning, my friend. " for _ in range(100))
        used = []
        for _ in range(24):
            session.step()
            used.append(memory_in_use())
        # Words, notes of what was heard and the pools behind them may come and go; a chunk's video is 4 MiB.
        assert max(used[18:]) - max(used[8:18]) < 2**20, used


def memory_in_use():
    """Bytes that the process has from malloc and has not given back; None where the C library does not tell."""
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    counts = type("Counts", (ctypes.Structure,), {"_fields_": [(name, ctypes.c_size_t) for name in names.split()]})
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        return None
    ask.restype = counts
    found = ask()
    return found.uordblks + found.hblkhd


def test_doctor_and_bench(tmp_path):
    done = command("doctor", "--quick")
    assert done.returncode == 0 and "all is well" in done.stdout, done.stdout + done.stderr
    done = command("bench", "--chunks", "3", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[0])["rtf_median"] > 0


def test_profile_sees_where_a_chunk_goes(engine):
    from streamchar_rt import profile

    ceilings = profile.Ceilings({"fp32": 1e11, "bf16": 1e12, "int8": 1e12}, 1e10)
    result = profile.measure(engine, chunks=1, ceilings=ceilings)
    ops = {(row["part"].split(".")[0], row["op"]): row for row in result.rows()}
    config, layout = engine.models.denoiser.dit.config, engine.models.denoiser.layout
    # Per layer: every step reads reference, sink and motion; then the finished chunk sees itself alone.
    tokens, width, steps = layout.chunk_tokens, config.width, result.facts["steps"]
    seen = steps * (layout.reference_tokens + 3 * tokens) + tokens
    weights = [4 * width**2 + 2 * width * hidden for hidden in (config.feed_forward, config.audio_feed_forward or config.feed_forward)]
    linear = (steps + 1) * (layout.video_tokens * weights[0] + layout.audio_tokens * weights[1])
    assert ops["denoiser", "joint_blocks"]["gflop"] == pytest.approx(config.depth * (4 * tokens * seen * width + 2 * linear) / 1e9)
    assert {"orchestrator", "denoiser", "codecs"} <= {part for part, _ in ops}
    assert sum(row["ms"] for row in ops.values()) < (result.spans[0][1] - result.spans[0][0]) * 1e3
