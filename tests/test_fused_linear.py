"""fused_linear: its definition, its face, and the host arithmetic of its GPU kernels. See test_gpu_ops.py for those."""
from __future__ import annotations

import ctypes
import math
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from streamchar_rt import ops
from streamchar_rt.denoiser import packed
from streamchar_rt.errors import ConfigError
from streamchar_rt.op_recorder import Recorder
from streamchar_rt.ops import linear, reference

from .native_support import fresh_generator, native, relative_error

FINISHES = ["none", "gelu_tanh", "gated_residual"]


def problem(finish, batch=2, tokens=5, inputs=24, outputs=16, dtype=torch.float32, shared=False, bias=True):
    """Arguments of fused_linear, among them what the finish wants."""
    generator = fresh_generator()
    draw = lambda *shape: torch.randn(*shape, generator=generator).to(dtype)
    weight = draw(outputs, inputs) / inputs ** 0.5
    around = {}
    if finish == "gelu_tanh":
        around = {"activation": "gelu_tanh"}
    elif finish == "gated_residual":
        around = {"gate": draw(1 if shared else batch, 1, outputs), "residual": draw(batch, tokens, outputs)}
    return (draw(batch, tokens, inputs), weight, draw(outputs) if bias else None), around


def doubled(arguments, around):
    double = lambda x: x.double() if isinstance(x, torch.Tensor) else x
    return reference.fused_linear(*map(double, arguments), **{name: double(x) for name, x in around.items()})


def test_definition():
    (x, weight, bias), around = problem("gated_residual")
    y = torch.einsum("btk,nk->btn", x.double(), weight.double()) + bias.double()
    wanted = around["residual"].double() + around["gate"].double() * y
    assert relative_error(doubled((x, weight, bias), around), wanted) < 1e-12
    gelu = 0.5 * y * (1 + torch.tanh(math.sqrt(2 / math.pi) * (y + 0.044715 * y ** 3)))
    assert relative_error(doubled((x, weight, bias), {"activation": "gelu_tanh"}), gelu) < 1e-12
    assert relative_error(doubled((x, weight, None), {}), y - bias.double()) < 1e-12


@pytest.mark.parametrize("finish", FINISHES)
@pytest.mark.parametrize("dtype,limit", [(torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float64, 1e-12)])
@pytest.mark.parametrize("shared,bias", [(True, True), (False, False)])
def test_on_a_cpu_it_is_the_reference(finish, dtype, limit, shared, bias):
    arguments, around = problem(finish, dtype=dtype, shared=shared, bias=bias)
    got = ops.fused_linear(*arguments, **around)
    wanted = doubled(arguments, around)
    assert got.dtype is dtype and got.shape == wanted.shape and relative_error(got, wanted) < limit
    out = torch.full_like(got, torch.nan)
    assert ops.fused_linear(*arguments, **around, out=out) is out and torch.equal(out, got)
    if "residual" in around:
        target = around["residual"]
        assert ops.fused_linear(*arguments, **around, out=target) is target and torch.equal(target, got)


def test_gradients_flow_in_torch():
    (x, weight, bias), around = problem("gated_residual")
    for tensor in (x, weight, bias, *around.values()):
        tensor.requires_grad_()
    ops.fused_linear(x, weight, bias, **around).square().sum().backward()
    assert all(bool(t.grad.any()) for t in (x, weight, bias, *around.values()))


def test_bad_calls_are_typed_errors():
    (x, weight, bias), around = problem("gated_residual")
    gate, residual = around["gate"], around["residual"]
    for call in (
        lambda: ops.fused_linear(x[0], weight, bias),
        lambda: ops.fused_linear(x, weight.T, bias),
        lambda: ops.fused_linear(x, weight, bias[:-1]),
        lambda: ops.fused_linear(x, weight.double(), bias),
        lambda: ops.fused_linear(x, weight, bias, activation="relu"),
        lambda: ops.fused_linear(x, weight, bias, gate=gate),
        lambda: ops.fused_linear(x, weight, bias, activation="gelu_tanh", gate=gate, residual=residual),
        lambda: ops.fused_linear(x, weight, bias, gate=gate[:, 0], residual=residual),
        lambda: ops.fused_linear(x, weight, bias, gate=gate, residual=residual[:, :-1]),
        lambda: ops.fused_linear(x, weight, bias, out=torch.empty(2, 5, 32)[..., ::2]),
    ):
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.hint


@pytest.mark.parametrize("finish", FINISHES)
def test_the_operator_is_registered(finish):
    (x, weight, bias), around = problem(finish)
    arguments = (x, weight, bias, around.get("activation"), around.get("gate"), around.get("residual"))
    torch.library.opcheck(torch.ops.streamchar.fused_linear.default, arguments)
    assert torch.equal(torch.ops.streamchar.fused_linear(*arguments), ops.fused_linear(x, weight, bias, **around))


def test_it_says_why_it_is_not_native():
    assert "cpu" in ops.fused_linear_serves("cpu")
    if not torch.cuda.is_available():
        assert ops.fused_linear_serves("cuda")
    facts = ops.kernels_in_use()
    assert facts["cutlass"] == (native.cutlass or "none") and (not native.cutlass or facts["cuda_built"])


# ---------------------------------------------------------------- what the native call is given
def memory(address, shape, strides):
    """bfloat16 numbers at an address, in float64."""
    if 0 in shape:
        return torch.zeros(shape, dtype=torch.float64)
    count = 1 + sum((n - 1) * s for n, s in zip(shape, strides))
    raw = torch.frombuffer((ctypes.c_char * (2 * count)).from_address(address), dtype=torch.bfloat16)
    return raw.as_strided(shape, strides)


def emulated(batch, tokens, outputs, inputs, finish, x, weight, bias, gate, residual, y, stream, path):
    """The contract of fused_linear.h, product by product."""
    call = batch, tokens, outputs, inputs, finish, x, weight, bias, gate, residual, y
    why = native.layout.linear_refusal(*call)
    if why is not None:
        raise ValueError(why)
    rows, count = native.layout.linear_products(*call)
    assert rows * count == batch * tokens
    several = count > 1
    matrix = lambda view, width, p: memory(view[0] + 2 * p * several * view[1], (rows, width), (view[2], 1))
    vector = lambda address: memory(address, (outputs,), (1,)).double()
    for p in range(count):
        result = matrix(x, inputs, p).double() @ memory(weight, (outputs, inputs), (inputs, 1)).double().T
        result = result + (vector(bias) if bias else 0)
        if finish == "gelu_tanh":
            result = F.gelu(result, approximate="tanh")
        if finish == "gated_residual":
            result = matrix(residual, outputs, p).double() + vector(gate[0] + 2 * p * gate[1]) * result
        matrix(y, outputs, p).copy_(result)


@pytest.fixture
def on_a_gpu(monkeypatch):
    """The way to the native call, with the emulation at its end; gives the paths taken."""
    monkeypatch.setattr(linear, "native", SimpleNamespace(cuda_fused_linear=emulated))
    monkeypatch.setattr(linear, "_served", lambda *_: True)
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(cuda_stream=0))


@pytest.mark.parametrize("finish", FINISHES)
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("tokens", [0, 1, 5])
@pytest.mark.parametrize("shared,bias", [(True, True), (False, False)])
def test_the_native_call_is_told_where_all_lies(on_a_gpu, finish, batch, tokens, shared, bias):
    arguments, around = problem(finish, batch, tokens, dtype=torch.bfloat16, shared=shared, bias=bias)
    wanted = doubled(arguments, around)
    assert relative_error(ops.fused_linear(*arguments, **around), wanted) < 4e-3
    if "residual" in around:
        target = around["residual"]
        assert ops.fused_linear(*arguments, **around, out=target) is target and relative_error(target, wanted) < 4e-3


@pytest.mark.parametrize("width", [48, 24, 25])   # of the tensor that x is cut from: aligned, with no gap, and not
@pytest.mark.parametrize("shared", [True, False])
def test_inputs_of_any_strides_are_served(on_a_gpu, width, shared):
    (_, weight, bias), around = problem("gated_residual", batch=2, tokens=4, dtype=torch.bfloat16, shared=shared)
    wide = lambda tokens, channels: torch.randn(2, tokens, channels, generator=fresh_generator()).bfloat16()
    x = wide(9, width)[:, 5:, :24]
    around["residual"] = wide(7, 16)[:, 1:5]
    table = torch.randn(2, 1, 6, 16, generator=fresh_generator()).bfloat16()
    around["gate"] = (table[:1] if shared else table).unbind(-2)[3]
    wanted = doubled((x, weight, bias), around)
    assert relative_error(ops.fused_linear(x, weight, bias, **around), wanted) < 4e-3
    around["gate"] = around["gate"].repeat_interleave(2, -1)[..., ::2]
    turned = weight.T.contiguous().T
    assert relative_error(ops.fused_linear(x, turned, bias, **around), wanted) < 4e-3


def test_a_block_goes_that_way(on_a_gpu, monkeypatch):
    from streamchar_rt.denoiser.dit import Block, DiTConfig

    torch.manual_seed(fresh_generator().initial_seed())
    block = Block(DiTConfig(width=32, heads=2, feed_forward=48)).bfloat16()
    tokens = tuple(torch.randn(1, n, 32, dtype=torch.bfloat16) for n in (6, 3))
    modulation = torch.randn(1, 1, 6, 32, dtype=torch.bfloat16)
    attend = lambda layer, block, q, k, v: (q + k + v) / 3
    calls = []
    monkeypatch.setattr(linear, "native", SimpleNamespace(
        cuda_fused_linear=lambda *call: (calls.append(call[4]), emulated(*call))))
    with torch.no_grad():
        got = packed.fused_block(block, 0, tokens, modulation, attend)
        wanted = block.double()(0, tuple(x.double() for x in tokens), modulation.double(), attend)
    assert calls == ["none"] * 2 + ["gated_residual", "gelu_tanh", "gated_residual"] * 2
    for a, b in zip(got, wanted):
        assert relative_error(a, b) < 2e-2


def test_a_profile_counts_its_work_once(on_a_gpu):
    (x, weight, bias), around = problem("gated_residual", 2, 5, 24, 16, torch.bfloat16)
    with Recorder() as recorder:
        ops.fused_linear(x, weight, bias, **around)
    (call,) = [c for c in recorder.calls if c.flops]
    assert call.op == "cuda_fused_linear" and call.flops == 2 * 10 * 24 * 16
    assert call.bytes == 2 * (10 * (24 + 2 * 16) + 24 * 16)


# ---------------------------------------------------------------- host arithmetic
def test_gelu_is_right_in_every_digit():
    for x in [*torch.linspace(-12, 12, 4801).tolist(), 0.0, 1e-30, -1e-30, 3e4, -3e4, math.inf]:
        wanted = float(F.gelu(torch.tensor(x, dtype=torch.float32).double(), approximate="tanh"))
        if -5 < x:      # float64's own 1 + tanh has few digits left below
            assert native.layout.gelu_tanh(x) == pytest.approx(wanted, rel=3e-6, abs=1e-37)
        else:
            assert wanted - 1e-7 < native.layout.gelu_tanh(x) <= 0
    assert math.isnan(native.layout.gelu_tanh(math.nan))


def plan(batch=2, tokens=10, outputs=16, inputs=24, finish="gated_residual", **changes):
    """A sound call, and what is changed of it."""
    call = {"x": (4096, tokens * inputs, inputs), "weight": 8192, "bias": 0, "gate": (0, 0), "residual": (0, 0, 0),
            "y": (16, tokens * outputs, outputs)}
    if finish == "gated_residual":
        call |= {"gate": (64, 96), "residual": (32, tokens * outputs, outputs)}
    return batch, tokens, outputs, inputs, finish, *(call | changes).values()


def test_what_cannot_be_served_is_refused_by_name():
    refusal = native.layout.linear_refusal
    for finish in FINISHES:
        assert refusal(*plan(finish=finish)) is None
    assert refusal(*plan(batch=0)) is None and refusal(*plan(tokens=0, x=(0, 0, 0))) is None
    for changes, word in (
        ({"batch": -1}, "positive"), ({"outputs": 0}, "positive"), ({"inputs": 0}, "positive"),
        ({"batch": 2**16, "tokens": 2**15}, "2^30"), ({"outputs": 20}, "multiples of 8"),
        ({"inputs": 20}, "multiples of 8"), ({"x": (4098, 240, 24)}, "aligned"), ({"x": (4096, 244, 24)}, "aligned"),
        ({"x": (4096, 240, 28)}, "aligned"), ({"x": (0, 240, 24)}, "aligned"), ({"x": (4096, 240, 16)}, "overlap"),
        ({"y": (16, 160, 8)}, "overlap"), ({"y": (24, 160, 16)}, "aligned"), ({"weight": 0}, "weight"),
        ({"weight": 8}, "weight"), ({"bias": 8}, "bias"), ({"gate": (0, 0)}, "gate and residual"),
        ({"residual": (0, 0, 0)}, "gate and residual"), ({"finish": "none", "gate": (64, 0)}, "gate and residual"),
        ({"gate": (72, 96)}, "gate must"), ({"gate": (64, 100)}, "gate must"), ({"gate": (64, -96)}, "gate must"),
        ({"residual": (40, 160, 16)}, "residual must"), ({"residual": (32, 160, 8)}, "residual must"),
        ({"batch": 65536, "tokens": 1}, "65535"),
    ):
        assert word in (refusal(*plan(**changes)) or "served"), changes
    with pytest.raises(ValueError):
        refusal(*plan(finish="relu"))


def test_batches_fold_where_their_rows_follow_and_share_a_gate():
    products = native.layout.linear_products
    assert products(*plan(finish="none")) == products(*plan(gate=(64, 0))) == (20, 1)
    assert products(*plan()) == (10, 2)                                            # a gate each
    assert products(*plan(gate=(64, 0), residual=(32, 320, 16))) == (10, 2)        # a gap in the residual,
    assert products(*plan(finish="none", x=(4096, 480, 24))) == (10, 2)            # the input,
    assert products(*plan(finish="none", y=(16, 320, 16))) == (10, 2)              # the result
    assert products(*plan(finish="none", x=(4096, 480, 48))) == (20, 1)            # rows with gaps still follow
    assert products(*plan(batch=1, x=(4096, 0, 24), y=(16, 8, 16))) == (10, 1)
    assert products(*plan(batch=1, gate=(64, 96))) == (10, 1)


def test_the_tile_is_the_one_that_is_done_first():
    tile = lambda *shape, sm90=True: native.layout.linear_tile(sm90, *shape)[:2]
    assert tile(272, 1, 768, 132) == (64, 64)              # mini: as many thread blocks as there are
    assert tile(256, 1, 256, 132) == (64, 64) and tile(33, 1, 9216, 132) == (64, 64)
    for outputs in (3072, 9216, 14336):                    # full
        assert tile(2304, 1, outputs, 132) == tile(7920, 1, outputs, 132) == (128, 256)
        assert tile(2304, 1, outputs, 108, sm90=False) == (128, 128)
    assert tile(256, 1, 256, 108, sm90=False) == (64, 64)
    assert tile(128, 132, 256, 132) != tile(128, 1, 256, 132)           # several products fill the processors
    generator = fresh_generator()
    for _ in range(300):
        rows, count, columns, processors = (int(torch.randint(1, high, (), generator=generator))
                                            for high in (9000, 5, 2000, 200))
        for sm90 in (False, True):
            down, across, cost = native.layout.linear_tile(sm90, rows, count, 8 * columns, processors)
            parts = math.ceil(rows / down) * math.ceil(8 * columns / across) * count
            assert cost >= math.ceil(parts / processors) * down * across       # never faster than the fastest tile
            assert native.layout.linear_tile(sm90, rows, count, 8 * columns, processors + 50)[2] <= cost
