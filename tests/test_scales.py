"""A model of another size and clock than mini's, through the engine and sessions; and what an engine refuses."""
from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from streamchar_rt import DeviceMemoryError, Engine, Snapshot, UnsupportedError, allocation, scales
from streamchar_rt import engine as engine_module
from streamchar_rt.bundle import LETTER_TO_SOUND, LEXICON, MANIFEST, SHIPPED, open_bundle, save_bundle
from streamchar_rt.nets import build_nets
from streamchar_rt.resident import Placement

HAS_MINI = (SHIPPED / "mini" / MANIFEST).is_file()
pytestmark = pytest.mark.skipif(not HAS_MINI, reason="the mini model is not in this tree")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A bundle of ``full``'s small relative: random weights, mini's lexicon, a character of noise."""
    path, mini, manifest = tmp_path_factory.mktemp("tiny"), open_bundle("mini"), scales.tiny()
    pixels = np.random.default_rng(1).integers(0, 256, (64, 96, 4), dtype=np.uint8)
    Image.fromarray(pixels).save(path / "noise.png")
    torch.manual_seed(1)
    tensors = {f"{name}.{key}": value for name, net in build_nets(manifest["model"]).items()
               for key, value in net.state_dict().items()}
    tensors |= {"latent.mean": torch.zeros(8), "latent.std": torch.ones(8)}
    characters = [{"name": "noise", "file": "characters/noise.png", "voice": manifest["voices"][1]}]
    files = {name: mini.path(name) for name in (LEXICON, LETTER_TO_SOUND)}
    files["characters/noise.png"] = path / "noise.png"
    memory = {"session": 2**20, "workspace": 2**24}
    save_bundle(path / "bundle", {**manifest, "characters": characters, "memory": memory}, tensors, files)
    return path / "bundle"


@pytest.mark.parametrize("placement", [None, Placement("cpu", torch.float32)], ids=["host", "resident"])
def test_a_bundle_of_another_size_and_clock_speaks(folder, monkeypatch, placement):
    """Chunks of 33 frames at 24 fps and 24 kHz, words on their clock, a picture that is wider than high; forks and
    snapshots go on alike. On the CPU's own way, and as on a GPU."""
    monkeypatch.setattr(engine_module, "_placement", lambda config: placement)
    with Engine.load(folder, max_sessions=2) as engine, engine.session("noise", seed=2, steps=1) as session:
        info = engine.info
        assert (info.fps, info.chunk_frames, info.sample_rate, info.chunk_samples) == (24, 33, 24_000, 33_000)
        session.say("Good morning, my friend.")
        chunks = [session.step() for _ in range(2)]
        for index, chunk in enumerate(chunks):
            assert chunk.pts == index * 33_000 and chunk.duration == pytest.approx(33 / 24)
            assert chunk.audio.shape == (33_000,) and chunk.video.shape == (33, 64, 96, 4)
            assert np.isfinite(chunk.audio).all()
            assert [viseme.begin_pts for viseme in chunk.visemes][0] == chunk.pts
            assert [viseme.end_pts for viseme in chunk.visemes][-1] == chunk.pts + 33_000
            assert all(word.begin_pts % 500 == 0 for word in chunk.words)      # half-frames
        assert chunks[0].words and chunks[0].words[0].text == "Good"
        snapshot = Snapshot.from_bytes(session.snapshot().to_bytes())
        with session.fork() as other:
            forked, original = other.step(), session.step()
        session.restore(snapshot)
        for again in (forked, session.step()):
            assert (again.audio == original.audio).all() and (again.video == original.video).all()


def test_a_gpu_is_refused_where_there_is_none_or_too_little_memory(folder, monkeypatch):
    if not torch.cuda.is_available():
        with pytest.raises(UnsupportedError, match="cuda:3"):
            Engine.load(folder, device="cuda:3")
    with pytest.raises(UnsupportedError, match="int8"):
        Engine.load(folder, device="cuda", dtype="int8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(allocation, "available_bytes", lambda device: 12345)
    with pytest.raises(UnsupportedError, match="cuda:1"):
        Engine.load(folder, device="cuda:1")
    with pytest.raises(DeviceMemoryError) as error:
        Engine.load(folder, device="cuda", kernels="reference")
    plan = allocation.memory_plan(open_bundle(folder).manifest, Placement("cuda"), kernels="reference")
    assert (error.value.available_bytes, error.value.required_bytes) == (12345, plan.total)
