"""Codecs: streams equal wholes, layouts and alignments are what they say."""
import numpy as np
import pytest
import torch

from streamchar_rt.codecs import mel
from streamchar_rt.codecs.video import FRAMES, MotionCode, ReferenceEncoder, VideoDecoder, VideoEncoder
from streamchar_rt.codecs.vocoder import DELAY, Vocoder


@pytest.fixture(scope="module")
def vocoder() -> Vocoder:
    return Vocoder().eval().requires_grad_(False)


def test_vocoder_in_pieces_equals_whole(vocoder, rng, seeded):
    frames = torch.randn(2, 90, mel.N_MELS) * 2 - 4
    whole, _ = vocoder.stream(frames, vocoder.start(2))
    state, pieces, at = vocoder.start(2), [], 0
    while at < frames.shape[1]:
        step = int(rng.integers(1, 20))
        samples, state = vocoder.stream(frames[:, at: at + step], state)
        pieces.append(samples)
        at += step
    assert torch.allclose(torch.cat(pieces, 1), whole, atol=1e-5)


def test_vocoder_never_looks_further_than_it_says(vocoder, seeded):
    """Changing frame n changes no sample before n * HOP - DELAY of the stream's time."""
    frames = torch.randn(1, 60, mel.N_MELS)
    other = frames.clone()
    other[:, 40] += 1.0
    a, b = (vocoder(f)[0] for f in (frames, other))
    changed = (a != b).nonzero()[:, 0]
    assert int(changed[0]) >= 40 * mel.HOP - DELAY
    assert int(changed[0]) < 40 * mel.HOP                     # and it is used at all


def test_streams_may_share_a_vocoder_state(vocoder, seeded):
    _, state = vocoder.stream(torch.randn(1, 20, mel.N_MELS), vocoder.start())
    held = [state.inputs, *state.blocks, state.tail, state.weight]
    before, mels = [x.clone() for x in held], torch.randn(2, 8, mel.N_MELS)
    first, second, again = (vocoder.stream(mels[i:i + 1], state)[0] for i in (0, 1, 0))
    assert torch.equal(first, again) and not torch.equal(first, second)
    assert all(torch.equal(x, y) for x, y in zip(before, held))
    assert all(x.untyped_storage().nbytes() == x.nbytes for x in state.blocks)    # nothing else is kept alive


def test_log_mel_finds_a_tone(rng):
    frequency = float(rng.uniform(200, 6000))
    t = np.arange(16000) / mel.SAMPLE_RATE
    spectrum = mel.log_mel(torch.from_numpy(np.sin(2 * np.pi * frequency * t).astype(np.float32)))
    assert spectrum.shape == (50, mel.N_MELS)
    centre = 700 * (10 ** (np.arange(1, mel.N_MELS + 1) * (2595 * np.log10(1 + 8000 / 700) / (mel.N_MELS + 1)) / 2595) - 1)
    peak = centre[int(spectrum[25].argmax())]
    assert abs(peak - frequency) < 0.06 * frequency + 30


def test_log_mel_frame_is_centred():
    samples = torch.zeros(16000)
    samples[10 * mel.HOP + mel.HOP // 2] = 1.0                # an impulse at the middle of frame 10
    assert int(mel.log_mel(samples).sum(1).argmax()) == 10


def test_video_codec_shapes_and_causality(seeded):
    encoder, reference, decoder = VideoEncoder().eval(), ReferenceEncoder().eval(), VideoDecoder().eval()
    frames, picture = torch.rand(3, FRAMES, 4, 256, 256), torch.rand(1, 4, 256, 256)
    with torch.no_grad():
        z = encoder(frames, torch.randn(3, FRAMES, 21), picture.expand(3, -1, -1, -1))
        assert z.shape == (3, 12, 16, 16) and z[:, MotionCode.CHANNELS:].abs().max() <= 2
        features = reference(picture)
        before = torch.cat([z[:1], z[:-1]])
        whole, warped, flow = decoder(z, before, picture, features)
        assert whole.shape == warped.shape == (3, FRAMES, 4, 256, 256) and flow.shape == (3, FRAMES, 2, 64, 64)
        alone = decoder(z[1:2], z[:1], picture, features).frames
    assert torch.allclose(whole[1:2], alone, atol=1e-4)       # latent by latent equals all at once


def test_motion_code_is_read_back_and_averages_noise(seeded):
    """Fields that move evenly over a latent come back exactly; noise in the cells is divided by their number's root."""
    code, frames = MotionCode(), torch.linspace(-1, 1, FRAMES)[:, None]
    fields = torch.randn(5, 1, 21) + torch.randn(5, 1, 21) * frames
    written = code.write(fields, 16, 16)
    assert written.shape == (5, 4, 16, 16)
    assert torch.allclose(code.read(written), fields[..., :7], atol=1e-5)
    error = code.read(written + torch.randn_like(written)) - fields[..., :7]
    assert error[..., 3:].std() < 2 * (1 / 1.5 ** 2 + 1 / 6 ** 2) ** 0.5 / 8       # 64 cells for each number


def test_joined_movement_goes_on_where_the_one_before_ended(seeded):
    """The first frame lies one step behind the last one; the rest of the jump dies away; all else stays as it was."""
    code = MotionCode()
    before, after = torch.randn(1, 12, 16, 16), torch.randn(7, 12, 16, 16)
    joined = code.joined(after, before)
    old, raw, new = (code.read(x[:, :4]).double() for x in (torch.cat([before, joined[:-1]]), after, joined))
    step = ((old[:, 3] - old[:, 2]) + (raw[:, 1] - raw[:, 0])) / 2
    jump = raw[:, 0] - old[:, 3] - step
    for k, left in enumerate((1.0, 0.75, 0.5, 0.25)):
        assert (new[:, k] - (raw[:, k] - left * jump)).abs().max() < 1e-5
    assert (new[:, 0] - old[:, 3] - step).abs().max() < 1e-5
    assert torch.equal(joined[:, 4:], after[:, 4:])
    differences = (joined - after)[:, :4].unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2))
    assert (differences - differences.mean((2, 4), keepdim=True)).abs().max() < 1e-5     # the same in every cell


def test_movement_that_goes_on_evenly_is_not_touched(seeded):
    code, time = MotionCode(), torch.arange(16.0)[:, None]
    track = torch.randn(1, 21) + 0.1 * torch.randn(1, 21) * time
    before, *after = code.write(track.unflatten(0, (-1, 4)), 16, 16)
    after = torch.stack(after)
    assert (code.joined(after, before[None]) - after).abs().max() < 1e-4
