"""The video decoder with packed weights and fused layers, for inference on a CPU.

Two convolutions without anything between them are one here, and what they make of the character alone is computed
once in float32: a frame adds it. Pictures keep their channels last; SiLU, sums, frames and pixel shuffles are part of
the convolutions.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch.utils.weak import WeakTensorKeyDictionary

from ..errors import ConfigError
from ..ops import KnownCharacter, PackedConv, PartMotion, VideoLayers, with_rim
from .video import FRAMES, LOCAL_FLOW, PATCH, REACH, MotionCode, VideoDecoder


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
        joined = lambda name, after: (_joined(weight[name], after), _joined_bias(bias[name], after))
        self.layers = VideoLayers(
            inputs=PackedConv(weight["inputs"][:, :latents]),
            trunk=[pair(block) for block in decoder.trunk],
            split=PackedConv(*joined("split", weight["mix_middle"][:, :b]), frames=FRAMES, shuffle=2),
            middle=pair(decoder.middle), flow=PackedConv(weight["flow"], bias["flow"]),
            up=PackedConv(*joined("up", weight["mix_fine"][:, :c]), shuffle=2),
            warped=PackedConv(weight["mix_fine"][:, -4 * PATCH ** 2:]),
            fine=pair(decoder.fine), out=PackedConv(weight["out"], bias["out"]),
            motion=PartMotion(_read_of(MotionCode()), decoder.motion[0], decoder.motion[2], decoder.steady, REACH),
            local=LOCAL_FLOW)
        # What multiplies the character's features, coarse to fine, and the biases.
        own = {"inputs": slice(latents, None), "mix_middle": slice(b, None), "mix_fine": slice(c, -4 * PATCH ** 2)}
        self._constant = [(weight[name][:, part].detach().float().clone(), bias[name].detach().float().clone())
                          for name, part in own.items()]
        self._known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()    # by the character's picture
        self._rims: WeakTensorKeyDictionary = WeakTensorKeyDictionary()     # by any picture
        for name in (*weight, "trunk", "middle", "fine"):
            setattr(decoder, name, None)

    def __call__(self, latents: torch.Tensor, previous: torch.Tensor, picture: torch.Tensor,
                 features: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
                 between: Callable[[], None] = lambda: None, *, pictures: Sequence[torch.Tensor] | None = None,
                 out: torch.Tensor | None = None) -> torch.Tensor:
        """Frames, uint8 (4B, H, W, 4) with straight alpha.

        ``latents``, ``previous``: (B, C, h, w), latent n and n-1; ``picture`` and ``features``: as for
        ``VideoDecoder``, of one character; ``between``: called before each frame and after the last one of a latent,
        and may raise to stop it; ``pictures``: those that the frames move in place of ``picture``, (1, 4, H, W) each;
        ``out``: where to write, contiguous.
        """
        known = self._of_character(picture, features)
        batch, _, height, width = latents.shape
        shape = FRAMES * batch, 16 * height, 16 * width, 4
        if out is None:
            out = torch.empty(shape, dtype=torch.uint8)
        elif out.shape != shape:
            raise ConfigError(f"out is {tuple(out.shape)}", hint=f"uint8 {shape}")
        drawing = self.layers.drawing(known)
        moved = [known.picture] * len(out) if pictures is None else [self._rimmed(x) for x in pictures]
        for n, (latent, before, frames) in enumerate(
                zip(_planes(latents), _planes(previous), out.split(FRAMES), strict=True)):
            drawing.begin(latent, before)
            for i in range(FRAMES):
                between()
                drawing.frame(i, frames, moved[n * FRAMES + i])
            between()
        return out

    def _of_character(self, picture: torch.Tensor, features: tuple[torch.Tensor, ...]) -> KnownCharacter:
        known = self._known.get(picture)
        if known is None:
            fine, middle, coarse = features
            added = [F.conv2d(x.float(), w, b, padding=w.shape[-1] // 2).permute(0, 2, 3, 1).contiguous()
                     for x, (w, b) in zip((coarse, middle, fine), self._constant)]
            known = self._known[picture] = KnownCharacter(*added, self._rimmed(picture))
        return known

    def _rimmed(self, picture: torch.Tensor) -> torch.Tensor:
        """A picture (1, 4, H, W) as ``picture_warp`` takes it."""
        rimmed = self._rims.get(picture)
        if rimmed is None:
            rimmed = self._rims[picture] = with_rim(picture[0].float().permute(1, 2, 0))
        return rimmed


def _planes(x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Float32 (C, h, w) contiguous, of each latent."""
    return (x if x.dtype is torch.float32 and x.is_contiguous() else x.float().contiguous()).unbind()


def _read_of(code: MotionCode) -> torch.Tensor:
    """What ``code.read`` multiplies the code with, (4 frames, RIGID, 16)."""
    cells = torch.eye(4 * MotionCode.CHANNELS).unflatten(1, (MotionCode.CHANNELS, 2, 2))
    return code.read(cells).permute(1, 2, 0)


def _joined(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """The weights of a 1x1 convolution whose outputs another one takes, pixel-shuffled by 2."""
    mix = after[:, :, 0, 0].double()                                        # (n, c)
    outputs = before[:, :, 0, 0].double().unflatten(0, (-1, mix.shape[1], 4))
    return torch.einsum("nc,fcpk->fnpk", mix, outputs).flatten(0, 2)[:, :, None, None].float()


def _joined_bias(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    mix = after[:, :, 0, 0].double()
    return torch.einsum("nc,fcp->fnp", mix, before.double().unflatten(0, (-1, mix.shape[1], 4))).flatten().float()
