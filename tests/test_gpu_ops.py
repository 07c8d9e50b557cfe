"""Every GPU op against float64. They skip where there is no GPU; ``python -m tools.gpu`` runs them on one."""
from __future__ import annotations

import pytest
import torch

from streamchar_rt import ops
from streamchar_rt.ops import _native, reference

from .native_support import native, relative_error

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)
if not native.cuda_architectures:
    pytest.skip("the native module was built without CUDA", allow_module_level=True)

from tools.gpu.problems import AttentionProblem, attention_paths, spectra  # noqa: E402

BF16_LIMIT = 4e-3


@pytest.fixture(autouse=True)
def fresh_inputs(seeded):
    torch.cuda.manual_seed(seeded)


@pytest.mark.parametrize("path", attention_paths())
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(
    "tokens,rows",
    [(1, [1]), (7, [127]), (63, [128]), (129, [129, 17]), (64, [0, 31]), (200, [16, 0, 257]), (100, [1, 2, 3, 4]),
     (131, [80, 48, 33, 5, 64]), (272, [64, 272, 272, 272]), (880, [880, 880, 2640, 880]), (5, [0, 0]), (3, [])],
)
def test_segment_attention(path, head_dim, tokens, rows):
    problem = AttentionProblem.random(tokens, rows, heads=3, head_dim=head_dim)
    out, lse = problem.attend(path)
    wanted, wanted_lse = problem.truth()
    assert not bool(torch.isnan(out).any())
    assert relative_error(out, wanted) < BF16_LIMIT * 1.5   # queries, weights and result are rounded once each
    if sum(rows):
        assert float((lse - wanted_lse).abs().max()) < 2e-2
    else:
        assert bool(torch.isneginf(lse).all())


@pytest.mark.parametrize("path", attention_paths())
def test_results_repeat_to_the_bit(path):
    problem = AttentionProblem.random(880, [880, 300, 2640, 880], heads=24, head_dim=128)
    first, lse = problem.attend(path)
    for _ in range(5):
        again, lse_again = problem.attend(path)
        assert torch.equal(first, again) and torch.equal(lse, lse_again)


@pytest.mark.parametrize("path", attention_paths())
def test_strided_inputs_and_peaked_logits(path):
    problem = AttentionProblem.random(150, [200, 150], heads=2, head_dim=128)
    wide = torch.randn(150, 3, 2, 136, dtype=torch.bfloat16, device="cuda")[..., :128]
    problem.q, problem.keys[1], problem.values[1] = wide.unbind(1)
    problem.keys[0] *= 8
    out, _ = problem.attend(path)
    assert relative_error(out, problem.truth()[0]) < 2e-2


@pytest.mark.parametrize("path", attention_paths())
def test_attention_in_a_cuda_graph(path):
    problem = AttentionProblem.random(272, [64, 272, 272], heads=4, head_dim=64)
    problem.attend(path)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out, _ = problem.attend(path)
    problem.q.copy_(torch.randn_like(problem.q))
    out.fill_(torch.nan)
    graph.replay()
    assert relative_error(out, problem.truth()[0]) < BF16_LIMIT * 1.5


@pytest.mark.parametrize("head_dim", [64, 128])
def test_kv_append(head_dim):
    problem = AttentionProblem.random(133, [133], heads=3, head_dim=head_dim)
    k, v = torch.randn(133, 2, 3, head_dim, dtype=torch.bfloat16, device="cuda").unbind(1)
    key, value = _native.cuda_kv_append(k, v, problem.norm, problem.rope)
    wanted = reference.normalize_rotate(k.double(), problem.norm.k_weight.double(), problem.norm.bounds, problem.rope)
    assert torch.equal(value, v) and relative_error(key, wanted) < BF16_LIMIT


@pytest.mark.parametrize("dtype,limit", [(torch.float32, 1e-6), (torch.bfloat16, BF16_LIMIT)])
@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 7, 256), (1, 5, 3072), (3, 2, 264), (1, 3, 4096)])
def test_rows(dtype, limit, shape):
    x, update = torch.randn(2, *shape, dtype=dtype, device="cuda")
    shift, scale = torch.randn(2, shape[0], 1, shape[2], dtype=dtype, device="cuda")
    assert _native.cuda_rows_served(dtype)
    for got, wanted in (
        (ops.adaln_modulate(x, shift, scale), reference.adaln_modulate(x.double(), shift.double(), scale.double())),
        (ops.gated_residual(x, shift, update), reference.gated_residual(x.double(), shift.double(), update.double())),
    ):
        assert got.dtype is dtype and relative_error(got, wanted) < limit


@pytest.mark.parametrize("batch,count,size,hop", [(1, 32, 1024, 320), (3, 5, 16, 16), (2, 40, 64, 1), (1, 0, 64, 16)])
def test_istft_overlap_add(batch, count, size, hop):
    frames, window, _, tail, weight = spectra(batch, count, size, hop)
    got = ops.istft_overlap_add(frames, window, hop, tail, weight)
    wanted = reference.istft_overlap_add(
        frames.to(torch.complex128), window.double(), hop, tail.double(), weight.double()
    )
    for a, b in zip(got, wanted, strict=True):
        assert relative_error(a, b) < 1e-6
    half = count // 2
    first = ops.istft_overlap_add(frames[..., :half], window, hop, tail, weight)
    second = ops.istft_overlap_add(frames[..., half:], window, hop, *first[1:])
    assert torch.equal(torch.cat([first[0], second[0]], 1), got[0])


def test_the_context_cache_on_the_gpu():
    problem = AttentionProblem.random(70, [70], heads=2, head_dim=64)
    caches = {
        kind: ops.ContextCache(layers=1, heads=2, head_dim=64, capacity={"sink": 70}, ring=None, dtype=torch.bfloat16,
                               device="cuda", kernels=kind)
        for kind in ("native", "reference")
    }
    q, k, v = torch.randn(3, 70, 2, 64, dtype=torch.bfloat16, device="cuda")
    results = []
    for cache in caches.values():
        ops.append(cache, 0, "sink", k, v, norm=problem.norm, rope=problem.rope)
        cache.commit("sink")
        results.append(ops.attend(cache, 0, q, k, v, norm=problem.norm, rope=problem.rope, distances={"sink": 9.0}))
    assert relative_error(results[0], results[1].double()) < 2e-2
