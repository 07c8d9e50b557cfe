"""Shared by the tests of VideoLayers: layers of random weights, and the same frames op by op."""
from __future__ import annotations

import torch
from torch import Tensor, nn

from streamchar_rt import ops

LOCAL = 6.0


def random_motion(generator: torch.Generator, channels: int = 4, frames: int = 4, inputs: int = 7, hidden: int = 9,
                  parts: int = 3) -> ops.PartMotion:
    read, layers = random_motion_weights(generator, channels, frames, inputs, hidden, parts)
    return ops.PartMotion(read, *layers, 20.0)


def random_motion_weights(generator: torch.Generator, channels: int, frames: int, inputs: int, hidden: int,
                          parts: int) -> tuple[Tensor, list[nn.Linear]]:
    """``read``, and the layers first, second and steady."""
    layers = [nn.Linear(inputs, hidden), nn.Linear(hidden, 6 * parts), nn.Linear(inputs, 6 * parts, bias=False)]
    with torch.no_grad():
        for layer in layers:
            for parameter in layer.parameters():
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return torch.randn(frames, inputs, 4 * channels, generator=generator), layers


def random_parts(generator: torch.Generator, channels: int = 5, widths: tuple[int, int, int] = (13, 9, 6), trunk: int = 2,
                 frames: int = 4, parts: int = 3) -> dict:
    """What ``VideoLayers`` take."""
    def conv(inputs: int, outputs: int, size: int, **shape: int) -> ops.PackedConv:
        made = shape.get("frames", 1) * shape.get("shuffle", 1) ** 2
        weight = torch.randn(outputs * made, inputs, size, size, generator=generator) / (inputs * size * size) ** 0.5
        return ops.PackedConv(weight, torch.randn(outputs * made, generator=generator), **shape)

    a, b, c = widths
    pair = lambda width: (conv(width, width, 3), conv(width, width, 3))
    return dict(
        inputs=conv(2 * channels, a, 3), trunk=[pair(a) for _ in range(trunk)], split=conv(a, b, 1, frames=frames, shuffle=2),
        middle=pair(b), flow=conv(b, 4 * (parts + 2), 3), up=conv(b, c, 1, shuffle=2), warped=conv(64, c, 1), fine=pair(c),
        out=conv(c, 80, 3), motion=random_motion(generator, frames=frames, parts=parts), local=LOCAL)


def random_character(generator: torch.Generator, parts: dict, height: int, width: int) -> ops.KnownCharacter:
    added = [torch.randn(1, scale * height, scale * width, parts[name].channels, generator=generator)
             for name, scale in (("inputs", 1), ("split", 2), ("up", 4))]
    return ops.KnownCharacter(*added, ops.with_rim(torch.rand(16 * height, 16 * width, 4, generator=generator)))


def random_latents(generator: torch.Generator, parts: dict, height: int, width: int) -> list[Tensor]:
    """A latent, and the one before."""
    return [torch.randn(parts["inputs"].in_channels // 2, height, width, generator=generator) for _ in range(2)]


def drawn(layers: ops.VideoLayers, latents: list[Tensor], character: ops.KnownCharacter) -> Tensor:
    drawing, (_, height, width) = layers.drawing(character), latents[0].shape
    frames = torch.full((layers.frames, 16 * height, 16 * width, 4), 77, dtype=torch.uint8)
    drawing.begin(*latents)
    for i in range(layers.frames):
        drawing.frame(i, frames)
    return frames


def op_by_op(parts: dict, latents: list[Tensor], character: ops.KnownCharacter) -> Tensor:
    """Each op on all frames at once."""
    def residual(block: tuple[ops.PackedConv, ops.PackedConv], x: Tensor) -> Tensor:
        return block[1](block[0](x, silu=True), silu=True, added=x)

    x = parts["inputs"]([latent.permute(1, 2, 0)[None] for latent in latents], added=character.coarse)
    for block in parts["trunk"]:
        x = residual(block, x)
    x = residual(parts["middle"], parts["split"](x, added=character.middle))
    warped, _ = ops.picture_warp(parts["flow"](x, silu=True), parts["motion"](latents[0]), character.picture, parts["local"])
    y = residual(parts["fine"], parts["warped"](warped, added=parts["up"](x, added=character.fine)))
    return ops.picture_blend(parts["out"](y, silu=True), warped)
