"""Every GPU op against float64. They skip where there is no GPU; ``python -m tools.gpu`` runs them on one."""
from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from streamchar_rt import ops
from streamchar_rt.ops import _native, reference

from .native_support import native, relative_error

if not torch.cuda.is_available():
    pytest.skip("no CUDA device", allow_module_level=True)
if not native.cuda_architectures:
    pytest.skip("the native module was built without CUDA", allow_module_level=True)

from tools.gpu.problems import AttentionProblem, LinearProblem, attend_together, kernel_paths, spectra  # noqa: E402

BF16_LIMIT = 4e-3


@pytest.fixture(autouse=True)
def fresh_inputs(seeded):
    torch.cuda.manual_seed(seeded)


@pytest.mark.parametrize("path", kernel_paths())
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


@pytest.mark.parametrize("path", kernel_paths())
def test_results_repeat_to_the_bit(path):
    problem = AttentionProblem.random(880, [880, 300, 2640, 880], heads=24, head_dim=128)
    first, lse = problem.attend(path)
    for _ in range(5):
        again, lse_again = problem.attend(path)
        assert torch.equal(first, again) and torch.equal(lse, lse_again)


@pytest.mark.parametrize("path", kernel_paths())
@pytest.mark.parametrize("head_dim", [64, 128])
def test_more_tiles_than_thread_blocks(path, head_dim):
    """Rounds of whole tiles, then split ones; norm weights change within a tile."""
    problem = AttentionProblem.random(2432, [300, 129, 900], heads=24, head_dim=head_dim, groups=3)
    out, lse = problem.attend(path)
    wanted, wanted_lse = problem.truth()
    assert relative_error(out, wanted) < BF16_LIMIT * 1.5 and float((lse - wanted_lse).abs().max()) < 2e-2


@pytest.mark.parametrize("path", kernel_paths())
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("size", [8.0, 400.0])
def test_a_key_that_one_query_alone_meets_beyond_all_bounds(path, head_dim, size):
    """One row's maximum jumps, by less or by more than what float32 has exponents for; its neighbours' do not."""
    problem = AttentionProblem.random(200, [140, 500, 300], heads=3, head_dim=head_dim)
    problem.distances = [0.0] * 3
    norm = problem.norm
    ready = reference.normalize_rotate(problem.q.double(), norm.q_weight.double(), norm.bounds, problem.rope)
    rows = [5, 41, 166]
    for row, segment, key in zip(rows, (0, 1, 1), (139, 150, 490)):
        problem.keys[segment][key] = (size * ready[row]).bfloat16()
    out, lse = problem.attend(path)
    wanted, wanted_lse = problem.truth()
    assert relative_error(out[rows], wanted[rows]) < 1e-2 and bool(out.isfinite().all())
    assert float((lse - wanted_lse).abs().max()) < 1e-2 * float(wanted_lse.abs().max())


@pytest.mark.parametrize("path", kernel_paths())
def test_strided_inputs_and_peaked_logits(path):
    problem = AttentionProblem.random(150, [200, 150], heads=2, head_dim=128)
    wide = torch.randn(150, 3, 2, 136, dtype=torch.bfloat16, device="cuda")[..., :128]
    problem.q, problem.keys[1], problem.values[1] = wide.unbind(1)
    problem.keys[0] *= 8
    out, _ = problem.attend(path)
    assert relative_error(out, problem.truth()[0]) < 2e-2


@pytest.mark.parametrize("path", kernel_paths())
@pytest.mark.parametrize("head_dim", [64, 128])
def test_with_no_more_to_do_than_plain_attention(path, head_dim):
    problem = AttentionProblem.random(272, [64, 272, 272], heads=4, head_dim=head_dim)
    ((out, lse),) = _native.cuda_attention_streams([problem.plain_stream()], path)
    wanted, wanted_lse = problem.truth()
    assert relative_error(out, wanted) < 2 * BF16_LIMIT     # keys are rounded once more than where they lie in segments
    assert float((lse - wanted_lse).abs().max()) < 3e-2


@pytest.mark.parametrize("path", kernel_paths())
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


NARROW = [torch.float8_e4m3fn, torch.int8]


@pytest.mark.parametrize("path", kernel_paths())
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("dtype", NARROW)
@pytest.mark.parametrize(
    "tokens,rows", [(1, [1]), (63, [128, 5]), (200, [16, 0, 257]), (131, [80, 48, 33, 5, 64]), (3, [])]
)
def test_narrow_keys_and_values_lose_nothing_but_their_rounding(path, head_dim, dtype, tokens, rows):
    problem = AttentionProblem.random(tokens, rows, heads=3, head_dim=head_dim)
    for i, (k, v) in enumerate(zip(problem.keys, problem.values)):
        k *= 0.1 + i        # ranges differ from segment to segment
        v *= 10.0 ** (1 - i)
    problem = problem.stored(dtype)
    out, lse = problem.attend(path)
    wanted, wanted_lse = problem.truth()
    assert not bool(torch.isnan(out).any())
    assert relative_error(out, wanted) < BF16_LIMIT      # queries and weights are float16: the result's own rounding
    if rows:
        assert float((lse - wanted_lse).abs().max()) < 1e-2


@pytest.mark.parametrize("path", kernel_paths())
@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("dtype", [torch.bfloat16, *NARROW])
def test_streams_of_one_launch_are_what_they_are_alone(path, head_dim, dtype):
    """Video and audio of sessions, one without keys, one without queries; merged in other places, so not to the bit."""
    shapes = [(880, [880, 300]), (34, [34, 0, 170]), (3, []), (0, [50]), (272, [64, 272, 272, 272]), (1, [5])]
    problems = [AttentionProblem.random(tokens, rows, heads=2 + i % 2, head_dim=head_dim).stored(dtype)
                for i, (tokens, rows) in enumerate(shapes)]
    for (out, lse), problem in zip(attend_together(problems, path), problems):
        wanted, wanted_lse = problem.truth()
        assert out.shape == problem.q.shape and relative_error(out, wanted) < BF16_LIMIT * 1.5
        if problem.keys and len(problem.q):
            assert float((lse - wanted_lse).abs().max()) < 2e-2


@pytest.mark.parametrize("path", kernel_paths())
@pytest.mark.parametrize("grid", [1, 2, 7, 50])
def test_any_workspace_gives_the_same_result_and_comes_back_zeroed(path, grid):
    """Grids that split every tile, several times; the counters are ready for the next call."""
    problem = AttentionProblem.random(272, [64, 272, 130, 272], heads=4, head_dim=64)
    size = native.layout.partial_bytes(8, 64, grid)
    workspace = torch.zeros(size, dtype=torch.uint8, device="cuda")
    (first, _), (again, _) = (_native.cuda_attention_streams([problem.stream()], path, workspace)[0] for _ in range(2))
    assert relative_error(first, problem.truth()[0]) < BF16_LIMIT * 1.5 and torch.equal(first, again)
    counters = size - 2 * grid * 16 * 8 * (64 + 8) * 4
    assert not bool(workspace[:counters].any())


def test_a_workspace_too_small_is_refused():
    problem = AttentionProblem.random(5, [5], heads=1, head_dim=64)
    with pytest.raises(RuntimeError):
        _native.cuda_attention_streams([problem.stream()], "sm80", torch.zeros(64, dtype=torch.uint8, device="cuda"))


def test_a_layer_neither_allocates_nor_waits_for_the_device():
    """Append, attend and what surrounds them, with buffers given."""
    problem = AttentionProblem.random(272, [64, 272, 272], heads=4, head_dim=64)
    stream = problem.stream()
    out, lse = problem.attend()
    workspace = _native.cuda_attention_workspace(64)
    stream = replace(stream, out=out, lse=lse)
    key, value, ready, moved = torch.empty(4, *problem.q.shape, dtype=torch.bfloat16, device="cuda")
    queries = _native.AppendQueries(problem.q, ready, moved, 16.0)

    def layer():
        _native.cuda_kv_append(problem.q, problem.q, problem.norm, problem.rope, out=(key, value), queries=queries)
        _native.cuda_attention_streams([stream], workspace=workspace)

    layer()                               # tables of rotations are made once
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        layer()
    problem.q.copy_(torch.randn_like(problem.q))
    for x in (out, key, ready):
        x.fill_(torch.nan)
    graph.replay()
    assert relative_error(out, problem.truth()[0]) < BF16_LIMIT * 1.5
    assert not bool(torch.isnan(key).any()) and not bool(torch.isnan(ready).any())


@pytest.mark.parametrize("path", kernel_paths())
@pytest.mark.parametrize("head_dim", [64, 128])
def test_ready_queries_and_a_second_one_for_moved_segments(path, head_dim):
    """kv_append's queries through attention that adds nothing to them."""
    problem = AttentionProblem.random(150, [200, 150], heads=3, head_dim=head_dim)
    problem.distances = [16.0, 0.0]
    ready, moved = torch.empty(2, *problem.q.shape, dtype=torch.bfloat16, device="cuda")
    queries = _native.AppendQueries(problem.q, ready, moved, 16.0)
    _native.cuda_kv_append(problem.q, problem.q, problem.norm, problem.rope, queries=queries)
    stream = problem.stream()
    first = replace(stream.segments[0], moved=True)
    stream = replace(stream, q=ready, weight=None, moved=moved, segments=[first, stream.segments[1]])
    out, _ = _native.cuda_attention_streams([stream], path)[0]
    assert relative_error(out, problem.truth()[0]) < BF16_LIMIT * 1.5


def appended(problem, k, v, all_heads=False, distance=0.0):
    """The ready keys in float64, and the norm that makes them."""
    norm = problem.norm
    if all_heads:
        width = k.shape[1] * k.shape[2]
        weights = torch.rand(2, len(norm.bounds) - 1, width, device="cuda") + 0.5
        norm = ops.QkNorm(weights[0], weights[1], norm.bounds)
    normed = reference.all_head_rms_norm if all_heads else reference.group_rms_norm
    table = problem.rope.table_as(torch.float64)[:, None]
    ready = lambda x, weight: reference.rotate(
        reference.rotate(normed(x.double(), weight.double(), norm.bounds), table),
        problem.rope.shift(distance, torch.float64, k.device),
    )
    return norm, ready


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("heads,all_heads", [(1, False), (3, True), (24, False), (24, True), (33, True), (64, False)])
def test_kv_append(head_dim, heads, all_heads):
    problem = AttentionProblem.random(133, [133], heads=heads, head_dim=head_dim)
    q, k, v = torch.randn(133, 3, heads, head_dim, dtype=torch.bfloat16, device="cuda").unbind(1)
    norm, ready = appended(problem, k, v, all_heads, distance=7.0)
    out = torch.full((2, 133, heads, head_dim), torch.nan, dtype=torch.bfloat16, device="cuda")
    queries = torch.full_like(out, torch.nan)
    key, value = _native.cuda_kv_append(
        k, v, norm, problem.rope, out=tuple(out), distance=7.0, all_heads=all_heads,
        queries=_native.AppendQueries(q, queries[0], queries[1], 5.0),
    )
    assert torch.equal(value, v) and relative_error(key, ready(k, norm.k_weight)) < BF16_LIMIT
    wanted = ready(q, norm.q_weight)
    assert relative_error(queries[0], wanted) < BF16_LIMIT
    moved = reference.rotate(wanted, problem.rope.shift(5.0, torch.float64, q.device))
    assert relative_error(queries[1], moved) < BF16_LIMIT


@pytest.mark.parametrize("dtype,step", [(torch.float8_e4m3fn, 2**-4), (torch.int8, 1 / 254)])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_kv_append_to_narrow_rows(dtype, step, head_dim):
    problem = AttentionProblem.random(133, [133], heads=3, head_dim=head_dim)
    k, v = torch.randn(133, 2, 3, head_dim, dtype=torch.bfloat16, device="cuda").unbind(1)
    v *= torch.tensor([0.0, 1e-3, 50.0], dtype=torch.bfloat16, device="cuda")[:, None]
    rows = torch.empty(2, 133, 3, head_dim, dtype=dtype, device="cuda")
    ranges = torch.full((2, 3), torch.nan, device="cuda")
    append = lambda **how: _native.cuda_kv_append(k, v, problem.norm, problem.rope, out=tuple(rows), **how)
    append(ranges=tuple(ranges))
    _, ready = appended(problem, k, v)
    for stored, measured, wanted in zip(rows, ranges, (ready(k, problem.norm.k_weight), v.double())):
        assert torch.allclose(measured.double(), wanted.abs().amax((0, 2)), rtol=1e-5)
        error = (reference.from_storage(stored, measured) - wanted).abs()
        magnitude = measured[:, None].double()
        allowed = (magnitude if dtype is torch.int8 else torch.maximum(wanted.abs(), magnitude * 2**-6 / 448)) * step
        assert bool((error <= allowed * (1 + 1e-3) + 1e-12).all())
    same = lambda a, b: torch.equal(a.view(torch.uint8), b.view(torch.uint8))
    assert same(rows[1], reference.to_storage(v, dtype, ranges[1])[0])
    given = ranges / 4
    append(ranges=tuple(given), measure=False)      # what exceeds them saturates
    assert torch.equal(given, ranges / 4)
    assert same(rows[1], reference.to_storage(v, dtype, given[1])[0])


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


fused = pytest.mark.skipif(not native.cutlass, reason="the native module was built without CUTLASS")
FINISHES = ["none", "gelu_tanh", "gated_residual"]


@fused
@pytest.mark.parametrize("path", kernel_paths())
@pytest.mark.parametrize("finish", FINISHES)
@pytest.mark.parametrize(
    "batch,tokens,inputs,outputs",
    [(1, 1, 8, 8), (1, 16, 256, 768), (2, 67, 40, 72), (1, 256, 384, 256), (3, 130, 264, 136), (1, 257, 3072, 9224),
     (1, 2304, 3072, 3072), (2, 1153, 520, 9216)],
)
def test_fused_linear(path, finish, batch, tokens, inputs, outputs):
    """Among them shapes for every tile, with a last tile that is not full and, gated, several batches."""
    problem = LinearProblem.random(batch, tokens, inputs, outputs, finish)
    wanted, got = problem.truth(), problem.fused(path)
    assert got.dtype is torch.bfloat16 and relative_error(got, wanted) < BF16_LIMIT
    assert float((got.double() - wanted).abs().max()) < 2**-8 * float(wanted.abs().max())
    assert torch.equal(problem.fused(path), got)
    if problem.residual is not None:
        assert problem.fused(path, out=problem.residual) is problem.residual and torch.equal(problem.residual, got)


@fused
@pytest.mark.parametrize("path", kernel_paths())
def test_fused_linear_of_strided_rows(path):
    problem = LinearProblem.random(2, 70, 64, 128, "gated_residual")
    problem.x = torch.randn(2, 90, 3, 64, dtype=torch.bfloat16, device="cuda")[:, 7:77, 1]
    problem.residual = torch.randn(2, 80, 136, dtype=torch.bfloat16, device="cuda")[:, :70, :128]
    assert relative_error(problem.fused(path), problem.truth()) < BF16_LIMIT
    problem.gate, problem.bias = problem.gate[:1], None
    truth = reference.fused_linear(problem.x.double(), problem.weight.double(), None, None, problem.gate.double(),
                                   problem.residual.double())
    assert relative_error(problem.fused(path), truth) < BF16_LIMIT


@fused
@pytest.mark.parametrize("finish", FINISHES)
def test_fused_linear_in_a_cuda_graph(finish):
    problem = LinearProblem.random(1, 272, 256, 768, finish)
    out = torch.empty_like(problem.fused())
    torch.cuda.synchronize()
    before = torch.cuda.memory_stats()["allocation.all.allocated"]
    torch.cuda.set_sync_debug_mode("error")
    try:
        problem.fused(out=out)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_stats()["allocation.all.allocated"] == before
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        problem.fused(out=out)
    problem.x.copy_(torch.randn_like(problem.x))
    out.fill_(torch.nan)
    graph.replay()
    assert relative_error(out, problem.truth()) < BF16_LIMIT


@fused
def test_fused_linear_serves_what_it_says_and_leaves_the_rest_to_torch():
    assert ops.fused_linear_serves("cuda") is None
    for dtype, outputs in ((torch.float32, 64), (torch.bfloat16, 20)):
        problem = LinearProblem.random(1, 9, 40, outputs, "gelu_tanh")
        x, weight, bias = (t.to(dtype) for t in (problem.x, problem.weight, problem.bias))
        got = ops.fused_linear(x, weight, bias, activation="gelu_tanh")
        assert got.dtype is dtype and relative_error(got, problem.truth()) < 2e-2


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
