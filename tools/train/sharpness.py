"""A critic of eyes and mouths: what is drawn there is to look drawn, not blurred.

Pixel losses answer a doubt about an edge with a soft edge. The critic sees small windows about the eyes and the mouth,
where nothing can be warped from the reference, and tells the studio's from the decoder's (hinge loss, Lim and Ye 2017,
"Geometric GAN"; windows as in Isola et al. 2017). The decoder is to please it, and to give its layers what the truth
gives them (feature matching, Wang et al. 2018, "pix2pixHD"), which keeps it from inventing another face.
"""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

WINDOW = 48          # pixels
PARTS = 3            # of a face: eye, eye, mouth


def windows(frames: torch.Tensor, centres: torch.Tensor) -> torch.Tensor:
    """Cut the parts out of pictures.

    ``frames`` (N, 4, H, W) premultiplied; ``centres`` (N, PARTS, 2) pixels (x, y). Returns (N * PARTS, 4, WINDOW,
    WINDOW); a window that would leave the picture is moved inside.
    """
    height, width = frames.shape[-2:]
    most = torch.tensor([width - WINDOW, height - WINDOW], device=frames.device)
    first = torch.minimum((centres.to(frames.device).round().long() - WINDOW // 2).clamp(min=0), most)     # (N, PARTS, 2)
    along = torch.arange(WINDOW, device=frames.device)
    x, y = first[..., 0, None] + along, first[..., 1, None] + along                                        # (N, PARTS, WINDOW)
    which = torch.arange(len(frames), device=frames.device)[:, None, None, None]
    cut = frames.movedim(1, -1)[which, y[..., :, None], x[..., None, :]]
    return cut.flatten(0, 1).movedim(-1, 1)


class Critic(nn.Module):
    """Windows (N, 4, WINDOW, WINDOW) to a verdict on each of their places (N, 1, h, w), and the layers below it."""

    def __init__(self, width: int = 32):
        super().__init__()
        sizes = (4, width, 2 * width, 3 * width)
        self.layers = nn.ModuleList(nn.Conv2d(a, b, 4, 2, 1) for a, b in zip(sizes, sizes[1:]))
        self.verdict = nn.Conv2d(sizes[-1], 1, 3, padding=1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        x, below = 2 * x - 1, []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            below.append(x)
        return self.verdict(x), below


def critic_loss(critic: Critic, true: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Hinge loss of the critic on windows."""
    verdict, _ = critic(torch.cat([true, drawn.detach()]))
    on_true, on_drawn = verdict.chunk(2)
    return F.relu(1 - on_true).mean() + F.relu(1 + on_drawn).mean()


def drawing_loss(critic: Critic, true: torch.Tensor, drawn: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(displeasure, difference of the layers) of what was drawn; the critic's weights get no gradient."""
    with torch.no_grad():
        wanted = critic(true)[1]
    frozen = [p for p in critic.parameters() if p.requires_grad]
    for p in frozen:
        p.requires_grad_(False)
    verdict, below = critic(drawn)
    for p in frozen:
        p.requires_grad_(True)
    return -verdict.mean(), torch.stack([(a - b).abs().mean() for a, b in zip(below, wanted)]).mean()
