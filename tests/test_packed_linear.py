"""PackedLinear against float64, on every instruction set that this machine has."""
from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F

from streamchar_rt import ops
from streamchar_rt.errors import ConfigError
from streamchar_rt.ops import reference

from .native_support import fresh_generator, linear_isa, native, relative_error  # noqa: F401

FP32_LIMIT = 1e-6
BF16_LIMIT = 4e-3
INT8_LIMIT = 1.5e-2   # for normally distributed x and W; test_int8_keeps_its_bound holds for any
# (rows, inputs, outputs): those of the shipped model, then odd ones.
SHAPES = [
    (272, 256, 768), (272, 256, 256), (272, 256, 384), (272, 384, 256), (16, 256, 768), (64, 48, 256), (16, 160, 256),
    (256, 256, 48), (16, 256, 160), (1, 1, 1), (5, 37, 19), (33, 65, 97), (49, 130, 33), (7, 1500, 70), (0, 8, 8),
]


def layer(generator, inputs, outputs, bias=True):
    weight = torch.randn(outputs, inputs, generator=generator) / inputs ** 0.5
    return weight, torch.randn(outputs, generator=generator) if bias else None


def truth(x, weight, bias, activation=None):
    y = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    return F.gelu(y, approximate="tanh") if activation else y


@pytest.mark.parametrize("rows,inputs,outputs", SHAPES)
@pytest.mark.parametrize("storage,limit", [("fp32", FP32_LIMIT), ("bf16", BF16_LIMIT), ("int8", INT8_LIMIT)])
@pytest.mark.parametrize("activation", [None, "gelu_tanh"])
def test_equals_float64(linear_isa, rows, inputs, outputs, storage, limit, activation):
    generator = fresh_generator()
    weight, bias = layer(generator, inputs, outputs, bias=outputs != 97)
    x = torch.randn(rows, inputs, generator=generator)
    packed = ops.PackedLinear(weight, bias, storage=storage)
    y = packed(x, activation=activation)
    assert y.shape == (rows, outputs) and y.dtype is torch.float32
    wanted = truth(x, weight, bias, activation)
    if rows * outputs >= 64:   # a few numbers may have cancelled
        assert relative_error(y, wanted) < limit
    if storage == "bf16":      # each operand is within 2^-8 of itself; GELU's slope is below 1.13
        bound = truth(x.abs(), weight.abs(), None) * (1.13 if activation else 1.0) * 2.02 * 2 ** -8
        assert bool(((y - wanted).abs() <= bound + 1e-6 * (1 + wanted.abs())).all())


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_int8_keeps_its_bound(linear_isa, scale):
    generator = fresh_generator()
    weight, bias = layer(generator, 300, 70)
    weight[3] *= 50
    weight[5] = 0
    x = torch.randn(40, 300, generator=generator) * scale
    x[7, 11] = 400 * scale     # an outlier takes its row's resolution
    x[9] = 0
    packed = ops.PackedLinear(weight, bias, storage="int8")
    y = packed(x).double()
    assert relative_error(packed.weight(), weight.double()) < 2e-2
    step_x = x.double().abs().amax(1, keepdim=True) / 127
    step_w = weight.double().abs().amax(1) / 127
    bound = step_x / 2 * weight.double().abs().sum(1) + step_w / 2 * x.double().abs().sum(1, keepdim=True)
    bound = bound + 300 * step_x * step_w / 4
    wanted = truth(x, weight, bias)
    assert bool(((y - wanted).abs() <= bound + 2e-6 * (wanted.abs() + bias.abs() + bound)).all())
    assert torch.equal(y[9].float(), bias)


@pytest.mark.parametrize("storage", ["fp32", "bf16", "int8"])
def test_sums_of_whole_numbers_are_exact(linear_isa, storage):
    """Whole numbers up to 127 are stored and multiplied exactly, so any slip of the layout shows."""
    generator = fresh_generator()
    weight = torch.randint(-127, 128, (50, 200), generator=generator).float()
    x = torch.randint(-127, 128, (35, 200), generator=generator).float()
    weight[:, 0] = x[:, 0] = 127                # makes every scale 1
    y = ops.PackedLinear(weight, storage=storage)(x)
    wanted = truth(x, weight, None)
    assert float((y.double() - wanted).abs().max()) <= 1e-6 * float(wanted.abs().max())


@pytest.mark.parametrize("storage", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("activation", [None, "gelu_tanh"])
def test_a_row_depends_on_itself_alone(linear_isa, storage, activation):
    generator = fresh_generator()
    weight, bias = layer(generator, 256, 384)
    packed = ops.PackedLinear(weight, bias, storage=storage)
    x = torch.randn(272, 256, generator=generator)
    before = native.threads()
    try:
        ops.set_num_threads(1)
        whole = packed(x, activation=activation)
        for threads in (1, 2, 5):
            ops.set_num_threads(threads)
            assert torch.equal(packed(x, activation=activation), whole)
            for first, count in ((0, 1), (271, 1), (3, 16), (100, 47), (31, 64)):
                part = packed(x[first: first + count], activation=activation)
                assert torch.equal(part, whole[first: first + count])
        order = torch.randperm(272, generator=generator)
        assert torch.equal(packed(x[order], activation=activation), whole[order])
    finally:
        ops.set_num_threads(before)


@pytest.mark.parametrize("storage", ["fp32", "bf16", "int8"])
def test_batches_strides_and_out(linear_isa, storage):
    generator = fresh_generator()
    weight, bias = layer(generator, 40, 30)
    packed = ops.PackedLinear(weight, bias, storage=storage)
    wide = torch.randn(2, 9, 3, 50, generator=generator)
    x = wide[:, :, 1, 5:45]
    out = torch.full((2, 9, 30), torch.nan)
    assert packed(x, out=out) is out
    assert torch.equal(out, packed(x.contiguous()))
    assert torch.equal(packed(x[1, 2]), out[1, 2])
    assert torch.equal(packed(x[0].t().contiguous().t()), out[0])


def around(generator, batch, tokens, inputs, outputs, shared):
    """x, (shift, scale), gate and residual; the vectors are slices, as they come from one modulation tensor."""
    x = torch.randn(batch, tokens, inputs, generator=generator) * 2 + 5
    vectors = torch.randn(1 if shared else batch, 1, 6, max(inputs, outputs), generator=generator)
    shift, scale, gate = vectors[:, :, 0, :inputs], vectors[:, :, 1, :inputs], vectors[:, :, 4, :outputs]
    return x, (shift, scale), gate, torch.randn(batch, tokens, outputs, generator=generator)


@pytest.mark.parametrize("batch,tokens,inputs,outputs", [(1, 272, 256, 768), (3, 21, 64, 48), (2, 50, 37, 19)])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("storage,limit", [("fp32", FP32_LIMIT), ("bf16", BF16_LIMIT), ("int8", INT8_LIMIT)])
@pytest.mark.parametrize("activation", [None, "gelu_tanh"])
def test_modulation_and_gate_around_the_layer(
    linear_isa, batch, tokens, inputs, outputs, shared, storage, limit, activation
):
    generator = fresh_generator()
    weight, bias = layer(generator, inputs, outputs)
    packed = ops.PackedLinear(weight, bias, storage=storage)
    x, modulate, gate, residual = around(generator, batch, tokens, inputs, outputs, shared)
    modulated = reference.adaln_modulate(x.double(), *(v.double() for v in modulate))
    wanted = truth(modulated, weight, bias, activation)
    assert relative_error(packed(x, modulate=modulate, activation=activation), wanted) < 1.2 * limit
    plain = packed(x, activation=activation)
    gated = packed(x, activation=activation, gate=gate, residual=residual)
    assert relative_error(gated, (residual + gate * plain).double()) < 1e-6
    both = packed(x, modulate=modulate, activation=activation, gate=gate, residual=residual)
    wanted = residual.double() + gate.double() * wanted
    assert relative_error(both, wanted) < 1.2 * limit
    target = residual.clone()
    assert packed(x, modulate=modulate, activation=activation, gate=gate, residual=target, out=target) is target
    assert torch.equal(target, both)


@pytest.mark.parametrize("storage", ["fp32", "bf16", "int8"])
def test_batches_get_what_they_would_get_alone(linear_isa, storage):
    generator = fresh_generator()
    weight, bias = layer(generator, 256, 96)
    packed = ops.PackedLinear(weight, bias, storage=storage)
    x, (shift, scale), gate, residual = around(generator, 3, 41, 256, 96, shared=False)
    before = native.threads()
    try:
        ops.set_num_threads(3)
        together = packed(x, modulate=(shift, scale), gate=gate, residual=residual)
        ops.set_num_threads(1)
        for i in range(3):
            own = slice(i, i + 1)
            alone = packed(x[own], modulate=(shift[own], scale[own]), gate=gate[own], residual=residual[own])
            assert torch.equal(alone, together[own])
    finally:
        ops.set_num_threads(before)


@pytest.mark.parametrize("storage", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_stays_in_its_row(linear_isa, storage, bad):
    generator = fresh_generator()
    weight, bias = layer(generator, 70, 20)
    packed = ops.PackedLinear(weight, bias, storage=storage)
    x = torch.randn(20, 70, generator=generator)
    clean = packed(x)
    x[13, 66] = bad
    y = packed(x)
    assert not bool(torch.isfinite(y[13]).any())
    y[13] = clean[13]
    assert torch.equal(y, clean)


def test_gelu_over_its_whole_range(linear_isa):
    identity = ops.PackedLinear(torch.eye(1), storage="bf16")
    x = torch.cat([torch.linspace(-12, 12, 4001), torch.tensor([-1e4, -100.0, 100.0, 1e4])]).bfloat16().float()
    y = identity(x[:, None], activation="gelu_tanh")[:, 0]
    wanted = F.gelu(x.double(), approximate="tanh")
    assert float((y - wanted).abs().max() / 1e4) < 1e-7
    assert bool(((y - wanted).abs() <= 1e-6 * wanted.abs() + 1e-7).all())


def test_many_python_threads_at_once():
    generator = fresh_generator()
    weight, bias = layer(generator, 64, 96)
    packed = ops.PackedLinear(weight, bias, storage="int8")
    inputs = [torch.randn(50, 64, generator=generator) for _ in range(4)]
    alone = [packed(x) for x in inputs]
    wrong = []

    def worker(i):
        for _ in range(50):
            if not torch.equal(packed(inputs[i]), alone[i]):
                wrong.append(i)

    threads = [threading.Thread(target=worker, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not wrong and not any(t.is_alive() for t in threads)


def test_packs_torch_layers_and_tells_its_size():
    linear = torch.nn.Linear(256, 768)
    for storage, element in (("bf16", 2), ("int8", 1)):
        packed = ops.PackedLinear.pack(linear, storage)
        assert (packed.in_features, packed.out_features) == (256, 768)
        assert element * 256 * 768 <= packed.nbytes <= element * 256 * 768 + 32 * 768
        assert relative_error(packed.weight(), linear.weight.double()) < 1e-2


def test_it_pays_where_the_machine_has_narrow_products(linear_isa):
    assert ops.PackedLinear.pays("bf16") == (linear_isa == "amx")
    assert ops.PackedLinear.pays("int8") == (linear_isa not in ("generic", "avx2", "avx512"))


def test_an_engine_takes_what_pays(linear_isa):
    from streamchar_rt.config import EngineConfig
    from streamchar_rt.engine import _dtype

    fastest = {"amx": "bf16", "avx512_bf16": "int8", "avx512_vnni": "int8", "avx_vnni": "int8"}
    assert _dtype(EngineConfig()) == fastest.get(linear_isa, "fp32")
    assert _dtype(EngineConfig(kernels="reference")) == "fp32"
    for dtype in ("fp32", "bf16", "int8"):
        assert _dtype(EngineConfig(dtype=dtype)) == dtype
    assert ops.ContextCache.int8_pays() == (linear_isa in ("avx_vnni", "avx512_vnni", "avx512_bf16"))


def test_bad_calls_are_typed_errors():
    weight, bias = layer(fresh_generator(), 8, 6)
    packed = ops.PackedLinear(weight, bias)
    x = torch.zeros(3, 8)
    bad_calls = [
        lambda: ops.PackedLinear(weight[0]),
        lambda: ops.PackedLinear(weight, bias[1:]),
        lambda: ops.PackedLinear(weight[:0]),
        lambda: ops.PackedLinear(weight * float("nan")),
        lambda: ops.PackedLinear(weight, storage="fp4"),
        lambda: ops.PackedLinear.pays("fp4"),
        lambda: packed(x[:, 1:]),
        lambda: packed(x.int()),
        lambda: packed(x, activation="relu"),
        lambda: packed(x, out=torch.empty(3, 5)),
        lambda: packed(x, out=torch.empty(3, 12)[:, ::2]),
        lambda: packed(x.clone().requires_grad_()),
        lambda: packed(x, modulate=(x[None, :1], x[None, :1])),
        lambda: packed(x[None], modulate=(x[None], x[None])),
        lambda: packed(x[None], modulate=(x[None, :1].double(), x[None, :1])),
        lambda: packed(x[None], gate=torch.ones(1, 1, 6)),
        lambda: packed(x[None], gate=torch.ones(1, 1, 6), residual=torch.ones(1, 2, 6)),
        lambda: packed(x[None], gate=torch.ones(1, 1, 5), residual=torch.ones(1, 3, 6)),
    ]
    for call in bad_calls:
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.hint
