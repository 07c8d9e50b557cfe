"""The studio's true flow against the drawings it speaks of."""
import numpy as np
import pytest

pytest.importorskip("skia", reason="drawing needs skia-python: pip install .[train]")

from tools.studio.character import Identity, Renderer  # noqa: E402
from tools.studio.motion import MotionMap  # noqa: E402
from tools.studio.pose import REST, pose  # noqa: E402


@pytest.fixture
def renderer(rng):
    return Renderer(Identity.from_seed(int(rng.integers(1 << 30))))


def test_rest_does_not_move(renderer):
    flow, known = MotionMap(renderer).flow(REST, 64)
    assert flow.shape == (2, 64, 64) and known.shape == (64, 64) and 0.2 < known.mean() < 0.95
    assert np.abs(flow).max() < 1e-9


def test_a_swaying_body_moves_all_of_it(renderer, rng):
    """head_x moves the head by 4 and the body by 2.2 units of the drawing, enlarged 1.08 times."""
    x = float(rng.uniform(-1, 1))
    flow, known = MotionMap(renderer).flow(pose(head_x=x), 64)
    steps = np.unique(np.round(flow[0][known], 3))
    assert np.allclose(np.sort(np.abs(steps)), np.sort(np.abs(np.round([2.2 * 1.08 * x, 4 * 1.08 * x], 3))), atol=2e-3)
    assert (np.sign(steps) == -np.sign(x)).all()          # the rest picture has it on the other side


def test_flow_leads_to_the_same_colours(renderer, rng):
    """Where the flow is known, the rest picture at its end looks like the moved picture at its start."""
    # A head that hardly turns looks alike without being followed: rounding to pixels counts for more.
    moved = pose(yaw=rng.choice([-1, 1]) * rng.uniform(0.4, 1), pitch=rng.uniform(-1, 1), roll=rng.uniform(-1, 1),
                 hair_sway=rng.uniform(-1, 1), breath=rng.uniform(0, 1))
    flow, known = MotionMap(renderer).flow(moved, 64)
    rest, now = (renderer.draw(p, premultiplied=True)[..., :3].astype(float) for p in (REST, moved))
    y, x = np.mgrid[:64, :64] * 4 + 2
    there = np.clip(np.round(np.stack([x + flow[0], y + flow[1]]) - 0.5).astype(int), 0, 255)
    error = lambda picture: np.abs(picture - now[y, x]).max(-1)[known]
    followed, still = error(rest[there[1], there[0]]), error(rest[y, x])
    assert np.median(followed) < 4 and followed.mean() < still.mean()
