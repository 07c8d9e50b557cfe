"""segment_attention and kv_append against float64."""
from __future__ import annotations

import contextlib
import itertools
import os
import subprocess
import sys
import threading

import pytest
import torch

from streamchar_rt import ops
from streamchar_rt.errors import ConfigError, UnsupportedError
from streamchar_rt.ops import reference

from .native_support import (
    fresh_generator, isa, linear_isa, native, norm_for, relative_error, rope_for, tokens_for, truth,  # noqa: F401
)

LIMIT = 1e-6
INT8_LIMIT = 1.8e-2   # for normally distributed queries, keys and values
DISTANCES = [48.0, 32.0, 16.0, 0.0, -3.5]


def random_problem(generator, tokens, heads, head_dim, rows, strided=False):
    q, _, _ = tokens_for(tokens, heads, head_dim, generator, strided)
    keys, values = [], []
    for count in rows:
        _, k, v = tokens_for(count, heads, head_dim, generator, strided)
        if count:
            norm = norm_for(count, head_dim, generator)
            k = reference.normalize_rotate(k, norm.k_weight, norm.bounds, rope_for(count, head_dim, generator))
        keys.append(k)
        values.append(v)
    return q, keys, values, norm_for(tokens, head_dim, generator), rope_for(tokens, head_dim, generator)


@pytest.mark.parametrize("head_dim", [64, 128])
@pytest.mark.parametrize(
    "tokens,rows",
    [
        (1, [1]), (7, [63]), (48, [64]), (49, [65, 17]), (53, [0, 31]), (96, [16, 0, 129]),
        (100, [1, 2, 3, 4]), (131, [80, 48, 33, 5, 64]), (272, [64, 272, 272, 272]), (5, [0, 0]), (3, []),
    ],
)
@pytest.mark.parametrize("strided", [False, True])
def test_functional_equals_float64(isa, head_dim, tokens, rows, strided):
    generator = fresh_generator()
    q, keys, values, norm, rope = random_problem(generator, tokens, 3, head_dim, rows, strided)
    distances = DISTANCES[: len(rows)]
    with torch.inference_mode():
        out, lse = ops.segment_attention(
            q, keys, values, weight=norm.q_weight, bounds=norm.bounds, rope=rope, distances=distances, return_lse=True
        )
    wanted, wanted_lse = truth(q, keys, values, norm, rope, distances)
    assert relative_error(out, wanted) < LIMIT
    if sum(rows):
        assert relative_error(lse, wanted_lse) < LIMIT
    else:
        assert bool(torch.isneginf(lse).all())


@pytest.mark.parametrize("scale", [1e-3, 30.0])
def test_softmax_is_safe_for_flat_and_peaked_logits(isa, scale):
    generator = fresh_generator()
    q, keys, values, norm, rope = random_problem(generator, 37, 2, 64, [70, 200])
    keys = [k * scale for k in keys]
    out = ops.segment_attention(
        q, keys, values, weight=norm.q_weight, bounds=norm.bounds, rope=rope, distances=[5.0, 0.0]
    )
    wanted, _ = truth(q, keys, values, norm, rope, [5.0, 0.0])
    # A peaked softmax amplifies the logits' rounding by their size.
    assert relative_error(out, wanted) < LIMIT * max(1.0, scale)


def make_cache(kernels, generator, heads=4, head_dim=64, rows=(64, 100, 272), layers=2, dtype=torch.float32, **options):
    """A cache with every segment filled, and per segment its ready keys and values of each layer in float64."""
    names = ("reference", "sink", "motion")[: len(rows)]
    cache = ops.ContextCache(
        layers=layers, heads=heads, head_dim=head_dim, capacity=dict(zip(names, rows)), dtype=dtype, kernels=kernels,
        ring="motion" if "motion" in names else None, **options,
    )
    content = {}
    for name, count in zip(names, rows):
        norm, rope = norm_for(count, head_dim, generator), rope_for(count, head_dim, generator)
        content[name] = []
        for layer in range(layers):
            _, k, v = tokens_for(count, heads, head_dim, generator, strided=layer % 2 == 1)
            ops.append(cache, layer, name, k, v, norm=norm, rope=rope)
            ready = reference.normalize_rotate(k.double(), norm.k_weight.double(), norm.bounds, rope)
            content[name].append((ready, v.double()))
        cache.commit(name)
    return cache, content


def assert_near_float64(cache, content, tokens, generator, limit):
    """Attention over all segments, one and none, in both layers, against uncached float64."""
    heads, head_dim = cache.spec.heads, cache.spec.head_dim
    norm, rope = norm_for(tokens, head_dim, generator), rope_for(tokens, head_dim, generator)
    distances = {"reference": 48.0, "sink": 32.0, "motion": 16.0}
    for layer, segments in itertools.product((0, 1), (None, ("sink",), ())):
        q, k, v = tokens_for(tokens, heads, head_dim, generator, strided=layer == 1)
        out = ops.attend(cache, layer, q, k, v, norm=norm, rope=rope, distances=distances, segments=segments)
        own = reference.normalize_rotate(k.double(), norm.k_weight.double(), norm.bounds, rope)
        names = list(content) if segments is None else list(segments)
        wanted, _ = truth(
            q, [content[n][layer][0] for n in names] + [own], [content[n][layer][1] for n in names] + [v],
            norm, rope, [distances[n] for n in names] + [0.0],
        )
        assert relative_error(out, wanted) < limit


@pytest.mark.parametrize("head_dim,heads,tokens", [(64, 4, 272), (64, 1, 5), (128, 2, 67)])
@pytest.mark.parametrize("dtype,limit", [(torch.float32, LIMIT), (torch.bfloat16, 8e-3)])
def test_cached_attention_equals_uncached_float64(isa, head_dim, heads, tokens, dtype, limit):
    generator = fresh_generator()
    cache, content = make_cache("native", generator, heads=heads, head_dim=head_dim, dtype=dtype)
    # Of a few rows, one with a large logit may decide, whose 64 sums in float32 are a few 1e-6 off now and then.
    few = tokens * heads < 10
    assert_near_float64(cache, content, tokens, generator, 2 * limit if few and dtype is torch.float32 else limit)


@pytest.mark.parametrize("head_dim,heads,tokens,rows", [
    (64, 4, 272, (64, 272, 272)), (64, 1, 1, (1, 2, 3)), (64, 2, 5, (64, 100, 272)), (128, 2, 67, (64, 100, 65)),
    (64, 1, 49, (17, 63, 129)), (128, 1, 3, (5, 1, 70)),
])
def test_int8_attention_is_near_float64(linear_isa, head_dim, heads, tokens, rows):
    generator = fresh_generator()
    cache, content = make_cache("native", generator, heads=heads, head_dim=head_dim, rows=rows, dtype=torch.int8)
    few = tokens < 8                     # whose errors hardly average
    assert_near_float64(cache, content, tokens, generator, 3 * INT8_LIMIT if few else INT8_LIMIT)


@pytest.mark.parametrize("head_dim", [64, 128])
def test_int8_storage_rounds_as_the_reference_and_only_once(linear_isa, head_dim):
    generator = fresh_generator()
    cache, content = make_cache("native", generator, heads=2, head_dim=head_dim, dtype=torch.int8)
    state = cache.state_dict()
    for name, layers in content.items():
        for layer, (k, v) in enumerate(layers):
            key, value = state[name][0]["key"][layer], state[name][0]["value"][layer]
            assert key.dtype is value.dtype is torch.float32
            for got, whole, kept in ((key, k, reference.int8_keys(k)), (value, v, reference.int8_values(v))):
                step = kept.abs().amax(-1, keepdim=True).clamp(min=1e-9) / 127 if got is key else None
                # Numbers half way between two steps may go either way.
                assert float((got - kept).norm() / kept.norm()) < 5e-4
                if step is not None:
                    assert bool(((got - whole).abs() <= 0.502 * step + 1e-6).all())
    again = ops.ContextCache(
        layers=2, heads=2, head_dim=head_dim, capacity=dict(cache.spec.capacity), dtype=torch.int8, kernels="native")
    again.load_state_dict(state)
    for name, (chunk,) in again.state_dict().items():
        assert torch.equal(chunk["key"], state[name][0]["key"]) and torch.equal(chunk["value"], state[name][0]["value"])
    norm, rope = norm_for(31, head_dim, generator), rope_for(31, head_dim, generator)
    q, k, v = tokens_for(31, 2, head_dim, generator, strided=False)
    call = dict(norm=norm, rope=rope, distances={"reference": 48.0, "sink": 32.0, "motion": 16.0})
    assert torch.equal(ops.attend(cache, 1, q, k, v, **call), ops.attend(again, 1, q, k, v, **call))


def test_int8_attention_keeps_its_bound_for_any_numbers(linear_isa):
    """Logits are off by at most half a step of the key times the query's sum of magnitudes, and the other way round;
    weights by half of 1/255 of their panel's largest; values by half a step."""
    generator = fresh_generator()
    tokens, heads, head_dim = 40, 2, 64
    cache, content = make_cache("native", generator, heads=heads, rows=(64, 100, 130), layers=1, dtype=torch.int8)
    norm, rope = norm_for(tokens, head_dim, generator), rope_for(tokens, head_dim, generator)
    q, k, v = tokens_for(tokens, heads, head_dim, generator, strided=False)
    k[3] *= 1e4                 # norms take the size of keys away, but not their outliers
    k[5, :, 7] = 300.0
    v[9, 1, 3] = 500.0          # takes its channel's resolution
    v[11] = 0.0
    out = ops.attend(cache, 0, q, k, v, norm=norm, rope=rope, distances={"reference": 3.0, "sink": 2.0, "motion": 1.0})
    own = reference.normalize_rotate(k.double(), norm.k_weight.double(), norm.bounds, rope)
    names = ("reference", "sink", "motion")
    keys = [content[n][0][0] for n in names] + [own]
    values = [content[n][0][1] for n in names] + [v.double()]
    wanted, _ = truth(q, keys, values, norm, rope, [3.0, 2.0, 1.0, 0.0])
    base = reference.normalize_rotate(q.double(), norm.q_weight.double(), norm.bounds, rope)
    logit_error, spread, value_step = [], [], []
    for key, value in zip(keys, values):
        magnitude = base.unflatten(-1, (-1, 2)).norm(dim=-1).repeat_interleave(2, -1)    # whatever the turn
        step_q, step_k = magnitude.amax(-1) / 127, key.abs().amax(-1) / 127
        error = step_k.T[:, None] / 2 * magnitude.sum(-1).T[..., None] + step_q.T[..., None] / 2 * key.abs().sum(-1).T[:, None]
        error = error + head_dim / 4 * step_q.T[..., None] * step_k.T[:, None]
        logit_error.append(error.amax(-1) / head_dim ** 0.5)                             # (H, T)
        value_step.append(value.abs().amax(0) / 127)
        spread.append(value.abs().amax(0))
    size = torch.stack(spread).amax(0)                                                   # (H, D)
    worst = torch.stack(logit_error).amax(0)
    # Weights change by a factor within exp(+-worst) of each other; rounding adds 64 halves of 1/255 a panel at most.
    bound = (2 * worst).expm1().T[..., None] * size + torch.stack(value_step).amax(0) / 2 + 64 / 255 * size
    assert bool(((out - wanted).abs() <= bound).all())


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_what_is_not_finite_shows(linear_isa, dtype, bad):
    generator = fresh_generator()
    tokens = 70
    norm, rope = norm_for(tokens, 64, generator), rope_for(tokens, 64, generator)
    cache = ops.ContextCache(layers=1, heads=2, head_dim=64, capacity={"motion": 80}, dtype=dtype, kernels="native")
    q, k, v = tokens_for(tokens, 2, 64, generator, strided=False)
    call = dict(norm=norm, rope=rope, distances={})
    clean = ops.attend(cache, 0, q, k, v, **call)
    assert bool(torch.isfinite(clean).all())
    for place in (q, k, v):
        broken = [x.clone() for x in (q, k, v)]
        broken[[q is place, k is place, v is place].index(True)][13, 1, 5] = bad
        out = ops.attend(cache, 0, *broken, **call)
        assert torch.equal(out[:, 0], clean[:, 0])                  # the other head
        if place is q:
            assert not bool(torch.isfinite(out[13, 1]).any())
            out[13, 1] = clean[13, 1]
            assert torch.equal(out, clean)
        elif place is k:
            assert not bool(torch.isfinite(out[:, 1]).any())
        else:
            assert not bool(torch.isfinite(out[:, 1, 5]).any())


@pytest.mark.parametrize("dtype", [torch.float32, torch.int8])
def test_a_row_of_attention_depends_on_itself_alone(linear_isa, dtype):
    """Also where its logits grow from panel to panel, so that sums are rescaled."""
    generator = fresh_generator()
    cache = ops.ContextCache(layers=1, heads=2, head_dim=64, capacity={"motion": 300}, dtype=dtype, kernels="native")
    norm, rope = norm_for(300, 64, generator), rope_for(300, 64, generator)
    _, k, v = tokens_for(300, 2, 64, generator, strided=False)
    ops.append(cache, 0, "motion", k, v, norm=norm, rope=rope)
    cache.commit("motion")
    q = torch.randn(100, 2, 64, generator=generator)
    context = cache._store._context
    keys = cache.state_dict()["motion"][0]["key"][0]
    q[17] = keys[290] * 40                                          # finds its key late

    def attend(queries):
        out = torch.full(queries.shape, torch.nan)
        none = (0, 0, 0)
        context.attend(0, len(queries), (queries.data_ptr(), 128, 64), none, none, 0, 0, [0], 1e-6, 0, [(0, 0, 0)],
                       None, out.data_ptr())
        return out

    whole = attend(q)
    assert bool(torch.isfinite(whole).all())
    for first, count in ((0, 1), (17, 1), (99, 1), (10, 30), (47, 50)):
        assert torch.equal(attend(q[first: first + count].contiguous()), whole[first: first + count])
    order = torch.randperm(100, generator=generator)
    assert torch.equal(attend(q[order].contiguous()), whole[order])


def test_turning_the_query_equals_turning_the_keys():
    generator = fresh_generator()
    q, keys, values, norm, rope = random_problem(generator, 40, 2, 64, [50, 60])
    distances = [23.0, 7.5]
    out = ops.segment_attention(
        q, keys, values, weight=norm.q_weight, bounds=norm.bounds, rope=rope, distances=distances
    )
    turned = [reference.rotate(k.double(), rope.shift(-d, torch.float64)) for k, d in zip(keys, distances)]
    wanted, _ = truth(q, turned, values, norm, rope, [0.0, 0.0])
    assert relative_error(out, wanted) < LIMIT


def test_training_form_equals_the_definition():
    generator = fresh_generator()
    q, keys, values, norm, rope = random_problem(generator, 33, 2, 64, [20, 41])
    batch = [torch.stack([x, x.flip(0)]).double().requires_grad_() for x in (q, *keys, *values)]
    arguments = dict(weight=norm.q_weight.double(), bounds=norm.bounds, rope=rope, distances=[9.0, 0.0])
    grads = []
    for form in (reference.segment_attention, reference.segment_attention_sdpa):
        out = form(batch[0], batch[1:3], batch[3:5], **arguments)
        grads.append((out, *torch.autograd.grad(out.square().sum(), batch)))
    for a, b in zip(*grads):
        assert relative_error(a, b) < 1e-12


def test_store_keeps_what_append_would(isa):
    generator = fresh_generator()
    tokens = 70
    norm, rope = norm_for(tokens, 64, generator), rope_for(tokens, 64, generator)
    q, k, v = tokens_for(tokens, 2, 64, generator, strided=True)
    shape = dict(layers=1, heads=2, head_dim=64, capacity={"motion": 100}, kernels="native")
    one, two = ops.ContextCache(**shape), ops.ContextCache(**shape)
    ops.attend(one, 0, q, k, v, norm=norm, rope=rope, distances={}, store="motion")
    ops.append(two, 0, "motion", k, v, norm=norm, rope=rope)
    for cache in (one, two):
        cache.commit("motion")
    first, second = one.state_dict()["motion"][0], two.state_dict()["motion"][0]
    assert torch.equal(first["key"], second["key"]) and torch.equal(first["value"], second["value"])
    assert torch.equal(first["value"][0], v)


def test_a_ring_of_chunks_is_attended_at_its_ages():
    generator = fresh_generator()
    norm, rope = norm_for(30, 64, generator), rope_for(30, 64, generator)
    shape = dict(layers=1, heads=2, head_dim=64, capacity={"motion": 30}, chunks=2)
    caches = {kind: ops.ContextCache(**shape, kernels=kind) for kind in ("native", "reference")}
    for _ in range(4):
        _, k, v = tokens_for(30, 2, 64, generator, strided=False)
        for cache in caches.values():
            ops.append(cache, 0, "motion", k, v, norm=norm, rope=rope)
            cache.commit("motion")
    q, k, v = tokens_for(30, 2, 64, generator, strided=False)
    outs = [
        ops.attend(c, 0, q, k, v, norm=norm, rope=rope, distances={"motion": given})
        for c in caches.values() for given in (16.0, (16.0, 32.0))
    ]
    for out in outs[1:]:
        assert relative_error(out, outs[0].double()) < 2 * LIMIT


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_bytes_do_not_depend_on_threads(linear_isa, dtype):
    generator = fresh_generator()
    cache, _ = make_cache("native", generator, dtype=dtype)
    norm, rope = norm_for(272, 64, generator), rope_for(272, 64, generator)
    q, k, v = tokens_for(272, 4, 64, generator, strided=True)
    before = native.threads()
    outs = []
    try:
        for threads in (1, 2, 5):
            ops.set_num_threads(threads)
            outs.append(ops.attend(cache, 0, q, k, v, norm=norm, rope=rope,
                                   distances={"reference": 3.0, "sink": 2.0, "motion": 1.0}))
    finally:
        ops.set_num_threads(before)
    assert torch.equal(outs[0], outs[1]) and torch.equal(outs[0], outs[2])


def test_a_limit_is_the_calling_thread_s_alone(linear_isa):
    """Threads with limits of their own side by side: the pool keeps its size, and every byte is the same."""
    generator = fresh_generator()
    layer = ops.PackedLinear(torch.randn(256, 192, generator=generator), storage="int8")
    x = torch.randn(300, 192, generator=generator)
    before = native.threads()
    tasks = lambda: set(os.listdir("/proc/self/task") if os.path.isdir("/proc/self/task") else ())
    try:
        ops.set_num_threads(1)
        others = tasks()
        ops.set_num_threads(4)
        workers, wanted = tasks() - others, layer(x)
        barrier, wrong = threading.Barrier(5), []

        def work(limit: int | None) -> None:
            barrier.wait()
            for _ in range(50):
                with ops.threads(limit) if limit else contextlib.nullcontext():
                    if not torch.equal(layer(x), wanted) or native.threads() != 4:
                        wrong.append(limit)
            if native.limit_calling_thread(0) != 0:
                wrong.append("left behind")

        others = [threading.Thread(target=work, args=(limit,)) for limit in (None, 1, 2, 3, 9)]
        for other in others:
            other.start()
        for other in others:
            other.join()
        assert not wrong
        for limit in (1, 2, 7):
            with ops.threads(limit):
                with ops.threads(1):
                    assert native.limit_calling_thread(1) == 1
                assert native.limit_calling_thread(limit) == limit and torch.equal(layer(x), wanted)
        with pytest.raises(ZeroDivisionError), ops.threads(2):
            1 / 0
        assert native.limit_calling_thread(0) == 0 and workers <= tasks()  # none was ended
    finally:
        ops.set_num_threads(before)
    with pytest.raises(ConfigError), ops.threads(0):
        pass


def test_many_python_threads_at_once():
    generator = fresh_generator()
    cache, _ = make_cache("native", generator)
    norm, rope = norm_for(64, 64, generator), rope_for(64, 64, generator)
    tokens = [tokens_for(64, 4, 64, generator, strided=False) for _ in range(4)]
    distances = {"reference": 3.0, "sink": 2.0, "motion": 1.0}
    forks = [cache.fork() for _ in tokens]

    def once(i):
        return ops.attend(forks[i], 1, *tokens[i], norm=norm, rope=rope, distances=distances)

    alone = [once(i) for i in range(4)]
    wrong = []

    def worker(i):
        for _ in range(50):
            if not torch.equal(once(i), alone[i]):
                wrong.append(i)

    threads = [threading.Thread(target=worker, args=(i,)) for i in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join(60)
    assert not wrong and not any(t.is_alive() for t in threads)


def test_pool_survives_resizing_fork_and_exit():
    program = """
import os, sys
from streamchar_rt import _native, ops
import torch
cache = ops.ContextCache(layers=1, heads=4, head_dim=64, capacity={'motion': 64}, kernels='native')
freqs, axes = ops.rope_frequencies()
rope = ops.Rope(torch.zeros(64, 3), freqs, axes)
norm = ops.QkNorm(torch.ones(1, 64), torch.ones(1, 64), (0, 64))
x = torch.randn(64, 4, 64)
for n in (3, 1, 2, 4, 1, 3):
    ops.set_num_threads(n)
first = ops.attend(cache, 0, x, x, x, norm=norm, rope=rope, distances={})
child = os.fork()
again = ops.attend(cache, 0, x, x, x, norm=norm, rope=rope, distances={})
assert torch.equal(first, again)
if child:
    assert os.waitpid(child, 0)[1] == 0
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True, timeout=120)


def test_bad_calls_are_typed_errors():
    generator = fresh_generator()
    cache, _ = make_cache("native", generator)
    norm, rope = norm_for(20, 64, generator), rope_for(20, 64, generator)
    q, k, v = tokens_for(20, 4, 64, generator, strided=False)
    good = dict(norm=norm, rope=rope, distances={"reference": 1.0, "sink": 1.0, "motion": 1.0})
    ops.attend(cache, 0, q, k, v, **good)
    bad_calls = [
        lambda: ops.attend(cache, 2, q, k, v, **good),
        lambda: ops.attend(cache, 0, q[:19], k, v, **good),
        lambda: ops.attend(cache, 0, q, k[:, :3], v, **good),
        lambda: ops.attend(cache, 0, q, k, v[..., :32], **good),
        lambda: ops.attend(cache, 0, q.int(), k, v, **good),
        lambda: ops.attend(cache, 0, q, k, v, **(good | {"distances": {"sink": 1.0}})),
        lambda: ops.attend(cache, 0, q, k, v, **(good | {"distances": {"nothing": 1.0}})),
        lambda: ops.attend(cache, 0, q, k, v, **good, segments=("nothing",)),
        lambda: ops.attend(cache, 0, q, k, v, **good, out=torch.empty(20, 4, 128)[..., ::2]),
        lambda: ops.attend(cache, 0, q, k, v, **(good | {"norm": norm_for(21, 64, generator)})),
        lambda: ops.attend(cache, 0, q.clone().requires_grad_(), k, v, **good),
        lambda: ops.append(cache, 0, "nothing", k, v, norm=norm, rope=rope),
        lambda: ops.QkNorm(torch.ones(2, 64), torch.ones(2, 64), (0, 5)),
        lambda: ops.QkNorm(torch.ones(2, 64), torch.ones(2, 64), (0, 9, 5)),
        lambda: ops.Rope(torch.zeros(4, 2), *ops.rope_frequencies()),
        lambda: ops.Rope(torch.full((4, 3), torch.nan), *ops.rope_frequencies()),
        lambda: ops.set_num_threads(0),
    ]
    for call in bad_calls:
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.hint
    too_many = [norm_for(300, 64, generator), rope_for(300, 64, generator), *tokens_for(300, 4, 64, generator, False)]
    with pytest.raises(ConfigError):
        ops.append(cache, 0, "motion", too_many[3], too_many[4], norm=too_many[0], rope=too_many[1])
    with pytest.raises(UnsupportedError):
        ops.ContextCache(layers=1, heads=1, head_dim=48, capacity={"motion": 4}, kernels="native")


def test_operators_are_registered():
    generator = fresh_generator()
    q, keys, values, norm, rope = random_problem(generator, 9, 2, 64, [12])
    arguments = (q, norm.q_weight, list(norm.bounds), rope.positions, rope.freqs, rope.axes, keys, values, [4.0], 1e-6)
    out, lse = torch.ops.streamchar.segment_attention(*arguments)
    assert relative_error(out, truth(q, keys, values, norm, rope, [4.0])[0]) < LIMIT
    meta = [a.to("meta") if isinstance(a, torch.Tensor) else a for a in arguments]
    meta[6:8] = [[t.to("meta") for t in keys], [t.to("meta") for t in values]]
    shape, lse_shape = torch.ops.streamchar.segment_attention(*meta)
    assert shape.shape == out.shape and lse_shape.shape == lse.shape


def test_the_number_of_threads_may_change_right_after_work():
    """On crowded cores, where a worker is put aside at any place of its loop: none may sleep through the end.

    Such places are small: STREAMCHAR_POOL_ROUNDS=300000 looks for half a minute, as many as wanted.
    """
    rounds = int(os.environ.get("STREAMCHAR_POOL_ROUNDS", 10_000))
    program = f"""
import torch
from streamchar_rt import ops
layer, x = ops.PackedLinear(torch.randn(64, 64)), torch.randn(200, 64)
for i in range({rounds}):
    ops.set_num_threads(2 + i % 3)
    layer(x)
    ops.set_num_threads(1)
"""
    running = [subprocess.Popen([sys.executable, "-W", "ignore", "-c", program]) for _ in range(6)]
    try:
        assert [process.wait(60 + rounds / 1000) for process in running] == [0] * 6
    finally:
        for process in running:
            process.kill()


def test_a_run_may_have_more_items_than_a_ticket_counts():
    """A picture's row is an item. Each is done, and by the same bits on any number of threads."""
    generator = fresh_generator()
    frames = int(torch.randint(2 * 65_535, 3 * 65_535, (), generator=generator))
    drawn, warped = (torch.randn(frames, 1, 1, n, generator=generator) for n in (80, 64))
    wanted = reference.picture_blend(drawn, warped)
    before = native.threads()
    try:
        for threads in (1, 2, 3):
            ops.set_num_threads(threads)
            out = torch.full_like(wanted, 77)
            ops.picture_blend(drawn, warped, out=out)
            assert (out.int() - wanted.int()).abs().max() <= 1 and (threads == 1 or torch.equal(out, one))
            one = out
    finally:
        ops.set_num_threads(before)
