"""Distillation: the matching gradient, the few steps, rollouts against the run time, and resuming."""
from argparse import Namespace
from dataclasses import fields

import numpy as np
import pytest
import torch

from streamchar_rt import pipeline
from streamchar_rt.codecs.video import ReferenceEncoder, VideoCodecConfig, VideoDecoder
from streamchar_rt.codecs.vocoder import Vocoder, VocoderConfig
from streamchar_rt.denoiser import noise as random
from streamchar_rt.denoiser.dit import Style, patchify
from streamchar_rt.orchestrator.condition import FEATURES
from streamchar_rt.orchestrator.model import Orchestrator, OrchestratorConfig
from streamchar_rt.model_state import _Units
from streamchar_rt.pipeline import CharacterFeatures, Models, StreamState, generate_chunk
from streamchar_rt.pipeline import Style as RunTimeStyle
from streamchar_rt.planner import PLANS
from tools.evaluate.detail import shares
from tools.train.batches import StreamSampler
from tools.train.denoiser import Batches, Denoiser
from tools.train.distill import draw_noise, unpack
from tools.train.distribution_matching import Distiller, matching_loss, mix, score_times
from tools.train.few_step import Given, exit_at, guided_velocity, sample, velocity
from tools.train.rollout import Planner, Start, Starts, Transcript, choose_stops, roll_out
from tools.train.scenes import Scenes
from tools.train.streams import Streams

from .small_training import CONDITION, DIT, LAYOUT, randomised, small_streams

STEPS = 4
PLAIN = torch.autocast("cpu", enabled=False)


@pytest.fixture
def streams(rng) -> Streams:
    return small_streams(rng)


def small_denoiser() -> Denoiser:
    return randomised(Denoiser(DIT, CONDITION)).eval()


def random_given(count: int = 2) -> Given:
    pair = lambda: (torch.randn(count, LAYOUT.video_tokens, 48), torch.randn(count, 16, 160))
    style = Style(*(torch.randint(high, (count,)) for high in (4, 5, 3)))
    return Given(torch.randn(count, 4, 32), pair(), pair(), torch.rand(count, 48, FEATURES), style)


# ------------------------------------------------------------------ the gradient
def test_the_gradient_is_the_normalised_difference_of_the_scores(seeded):
    clean = tuple(torch.randn(3, n, f, dtype=torch.float64, requires_grad=True) for n, f in ((8, 6), (5, 4)))
    t = score_times(3, 1.0, torch.device("cpu")).double()
    noise = draw_noise(clean)
    real = lambda noisy, t: tuple(0.5 * x + t[:, None, None] for x in noisy)
    fake = lambda noisy, t: tuple(0.8 * x - 0.3 for x in noisy)
    matching_loss(clean, real, fake, t, noise=noise).backward()
    for x, n in zip(clean, noise):
        for i in range(3):
            noisy = (1 - t[i]) * n[i] + t[i] * x[i].detach()
            r, f = 0.5 * noisy + t[i], 0.8 * noisy - 0.3
            expected = (f - r) / (x[i].detach() - r).abs().mean() / x.numel()
            assert torch.allclose(x.grad[i], expected, rtol=1e-9, atol=1e-15)


def test_places_that_move_weigh_more(seeded):
    weights = torch.rand(4).double() + 0.5
    grads = []
    for movement in (None, weights):
        clean = (torch.ones(2, 8, 6, dtype=torch.float64, requires_grad=True), torch.ones(2, 5, 4, dtype=torch.float64))
        zero = tuple(map(torch.zeros_like, clean))
        matching_loss(clean, lambda *_: zero, lambda *_: (zero[0] + 0.25, zero[1]), torch.full((2,), 0.5).double(),
                      movement, noise=zero).backward()
        grads.append(clean[0].grad)
    assert torch.allclose(grads[0], torch.full_like(grads[0], 0.25 / 96))
    assert torch.allclose(grads[1], grads[0] * weights.repeat(2)[None, :, None])


def test_of_the_picture_alone_the_sound_does_not_count(seeded):
    grads = {}
    for picture in (False, True):
        clean = (torch.randn(2, 8, 6, requires_grad=True), torch.randn(2, 5, 4, requires_grad=True))
        zero = tuple(map(torch.zeros_like, clean))
        loss = matching_loss(clean, lambda *_: zero, lambda *_: clean, torch.full((2,), 0.5), picture=picture)
        grads[picture] = torch.autograd.grad(loss, clean, allow_unused=True)
    assert all(g is not None and g.any() for g in grads[False])
    assert grads[True][0].any() and grads[True][1] is None


@pytest.mark.parametrize("only,kind", [("picture", "video"), ("sound", "audio")])
def test_distilling_one_leaves_what_the_other_is_made_with(teacher, tmp_path, only, kind):
    distiller = Distiller(arguments(tmp_path / "out", teacher, only=only), three())
    learning = {k for k, p in distiller.student.named_parameters() if p.requires_grad}
    assert learning == {k for k in distiller.student.state_dict()
                        if f".{kind}." in k or k.startswith((f"dit.{kind}_in", f"dit.{kind}_out"))}
    assert {id(p) for group in distiller.loop.optimizer.param_groups for p in group["params"]} == {
        id(p) for p in distiller.student.parameters() if p.requires_grad}
    assert all(p.requires_grad for p in distiller.critic.parameters())


def test_a_gaussian_student_becomes_the_teacher(seeded):
    """Scores in closed form: E[x1 | x_t] of N(m, s^2) noised to flow time t."""
    true_mean, true_std = torch.randn(4), 0.2 + torch.rand(4)
    mean, log_std = torch.nn.Parameter(torch.zeros(4)), torch.nn.Parameter(torch.zeros(4))
    optimizer = torch.optim.Adam([mean, log_std], 0.02)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 600)

    def score(m, s):
        def expect(noisy, t):
            t = t[:, None, None]
            gain = t * s ** 2 / (t ** 2 * s ** 2 + (1 - t) ** 2)
            return noisy[0], m + gain * (noisy[1] - t * m)
        return expect

    empty = torch.zeros(64, 0, 1)
    for _ in range(600):
        clean = mean + log_std.exp() * torch.randn(64, 8, 4)
        fake = score(mean.detach(), log_std.detach().exp())
        optimizer.zero_grad()
        matching_loss((empty, clean), score(true_mean, true_std), fake, score_times(64, 1.0, clean.device)).backward()
        optimizer.step()
        schedule.step()
    assert torch.allclose(mean, true_mean, atol=0.1)
    assert torch.allclose(log_std.exp(), true_std, rtol=0.15)


def test_score_times_stay_inside_and_shift_towards_noise(seeded):
    plain, noisy = (score_times(20_000, shift, torch.device("cpu")) for shift in (1.0, 3.0))
    for t in (plain, noisy):
        assert 0.02 <= t.min() + 1e-6 and t.max() <= 0.98 + 1e-6
    assert abs(float(plain.mean()) - 0.5) < 0.02
    assert float(noisy.median()) == pytest.approx(0.25, abs=0.02)     # a noise level of 1/2 becomes 3/4


# ------------------------------------------------------------------ few steps
def test_the_last_step_estimates_what_the_sampler_gives(seeded):
    net, given = small_denoiser(), random_given()
    noise = draw_noise(given.motion)
    with torch.no_grad():
        final = sample(net, given, noise, STEPS)
        last = exit_at(net, given, noise, STEPS, STEPS - 1).estimate(net)
        first = exit_at(net, given, noise, STEPS, 0)
    assert all(torch.equal(a, b) for a, b in zip(first.noisy, noise))
    for a, b in zip(last, final):
        assert torch.allclose(a, b, atol=1e-5)


def test_guidance_is_linear_between_withheld_and_told(seeded):
    net, given = small_denoiser(), random_given()
    noisy, t = draw_noise(given.motion), torch.rand(2)
    with torch.no_grad():
        told, withheld = (velocity(net, given, noisy, t, torch.full((2, 1, 1), x)) for x in (1.0, 0.0))
        assert all(torch.equal(a, b) for a, b in zip(told, velocity(net, given, noisy, t)))
        for guidance in ((0.0, 1.0), (1.0, 1.0), (2.5, 0.5)):
            for a, u, c, scale in zip(guided_velocity(net, given, noisy, t, guidance), withheld, told, guidance):
                assert torch.allclose(a, u + scale * (c - u), atol=1e-4)


# ------------------------------------------------------------------ the transcript
def test_a_transcript_that_follows_the_truth_arrives_at_the_truth(streams, rng):
    """What is carried from a chunk to the next is what the data says there."""
    row = streams.chunks[3 * int(rng.integers(60))]
    following = row.copy()
    following[0] += 32
    walker, expected = (Transcript(None, streams, r, 8) for r in (row, following))
    index = int(row[0]) + np.arange(40)
    path = streams.place[index] - (walker.pointer - 6)
    units = np.stack([streams.unit, streams.stress, streams.word_start], 1)[streams.place[index]]
    elapsed = np.minimum(streams.elapsed[index], 15).astype(np.int64)
    plan = Namespace(first=walker.pointer - 6, path=path, elapsed=elapsed,
                     half_frames=np.concatenate([walker.past, np.concatenate([units, elapsed[:, None]], 1)]))
    walker.advance(plan, 32)
    assert (walker.pointer, walker.elapsed) == (expected.pointer, expected.elapsed)
    assert np.array_equal(walker.past, expected.past)


def test_the_visible_transcript_grows_as_it_does_at_run_time(streams, rng):
    first = int(streams.chunks[0, 2])
    rows = lambda a, b: list(zip(*(getattr(streams, k)[a:b].tolist() for k in ("unit", "stress", "word_start"))))
    transcript, units = Transcript(None, streams, streams.chunks[0], 8), _Units()
    transcript.units.last = first + 4
    units.base, units.rows = first, rows(first, first + 5)
    for last in (first + 4, first + 30):
        transcript.see(last)
        units.rows = rows(first, last + 1)
        for at in rng.integers(first - 10, first + 40, 20):
            assert np.array_equal(transcript.units.window(int(at), 32), units.window(int(at), 32))


# ------------------------------------------------------------------ rollouts
def run_time_models(orchestrator: Orchestrator, net: Denoiser) -> Models:
    thin = (8, 8, 8)
    codec = VideoCodecConfig(size=64, encoder=thin, decoder=thin, reference=thin, trunk=1, motion_width=8)
    return Models(orchestrator=orchestrator, condition=net.condition, dit=net.dit,
                  vocoder=Vocoder(VocoderConfig(width=8, hidden=8, depth=1)), reference_encoder=ReferenceEncoder(codec),
                  video_decoder=VideoDecoder(codec), latent_mean=torch.zeros(12), latent_std=torch.ones(12))


def test_a_rollout_is_the_run_time(streams, rng, seeded, monkeypatch):
    """Same weights, text and noise, several chunks: same latents, same pointer, and the same plans' inputs."""
    orchestrator = Orchestrator(OrchestratorConfig(width=32, layers=1, heads=2, feed_forward=32, head_layers=1,
                                                   head_feed_forward=32)).eval()
    # A pointer within rounding of a boundary may fall to either side, so it must not depend on what is rounded
    # differently: the sound. What the orchestrator is shown of it is compared instead.
    for layer in (orchestrator.noisy, orchestrator.history):
        layer.weight.data.zero_()
    net, chunks = small_denoiser(), 3
    row = streams.chunks[3 * int(rng.integers(60))]
    style = RunTimeStyle(int(row[1]), int(rng.integers(5)), int(rng.integers(3)))
    seen: list[tuple] = []
    align, encode = Orchestrator.align, Orchestrator.encode

    def watched_align(self, states, noisy, t):
        seen.append((noisy, float(t[0])))
        return align(self, states, noisy, t)

    def watched_encode(self, window, history, voice):
        seen.append((history, window.unit, window.stress, window.word_start, voice))
        return encode(self, window, history, voice)

    monkeypatch.setattr(Orchestrator, "align", watched_align)
    monkeypatch.setattr(Orchestrator, "encode", watched_encode)

    models = run_time_models(orchestrator, net)
    picture = torch.rand(1, 4, 64, 64)
    with torch.inference_mode():
        character = CharacterFeatures(picture, tuple(models.reference_encoder(picture)))
    state, at_run_time, pointers, shown = StreamState(models, character, seeded), [], [], []
    decode_video = pipeline._decode_video

    def watched_decode(models, state, latents, *rest):
        shown.append(latents[:, -1:])
        return decode_video(models, state, latents, *rest)

    monkeypatch.setattr(pipeline, "_decode_video", watched_decode)
    first, last = int(row[2]), int(row[3])
    cuts = [first + 12, first + 25, last]                               # text arrives chunk by chunk
    state.units.rows = [tuple(int(getattr(streams, k)[first]) for k in ("unit", "stress", "word_start"))]
    pushed = first
    for cut in cuts:
        text = slice(pushed + 1, cut + 1)
        state.append_units(list(zip(streams.unit[text], streams.stress[text], streams.word_start[text])))
        pushed = cut
        generate_chunk(models, state, style, steps=STEPS)
        at_run_time.append(state.history[-32:].reshape(1, 16, 160))
        pointers.append(state.pointer)
    runs_seen, seen[:] = list(seen), []

    planner = Planner(orchestrator, torch.device("cpu"))
    transcript = Transcript(planner.models, streams, row, CONDITION.past)
    transcript.units.last = first
    silence = StreamState(models, character, seeded).history[None]
    one = Style(*(torch.tensor([x]) for x in (style.voice, style.emotion, style.mode)))
    reference = patchify(character.features[-1][:, None])
    start = Start([transcript], np.array([cuts]), silence, [one] * chunks, reference, None, None, LAYOUT.video_tokens)
    draw = lambda k, count, width, stream: random.noise((1, count, width), seed=seeded, chunk=k, step=0, stream=stream)
    noises = [(draw(k, LAYOUT.video_tokens, 48, random.VIDEO), draw(k, 16, 160, random.AUDIO)) for k in range(chunks)]
    stops = [int(x) for x in rng.integers(0, STEPS, chunks)]
    exits, trained = roll_out(net, planner, start, noises, STEPS, stops, PLAIN)

    close = lambda a, b: (a - b).abs().max() <= 1e-4 * b.abs().max().clamp(min=1.0)
    assert transcript.pointer == first + pointers[-1]
    for (video, audio), expected, latent in zip(trained, at_run_time, shown):
        assert close(audio, expected)
        assert close(models.denoiser.unpatchify(video)[:, -1:], latent)
    assert len(seen) == len(runs_seen) == chunks * (PLANS + 1)
    for ours, theirs in zip(seen, runs_seen):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs):
            assert a == b if isinstance(a, float) else close(a, b)
    # The exits are steps of that very way, and their past is the student's own.
    for k, (e, stop) in enumerate(zip(exits, stops)):
        assert float(e.t) == stop / STEPS
        assert (e.given.motion is None) == (k == 0) == (e.given.sink is None)
        if k:
            assert e.given.motion is trained[k - 1] and e.given.sink is trained[0]


def test_nothing_but_the_exit_step_has_a_gradient(streams, rng, seeded):
    orchestrator = Orchestrator(OrchestratorConfig(width=32, layers=1, heads=2, feed_forward=32, head_layers=1,
                                                   head_feed_forward=32))
    planner, net = Planner(orchestrator, torch.device("cpu")), small_denoiser()
    sampler = StreamSampler(streams, held_out=4, seed=int(rng.integers(100)))
    start = Starts(sampler, None, planner, net, torch.device("cpu")).sample(2, 3, False)
    noises = [(torch.zeros(2, 0, 48), torch.randn(2, 16, 160)) for _ in range(3)]
    exits, _ = roll_out(net, planner, start, noises, STEPS, [None, 2, 1], PLAIN)
    assert len(exits) == 2
    flat = lambda x: [x] if isinstance(x, torch.Tensor) else [] if x is None else [z for y in x for z in flat(y)] \
        if isinstance(x, tuple) else [z for f in fields(x) for z in flat(getattr(x, f.name))]
    for e in exits:
        tensors = flat(e)
        assert len(tensors) >= 9 and not any(x.requires_grad for x in tensors)
    # What learns is one step: its gradient is the same when all that led there is a constant copy.
    e = exits[-1]
    copy = lambda x: x.clone() if isinstance(x, torch.Tensor) else None if x is None else tuple(map(copy, x)) \
        if isinstance(x, tuple) else type(x)(*(copy(getattr(x, f.name)) for f in fields(x)))
    gradients = []
    for work in (e, copy(e)):
        net.zero_grad()
        work.estimate(net)[1].square().mean().backward()
        gradients.append({k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None})
    assert gradients[0] and all(torch.equal(v, gradients[1][k]) for k, v in gradients[0].items())


def test_a_rollout_ends_with_its_last_graded_chunk(rng):
    for _ in range(50):
        length, graded = int(rng.integers(1, 7)), int(rng.integers(1, 7))
        stops = choose_stops(length, graded, STEPS, rng)
        assert len(stops) <= length and stops[-1] is not None
        assert sum(s is not None for s in stops) == min(length, graded)
        assert all(0 <= s < STEPS for s in stops if s is not None)


def test_streams_with_picture_start_as_their_scene_was(streams, rng, seeded):
    """Chunks of scenes that follow each other; without a past, or with the true one and an early chunk as the sink."""
    count = len(streams.chunks)
    video = rng.normal(0, 1, (count, 4, 12, 4, 4)).astype(np.float16)
    scenes = Scenes(streams.chunks, streams.chunks[:, 4], video, np.ones((count, 1, 8, 4, 4), np.float16),
                    np.arange(count) % 5, np.arange(count) % 3, np.zeros(12), np.ones(12))
    orchestrator = Orchestrator(OrchestratorConfig(width=32, layers=1, heads=2, feed_forward=32, head_layers=1,
                                                   head_feed_forward=32))
    sampler = StreamSampler(streams, held_out=4, seed=int(rng.integers(100)))
    starts = Starts(sampler, scenes, Planner(orchestrator, torch.device("cpu")), small_denoiser(), torch.device("cpu"))
    chunk_of = {int(row[2]): index for index, row in reversed(list(enumerate(streams.chunks)))}   # a stream's first
    for starts.fresh_share in (0.0, 1.0):
        start = starts.sample(6, 2, True)
        assert start.video_tokens == LAYOUT.video_tokens and start.reference.shape == (6, 4, 32)
        assert (start.motion is None) == (start.sink is None) == (starts.fresh_share == 1.0)
        for i, transcript in enumerate(start.transcripts):
            at = chunk_of[transcript.units.first] + 1                     # the second of three: it has one before it
            assert [int(style.emotion[i]) for style in start.style] == [at % 5, (at + 1) % 5]
            assert [int(style.mode[i]) for style in start.style] == [at % 3, (at + 1) % 3]
            begin = int(streams.chunks[at, 0])
            assert np.array_equal(start.history[i].numpy(), streams.mel[begin - 64: begin].astype(np.float32))
            if start.motion is not None:
                before = torch.from_numpy(video[at - 1: at].astype(np.float32))
                assert torch.equal(start.motion[0][i: i + 1], patchify(before))
                assert torch.equal(start.motion[1][i].flatten(), start.history[i, 32:].flatten())
                assert torch.equal(start.sink[0][i: i + 1], patchify(before))          # the scene's first chunk


def test_runs_stay_in_their_stream(streams, rng):
    runs = StreamSampler(streams, held_out=4, seed=int(rng.integers(100))).runs(50, 3)
    assert runs.shape == (50, 3, 6)
    assert (runs[:, :, 4] == runs[:, :1, 4]).all() and (np.diff(runs[:, :, 5], axis=1) == 1).all()
    with pytest.raises(ValueError, match="4 chunks"):
        StreamSampler(streams).runs(1, 4)


# ------------------------------------------------------------------ the alternation
def arguments(folder, teacher, **changes) -> Namespace:
    values = dict(minutes=1e6, lr=1e-3, batch=4, out=folder, device="cpu", threads=1, seed=0, init=None,
                  teacher=teacher, critic_lr=2e-3, critic_ratio=2, critic_draws=2, guidance=(1.5, 1.5), shift=1.0, ema_decay=0.9, steps=STEPS,
                  regression_minutes=0.0, teacher_steps=3, compile=False, graphs=True, only=None)
    return Namespace(**{**values, **changes})


@pytest.fixture
def teacher(tmp_path, seeded):
    net = small_denoiser()
    (tmp_path / "teacher").mkdir()
    torch.save({"ema": net.state_dict()}, tmp_path / "teacher" / "checkpoint.pt")
    return tmp_path / "teacher"


def three() -> tuple[Denoiser, Denoiser, Denoiser]:
    return tuple(Denoiser(DIT, CONDITION) for _ in range(3))


def stage_one(distiller: Distiller, streams: Streams):
    batches = Batches(StreamSampler(streams, held_out=4, seed=3), None, 1, torch.device("cpu"))

    def exits():
        truth, given = unpack(batches.sample(4, False))
        return [exit_at(distiller.student, given, draw_noise(truth), STEPS, int(torch.randint(STEPS, ())))]
    return exits


def advance(distiller: Distiller, exits, count: int) -> dict:
    loop = distiller.loop
    for _ in range(count):
        losses = distiller.step(exits)
        loop.optimizer.zero_grad()
        losses["loss"].backward()
        loop.optimizer.step()
        loop._average()
        loop.iteration += 1
    return losses


@pytest.mark.parametrize("regression", [0.0, 1.0])
def test_only_the_networks_that_learn_change(teacher, tmp_path, streams, regression):
    distiller = Distiller(arguments(tmp_path / "out", teacher, regression_minutes=regression), three())
    nets = {"student": distiller.student, "critic": distiller.critic, "teacher": distiller.teacher}
    before = {name: {k: v.clone() for k, v in net.state_dict().items()} for name, net in nets.items()}
    for name in nets:
        assert all(torch.equal(v, before["teacher"][k]) for k, v in before[name].items()), name
    losses = advance(distiller, stage_one(distiller, streams), 2)
    assert ("regression" if regression else "matching") in losses
    assert all(torch.isfinite(v) for v in losses.values())
    same = lambda name: all(torch.equal(v, before[name][k]) for k, v in nets[name].state_dict().items())
    assert {name: not same(name) for name in nets} == {"student": True, "critic": True, "teacher": False}


def test_a_start_without_a_critic_is_its_own(teacher, tmp_path):
    """What scores the student's chunks is at first the student itself, not the teacher."""
    start = randomised(Denoiser(DIT, CONDITION))
    (tmp_path / "start").mkdir()
    torch.save({"ema": start.state_dict()}, tmp_path / "start" / "checkpoint.pt")
    distiller = Distiller(arguments(tmp_path / "out", teacher, init=tmp_path / "start"), three())
    for net in (distiller.student, distiller.critic):
        assert all(torch.equal(v, start.state_dict()[k]) for k, v in net.state_dict().items())
    assert any(not torch.equal(v, start.state_dict()[k]) for k, v in distiller.teacher.state_dict().items())


def test_the_critic_is_untouched_by_the_students_loss(teacher, tmp_path, streams):
    distiller = Distiller(arguments(tmp_path / "out", teacher), three())
    (work,) = stage_one(distiller, streams)()
    distiller.matching(work).backward()
    assert all(p.grad is None for net in (distiller.critic, distiller.teacher) for p in net.parameters())
    assert any(p.grad is not None and p.grad.any() for p in distiller.student.parameters())
    distiller.student.zero_grad()
    distiller.update_critic([work])
    assert all(p.grad is None for p in distiller.student.parameters())


def test_it_goes_on_where_it_was_stopped(teacher, tmp_path, streams):
    args = arguments(tmp_path / "out", teacher)
    one = Distiller(args, three())
    advance(one, stage_one(one, streams), 3)
    one.loop.seconds = 40.0
    one.loop.save()
    other = Distiller(arguments(tmp_path / "out", teacher), three())
    assert (other.loop.iteration, other.loop.seconds) == (3, 40.0)
    same = lambda a, b: all(torch.equal(v, b[k]) for k, v in a.items())
    assert same(one.student.state_dict(), other.student.state_dict())
    assert same(one.critic.state_dict(), other.critic.state_dict())
    assert same(one.loop.ema, other.loop.ema)
    for a, b in ((one.optimizer, other.optimizer), (one.loop.optimizer, other.loop.optimizer)):
        moments = lambda o: [s["exp_avg_sq"] for s in o.state_dict()["state"].values()]
        assert moments(a) and all(torch.equal(x, y) for x, y in zip(moments(a), moments(b)))
    results = []
    for distiller in (one, other):                                      # the same work, noise and next step
        exits = stage_one(distiller, streams)
        torch.manual_seed(5)
        results.append(float(advance(distiller, exits, 1)["loss"].detach()))
    assert results[0] == pytest.approx(results[1], rel=1e-5)
    # What comes next starts from this student with its critic; and it loads where a teacher would.
    following = Distiller(arguments(tmp_path / "next", teacher, init=tmp_path / "out"), three())
    saved = torch.load(tmp_path / "out" / "checkpoint.pt", weights_only=True)
    assert same(saved["ema"], following.student.state_dict())
    assert same(saved["beside"]["critic"], following.critic.state_dict())
    Denoiser(DIT, CONDITION).load_state_dict(saved["ema"])


def test_mixing_ends_at_noise_and_data(seeded):
    clean, noise = (torch.randn(2, 3, 4),) * 2, (torch.randn(2, 3, 4),) * 2
    noisy = mix(noise, clean, torch.tensor([0.0, 1.0]))
    assert torch.equal(noisy[0][0], noise[0][0]) and torch.equal(noisy[1][1], clean[1][1])


# ------------------------------------------------------------------ what it is measured by
def test_samples_of_the_distribution_and_its_mean(seeded):
    """White noise of variance 1/4 about a known mean; the means themselves; and a sampler halfway."""
    mean = torch.randn(40, 32, 80)
    draw = lambda size: mean + size * 0.5 * torch.randn_like(mean)
    truth = draw(1)
    measure = lambda size: shares(truth - mean, draw(size) - mean, draw(size) - mean, (1, 2))
    perfect, blurred, half = map(measure, (1, 0, 0.5))
    assert perfect["error"] == pytest.approx(0.5, rel=0.03) and blurred["error"] == pytest.approx(0.25, rel=0.03)
    assert perfect["spread"] == pytest.approx(1, rel=0.03) and blurred["spread"] == 0
    assert half["spread"] == pytest.approx(2 * 0.0625 / (0.25 + 0.0625), rel=0.03)
    assert perfect["detail"] == pytest.approx(1, rel=0.03) and half["detail"] == pytest.approx(0.25, rel=0.03)
