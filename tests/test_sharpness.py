"""The critic of eyes and mouths, and the training of the decoder's upper layers on windows."""
import numpy as np
import pytest
import torch

from tools.train.sharpness import PARTS, WINDOW, Critic, critic_loss, drawing_loss, windows


def test_windows_are_what_lies_about_the_centres(rng):
    frames = torch.from_numpy(rng.random((3, 4, 90, 120), np.float32))
    centres = rng.uniform([-10, -10], [130, 100], (3, PARTS, 2)).astype(np.float32)
    cut = windows(frames, torch.from_numpy(centres)).reshape(3, PARTS, 4, WINDOW, WINDOW)
    for n, part in np.ndindex(3, PARTS):
        x, y = np.clip(np.round(centres[n, part]).astype(int) - WINDOW // 2, 0, [120 - WINDOW, 90 - WINDOW])
        assert torch.equal(cut[n, part], frames[n, :, y: y + WINDOW, x: x + WINDOW])


def test_the_critic_tells_sharp_from_soft_and_what_is_drawn_learns_from_it(rng, seeded):
    """Squares with hard edges are true, their blur is drawn."""
    def squares(count: int) -> torch.Tensor:
        out = np.zeros((count, 4, WINDOW, WINDOW), np.float32)
        for picture in out:
            y, x, size = rng.integers(4, 20), rng.integers(4, 20), rng.integers(10, 24)
            picture[:, y: y + size, x: x + size] = rng.random((4, 1, 1)) * 0.5 + 0.5
        return torch.from_numpy(out)

    blur = lambda x: torch.nn.functional.avg_pool2d(x, 7, 1, 3)
    critic = Critic(16)
    optimizer = torch.optim.Adam(critic.parameters(), 2e-3, betas=(0.0, 0.99))
    for _ in range(200):
        true = squares(8)
        loss = critic_loss(critic, true, blur(squares(8)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    with torch.no_grad():
        told = np.mean([float(critic_loss(critic, squares(16), blur(squares(16)))) for _ in range(4)])
    assert told < 1.8, "2 is a critic that cannot tell"
    true = squares(8)
    soft = blur(true).requires_grad_(True)
    before = [p.clone() for p in critic.parameters()]
    displeasure, difference = drawing_loss(critic, true, soft)
    assert float(displeasure.detach()) > float(drawing_loss(critic, true, true)[0].detach())
    assert float(drawing_loss(critic, true, true)[1].detach()) == 0.0
    optimizer.zero_grad()
    (displeasure + difference).backward()
    assert soft.grad.abs().sum() > 0
    assert all(p.grad is None or not p.grad.any() for p in critic.parameters()) and all(p.requires_grad for p in critic.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, critic.parameters()))
    better = (soft - 0.01 * soft.grad / soft.grad.abs().max()).detach()
    assert float(sum(drawing_loss(critic, true, better)).detach()) < float((displeasure + difference).detach())


@pytest.fixture(scope="module")
def codec():
    pytest.importorskip("skia", reason="drawing needs skia-python: pip install .[train]")
    from pathlib import Path

    import streamchar_rt
    from tools.train.shipped import bundle_weights
    from tools.train.video_codec import VideoCodec
    net = VideoCodec()
    net.load_state_dict(bundle_weights(Path(streamchar_rt.__file__).parent / "bundles" / "mini", net.state_dict()), strict=False)
    return net.to(memory_format=torch.channels_last).eval()


def test_a_window_is_decoded_as_in_the_whole_picture(codec, rng):
    """Against the decoder itself, away from the window's edges; in float16's precision, which windows are kept in."""
    from tools.train.faces import EDGE, FLOW_EDGE, HEIGHT, WIDTH, Maker, upper

    maker = Maker(codec, rng, 0.0, 0.5, 0.3)
    whole, corners = [], []
    codec.decoder.register_forward_hook(lambda layer, given, result: whole.append(result.frames))
    corner = maker._corner
    maker._corner = lambda *given: corners.append(corner(*given)) or corners[-1]
    made = maker.clip(int(rng.integers(10_000, 1 << 30)))
    with torch.no_grad():
        drawn, flow = upper(codec.decoder, made)
    frames = whole[0].flatten(0, 1)
    for t, (x, y) in enumerate(corners):
        inside = slice(EDGE, HEIGHT - EDGE), slice(EDGE, WIDTH - EDGE)
        there = frames[t, :, y: y + HEIGHT, x: x + WIDTH][(slice(None), *inside)]
        difference = (drawn[t][(slice(None), *inside)] - there).abs()
        assert difference.mean() < 2e-3 and difference.max() < 0.25
    assert (made.weight[..., :EDGE, :] == 0).all() and (made.weight[..., EDGE: -EDGE, EDGE: -EDGE] >= 1).all()
    assert (flow - made.flow.float())[..., FLOW_EDGE: -FLOW_EDGE, FLOW_EDGE: -FLOW_EDGE].abs().max() < 0.1
