"""That training on a GPU asks it for no value and mixes no devices: see ``test_no_host_sync`` for how."""
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from streamchar_rt.denoiser import dit
from tools.train import device_planner, guided, on_device, orchestrator, rollout
from tools.train.denoiser import Batches, Denoiser, Kind, losses
from tools.train.device_planner import DevicePlanner
from tools.train.few_step import guided_velocity
from tools.train.on_device import DeviceSampler, DeviceScenes, DeviceStreams
from tools.train.rollout import Starts, roll_out

from .small_training import CONDITION, DIT, randomised, small_streams
from .test_device_training import flat, small_orchestrator, small_scenes
from .test_no_host_sync import GPU, PlainOps

PLAIN = torch.autocast("cpu", enabled=False)


class Ops(PlainOps):
    """With lookups by tensors of more than one dimension."""

    @staticmethod
    def view(x, key):
        keys = list(key) if isinstance(key, tuple) else [key]
        if not isinstance(keys[0], torch.Tensor):
            return PlainOps.view(x, key)
        places = keys[0]
        assert places.device == x.device and places.dtype == torch.int64
        found = x.index_select(0, places.reshape(-1)).reshape(*places.shape, *x.shape[1:])
        return PlainOps.view(found, (*[slice(None)] * places.dim(), *keys[1:]))


@pytest.fixture
def there(rng, monkeypatch):
    """(mode, denoiser, orchestrator, sampler, scenes) on a GPU that is not there."""
    mode = FakeTensorMode()

    def empty(like, *_):
        like = torch.as_tensor(like)
        if like.device.type == "cuda":
            return like
        with mode:
            return torch.empty(like.shape, dtype=like.dtype, device=GPU)

    def table(layout, video, audio, distance, device):
        return (torch.empty(video + audio, layout.head_dim // 2, device=device),) * 2

    monkeypatch.setattr(dit, "_rotation_there", table)
    for module in (on_device, device_planner, rollout):
        monkeypatch.setattr(module, "upload", empty)
    nets = randomised(Denoiser(DIT, CONDITION)), small_orchestrator()
    for net in nets:
        net.to = lambda device, net=net: net
        for module in net.modules():
            for own in (module._parameters, module._buffers):
                own.update({k: torch.nn.Parameter(empty(x), False) if isinstance(x, torch.nn.Parameter) else empty(x)
                            for k, x in own.items() if x is not None})
    streams = small_streams(rng)
    scenes = small_scenes(streams, rng)
    with mode:
        data = DeviceStreams(streams, GPU)
        scenes = DeviceScenes(scenes, GPU)
    yield mode, *nets, DeviceSampler(data, held_out=4, seed=int(rng.integers(100))), scenes


@pytest.mark.parametrize("kind", [Kind(True, True, True), Kind(True, False, False), Kind(False, False, True)])
def test_a_batch_and_its_losses(there, kind):
    mode, net, _, sampler, scenes = there
    batches = Batches(sampler, scenes, 2, GPU)
    _, chunks = batches.choose(3, kind.picture)
    with torch.no_grad(), mode, Ops():
        found = losses(net, batches.build(kind, [on_device.upload(x, GPU) for x in chunks]), 2, PLAIN)
    assert all(x.device == GPU for x in found.values())


@pytest.mark.parametrize("kind", [Kind(True, True, True), Kind(False, False, True)])
def test_what_guidance_teaches(there, kind):
    mode, net, _, sampler, scenes = there
    batches = Batches(sampler, scenes, 2, GPU)
    _, chunks = batches.choose(3, kind.picture)
    with torch.no_grad(), mode, Ops():
        batch = batches.build(kind, [on_device.upload(x, GPU) for x in chunks])
        found = guided.losses(net, net, batch, 2, (1.5, 2.0), PLAIN)
    assert all(x.device == GPU for x in found.values())


def test_what_the_orchestrator_is_asked(there):
    mode, _, net, sampler, _ = there
    rows, strays = sampler.rows(3), sampler.strays(3)
    with torch.no_grad(), mode, Ops():
        batch = sampler.orchestrator(on_device.upload(rows, GPU), net.config, on_device.upload(strays, GPU))
        states = net.encode(batch.window, batch.history, batch.voice, masked=True)
        logits, offset = net.align(states, batch.mel, orchestrator.flow_times(3, GPU))
    assert all(x.device == GPU for x in (*flat(batch), logits, offset))


@pytest.mark.parametrize("picture,fresh", [(True, 0.0), (True, 1.0), (False, 0.0)])
def test_a_rollout_and_its_scores(there, picture, fresh):
    mode, net, orchestrator, sampler, scenes = there
    with torch.no_grad(), mode, Ops():
        planner = DevicePlanner(orchestrator, sampler.data)
        starts = Starts(sampler, scenes, planner, net, GPU)
        starts.fresh_share = fresh
        start = starts.sample(3, 2, picture)
        noises = [(torch.randn(3, start.video_tokens, 48, device=GPU), torch.randn(3, 16, 160, device=GPU))] * 2
        exits, chunks = roll_out(net, planner, start, noises, 2, [None, 1], PLAIN)
        (last,) = exits
        velocity = guided_velocity(net, last.given, last.noisy, last.t, (1.5, 2.0))
    assert all(x.device == GPU for pair in (*chunks, velocity) for x in pair)
