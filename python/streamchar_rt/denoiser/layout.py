"""Where the tokens of a chunk stand: positions, segment distances and rotary frequencies.

Every position is local to its chunk, in video frames; a cached segment is seen at a fixed distance, by
rotating the query, so positions never grow however long the stream is.
"""
from __future__ import annotations

from dataclasses import asdict, dataclass

import torch


@dataclass(frozen=True)
class Layout:
    frames: int = 16                 # video frames a chunk
    temporal: int = 4                # frames a latent
    grid: int = 8                    # video tokens down
    grid_columns: int = 0            # and across; 0: as many as down
    audio_tokens: int = 16           # one a video frame
    audio_lead: float = 2.0          # video frames by which the audio tokens lead the picture
    head_dim: int = 64
    time_pairs: int = 12             # rotary pairs for (time, y, x): together head_dim / 2
    space_pairs: int = 10
    rope_base: float = 100.0
    motion_distance: float = 16.0    # frames from a segment's origin to the current chunk's
    sink_distance: float = 32.0
    reference_distance: float = 48.0

    @property
    def latents(self) -> int:
        return -(-self.frames // self.temporal)

    @property
    def unseen(self) -> int:
        """Frames of the first latent that lie before the chunk: its decoded frames less this many are shown."""
        return self.latents * self.temporal - self.frames

    @property
    def columns(self) -> int:
        return self.grid_columns or self.grid

    @property
    def places(self) -> int:
        """Video tokens a latent."""
        return self.grid * self.columns

    @property
    def video_tokens(self) -> int:
        return self.latents * self.places

    @property
    def chunk_tokens(self) -> int:
        return self.video_tokens + self.audio_tokens

    @property
    def reference_tokens(self) -> int:
        return self.places

    def video_positions(self, latents: int) -> torch.Tensor:
        """(latents * places, 3) float32: centre of the latent in frames, row, column."""
        t = torch.arange(latents, dtype=torch.float32) * self.temporal + (self.temporal - 1) / 2 - self.unseen
        y, x = (torch.arange(count, dtype=torch.float32) for count in (self.grid, self.columns))
        return torch.stack(torch.meshgrid(t, y, x, indexing="ij"), -1).reshape(-1, 3)

    def audio_positions(self) -> torch.Tensor:
        """(audio_tokens, 3) float32: time in frames; in space they stand at the picture's centre."""
        t = torch.arange(self.audio_tokens, dtype=torch.float32) + self.audio_lead
        middle = lambda count: torch.full_like(t, (count - 1) / 2)
        return torch.stack([t, middle(self.grid), middle(self.columns)], -1)

    def chunk_positions(self) -> torch.Tensor:
        return torch.cat([self.video_positions(self.latents), self.audio_positions()])

    def frequencies(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Radians a unit for each rotary pair, float32 (head_dim / 2,), and its axis 0..2, int64."""
        def rates(n: int) -> torch.Tensor:
            return self.rope_base ** (-torch.arange(n, dtype=torch.float64) / n)
        space = rates(self.space_pairs)
        axes = torch.repeat_interleave(torch.arange(3),
                                       torch.tensor([self.time_pairs, self.space_pairs, self.space_pairs]))
        return torch.cat([rates(self.time_pairs), space, space]).float(), axes

    def to_dict(self) -> dict:
        return asdict(self)


def rotary_table(layout: Layout, positions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """cos and sin, float32 (T, head_dim / 2), of the angles at ``positions`` (T, 3)."""
    rates, axes = layout.frequencies()
    angles = positions.double()[:, axes] * rates.double()
    return angles.cos().float(), angles.sin().float()


def rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate interleaved pairs of the last axis: float32 x (..., T, H, D), tables (T, D / 2)."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    cos, sin = cos[:, None], sin[:, None]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)
