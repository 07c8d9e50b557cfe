"""Eyes drawn into latents: how a latent changes when the eyes blink and look as they are told to.

The denoiser's latents have the eyes open and looking ahead. Where a character's eyes are, and what they look like closed,
its latent and its reference say; so a few convolutions do. They are asked once a chunk, behind the denoiser, whose memory
never sees their work. Lids that come further down than the decoder draws well are a matter of ``lids``, where a bundle
has those.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .video import FRAMES, MotionCode

MOVES = 3            # blink 0..1, gaze right and down -1..1


@dataclass(frozen=True)
class EyeConfig:
    latent_channels: int = 12
    reference_channels: int = 64      # of the coarse reference features
    width: int = 48
    depth: int = 2
    closing: float = 1.0              # the most that eyes close: as far as the bundle's decoder draws it well

    def to_dict(self) -> dict:
        return asdict(self)


class _Modulated(nn.Module):
    """A residual of two convolutions, whose middle the eyes' moves scale and shift."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.told = nn.Linear(width, 2 * width)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor, told: torch.Tensor) -> torch.Tensor:
        scale, shift = self.told(told)[..., None, None].chunk(2, 1)
        return x + self.second(F.silu(self.first(F.silu(x)) * (1 + scale) + shift))


class EyeNet(nn.Module):
    def __init__(self, config: EyeConfig = EyeConfig()):
        super().__init__()
        self.config = config
        width = config.width
        self.latents = nn.Conv2d(config.latent_channels, width, 1)
        self.reference = nn.Conv2d(config.reference_channels, width, 1)
        self.moves = nn.Linear(FRAMES * MOVES, width)
        self.blocks = nn.ModuleList(_Modulated(width) for _ in range(config.depth))
        self.out = nn.Conv2d(width, config.latent_channels - MotionCode.CHANNELS, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, latents: torch.Tensor, reference: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
        """Latents (N, C, h, w) in the decoder's scale, whose eyes move.

        ``reference``: (N or 1, C', h, w) coarse reference features; ``moves``: (N, 4 frames, MOVES), see
        ``orchestrator.eyes``. The movement of head and body stays as it is.
        """
        if self.config.closing < 1:
            moves = torch.cat([moves[..., :1].clamp(max=self.config.closing), moves[..., 1:]], -1)
        told = F.silu(self.moves(moves.flatten(1)))
        still = F.layer_norm(reference.movedim(1, -1), reference.shape[1:2]).movedim(-1, 1)
        x = self.latents(latents) + self.reference(still)
        for block in self.blocks:
            x = block(x, told)
        rigid, local = latents[:, : MotionCode.CHANNELS], latents[:, MotionCode.CHANNELS:]
        return torch.cat([rigid, local + self.out(F.silu(x))], 1)
