"""Clips drawn ahead come back as they were drawn."""
from __future__ import annotations

import argparse
import time

import numpy as np
import pytest
import torch

pytest.importorskip("skia")

from tools.train import clips as clips_module  # noqa: E402
from tools.train.clips import FRAMES_A_CLIP, ClipStore, draw  # noqa: E402
from tools.train.pictures import Clips  # noqa: E402


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Two shards of three clips, their folder and what they were drawn from."""
    folder = tmp_path_factory.mktemp("clips")
    args = argparse.Namespace(out=folder, seed=4, performed=0.5, displaced=0.5, eyes=0.5, cast=0.2)
    patch = pytest.MonkeyPatch()
    patch.setattr(clips_module, "SHARD", 3)
    try:
        draw(1, args, time.time() + 600, 2)
        draw(1, args, 0.0, 2)                                # nothing is left to do
    finally:
        patch.undo()
    truth = [next(source) for number in range(2)
             for source in [iter(Clips(FRAMES_A_CLIP, 4 + 1000 + 100_000 * number, 0.5, 0.5, 0.5, 0.2))] for _ in range(3)]
    return folder, truth


def test_store_holds_what_was_drawn(drawn, monkeypatch):
    folder, truth = drawn
    store = ClipStore(folder, "cpu")
    assert len(store) == len(truth)
    monkeypatch.setattr(torch, "randint", lambda *_, **__: torch.arange(len(truth)))
    batch = store.batch(len(truth), displaced=True)
    for name in ("frames", "reference", "pose", "flow", "known", "seen_frames", "seen_pose"):
        assert np.array_equal(batch[name].numpy(), np.stack([c[name] for c in truth])), name
    assert np.array_equal(batch["weight"].numpy(), np.stack([c["weight"] for c in truth]).astype(np.float32))
    assert any((c["seen_pose"] != c["pose"]).any() for c in truth)
    plain = store.batch(len(truth))
    assert torch.equal(plain["seen_frames"], plain["frames"]) and torch.equal(plain["seen_pose"], plain["pose"])


def test_no_clips_names_the_remedy(tmp_path):
    with pytest.raises(FileNotFoundError, match="tools.train.clips"):
        ClipStore(tmp_path, "cpu")


def test_closed_eyes_and_open_mouths_count_more():
    from tools.studio.pose import COLUMN
    from tools.train.pictures import EYES_WEIGHT, MOUTH_WEIGHT
    from tools.train.video_codec import attention

    weight = torch.tensor([1.0, EYES_WEIGHT, MOUTH_WEIGHT]).expand(2, 3, 1, 3)          # (B, T, H, W)
    poses = torch.zeros(2, 3, len(COLUMN))
    poses[0, 1, COLUMN["blink_r"]] = 0.5
    poses[1, 2, COLUMN["mouth_open"]] = 1.0
    found = attention(weight, poses, face=2.0, active=3.0)
    assert found.shape == (2, 3, 1, 1, 3)
    wanted = torch.tensor([1.0, 2 * EYES_WEIGHT, 2 * MOUTH_WEIGHT]).expand(2, 3, 1, 1, 3).clone()
    wanted[0, 1, ..., 1] *= 1 + 3 * 0.5
    wanted[1, 2, ..., 2] *= 1 + 3 * 1.0
    assert torch.allclose(found, wanted)
    assert torch.equal(attention(weight, poses, 1.0, 0.0)[:, :, 0], weight)
