"""When the eyes blink and where they look: the process, and the network that draws it."""
import numpy as np
import pytest
import torch

from streamchar_rt.codecs.eyes import MOVES, EyeConfig, EyeNet
from streamchar_rt.codecs.video import MotionCode
from streamchar_rt.denoiser import noise
from streamchar_rt.orchestrator.eyes import Eyes, first_eyes, plan_eyes
from tools.studio.behaviour import perform
from tools.studio.pose import COLUMN

CHUNK = 16
EYES = [COLUMN[name] for name in ("blink_l", "gaze_x", "gaze_y")]
SHAPES = {(42, 100, 60, 14), (80, 100, 36, 0)}       # of a blink, hundredths frame by frame


def stream(seed: int, chunks: int, mode: int, first: Eyes | None = None, begin: int = 0) -> tuple[np.ndarray, list[Eyes]]:
    """(chunks * 16, 3) as a session plans it, and what each chunk leaves behind."""
    if first is None:
        first = first_eyes(noise.generator(seed=seed, chunk=0, step=1, stream=noise.EYES))
    told, states = [], [first]
    for chunk in range(begin, begin + chunks):
        random = noise.generator(seed=seed, chunk=chunk, step=0, stream=noise.EYES)
        moves, now = plan_eyes(states[-1], CHUNK, mode, 0, random)
        told.append(moves)
        states.append(now)
    return np.concatenate(told), states


def blinks(closed: np.ndarray) -> np.ndarray:
    """Frames at which one begins."""
    return np.flatnonzero((closed[1:] > 0) & (closed[:-1] == 0)) + 1


def test_a_stream_goes_on_from_what_is_left_of_it(rng):
    seed, mode = int(rng.integers(2 ** 63)), int(rng.integers(3))
    whole, states = stream(seed, 40, mode)
    cut = int(rng.integers(1, 40))
    rest, _ = stream(seed, 40 - cut, mode, Eyes(*list(states[cut])), cut)
    assert np.array_equal(whole[cut * CHUNK:], rest)
    assert not np.array_equal(whole, stream(seed + 1, 40, mode)[0])


def test_characters_that_begin_together_do_not_blink_together(rng):
    seed = int(rng.integers(2 ** 62))
    first = [blinks(stream(seed + i, 8, 2)[0][:, 0])[0] for i in range(40)]
    assert len(set(first)) > 15 and min(first) >= 5 and max(first) <= 63         # 0.2 to 2.5 s, as the studio's


@pytest.mark.parametrize("mode", [0, 1, 2])
def test_it_looks_and_blinks_as_the_studio_does(rng, mode):
    """Against half an hour of the studio's own performances: as many blinks, of the same shapes, and glances as wide."""
    frames = 25 * 1800
    ours, _ = stream(int(rng.integers(2 ** 63)), frames // CHUNK, mode)
    theirs = perform([], frames, mode_track=np.full(frames, mode), seed=int(rng.integers(2 ** 31)))
    theirs = theirs[:, EYES]
    counts = [len(blinks(track[:, 0])) / len(track) * 25 * 60 for track in (ours, theirs)]          # a minute
    assert counts[0] == pytest.approx(counts[1], rel=0.15)
    for track in (ours, theirs):
        assert {tuple(np.rint(100 * track[at: at + 4, 0]).astype(int)) for at in blinks(track[:-8, 0])} == SHAPES
    for axis in (1, 2):
        assert ours[:, axis].std() == pytest.approx(theirs[:, axis].std(), rel=0.15)
        assert abs(ours[:, axis].mean() - theirs[:, axis].mean()) < 0.03
    moves = [(np.abs(np.diff(track[:, 1])) > 0.02).mean() for track in (ours, theirs)]
    assert moves[0] == pytest.approx(moves[1], rel=0.15)


def test_blinks_are_whole_wherever_chunks_join(rng):
    closed = stream(int(rng.integers(2 ** 63)), 3000, 2)[0][:, 0]
    at = blinks(closed[:-8])                                        # not one that goes on beyond
    assert {int(a) % CHUNK for a in at} == set(range(CHUNK))
    assert {tuple(np.rint(100 * closed[a: a + 4]).astype(int)) for a in at} == SHAPES


def test_the_sad_look_down_with_heavy_lids(rng):
    seed = int(rng.integers(2 ** 63))
    plan = lambda emotion: plan_eyes(Eyes(30, 0), 500, 2, emotion, noise.generator(seed=seed, chunk=0, step=0, stream=noise.EYES))
    (plain, after), (sad, sad_after) = plan(0), plan(2)
    assert after == sad_after
    assert np.array_equal(sad[:, 0], np.maximum(plain[:, 0], np.float32(0.14)))
    assert np.array_equal(sad[:, 1], plain[:, 1]) and np.allclose(sad[:, 2], np.minimum(plain[:, 2] + 0.25, 1))


def randomised_eyes(seed: int) -> EyeNet:
    torch.manual_seed(seed)
    net = EyeNet(EyeConfig(latent_channels=12, reference_channels=6, width=8, depth=1)).eval().requires_grad_(False)
    torch.nn.init.normal_(net.out.weight, std=0.5)
    return net


def test_the_network_leaves_head_and_body_alone(rng):
    net = randomised_eyes(int(rng.integers(1000)))
    tensor = lambda *shape: torch.from_numpy(rng.normal(0, 1, shape)).float()
    latents, reference, moves = tensor(3, 12, 8, 8), tensor(1, 6, 8, 8), tensor(3, 4, MOVES)
    drawn = net(latents, reference, moves)
    assert torch.equal(drawn[:, : MotionCode.CHANNELS], latents[:, : MotionCode.CHANNELS])
    assert (drawn - latents)[:, MotionCode.CHANNELS:].abs().amax((1, 2, 3)).min() > 1e-3
    for i in range(3):                                                                  # each latent for itself
        assert torch.allclose(net(latents[i: i + 1], reference, moves[i: i + 1]), drawn[i: i + 1], atol=1e-5)
    assert not torch.allclose(net(latents, reference, moves + 1), drawn, atol=1e-3)
    fresh = EyeNet(EyeConfig(reference_channels=6, width=8))
    assert torch.equal(fresh(latents, reference, moves), latents)


def test_training_pairs_differ_in_the_eyes_alone(rng):
    pytest.importorskip("skia", reason="drawing needs skia-python: pip install .[train]")
    from tools.studio.character import Identity, Renderer
    from tools.train.eyes import pair

    for _ in range(6):
        seed = int(rng.integers(10_000, 2 ** 31))
        one = pair(seed, rng)
        changed = set(np.flatnonzero(np.abs(one["told_pose"] - one["plain_pose"]).max(0) > 1e-6).tolist())
        assert changed <= {*EYES, COLUMN["blink_r"]}
        assert np.array_equal(one["moves"], one["told_pose"][:, EYES])
        assert np.array_equal(one["told_pose"][:, COLUMN["blink_l"]], one["told_pose"][:, COLUMN["blink_r"]])
        renderer = Renderer(Identity.from_seed(seed))
        for t in range(4):
            far = np.ones(one["told"].shape[1:3], bool)
            boxes = renderer.boxes(one["told_pose"][t])
            for name in ("eye_l", "eye_r"):
                x0, y0, x1, y1 = (int(v) for v in boxes[name])
                far[max(0, y0 - 12): y1 + 13, max(0, x0 - 12): x1 + 13] = False
            assert np.array_equal(one["told"][t][far], one["plain"][t][far])


def test_the_judge_knows_eyes_that_do_as_they_are_told(rng):
    """Against the studio's own drawings: of what was told, and of eyes that do nothing."""
    pytest.importorskip("skia", reason="drawing needs skia-python: pip install .[train]")
    from tools.evaluate.eyes import judge, poses
    from tools.studio.character import Identity, Renderer

    renderer = Renderer(Identity.from_seed(int(rng.integers(10_000))))
    rigid = rng.uniform(-0.2, 0.2, (6, 7)).astype(np.float32)
    moves = np.float32([[1, 0, 0], [0, 0.6, 0.1], [0, 0, 0], [0.4, 0, 0], [0.8, -0.5, 0], [0, -0.5, 0]])
    draw = lambda moves: np.stack([renderer.draw(p) for p in poses(rigid, moves)])
    obedient, still = (judge(renderer, draw(moves * share), rigid, moves) for share in (1, 0))
    assert {kind: len(found) for kind, found in obedient.items()} == {"closed": 4, "away": 4, "ahead": 2}   # two eyes each
    for kind, found in obedient.items():
        assert all(told == 0 for told, _ in found)
        assert all(open_ > 1 for _, open_ in found) == (kind != "ahead")
    assert all(told > 1 and open_ == 0 for kind in ("closed", "away") for told, open_ in still[kind])


def test_eyes_close_as_far_as_the_decoder_draws_them(seeded):
    wide, narrow = (EyeNet(EyeConfig(width=8, closing=closing)).eval() for closing in (1.0, 0.4))
    torch.nn.init.normal_(wide.out.weight)
    narrow.load_state_dict(wide.state_dict())
    latents, reference = torch.randn(3, 12, 4, 4), torch.randn(1, 64, 4, 4)
    moves = torch.rand(3, 4, MOVES) * 2 - 1
    moves[..., 0] = torch.linspace(0, 1, 12).reshape(3, 4)
    clamped = moves.clone()
    clamped[..., 0].clamp_(max=0.4)
    with torch.no_grad():
        assert torch.equal(narrow(latents, reference, moves), wide(latents, reference, clamped))
        assert not torch.allclose(narrow(latents, reference, moves), wide(latents, reference, moves))
