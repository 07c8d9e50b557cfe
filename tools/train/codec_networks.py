"""The video codec's networks as they are trained. Apart from ``video_codec``, so that weights can be read where nothing
can be drawn."""
from __future__ import annotations

import torch
from torch import nn

from streamchar_rt.codecs.video import FRAMES, ReferenceEncoder, VideoCodecConfig, VideoDecoder, VideoEncoder
from tools.studio.pose import POSE_FIELDS


class VideoCodec(nn.Module):
    """The three networks together, as they are trained."""

    def __init__(self, config: VideoCodecConfig = VideoCodecConfig()):
        super().__init__()
        self.encoder = VideoEncoder(config)
        self.reference = ReferenceEncoder(config)
        self.decoder = VideoDecoder(config)
        fields = len(POSE_FIELDS)
        self.pose = nn.Conv2d(config.latent_channels, (1 + FRAMES) * fields, 5, padding=2)     # training only

    def read_pose(self, z: torch.Tensor) -> torch.Tensor:
        """Pose of the latents' frames, (B, N, C, h, w) to (B, N * 4, P): each field is read where it shows best."""
        fields = len(POSE_FIELDS)
        y = self.pose(z.flatten(0, 1)).float().flatten(2)                            # (BN, 5P, places)
        where = y[:, :fields].softmax(-1)
        values = (y[:, fields:].unflatten(1, (FRAMES, fields)) * where[:, None]).sum(-1)
        return values.reshape(len(z), -1, fields)

    def forward(self, frames: torch.Tensor, poses: torch.Tensor, picture: torch.Tensor, noise: float = 0.0,
                moved: torch.Tensor | None = None):
        """``frames`` (B, N * 4, 4, H, W), ``poses`` (B, N * 4, P), ``picture`` (B, 4, H, W). Returns frames, warped
        frames, flow, latents. ``moved``: other poses for the motion code. ``noise``: the most that a clip may get."""
        b, t = frames.shape[:2]
        repeat = lambda x: x.repeat_interleave(t // FRAMES, 0)
        z = self.encoder(frames.reshape(b * t // FRAMES, FRAMES, *frames.shape[2:]), poses.reshape(b * t // FRAMES, FRAMES, -1),
                         repeat(picture)).float()
        if moved is not None:
            code = self.encoder.code.write(moved.reshape(len(z), FRAMES, -1), *z.shape[-2:])
            z = torch.cat([code, z[:, code.shape[1]:]], 1)
        z = z.reshape(b, t // FRAMES, *z.shape[1:])
        noisy = z + noise * torch.rand(b, 1, 1, 1, 1, device=z.device) * torch.randn_like(z)
        before = torch.cat([noisy[:, :1], noisy[:, :-1]], 1)
        features = tuple(repeat(f) for f in self.reference(picture))
        y, warped, flow = self.decoder(noisy.flatten(0, 1), before.flatten(0, 1), repeat(picture), features)
        return y.reshape(frames.shape), warped.reshape(frames.shape), flow.reshape(b, t, *flow.shape[2:]), z
