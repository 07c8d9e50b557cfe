"""PackedConv, picture_warp and picture_blend against float64, on every instruction set that this machine has."""
from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F

from streamchar_rt import ops
from streamchar_rt.errors import ConfigError
from streamchar_rt.ops import reference

from .native_support import fresh_generator, linear_isa, native, relative_error  # noqa: F401

LIMIT = 1.5e-2   # for normally distributed x and W; test_keeps_its_bound holds for any
# (height, width, channels of the inputs, outputs, size, frames, shuffle): those of the shipped model, then odd ones.
SHAPES = [
    (16, 16, (12, 12), 160, 3, 1, 1), (16, 16, (160,), 160, 3, 1, 1), (16, 16, (160,), 1280, 1, 4, 2),
    (32, 32, (80,), 40, 3, 1, 1), (32, 32, (80,), 160, 1, 1, 2), (64, 64, (64,), 40, 1, 1, 1),
    (64, 64, (40,), 80, 3, 1, 1), (1, 1, (1,), 1, 3, 1, 1), (1, 1, (5,), 3, 1, 1, 1), (7, 13, (3, 6, 8), 19, 3, 1, 1),
    (9, 31, (10,), 34, 3, 1, 1), (17, 5, (7, 4), 24, 1, 2, 2), (2, 3, (33,), 36, 3, 1, 3), (10, 6, (200,), 70, 3, 1, 1),
]


def problem(generator, height, width, channels, outputs, size, frames=1, shuffle=1, batch=1, silu=False):
    """Inputs, weight, bias, and what is added."""
    inputs = [torch.randn(batch, height, width, c, generator=generator) for c in channels]
    weight = torch.randn(outputs, sum(channels), size, size, generator=generator) / (sum(channels) ** 0.5 * size)
    parts = frames * shuffle**2
    added = torch.randn(batch * frames, height * shuffle, width * shuffle, outputs // parts, generator=generator)
    return inputs, weight, torch.randn(outputs, generator=generator), added


def truth(inputs, weight, bias=None, added=None, **options):
    weight, bias, added = (None if t is None else t.double() for t in (weight, bias, added))
    return reference.packed_conv([x.double() for x in inputs], weight, bias, added=added, **options)


def bound_of(inputs, weight, silu):
    """What the contract allows, of (B, O, H, W)."""
    x = torch.cat([x.double() for x in inputs], -1)
    x = (F.silu(x) if silu else x).movedim(-1, 1)
    pad, taps = weight.shape[-1] // 2, weight[0].numel()
    rows = x.amax((1, 3)).clamp(min=0) - x.amin((1, 3)).clamp(max=0)                          # (B, H)
    step_x = F.max_pool1d(F.pad(rows, (pad, pad))[:, None], 2 * pad + 1, 1)[:, 0, None, :, None] / 255
    step_w = (weight.double().abs().amax((1, 2, 3)) / 127)[:, None, None]
    w_sum = weight.double().abs().sum((1, 2, 3))[:, None, None]
    x_sum = F.conv2d(x.abs(), torch.ones_like(weight[:1]).double(), padding=pad)
    return step_x / 2 * w_sum + step_w / 2 * x_sum + taps * step_x * step_w / 4


@pytest.mark.parametrize("height,width,channels,outputs,size,frames,shuffle", SHAPES)
@pytest.mark.parametrize("silu", [False, True])
def test_equals_float64(linear_isa, height, width, channels, outputs, size, frames, shuffle, silu):
    generator = fresh_generator()
    batch = 1 if height * width > 1000 else int(torch.randint(1, 6, (), generator=generator))
    inputs, weight, bias, added = problem(generator, height, width, channels, outputs, size, frames, shuffle, batch)
    conv = ops.PackedConv(weight, bias, frames=frames, shuffle=shuffle)
    options = dict(silu=silu, frames=frames, shuffle=shuffle)
    wanted, y = truth(inputs, weight, bias, **options), conv(inputs, silu=silu)
    assert y.shape == wanted.shape and y.dtype is torch.float32
    if y.numel() >= 64:    # a few numbers may have cancelled
        assert relative_error(y, wanted) < LIMIT
    bound = bound_of(inputs, weight, silu)
    bound = F.pixel_shuffle(bound, shuffle).unflatten(1, (frames, -1)).flatten(0, 1).movedim(1, -1)
    assert bool(((y - wanted).abs() <= bound * 1.001 + 2e-6 * (1 + wanted.abs())).all())
    more = conv(inputs, silu=silu, added=added)
    assert relative_error(more, (y + added).double()) < 1e-6
    shared = conv(inputs, silu=silu, added=added[:1])
    assert relative_error(shared, (y + added[:1]).double()) < 1e-6
    target = added.clone()
    assert conv(inputs, silu=silu, added=target, out=target) is target and torch.equal(target, more)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("silu", [False, True])
def test_keeps_its_bound(linear_isa, scale, silu):
    generator = fresh_generator()
    inputs, weight, bias, _ = problem(generator, 9, 14, (20,), 30, 3)
    weight[3] *= 50
    weight[5] = 0
    x = inputs[0] * scale
    x[0, 2, 5, 11] = 400 * scale     # an outlier takes its row's resolution
    x[0, 6] = 0
    x[0, 7] = x[0, 7].abs() + scale  # zero lies at the edge of the steps, and the rim must still be zero
    conv = ops.PackedConv(weight, bias)
    assert relative_error(conv.weight(), weight.double()) < 2e-2
    y, wanted, bound = conv(x, silu=silu).double(), truth([x], weight, bias, silu=silu), bound_of([x], weight, silu)
    room = 2e-6 * (wanted.abs() + bias.abs() + bound.movedim(1, -1))
    assert bool(((y - wanted).abs() <= bound.movedim(1, -1) * 1.001 + room).all())
    assert torch.equal(y[0, :, :, 5], bias[5].double().expand(9, 14))


def test_rows_that_begin_between_two_steps(linear_isa):
    """Zero lies a half step from a step, where a last place decides how the least number is rounded."""
    generator = fresh_generator()
    rows = 20_000
    scale = torch.rand(rows, 1, generator=generator) + 0.5
    low = -(torch.randint(0, 255, (rows, 1), generator=generator) + 0.5)
    x = (low + 255 * torch.rand(rows, 8, generator=generator)) * scale
    x[:, :1], x[:, 1:2] = low * scale, (low + 255) * scale
    y = ops.PackedConv(torch.eye(8)[:, :, None, None])(x[None, :, None])[0, :, 0]
    assert bool(((y - x).abs() <= 0.5001 * scale).all())


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("low,high", [(0, 255), (-127, 128), (-255, 0)])
def test_sums_of_whole_numbers_are_exact(linear_isa, size, low, high):
    """Whole numbers in 255 steps are stored and multiplied exactly, so any slip of the layout shows."""
    generator = fresh_generator()
    weight = torch.randint(-127, 128, (37, 45, size, size), generator=generator).float()
    x = torch.randint(low, high + 1, (2, 11, 13, 45), generator=generator).float()
    weight[:, 0, 0, 0] = 127                     # makes every scale 1
    x[..., 0], x[..., 1] = low, high
    y, wanted = ops.PackedConv(weight)(x), truth([x], weight)
    assert float((y.double() - wanted).abs().max()) <= 1e-6 * float(wanted.abs().max())


def test_every_instruction_set_has_the_same_sums():
    generator = fresh_generator()
    inputs, weight, bias, _ = problem(generator, 12, 17, (43,), 50, 3)
    conv, before, results = ops.PackedConv(weight, bias), native.isa(), []
    try:
        for name in native.available_isas():
            native.set_isa(name)
            results.append(conv(inputs))
    finally:
        native.set_isa(before)
    for y in results:    # without SiLU the whole numbers are the same, and what is left is their last rounding
        assert relative_error(y, results[-1].double()) < 1e-6


@pytest.mark.parametrize("size,frames,shuffle", [(3, 1, 1), (1, 2, 2)])
def test_a_picture_depends_on_itself_alone(linear_isa, size, frames, shuffle):
    generator = fresh_generator()
    inputs, weight, bias, added = problem(generator, 21, 19, (24, 8), 80, size, frames, shuffle, batch=5)
    conv, before = ops.PackedConv(weight, bias, frames=frames, shuffle=shuffle), native.threads()
    try:
        ops.set_num_threads(1)
        whole = conv(inputs, silu=True, added=added)
        for threads in (1, 2, 5):
            ops.set_num_threads(threads)
            assert torch.equal(conv(inputs, silu=True, added=added), whole)
            for first, count in ((0, 1), (4, 1), (1, 3)):
                some = [x[first: first + count] for x in inputs]
                own = slice(first * frames, (first + count) * frames)
                assert torch.equal(conv(some, silu=True, added=added[own]), whole[own])
    finally:
        ops.set_num_threads(before)


def test_strides_and_shared_pictures(linear_isa):
    generator = fresh_generator()
    inputs, weight, bias, _ = problem(generator, 8, 9, (12, 6), 20, 3, batch=3)
    conv = ops.PackedConv(weight, bias)
    wanted = conv(inputs)
    wide = torch.randn(3, 8, 9, 30, generator=generator)
    wide[..., 5:17] = inputs[0]
    assert torch.equal(conv([wide[..., 5:17], inputs[1]]), wanted)
    assert torch.equal(conv([inputs[0].movedim(3, 1).contiguous().movedim(1, 3), inputs[1]]), wanted)
    many = torch.randn(6, 8, 9, 12, generator=generator)
    many[::2] = inputs[0]
    assert torch.equal(conv([many[::2], inputs[1]]), wanted)
    shared = conv([inputs[0], inputs[1][:1].expand(3, -1, -1, -1)])
    assert torch.equal(shared, conv([inputs[0], inputs[1][:1].repeat(3, 1, 1, 1)]))
    assert torch.equal(conv([x.double() for x in inputs]), wanted)
    assert conv([x[:0] for x in inputs]).shape == (0, 8, 9, 20)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("silu", [False, True])
def test_what_is_not_finite_stays_with_those_that_see_it(linear_isa, bad, silu):
    generator = fresh_generator()
    inputs, weight, bias, _ = problem(generator, 20, 6, (11,), 20, 3, batch=2)
    conv, x = ops.PackedConv(weight, bias), inputs[0]
    clean = conv(x, silu=silu)
    x[1, 13, 2, 10] = bad
    y = conv(x, silu=silu)
    assert not bool(torch.isfinite(y[1, 12:15]).any())
    y[1, 12:15] = clean[1, 12:15]
    assert torch.equal(y, clean)


def test_large_and_tiny_numbers(linear_isa):
    x = torch.zeros(1, 6, 4, 8)
    x[0, 0] = 1e36
    x[0, 1] = -1e36
    x[0, 3] = 1e-38
    y = ops.PackedConv(torch.eye(8)[:, :, None, None])(x)
    assert bool(((y - x).abs() <= 1e-2 * x.abs() + 1e-35).all())
    far = torch.tensor([-1e30, -500.0, -90.0, -1.0, 0.0, 1.0, 90.0, 500.0]).reshape(1, 1, 1, 8)
    y = ops.PackedConv(torch.eye(8)[:, :, None, None])(far, silu=True)
    assert bool(((y - F.silu(far)).abs() <= 501 / 255 / 2).all())


def test_many_python_threads_at_once():
    generator = fresh_generator()
    inputs, weight, bias, _ = problem(generator, 20, 20, (24,), 40, 3)
    conv = ops.PackedConv(weight, bias)
    pictures = [torch.randn(1, 20, 20, 24, generator=generator) for _ in range(4)]
    alone = [conv(x) for x in pictures]
    wrong = []

    def worker(i):
        for _ in range(50):
            if not torch.equal(conv(pictures[i]), alone[i]):
                wrong.append(i)

    threads = [threading.Thread(target=worker, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not wrong and not any(t.is_alive() for t in threads)


def test_it_tells_its_size_and_where_it_pays(linear_isa):
    weight = torch.randn(64, 40, 3, 3)
    conv = ops.PackedConv(weight, frames=2, shuffle=2)
    assert (conv.in_channels, conv.channels, conv.size, conv.frames, conv.shuffle) == (40, 8, 3, 2, 2)
    assert 8 * 16 * 40 * 9 <= conv.nbytes <= 8 * 16 * (40 * 9 + 20)    # 8 channels fill a tile of 16
    assert relative_error(conv.weight(), weight.double()) < 1e-2
    assert ops.PackedConv.pays() == (linear_isa != "generic")


def test_bad_convolutions_are_typed_errors():
    weight, bias = torch.zeros(8, 6, 3, 3), torch.zeros(8)
    conv = ops.PackedConv(weight, bias)
    x = torch.zeros(2, 4, 5, 6)
    bad_calls = [
        lambda: ops.PackedConv(weight[0]),
        lambda: ops.PackedConv(weight[..., :2]),
        lambda: ops.PackedConv(weight[:0]),
        lambda: ops.PackedConv(weight, bias[1:]),
        lambda: ops.PackedConv(weight * float("nan")),
        lambda: ops.PackedConv(weight, frames=3),
        lambda: ops.PackedConv(weight, frames=0),
        lambda: conv(x[0]),
        lambda: conv(x[..., 1:]),
        lambda: conv(x.int()),
        lambda: conv([]),
        lambda: conv([x[..., :2], x[..., :2], x[..., :1], x[..., :1]]),
        lambda: conv([x[..., :3], x[:1, ..., 3:]]),
        lambda: conv(x.clone().requires_grad_()),
        lambda: conv(x, out=torch.empty(2, 4, 5, 7)),
        lambda: conv(x, out=torch.empty(2, 4, 5, 16)[..., ::2]),
        lambda: conv(x, added=torch.zeros(3, 4, 5, 8)),
        lambda: conv(x, added=torch.zeros(2, 4, 5, 8).double()),
        lambda: conv(x, added=torch.zeros(2, 4, 5, 16)[..., ::2]),
    ]
    for call in bad_calls:
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.hint


# ---------------------------------------------------------------- the warp and the blend
def places_of(generator, frames, height, width, parts, reach):
    places = torch.randn(frames, height, width, 4 * (parts + 2), generator=generator) * 2
    return places, torch.randn(frames, parts, 2, 3, generator=generator) * reach


@pytest.mark.parametrize(
    "frames,height,width,parts", [(1, 32, 32, 8), (3, 5, 9, 8), (2, 1, 1, 1), (1, 2, 7, 32), (1, 3, 3, 40)])
@pytest.mark.parametrize("reach", [0.5, 6.0, 400.0])
def test_warp_equals_float64(linear_isa, frames, height, width, parts, reach):
    generator = fresh_generator()
    places, motion = places_of(generator, frames, height, width, parts, reach)
    picture = ops.with_rim(torch.rand(8 * height, 8 * width, 4, generator=generator))
    warped, flow = ops.picture_warp(places, motion, picture, 6.0)
    wanted, wanted_flow = reference.picture_warp(places.double(), motion.double(), picture.double(), 6.0)
    assert warped.shape == wanted.shape and flow.shape == wanted_flow.shape
    assert float((flow - wanted_flow).abs().max()) < 2e-5 * (reach + 6)
    assert float((warped - wanted).abs().max()) < 1e-4 * (reach + 6)    # a pixel's step is at most one


def test_still_flow_shows_the_picture_itself(linear_isa):
    generator = fresh_generator()
    picture = torch.rand(40, 24, 4, generator=generator)
    places, motion = torch.zeros(2, 5, 3, 40), torch.zeros(2, 8, 2, 3)
    warped, flow = ops.picture_warp(places, motion, ops.with_rim(picture), 6.0)
    assert not flow.any()
    shown = F.pixel_shuffle(warped.movedim(-1, 1), 4).movedim(1, -1)
    assert torch.equal(shown, picture.expand(2, -1, -1, -1))


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e30])
def test_wild_flow_shows_nothing_and_breaks_nothing(linear_isa, bad):
    places, motion = torch.zeros(1, 4, 4, 40), torch.full((1, 8, 2, 3), bad)
    warped, _ = ops.picture_warp(places, motion, ops.with_rim(torch.ones(32, 32, 4)), 6.0)
    assert not warped.any()


def test_warp_and_blend_do_not_depend_on_threads_or_company(linear_isa):
    generator = fresh_generator()
    places, motion = places_of(generator, 4, 6, 5, 8, 5.0)
    picture = ops.with_rim(torch.rand(48, 40, 4, generator=generator))
    drawn, before = torch.randn(4, 12, 10, 80, generator=generator), native.threads()
    try:
        ops.set_num_threads(1)
        warped, flow = ops.picture_warp(places, motion, picture, 6.0)
        out = ops.picture_blend(drawn, warped)
        for threads in (1, 2, 5):
            ops.set_num_threads(threads)
            again = ops.picture_warp(places, motion, picture, 6.0)
            assert torch.equal(again[0], warped) and torch.equal(again[1], flow)
            assert torch.equal(ops.picture_blend(drawn, warped), out)
            assert torch.equal(ops.picture_warp(places[2:3], motion[2:3], picture, 6.0)[0], warped[2:3])
            assert torch.equal(ops.picture_blend(drawn[1:2], warped[1:2]), out[1:2])
    finally:
        ops.set_num_threads(before)


@pytest.mark.parametrize("frames,height,width", [(1, 64, 64), (3, 1, 7), (2, 5, 3)])
def test_blend_equals_float64(linear_isa, frames, height, width):
    generator = fresh_generator()
    drawn = torch.randn(frames, height, width, 80, generator=generator)
    drawn[..., 64:] *= 4
    warped = torch.rand(frames, height, width, 64, generator=generator)
    out = ops.picture_blend(drawn, warped)
    wanted = reference.picture_blend(drawn.double(), warped.double())
    difference = (out.int() - wanted.int()).abs()
    assert out.shape == wanted.shape and out.dtype is torch.uint8
    # Next to a rounding's edge either side will do: one step, at few places.
    assert int(difference.max()) <= 1 and float((difference > 0).double().mean()) < 1e-3


def test_blend_of_what_is_not_a_number_is_zero(linear_isa):
    drawn, warped = torch.zeros(1, 2, 2, 80), torch.ones(1, 2, 2, 64)
    clean = ops.picture_blend(drawn, warped)
    drawn[0, 1, 1, 5] = float("nan")     # red of pixel 5
    out = ops.picture_blend(drawn, warped)
    assert out[0, 5, 5, 0] == 0
    out[0, 5, 5, 0] = clean[0, 5, 5, 0]
    assert torch.equal(out, clean)
    drawn[0, 0, 0, 64:] = torch.tensor([1e30, -1e30] * 8)
    out = ops.picture_blend(drawn, warped)
    assert out[0, 0, 0, 3] == 255 and out[0, 0, 1, 3] == 128    # the reference alone, and what was drawn alone


def test_warp_and_blend_write_where_they_are_told():
    generator = fresh_generator()
    places, motion = places_of(generator, 1, 3, 2, 8, 4.0)
    picture = ops.with_rim(torch.rand(24, 16, 4, generator=generator))
    drawn, whole = torch.randn(1, 6, 4, 80, generator=generator), torch.zeros(3, 24, 16, 4, dtype=torch.uint8)
    warped, target = ops.picture_warp(places, motion, picture, 6.0)[0], torch.full((1, 6, 4, 64), torch.nan)
    assert ops.picture_warp(places, motion, picture, 6.0, out=target)[0] is target and torch.equal(target, warped)
    ops.picture_blend(drawn, warped, out=whole[1:2])
    assert torch.equal(whole[1:2], ops.picture_blend(drawn, warped)) and not whole[::2].any()


def test_bad_pictures_are_typed_errors():
    places, motion, picture = torch.zeros(2, 3, 3, 40), torch.zeros(2, 8, 2, 3), torch.zeros(28, 28, 4)
    drawn, warped = torch.zeros(1, 2, 2, 80), torch.zeros(1, 2, 2, 64)
    bad_calls = [
        lambda: ops.picture_warp(places[0], motion, picture, 6.0),
        lambda: ops.picture_warp(places[..., :39], motion, picture, 6.0),
        lambda: ops.picture_warp(places[..., :8], motion, picture, 6.0),
        lambda: ops.picture_warp(places, motion[:1], picture, 6.0),
        lambda: ops.picture_warp(places, motion, picture[2:-2, 2:-2], 6.0),
        lambda: ops.picture_warp(places, motion.double(), picture, 6.0),
        lambda: ops.picture_warp(places, motion, picture, 6.0, out=torch.empty(2, 6, 6, 63)),
        lambda: ops.picture_blend(drawn, warped, out=torch.empty(1, 8, 8, 4)),
        lambda: ops.picture_blend(drawn[..., 1:], warped),
        lambda: ops.picture_blend(drawn, warped[:, 1:]),
        lambda: ops.picture_blend(drawn, warped.double()),
        lambda: ops.picture_blend(drawn.int(), warped.int()),
    ]
    for call in bad_calls:
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.hint


def test_torch_sees_warp_and_blend():
    generator = fresh_generator()
    places, motion = places_of(generator, 2, 3, 4, 8, 3.0)
    picture = ops.with_rim(torch.rand(24, 32, 4, generator=generator))
    torch.library.opcheck(torch.ops.streamchar.picture_warp.default, (places, motion, picture, 6.0))
    warped, _ = torch.ops.streamchar.picture_warp(places, motion, picture, 6.0)
    drawn = torch.randn(2, 6, 8, 80, generator=generator)
    torch.library.opcheck(torch.ops.streamchar.picture_blend.default, (drawn, warped))
    assert torch.equal(torch.ops.streamchar.picture_blend(drawn, warped), ops.picture_blend(drawn, warped))


def test_gradients_go_through_the_reference():
    generator = fresh_generator()
    places, motion = places_of(generator, 1, 2, 2, 8, 1.0)
    picture = ops.with_rim(torch.rand(16, 16, 4, generator=generator))
    warped, _ = ops.picture_warp(places.requires_grad_(), motion, picture, 6.0)
    warped.sum().backward()
    assert bool(places.grad.any())
