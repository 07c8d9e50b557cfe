"""Files: what a decoder of another make reads back is what was written."""
from __future__ import annotations

import wave
from fractions import Fraction

import numpy as np
import pytest
from PIL import Image

from streamchar_rt import ConfigError, Mode, OutputError, StreamInfo
from streamchar_rt.chunk import Chunk
from streamchar_rt.media import open_writer
from streamchar_rt.pixels import BACKGROUND

av = pytest.importorskip("av", reason="PyAV is not installed: pip install streamchar-rt[media]")

INFO = StreamInfo(16000, Fraction(25), 64, 64, 16, 10240, "straight", frozenset())
CHUNKS = 5
COLOR = (200, 90, 40)


def make_chunk(k, first_pts=0):
    """A disc that moves down, over nothing; a tone; a click at the beginning of every third chunk."""
    y, x = np.mgrid[:64, :64]
    video = np.zeros((16, 64, 64, 4), np.uint8)
    for i in range(16):
        video[i][(x - 32) ** 2 + (y - 12 - (k * 16 + i) / 3) ** 2 < 80] = (*COLOR, 255)
    t = (np.arange(10240) + k * 10240) / 16000
    audio = (0.4 * np.sin(2 * np.pi * 440 * t)).astype(np.float32)
    return Chunk(
        turn_id=1, index=k, pts=first_pts + k * 10240, duration=0.64, audio=audio, video=video, words=(), visemes=(),
        mode=Mode.SPEAKING, end_of_turn=False, discontinuity=False, timings=None,
    )  # fmt: skip


def write(path, first_pts=0):
    with open_writer(path) as writer:
        for k in range(CHUNKS):
            writer.write(make_chunk(k, first_pts), INFO)
    assert not list(path.parent.glob(".*.part"))


def decode(path, decoder=None):
    """(frames as RGB or RGBA, their times, samples) of a file."""
    frames, times, sound = [], [], []
    with av.open(str(path)) as container:
        if decoder is None:
            for frame in container.decode(video=0):
                frames.append(frame.to_ndarray(format="rgb24"))
                times.append(frame.time)
        else:
            context = av.CodecContext.create(decoder, "r")
            for packet in container.demux(video=0):
                frames += [f.to_ndarray(format="rgba") for f in context.decode(packet)] if packet.size else []
    with av.open(str(path)) as container:
        resample = av.AudioResampler("flt", "mono", 16000)
        for frame in container.decode(audio=0):
            sound += [part.to_ndarray()[0] for part in resample.resample(frame)]
        sound += [part.to_ndarray()[0] for part in resample.resample(None)]
    return np.array(frames), times, np.concatenate(sound)


def centre_of(mask):
    return np.argwhere(mask).mean(0)


def check_sound(sound):
    truth = np.concatenate([make_chunk(k).audio for k in range(CHUNKS)])
    assert abs(len(sound) - len(truth)) <= 1600
    middle = sound[4000:40000]
    shifts = {s: np.corrcoef(middle, truth[4000 + s : 40000 + s])[0, 1] for s in range(-18, 19)}  # half a period
    best = max(shifts, key=shifts.get)
    assert shifts[best] > 0.98 and abs(best) <= 3
    assert np.std(middle) == pytest.approx(np.std(truth), rel=0.05)


@pytest.mark.parametrize("first_pts", [0, 123 * 10240])
def test_mp4(tmp_path, first_pts):
    path = tmp_path / "a.mp4"
    write(path, first_pts)
    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert (video.codec_context.name, video.codec_context.pix_fmt, audio.codec_context.name) == ("h264", "yuv420p", "aac")
        assert video.average_rate == 25 and audio.rate == 16000
    frames, times, sound = decode(path)
    assert len(frames) == CHUNKS * 16
    np.testing.assert_allclose(times, np.arange(len(frames)) / 25, atol=1e-3)
    for i in (0, 17, 40, 79):
        truth = make_chunk(i // 16).video[i % 16]
        inside = truth[..., 3] > 0
        assert np.abs(frames[i][2:6, 2:6].mean((0, 1)) - BACKGROUND).max() < 6
        disc = np.abs(frames[i].astype(int) - COLOR).sum(-1) < 120
        np.testing.assert_allclose(centre_of(disc), centre_of(inside), atol=0.7)
    check_sound(sound)


def test_webm_has_alpha(tmp_path):
    path = tmp_path / "a.webm"
    write(path)
    frames, times, sound = decode(path, "libvpx-vp9")
    assert len(frames) == CHUNKS * 16
    for i in (0, 30, 79):
        truth = make_chunk(i // 16).video[i % 16]
        alpha, opaque = frames[i][..., 3] > 127, truth[..., 3] > 0
        assert (alpha & opaque).sum() / (alpha | opaque).sum() > 0.93
        core = frames[i][alpha & opaque][:, :3].mean(0)
        assert np.abs(core - COLOR).max() < 25
    check_sound(sound)


def test_wav(tmp_path):
    write(tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (16000, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    truth = np.concatenate([make_chunk(k).audio for k in range(CHUNKS)])
    np.testing.assert_allclose(samples / 32767, truth, atol=0.51 / 32767)


def test_folder_of_frames(tmp_path):
    path = tmp_path / "frames"
    write(path)
    names = sorted(p.name for p in path.iterdir())
    assert names == ["audio.wav", *(f"frame_{i:06d}.png" for i in range(CHUNKS * 16))]
    for i in (0, 33, 79):
        np.testing.assert_array_equal(Image.open(path / f"frame_{i:06d}.png"), make_chunk(i // 16).video[i % 16])
    with pytest.raises(OutputError, match="not empty"):
        open_writer(path)


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.wav", "frames"])
def test_a_failure_leaves_nothing_and_a_stop_keeps_what_there_is(tmp_path, name):
    with pytest.raises(RuntimeError), open_writer(tmp_path / name) as writer:
        writer.write(make_chunk(0), INFO)
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), open_writer(tmp_path / name) as writer:
        writer.write(make_chunk(0), INFO)
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == [name]
    with open_writer(tmp_path / "unused.wav"):
        pass
    assert not (tmp_path / "unused.wav").exists()


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "a.wav"
    path.write_bytes(b"old")
    with open_writer(path) as writer:
        writer.write(make_chunk(0), INFO)
        assert path.read_bytes() == b"old"
    assert path.read_bytes() != b"old"


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "folder.mp4").mkdir()
    for name in ("no/such/a.mp4", "no/frames", "file/a.mp4", "file/frames", "folder.mp4", "file", "a" * 300 + ".mp4"):
        with pytest.raises(OutputError) as error:
            open_writer(tmp_path / name)
        assert error.value.hint
    with pytest.raises(ConfigError, match=".avi"):
        open_writer(tmp_path / "a.avi")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.mp4"]


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.wav", "frames"])
def test_a_full_disk_is_an_output_error(tmp_path, name):
    """A file size limit stands in for it, in a process of its own."""
    import subprocess
    import sys

    code = (
        "import resource, signal, sys; from pathlib import Path\n"
        "from streamchar_rt import OutputError; from streamchar_rt.media import open_writer\n"
        "from tests.test_media import INFO, make_chunk\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
        "try:\n"
        "    with open_writer(sys.argv[1]) as writer:\n"
        "        for k in range(60): writer.write(make_chunk(k), INFO)\n"
        "except OutputError as error: print('refused:', error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / name)], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and "refused" in done.stdout, done.stderr
    assert list(tmp_path.iterdir()) == []
