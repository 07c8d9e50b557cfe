"""The nets of a model, made from its configuration: as they begin in training, or on a device to be filled."""
from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from .codecs.eyes import EyeConfig, EyeNet
from .codecs.lids import LidConfig, LidNet
from .codecs.video import MotionCode, ReferenceEncoder, VideoCodecConfig, VideoDecoder
from .codecs.vocoder import Vocoder, VocoderConfig
from .denoiser.dit import DiTConfig, JointDiT
from .orchestrator.condition import ConditionConfig, ConditionEncoder
from .orchestrator.model import Orchestrator, OrchestratorConfig

NARROW = ("orchestrator", "dit", "reference_encoder", "video_decoder")    # nets in a placement's dtype


def build_nets(config: Mapping) -> dict[str, nn.Module]:
    """The nets of a manifest's ``model``, newly initialised, by the beginnings of their tensors' names."""
    tuples = lambda values: {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    codec = VideoCodecConfig(**tuples(config["video_codec"]))
    eyes = {"eyes": EyeNet(EyeConfig(**config["eyes"]))} if "eyes" in config else {}
    lids = {"lids": LidNet(LidConfig(**tuples(config["lids"])))} if "lids" in config else {}
    for place in (net.config for net in lids.values()):
        if place.top + place.height > codec.size or place.left + place.width > (codec.width or codec.size):
            raise ValueError(f"lids are painted beyond pictures of {codec.size} rows: {place}")
    return {**eyes, **lids, "orchestrator": Orchestrator(OrchestratorConfig(**config["orchestrator"])),
            "condition": ConditionEncoder(ConditionConfig(**config["condition"])),
            "dit": JointDiT(DiTConfig.from_dict(config["dit"])), "vocoder": Vocoder(VocoderConfig(**config["vocoder"])),
            "reference_encoder": ReferenceEncoder(codec), "video_decoder": VideoDecoder(codec)}


def empty_nets(config: Mapping, device: torch.device | str, dtype: torch.dtype) -> dict[str, nn.Module]:
    """``build_nets`` on a device, without a copy on the host: the weights are whatever its memory held.

    The nets in ``NARROW`` have theirs in ``dtype``, the others in float32, as every computed table is.
    """
    device = torch.device(device)
    with torch.device("meta"):
        nets = build_nets(config)
    for name, net in nets.items():
        if name in NARROW:
            net.to(dtype)
        net.to_empty(device=device)
        _restore_buffers(net, device)
    return nets


def _restore_buffers(net: nn.Module, device: torch.device) -> None:
    """Tables that are computed and not learned: nets without memory have lost them. Float32.

    Raises:
        RuntimeError: for a module whose tables nobody knows how to make.
    """
    for module in net.modules():
        if not module._buffers:
            continue
        if isinstance(module, MotionCode):
            fresh = MotionCode()
        elif isinstance(module, Vocoder):
            fresh = {"window": torch.hann_window(module.config.n_fft)}
        elif hasattr(module, "inv_freq"):
            fresh = type(module)(module.config)
        else:
            raise RuntimeError(f"{type(module).__name__} has tables {sorted(module._buffers)}")
        fresh = fresh if isinstance(fresh, dict) else dict(fresh.named_buffers())
        for name in module._buffers:
            module._buffers[name] = fresh[name].to(device)
