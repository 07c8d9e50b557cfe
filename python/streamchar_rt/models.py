"""The networks of a bundle, ready to run, and what a character is to them."""
from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch

from . import ops
from .batching import Batching
from .codecs.eyes import EyeNet
from .codecs.lids import LidNet, shown
from .codecs.packed_video import PackedVideoDecoder
from .codecs.packed_vocoder import PackedVocoder
from .codecs.video import MotionCode, ReferenceEncoder, VideoDecoder, to_straight
from .codecs.vocoder import Vocoder
from .denoiser.context import CachedDenoiser
from .denoiser.dit import JointDiT
from .denoiser.resident import ResidentDenoiser
from .denoiser.sampler import Sampler
from .lanes import Lanes
from .nets import build_nets, empty_nets
from .orchestrator.condition import ConditionEncoder
from .orchestrator.model import Orchestrator
from .orchestrator.packed import PackedOrchestrator, PlainOrchestrator, serves
from .planner import PLANS
from .resident import Placement, ResidentChain


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
    lids: torch.Tensor | None = None            # what ``LidNet`` paints, (L, 4, h, w)
    pictures: tuple[torch.Tensor, ...] = ()     # the picture, and with each of these in it; (1, 4, H, W)

    def to_tensors(self) -> dict[str, torch.Tensor]:
        features = {f"features.{i}": feature.float().cpu() for i, feature in enumerate(self.features)}
        lids = {} if self.lids is None else {"lids": self.lids.cpu()}
        return {"picture": self.picture.cpu(), **features, **lids}

    @classmethod
    def from_tensors(cls, models: "Models", tensors: Mapping[str, torch.Tensor]) -> "CharacterFeatures":
        layout = dict(device=models.device, dtype=models.picture_dtype, memory_format=torch.channels_last)
        picture = tensors["picture"].to(models.device)
        features = tuple(tensors[f"features.{i}"].to(**layout) for i in range(3))
        return cls(picture, features, *models.with_lids(picture, tensors.get("lids")))


class Models:
    """All networks of a bundle, ready to run. Immutable; shared by sessions.

    ``placement``: every stage of a chunk on one device, see ``resident``; None: on the CPU, in lanes, the alignment on
    the host. With a placement the nets are there already, as ``nets.empty_nets`` makes them.
    """

    def __init__(self, *, orchestrator: Orchestrator, condition: ConditionEncoder, dit: JointDiT, vocoder: Vocoder,
                 reference_encoder: ReferenceEncoder, video_decoder: VideoDecoder, latent_mean: torch.Tensor,
                 latent_std: torch.Tensor, eyes: EyeNet | None = None, lids: LidNet | None = None, default_steps: int = 4,
                 picture_dtype: torch.dtype = torch.float32, packed_pictures: bool = False, threads: int = 1,
                 kernels: str = "auto", storage: ops.Storage = "fp32", fps: Fraction | int = 25,
                 placement: Placement | None = None, sampler: Sampler = Sampler()):
        self.device = torch.device("cpu" if placement is None else placement.device)
        freeze = lambda m: m.eval().requires_grad_(False)
        dtype = {} if placement else {"dtype": picture_dtype}
        picture = lambda m: freeze(m).to(memory_format=torch.channels_last, **dtype)
        self.picture_dtype, self.default_steps = placement.dtype if placement else picture_dtype, default_steps
        self.orchestrator, self.condition = freeze(orchestrator), freeze(condition)
        if placement is None:
            self.denoiser, self.chain = CachedDenoiser(freeze(dit), kernels, storage), None
        else:
            self.denoiser, self.chain = ResidentDenoiser(freeze(dit), kernels), ResidentChain(self, placement)
        native = placement is None and self.denoiser.native
        packed = native and serves(orchestrator.config)
        self.orchestration = (PackedOrchestrator if packed else PlainOrchestrator)(orchestrator, condition)
        self.vocoder = PackedVocoder(freeze(vocoder)) if native else freeze(vocoder)
        self.reference_encoder, self.video_decoder = picture(reference_encoder), picture(video_decoder)
        self.packed_decoder = PackedVideoDecoder(self.video_decoder) if packed_pictures and not placement else None
        self.latent_mean = latent_mean.float().reshape(1, 1, -1, 1, 1).to(self.device)
        self.latent_std = latent_std.float().reshape(1, 1, -1, 1, 1).to(self.device)
        self.sampler = sampler
        self.eyes, self.lids = (None if net is None else freeze(net) for net in (eyes, lids))
        self.movement = MotionCode().to(self.device)    # in float32, whatever the decoder's type
        self.batching, self.lanes, self.plans = Batching(), Lanes(threads), PLANS
        layout, codec = dit.config.layout, video_decoder.config
        self.chunk_frames, self.fps, self.sample_rate = layout.frames, Fraction(fps), vocoder.config.sample_rate
        self.chunk_samples = int(self.chunk_frames * self.sample_rate / self.fps)
        self.width, self.height = codec.width or codec.size, codec.size

    @classmethod
    def from_parts(cls, manifest: Mapping, tensors: Mapping[str, torch.Tensor], *,
                   picture_dtype: torch.dtype = torch.float32, packed_pictures: bool = False, threads: int = 1,
                   kernels: str = "auto", storage: ops.Storage = "fp32",
                   placement: Placement | None = None) -> "Models":
        """From a bundle's manifest and tensors; raises KeyError or RuntimeError where they do not fit together.

        ``picture_dtype``: of the reference encoder and the video decoder. ``packed_pictures``: pack the video decoder's
        weights as int8; it can then only be run through ``draw``. ``threads``: lanes. ``storage``: how native kernels
        pack the denoiser's weights. Nets that they run can be run through ``denoiser`` and ``orchestration`` alone.
        None of them with a ``placement``.
        """
        config = manifest["model"]
        nets = build_nets(config) if placement is None else empty_nets(config, placement.device, placement.dtype)
        for name, net in nets.items():
            own = {k[len(name) + 1:]: v for k, v in tensors.items() if k.startswith(name + ".")}
            net.load_state_dict(own if placement else {k: v.float() for k, v in own.items()})
        return cls(**nets, latent_mean=tensors["latent.mean"], latent_std=tensors["latent.std"],
                   default_steps=int(config.get("steps", 4)), picture_dtype=picture_dtype,
                   packed_pictures=packed_pictures, threads=threads, kernels=kernels, storage=storage,
                   fps=frame_rate(manifest), placement=placement, sampler=Sampler(**config.get("sampler", {})))

    def with_lids(self, picture: torch.Tensor, painted: torch.Tensor | None = None,
                  ) -> tuple[torch.Tensor | None, tuple[torch.Tensor, ...]]:
        """``lids`` and ``pictures`` of ``CharacterFeatures``; ``painted``: the former, where it is known."""
        if self.lids is None:
            return None, (picture,)
        painted = self.lids(picture) if painted is None else painted.to(picture.device)
        return painted, (picture, *self.lids.whole(picture, painted))

    def blinks(self, moves: np.ndarray) -> tuple[np.ndarray, list[int]]:
        """Of the eyes' moves, float32 (frames, 3): those that latents are to say, and which of a character's pictures
        shows the lids in each frame."""
        if self.lids is None:
            return moves, [0] * len(moves)
        which = shown(moves[:, 0].tolist(), self.lids.config.levels)
        told = moves.copy()
        told[np.array(which) > 0, 0] = 0.0
        return told, which

    def draw(self, latents: torch.Tensor, previous: torch.Tensor, character: CharacterFeatures,
             between: Callable[[], None] = lambda: None, *, which: Sequence[int] = (),
             out: torch.Tensor | None = None) -> torch.Tensor:
        """Frames, uint8 (4B, H, W, 4) with straight alpha, of latents (B, C, h, w) in the decoder's scale and those
        before them; ``between``: called a few times on the way, and may raise to stop it; ``which`` of the character's
        pictures each frame moves, by default the first; ``out``: where to write."""
        pictures = [character.pictures[i] for i in which] if any(which) else None
        if self.packed_decoder is not None:
            return self.packed_decoder(
                latents, previous, character.picture, character.features, between, pictures=pictures, out=out)
        both = (x.to(self.picture_dtype) for x in (latents, previous))
        picture = character.picture if pictures is None else torch.cat(pictures)
        decoded = self.video_decoder(*both, picture, character.features, between)
        frames = to_straight(decoded.frames.flatten(0, 1))
        return frames if out is None else out.copy_(frames)

    def drawn_latents(self, latents: torch.Tensor, previous: torch.Tensor | None, moves: torch.Tensor | None = None,
                      reference: torch.Tensor | None = None) -> list[torch.Tensor]:
        """The denoiser's latents (1, N, C, h, w) in the decoder's scale, (1, C, h, w) each, whose movement goes on
        where that of the one before ended; ``previous``: the last one of the chunk before. With ``moves`` (4N, 3) of
        ``orchestrator.eyes``, and the coarse features of the reference, the eyes blink and look about."""
        drawn = latents[0] * self.latent_std[0] + self.latent_mean[0]
        if previous is not None:
            drawn = self.movement.joined(drawn, previous)
        elif len(drawn) > 1:
            drawn = torch.cat([drawn[:1], self.movement.joined(drawn[1:], drawn[:1])])
        if moves is not None:
            drawn = self.eyes(drawn, reference.float(), moves.unflatten(0, (len(drawn), -1)))
        return list(drawn.split(1))


def frame_rate(manifest: Mapping) -> Fraction:
    return Fraction(*manifest["stream"]["fps"])


@torch.inference_mode()
def encode_character(models: Models, rgba: np.ndarray) -> CharacterFeatures:
    """Encode a picture, uint8 (H, W, 4) straight alpha, of the models' size."""
    straight = torch.from_numpy(np.ascontiguousarray(rgba)).permute(2, 0, 1)[None].float() / 255.0
    picture = torch.cat([straight[:, :3] * straight[:, 3:], straight[:, 3:]], 1).to(models.device)
    features = tuple(models.reference_encoder(picture.to(models.picture_dtype)))
    return CharacterFeatures(picture, features, *models.with_lids(picture))
