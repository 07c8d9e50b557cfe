"""RGBA video codec: four frames to one latent, and back with the help of a reference picture.

The encoder sees four frames at once (temporal 4, spatial 16) beside the reference picture, so a latent says
how the character differs from the reference, not what it looks like. It is told the pose that the frames were
drawn with, too: finding movement in pixels is the slowest thing to learn, and nobody encodes at run time.

Four of the channels say how head, body and hair move as a whole, in numbers that are the same everywhere, so
that the decoder's average over the picture is free of the denoiser's errors. The others are local and learned:
eyes, brows, mouth.

The decoder is causal: latent n is decoded from latents n-1 and n. Identity and fine detail come from the
reference: the decoder predicts a flow that warps the reference picture, and blends it with what it draws itself.
The flow is that of a few parts that move rigidly, each place choosing among them (after Siarohin et al. 2019,
"First Order Motion Model"). No normalization layers at high resolution: they cost as much as the convolutions.

Pictures are RGBA with premultiplied colour in [0, 1], channels first, sides in multiples of 32 pixels.
"""
from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

FRAMES = 4           # frames a latent
PATCH = 4            # pixel-unshuffle factor at both ends
REACH = 60.0         # pixels, the scale of the parts' movement: large, so that small weights do
LOCAL_FLOW = 6.0     # pixels that a place may move against its part


@dataclass(frozen=True)
class VideoCodecConfig:
    size: int = 256                                    # pixels down
    width: int = 0                                     # and across; 0: as many as down
    latent_channels: int = 12
    encoder: tuple[int, int, int] = (96, 128, 192)     # channels at 1/4, 1/8, 1/16
    decoder: tuple[int, int, int] = (160, 96, 64)      # channels at 1/16, 1/8, 1/4
    reference: tuple[int, int, int] = (32, 48, 64)     # channels at 1/4, 1/8, 1/16
    trunk: int = 3
    pose_fields: int = 21
    parts: int = 8                                     # that move rigidly
    motion_width: int = 64

    def to_dict(self) -> dict:
        return asdict(self)


class Residual(nn.Module):
    """x + second(silu(first(silu(x)))), two convolutions; nothing is added as it begins."""

    def __init__(self, width: int):
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class MotionCode(nn.Module):
    """The pose's first RIGID fields over a latent's four frames, as 16 numbers in the 2 x 2 cells of four channels.

    A field is written as its mean and its slope, two of them with their curvature, each times a gain that makes all
    of them about as large as the other channels.
    """
    RIGID, CHANNELS = 7, 4

    def __init__(self):
        super().__init__()
        orders = torch.tensor([0] * self.RIGID + [1] * self.RIGID + [2, 2])
        basis = torch.tensor([[1.0, 1, 1, 1], [-3, -1, 1, 3], [1, -1, -1, 1]])
        basis = basis / basis.square().mean(1, keepdim=True).sqrt()
        self.register_buffer("field", torch.tensor([*range(self.RIGID), *range(self.RIGID), 0, 1]), persistent=False)
        self.register_buffer("basis", basis[orders], persistent=False)                                   # (16, 4)
        self.register_buffer("gain", torch.tensor([1.5, 6.0, 12.0])[orders], persistent=False)
        # What is added to a code for its own sake, and for that of the one before.
        own, before = self._joints(torch.tensor([1.0, 0.75, 0.5, 0.25]))
        self.register_buffer("from_own", own, persistent=False)                                          # (16, 16)
        self.register_buffer("from_before", before, persistent=False)

    def write(self, poses: torch.Tensor, height: int, width: int) -> torch.Tensor:
        """Poses (B, 4, P) to the same code in all cells, (B, 4, h, w)."""
        return self._in_cells(self._code(poses.float()), height, width)

    def read(self, channels: torch.Tensor) -> torch.Tensor:
        """(B, 4, h, w) to the fields' mean estimate (B, 4 frames, RIGID)."""
        return self._fields(self._mean_code(channels.float()))

    def joined(self, latents: torch.Tensor, previous: torch.Tensor) -> torch.Tensor:
        """``latents`` (N, C, h, w) that follow one another, the movement of each going on where that of the one before
        ended, at the speed of both; ``previous``: (1, C, h, w) before the first one.

        A denoiser draws each latent's movement with an error of its own, which shows as a jump every fourth frame.
        The jump is taken out of the first frame, and less and less of it out of the next three.
        """
        before, code = self._mean_code(previous[:, : self.CHANNELS]), self._mean_code(latents[:, : self.CHANNELS])
        changes = list((code @ self.from_own).split(1))
        for i, own in enumerate(code.split(1)):
            changes[i] = torch.addmm(changes[i], before, self.from_before)
            before = own + changes[i]
        change = self._in_cells(torch.cat(changes), *latents.shape[-2:])
        return torch.cat([latents[:, : self.CHANNELS] + change, latents[:, self.CHANNELS:]], 1)

    def _joints(self, fade: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """A jump is linear in both codes, and so is what taking it out of a latent, as ``fade`` says, adds to a code."""
        fields = self._fields(torch.eye(len(self.gain)))                                                 # (16, 4, RIGID)
        begin = fields[:, 0] - 0.5 * (fields[:, 1] - fields[:, 0])
        end = fields[:, 3] + 0.5 * (fields[:, 3] - fields[:, 2])
        taken = self._code(-torch.eye(self.RIGID)[:, None] * fade[:, None])                              # (RIGID, 16)
        return begin @ taken, -end @ taken

    def _code(self, poses: torch.Tensor) -> torch.Tensor:
        """(B, 4, P) to (B, 16)."""
        return self.gain * (poses.transpose(1, 2)[:, self.field] * self.basis).mean(-1)

    def _in_cells(self, code: torch.Tensor, height: int, width: int) -> torch.Tensor:
        return code.reshape(-1, self.CHANNELS, 2, 2).repeat(1, 1, height // 2, width // 2)

    @staticmethod
    def _mean_code(channels: torch.Tensor) -> torch.Tensor:
        """The cells' mean, (B, 16)."""
        return channels.unflatten(-1, (-1, 2)).unflatten(-3, (-1, 2)).mean((2, 4)).flatten(1)            # B C h/2 2 w/2 2

    def _fields(self, code: torch.Tensor) -> torch.Tensor:
        """(B, 16) to (B, 4, RIGID)."""
        parts = (code / self.gain)[..., None] * self.basis                                               # (B, 16, 4)
        fields = parts[:, : self.RIGID] + parts[:, self.RIGID: 2 * self.RIGID]      # means and slopes
        curved = parts.shape[1] - 2 * self.RIGID                                    # the first ones have curvature
        return torch.cat([fields[:, :curved] + parts[:, 2 * self.RIGID:], fields[:, curved:]], 1).transpose(1, 2)


class VideoEncoder(nn.Module):
    """Premultiplied RGBA frames (B, 4, 4, H, W), their poses (B, 4, P) and the reference picture (B, 4, H, W), to
    latents (B, C, H/16, W/16), the motion code first, the rest in [-2, 2]. Only training encodes."""

    def __init__(self, config: VideoCodecConfig = VideoCodecConfig()):
        super().__init__()
        a, b, c = config.encoder
        self.pixels = nn.Sequential(
            nn.PixelUnshuffle(PATCH), nn.Conv2d((FRAMES + 1) * 4 * PATCH ** 2, a, 1), Residual(a),
            nn.Conv2d(a, b, 3, 2, 1), Residual(b), Residual(b), nn.Conv2d(b, c, 3, 2, 1))
        self.pose = nn.Linear(FRAMES * config.pose_fields, c)
        self.code = MotionCode()
        self.mix = nn.Sequential(Residual(c), Residual(c), nn.Conv2d(c, config.latent_channels - MotionCode.CHANNELS, 1))

    def forward(self, frames: torch.Tensor, poses: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        x = torch.cat([frames.flatten(1, 2), picture], 1) * 2 - 1
        x = self.pixels(x.contiguous(memory_format=torch.channels_last))
        z = self.mix(x + self.pose(poses.flatten(1))[..., None, None])
        return torch.cat([self.code.write(poses, *z.shape[-2:]).to(z.dtype), 2 * torch.tanh(z / 2)], 1)


class ReferenceEncoder(nn.Module):
    """Reference picture (B, 4, H, W) to features at 1/4, 1/8 and 1/16: computed once per character."""

    def __init__(self, config: VideoCodecConfig = VideoCodecConfig()):
        super().__init__()
        a, b, c = config.reference
        self.fine = nn.Sequential(nn.PixelUnshuffle(PATCH), nn.Conv2d(4 * PATCH ** 2, a, 3, padding=1), Residual(a))
        self.middle = nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), Residual(b))
        self.coarse = nn.Sequential(nn.Conv2d(b, c, 3, 2, 1), Residual(c))

    def forward(self, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        fine = self.fine((picture * 2 - 1).contiguous(memory_format=torch.channels_last))
        middle = self.middle(fine)
        return fine, middle, self.coarse(middle)


class Decoded(NamedTuple):
    """``frames`` (B, 4, 4, H, W) premultiplied RGBA, not clamped; ``warped``, the moved reference that went into them,
    same shape; ``flow`` (B, 4, 2, H/4, W/4), pixels from each place to where the reference shows it."""
    frames: torch.Tensor
    warped: torch.Tensor
    flow: torch.Tensor


class VideoDecoder(nn.Module):
    def __init__(self, config: VideoCodecConfig = VideoCodecConfig()):
        super().__init__()
        self.config = config
        a, b, c = config.decoder
        fine, middle, coarse = config.reference
        self.inputs = nn.Conv2d(2 * config.latent_channels + coarse, a, 3, padding=1)
        self.trunk = nn.Sequential(*[Residual(a) for _ in range(config.trunk)])
        self.split = nn.Conv2d(a, FRAMES * b * 4, 1)                 # to four frames at 1/8
        self.mix_middle = nn.Conv2d(b + middle, b, 1)
        self.middle = Residual(b)
        self.up = nn.Conv2d(b, c * 4, 1)                             # to 1/4
        # Parts' shares and local flow, at 1/4 after the shuffle.
        self.flow = nn.Conv2d(b, (config.parts + 2) * 4, 3, padding=1)
        self.code = MotionCode()
        self.motion = nn.Sequential(nn.Linear(MotionCode.RIGID, config.motion_width), nn.SiLU(),
                                    nn.Linear(config.motion_width, config.parts * 6))
        self.steady = nn.Linear(MotionCode.RIGID, config.parts * 6, bias=False)
        self.mix_fine = nn.Conv2d(c + fine + 4 * PATCH ** 2, c, 1)
        self.fine = Residual(c)
        self.out = nn.Conv2d(c, 5 * PATCH ** 2, 3, padding=1)        # RGBA and the blend weight
        for layer in (self.motion[-1], self.steady):
            nn.init.zeros_(layer.weight)
        nn.init.zeros_(self.motion[-1].bias)

    def forward(self, latents: torch.Tensor, previous: torch.Tensor, picture: torch.Tensor,
                features: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
                between: Callable[[], None] = lambda: None) -> Decoded:
        """Decode latents.

        ``latents``, ``previous``: (B, C, h, w), latent n and n-1 (n itself where there is none before);
        ``picture``: (B or 1, 4, H, W) reference, or (4B, 4, H, W) for each frame its own; ``features``:
        ``ReferenceEncoder``'s of a (B or 1) reference;
        ``between``: called a few times on the way, and may raise to stop it.
        """
        batch = len(latents)
        fine, middle, coarse = features
        share = lambda t, times=1: t.expand(batch, -1, -1, -1).repeat_interleave(times, 0) if times > 1 \
            else t.expand(batch, -1, -1, -1)
        x = torch.cat([latents, previous, share(coarse)], 1).contiguous(memory_format=torch.channels_last)
        x = self.trunk(self.inputs(x))
        x = F.pixel_shuffle(self.split(x), 2)                         # (B, 4b, H/8, W/8)
        x = x.reshape(batch * FRAMES, -1, *x.shape[2:])
        x = self.mix_middle(torch.cat([x, share(middle, FRAMES)], 1).contiguous(memory_format=torch.channels_last))
        between()
        x = self.middle(x)
        between()
        flow = self._flow(latents, F.pixel_shuffle(self.flow(F.silu(x)).float(), 2))          # (4B, 2, H/4, W/4)
        own = len(picture) == FRAMES * batch
        warped = self._warp(flow, picture if own else share(picture, FRAMES))
        between()
        x = F.pixel_shuffle(self.up(x), 2)                            # (4B, c, H/4, W/4)
        x = torch.cat([x, share(fine, FRAMES), F.pixel_unshuffle(warped.to(x.dtype), PATCH)], 1)
        x = self.fine(self.mix_fine(x.contiguous(memory_format=torch.channels_last)))
        between()
        x = F.pixel_shuffle(self.out(F.silu(x)), PATCH).float()       # (4B, 5, H, W)
        between()
        drawn, weight = x[:, :4] + 0.5, torch.sigmoid(x[:, 4:])
        y = torch.lerp(drawn, warped.float(), weight)
        shape = (batch, FRAMES, 4, *y.shape[2:])
        return Decoded(y.reshape(shape), warped.reshape(shape), flow.reshape(batch, FRAMES, *flow.shape[1:]))

    def _flow(self, latents: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        """Pixels (4B, 2, h, w): each part's affine movement, mixed by the shares that ``places`` (4B, parts + 2, h, w)
        gives them, and the local flow that it adds."""
        height, width = places.shape[-2:]
        fields = self.code.read(latents[:, :MotionCode.CHANNELS]).to(self.steady.weight.dtype)
        motion = REACH * (self.motion(fields) + self.steady(fields)).float().reshape(len(places), self.config.parts, 2, 3)
        shares, local = places[:, :-2].softmax(1), places[:, -2:]
        x = torch.linspace(-1, 1, width, device=places.device).expand(height, width)
        y = torch.linspace(-1, 1, height, device=places.device)[:, None].expand(height, width)
        mixed = torch.einsum("bkdi,bkhw->bdihw", motion, shares)
        return mixed[:, :, 0] * x + mixed[:, :, 1] * y + mixed[:, :, 2] + LOCAL_FLOW * torch.tanh(local)

    @staticmethod
    def _warp(flow: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        """Reference picture moved by the flow."""
        height, width = picture.shape[-2:]
        flow = F.interpolate(flow, scale_factor=PATCH, mode="bilinear", align_corners=False)
        grid = F.affine_grid(torch.eye(2, 3, device=flow.device)[None], (1, 1, height, width), align_corners=False)
        scale = _pixel_steps(width, height, flow.device)
        with torch.autocast(picture.device.type, enabled=False):
            return F.grid_sample(picture.float(), grid + flow.permute(0, 2, 3, 1) * scale, mode="bilinear",
                                 padding_mode="zeros", align_corners=False)


def to_straight(frames: torch.Tensor) -> torch.Tensor:
    """Premultiplied [0, 1] (F, 4, H, W) to uint8 (F, H, W, 4) with straight alpha."""
    frames = frames.float()
    alpha = frames[:, 3:].clamp(0.0, 1.0)
    # Where next to nothing covers a pixel its colour is arbitrary but finite.
    colour = (frames[:, :3] / alpha.clamp(min=1 / 255)).clamp(0.0, 1.0)
    out = torch.empty(len(frames), *frames.shape[2:], 4, dtype=torch.uint8, device=frames.device)
    out[..., :3] = (colour * 255 + 0.5).to(torch.uint8).permute(0, 2, 3, 1)
    out[..., 3] = (alpha[:, 0] * 255 + 0.5).to(torch.uint8)
    return out


@functools.cache
def _pixel_steps(width: int, height: int, device: torch.device) -> torch.Tensor:
    """A pixel in the units of ``grid_sample``, (x, y). Kept: making it on a GPU makes the host wait."""
    with torch.inference_mode(False):
        return torch.tensor([2.0 / width, 2.0 / height], device=device)
