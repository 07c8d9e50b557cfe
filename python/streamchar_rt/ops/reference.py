"""Plain torch definitions of the ops: what the native kernels must equal.

Every function takes any floating dtype and is differentiable. Shapes: q, k, v are (..., tokens, heads, head_dim)
with any leading batch dimensions.
"""
from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .rope import Rope


def group_rms_norm(x: Tensor, weight: Tensor, bounds: Sequence[int], eps: float = 1e-6) -> Tensor:
    """Per-head RMSNorm of (..., T, H, D); token group g is scaled by ``weight[g]``."""
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    groups = [y[..., a:b, :, :] * w.to(x.dtype) for a, b, w in zip(bounds, bounds[1:], weight)]
    return torch.cat(groups, dim=-3)


def all_head_rms_norm(x: Tensor, weight: Tensor, bounds: Sequence[int], eps: float = 1e-6) -> Tensor:
    """RMSNorm of (..., T, H, D) over all heads of a token at once; weight (G, H * D)."""
    flat = group_rms_norm(x.flatten(-2).unsqueeze(-2), weight, bounds, eps)
    return flat.squeeze(-2).unflatten(-1, x.shape[-2:])


#: The magnitude that a range stands for.
STORAGE_LIMIT = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
_LEAST_RANGE = 1e-10


def to_storage(x: Tensor, dtype: torch.dtype, magnitude: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Narrow keys or values (..., S, H, D), and the magnitude (..., H) float32 that their limit stands for.

    Elements are ``x * limit / magnitude``, rounded to nearest even; what is beyond the limit saturates.

    Args:
        dtype: float8_e4m3fn or int8.
        magnitude: per head; by default the largest there is.
    """
    if magnitude is None:
        largest = x.detach().abs().amax(-1)
        magnitude = (largest.amax(-2) if x.shape[-3] else largest.new_zeros((*x.shape[:-3], x.shape[-2]))).float()
    limit = STORAGE_LIMIT[dtype]
    factor = torch.full_like(magnitude, limit) / magnitude.clamp(min=_LEAST_RANGE)  # a number / tensor rounds twice
    scaled = (x.float() * factor[..., None, :, None]).clamp(-limit, limit)
    return (scaled.round() if dtype is torch.int8 else scaled).to(dtype), magnitude


def from_storage(stored: Tensor, magnitude: Tensor) -> Tensor:
    """What narrow elements (..., S, H, D) stand for, in float64."""
    unit = magnitude.double().clamp(min=_LEAST_RANGE) / STORAGE_LIMIT[stored.dtype]
    return stored.double() * unit[..., None, :, None]


PANEL_TOKENS = 64   # whose values share their steps in a CPU's int8 storage


def _int8_step(largest: Tensor) -> Tensor:
    """What int8 numbers count: the largest magnitude / 127 in float32, rounded up to 16 binary digits."""
    bits = (largest.float() / 127).view(torch.int32)
    return ((bits + 0xFF) & ~0xFF).view(torch.float32)


def _rounded(x: Tensor, step: Tensor) -> Tensor:
    return (x.float() / step.clamp(min=1e-30)).round().clamp(-127, 127) * step


def int8_keys(k: Tensor) -> Tensor:
    """Ready keys (..., S, H, D) as a CPU's int8 storage keeps them, float32: a step for each key."""
    return _rounded(k, _int8_step(k.detach().abs().amax(-1, keepdim=True)))


def int8_values(v: Tensor) -> Tensor:
    """Values (S, H, D) likewise: a step for each channel and 64 tokens."""
    return torch.cat([_rounded(x, _int8_step(x.detach().abs().amax(0, keepdim=True))) for x in v.split(PANEL_TOKENS)])


def rotate(x: Tensor, table: Tensor) -> Tensor:
    """Turns the interleaved channel pairs of x (..., D) by a (..., D/2, 2) table of cosine and sine."""
    a, b = x.unflatten(-1, (-1, 2)).unbind(-1)
    c, s = table.unbind(-1)
    return torch.stack((a * c - b * s, a * s + b * c), -1).flatten(-2)


def normalize_rotate(
    x: Tensor, weight: Tensor, bounds: Sequence[int], rope: Rope, eps: float = 1e-6
) -> Tensor:
    """RMSNorm per head, then rotation at the local positions of ``rope``: keys as they are cached."""
    table = rope.table_as(x.dtype).to(x.device)
    return rotate(group_rms_norm(x, weight, bounds, eps), table.unsqueeze(-3))


def segment_attention(
    q: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    *,
    weight: Tensor,
    bounds: Sequence[int],
    rope: Rope,
    distances: Sequence[float],
    eps: float = 1e-6,
    return_lse: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of raw queries over segments of ready keys, with one softmax over all of them.

    For each segment the query is rotated at (its local position + the segment's time distance).

    Args:
        q: (..., T, H, D), neither normalised nor rotated.
        keys, values: per segment (..., S, H, D); keys normalised and rotated at their local positions.
        weight, bounds, eps: query norm, see ``group_rms_norm``.
        distances: per segment, how much later than the segment the queries are (time units).

    Returns:
        (..., T, H, D), and with ``return_lse`` the natural log of the softmax denominator (..., T, H).
        Without any key row the result is zero and the log-sum-exp is -inf.
    """
    base = normalize_rotate(q, weight, bounds, rope, eps)
    scale = 1.0 / math.sqrt(q.shape[-1])
    logits = [
        torch.einsum("...thd,...shd->...hts", rotate(base, rope.shift(d, q.dtype, q.device)), k) * scale
        for k, d in zip(keys, distances, strict=True)
        if k.shape[-3]
    ]
    if not logits:
        out = torch.zeros_like(q)
        return (out, q.new_full(q.shape[:-1], -math.inf)) if return_lse else out
    joint = torch.cat(logits, -1)
    value = torch.cat([v for v in values if v.shape[-3]], -3)
    out = torch.einsum("...hts,...shd->...thd", joint.softmax(-1), value)
    return (out, joint.logsumexp(-1).transpose(-1, -2)) if return_lse else out


def segment_attention_sdpa(
    q: Tensor,
    keys: Sequence[Tensor],
    values: Sequence[Tensor],
    *,
    weight: Tensor,
    bounds: Sequence[int],
    rope: Rope,
    distances: Sequence[float],
    eps: float = 1e-6,
) -> Tensor:
    """``segment_attention`` through one ``scaled_dot_product_attention``, for training.

    Only differences of positions count, so turning a segment's keys back by its distance equals turning
    the queries forward. That costs a copy of the keys, which training makes anyway.
    """
    moved = [rotate(k, rope.shift(-d, k.dtype, k.device)) for k, d in zip(keys, distances, strict=True)]
    query = normalize_rotate(q, weight, bounds, rope, eps)
    out = F.scaled_dot_product_attention(
        query.transpose(-2, -3),
        torch.cat(moved, -3).transpose(-2, -3),
        torch.cat(list(values), -3).transpose(-2, -3),
    )
    return out.transpose(-2, -3)


def adaln_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-5) -> Tensor:
    """Layer norm without weights, then adaLN: ``layer_norm(x) * (1 + scale) + shift``.

    x (B, T, d); shift and scale (B or 1, T or 1, d).
    """
    return F.layer_norm(x, x.shape[-1:], eps=eps) * (1 + scale) + shift


def gated_residual(x: Tensor, gate: Tensor, update: Tensor) -> Tensor:
    """``x + gate * update``: x and update (B, T, d), gate (B or 1, T or 1, d)."""
    return x + gate * update


def fused_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, gate: Tensor | None = None,
    residual: Tensor | None = None,
) -> Tensor:
    """``activation(x W^T + bias)``, or with gate and residual ``residual + gate * (x W^T + bias)``.

    x (B, T, K), weight (N, K), bias (N,); activation "gelu_tanh" or None; gate (B or 1, 1, N), residual (B, T, N).
    """
    y = F.linear(x, weight, bias)
    if activation is not None:
        y = F.gelu(y, approximate="tanh")
    return y if residual is None else residual + gate * y


def istft_overlap_add(
    frames: Tensor, window: Tensor, hop: int, tail: Tensor, weight: Tensor, floor: float = 1e-3
) -> tuple[Tensor, Tensor, Tensor]:
    """Streaming inverse STFT: the samples that the next frames complete.

    Args:
        frames: complex (B, N // 2 + 1, T), half spectra of the next T frames.
        window: (N,).
        hop: samples from one frame to the next, 1 to N.
        tail: (B, N - hop), the windowed sum so far of the samples that are not yet complete.
        weight: (N - hop,), the sum of squared windows of the same samples.
        floor: least divisor.

    Returns:
        ``samples`` (B, hop * T), and the next call's ``tail`` and ``weight``.
    """
    size, count = window.shape[0], frames.shape[-1]
    done, rest = hop * count, size - hop
    total = F.pad(tail, (0, done))
    weights = F.pad(weight, (0, done))
    if count:
        pieces = torch.fft.irfft(frames, size, dim=1) * window[:, None]                        # (B, N, T)
        squares = window.square()[None, :, None].expand(1, -1, count)
        shape = (1, done + rest)
        total = total + F.fold(pieces, shape, (1, size), stride=(1, hop))[:, 0, 0]
        weights = weights + F.fold(squares, shape, (1, size), stride=(1, hop))[0, 0, 0]
    return total[:, :done] / weights[:done].clamp(min=floor), total[:, done:], weights[done:]


def conv_parts(outputs: Tensor, frames: int, shuffle: int) -> Tensor:
    """Outputs (O, ...) in the order of ``pixel_shuffle`` and then frames, as (frames, down, across, channel), flat."""
    return outputs.unflatten(0, (frames, -1, shuffle, shuffle)).movedim(1, 3).flatten(0, 3)


def packed_conv(
    inputs: Sequence[Tensor], weight: Tensor, bias: Tensor | None, *, silu: bool = False, added: Tensor | None = None,
    frames: int = 1, shuffle: int = 1,
) -> Tensor:
    """Convolution, 1x1 or 3x3 with a rim of zeros, of pictures with channels last.

    Args:
        inputs: (B, H, W, C) each, concatenated.
        weight, bias: (O, C in all, size, size) and (O,), as ``torch.nn.Conv2d`` has them.
        silu: whether the inputs go through SiLU first.
        added: broadcast to the result, and added to it.
        frames: the outputs are those of so many pictures, one after another.
        shuffle: as in ``pixel_shuffle``.

    Returns:
        (B * frames, H * shuffle, W * shuffle, O / frames / shuffle ** 2).
    """
    x = torch.cat(list(inputs), -1).movedim(-1, 1)
    y = F.conv2d(F.silu(x) if silu else x, weight, bias, padding=weight.shape[-1] // 2)
    y = F.pixel_shuffle(y, shuffle).unflatten(1, (frames, -1)).flatten(0, 1).movedim(1, -1)
    return y if added is None else y + added


def picture_warp(places: Tensor, motion: Tensor, picture: Tensor, local: float) -> tuple[Tensor, Tensor]:
    """A reference picture moved by the flow of parts that move rigidly: see ``ops.picture_warp``."""
    places = F.pixel_shuffle(places.movedim(-1, 1), 2)                                       # (F, P + 2, h, w)
    height, width = places.shape[-2:]
    axis = lambda size: torch.linspace(-1, 1, size, dtype=places.dtype, device=places.device)
    x, y = axis(width).expand(height, width), axis(height)[:, None].expand(height, width)
    mixed = torch.einsum("bkdi,bkhw->bdihw", motion, places[:, :-2].softmax(1))
    flow = mixed[:, :, 0] * x + mixed[:, :, 1] * y + mixed[:, :, 2] + local * torch.tanh(places[:, -2:])
    fine = F.interpolate(flow, scale_factor=4, mode="bilinear", align_corners=False).movedim(1, -1)
    size = torch.tensor([4 * width, 4 * height], dtype=places.dtype, device=places.device)
    column, row = torch.arange(4 * width, device=places.device), torch.arange(4 * height, device=places.device)
    at = torch.stack(torch.meshgrid(column, row, indexing="xy"), -1) + fine                  # pixels
    warped = F.grid_sample(picture[2:-2, 2:-2].movedim(-1, 0).expand(len(fine), -1, -1, -1), (2 * at + 1) / size - 1,
                           mode="bilinear", padding_mode="zeros", align_corners=False)
    return F.pixel_unshuffle(warped, 4).movedim(1, -1), flow.movedim(1, -1)


def picture_blend(drawn: Tensor, warped: Tensor) -> Tensor:
    """What was drawn, blended with the warped reference, in uint8 with straight alpha: see ``ops.picture_blend``."""
    drawn, warped = (F.pixel_shuffle(x.movedim(-1, 1), 4).movedim(1, -1) for x in (drawn, warped))
    mixed = torch.lerp(drawn[..., :4] + 0.5, warped, torch.sigmoid(drawn[..., 4:]))
    alpha = mixed[..., 3:].clamp(0.0, 1.0)
    # Where next to nothing covers a pixel its colour is arbitrary but finite.
    colour = (mixed[..., :3] / alpha.clamp(min=1 / 255)).clamp(0.0, 1.0)
    return (torch.cat([colour, alpha], -1).nan_to_num(0.0) * 255 + 0.5).to(torch.uint8)
