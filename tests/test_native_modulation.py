"""adaln_modulate and gated_residual against float64."""
from __future__ import annotations

import pytest
import torch

from streamchar_rt import ops
from streamchar_rt.errors import ConfigError
from streamchar_rt.ops import reference

from .native_support import fresh_generator, isa, native, relative_error  # noqa: F401

LIMIT = 1e-6
SHAPES = [(1, 1, 1), (1, 272, 256), (2, 5, 64), (3, 7, 37), (2, 4, 129), (1, 3, 3072), (2, 0, 16), (0, 4, 16)]


def problem(generator, batch, tokens, width, shared, strided=False):
    """x (B, T, d) and two partners: rows of one fused tensor where strided, shared among batches and tokens."""
    def draw(b, t):
        wide = torch.randn(b, t, 3, width + 5, generator=generator)
        return wide[:, :, 1, 2: 2 + width] if strided else wide[:, :, 1, :width].contiguous()

    row = (1, 1) if shared == "all" else (batch, 1) if shared == "tokens" else (batch, tokens)
    return draw(batch, tokens) * 3 + 10, draw(*row), draw(*row)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shared", ["all", "tokens", "none"])
@pytest.mark.parametrize("strided", [False, True])
def test_adaln_equals_float64(isa, shape, shared, strided):
    x, shift, scale = problem(fresh_generator(), *shape, shared, strided)
    out = ops.adaln_modulate(x, shift, scale)
    assert out.shape == x.shape and out.is_contiguous()
    wanted = reference.adaln_modulate(x.double(), shift.double(), scale.double())
    assert relative_error(out, wanted) < LIMIT * 3   # the rows' mean is three deviations: digits are lost with it


def test_adaln_definition_is_layer_norm():
    generator = fresh_generator()
    x, shift, scale = (t.double() for t in problem(generator, 2, 3, 20, "tokens"))
    centred = x - x.mean(-1, keepdim=True)
    wanted = centred / (centred.square().mean(-1, keepdim=True) + 1e-3).sqrt() * (1 + scale) + shift
    assert relative_error(reference.adaln_modulate(x, shift, scale, 1e-3), wanted) < 1e-12


def test_adaln_of_a_constant_row_is_the_shift(isa):
    x = torch.full((1, 2, 40), 7.25)
    shift, scale = torch.randn(2, 1, 1, 40, generator=fresh_generator())
    assert torch.equal(ops.adaln_modulate(x, shift, scale), shift.expand(1, 2, 40))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shared", ["all", "tokens", "none"])
@pytest.mark.parametrize("strided", [False, True])
def test_gated_residual_equals_float64(isa, shape, shared, strided):
    generator = fresh_generator()
    x, gate, _ = problem(generator, *shape, shared, strided)
    update = problem(generator, *shape, "none", strided)[1]
    out = ops.gated_residual(x, gate, update)
    wanted = reference.gated_residual(x.double(), gate.double(), update.double())
    assert out.shape == x.shape and relative_error(out, wanted) < LIMIT


def test_results_may_overwrite_their_input(isa):
    generator = fresh_generator()
    x, shift, scale = problem(generator, 2, 9, 70, "tokens")
    wanted = ops.adaln_modulate(x, shift, scale)
    target = x.clone()
    assert ops.adaln_modulate(target, shift, scale, out=target) is target and torch.equal(target, wanted)
    update = torch.randn(2, 9, 70, generator=generator)
    wanted = ops.gated_residual(x, shift, update)
    for target in (x.clone(), update.clone()):
        arguments = (target, shift, update) if target is not update and torch.equal(target, x) else (x, shift, target)
        assert torch.equal(ops.gated_residual(*arguments, out=target), wanted)


def test_rows_do_not_depend_on_their_neighbours_or_threads(isa):
    generator = fresh_generator()
    x, shift, scale = problem(generator, 1, 272, 256, "all")
    before = native.threads()
    try:
        ops.set_num_threads(1)
        whole = ops.adaln_modulate(x, shift, scale)
        ops.set_num_threads(3)
        assert torch.equal(ops.adaln_modulate(x, shift, scale), whole)
        assert torch.equal(ops.adaln_modulate(x[:, 100:103], shift, scale), whole[:, 100:103])
    finally:
        ops.set_num_threads(before)


def test_other_dtypes_and_gradients_run_in_torch():
    x, shift, scale = problem(fresh_generator(), 2, 3, 16, "tokens")
    half = ops.adaln_modulate(x.bfloat16(), shift.bfloat16(), scale.bfloat16())
    assert half.dtype is torch.bfloat16
    x.requires_grad_()
    ops.gated_residual(ops.adaln_modulate(x, shift, scale), shift, x).sum().backward()
    assert bool(torch.isfinite(x.grad).all())


def test_bad_calls_are_typed_errors():
    x, shift, scale = problem(fresh_generator(), 2, 3, 16, "tokens")
    bad_calls = [
        lambda: ops.adaln_modulate(x[0], shift, scale),
        lambda: ops.adaln_modulate(x, shift[:, :, :8], scale),
        lambda: ops.adaln_modulate(x, shift.double(), scale),
        lambda: ops.adaln_modulate(x, shift.expand(2, 2, 16), scale),
        lambda: ops.adaln_modulate(x, shift, scale, out=torch.empty(2, 3, 32)[..., ::2]),
        lambda: ops.gated_residual(x, shift, shift),
        lambda: ops.gated_residual(x, shift, x, out=torch.empty(1)),
    ]
    for call in bad_calls:
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.hint


@pytest.mark.parametrize("name", ["adaln_modulate", "gated_residual"])
@pytest.mark.parametrize("strided", [False, True])
def test_operators_are_registered(name, strided):
    generator = fresh_generator()
    x, shift, scale = problem(generator, 2, 5, 24, "tokens", strided)
    arguments = (x, shift, scale) if name == "adaln_modulate" else (x, shift, x.flip(0))
    operator = getattr(torch.ops.streamchar, name)
    torch.library.opcheck(operator.default, arguments)
    assert torch.equal(operator(*arguments), getattr(ops, name)(*arguments))
