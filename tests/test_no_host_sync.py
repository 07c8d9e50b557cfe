"""That no stage of a resident chunk asks a GPU for a value or mixes devices: run on tensors that only pretend.

torch's fake tensors know their device, here "cuda:0", and their shape, but have no values: an op that needs one
(``item``, ``nonzero``, a check of a range) raises, as one does whose tensors are on different devices.
"""
from __future__ import annotations

import traceback
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from streamchar_rt import allocation, resident, scales
from streamchar_rt.bundle import open_bundle
from streamchar_rt.codecs import video
from streamchar_rt.models import Models
from streamchar_rt.ops import _native, functional, linear, modulation
from streamchar_rt.pipeline import RawChunk, StreamState, Style, encode_character, generate_chunk
from streamchar_rt.resident import Placement

GPU = torch.device("cuda:0")


class PlainOps(TorchFunctionMode):
    """What a torch that was built without CUDA refuses to tensors that say they are on a GPU, as plain ops."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, aten = kwargs or {}, torch.ops.aten
        if function is torch.Tensor.__getitem__:
            return self.view(*args)
        if function is torch.Tensor.__setitem__:
            target, key, value = args
            aten.copy_(self.view(target, key), value)
            return None
        if function is torch.conv1d:
            x, weight, bias, stride, padding, dilation, groups = args
            flat = x.unsqueeze(2), weight.unsqueeze(2)
            return torch.conv2d(*flat, bias, (1, *stride), (0, *padding), (1, *dilation), groups).squeeze(2)
        if function is torch.nn.functional.grid_sample:
            x, grid = args
            assert x.device == grid.device
            return x.new_empty(*x.shape[:2], *grid.shape[1:3])
        plain = {torch.Tensor.__invert__: aten.bitwise_not, torch.Tensor.copy_: aten.copy_,
                 torch.Tensor.contiguous: aten.contiguous}.get(function, function)
        return plain(*args, **kwargs)

    @staticmethod
    def view(x, key):
        keys = list(key) if isinstance(key, tuple) else [key]
        if Ellipsis in [k for k in keys if not isinstance(k, torch.Tensor)]:
            at = next(i for i, k in enumerate(keys) if k is Ellipsis)
            used = sum(k is not None for k in keys) - 1
            keys[at: at + 1] = [slice(None)] * (x.dim() - used)
        axis = 0
        for k in keys:
            if k is None:
                x, axis = x.unsqueeze(axis), axis + 1
            elif isinstance(k, int):
                x = x.select(axis, k)
            elif isinstance(k, slice):
                x, axis = torch.ops.aten.slice.Tensor(x, axis, k.start, k.stop, k.step or 1), axis + 1
            else:
                assert k.dim() == 1 and k.device == x.device
                x, axis = x.index_select(axis, k), axis + 1
        return x


class Pretence:
    """Puts models and states on a GPU that is not there."""

    def __init__(self) -> None:
        self.mode, self._done, self._keep = FakeTensorMode(), {}, []

    def tensor(self, x):
        with self.mode:
            fake = torch.empty_strided(x.shape, x.stride(), dtype=x.dtype, device=GPU)
        return torch.nn.Parameter(fake, requires_grad=False) if isinstance(x, torch.nn.Parameter) else fake

    def __call__(self, value):
        """The same thing with all its tensors there; objects are changed, not copied."""
        if isinstance(value, torch.Tensor):
            return self.tensor(value)
        if isinstance(value, torch.device):
            return GPU
        if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
            return type(value)(map(self, value))
        if isinstance(value, dict):
            for key in list(value):
                value[key] = self(value[key])
            return value
        ours = isinstance(value, torch.nn.Module) or type(value).__module__.startswith("streamchar_rt.")
        if ours and hasattr(value, "__dict__") and not isinstance(value, type) and id(value) not in self._done:
            self._done[id(value)] = value
            for name, content in list(vars(value).items()):
                object.__setattr__(value, name, self(content))
        return value


@pytest.fixture
def pretended(monkeypatch, rng):
    """(mode, models, state) of the small relative of ``full``, in bfloat16; host copies are of zeros."""
    models = allocation.random_models(
        scales.tiny(32, 64), Placement("cpu"), available=2**40, tell=lambda text: None)
    yield from pretend(monkeypatch, models, rng.integers(0, 256, (32, 64, 4), dtype=np.uint8))


@pytest.fixture
def pretended_mini(monkeypatch, rng):
    """The same of the shipped model, whose eyes move."""
    bundle = open_bundle("mini")
    models = Models.from_parts(bundle.manifest, bundle.tensors(), placement=Placement("cpu"))
    yield from pretend(monkeypatch, models, rng.integers(0, 256, (256, 256, 4), dtype=np.uint8))


def pretend(monkeypatch, models, picture):
    state = StreamState(models, encode_character(models, picture), 1)
    state.append_units([(10, 0, True), (12, 1, False), (20, 2, False), (1, 0, False)])
    pretence = Pretence()
    pretence(models)
    pretence(state)

    def to_device(values, device):
        assert device == GPU
        return pretence.tensor(torch.as_tensor(values).contiguous())

    monkeypatch.setattr(resident, "to_device", to_device)
    monkeypatch.setattr(resident, "_to_host", lambda x: Host(x))
    monkeypatch.setattr(resident, "_StageClock", lambda device, nvtx: resident_clock(torch.device("cpu"), False))
    monkeypatch.setattr(resident, "_Pace", lambda device: resident_pace(torch.device("cpu")))
    monkeypatch.setattr(resident.torch.cuda, "device", lambda device: resident.nullcontext())
    yield pretence.mode, models, state
    video._pixel_steps.cache_clear()


resident_clock, resident_pace = resident._StageClock, resident._Pace


class Host:
    """What would have come to the host: on a GPU for sure, and then zeros."""

    def __init__(self, tensor: torch.Tensor) -> None:
        assert tensor.device == GPU
        self.shape, self.dtype = tensor.shape, tensor.dtype

    def numpy(self) -> np.ndarray:
        return np.zeros(self.shape, str(self.dtype).removeprefix("torch."))


def test_a_chunk_asks_the_device_for_nothing(pretended):
    """The first chunk, with the reference alone, and a later one, with sink and motion."""
    mode, models, state = pretended
    with mode, PlainOps():
        for index in range(2):
            chunk = generate_chunk(models, state, Style(1, 2, 2), steps=1)
            assert isinstance(chunk, RawChunk) and chunk.video.shape == (33, 32, 64, 4)
            assert state.chunk_index == index + 1
            kept = (state.history, state.audio_rest, state.previous_latent, state.cache.get("motion").keys)
            assert all(x.device == GPU for x in kept)


def test_eyes_and_lids_ask_the_device_for_nothing(pretended_mini):
    mode, models, state = pretended_mini
    assert models.eyes is not None and models.lids is not None
    with mode, PlainOps():
        for _ in range(2):
            chunk = generate_chunk(models, state, Style(1, 2, 2), steps=1)
            assert chunk.video.shape == (16, 256, 256, 4) and state.previous_latent.device == GPU


class HostTensors(TorchDispatchMode):
    """The files of this package whose ops meet a tensor of the host, a single number among them."""

    def __init__(self) -> None:
        super().__init__()
        self.files: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        met = [x for x in tree_flatten((args, kwargs, result))[0] if isinstance(x, torch.Tensor)]
        if any(x.device.type == "cpu" for x in met):
            files = [Path(frame.filename) for frame in traceback.extract_stack()]
            self.files.add([file.name for file in files if "streamchar_rt" in file.parts][-1])
        return result


def test_no_stage_fetches_a_number_from_the_host(pretended):
    """Which a GPU would wait for, and which cannot be captured: all there is are what the host draws and hands over."""
    mode, models, state = pretended
    with mode, PlainOps():
        for _ in range(2):                               # tables are made and kept
            generate_chunk(models, state, Style(1, 2, 2), steps=1)
        with HostTensors() as met:
            generate_chunk(models, state, Style(1, 2, 2), steps=1)
    assert met.files == {"pipeline.py", "noise.py", "resident.py"}      # style, noise, ``to_device``


class NativeCalls:
    """Stands for the native module of a build with CUDA: counts its calls, and answers sizes."""

    cuda_max_append_heads = cuda_max_streams = cuda_max_listed_segments = cuda_max_segments = cuda_max_groups = 64
    cuda_max_groups_per_row, cuda_architectures, cutlass = 4096, "90a", True

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name):
        return lambda *_: self.calls.update([name])


class Addresses(PlainOps):
    """Fake tensors have no address: one that fits any alignment they have in their storage."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.data_ptr:
            return 4096 + args[0].storage_offset() * args[0].element_size()
        return super().__torch_function__(function, types, args, kwargs)


def test_native_kernels_are_given_what_lies_on_the_device(pretended, monkeypatch):
    """Their wrappers' checks of shapes, types and devices, for both layers' calls of three chunks."""
    mode, models, state = pretended
    module = NativeCalls()
    for user in (_native, functional, linear, modulation):
        monkeypatch.setattr(user, "native", module)
    monkeypatch.setattr(_native, "_gpu_serves", lambda: True)
    monkeypatch.setattr(_native, "_shared_workspace", lambda *_: torch.empty(16, dtype=torch.uint8, device=GPU))
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))
    models.denoiser.native = True
    with mode, Addresses():
        for _ in range(3):
            generate_chunk(models, state, Style(1, 2, 2), steps=1)
    passes = 3 * 2 * models.denoiser.dit.config.depth        # a step and a chunk's rows, in every layer
    assert module.calls == {"cuda_segment_attention": passes, "cuda_kv_append": passes,
                            "cuda_adaln_modulate": 4 * passes, "cuda_fused_linear": 8 * passes}


def test_the_pretence_notices_what_is_wrong(pretended, monkeypatch):
    mode, models, state = pretended
    for wrong in (lambda x: float(x.sum()), lambda x: x.nonzero(), lambda x: x + torch.ones(2)):
        monkeypatch.setattr(models.chain, "_step", lambda live, video, *rest: wrong(video))
        with mode, PlainOps(), pytest.raises(RuntimeError):
            generate_chunk(models, state, Style(0, 0, 0), steps=1)
