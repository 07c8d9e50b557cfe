"""Shared by the tests of the native core: fresh seeds, random problems, float64 truth."""
from __future__ import annotations

import random
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from streamchar_rt import ops
from streamchar_rt.ops import reference

native = pytest.importorskip("streamchar_rt._native", reason="the native module is not built")


def fresh_generator() -> torch.Generator:
    """A generator with a new seed, printed so that a failure can be repeated."""
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    return torch.Generator().manual_seed(seed)


def rope_for(tokens: int, head_dim: int, generator: torch.Generator) -> ops.Rope:
    half = head_dim // 2
    pairs = (half - 2 * (half // 3), half // 3, half // 3)
    freqs, axes = ops.rope_frequencies(pairs)
    return ops.Rope(torch.rand(tokens, 3, generator=generator) * 16, freqs, axes)


def norm_for(tokens: int, head_dim: int, generator: torch.Generator, groups: int = 2) -> ops.QkNorm:
    cuts = torch.randint(0, tokens + 1, (groups - 1,), generator=generator).sort().values.tolist()
    weights = 0.5 + torch.rand(2, groups, head_dim, generator=generator)
    return ops.QkNorm(weights[0], weights[1], (0, *cuts, tokens))


def tokens_for(tokens: int, heads: int, head_dim: int, generator: torch.Generator, strided: bool) -> tuple[Tensor, ...]:
    """q, k, v (T, H, D); strided ones are slices of one fused projection (T, 3, H, D + 8)."""
    if strided:
        fused = torch.randn(tokens, 3, heads, head_dim + 8, generator=generator)[..., :head_dim]
        return tuple(fused.unbind(1))
    return tuple(torch.randn(3, tokens, heads, head_dim, generator=generator).unbind(0))


def truth(q: Tensor, keys: list[Tensor], values: list[Tensor], norm: ops.QkNorm, rope: ops.Rope,
          distances: list[float]) -> tuple[Tensor, Tensor]:
    """segment_attention in float64; keys are ready."""
    return reference.segment_attention(
        q.double(), [k.double() for k in keys], [v.double() for v in values], weight=norm.q_weight.double(),
        bounds=norm.bounds, rope=rope, distances=distances, eps=norm.eps, return_lse=True,
    )


def relative_error(got: Tensor, wanted: Tensor) -> float:
    return float(((got.double() - wanted).norm() / wanted.norm().clamp_min(1e-30)).detach())


def _in_use(name: str) -> Iterator[str]:
    before = native.isa()
    native.set_isa(name)
    yield name
    native.set_isa(before)


# These levels differ from the one before in their products of narrow numbers alone.
_DOT_LEVELS = {"avx_vnni", "avx512_vnni", "avx512_bf16"}


@pytest.fixture(params=[name for name in native.available_isas() if name not in _DOT_LEVELS])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs the test once per instruction set that this machine has."""
    yield from _in_use(request.param)


@pytest.fixture(params=native.available_isas())
def linear_isa(request: pytest.FixtureRequest) -> Iterator[str]:
    """The same for kernels with products of narrow numbers."""
    yield from _in_use(request.param)
