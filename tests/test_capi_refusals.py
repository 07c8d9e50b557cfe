"""Wrong calls of libstreamchar's ops: each is refused with a remedy, before anything is written."""
from __future__ import annotations

import ctypes
from math import prod

import numpy as np

from .capi_problems import aligned, make_conv, make_linear


def valid_calls(capi, rng):
    """Per function the arguments of a valid call, the addresses that must not be NULL, its sizes, and those that may be
    0; then what the calls write, and what they read."""
    data = rng.standard_normal(20_000, dtype=np.float32)
    written = np.full(20_000, np.nan, np.float32)
    panels = aligned(2 * 64 * 64 * 4)
    weight, bounds = np.ones((1, 64), np.float32), np.array([0, 3], np.int32)
    tokens, rows = capi.sc_token_view(data.ctypes.data, 64, 64), capi.sc_row_view(data.ctypes.data, 8, 8)
    norm = capi.sc_head_norm(weight.ctypes.data, bounds.ctypes.data, 1, 1e-6)
    segment = (capi.sc_panels * 1)(capi.sc_panels(panels.ctypes.data, 3, 3, None))
    linear = make_linear(capi, np.ones((8, 64), np.float32), None, capi.SC_INT8)
    conv = make_conv(capi, np.ones((1, 1, 1, 2, 3, 3, 3), np.float32))
    pictures = (capi.sc_conv_input * 2)(capi.sc_conv_input(data.ctypes.data, 0, 1, 0),
                                        capi.sc_conv_input(data.ctypes.data, 40, 2, 0))
    attention_sizes, row_sizes, place_sizes = dict(tokens=3, heads=1, head_dim=64), dict(batch=1, tokens=3, width=8), \
        dict(frames=1, height=2, width=2)
    calls = {
        "sc_kv_append": (
            capi.make("sc_kv_append_call", **attention_sizes, capacity=3, k=tokens, v=tokens, norm=norm, panels=panels),
            ["k.data", "v.data", "panels", "norm.bounds"], ["tokens", "heads", "head_dim", "capacity", "norm.groups"],
            []),
        "sc_segment_attention": (
            capi.make("sc_segment_attention_call", **attention_sizes, segment_count=1, q=tokens, norm=norm, out=written,
                      segments=ctypes.addressof(segment)),
            ["segments", "q.data", "out", "norm.bounds"], ["tokens", "heads", "head_dim", "norm.groups"],
            ["segment_count"]),
        "sc_adaln_modulate": (
            capi.make("sc_adaln_modulate_call", **row_sizes, x=rows, shift=rows, scale=rows, out=written),
            ["x.data", "shift.data", "scale.data", "out"], ["batch", "tokens", "width"], []),
        "sc_gated_residual": (
            capi.make("sc_gated_residual_call", **row_sizes, x=rows, gate=rows, update=rows, out=written),
            ["x.data", "gate.data", "update.data", "out"], ["batch", "tokens", "width"], []),
        "sc_istft_overlap_add": (
            capi.make("sc_istft_overlap_add_call", batch=1, frame_count=2, size=16, hop=4, frames=data, batch_stride=64,
                      bin_stride=4, frame_stride=2, window=data, tail=data, weight=data, samples=written,
                      next_tail=written[100:], next_weight=written[200:]),
            ["frames", "window", "tail", "weight", "samples", "next_tail", "next_weight"], ["batch", "size", "hop"],
            ["frame_count"]),
        "sc_linear_apply": (
            capi.make("sc_linear_apply_call", rows=3, x=data, x_stride=64, y=written, y_stride=8),
            ["x", "y"], ["rows", "rows_per_batch"], ["activation"]),
        "sc_conv_apply": (
            capi.make("sc_conv_apply_call", batch=2, height=4, width=5, input_count=2, out=written,
                      inputs=ctypes.addressof(pictures)),
            ["inputs", "out"], ["batch", "height", "width", "input_count"], ["silu"]),
        "sc_picture_warp": (
            capi.make("sc_picture_warp_call", **place_sizes, parts=2, local=1.0, places=data, motion=data, picture=data,
                      flow=written, warped=written[100:]),
            ["places", "motion", "picture", "flow", "warped"], ["frames", "height", "width", "parts"], []),
        "sc_picture_blend": (
            capi.make("sc_picture_blend_call", **place_sizes, drawn=data, warped=data, out=written),
            ["drawn", "warped", "out"], ["frames", "height", "width"], []),
    }
    handles = {"sc_linear_apply": [linear], "sc_conv_apply": [conv]}
    calls = {name: ([*handles.get(name, []), call], *rest) for name, (call, *rest) in calls.items()}
    return calls, written, (data, panels, weight, bounds, segment, pictures)


def set_field(struct, path, value):
    *outer, field = path.split(".")
    for name in outer:
        struct = getattr(struct, name)
    before = getattr(struct, field)
    setattr(struct, field, value)
    return before


def destroy(capi, calls):
    capi.sc_linear_destroy(calls["sc_linear_apply"][0][0])
    capi.sc_conv_destroy(calls["sc_conv_apply"][0][0])


def test_wrong_ops_are_refused_before_anything_is_written(capi, rng):
    calls, written, keep = valid_calls(capi, rng)
    codes = (capi.SC_E_INVALID_ARGUMENT, capi.SC_E_UNSUPPORTED)
    panels = keep[1].copy()
    for name, (given, addresses, sizes, may_be_zero) in calls.items():
        call = given[-1]
        wrong = [(path, None) for path in addresses]
        wrong += [(path, value) for path in sizes for value in (-1, 0, 2**31 - 1)]
        wrong += [(path, value) for path in may_be_zero for value in (-1, 2**31 - 1)]
        for path, value in wrong:
            before = set_field(call, path, value)
            status = getattr(capi, name)(*(ctypes.byref(x) if isinstance(x, ctypes.Structure) else x for x in given))
            assert status in codes and "; try: " in capi.message(), (name, path, value, status)
            set_field(call, path, before)
        call.struct_size -= 1
        capi.refuses(capi.SC_E_ABI_MISMATCH, name, *given)
        call.struct_size += 1
        capi.refuses(capi.SC_E_INVALID_ARGUMENT, name, *given[:-1], None)
        if len(given) > 1:
            capi.refuses(capi.SC_E_INVALID_ARGUMENT, name, None, call)
        assert np.isnan(written).all() and (keep[1] == panels).all()
    for name, (given, *_) in calls.items():       # and unchanged they all work
        capi.call(name, *given)
    destroy(capi, calls)


def test_what_only_the_content_shows_is_refused_too(capi, rng):
    invalid, unsupported = capi.SC_E_INVALID_ARGUMENT, capi.SC_E_UNSUPPORTED
    calls, written, keep = valid_calls(capi, rng)
    bounds, pictures = keep[3], keep[5]
    for name, path, value, status in [
        ("sc_kv_append", "panels", keep[1].ctypes.data + 4, invalid), ("sc_kv_append", "tokens", 4, invalid),
        ("sc_kv_append", "storage", 3, unsupported), ("sc_kv_append", "norm.eps", 0.0, invalid),
        ("sc_segment_attention", "norm.eps", float("nan"), invalid),
        ("sc_segment_attention", "head_dim", 32, unsupported),
        ("sc_segment_attention", "storage", 9, unsupported), ("sc_adaln_modulate", "eps", -1.0, invalid),
        ("sc_istft_overlap_add", "size", 24, unsupported), ("sc_istft_overlap_add", "hop", 17, invalid),
        ("sc_istft_overlap_add", "floor", 0.0, invalid), ("sc_linear_apply", "activation", 2, invalid),
        ("sc_linear_apply", "shift.data", keep[0].ctypes.data, invalid),
        ("sc_linear_apply", "residual", keep[0].ctypes.data, invalid),
        ("sc_conv_apply", "input_count", 1, invalid), ("sc_conv_apply", "silu", 2, invalid),
        ("sc_picture_warp", "height", 3, invalid), ("sc_picture_warp", "width", 1, invalid),
        ("sc_picture_warp", "parts", 33, invalid), ("sc_picture_warp", "local", float("inf"), invalid),
        ("sc_picture_warp", "height", 1 << 22, invalid), ("sc_picture_blend", "width", 1 << 21, invalid),
    ]:
        given = calls[name][0]
        before = set_field(given[-1], path, value)
        capi.refuses(status, name, *given)
        set_field(given[-1], path, before)
    for field, value in (("data", None), ("channels", 0), ("channels", -1), ("channels", 3), ("channels", 2**31 - 1)):
        before = set_field(pictures[1], field, value)
        assert "input" in capi.refuses(invalid, "sc_conv_apply", *calls["sc_conv_apply"][0])
        set_field(pictures[1], field, before)
    for changed in ([1, 3], [0, 2], [0, 4], [3, 0]):
        bounds[:] = changed
        assert "bounds" in capi.refuses(invalid, "sc_kv_append", *calls["sc_kv_append"][0])
    assert np.isnan(written).all()
    destroy(capi, calls)


def test_weights_that_cannot_be_packed_are_refused(capi):
    invalid, handle, weight = capi.SC_E_INVALID_ARGUMENT, ctypes.c_void_p(77), np.ones((4, 8), np.float32)
    for bad in (np.inf, -np.inf, np.nan):
        weight[2, 3] = bad
        assert "weight[19]" in capi.refuses(
            capi.SC_E_INVALID_ARGUMENT, "sc_linear_create", weight, None, 4, 8, capi.SC_BF16, ctypes.byref(handle))
    weight[2, 3] = 1
    bias = np.array([0, np.nan, 0, 0], np.float32)
    for status, *arguments in [
        (capi.SC_E_INVALID_ARGUMENT, weight, bias, 4, 8, capi.SC_BF16), (capi.SC_E_UNSUPPORTED, weight, None, 4, 8, 3),
        (capi.SC_E_INVALID_ARGUMENT, None, None, 4, 8, capi.SC_INT8),
        *[(invalid, weight, None, *sizes, capi.SC_INT8)
          for sizes in ((-4, 8), (4, 0), (1 << 20, 8), (1, (1 << 17) + 1))],
    ]:
        capi.refuses(status, "sc_linear_create", *arguments, ctypes.byref(handle))
    capi.refuses(capi.SC_E_INVALID_ARGUMENT, "sc_linear_create", weight, None, 4, 8, capi.SC_BF16, None)
    assert handle.value == 77


def test_convolutions_that_cannot_be_packed_are_refused(capi):
    invalid, unsupported, handle = capi.SC_E_INVALID_ARGUMENT, capi.SC_E_UNSUPPORTED, ctypes.c_void_p(77)
    weight, bias = np.ones((2, 3, 3, 5, 4, 3, 3), np.float32), np.ones((2, 3, 3, 5), np.float32)
    params = capi.make("sc_conv_params", inputs=4, channels=5, size=3, frames=2, shuffle=3, weight=weight, bias=bias)
    wrong = [(invalid, field, value) for field in ("inputs", "channels", "frames", "shuffle")
             for value in (-1, 0, 2**31 - 1)]
    wrong += [(unsupported, "size", size) for size in (-1, 0, 2, 5)]
    wrong += [(invalid, "weight", None), (invalid, "inputs", 22001), (invalid, "channels", (1 << 18) // 18 + 1)]
    for status, field, value in wrong:
        before = set_field(params, field, value)
        capi.refuses(status, "sc_conv_create", params, ctypes.byref(handle))
        set_field(params, field, before)
    for array, name in ((weight, "weight"), (bias, "bias")):
        array.flat[7] = np.nan
        assert f"{name}[7]" in capi.refuses(invalid, "sc_conv_create", params, ctypes.byref(handle))
        array.flat[7] = 1
    params.struct_size -= 1
    capi.refuses(capi.SC_E_ABI_MISMATCH, "sc_conv_create", params, ctypes.byref(handle))
    params.struct_size += 1
    capi.refuses(invalid, "sc_conv_create", params, None)
    capi.refuses(invalid, "sc_conv_create", None, ctypes.byref(handle))
    assert handle.value == 77
    capi.call("sc_conv_create", params, ctypes.byref(handle))
    capi.refuses(invalid, "sc_conv_read", handle, None)
    for value in (1 << 20, 1 << 24):      # a row of pixels with too many numbers
        call = capi.make("sc_conv_apply_call", batch=1, height=1, width=value, input_count=1)
        capi.refuses(invalid, "sc_conv_apply", handle, call)
    capi.sc_conv_destroy(handle)


def test_sizes_of_panels(capi):
    size = ctypes.c_uint64()
    for heads, dim, capacity, width in ((1, 64, 1, 4), (3, 128, 65, 4), (2, 64, 64, 2)):
        capi.call("sc_panels_bytes", heads, dim, capacity, 0 if width == 4 else 1, ctypes.byref(size))
        assert size.value == 2 * prod((heads, dim, -(-capacity // 64) * 64, width))
    capi.call("sc_panels_bytes", 3, 64, 65, capi.SC_INT8, ctypes.byref(size))
    assert size.value == 3 * 2 * (2 * 64 * 64 + 4 * (64 + 64 + 64))
    for wrong in ((0, 64, 1, 0), (1, 63, 1, 0), (1, 64, 0, 0), (1, 64, -1, 0), (1, 64, 1, 3), (1, 64, 1, -1)):
        assert capi.sc_panels_bytes(*wrong, ctypes.byref(size)) < 0
    capi.refuses(capi.SC_E_INVALID_ARGUMENT, "sc_panels_bytes", 1, 64, 1, 0, None)
