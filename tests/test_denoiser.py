"""The cached run time against the whole window, and the pieces both are made of."""
import copy
import math

import pytest
import torch

from streamchar_rt.denoiser import noise
from streamchar_rt.denoiser.context import MOTION, SINK, CachedDenoiser
from streamchar_rt.denoiser.dit import LOST, DiTConfig, JointDiT, Style, Window, patchify, unpatchify, windowed_velocity
from streamchar_rt.denoiser.layout import Layout, rotary_table, rotate


@pytest.fixture
def dit(seeded) -> JointDiT:
    """A small random network whose zero-initialised layers are made to matter."""
    net = JointDiT(DiTConfig(depth=3))
    for p in net.parameters():
        if not p.abs().any():
            torch.nn.init.normal_(p, std=0.05)
    return net.eval().requires_grad_(False)


def _chunk() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(1, 256, 48), torch.randn(1, 16, 160)


def _style() -> Style:
    return Style(torch.tensor([1]), torch.tensor([2]), torch.tensor([0]))


@pytest.mark.parametrize("kernels", ["reference", "native"])
@pytest.mark.parametrize("with_sink,with_motion", [(False, False), (False, True), (True, True)])
def test_cached_equals_whole_window(dit, kernels, with_sink, with_motion):
    runtime = CachedDenoiser(copy.deepcopy(dit), kernels)
    cache = runtime.new_cache()
    reference = 3 * torch.randn(1, 64, 16, 16)
    sink, motion, current = _chunk(), _chunk(), _chunk()
    c_v, c_a = torch.randn(1, 4, 256), torch.randn(1, 16, 256)
    runtime.write_reference(cache, reference)
    if with_sink:
        runtime.write_chunks(SINK, [cache], *([x] for x in sink))
    if with_motion:
        runtime.write_chunks(MOTION, [cache], *([x] for x in _chunk()))      # an older one, which the next replaces
        runtime.write_chunks(MOTION, [cache], *([x] for x in motion))
    (got,) = runtime.velocities([cache], *([x] for x in (*current, _style(), c_v, c_a)), 0.3)
    window = Window(*current, patchify(reference[:, None]), sink if with_sink else None, motion if with_motion else None)
    want = windowed_velocity(dit.double(), Window(*(w.double() for w in current), window.reference.double(),
                             *(tuple(x.double() for x in pair) if pair else None for pair in (window.sink, window.motion))),
                             torch.tensor([0.3], dtype=torch.float64), _style(), c_v.double(), c_a.double())
    for a, b in zip(got, want):
        assert (a.double() - b).abs().max() <= 1e-4 * b.abs().max()


def test_after_reanchoring_the_last_chunk_is_not_seen(dit):
    """As if it had never been; the sink stays, a fork keeps what it had, and the stream goes on from there."""
    from types import SimpleNamespace

    from streamchar_rt.pipeline import StreamState

    runtime = CachedDenoiser(dit)
    reference, sink, motion, later = torch.randn(1, 64, 16, 16), _chunk(), _chunk(), _chunk()
    current, c_v, c_a = _chunk(), torch.randn(1, 4, 256), torch.randn(1, 16, 256)
    see = lambda cache: runtime.velocities([cache], *([x] for x in (*current, _style(), c_v, c_a)), 0.5)[0]
    write = lambda cache, segment, chunk: runtime.write_chunks(segment, [cache], *([x] for x in chunk))
    cache, never = runtime.new_cache(), runtime.new_cache()
    for one in (cache, never):
        runtime.write_reference(one, reference)
        write(one, SINK, sink)
    write(cache, MOTION, motion)
    fork, before = cache.fork(), see(cache)
    StreamState.reanchor(SimpleNamespace(cache=cache))
    assert all(torch.equal(a, b) for a, b in zip(see(cache), see(never)))
    assert not torch.equal(see(cache)[0], before[0])
    assert all(torch.equal(a, b) for a, b in zip(see(fork), before))
    for one in (cache, never):
        write(one, MOTION, later)
    assert all(torch.equal(a, b) for a, b in zip(see(cache), see(never)))


def test_several_draws_share_a_context(dit):
    reference, motion = torch.randn(2, 64, 256), (torch.randn(2, 256, 48), torch.randn(2, 16, 160))
    video, audio = torch.randn(4, 256, 48), torch.randn(4, 16, 160)
    c_v, c_a, t = torch.randn(4, 4, 256), torch.randn(4, 16, 256), torch.rand(4)
    style = Style(*(torch.zeros(4, dtype=torch.long),) * 3)
    together = windowed_velocity(dit, Window(video, audio, reference, None, motion), t, style, c_v, c_a)
    for i in range(4):
        one = Style(*(torch.zeros(1, dtype=torch.long),) * 3)
        j = slice(i // 2, i // 2 + 1)
        alone = windowed_velocity(dit, Window(video[i:i + 1], audio[i:i + 1], reference[j], None, (motion[0][j], motion[1][j])),
                                  t[i:i + 1], one, c_v[i:i + 1], c_a[i:i + 1])
        for a, b in zip(together, alone):
            assert torch.allclose(a[i:i + 1], b, atol=1e-4)


def test_speech_only_needs_no_video_tokens(dit):
    window = Window(torch.zeros(3, 0, 48), torch.randn(3, 16, 160), None, None, (torch.zeros(3, 0, 48), torch.randn(3, 16, 160)))
    style = Style(*(torch.zeros(3, dtype=torch.long),) * 3)
    v, a = windowed_velocity(dit, window, torch.rand(3), style, torch.zeros(3, 4, 256), torch.randn(3, 16, 256))
    assert v.shape == (3, 0, 48) and a.shape == (3, 16, 160) and a.isfinite().all()


def test_patches_round_trip(seeded):
    x = torch.randn(2, 4, 12, 16, 16)
    tokens = patchify(x)
    assert tokens.shape == (2, 256, 48)
    assert torch.equal(unpatchify(tokens, 8), x)
    # The first token is the top left 2 x 2 patch of the first latent.
    assert torch.equal(tokens[0, 0].reshape(12, 2, 2), x[0, 0, :, :2, :2])


def test_rotation_depends_on_distance_only(seeded):
    layout = Layout()
    q, k = torch.randn(1, 1, 1, 64), torch.randn(1, 1, 1, 64)

    def score(a: float, b: float) -> float:
        tables = [rotary_table(layout, torch.tensor([[x, 3.0, 1.0]])) for x in (a, b)]
        return float((rotate(q, *tables[0]) * rotate(k, *tables[1])).sum())

    assert math.isclose(score(5, 2), score(45, 42), rel_tol=1e-4, abs_tol=1e-4)
    assert not math.isclose(score(5, 2), score(5, 4), rel_tol=1e-3)


def test_noise_is_a_function_of_its_key():
    a = noise.noise((3, 5), seed=7, chunk=2, step=0, stream=noise.VIDEO)
    assert torch.equal(a, noise.noise((3, 5), seed=7, chunk=2, step=0, stream=noise.VIDEO))
    others = [dict(seed=8, chunk=2, step=0, stream=0), dict(seed=7, chunk=3, step=0, stream=0),
              dict(seed=7, chunk=2, step=1, stream=0), dict(seed=7, chunk=2, step=0, stream=1)]
    assert all(not torch.equal(a, noise.noise((3, 5), **key)) for key in others)
    big = noise.noise((200_000,), seed=2 ** 64 - 1, chunk=10 ** 6, step=3, stream=noise.AUDIO)
    assert abs(float(big.mean())) < 0.01 and abs(float(big.std()) - 1) < 0.01


@pytest.mark.parametrize("storage,limit", [("fp32", 1e-5), ("bf16", 2e-2), ("int8", 6e-2)])
def test_packed_blocks_equal_plain_ones_up_to_their_rounding(dit, storage, limit):
    """Relative error of a whole step, weights and products rounded in every layer; and the rows of one stream do not
    depend on the company."""
    reference, motion = 3 * torch.randn(2, 64, 16, 16), [_chunk(), _chunk()]
    current, c_v, c_a = [_chunk(), _chunk()], torch.randn(2, 4, 256), torch.randn(2, 16, 256)

    def velocities(runtime, streams):
        caches = [runtime.new_cache() for _ in streams]
        for cache, i in zip(caches, streams):
            runtime.write_reference(cache, reference[i:i + 1])
        columns = lambda pairs: ([pairs[i][0] for i in streams], [pairs[i][1] for i in streams])
        runtime.write_chunks(MOTION, caches, *columns(motion))
        conditions = [[c[i:i + 1] for i in streams] for c in (c_v, c_a)]
        return runtime.velocities(caches, *columns(current), [_style()] * len(streams), *conditions, 0.3)

    wanted = velocities(CachedDenoiser(dit, "reference"), [0, 1])
    packed = CachedDenoiser(dit, storage=storage)
    assert dit.blocks[0].video.qkv is None                    # kept once
    together = velocities(packed, [0, 1])
    for got, want in zip(together, wanted):
        for a, b in zip(got, want):
            assert (a - b).norm() <= limit * b.norm()
            assert not torch.equal(a, b)
    for i in (0, 1):
        for a, b in zip(velocities(packed, [i])[0], together[i]):
            assert (a - b).norm() <= 1e-5 * b.norm()          # the layers around the blocks may round differently


@pytest.mark.parametrize("t", [0.0, 0.25, 0.6, 1.0])
def test_audio_velocity_without_a_residual_is_the_gaussian_regression(dit, t):
    """For x1 ~ N(mean, variance), x0 ~ N(0, 1) and x = (1 - t) x0 + t x1, E[x1 - x0 | x] by the covariances."""
    noisy, condition = torch.randn(2, 16, 160), torch.randn(2, 16, 256)
    mean, variance = dit.audio_mean(condition).double(), dit.config.audio_variance
    covariance, total = t * variance - (1 - t), t ** 2 * variance + (1 - t) ** 2
    want = mean + covariance / total * (noisy.double() - t * mean)
    got = dit.audio_velocity(torch.zeros_like(noisy), noisy, condition, torch.full((2,), t))
    assert (got.double() - want).abs().max() <= 1e-5 * want.abs().max()
    # One unit of the residual is one deviation of what the noisy token leaves open.
    one = dit.audio_velocity(torch.ones_like(noisy), noisy, condition, torch.full((2,), t)) - got
    left = 1 + variance - covariance ** 2 / total             # Var[x1 - x0 | x]
    assert torch.allclose(one, torch.full_like(one, left ** 0.5), atol=1e-5)


@pytest.mark.parametrize("t", [0.0, 0.4, 0.75])
def test_sound_that_would_be_lost_is_brought_back_to_what_the_condition_asks_for(dit, t, rng):
    """Half a chunk whose expected clean sound is far below its mean, and half with true speech's deviations."""
    condition, flow = torch.randn(2, 16, 256), torch.full((2,), t)
    mean = dit.audio_mean(condition)
    beyond = 0.2 * torch.randn(2, 16, 160)
    lost = float(rng.uniform(1.5, 4))
    beyond[:, 8:] -= lost
    noisy = torch.randn(2, 16, 160)
    plain = (mean + beyond - noisy) / (1 - t)                # the velocity that leads there
    at = lambda residual: dit.audio_velocity(residual, noisy, condition, flow)
    residual = (plain - at(torch.zeros_like(noisy))) / (at(torch.ones_like(noisy)) - at(torch.zeros_like(noisy)))
    clean = noisy + (1 - t) * dit.audible_velocity(residual, noisy, condition, flow)
    found = (clean - mean).double()
    assert torch.allclose(found[:, :5], beyond[:, :5].double(), atol=1e-3)       # far enough from what is lost
    inner = found[:, 10:]                                                        # wholly inside it
    assert (inner.mean((1, 2)) + LOST).abs().max() < 0.05
    shrunk = beyond[:, 10:].double() * LOST / lost           # all of a half-frame by one factor: its shape is the mean's
    assert (inner - shrunk).norm() <= 0.1 * shrunk.norm()
    quiet = dit.audible_velocity(residual[:, :8], noisy[:, :8], condition[:, :8], flow)
    assert torch.allclose(quiet, at(residual)[:, :8], atol=1e-3)                 # nothing lost, nothing done
