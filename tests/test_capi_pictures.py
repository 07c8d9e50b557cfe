"""Convolutions, warp and blend of libstreamchar against the Python package's references in float64."""
from __future__ import annotations

import ctypes
from contextlib import contextmanager

import numpy as np
import torch

from streamchar_rt.ops import reference

from .capi_problems import error, make_conv

CONV_LIMIT = 1.5e-2   # for normally distributed inputs and weights


@contextmanager
def threads(capi, count):
    before = capi.sc_threads()
    try:
        capi.call("sc_set_threads", count)
        yield
    finally:
        capi.call("sc_set_threads", before)


def as_torch(*arrays):
    return [torch.from_numpy(np.array(x, np.float64)) for x in arrays]


def in_torch_order(outputs):
    """(frames, shuffle, shuffle, channels, ...) as ``reference.packed_conv`` has its outputs."""
    return np.moveaxis(outputs, 3, 1).reshape(-1, *outputs.shape[4:])


def apply(capi, conv, shape, inputs, out, **options):
    """``inputs``: (batch or 1, height, width, channels)."""
    listed = (capi.sc_conv_input * len(inputs))(*(
        capi.sc_conv_input(x.ctypes.data, x.strides[0] // 4 if len(x) > 1 else 0, x.shape[-1], 0) for x in inputs))
    batch, height, width = shape
    call = capi.make("sc_conv_apply_call", batch=batch, height=height, width=width, input_count=len(inputs),
                     inputs=ctypes.addressof(listed), out=out, **options)
    capi.call("sc_conv_apply", conv, call)
    return out


def test_convolution_equals_float64(capi, rng):
    for _ in range(6):
        batch, height, width = (int(n) for n in rng.integers(1, (4, 20, 20)))
        size, frames, shuffle = int(rng.choice([1, 3])), int(rng.integers(1, 4)), int(rng.integers(1, 3))
        channels, silu = int(rng.integers(1, 40)), int(rng.integers(2))
        counts = [int(n) for n in rng.integers(3, 30, rng.integers(1, 4))]
        weight = rng.standard_normal((frames, shuffle, shuffle, channels, sum(counts), size, size), dtype=np.float32)
        weight /= np.float32(np.sqrt(sum(counts)) * size)
        bias = rng.standard_normal(weight.shape[:4], dtype=np.float32)
        conv, packed = make_conv(capi, weight, bias), np.full_like(weight, np.nan)
        capi.call("sc_conv_read", conv, packed)
        step = np.abs(weight).max((-3, -2, -1), keepdims=True) / 127
        assert (np.abs(packed - weight) <= 0.501 * step).all()

        held = [rng.standard_normal((int(rng.choice([1, batch])) + 1, height, width, n), dtype=np.float32)
                for n in counts]
        inputs = [x[1:] for x in held]     # with pictures before them
        shape = batch * frames, height * shuffle, width * shuffle, channels
        options = dict(silu=bool(silu), frames=frames, shuffle=shuffle)
        pictures = as_torch(*(np.broadcast_to(x, (batch, *x.shape[1:])) for x in inputs))
        wanted = reference.packed_conv(pictures, *as_torch(in_torch_order(weight), in_torch_order(bias)), **options)
        plain = apply(capi, conv, (batch, height, width), inputs, np.full(shape, np.nan, np.float32), silu=silu)
        if plain.size >= 64:     # a few numbers may have cancelled
            assert error(plain, wanted.numpy()) < CONV_LIMIT

        added = rng.standard_normal(shape, dtype=np.float32)
        shared = apply(capi, conv, (batch, height, width), inputs, np.empty(shape, np.float32), silu=silu, added=added)
        assert error(shared, plain.astype(np.float64) + added[:1]) < 1e-6
        in_place = added.copy()
        with threads(capi, 3):
            apply(capi, conv, (batch, height, width), inputs, in_place, silu=silu, added=in_place,
                  added_stride=added[0].size)
        assert error(in_place, plain.astype(np.float64) + added) < 1e-6
        capi.sc_conv_destroy(conv)


def test_sums_of_whole_numbers_are_exact(capi, rng):
    """Whole numbers in 255 steps are stored and multiplied exactly, so any slip of the layout shows."""
    for size in (1, 3):
        weight = rng.integers(-127, 128, (2, 2, 2, 5, 13, size, size)).astype(np.float32)
        weight[..., 0, 0, 0] = 127           # makes every step 1
        x = rng.integers(0, 256, (2, 7, 9, 13)).astype(np.float32)
        x[..., 0], x[..., 1] = 0, 255
        conv = make_conv(capi, weight)
        packed, y = np.empty_like(weight), np.empty((4, 14, 18, 5), np.float32)
        capi.call("sc_conv_read", conv, packed)
        apply(capi, conv, (2, 7, 9), [x], y)
        wanted = reference.packed_conv(as_torch(x), *as_torch(in_torch_order(weight)), None, frames=2,
                                       shuffle=2).numpy()
        assert (packed == weight).all() and np.abs(y - wanted).max() <= 1e-6 * np.abs(wanted).max()
        capi.sc_conv_destroy(conv)


def test_warp_equals_float64(capi, rng):
    for _ in range(6):
        frames, height, width, parts = (int(n) for n in rng.integers(1, (4, 9, 9, 33)))
        reach, local = float(rng.choice([0.5, 6.0, 100.0])), float(rng.random() * 8)
        places = 2 * rng.standard_normal((frames, height, width, 4 * (parts + 2)), dtype=np.float32)
        motion = np.float32(reach) * rng.standard_normal((frames, parts, 2, 3), dtype=np.float32)
        picture = np.pad(rng.random((8 * height, 8 * width, 4), dtype=np.float32), ((2, 2), (2, 2), (0, 0)))
        wanted, wanted_flow = reference.picture_warp(*as_torch(places, motion, picture), local)

        def warp():
            flow = np.full((frames, 2 * height, 2 * width, 2), np.nan, np.float32)
            warped = np.full((frames, 2 * height, 2 * width, 64), np.nan, np.float32)
            call = capi.make("sc_picture_warp_call", frames=frames, height=2 * height, width=2 * width, parts=parts,
                             local=local, places=places, motion=motion, picture=picture, flow=flow, warped=warped)
            capi.call("sc_picture_warp", call)
            return warped, flow

        warped, flow = warp()
        assert np.abs(flow - wanted_flow.numpy()).max() < 2e-5 * (reach + 8)
        assert np.abs(warped - wanted.numpy()).max() < 1e-4 * (reach + 8)    # a pixel's step is at most one
        with threads(capi, 3):
            assert [x.tobytes() for x in warp()] == [warped.tobytes(), flow.tobytes()]


def test_blend_equals_float64(capi, rng):
    for _ in range(4):
        frames, height, width = (int(n) for n in rng.integers(1, (4, 12, 12)))
        drawn = rng.standard_normal((frames, height, width, 80), dtype=np.float32)
        drawn[..., 64:] *= 4
        warped = rng.random((frames, height, width, 64), dtype=np.float32)
        wanted = reference.picture_blend(*as_torch(drawn, warped)).numpy()
        out = np.full(wanted.shape, 77, np.uint8)
        call = capi.make("sc_picture_blend_call", frames=frames, height=height, width=width, drawn=drawn,
                         warped=warped, out=out)
        capi.call("sc_picture_blend", call)
        difference = np.abs(out.astype(int) - wanted)
        # Next to a rounding's edge either side will do: one step, at few places.
        assert difference.max() <= 1 and (difference > 0).sum() <= 2 + 1e-3 * difference.size


def test_still_flow_shows_the_picture_and_what_is_no_number_shows_nothing(capi, rng):
    picture = rng.random((16, 24, 4), dtype=np.float32)
    rimmed = np.pad(picture, ((2, 2), (2, 2), (0, 0)))
    places, flow, warped = np.zeros((1, 2, 3, 12), np.float32), np.empty((4, 6, 2), np.float32), np.empty(
        (4, 6, 4, 4, 4), np.float32)
    for number, shown in ((0.0, picture), (np.nan, 0 * picture)):
        motion = np.full((1, 1, 2, 3), number, np.float32)
        call = capi.make("sc_picture_warp_call", frames=1, height=4, width=6, parts=1, local=1.0, places=places,
                         motion=motion, picture=rimmed, flow=flow, warped=warped)
        capi.call("sc_picture_warp", call)
        pixels = warped.transpose(0, 3, 1, 4, 2).reshape(16, 24, 4)
        assert (pixels == shown).all()
