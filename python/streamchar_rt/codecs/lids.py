"""A character with its lids down: pictures that are made once, of its reference picture, and shown when it blinks.

The video decoder warps the reference picture, eyes included, and draws over it what the latents tell. Lids that come
down cover what the reference shows, which it has learnt badly; but it moves a picture whose eyes are closed as well as
any other. So a blink is a matter of which picture it is given, frame by frame: the reference, or one of these.
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn

from .video import Residual

_SHRINK = 8          # the network's coarsest cells, in pixels


@dataclass(frozen=True)
class LidConfig:
    """``top``, ``left``, ``height``, ``width``: where eyes are, in pixels of a reference picture; multiples of 8.
    ``levels``: how far the lids of the pictures are down, ascending."""
    top: int = 64
    left: int = 48
    height: int = 96
    width: int = 160
    channels: tuple[int, int, int] = (24, 48, 64)
    levels: tuple[float, ...] = (0.4, 0.6, 0.8, 1.0)

    def __post_init__(self) -> None:
        if any(side % _SHRINK or side < 0 for side in (self.top, self.left, self.height, self.width)):
            raise ValueError(f"the place of eyes is not in multiples of {_SHRINK} pixels: {self}")
        if not self.levels or any(not 0 < a <= 1 for a in self.levels) or list(self.levels) != sorted(self.levels):
            raise ValueError(f"levels={self.levels} are not ascending shares of closed lids")

    def to_dict(self) -> dict:
        return asdict(self)


class LidNet(nn.Module):
    """A U-Net (Ronneberger et al. 2015) that paints lids over the part of a picture where eyes are."""

    def __init__(self, config: LidConfig = LidConfig()):
        super().__init__()
        self.config = config
        self._rows = slice(config.top, config.top + config.height)
        self._columns = slice(config.left, config.left + config.width)
        a, b, c = config.channels
        self.inputs = nn.Conv2d(4 * 4 + 1, a, 3, padding=1)
        self.fine = Residual(a)
        self.to_middle = nn.Conv2d(a, b, 3, 2, 1)
        self.middle = Residual(b)
        self.to_coarse = nn.Conv2d(b, c, 3, 2, 1)
        self.coarse = nn.Sequential(Residual(c), Residual(c))
        self.from_coarse = nn.Conv2d(c, b * 4, 1)
        self.middle_again = Residual(b)
        self.from_middle = nn.Conv2d(b, a * 4, 1)
        self.fine_again = Residual(a)
        self.out = nn.Conv2d(a, 4 * 4, 3, padding=1)          # colour, and how much of it covers what is there
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.out.bias.copy_(torch.tensor([0.0] * 12 + [-2.0] * 4))

    def paint(self, part: torch.Tensor, level: torch.Tensor) -> torch.Tensor:
        """``part`` of a premultiplied picture, (B, 4, h, w) in [0, 1], with lids down by ``level`` (B,), 0..1."""
        x = F.pixel_unshuffle(part, 2)
        x = torch.cat([2 * x - 1, level[:, None, None, None].expand(-1, 1, *x.shape[2:])], 1)
        fine = self.fine(self.inputs(x))
        middle = self.middle(self.to_middle(fine))
        coarse = self.coarse(self.to_coarse(middle))
        middle = self.middle_again(middle + F.pixel_shuffle(self.from_coarse(coarse), 2))
        fine = self.fine_again(fine + F.pixel_shuffle(self.from_middle(middle), 2))
        drawn = F.pixel_shuffle(self.out(F.silu(fine)), 2)
        colour = torch.lerp(part[:, :3], drawn[:, :3] + 0.5, torch.sigmoid(drawn[:, 3:]))
        return torch.cat([colour, part[:, 3:]], 1)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        """The part of a premultiplied reference picture (1, 4, H, W) with lids down by each of the config's levels,
        (L, 4, h, w)."""
        part = picture[:, :, self._rows, self._columns].expand(len(self.config.levels), -1, -1, -1)
        painted = self.paint(part, torch.tensor(self.config.levels, dtype=part.dtype, device=part.device))
        return torch.minimum(painted.clamp(min=0), part[:, 3:])          # no brighter than what is covered

    def whole(self, picture: torch.Tensor, painted: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The reference picture with each of the parts that ``forward`` painted in it, (1, 4, H, W) each."""
        pictures = picture.repeat(len(painted), 1, 1, 1)
        pictures[:, :, self._rows, self._columns] = painted
        return pictures.split(1)


def shown(closing: Sequence[float], levels: Sequence[float]) -> list[int]:
    """Which picture shows lids that are down by ``closing``, 0..1: 0 is the reference, 1 that of the first level."""
    steps = (0.0, *levels)
    return [min(range(len(steps)), key=lambda i: abs(steps[i] - c)) for c in closing]
