"""Training on a GPU, as far as a CPU can tell: the same batches, the same updates, the same plans."""
from argparse import Namespace

import numpy as np
import pytest
import torch

from streamchar_rt.denoiser.dit import Style
from streamchar_rt.orchestrator.condition import FEATURES
from streamchar_rt.orchestrator.model import Orchestrator, OrchestratorConfig
from tools.train.batches import StreamSampler
from tools.train.denoiser import Batches, Denoiser, losses, update_step
from tools.train.device_planner import DevicePlanner
from tools.train.device_updates import DeviceUpdates
from tools.train.few_step import Asked, Given, velocity
from tools.train.loop import Loop
from tools.train.on_device import DeviceSampler, DeviceScenes, DeviceStreams
from tools.train.rollout import Planner, Starts, roll_out
from tools.train.scenes import Scenes
from tools.train.streams import Streams

from .small_training import CONDITION, DIT, LAYOUT, randomised, small_streams

CPU = torch.device("cpu")


@pytest.fixture
def streams(rng) -> Streams:
    return small_streams(rng)


def small_scenes(streams: Streams, rng: np.random.Generator) -> Scenes:
    count = len(streams.chunks)
    video = rng.normal(0, 2, (count, 4, 12, 4, 4)).astype(np.float16)
    return Scenes(streams.chunks, streams.chunks[:, 4], video, rng.normal(0, 1, (count, 1, 8, 4, 4)).astype(np.float16),
                  np.arange(count) % 5, np.arange(count) % 3, rng.normal(0, 1, 12).astype(np.float32),
                  rng.uniform(0.5, 2, 12).astype(np.float32))


def flat(x) -> list[torch.Tensor]:
    if isinstance(x, torch.Tensor):
        return [x]
    return [] if x is None else [z for y in (x if isinstance(x, tuple) else vars(x).values()) for z in flat(y)]


def test_batches_gathered_on_a_device_are_those_of_the_host(streams, rng):
    scenes, seed = small_scenes(streams, rng), int(rng.integers(2 ** 31))
    host = Batches(StreamSampler(streams, held_out=4, seed=seed), scenes, 1, CPU)
    device = Batches(DeviceSampler(DeviceStreams(streams, CPU), held_out=4, seed=seed), DeviceScenes(scenes, CPU), 1, CPU)
    kinds = set()
    for index in range(60):
        torch.manual_seed(index)
        kind, chunks = host.choose(5, index % 2 == 0)
        expected = host.build(kind, chunks)
        torch.manual_seed(index)
        again, places = device.choose(5, index % 2 == 0)
        found = device.build(again, [torch.from_numpy(x) for x in places])
        assert again == kind and len(flat(expected)) == len(flat(found))
        for a, b in zip(flat(expected), flat(found)):
            assert a.dtype == b.dtype and torch.equal(a, b)
        kinds.add(kind)
    assert {kind[:2] for kind in kinds} == {(True, True), (True, False), (False, False)}


def test_what_the_orchestrator_sees_is_gathered_on_a_device_as_on_the_host(streams, rng):
    config, seed = OrchestratorConfig(), int(rng.integers(2 ** 31))
    host = StreamSampler(streams, held_out=4, seed=seed)
    device = DeviceSampler(DeviceStreams(streams, CPU), held_out=4, seed=seed)
    for _ in range(10):
        rows, strays = host.rows(7), host.strays(7, 0.5)
        assert np.array_equal(device.rows(7), rows) and np.array_equal(device.strays(7, 0.5), strays)
        assert set(np.abs(strays)) <= {0, 1}
        expected = host.orchestrator(rows, config, strays)
        found = device.orchestrator(torch.from_numpy(rows), config, torch.from_numpy(strays))
        for name in vars(expected):
            for a, b in zip(flat(getattr(expected, name)), flat(getattr(found, name)), strict=True):
                assert a.dtype == b.dtype and torch.equal(a, b), name


def test_scenes_that_are_kept_to_judge_by_are_not_learnt(streams, rng):
    scenes = small_scenes(streams, rng)
    learned, judged = scenes.split(7)
    drawn = [set(part.sample(200, rng).rows[:, 4].tolist()) for part in (learned, judged)]
    assert drawn[1] == set(range(53, 60)) and not drawn[0] & drawn[1]
    assert len(learned.usable) + len(judged.usable) == len(scenes.usable)


def small_loop(folder) -> Loop:
    args = Namespace(minutes=1e6, lr=1e-3, batch=6, scene_batch=3, speech_batches=1, draws=2, out=folder, device="cpu",
                     threads=1, seed=0, init=None)
    torch.manual_seed(11)
    return Loop(randomised(Denoiser(DIT, CONDITION)), args, warmup=3)


def test_updates_without_a_look_at_values_are_the_same(streams, rng, tmp_path):
    """Weights, moments and averages; a gradient that is not finite changes none of them."""
    results = {}
    for name in ("host", "device"):
        loop = small_loop(tmp_path / name)
        train = Batches(StreamSampler(streams, held_out=4, seed=5), None, 2, CPU)
        step = update_step(train, loop.args, lambda batch: losses(loop.model, batch, loop.args.draws, loop.autocast()))
        updates = DeviceUpdates(loop) if name == "device" else None
        totals = []
        for iteration in range(6):
            torch.manual_seed(iteration)
            poisoned = lambda i: {"loss": step(i)["loss"] * (float("nan") if i == 3 else 1.0)}
            loop.rate = min(1.0, (iteration + 1) / loop.warmup)
            if updates:
                updates(poisoned, loop.args.lr * loop.rate, 1 - loop._decay())
                totals.append(updates.means()["loss"])
            else:
                loop._update(poisoned)
                totals.append(loop.sums.pop("loss")[0])
            loop.iteration += 1
        loop.save()
        results[name] = loop, totals
    (one, first), (other, second) = results["host"], results["device"]
    assert np.allclose(first, second, rtol=1e-5, equal_nan=True) and np.isnan(first[3]) and not np.isnan(first[4])
    close = lambda a, b: torch.allclose(a.float(), b.float(), rtol=1e-4, atol=1e-6)
    assert all(close(v, other.model.state_dict()[k]) for k, v in one.model.state_dict().items())
    assert all(close(v, other.ema[k]) for k, v in one.ema.items())
    states = [loop.optimizer.state_dict() for loop in (one, other)]
    assert all(close(x, states[1]["state"][i][k]) for i, s in states[0]["state"].items() for k, x in s.items())
    saved = [torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in results]
    assert saved[0].keys() == saved[1].keys()
    groups = [s["optimizer"]["param_groups"][0] for s in saved]
    assert groups[0] == {**groups[1], "lr": pytest.approx(groups[1]["lr"])} and isinstance(groups[1]["lr"], float)


def test_the_examples_are_all_kinds(streams, rng, tmp_path):
    loop, scenes = small_loop(tmp_path), small_scenes(streams, rng)
    for there in (scenes, None):
        train = Batches(StreamSampler(streams, held_out=4, seed=5), there, 2, CPU)
        step = update_step(train, loop.args, lambda batch: losses(loop.model, batch, loop.args.draws, loop.autocast()))
        examples = {kind: chunks for kind, chunks in step.examples()}
        for iteration in range(80):
            kind, chunks = step.choose(iteration)
            assert [x.shape for x in chunks] == [x.shape for x in examples[kind]]
        assert len(examples) == (6 if there else 2)


def test_what_learns_begins_with_moments_of_zero(streams, tmp_path):
    loop = small_loop(tmp_path)
    before = {k: v.clone() for k, v in loop.model.state_dict().items()}
    DeviceUpdates(loop)._begin_moments()
    assert all(torch.equal(v, before[k]) for k, v in loop.model.state_dict().items())
    state = loop.optimizer.state_dict()["state"]
    assert len(state) == len(list(loop.model.parameters()))
    assert not any(x.any() for s in state.values() for x in s.values())


def small_orchestrator() -> Orchestrator:
    return Orchestrator(OrchestratorConfig(width=32, layers=1, heads=2, feed_forward=32, head_layers=1,
                                           head_feed_forward=32)).eval()


def test_plans_made_on_a_device_are_those_of_the_host(streams, rng, seeded):
    """Three chunks of several streams; the pointer's logits depend on nothing that is rounded differently."""
    net = small_orchestrator()
    for layer in (net.noisy, net.history):
        layer.weight.data.zero_()
    data = DeviceStreams(streams, CPU)
    host, device = Planner(net, CPU), DevicePlanner(net, data)
    rows = streams.chunks[rng.integers(0, 60, 7) * 3]
    visible = rows[:, 2:3] + np.sort(rng.integers(3, 41, (7, 3)), 1)
    rows = rows.copy()
    rows[:, 3] = visible[:, 0]
    style = torch.from_numpy(rows[:, 1].copy())
    transcripts = [planner.transcripts(streams, rows, CONDITION.past) for planner in (host, device)]
    for k in range(3):
        history, mel, found = torch.randn(7, 64, 80), torch.randn(7, 32, 80), []
        for planner, each in zip((host, device), transcripts):
            planner.see(each, visible[:, k])
            plans, states = planner.read(each, history, style)
            found.append(planner.align(plans, states, mel, 0.0))
            planner.advance(each, plans)
        assert torch.allclose(*found, atol=1e-6)
        for i, one in enumerate(transcripts[0]):
            there = transcripts[1]
            assert (one.pointer, one.elapsed) == (int(there.pointer[i]), int(there.elapsed[i]))
            assert np.array_equal(one.past, there.past[i].numpy())


def test_rollouts_on_a_device_are_those_of_the_host(streams, rng, seeded):
    net, scenes, orchestrator = randomised(Denoiser(DIT, CONDITION)).eval(), small_scenes(streams, rng), small_orchestrator()
    data, seed = DeviceStreams(streams, CPU), int(rng.integers(2 ** 31))
    for layer in (orchestrator.noisy, orchestrator.history):
        layer.weight.data.zero_()
    results = []
    for planner, sampler, there in (
            (Planner(orchestrator, CPU), StreamSampler(streams, held_out=4, seed=seed), scenes),
            (DevicePlanner(orchestrator, data), DeviceSampler(data, held_out=4, seed=seed), DeviceScenes(scenes, CPU))):
        starts = Starts(sampler, there, planner, net, CPU)
        chunks = []
        for picture, starts.fresh_share in ((True, 0.0), (True, 1.0), (False, 0.0)):
            start = starts.sample(3, 2, picture)
            torch.manual_seed(1)
            noises = [(torch.randn(3, start.video_tokens, 48), torch.randn(3, 16, 160)) for _ in range(2)]
            exits, done = roll_out(net, planner, start, noises, 2, [None, 1], torch.autocast("cpu", enabled=False))
            chunks += [x for pair in done for x in pair] + [exits[0].given.features]
        results.append(chunks)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(*results))


def test_asked_through_a_recording_a_network_answers_the_same(seeded):
    """All that a context may lack; here the recording is a plain call."""
    net, count = randomised(Denoiser(DIT, CONDITION)).eval(), 3
    asked = Asked(net)
    asked._recorded = asked._velocity
    pair = lambda: (torch.randn(count, LAYOUT.video_tokens, 48), torch.randn(count, 16, 160))
    style = Style(*(torch.randint(high, (count,)) for high in (4, 5, 3)))
    for reference, sink, motion in ((torch.randn(count, 4, 32), pair(), pair()), (torch.randn(count, 4, 32), None, pair()),
                                    (None, None, None)):
        given = Given(reference, sink, motion, torch.rand(count, 48, FEATURES), style)
        noisy, t = pair(), torch.rand(count)
        for told in (None, torch.tensor([1.0, 0.0, 1.0])[:, None, None]):
            with torch.no_grad():
                for a, b in zip(velocity(asked, given, noisy, t, told), velocity(net, given, noisy, t, told)):
                    assert torch.equal(a, b)
