"""The GPU kernels' own sources, run on the CPU by an emulation of a GPU's threads, instructions and memories.

It shows that their arithmetic, layouts and division of work are right as the PTX ISA has it, in random orders of threads
and blocks; and that every two accesses to shared memory, to results and to the workspace of which one writes are in order
by barriers, whatever the order they happened in (emulation/races.h). It knows nothing of speed, of caches, or of what a
real GPU does beyond the book.
"""
from __future__ import annotations

import ctypes
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch

from streamchar_rt import ops
from streamchar_rt.ops import reference

from . import emulation
from .native_support import native, relative_error

if emulation.compiler() is None:
    pytest.skip("no g++", allow_module_level=True)

from tools.gpu.problems import AttentionProblem  # noqa: E402

STORAGE = {torch.bfloat16: 0, torch.float8_e4m3fn: 1, torch.int8: 2}
LIMIT = {torch.bfloat16: 6e-3, torch.float8_e4m3fn: 4e-3, torch.int8: 4e-3}
COUNTERS = 8192 * 4


@pytest.fixture(scope="module")
def gpu(tmp_path_factory) -> ctypes.CDLL:
    return emulation.build(tmp_path_factory.mktemp("emulation"))


def view(x):
    return [0, 0, 0] if x is None else [x.data_ptr(), x.stride(0), x.stride(1)]


def address(x):
    return 0 if x is None else x.data_ptr()


def norm_numbers(weight, bounds):
    return [address(weight), len(bounds) - 1, *bounds]


def numbers(values):
    return (ctypes.c_int64 * len(values))(*values)


def call_of(problems, processors, extras=None):
    """A call's numbers for interface.cc, its workspace, (out, log-sum-exp) of each, and what must stay alive; `extras`:
    per problem, what is to stand in for its fields."""
    head_dim, kind = problems[0].q.shape[-1], 0
    streams, segments, results, kept = [], [], [], []
    for p, extra in zip(problems, extras or [{}] * len(problems)):
        q, weight = extra.get("q", p.q), None if extra else p.norm.q_weight.float().contiguous()
        out = torch.full(p.q.shape, torch.nan, dtype=torch.bfloat16)
        lse = torch.full(p.q.shape[:2], torch.nan)
        streams += [*p.q.shape[:2], *view(q), *view(extra.get("moved")), *norm_numbers(weight, p.norm.bounds),
                    0 if extra else p.rope.table.data_ptr(), len(segments) // 11, len(p.keys), out.data_ptr(),
                    lse.data_ptr()]
        for i, (k, v, d) in enumerate(zip(p.keys, p.values, p.distances)):
            kind = STORAGE[k.dtype]
            shift = p.rope.shift(d) if d and not extra else None
            ranges = p.ranges[i] if p.ranges else (None, None)
            segments += [*view(k), *view(v), len(k), int(bool(extra) and d > 0), address(shift), *map(address, ranges)]
        kept.append((q, weight))
        results.append((out, lse))
    workspace = torch.zeros(native.layout.partial_bytes(8, head_dim, max(processors, 1)), dtype=torch.uint8)
    call = [head_dim, kind, workspace.data_ptr(), workspace.numel(), len(problems), *streams, len(segments) // 11]
    return numbers(call + segments), workspace, results, kept


def run(gpu, problems, path, processors, seed) -> str:
    """What is wrong with the kernel's run; empty if nothing is."""
    call, *kept = call_of(problems, processors)
    gpu.emulated_attention(call, int(path == "sm90"), processors, seed)
    return gpu.emulated_fault().decode()


def attend(gpu, problems, path, processors, seed, extras=None):
    """(out, log-sum-exp) of each."""
    call, workspace, results, _ = call_of(problems, processors, extras)
    assert gpu.emulated_attention(call, int(path == "sm90"), processors, seed) == 0, gpu.emulated_fault()
    assert gpu.emulated_fault() == b""
    assert not bool(workspace[:COUNTERS].any())       # ready for the next call
    return results


def check(result, problem):
    out, lse = result
    wanted, wanted_lse = problem.truth()
    assert not bool(torch.isnan(out).any() or torch.isnan(lse).any())
    dtype = problem.keys[0].dtype if problem.keys else torch.bfloat16
    assert relative_error(out, wanted) < LIMIT[dtype]
    if sum(map(len, problem.keys)):
        assert float((lse - wanted_lse).abs().max() if lse.numel() else 0.0) < 2e-2
    else:
        assert bool(torch.isneginf(lse).all()) and not bool(out.any())


@pytest.mark.parametrize("path", ["sm80", "sm90"])
@pytest.mark.parametrize(
    "head_dim,dtype", [(64, torch.bfloat16), (128, torch.bfloat16), (128, torch.float8_e4m3fn), (64, torch.int8)],
    ids=["64-bf16", "128-bf16", "128-float8", "64-int8"],
)
def test_streams_that_are_split_in_every_way(gpu, seeded, path, dtype, head_dim):
    """Video and audio, one stream without keys, one without queries; more thread blocks than tiles, and fewer."""
    shapes = [(70, [16, 0, 150]), (3, [129]), (2, []), (0, [50])]
    problems = [AttentionProblem.random(tokens, rows, heads=1 + i % 2, head_dim=head_dim, device="cpu").stored(dtype)
                for i, (tokens, rows) in enumerate(shapes)]
    processors = 2 + seeded % 6
    first = attend(gpu, problems, path, processors, seeded)
    for result, problem in zip(first, problems):
        check(result, problem)
    again = attend(gpu, problems, path, processors, seeded + 1)    # threads and blocks in another order
    assert all(torch.equal(a, b) for old, new in zip(first, again) for a, b in zip(old, new))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8], ids=["bf16", "int8"])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_logits_that_rise_from_key_to_key(gpu, seeded, head_dim, dtype):
    """Past the growth from which sums are rescaled, and short of it."""
    problem = AttentionProblem.random(150, [200, 150, 90], heads=2, head_dim=head_dim, device="cpu")
    problem.keys = [k * torch.linspace(0.1, 3.0, len(k))[:, None, None].bfloat16() for k in problem.keys]
    problem = problem.stored(dtype)
    (result,) = attend(gpu, [problem], "sm90", 1 + seeded % 3, seeded)
    assert relative_error(result[0], problem.truth()[0]) < 1e-2
    assert float((result[1] - problem.truth()[1]).abs().max()) < 5e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8], ids=["bf16", "int8"])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_a_thread_block_goes_from_part_to_part_and_segment_to_segment(gpu, seeded, head_dim, dtype):
    """Whole tiles in rounds and split ones, a segment again at the end of a part, norm weights that change within a
    tile, and more tiles in a row without a key than there are notes of parts."""
    shapes = [(300, [40, 130, 0, 20]), (1300 + seeded % 300, []), (140, [129, 300, 1])]
    problems = [AttentionProblem.random(tokens, rows, heads=1 + i // 2, head_dim=head_dim, groups=3, device="cpu")
                for i, (tokens, rows) in enumerate(shapes)]
    problems = [p.stored(dtype) for p in problems]
    for processors in (1, 2 + seeded % 2):
        for result, problem in zip(attend(gpu, problems, "sm90", processors, seeded), problems):
            check(result, problem)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize("size", [8.0, 400.0])
def test_a_key_that_one_query_alone_meets_beyond_all_bounds(gpu, seeded, size, head_dim):
    """One row's maximum jumps, by less or by more than what float32 has exponents for; its neighbours' do not."""
    problem = AttentionProblem.random(70, [140, 200, 300], heads=3, head_dim=head_dim, device="cpu")
    problem = replace(problem, distances=[0.0] * 3)
    norm = problem.norm
    ready = reference.normalize_rotate(problem.q.double(), norm.q_weight.double(), norm.bounds, problem.rope)
    marks = ((5, 0, 139), (41, 1, 150), (66, 1, 3))
    for row, segment, key in marks:
        problem.keys[segment][key] = (size * ready[row]).bfloat16()
    (result,) = attend(gpu, [problem], "sm90", 1 + seeded % 3, seeded)
    rows = [row for row, _, _ in marks]       # of others, two large keys may be nearly as good as each other
    assert relative_error(result[0][rows], problem.truth()[0][rows]) < 1e-2 and bool(result[0].isfinite().all())
    wanted = problem.truth()[1]
    assert float((result[1] - wanted).abs().max()) < 1e-2 * float(wanted.abs().max())


@contextmanager
def told_less(gpu, ignored=(), own_only=False):
    """The search for races is not told of what these barriers order."""
    gpu.emulated_ignore((ctypes.c_int * len(ignored))(*ignored), len(ignored), int(own_only))
    try:
        yield
    finally:
        gpu.emulated_ignore(None, 0, 0)


# By their number in segment_attention_sm90.cu with a head size of 64, and in `enum Order` of machine.h. Of pairs, stages
# and warps that are alike, one.
ORDERS = {
    "key_full": 0, "key_empty": 1, "value_full": 2, "value_empty": 3, "query_full": 14, "query_empty": 15,
    "visit_full": 16, "visit_empty": 17, "first_made": 24,
}
ORDERS = {name: [5000 + barrier] for name, barrier in ORDERS.items()} | {
    "publish": [4000], "consumers' named barriers": [1, 2, 3, 4], "a maker's warp": [3001], "a consumer's warp": [3004],
}


@pytest.mark.parametrize("what", ORDERS)
def test_races_are_found_where_an_order_is_missing(gpu, seeded, what):
    """The kernel runs as it is; the search is not told of one thing that orders it, and must miss that."""
    problems = [AttentionProblem.random(tokens, rows, heads=1, head_dim=64, device="cpu")
                for tokens, rows in ((800, []), (300, [40, 130, 20]))]
    problems[1].keys[1][9] *= 400.0      # some warps multiply a tile again
    with told_less(gpu, ORDERS[what]):
        assert "races" in run(gpu, problems, "sm90", 1, seeded)
    assert run(gpu, problems, "sm90", 1, seeded) == ""


@pytest.mark.parametrize("path", ["sm80", "sm90"])
@pytest.mark.parametrize("what", [4001, 3004], ids=["counters", "a warp that merges"])
def test_races_are_found_where_parts_meet_out_of_order(gpu, seeded, path, what):
    problem = AttentionProblem.random(70, [700], heads=1, head_dim=64, device="cpu")
    warp = what - 4 if path == "sm80" and what == 3004 else what     # all of its warps attend
    with told_less(gpu, [warp]):
        assert "races" in run(gpu, [problem], path, 3, seeded)
    assert run(gpu, [problem], path, 3, seeded) == ""


def test_races_are_found_where_copies_are_not_waited_for_together(gpu, seeded):
    problem = AttentionProblem.random(70, [140], heads=1, head_dim=64, device="cpu")
    with told_less(gpu, [0]):      # __syncthreads
        assert "races" in run(gpu, [problem], "sm80", 1, seeded)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn], ids=["bf16", "float8"])
@pytest.mark.parametrize("head_dim", [64, 128])
def test_who_writes_or_reads_announces_it(gpu, seeded, head_dim, dtype):
    """No thread's arrival at an mbarrier stands for what other threads did that threads come upon, as far as
    compute-sanitizer's racecheck can see: wgmma's reads it leaves out. Where a tile is multiplied again, which is done
    by mma.sync, one lane stands for its warp."""
    problems = [AttentionProblem.random(67, [5, 0, 130], heads=2, head_dim=head_dim, device="cpu").stored(dtype),
                AttentionProblem.random(200, [257, 3], heads=1, head_dim=head_dim, device="cpu").stored(dtype)]
    for processors in (2, 8):
        with told_less(gpu, own_only=True):
            assert run(gpu, problems, "sm90", processors, seeded) == ""
    again = AttentionProblem.random(67, [130, 140], heads=1, head_dim=head_dim, device="cpu")
    again.keys[1] *= 400.0
    again = again.stored(dtype)
    with told_less(gpu, own_only=True):
        assert "races" in run(gpu, [again], "sm90", 1, seeded)
    assert run(gpu, [again], "sm90", 1, seeded) == ""


@pytest.mark.parametrize("path", ["sm80", "sm90"])
def test_strided_inputs_and_peaked_logits(gpu, seeded, path):
    problem = AttentionProblem.random(20, [40, 20], heads=2, head_dim=64, device="cpu")
    problem.q, problem.keys[1], problem.values[1] = torch.randn(20, 3, 2, 72).bfloat16()[..., :64].unbind(1)
    problem.keys[0] *= 8
    (result,) = attend(gpu, [problem], path, 3, seeded)
    assert relative_error(result[0], problem.truth()[0]) < 2e-2


def append(gpu, seed, k, v, norm, rope, out, *, ranges=(None, None), measure=0, all_heads=0, shift=None, q=None,
           ready=None, moved=None, moved_shift=None):
    weight, q_weight = norm.k_weight.float().contiguous(), norm.q_weight.float().contiguous()
    call = [*k.shape, STORAGE[out[0].dtype], all_heads, *view(k), *view(v), *norm_numbers(weight, norm.bounds),
            rope.table.data_ptr(), address(shift), out[0].data_ptr(), out[1].data_ptr(), *map(address, ranges), measure,
            *view(q), q_weight.data_ptr(), address(ready), address(moved), address(moved_shift)]
    assert gpu.emulated_append(numbers(call), seed) == 0, gpu.emulated_fault()
    assert gpu.emulated_fault() == b""


@pytest.mark.parametrize("all_heads", [0, 1])
@pytest.mark.parametrize("heads,head_dim", [(3, 128), (1, 64), (33, 64)])
def test_append_with_both_queries(gpu, seeded, heads, head_dim, all_heads):
    problem = AttentionProblem.random(5, [5], heads=heads, head_dim=head_dim, device="cpu")
    q, k, v = torch.randn(5, 3, heads, head_dim).bfloat16().unbind(1)
    norm, rope = problem.norm, problem.rope
    if all_heads:
        weights = torch.rand(2, 2, heads * head_dim) + 0.5
        norm = ops.QkNorm(weights[0], weights[1], norm.bounds)
    out = torch.full((4, 5, heads, head_dim), torch.nan, dtype=torch.bfloat16)
    append(gpu, seeded, k, v, norm, rope, out[:2], all_heads=all_heads, shift=rope.shift(7.0), q=q, ready=out[2],
           moved=out[3], moved_shift=rope.shift(5.0))
    normed = reference.all_head_rms_norm if all_heads else reference.group_rms_norm
    for got, x, weight, distance in ((out[0], k, norm.k_weight, 7.0), (out[2], q, norm.q_weight, 7.0),
                                     (out[3], q, norm.q_weight, 12.0)):
        turned = reference.rotate(normed(x.double(), weight.double(), norm.bounds), rope.table.double()[:, None])
        assert relative_error(got, reference.rotate(turned, rope.shift(distance, torch.float64))) < 4e-3
    assert torch.equal(out[1], v)


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.int8], ids=["float8", "int8"])
def test_append_to_narrow_rows(gpu, seeded, dtype):
    problem = AttentionProblem.random(9, [9], heads=3, head_dim=64, device="cpu")
    k, v = torch.randn(9, 2, 3, 64).bfloat16().unbind(1)
    v[:, 0] = 0
    rows, ranges = torch.empty(2, 9, 3, 64, dtype=dtype), torch.full((2, 3), torch.nan)
    same = lambda a, b: torch.equal(a.view(torch.uint8), b.view(torch.uint8))
    append(gpu, seeded, k, v, problem.norm, problem.rope, rows, ranges=ranges, measure=1)
    wanted = reference.normalize_rotate(k.double(), problem.norm.k_weight.double(), problem.norm.bounds, problem.rope)
    assert torch.equal(ranges[1], v.abs().amax((0, 2)).float()) and same(rows[1], reference.to_storage(v, dtype)[0])
    assert torch.allclose(ranges[0].double(), wanted.abs().amax((0, 2)), rtol=1e-5)
    step = (2**-4 if dtype is torch.float8_e4m3fn else 1 / 254) * (1 + 1e-3)
    error = (reference.from_storage(rows[0], ranges[0]) - wanted).abs()
    assert bool((error <= step * ranges[0][:, None].double()).all())
    given = ranges / 4
    append(gpu, seeded, k, v, problem.norm, problem.rope, rows, ranges=given)     # what exceeds them saturates
    assert torch.equal(given, ranges / 4) and same(rows[1], reference.to_storage(v, dtype, given[1])[0])


@pytest.mark.parametrize("path", ["sm80", "sm90"])
def test_ready_queries_and_a_second_one_for_moved_segments(gpu, seeded, path):
    problem = replace(AttentionProblem.random(20, [30, 20], heads=2, head_dim=64, device="cpu"), distances=[16.0, 0.0])
    out = torch.empty(4, *problem.q.shape, dtype=torch.bfloat16)
    append(gpu, seeded, problem.q, problem.q, problem.norm, problem.rope, out[:2], q=problem.q, ready=out[2],
           moved=out[3], moved_shift=problem.rope.shift(16.0))
    (result,) = attend(gpu, [problem], path, 3, seeded, [{"q": out[2], "moved": out[3]}])
    check(result, problem)
