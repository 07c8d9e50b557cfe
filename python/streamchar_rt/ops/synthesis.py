"""Streaming inverse STFT. Also ``torch.ops.streamchar.istft_overlap_add``, which ``torch.compile`` sees."""
from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError
from . import reference
from ._library import register
from ._native import cuda_rows_served, native, needs_gradient


def istft_overlap_add(
    frames: Tensor, window: Tensor, hop: int, tail: Tensor, weight: Tensor, floor: float = 1e-3
) -> tuple[Tensor, Tensor, Tensor]:
    """The samples that the next frames of a stream complete, and what is carried to the next call.

    Native for complex64 without gradient where the window's length is a power of two; else plain torch. Natively,
    a stream cut into calls anywhere gives the same bytes.

    Args:
        frames: complex64 (B, N // 2 + 1, T), half spectra, of any strides; B at least 1, T may be 0.
        window: float32 (N,).
        hop: samples from one frame to the next, 1 to N.
        tail: float32 (B, N - hop), the windowed sum so far of the samples that are not yet complete.
        weight: float32 (N - hop,), the sum of squared windows of the same samples.
        floor: least divisor, positive.

    Returns:
        ``samples`` (B, hop * T), and the next call's ``tail`` and ``weight``; none of them shares memory with the
        arguments.

    Raises:
        ConfigError: on shapes, dtypes or devices that do not fit together.
    """
    _check(frames, window, hop, tail, weight, floor)
    size = window.shape[0]
    if not _native(frames, window, tail, weight):
        return tuple(t.contiguous() for t in reference.istft_overlap_add(frames, window, hop, tail, weight, floor))
    batch, _, count = frames.shape
    pairs = torch.view_as_real(frames.resolve_conj())
    window, tail, weight = (t.detach().contiguous() for t in (window, tail, weight))
    samples = tail.new_empty(batch, hop * count)
    next_tail, next_weight = torch.empty_like(tail), torch.empty_like(weight)
    arguments = (
        batch, count, size, hop, (pairs.data_ptr(), *pairs.stride()[:3]), window.data_ptr(), tail.data_ptr(),
        weight.data_ptr(), floor, samples.data_ptr(), next_tail.data_ptr(), next_weight.data_ptr(),
    )
    if frames.device.type == "cpu":
        native.istft_overlap_add(*arguments)
    else:
        pieces = tail.new_empty(batch, count, size)
        with torch.cuda.device(frames.device):
            native.cuda_istft_overlap_add(*arguments, pieces.data_ptr(), torch.cuda.current_stream().cuda_stream)
    return samples, next_tail, next_weight


def _check(frames: Tensor, window: Tensor, hop: int, tail: Tensor, weight: Tensor, floor: float) -> None:
    if window.ndim != 1 or not 1 <= hop <= window.shape[0]:
        raise ConfigError(
            f"window {tuple(window.shape)} and hop {hop} do not fit", hint="window (N,), and hop from 1 to N"
        )
    size = window.shape[0]
    if frames.ndim != 3 or not len(frames) or frames.shape[1] != size // 2 + 1 or not frames.is_complex():
        raise ConfigError(
            f"frames are {tuple(frames.shape)} {frames.dtype}", hint=f"complex (1 or more, {size // 2 + 1}, frames)"
        )
    if tail.shape != (frames.shape[0], size - hop) or weight.shape != (size - hop,):
        raise ConfigError(
            f"tail is {tuple(tail.shape)}, weight {tuple(weight.shape)}",
            hint=f"({frames.shape[0]}, {size - hop}) and ({size - hop},): zeros before the first frame",
        )
    real = frames.real.dtype
    if not real == window.dtype == tail.dtype == weight.dtype:
        raise ConfigError(
            f"frames are {frames.dtype}, window, tail and weight {window.dtype}, {tail.dtype}, {weight.dtype}",
            hint=f"all are {real} or its complex kin",
        )
    if not frames.device == window.device == tail.device == weight.device:
        raise ConfigError("frames, window, tail and weight are on different devices", hint="move them to one")
    if not floor > 0:
        raise ConfigError(f"floor must be positive, got {floor}", hint="1e-3 is usual")


def _native(frames: Tensor, window: Tensor, tail: Tensor, weight: Tensor) -> bool:
    if native is None or frames.dtype is not torch.complex64 or needs_gradient(frames, window, tail, weight):
        return False
    if not native.istft_size_supported(window.shape[0]):
        return False
    if frames.device.type == "cpu":
        return True
    on_gpu = frames.device.type == "cuda" and cuda_rows_served(torch.float32)
    return on_gpu and window.shape[0] <= native.cuda_max_istft_size


def _meta(frames, window, hop, tail, weight, floor=1e-3):
    samples = tail.new_empty(frames.shape[0], hop * frames.shape[2])
    return samples, tail.new_empty(tail.shape), weight.new_empty(weight.shape)


register(
    "istft_overlap_add(Tensor frames, Tensor window, int hop, Tensor tail, Tensor weight, float floor=1e-3) "
    "-> (Tensor, Tensor, Tensor)",
    istft_overlap_add,
    _meta,
)
