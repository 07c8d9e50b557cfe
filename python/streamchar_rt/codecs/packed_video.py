"""The video decoder with packed weights and fused layers, for inference on a CPU.

Two convolutions without anything between them are one here, and what they make of the character alone is computed
once in float32: a frame adds it. Pictures keep their channels last; SiLU, sums, frames and pixel shuffles are part of
the convolutions.
"""
from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from ..ops import PackedConv, picture_blend, picture_warp, with_rim
from .video import FRAMES, LOCAL_FLOW, PATCH, REACH, MotionCode, VideoDecoder


@dataclass(frozen=True)
class _Known:
    """What is added for a character, (1, h, w, channels) each, and its picture with a rim, (H + 4, W + 4, 4)."""
    coarse: torch.Tensor
    middle: torch.Tensor
    fine: torch.Tensor
    picture: torch.Tensor


class PackedVideoDecoder:
    """``to_straight`` of ``VideoDecoder``'s frames, with int8 weights. Takes the decoder's convolutions away: they are
    not kept twice.

    Frames depend on their latents and the character alone, not on the others nor on the number of threads.
    """

    def __init__(self, decoder: VideoDecoder):
        a, b, c = decoder.config.decoder
        latents = 2 * decoder.config.latent_channels
        weight = {name: decoder.get_submodule(name).weight for name in
                  ("inputs", "split", "mix_middle", "up", "flow", "mix_fine", "out")}
        bias = {name: decoder.get_submodule(name).bias for name in weight}
        pair = lambda block: tuple(PackedConv(layer.weight, layer.bias) for layer in (block.first, block.second))
        self.inputs = PackedConv(weight["inputs"][:, :latents])
        self.trunk = [pair(block) for block in decoder.trunk]
        joined = lambda name, after: (_joined(weight[name], after), _joined_bias(bias[name], after))
        self.split = PackedConv(*joined("split", weight["mix_middle"][:, :b]), frames=FRAMES, shuffle=2)
        self.middle, self.flow = pair(decoder.middle), PackedConv(weight["flow"], bias["flow"])
        self.up = PackedConv(*joined("up", weight["mix_fine"][:, :c]), shuffle=2)
        self.warped = PackedConv(weight["mix_fine"][:, -4 * PATCH ** 2:])
        self.fine, self.out = pair(decoder.fine), PackedConv(weight["out"], bias["out"])
        # What multiplies the character's features, coarse to fine, and the biases.
        own = {"inputs": slice(latents, None), "mix_middle": slice(b, None), "mix_fine": slice(c, -4 * PATCH ** 2)}
        self._constant = [(weight[name][:, part].detach().float().clone(), bias[name].detach().float().clone())
                          for name, part in own.items()]
        self._parts, self.code = decoder.config.parts, decoder.code
        self._motion, self._steady = decoder.motion, decoder.steady
        self._known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()    # by the character's picture
        self._spare: list[_Buffers] = []    # as many as there were calls side by side
        for name in (*weight, "trunk", "middle", "fine"):
            setattr(decoder, name, None)

    def __call__(self, latents: torch.Tensor, previous: torch.Tensor, picture: torch.Tensor,
                 features: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
                 between: Callable[[], None] = lambda: None) -> torch.Tensor:
        """Frames, uint8 (4B, H, W, 4) with straight alpha.

        ``latents``, ``previous``: (B, C, h, w), latent n and n-1; ``picture`` and ``features``: as for
        ``VideoDecoder``, of one character; ``between``: called between layers, and may raise to stop it.
        """
        try:
            buffers = self._spare.pop()
        except IndexError:
            buffers = _Buffers()
        try:
            return self._draw(latents, previous, self._of_character(picture, features), between, buffers)
        finally:
            self._spare.append(buffers)

    def _draw(self, latents: torch.Tensor, previous: torch.Tensor, known: _Known, between: Callable[[], None],
              buffers: _Buffers) -> torch.Tensor:
        batch, _, height, width = latents.shape
        coarse = buffers.pair("coarse", batch, height, width, self.inputs.channels)
        middle = buffers.pair("middle", FRAMES * batch, 2 * height, 2 * width, self.split.channels)
        fine = buffers.pair("fine", 1, 4 * height, 4 * width, self.up.channels)
        drawn = buffers.of("drawn", 1, 4 * height, 4 * width, self.out.channels)
        warped = buffers.of("warped", 1, 4 * height, 4 * width, self.warped.in_channels)
        frames = torch.empty(FRAMES * batch, 16 * height, 16 * width, 4, dtype=torch.uint8)

        x = self.inputs([_channels_last(latents), _channels_last(previous)], added=known.coarse, out=coarse[0])
        for block in self.trunk:
            _residual(block, coarse, between)
        x = self.split(x, added=known.middle, out=middle[0])
        _residual(self.middle, middle, between)
        places, motion = self.flow(x, silu=True), self._movement(latents)
        between()
        for i in range(len(x)):     # frame by frame, which caches hold
            own = slice(i, i + 1)
            picture_warp(places[own], motion[own], known.picture, LOCAL_FLOW, out=warped)
            y = self.up(x[own], added=known.fine, out=fine[0])
            self.warped(warped, added=y, out=y)
            _residual(self.fine, fine, between)
            picture_blend(self.out(y, silu=True, out=drawn), warped, out=frames[own])
            between()
        return frames

    def _movement(self, latents: torch.Tensor) -> torch.Tensor:
        """What the parts do, (4B, parts, 2, 3) pixels."""
        fields = self.code.read(latents[:, :MotionCode.CHANNELS])
        return REACH * (self._motion(fields) + self._steady(fields)).reshape(-1, self._parts, 2, 3)

    def _of_character(self, picture: torch.Tensor, features: tuple[torch.Tensor, ...]) -> _Known:
        known = self._known.get(picture)
        if known is None:
            fine, middle, coarse = features
            added = [F.conv2d(x.float(), w, b, padding=w.shape[-1] // 2).permute(0, 2, 3, 1).contiguous()
                     for x, (w, b) in zip((coarse, middle, fine), self._constant)]
            known = self._known[picture] = _Known(*added, with_rim(picture[0].float().permute(1, 2, 0)))
        return known


class _Buffers:
    """Tensors that a call leaves to the next one: memory from the system is slow at first touch."""

    def __init__(self) -> None:
        self._tensors: dict[str, torch.Tensor] = {}

    def of(self, name: str, *shape: int) -> torch.Tensor:
        """Float32 with any content."""
        if name not in self._tensors or self._tensors[name].shape != shape:
            self._tensors[name] = torch.empty(shape)
        return self._tensors[name]

    def pair(self, name: str, *shape: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.of(name, *shape), self.of(f"{name}, inside", *shape)


def _residual(block: tuple[PackedConv, PackedConv], pair: tuple[torch.Tensor, torch.Tensor],
              between: Callable[[], None]) -> None:
    """The first tensor of the pair becomes the block's result; the second one is for what is inside."""
    x, inside = pair
    first, second = block
    second(first(x, silu=True, out=inside), silu=True, added=x, out=x)
    between()


def _channels_last(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def _joined(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """The weights of a 1x1 convolution whose outputs another one takes, pixel-shuffled by 2."""
    mix = after[:, :, 0, 0].double()                                        # (n, c)
    outputs = before[:, :, 0, 0].double().unflatten(0, (-1, mix.shape[1], 4))
    return torch.einsum("nc,fcpk->fnpk", mix, outputs).flatten(0, 2)[:, :, None, None].float()


def _joined_bias(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    mix = after[:, :, 0, 0].double()
    return torch.einsum("nc,fcp->fnp", mix, before.double().unflatten(0, (-1, mix.shape[1], 4))).flatten().float()
