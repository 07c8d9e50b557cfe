"""Training's pieces fit together: names, windows, targets."""
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tools.train.batches import StreamSampler
from tools.train.condition import ConditionRegression
from tools.train.denoiser import STEPS, Batches, Denoiser, flow_times, losses, train_sound_only
from tools.train.scenes import Scenes
from tools.train.streams import CHUNK, Streams

from .small_training import small_streams


@pytest.fixture
def streams(rng) -> Streams:
    return small_streams(rng)


def test_the_regression_learns_and_hands_its_weights_over(streams, seeded):
    net = ConditionRegression()
    sampler = StreamSampler(streams, held_out=4)
    optimizer = torch.optim.AdamW(net.parameters(), 3e-3)
    history = []
    while len(history) < 40 or np.mean(history[-5:]) >= 0.7 * history[0]:
        assert len(history) < 200, "nothing is learnt"
        rows = sampler.rows(16)
        mel = sampler.mel(rows, 0, CHUNK).reshape(16, CHUNK // 2, -1)
        loss = (net(sampler.features(rows), torch.from_numpy(rows[:, 1].copy())) - mel).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        history.append(float(loss.detach()))
    denoiser = Denoiser()
    result = denoiser.load_state_dict(net.state_dict(), strict=False)
    assert not result.unexpected_keys
    assert torch.equal(denoiser.dit.audio_mean.weight, net.dit["audio_mean"].weight)


def test_a_fresh_denoiser_starts_from_the_mean(streams, seeded):
    """Before any training the audio's loss, in units of what the mean leaves open, is the mean's own error over the
    assumed variance: nothing is lost by the network that adds nothing yet."""
    batches = Batches(StreamSampler(streams, held_out=4, seed=3), None, 1, torch.device("cpu"))
    net = Denoiser().eval()
    net.dit.audio_mean.weight.data.zero_()
    net.dit.audio_mean.bias.data.zero_()
    with torch.no_grad():
        batch = batches.sample(64, False)
        values = [losses(net, batch, 4, torch.autocast("cpu", enabled=False)) for _ in range(6)]
    variance = net.dit.config.audio_variance
    for value in values:
        assert torch.isfinite(value["loss"])
    # With a mean of zero the data's second moment stands where the variance should; t = 0 weighs it by 1 / variance.
    second = float(batch[1].square().mean())
    assert float(np.mean([float(v["mean"]) for v in values])) == pytest.approx(second, rel=0.15)
    assert float(np.mean([float(v["audio_only"]) for v in values])) < 1.2 * second / variance


def test_half_of_the_flow_times_are_the_samplers(seeded):
    t = flow_times(20_000, torch.device("cpu"))
    assert 0 <= t.min() and t.max() <= 1
    stops = torch.stack([(t == k / STEPS).float().mean() for k in range(STEPS)])
    assert torch.allclose(stops, torch.full((STEPS,), 0.5 / STEPS), atol=0.015)


def test_movement_weighs_the_places_that_change(rng):
    """Latents still but for one token of the grid, and the motion code, which moves everywhere."""
    video = np.repeat(rng.normal(0, 1, (40, 1, 12, 16, 16)), 4, 1)
    video[:, :, :4] = rng.normal(0, 1, (40, 4, 4, 16, 16))
    row, column = (int(i) for i in rng.integers(0, 8, 2))
    video[:, :, 4:, 2 * row: 2 * row + 2, 2 * column: 2 * column + 2] = rng.normal(0, 1, (40, 4, 8, 2, 2))
    scenes = Scenes(np.zeros((40, 6)), np.zeros(40), video.astype(np.float16), None, None, None, np.zeros(12), np.ones(12))
    weights = scenes.movement()
    assert weights.shape == (8, 8) and weights.mean() == pytest.approx(1, abs=1e-5)
    assert weights[row, column] == pytest.approx(64, rel=1e-4)


def test_joined_streams_keep_their_chunks(rng):
    parts = [small_streams(rng) for _ in range(3)]
    together = Streams.joined(parts)
    samplers = [StreamSampler(part, held_out=0) for part in (together, *parts)]
    begin = 0
    for part, sampler in zip(parts, samplers[1:]):
        own, rows = part.chunks, together.chunks[begin: begin + len(part.chunks)]
        assert (samplers[0].mel(rows, -CHUNK, 2 * CHUNK) == sampler.mel(own, -CHUNK, 2 * CHUNK)).all()
        assert (samplers[0].features(rows) == sampler.features(own)).all()
        begin += len(own)
    assert begin == len(together.chunks) and (np.diff(together.chunks[:, 4]) >= 0).all()
    assert (together.chunks[: len(parts[0].chunks)] == parts[0].chunks).all()
    assert len(np.unique(together.chunks[:, 4])) == 180


def test_the_sound_learns_alone_and_the_picture_stays(streams, seeded):
    net = Denoiser()
    train_sound_only(net)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    batches = Batches(StreamSampler(streams, held_out=4, seed=3), None, 1, torch.device("cpu"))
    optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], 1e-2)
    for _ in range(2):                                       # the last layers begin as zeros
        optimizer.zero_grad()
        losses(net, batches.sample(8, False), 1, torch.autocast("cpu", enabled=False))["loss"].backward()
        optimizer.step()
    changed = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert {"dit.audio_in.weight", "dit.audio_out.weight", "dit.blocks.0.audio.qkv.weight"} <= changed
    assert all("audio_" in k or ".audio." in k for k in changed) and "dit.audio_mean.weight" not in changed


def test_every_voice_is_heard_as_often(rng):
    """However much there is of it; samples say whose they are."""
    from tools.train.vocoder import by_voice, clips

    voices = [0, *[2] * 30, 1, 1]
    corpus = [SimpleNamespace(voice=voice, samples=np.full(40_000, 1000 * (voice + 1), np.int16)) for voice in voices]
    groups = by_voice(corpus, range(1, 33))
    assert [group.tolist() for group in groups] == [[31, 32], list(range(1, 31))]
    waves = clips(corpus, rng, 400, by_voice(corpus, range(33))).abs().amax(1)       # times a gain of 0.6 to 1.1
    share = [((waves > 1000 * (v + 1) * 0.6 / 32768) & (waves < 1000 * (v + 1) * 1.1 / 32768)).float().mean() for v in range(3)]
    assert 0.25 < share[0] < 0.42                                      # of the one utterance's voice
    plain = clips(corpus, rng, 400, [range(33)]).abs().amax(1)
    assert (plain < 1000 * 1.1 / 32768).float().mean() < 0.1
