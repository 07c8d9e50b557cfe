"""What a model takes of a device's memory, said before anything is allocated; and models with random weights.

Weights are counted from nets without memory (torch's "meta" device), context and stage from their shapes; temporary
tensors are an estimate of the largest that live at the same time.
"""
from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from . import machine
from .codecs.video import FRAMES, VideoCodecConfig
from .denoiser.dit import DiTConfig
from .denoiser.sampler import Sampler
from .errors import DeviceMemoryError
from .models import Models, frame_rate
from .nets import NARROW, build_nets, empty_nets
from .ops import native_attention_serves
from .resident import LATENTS_AT_ONCE, Placement

_LIBRARIES = 1 << 30     # of a GPU: the driver's context, kernels' code and the libraries' own workspaces, about


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes by name: ``weights`` and ``shared`` once, ``session`` for each of ``sessions``."""

    weights: dict[str, int]
    session: dict[str, int]
    shared: dict[str, int]
    sessions: int

    @property
    def total(self) -> int:
        return sum(self.weights.values()) + self.sessions * sum(self.session.values()) + sum(self.shared.values())

    def check(self, available: int) -> None:
        """Raises DeviceMemoryError where that many bytes are too few."""
        if self.total > available:
            raise DeviceMemoryError(
                f"{self.total} bytes ({self.total / 2**30:.1f} GiB) are needed and {available} "
                f"({available / 2**30:.1f} GiB) are available",
                hint="fewer sessions, a smaller picture or another device",
                required_bytes=self.total, available_bytes=available)

    def table(self) -> str:
        groups = (("weights", self.weights), (f"session, of {self.sessions}", self.session), ("shared", self.shared))
        lines = [f"{title + ': ' + name:<44}{size / 2**30:>9.3f} GiB" for title, sizes in groups
                 for name, size in sizes.items()]
        return "\n".join([*lines, f"{'in all':<44}{self.total / 2**30:>9.3f} GiB"])


def memory_plan(
    manifest: Mapping[str, Any], placement: Placement, *, sessions: int = 1, slots: int = 3, max_lead: float = 1.0,
    kernels: str = "auto",
) -> MemoryPlan:
    """What ``Models`` of a manifest take with a placement, and sessions on them.

    Args:
        slots, max_lead: of a session, see ``SessionConfig``: it keeps the context of as many chunks to go back to; 0
            slots: it never goes back.
    """
    with torch.device("meta"):
        nets = build_nets(manifest["model"])
    device, narrow = torch.device(placement.device), _bytes(placement.dtype)
    weights = {name: sum(p.numel() for p in net.parameters()) * (narrow if name in NARROW else 4)
               for name, net in nets.items()}
    config, codec = DiTConfig.from_dict(manifest["model"]["dit"]), nets["video_decoder"].config
    layout, pixels = config.layout, codec.size * (codec.width or codec.size)
    row = 2 * config.depth * config.width * narrow
    chunk, reference = layout.chunk_tokens * row, layout.reference_tokens * row
    seconds = layout.frames / float(frame_rate(manifest))
    marks = 2 + math.ceil(max_lead / seconds) + slots if slots else 0
    native = kernels != "reference" and native_attention_serves(device, placement.dtype, layout.head_dim) is None
    session = {"context": reference + 2 * chunk, "chunks to go back to": marks * chunk,
               "character": 4 * 4 * pixels + _feature_bytes(codec, narrow)}
    shared = {"context of the chunk under way": reference + (2 if native else 3) * chunk,
              "context being written": 3 * chunk,    # on the way, as a graph's result, and kept
              "denoising step": layout.chunk_tokens * (12 * config.width + 2 * config.feed_forward) * narrow,
              "picture decoder": _decoder_bytes(codec, narrow), "pictures": 3 * 4 * pixels * layout.latents * FRAMES}
    if device.type == "cuda":
        shared["libraries"] = _LIBRARIES
    return MemoryPlan(weights, session, shared, sessions)


def random_models(
    manifest: Mapping[str, Any], placement: Placement, *, seed: int = 0, sessions: int = 1, slots: int = 3,
    available: int | None = None, kernels: str = "auto", tell: Callable[[str], None] = print,
) -> Models:
    """``Models`` of a manifest with random weights, made on the device: no copy of them is ever on the host.

    Args:
        available: bytes that the device has left; None: as it says itself.
        tell: is given the memory plan before anything is allocated.

    Raises:
        DeviceMemoryError: where the plan does not fit; nothing has been allocated then.
    """
    plan = memory_plan(manifest, placement, sessions=sessions, slots=slots, kernels=kernels)
    tell(f"{manifest['name']}, {placement.dtype} on {placement.device}\n{plan.table()}")
    device = torch.device(placement.device)
    plan.check(available_bytes(device) if available is None else available)
    nets = empty_nets(manifest["model"], device, placement.dtype)
    generator = torch.Generator(device).manual_seed(seed)
    for net in nets.values():
        _randomise(net, generator)
    channels = manifest["model"]["dit"]["latent_channels"]
    return Models(**nets, latent_mean=torch.zeros(channels), latent_std=torch.ones(channels), kernels=kernels,
                  default_steps=manifest["steps"], fps=frame_rate(manifest), placement=placement,
                  sampler=Sampler(**manifest["model"].get("sampler", {})))


def available_bytes(device: torch.device) -> int:
    """Free bytes of a device's memory now."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return machine.available_bytes()


@torch.no_grad()
def _randomise(net: nn.Module, generator: torch.Generator) -> None:
    """Matrices that keep the size of what passes through them; norms as they begin, no biases."""
    for name, parameter in net.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(0.0, (parameter[0].numel()) ** -0.5, generator=generator)
        elif name.endswith("bias"):
            parameter.zero_()
        else:
            parameter.fill_(0.2 if name.endswith(".scale") else 1.0)


def _bytes(dtype: torch.dtype) -> int:
    return torch.empty((), dtype=dtype).element_size()


def _feature_bytes(codec: VideoCodecConfig, narrow: int) -> int:
    cells = codec.size * (codec.width or codec.size) / 16
    return int(narrow * cells * sum(width / 4**level for level, width in enumerate(codec.reference)))


def _decoder_bytes(codec: VideoCodecConfig, narrow: int) -> int:
    """Of a group of latents in the last stages, where the pictures are large: channels at 1/4, with copies by the
    convolutions, and per pixel about 40 numbers of float32."""
    pixels = LATENTS_AT_ONCE * FRAMES * codec.size * (codec.width or codec.size)
    return int(pixels * (4 * 40 + 4 * narrow * (codec.decoder[2] + codec.reference[0] + 80) / 16))
