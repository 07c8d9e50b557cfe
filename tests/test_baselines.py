"""The baselines: what each network may see, and that each learns."""
from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from streamchar_rt.denoiser.dit import Style, Window, windowed_velocity
from streamchar_rt.orchestrator.units import END, FIRST_PHONE, PAD
from tools.train import baselines
from tools.train.batches import StreamSampler
from tools.train.cascade import Cascade
from tools.train.causal import CausalDiT
from tools.train.denoiser import Batches, Denoiser
from tools.train.monolithic import TEXT, Monolith, TextSampler, turn_of
from tools.train.streams import CHUNK, HEAD

from .small_training import CONDITION, DIT, LAYOUT, randomised, small_streams

PLAIN = torch.autocast("cpu", enabled=False)


def random_window(count: int = 2) -> Window:
    pair = lambda: (torch.randn(count, LAYOUT.video_tokens, 48), torch.randn(count, 16, 160))
    return Window(*pair(), torch.randn(count, 4, 32), pair(), pair())


def random_style(count: int = 2) -> Style:
    return Style(*(torch.randint(high, (count,)) for high in (4, 5, 3)))


def conditions(count: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(count, LAYOUT.latents, DIT.width), torch.randn(count, 16, DIT.width)


# ------------------------------------------------------------------ causal
@pytest.mark.parametrize("grad", [True, False])
def test_what_is_later_never_changes_what_is_earlier(grad, rng, seeded):
    """A change of one latent or one sound token reaches only tokens that end no earlier, and all of those see it."""
    net = randomised(CausalDiT(DIT)).eval()
    window, t, style, (c_v, c_a) = random_window(), torch.rand(2), random_style(), conditions()
    ends_v = np.repeat(4.0 * (1 + np.arange(LAYOUT.latents)), LAYOUT.grid ** 2)
    ends_a = np.arange(16) + LAYOUT.audio_lead + 1
    run = lambda w: [x.detach() for x in windowed_velocity(net, w, t, style, c_v, c_a)]
    with torch.set_grad_enabled(grad):
        before = run(window)
        for kind in ("video", "audio"):
            other = getattr(window, kind).clone()
            if kind == "video":
                latent = int(rng.integers(LAYOUT.latents))
                end = 4.0 * (1 + latent)
                other[:, latent * LAYOUT.grid ** 2: (latent + 1) * LAYOUT.grid ** 2] += 1
            else:
                token = int(rng.integers(16))
                end = ends_a[token]
                other[:, token] += 1
            after = run(replace(window, **{kind: other}))
            for a, b, ends in zip(before, after, (ends_v, ends_a)):
                moved = (a - b).abs().amax((0, 2)).numpy()
                assert (moved[ends < end] == 0).all()
                assert (moved[ends >= end] > 0).all()


def test_a_causal_net_that_may_see_all_is_the_product(seeded, monkeypatch):
    net = randomised(CausalDiT(DIT)).eval()
    plain = Denoiser(DIT, CONDITION).dit.eval()
    plain.load_state_dict(net.state_dict())
    args = random_window(), torch.rand(2), random_style(), *conditions()
    monkeypatch.setattr(CausalDiT, "ends", lambda self, tokens: torch.zeros(sum(x.shape[1] for x in tokens)))
    with torch.no_grad():
        for a, b in zip(windowed_velocity(net, *args), windowed_velocity(plain, *args)):
            assert torch.allclose(a, b, atol=1e-4)


# ------------------------------------------------------------------ monolithic
def test_a_turn_begins_after_the_last_end(rng):
    streams = small_streams(rng)
    row = streams.chunks[int(rng.integers(len(streams.chunks) // 3)) * 3:][:3]
    for k, (at, _, first, last, *_) in enumerate(row.tolist()):
        place = int(streams.place[at - 1])
        assert streams.unit[first] == END
        assert turn_of(streams, at, place, last) == (first + 1, k)  # these streams are one turn, pushed at their start
        text = TextSampler(streams, held_out=4).text(at, last)
        seen = text[:, 0] != PAD
        assert seen.sum() == min(TEXT, last - first) and (text[seen, 0] >= FIRST_PHONE).all()
        assert (text[:, 3] == k).all()
        assert text[: 5, 0].tolist() == streams.unit[first + 1: first + 6].tolist()
        # Nothing pushed yet: nothing to see.
        assert (TextSampler(streams, held_out=4).text(at, first)[:, 0] == PAD).all()


def test_the_monolith_reads_its_text(seeded):
    net = randomised(Monolith(replace(DIT, audio_variance=1.0), 1)).eval()
    window, t, style = random_window(), torch.rand(2), random_style()
    text = torch.randint(FIRST_PHONE, FIRST_PHONE + 9, (2, TEXT, 4)).clamp(max=FIRST_PHONE + 8)
    text[..., 1:] = 0
    with torch.no_grad():
        before = net.velocity(window, text, t, style)
        assert [x.shape for x in before] == [window.video.shape, window.audio.shape]
        other = text.clone()
        other[1, 3, 0] += 1
        after = net.velocity(window, other, t, style)
        later = text.clone()
        later[1, :, 3] = 2
        moved = net.velocity(window, later, t, style)
    for a, b, c in zip(before, after, moved):
        assert torch.equal(a[0], b[0]) and not torch.equal(a[1], b[1]) and not torch.equal(a[1], c[1])


# ------------------------------------------------------------------ cascade
def test_the_cascade_draws_from_the_sound_alone(seeded):
    net = randomised(Cascade(DIT, CONDITION, (2, 2))).eval()
    window, t, style = random_window(), torch.rand(2), random_style()
    with torch.no_grad():
        rest = (window.reference, window.sink, window.motion, t, style)
        before = net.picture_velocity(window.video, window.audio, *rest)
        after = net.picture_velocity(window.video, window.audio + 1, *rest)
    assert before.shape == window.video.shape and not torch.allclose(before, after)
    parts = baselines.parameters(net.speech) + baselines.parameters(net.picture)
    assert parts == baselines.parameters(net)  # the two share nothing


def test_all_kinds_are_of_one_size():
    sizes = {kind: baselines.parameters(baselines.build(kind)) for kind in baselines.KINDS}
    # Without its orchestrator, of 2.4 M weights, the product's recipe is that much smaller than the monolith.
    from streamchar_rt.orchestrator.model import Orchestrator

    whole = {kind: n + (kind != "monolithic") * baselines.parameters(Orchestrator()) for kind, n in sizes.items()}
    assert max(whole.values()) < 1.1 * min(whole.values()), whole


# ------------------------------------------------------------------ training
def with_pictures(batch, rng: np.random.Generator):
    """The batch with a picture that is a function of the sound."""
    _, audio, (_, _, motion), features, style = batch
    level = audio.mean((1, 2))[:, None, None]
    video = level * torch.ones(len(audio), LAYOUT.video_tokens, 48)
    return video, audio, (torch.zeros(len(audio), 4, 32), None, None), features, style


def small(kind: str) -> torch.nn.Module:
    if kind == "monolithic":
        return Monolith(replace(DIT, audio_variance=1.0), 1)
    if kind == "cascade":
        return Cascade(DIT, CONDITION, (1, 1))
    return (baselines.Causal if kind == "causal" else Denoiser)(DIT, CONDITION)


@pytest.mark.parametrize("kind", baselines.KINDS)
@pytest.mark.parametrize("picture", [False, True])
def test_training_lowers_the_loss(kind, picture, rng, seeded):
    net = small(kind)
    sampler = (TextSampler if kind == "monolithic" else StreamSampler)(small_streams(rng), held_out=4,
                                                                      seed=int(rng.integers(2 ** 31)))
    batches = Batches(sampler, None, 1, torch.device("cpu"))
    optimizer = torch.optim.AdamW([p for p in net.parameters()], 3e-3)
    fixed = batches.sample(32, False)
    fixed = with_pictures(fixed, rng) if picture else fixed

    def held() -> float:
        torch.manual_seed(0)
        with torch.no_grad():
            return float(baselines.losses_of(net, fixed, 2, PLAIN)["loss"])

    before = held()
    for _ in range(25):
        batch = batches.sample(8, False)
        loss = baselines.losses_of(net, with_pictures(batch, rng) if picture else batch, 1, PLAIN)["loss"]
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    assert np.isfinite(before) and held() < 0.9 * before


def test_a_checkpoint_comes_back(tmp_path, seeded):
    net = baselines.build("causal")
    torch.save({"ema": net.state_dict()}, tmp_path / "checkpoint.pt")
    back = baselines.load("causal", tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), back.state_dict().values()))
    assert not any(p.requires_grad for p in back.parameters())
    with pytest.raises(FileNotFoundError):
        baselines.load("causal", tmp_path / "nothing")
