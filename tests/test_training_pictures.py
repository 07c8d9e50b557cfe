"""What the video codec is trained on."""
import numpy as np
import pytest

pytest.importorskip("skia", reason="drawing needs skia-python: pip install .[train]")

from streamchar_rt.codecs.video import MotionCode  # noqa: E402
from tools.studio.pose import POSE_FIELDS, POSE_RANGES  # noqa: E402
from tools.train.pictures import FLOW_MARGIN, FLOW_SHARE, clip, displaced, performed_track, random_track, spread  # noqa: E402


def test_displacement_changes_the_rigid_movement_only_and_stays_in_range(rng):
    for track in (random_track(rng, 8), performed_track(rng, 8)):
        moved = displaced(rng, track)
        assert moved.dtype == track.dtype and moved.shape == track.shape and not np.shares_memory(moved, track)
        assert (moved[:, MotionCode.RIGID:] == track[:, MotionCode.RIGID:]).all()
        assert (moved[:, : MotionCode.RIGID] != track[:, : MotionCode.RIGID]).any()
        low, high = np.array([POSE_RANGES[name][:2] for name in POSE_FIELDS], np.float32).T
        assert ((moved >= low) & (moved <= high)).all()


def test_spreading_fills_what_is_empty_near_the_edge_from_what_is_beside_it(rng):
    """Against a walk over cells one at a time."""
    known = rng.random((12, 16)) < 0.2
    empty = ~known & (rng.random((12, 16)) < 0.7)
    flow = (rng.standard_normal((2, 12, 16)) * known).astype(np.float32)
    found, filled = spread(flow, known, empty, cells := int(rng.integers(0, 4)))
    want, there = flow.copy(), known.copy()
    for _ in range(cells):
        before, at = want.copy(), there.copy()
        for y, x in zip(*np.nonzero(empty & ~at)):
            near = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if 0 <= y + dy < 12 and 0 <= x + dx < 16]
            values = [before[:, j, i] for j, i in near if at[j, i]]
            if values:
                want[:, y, x], there[y, x] = np.mean(values, 0), True
    assert (filled == there).all() and np.abs(found - want)[:, there].max(initial=0) < 1e-5
    assert (found[:, known] == flow[:, known]).all() and not filled[~known & ~empty].any()


def test_a_clip_shows_what_was_seen_beside_what_is_to_be_drawn(rng):
    seed, track = int(rng.integers(1 << 30)), performed_track(rng, 4)
    seen = displaced(rng, track)
    both, alone = clip(seed, track, seen), clip(seed, seen)
    assert (both["seen_frames"] == alone["frames"]).all() and (both["seen_pose"] == seen).all()
    assert (both["frames"] == clip(seed, track)["frames"]).all() and (both["reference"] == alone["reference"]).all()
    assert "seen_frames" not in alone


def test_the_flow_goes_on_a_little_beside_the_drawing(rng):
    made = clip(int(rng.integers(1 << 30)), random_track(rng, FLOW_SHARE))
    t = int(np.flatnonzero(made["known"].any((1, 2)))[0])
    cover = made["frames"][t, :, :, 3].reshape(64, 4, 64, 4).max((1, 3)) > 0
    beside = made["known"][t] & ~cover
    y, x = np.nonzero(cover)
    reach = [np.abs([y - j, x - i]).max(0).min() for j, i in zip(*np.nonzero(beside))]
    assert reach and 0 < max(reach) <= FLOW_MARGIN
