"""The networks of a bundle, ready to run, and what a character is to them."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from .batching import Batching
from .codecs import mel as mel_codec
from .codecs.video import MotionCode, ReferenceEncoder, VideoCodecConfig, VideoDecoder
from .codecs.vocoder import Vocoder, VocoderConfig
from .denoiser.context import CachedDenoiser
from .denoiser.dit import DiTConfig, JointDiT
from .lanes import Lanes
from .ops import Storage
from .orchestrator.condition import ConditionConfig, ConditionEncoder
from .orchestrator.model import Orchestrator, OrchestratorConfig


@dataclass(frozen=True)
class Style:
    """What a chunk is to be like.

    ``emotion``: neutral, happy, sad, angry, surprised; ``mode``: idle, listening, speaking.
    """
    voice: int = 0
    emotion: int = 0
    mode: int = 0


@dataclass(frozen=True)
class CharacterFeatures:
    """A reference picture, encoded once."""
    picture: torch.Tensor                       # (1, 4, H, W) premultiplied [0, 1], float32
    features: tuple[torch.Tensor, ...]          # at 1/4, 1/8 and 1/16; the denoiser sees the last

    def to_tensors(self) -> dict[str, torch.Tensor]:
        return {"picture": self.picture, **{f"features.{i}": f.float() for i, f in enumerate(self.features)}}

    @classmethod
    def from_tensors(cls, models: "Models", tensors: Mapping[str, torch.Tensor]) -> "CharacterFeatures":
        layout = dict(dtype=models.picture_dtype, memory_format=torch.channels_last)
        return cls(tensors["picture"], tuple(tensors[f"features.{i}"].to(**layout) for i in range(3)))


class Models:
    """All networks of a bundle, ready to run. Immutable; shared by sessions."""

    sample_rate = mel_codec.SAMPLE_RATE
    fps = Fraction(25)

    def __init__(self, *, orchestrator: Orchestrator, condition: ConditionEncoder, dit: JointDiT, vocoder: Vocoder,
                 reference_encoder: ReferenceEncoder, video_decoder: VideoDecoder, latent_mean: torch.Tensor,
                 latent_std: torch.Tensor, default_steps: int = 4,
                 picture_dtype: torch.dtype = torch.float32, threads: int = 1, kernels: str = "auto",
                 storage: Storage | None = None):
        freeze = lambda m: m.eval().requires_grad_(False)
        picture = lambda m: freeze(m).to(dtype=picture_dtype, memory_format=torch.channels_last)
        self.picture_dtype, self.default_steps = picture_dtype, default_steps
        self.orchestrator, self.condition, self.vocoder = freeze(orchestrator), freeze(condition), freeze(vocoder)
        self.denoiser = CachedDenoiser(freeze(dit), kernels, storage)
        self.reference_encoder, self.video_decoder = picture(reference_encoder), picture(video_decoder)
        self.latent_mean = latent_mean.float().reshape(1, 1, -1, 1, 1)
        self.latent_std = latent_std.float().reshape(1, 1, -1, 1, 1)
        self.movement = MotionCode()                    # in float32, whatever the decoder's type
        self.batching, self.lanes = Batching(), Lanes(threads)
        layout = dit.config.layout
        self.chunk_frames = layout.frames
        self.chunk_samples = int(self.chunk_frames * self.sample_rate / self.fps)
        self.width = self.height = video_decoder.config.size

    @classmethod
    def from_parts(cls, manifest: Mapping, tensors: Mapping[str, torch.Tensor], *,
                   picture_dtype: torch.dtype = torch.float32, threads: int = 1, kernels: str = "auto",
                   storage: Storage | None = None) -> "Models":
        """From a bundle's manifest and tensors; raises KeyError or RuntimeError where they do not fit together.

        ``picture_dtype``: of the reference encoder and the video decoder. ``threads``: lanes. ``storage``: pack the denoiser's weights as
        "bf16" or "int8"; its blocks can then only be run through it.
        """
        config = manifest["model"]
        codec = VideoCodecConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in config["video_codec"].items()})
        nets = {"orchestrator": Orchestrator(OrchestratorConfig(**config["orchestrator"])),
                "condition": ConditionEncoder(ConditionConfig(**config["condition"])),
                "dit": JointDiT(DiTConfig.from_dict(config["dit"])), "vocoder": Vocoder(VocoderConfig(**config["vocoder"])),
                "reference_encoder": ReferenceEncoder(codec), "video_decoder": VideoDecoder(codec)}
        for name, net in nets.items():
            own = {k[len(name) + 1:]: v.float() for k, v in tensors.items() if k.startswith(name + ".")}
            net.load_state_dict(own)
        return cls(**nets, latent_mean=tensors["latent.mean"], latent_std=tensors["latent.std"],
                   default_steps=int(config.get("steps", 4)), picture_dtype=picture_dtype, threads=threads,
                   kernels=kernels, storage=storage)

    def memory_per_session(self) -> int:
        """Bytes of a session's context cache and decoder states."""
        config = self.orchestrator.config
        state = 4 * (2 * config.history_tokens * config.mel_bins + self.width * self.height * 4)
        return int(self.denoiser.new_cache().memory_plan()["total"]) + state


@torch.inference_mode()
def encode_character(models: Models, rgba: np.ndarray) -> CharacterFeatures:
    """Encode a picture, uint8 (H, W, 4) straight alpha, of the models' size."""
    straight = torch.from_numpy(np.ascontiguousarray(rgba)).permute(2, 0, 1)[None].float() / 255.0
    picture = torch.cat([straight[:, :3] * straight[:, 3:], straight[:, 3:]], 1)
    return CharacterFeatures(picture, tuple(models.reference_encoder(picture.to(models.picture_dtype))))
