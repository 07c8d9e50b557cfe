"""Frame-aligned conditions: from the alignment of a chunk with its transcript to c_a and c_v."""
from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .units import NUM_UNITS

STRESSES = 3
FEATURES = NUM_UNITS + STRESSES + 4    # unit, stress, word start, time since the unit began, time left, fraction
LONGEST = 15                      # half-frames at which times saturate


@dataclass(frozen=True)
class ConditionConfig:
    width: int = 192
    depth: int = 5                # convolutions; each sees two half-frames to either side
    output: int = 256             # the denoiser's width
    voices: int = 4
    past: int = 8                 # half-frames before the chunk
    slots: int = 32
    lookahead: int = 8
    audio_tokens: int = 16
    latents: int = 4
    video_lag: int = 4            # half-frames by which the picture lags the mel

    @property
    def slots_per_latent(self) -> int:
        return -(-self.slots // self.latents)

    @property
    def video_begin(self) -> int:
        """The first half-frame that the picture is conditioned on; the first latent may begin before the chunk."""
        return self.past - self.video_lag - (self.slots_per_latent * self.latents - self.slots)

    def to_dict(self) -> dict:
        return asdict(self)


def time_left(elapsed: torch.Tensor) -> torch.Tensor:
    """Half-frames until the next unit begins, or the window ends, at least 1; like ``elapsed`` (..., T), int64."""
    place = torch.arange(elapsed.shape[-1], device=elapsed.device)
    # Not ``where`` with a number: a GPU may have to fetch it, which cannot be captured.
    begins = place.expand_as(elapsed).masked_fill(elapsed != 0, elapsed.shape[-1])
    following = begins.flip(-1).cummin(-1).values.flip(-1)
    following = torch.cat([following[..., 1:], torch.full_like(following[..., :1], elapsed.shape[-1])], -1)
    return following - place


def alignment_features(unit: torch.Tensor, stress: torch.Tensor, word_start: torch.Tensor,
                       elapsed: torch.Tensor) -> torch.Tensor:
    """What each half-frame says, float32 (..., T, FEATURES).

    All arguments are integer (..., T): unit id, stress 0..2, first unit of a word 0/1, half-frames since the
    unit began (0 for its first).
    """
    left = time_left(elapsed).clamp(max=LONGEST).float()
    since = elapsed.clamp(0, LONGEST).float()
    times = torch.stack([word_start.float(), since / LONGEST, left / LONGEST, (since + 0.5) / (since + left)], -1)
    return torch.cat([F.one_hot(unit, NUM_UNITS).float(), F.one_hot(stress, STRESSES).float(), times], -1)


class ConditionEncoder(nn.Module):
    """Local context of the alignment: coarticulation and durations, as the denoiser's conditions."""

    def __init__(self, config: ConditionConfig = ConditionConfig()):
        super().__init__()
        self.config = config
        d = config.width
        self.embed = nn.Linear(FEATURES, d)
        self.voice = nn.Embedding(config.voices, d)
        self.convolutions = nn.ModuleList(nn.Conv1d(d, d, 5, padding=2) for _ in range(config.depth))
        self.to_audio = nn.Linear(config.slots // config.audio_tokens * d, config.output)
        self.to_video = nn.Linear(config.slots_per_latent * d, config.output)

    def forward(self, features: torch.Tensor, voice: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """``features``: (B, past + slots + lookahead, FEATURES), ``voice``: int64 (B,). Returns c_v (B, latents,
        output) and c_a (B, audio_tokens, output). All-zero features mean: no condition."""
        c = self.config
        x = (self.embed(features) + self.voice(voice)[:, None]).transpose(1, 2)
        for convolution in self.convolutions:
            x = x + convolution(F.silu(x))
        x = x.transpose(1, 2)
        audio = x[:, c.past: c.past + c.slots].reshape(len(x), c.audio_tokens, -1)
        count = c.slots_per_latent * c.latents
        video = x[:, c.video_begin: c.video_begin + count].reshape(len(x), c.latents, -1)
        return self.to_video(video), self.to_audio(audio)
