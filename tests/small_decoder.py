"""A small video decoder for tests: random weights, its packed kin, and a character."""
from __future__ import annotations

import copy

import torch

from streamchar_rt.codecs.packed_video import PackedVideoDecoder
from streamchar_rt.codecs.video import ReferenceEncoder, VideoCodecConfig, VideoDecoder, to_straight

SMALL = VideoCodecConfig(size=64, width=96, latent_channels=8, encoder=(8, 8, 8), decoder=(24, 20, 10),
                         reference=(6, 7, 9), trunk=1, parts=3, motion_width=8)


class Small:
    """A decoder of random weights that draws something everywhere, its packed kin, and a character."""

    def __init__(self, generator: torch.Generator, batch: int = 3):
        self.decoder = VideoDecoder(SMALL).eval().requires_grad_(False)
        for parameter in self.decoder.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / fan ** 0.5)
        self.decoder.motion[-1].weight.mul_(0.05), self.decoder.steady.weight.mul_(0.05)
        self.packed = PackedVideoDecoder(copy.deepcopy(self.decoder))
        self.picture = torch.rand(1, 4, SMALL.size, SMALL.width, generator=generator)
        self.features = ReferenceEncoder(SMALL).eval().requires_grad_(False)(self.picture)
        shape = batch, SMALL.latent_channels, SMALL.size // 16, SMALL.width // 16
        self.latents, self.previous = (torch.randn(shape, generator=generator) for _ in range(2))

    def exact(self) -> torch.Tensor:
        frames = self.decoder(self.latents, self.previous, self.picture, self.features).frames
        return to_straight(frames.flatten(0, 1))

    def frames(self, own: slice = slice(None), **options) -> torch.Tensor:
        return self.packed(self.latents[own], self.previous[own], self.picture, self.features, **options)
