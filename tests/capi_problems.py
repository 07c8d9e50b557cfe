"""Random calls of libstreamchar's ops, and their truth: numpy in float64."""
from __future__ import annotations

import ctypes

import numpy as np


# ---------------------------------------------------------------- truth
def rotate(x, table):
    """(T, H, D) turned by (T, D/2, 2)."""
    a, b = x[..., 0::2], x[..., 1::2]
    c, s = table[:, None, :, 0], table[:, None, :, 1]
    return np.stack((a * c - b * s, a * s + b * c), -1).reshape(x.shape)


def ready(x, norm, rope):
    """Normalized and rotated, as norm and rope say; either may be None."""
    x = x.astype(np.float64)
    if norm is not None:
        weight, bounds, eps = norm
        x = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
        groups = np.searchsorted(bounds[1:-1], np.arange(len(x)), side="right")
        x = x * weight.astype(np.float64)[groups][:, None]
    return x if rope is None else rotate(x, rope.astype(np.float64))


def attention(query, keys, values, shifts):
    """One softmax over all segments; query and keys are ready. Returns it and the log-sum-exp."""
    turned = [query if s is None else rotate(query, np.broadcast_to(s, (len(query), *s.shape)).astype(np.float64))
              for s in shifts]
    logits = [np.einsum("thd,shd->ths", q, k) / np.sqrt(q.shape[-1]) for q, k in zip(turned, keys)]
    logits, value = np.concatenate(logits, -1), np.concatenate(values)
    top = logits.max(-1, keepdims=True)
    weights = np.exp(logits - top)
    total = weights.sum(-1, keepdims=True)
    return np.einsum("ths,shd->thd", weights / total, value), (top + np.log(total))[..., 0]


def error(got, wanted):
    return np.linalg.norm(got - wanted) / max(np.linalg.norm(wanted), 1e-30)


# ---------------------------------------------------------------- random problems
def strided(rng, *shape):
    """Random rows with gaps between them, channels contiguous, in an order of tokens and heads of their own."""
    gaps = [n + int(rng.integers(0, 4)) for n in shape]
    if rng.random() < 0.5:
        data = rng.standard_normal((gaps[1], gaps[0], gaps[2]), dtype=np.float32).transpose(1, 0, 2)
    else:
        data = rng.standard_normal(gaps, dtype=np.float32)
    data = data[tuple(slice(0, n) for n in shape)]
    return data[::-1] if rng.random() < 0.3 else data


def random_norm(rng, tokens, dim):
    if rng.random() < 0.3:
        return None
    groups = int(rng.integers(1, 5))
    cuts = np.sort(rng.integers(0, tokens + 1, groups - 1))
    weight = (0.5 + rng.random((groups, dim))).astype(np.float32)
    return weight, np.array([0, *cuts, tokens], np.int32), 1e-6


def random_rope(rng, tokens, dim):
    if rng.random() < 0.2:
        return None
    angles = rng.random((tokens, dim // 2)) * 6
    return np.stack((np.cos(angles), np.sin(angles)), -1).astype(np.float32)


def norm_struct(capi, norm):
    if norm is None:
        return capi.sc_head_norm(None, None, 0, 1e-6)
    weight, bounds, eps = norm
    return capi.sc_head_norm(weight.ctypes.data, bounds.ctypes.data, len(weight), eps)


def address(array):
    return None if array is None else array.ctypes.data


def aligned(nbytes):
    """Memory aligned to 64 bytes, filled with what would be seen if it were read before it is written."""
    memory = np.full(nbytes + 64, 0xFF, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start: start + nbytes]


def storages(capi):
    """(storage, error that its rounding of queries and weights makes): tiles of bf16 round what they multiply."""
    return [(capi.SC_F32, 3e-6), (capi.SC_BF16, 2e-2 if capi.sc_isa() == b"amx" else 3e-6), (capi.SC_INT8, 1.8e-2)]


def append(capi, k, v, storage, norm=None, rope=None):
    """Panels, and what lies in them: keys and values (rows, heads, dim)."""
    rows, heads, dim = k.shape
    capacity, size = rows + 5, ctypes.c_uint64()
    capi.call("sc_panels_bytes", heads, dim, capacity, storage, ctypes.byref(size))
    panels = aligned(size.value)
    call = capi.make(
        "sc_kv_append_call", tokens=rows, heads=heads, head_dim=dim, storage=storage, capacity=capacity,
        k=capi.tokens(k), v=capi.tokens(v), norm=norm_struct(capi, norm), rope=address(rope), panels=panels,
    )
    capi.call("sc_kv_append", call)
    key, value = np.empty((2, rows, heads, dim), np.float32)
    capi.call("sc_kv_read", heads, dim, capacity, storage, panels, rows, key, value)
    return panels, capacity, key, value


def make_linear(capi, weight, bias, storage):
    handle = ctypes.c_void_p()
    capi.call("sc_linear_create", weight, bias, *weight.shape, storage, ctypes.byref(handle))
    return handle


def make_conv(capi, weight, bias=None):
    """Of weight (frames, shuffle, shuffle, channels, inputs, size, size)."""
    frames, shuffle, _, channels, inputs, size, _ = weight.shape
    handle = ctypes.c_void_p()
    params = capi.make("sc_conv_params", inputs=inputs, channels=channels, size=size, frames=frames, shuffle=shuffle,
                       weight=weight, bias=bias)
    capi.call("sc_conv_create", params, ctypes.byref(handle))
    return handle
