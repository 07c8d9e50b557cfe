"""The sound's velocity as a native op, against its formula in float64 and the denoiser's own."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from streamchar_rt import ops
from streamchar_rt.denoiser.dit import LOST, LOST_SPAN, DiTConfig, JointDiT
from streamchar_rt.errors import ConfigError

from .native_support import fresh_generator, relative_error


def truth(residual, noisy, mean, t, variance, frames):
    """Of one stream, frame by frame; and the velocity before it is mended."""
    bins = noisy.shape[1] // frames
    r, x, m = (y.double().numpy().reshape(-1, bins) for y in (residual, noisy, mean))
    total = (1 - t) ** 2 + t ** 2 * variance
    plain = ((1 - t) * m + (t * variance - (1 - t)) * x) / total + np.sqrt(variance / total) * r
    beyond = x + (1 - t) * plain - m
    level, mended = beyond.mean(1), plain.copy()
    for f in range(len(x)):
        near = [level[min(max(k, 0), len(x) - 1)] for k in range(f - LOST_SPAN // 2, f + LOST_SPAN // 2 + 1)]
        keep = LOST / max(LOST, -np.mean(near))
        mended[f] -= beyond[f] * (1 - keep) / (1 - t)
    return (torch.from_numpy(v.reshape(noisy.shape)) for v in (mended, plain))


@pytest.mark.parametrize("tokens,bins,frames", [(16, 80, 2), (1, 3, 2), (5, 7, 1), (33, 20, 3)])
@torch.inference_mode()
def test_equals_the_formula(tokens, bins, frames):
    generator = fresh_generator()
    config = DiTConfig(width=64, depth=0, heads=1, mel_bins=bins, mel_frames_per_token=frames)
    dit = JointDiT(config)
    for t in (0.0, 0.25, float(torch.rand((), generator=generator)), 0.99):
        residual, noisy, mean = torch.randn(3, 2, tokens, bins * frames, generator=generator)
        # Sound is lost here and there, and in the second stream in every frame.
        share = torch.rand(2, tokens, 1, generator=generator)
        residual -= torch.stack([4 * share[0], 15 + 15 * share[1]])
        dit.audio_mean.forward = lambda condition: mean
        got = ops.audible_velocity(residual, noisy, mean, t, variance=config.audio_variance, frames=frames, lost=LOST,
                                   span=LOST_SPAN)
        for i in range(2):
            wanted, plain = truth(residual[i], noisy[i], mean[i], t, config.audio_variance, frames)
            assert relative_error(got[i], wanted) < 1e-5
            assert i == 0 or t > 0.9 or relative_error(plain, wanted) > 1e-3
            alone = ops.audible_velocity(residual[i:i + 1], noisy[i:i + 1], mean[i:i + 1], t, lost=LOST, span=LOST_SPAN,
                                         variance=config.audio_variance, frames=frames)
            assert torch.equal(alone, got[i:i + 1])
        assert relative_error(got, dit.audible_velocity(residual, noisy, None, torch.tensor([t]))) < 1e-5


def test_what_does_not_fit_is_refused():
    x = torch.zeros(2, 4, 6)
    call = lambda residual=x, noisy=x, mean=x, t=0.5, **changed: ops.audible_velocity(
        residual, noisy, mean, t, **{**dict(variance=0.1, frames=2, lost=0.5, span=9), **changed})
    call()
    for wrong in (lambda: call(residual=x[:1]), lambda: call(noisy=x[0]), lambda: call(mean=x.double()), lambda: call(t=1.0),
                  lambda: call(t=-0.1), lambda: call(frames=4), lambda: call(frames=0), lambda: call(span=8),
                  lambda: call(lost=0.0), lambda: call(noisy=torch.zeros(2, 4, 6, requires_grad=True))):
        with pytest.raises(ConfigError):
            wrong()
