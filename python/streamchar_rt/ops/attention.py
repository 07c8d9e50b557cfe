"""Attention over the context cache, and appending to it."""
from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..errors import ConfigError
from ._spec import plan_reads
from .context_cache import ContextCache
from .norm import QkNorm
from .rope import Rope


def append(
    cache: ContextCache, layer: int, segment: str, k: Tensor, v: Tensor, *, norm: QkNorm, rope: Rope
) -> None:
    """Normalises, rotates and stores one layer's keys and values in the segment's staging.

    Appending the same layer again before ``commit`` overwrites it.

    Args:
        k, v: (T, H, D) raw, last dimension contiguous, T at most the segment's capacity.

    Raises:
        ConfigError: on shapes or dtypes that do not fit the cache.
    """
    spec = cache.spec
    spec.check_layer(layer)
    _check_tokens(cache, {"k": k, "v": v}, norm, rope)
    _check_capacity(cache, segment, k)
    cache._store.append(layer, segment, k, v, norm, rope)


def attend(
    cache: ContextCache,
    layer: int,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    norm: QkNorm,
    rope: Rope,
    distances: Mapping[str, float | Sequence[float]],
    segments: Sequence[str] | None = None,
    store: str | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """Attention of the current tokens to the cached segments and to themselves.

    Args:
        q, k, v: (T, H, D) raw projections, last dimension contiguous.
        norm, rope: of these T tokens, at their local positions.
        distances: per segment, how much later than the segment the tokens are. A number stands for the
            ring's newest chunk and is added once more per chunk of age; a sequence is newest first.
        segments: names to read, None for all that are live, () for the tokens alone.
        store: also keep these keys and values as ``layer``'s staging of that segment.
        out: where to write, (T, H, D) contiguous, of q's dtype.

    Returns:
        (T, H, D).

    Raises:
        ConfigError: on shapes, dtypes, segments or distances that do not fit the cache.
    """
    spec = cache.spec
    spec.check_layer(layer)
    _check_tokens(cache, {"q": q, "k": k, "v": v}, norm, rope)
    if store is not None:
        _check_capacity(cache, store, k)
    if out is not None and (out.shape != q.shape or out.dtype != q.dtype or not out.is_contiguous()):
        raise ConfigError("out must be contiguous and like q", hint=f"torch.empty{tuple(q.shape)}")
    live = {name: cache._store.live_count(name) for name in spec.names}
    reads = plan_reads(spec, live, distances, segments)
    return cache._store.attend(layer, q, k, v, norm, rope, reads, store, out)


def _check_tokens(cache: ContextCache, tensors: Mapping[str, Tensor], norm: QkNorm, rope: Rope) -> None:
    spec = cache.spec
    tokens = rope.tokens
    expected = (tokens, spec.heads, spec.head_dim)
    for name, x in tensors.items():
        if x.shape != expected:
            raise ConfigError(
                f"{name} must be {expected} (tokens, heads, head_dim), got {tuple(x.shape)}",
                hint="positions, tensor and cache must describe the same tokens",
            )
        if x.device != spec.device and x.device.type != spec.device.type:
            raise ConfigError(f"{name} is on {x.device}, the cache on {spec.device}", hint="move one of them")
        if x.dtype not in (torch.float32, torch.bfloat16, torch.float64):
            raise ConfigError(f"{name} has dtype {x.dtype}", hint="use float32")
    if norm.tokens != tokens or norm.head_dim != spec.head_dim or rope.head_dim != spec.head_dim:
        raise ConfigError(
            f"norm covers {norm.tokens} tokens of size {norm.head_dim}, rope {tokens} of {rope.head_dim}",
            hint=f"both must cover the call's tokens and head_dim {spec.head_dim}",
        )


def _check_capacity(cache: ContextCache, segment: str, k: Tensor) -> None:
    cache.spec.check_segment(segment)
    if not 0 < k.shape[0] <= cache.spec.capacity[segment]:
        raise ConfigError(
            f"{k.shape[0]} tokens do not fit segment {segment!r}",
            hint=f"it holds 1 to {cache.spec.capacity[segment]}",
        )
