"""Small contexts of libstreamchar, and all that can be asked about them."""
from __future__ import annotations

import ctypes

import numpy as np

HEADS, DIM, LAYERS = 2, 64, 2


def make_context(capi, **changes):
    """Parameters of a context with a pinned segment and a ring."""
    sink, motion = changes.pop("capacities", (5, 7))
    segments = (capi.sc_segment * 2)(
        capi.sc_segment(b"sink", sink, 1, 0, 0), capi.sc_segment(b"motion", motion, changes.pop("chunks", 1), 1, 1)
    )
    params = capi.make(
        "sc_context_params", layers=LAYERS, heads=HEADS, head_dim=DIM, segment_count=2,
        segments=ctypes.addressof(segments), **changes,
    )
    params.keep = segments
    return params


def some_tokens(capi, rng, count):
    """Tokens, and the array that they live in."""
    data = rng.standard_normal((3, count, HEADS, DIM), dtype=np.float32)
    tokens = capi.make("sc_tokens", count=count)
    tokens.q, tokens.k, tokens.v = map(capi.tokens, data)
    tokens.keep = data
    return tokens


def put(capi, handle, segment, tokens):
    for layer in range(LAYERS):
        capi.call("sc_context_append", handle, layer, segment, tokens)
    capi.call("sc_context_commit", handle, segment, capi.SC_NEXT_LABEL)


def facts(capi, handle):
    """All that can be asked about a context."""
    found = []
    for segment in range(2):
        info = capi.make("sc_segment_info")
        capi.call("sc_context_segment_info", handle, segment, info)
        found.append(tuple(getattr(info, field) for field, _ in info._fields_))
        for index in range(info.committed):
            label, rows = ctypes.c_int64(), ctypes.c_int32()
            capi.call("sc_context_chunk", handle, segment, index, ctypes.byref(label), ctypes.byref(rows))
            found.append((label.value, rows.value))
            for layer in range(LAYERS):
                key, value = np.empty((2, rows.value, HEADS, DIM), np.float32)
                capi.call("sc_context_read", handle, segment, index, layer, key, value)
                found.append(key.tobytes() + value.tobytes())
    held = ctypes.c_uint64()
    capi.call("sc_context_bytes", handle, ctypes.byref(held))
    return [*found, held.value]
