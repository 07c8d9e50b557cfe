"""How velocities are followed: beside exact flows, and through the whole chain."""
import numpy as np
import pytest
import torch

from streamchar_rt.denoiser.sampler import Sampler, followed


def flowed(x, mean, deviation, steps, share):
    """Float64 noise ``x`` along the exact velocities of a normal distribution (the expectation of data minus noise)."""
    before = None
    for i in range(steps):
        t = i / steps
        variance = (1 - t) ** 2 + (t * deviation) ** 2
        v = mean + (t * deviation ** 2 - (1 - t)) / variance * (x - t * mean)
        x, before = followed(x, v, before, share, 1 / steps), v
    return x


@pytest.mark.parametrize("share, low, high", [(0.0, 0.71, 0.73), (0.5, 0.93, 0.96)])
def test_four_steps_keep_this_much_of_what_nothing_tells(rng, share, low, high):
    x = torch.from_numpy(rng.normal(size=10_000))
    kept = flowed(x, 0.0, 1.0, 4, share) / x
    assert low < kept.min() and kept.max() < high


@pytest.mark.parametrize("share", [0.0, 0.5])
@pytest.mark.parametrize("steps", [1, 2, 4])
def test_what_is_told_is_met_exactly(rng, share, steps):
    x, mean = torch.from_numpy(rng.normal(size=(2, 1000)))
    assert (flowed(x, mean, 0.0, steps, share) - mean).abs().max() < 1e-9


def test_the_error_falls_with_the_method_s_order(rng):
    """Against the exact flow, that leads a noise x to mean + deviation x."""
    x = torch.from_numpy(rng.normal(size=1000))
    error = lambda steps, share: float((flowed(x, 0.3, 0.7, steps, share) - (0.3 + 0.7 * x)).abs().max())
    for share, order in ((0.0, 1), (0.5, 2)):
        falls = np.log2(error(64, share) / error(128, share))
        assert order - 0.15 < falls < order + 0.15


def test_numbers_and_tensors_say_the_same(rng):
    x, v, before = torch.from_numpy(rng.normal(size=(3, 5, 7)).astype(np.float32))
    for sampler, steps in ((Sampler(), 4), (Sampler(0.5, 0.25), 4), (Sampler(0.5, 1.0), 1)):
        table = torch.from_numpy(sampler.table(steps))
        assert table.shape == (steps, 4) and torch.equal(table[:, 0], torch.arange(steps) / steps)
        for i, (_, length, *shares) in enumerate(table):
            for own, share in zip((sampler.picture, sampler.sound), shares):
                wanted = followed(x, v, before if i else None, own, 1 / steps)
                assert torch.equal(followed(x, v, before, share, length), wanted)


@pytest.mark.parametrize("wrong", [{"picture": -0.1}, {"sound": 1.5}, {"picture": float("nan")}])
def test_a_share_that_is_none_is_refused(wrong):
    with pytest.raises(ValueError, match="0 to 1"):
        Sampler(**wrong)
