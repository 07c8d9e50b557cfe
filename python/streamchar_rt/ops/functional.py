"""The ops without a cache.

They are also torch.library operators, ``streamchar::segment_attention`` and ``streamchar::normalize_rotate``, so
that ``torch.compile`` sees them. The operators are for inference and have no gradient; the functions do, where
they run in plain torch.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from . import reference
from ._library import register
from ._native import (
    cpu_reason_against, cuda_attention, cuda_kv_append, cuda_reason_against, float_rows, native, strided, weight_rows,
)
from .norm import QkNorm, check_groups
from .rope import Rope


def normalize_rotate(
    x: Tensor, weight: Tensor, bounds: Sequence[int], rope: Rope, eps: float = 1e-6
) -> Tensor:
    """Keys as the cache holds them: RMSNorm per head and group, then rotation. (..., T, H, D)."""
    _check_tokens("x", x, weight, bounds, rope)
    return reference.normalize_rotate(x, weight, bounds, rope, eps)


def ready_rows(k: Tensor, v: Tensor, norm: QkNorm, rope: Rope) -> tuple[Tensor, Tensor]:
    """Keys as a cache holds them, and values, (T, H, D) in the dtype of k; contiguous on a GPU.

    One native kernel for bfloat16 on a GPU; else plain torch in float32. No gradient natively.
    """
    _check_tokens("k", k, norm.k_weight, norm.bounds, rope)
    rope = rope.to(k.device)
    gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (k, v))
    if k.device.type == "cuda" and not gradient and cuda_reason_against(k.dtype, k.shape[-1]) is None:
        return cuda_kv_append(k, v, norm, rope)
    return reference.normalize_rotate(k.float(), norm.k_weight, norm.bounds, rope, norm.eps).to(k.dtype), v


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
    """Attention of raw queries over segments of ready keys; see ``reference.segment_attention``.

    Runs natively for unbatched tensors that need no gradient, in float32 on a CPU or bfloat16 on a GPU; else in
    plain torch.

    Raises:
        ConfigError: on shapes that do not fit together.
    """
    _check_tokens("q", q, weight, bounds, rope)
    if not len(keys) == len(values) == len(distances):
        raise ConfigError(
            f"{len(keys)} keys, {len(values)} values and {len(distances)} distances",
            hint="give one of each per segment",
        )
    for i, (k, v) in enumerate(zip(keys, values)):
        if k.shape != v.shape or k.ndim != q.ndim or k.shape[-2:] != q.shape[-2:] or k.dtype != q.dtype:
            raise ConfigError(
                f"segment {i}: key {tuple(k.shape)} {k.dtype}, value {tuple(v.shape)}, query {tuple(q.shape)} {q.dtype}",
                hint="(..., S, H, D) with the query's heads, size and dtype",
            )
    kernel = _native_kernel(q, weight, *keys, *values)
    if kernel is not None:
        out, lse = kernel(q, keys, values, weight, bounds, rope, distances, eps)
        return (out, lse) if return_lse else out
    return reference.segment_attention(
        q, keys, values, weight=weight, bounds=bounds, rope=rope, distances=distances, eps=eps, return_lse=return_lse
    )


def _check_tokens(name: str, x: Tensor, weight: Tensor, bounds: Sequence[int], rope: Rope) -> None:
    check_groups(weight, bounds)
    if x.ndim < 3 or x.shape[-1] != weight.shape[1] or x.shape[-1] != rope.head_dim:
        raise ConfigError(
            f"{name} is {tuple(x.shape)}, norm weights have size {weight.shape[1]}, rope {rope.head_dim}",
            hint="x is (..., tokens, heads, head_dim)",
        )
    if not x.shape[-3] == bounds[-1] == rope.tokens:
        raise ConfigError(
            f"{name} has {x.shape[-3]} tokens, bounds {bounds[-1]}, rope {rope.tokens}", hint="all must agree"
        )


def native_attention_serves(device: torch.device, dtype: torch.dtype, head_dim: int) -> str | None:
    """None where ``segment_attention`` runs natively, else why it does not."""
    if device.type == "cuda":
        return cuda_reason_against(dtype, head_dim)
    if device.type == "cpu" and dtype is torch.float32:
        return cpu_reason_against(dtype, head_dim)
    return f"no native attention in {dtype} on {device.type}"


def _native_kernel(q: Tensor, *others: Tensor) -> Callable[..., tuple[Tensor, Tensor]] | None:
    """The kernel that takes these tensors, if one does."""
    gradient = torch.is_grad_enabled() and any(t.requires_grad for t in (q, *others))
    if q.ndim != 3 or gradient or any(t.device != q.device for t in others):
        return None
    if q.device.type == "cpu" and q.dtype is torch.float32 and cpu_reason_against(q.dtype, q.shape[-1]) is None:
        return _cpu_attention
    if q.device.type == "cuda" and cuda_reason_against(q.dtype, q.shape[-1]) is None:
        return _cuda_attention
    return None


def _cpu_attention(
    q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], weight: Tensor, bounds: Sequence[int], rope: Rope,
    distances: Sequence[float], eps: float,
) -> tuple[Tensor, Tensor]:
    q, weight = float_rows("q", q), weight_rows(weight)
    ready = [(float_rows("key", k), float_rows("value", v)) for k, v in zip(keys, values)]
    shifts = [rope.shift(d) for d in distances]
    out = torch.empty(q.shape)
    lse = torch.empty(q.shape[:-1])
    native.segment_attention(
        *q.shape, strided(q), weight.data_ptr(), list(bounds), eps, rope.table.data_ptr(),
        [
            (strided(k), strided(v), k.shape[0], s.data_ptr() if d else 0)
            for (k, v), d, s in zip(ready, distances, shifts)
        ],
        out.data_ptr(), lse.data_ptr(),
    )
    return out, lse


def _cuda_attention(
    q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], weight: Tensor, bounds: Sequence[int], rope: Rope,
    distances: Sequence[float], eps: float,
) -> tuple[Tensor, Tensor]:
    return cuda_attention(q, keys, values, weight, bounds, rope.to(q.device), distances, eps)


def _op_segment_attention(
    q: Tensor, weight: Tensor, bounds: list[int], positions: Tensor, freqs: Tensor, axes: Tensor,
    keys: list[Tensor], values: list[Tensor], distances: list[float], eps: float,
) -> tuple[Tensor, Tensor]:
    rope = Rope(positions, freqs, axes)
    return segment_attention(
        q, keys, values, weight=weight, bounds=bounds, rope=rope, distances=distances, eps=eps, return_lse=True
    )


def _op_normalize_rotate(
    x: Tensor, weight: Tensor, bounds: list[int], positions: Tensor, freqs: Tensor, axes: Tensor, eps: float
) -> Tensor:
    return normalize_rotate(x, weight, bounds, Rope(positions, freqs, axes), eps)


register(
    "segment_attention(Tensor q, Tensor weight, int[] bounds, Tensor positions, Tensor freqs, Tensor axes, "
    "Tensor[] keys, Tensor[] values, float[] distances, float eps) -> (Tensor, Tensor)",
    _op_segment_attention,
    lambda q, *_: (torch.empty_like(q, memory_format=torch.contiguous_format), q.new_empty(q.shape[:-1])),
)
register(
    "normalize_rotate(Tensor x, Tensor weight, int[] bounds, Tensor positions, Tensor freqs, Tensor axes, "
    "float eps) -> Tensor",
    _op_normalize_rotate,
    lambda x, *_: torch.empty_like(x, memory_format=torch.contiguous_format),
)
