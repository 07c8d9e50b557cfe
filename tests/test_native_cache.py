"""The context cache: random call sequences against the naive model, and its stated invariants."""
from __future__ import annotations

import os

import pytest
import torch
from hypothesis import HealthCheck, settings

from streamchar_rt import ops
from streamchar_rt.errors import ConfigError, StateError
from streamchar_rt.ops import reference

from .cache_machine import AXES, CAPACITY, FREQS, HEAD_DIM, HEADS, LAYERS, CacheMachine, Pair, plain_tokens
from .cache_machine import random_sequence
from .native_support import native  # noqa: F401

SEQUENCES = int(os.environ.get("STREAMCHAR_CACHE_SEQUENCES", 500))

CacheMachine.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCacheAgainstNaiveModel = CacheMachine.TestCase


def test_random_sequences_leave_both_alike(seeded):
    """STREAMCHAR_CACHE_SEQUENCES=100000 pytest -s tests/test_native_cache.py -k random_sequences: as many as wanted."""
    calls, refused = 0, Pair.refused
    for number in range(SEQUENCES):
        calls += len(random_sequence(f"{seeded}-{number}"))
    refused = Pair.refused - refused
    print(f"{SEQUENCES} sequences from seed {seeded}: {calls} calls, {refused} of them refused by both, no difference")


def filled(kernels="native", **options):
    cache = ops.ContextCache(layers=LAYERS, heads=HEADS, head_dim=HEAD_DIM, capacity=CAPACITY, kernels=kernels, **options)
    return cache


def put(cache, segment, fill, rows=5, chunk=None):
    k, v, norm, rope = plain_tokens(rows, fill)
    for layer in range(LAYERS):
        ops.append(cache, layer, segment, k, v, norm=norm, rope=rope)
    cache.commit(segment, chunk)


@pytest.mark.parametrize("kernels", ["native", "reference"])
def test_rewind_needs_history(kernels):
    cache = filled(kernels, history=1)
    for i in range(4):
        put(cache, "motion", float(i))
    cache.rewind(2)
    assert cache.chunks("motion") == (2,)
    generation = cache.generation("motion")
    with pytest.raises(StateError) as caught:
        cache.rewind(1)
    assert "history" in caught.value.hint
    assert cache.chunks("motion") == (2,) and cache.generation("motion") == generation
    put(cache, "motion", 9.0)
    assert cache.chunks("motion") == (3,)
    cache.rewind(-1)
    assert cache.rows("motion") == 0


def test_steady_stream_allocates_nothing_and_rotates_few_blocks():
    cache = filled(history=1)
    plan = cache.memory_plan()
    assert plan["total"] == sum(v for n, v in plan.items() if n != "total")
    held = cache.nbytes
    put(cache, "sink", 1.0)
    for i in range(50):
        put(cache, "motion", float(i), rows=7)
    assert cache.nbytes == held == plan["total"]


def test_committed_rows_never_change_under_snapshots_and_forks():
    cache = filled()
    put(cache, "motion", 1.0)
    snapshot, child = cache.snapshot(), cache.fork()
    before = child.state_dict()["motion"][0]
    for i in range(5):
        put(cache, "motion", 10.0 + i)
    after = child.state_dict()["motion"][0]
    assert torch.equal(before["key"], after["key"]) and torch.equal(before["value"], after["value"])
    cache.restore(snapshot)
    assert torch.equal(cache.state_dict()["motion"][0]["key"], before["key"])
    assert snapshot.nbytes == cache._store.slot_bytes("motion")


def test_staging_is_invisible_until_commit_and_gone_after_drop():
    cache = filled()
    put(cache, "motion", 1.0)
    k, v, norm, rope = plain_tokens(5, 2.0)
    query = dict(norm=norm, rope=rope, distances={"motion": 4.0})
    before = ops.attend(cache, 0, k, k, v, **query)
    ops.append(cache, 0, "motion", k, v, norm=norm, rope=rope)
    assert torch.equal(before, ops.attend(cache, 0, k, k, v, **query))
    with pytest.raises(StateError):
        cache.commit("motion")
    cache.drop("motion")
    assert not cache.staged("motion") and torch.equal(before, ops.attend(cache, 0, k, k, v, **query))


def test_layers_of_different_length_cannot_be_committed():
    cache = filled()
    for layer, rows in enumerate((4, 5)):
        k, v, norm, rope = plain_tokens(rows, 0.0)
        ops.append(cache, layer, "motion", k, v, norm=norm, rope=rope)
    with pytest.raises(StateError):
        cache.commit("motion")


def test_a_snapshot_of_another_shape_is_refused():
    small = filled()
    large = filled(history=2)
    with pytest.raises(ConfigError):
        large.restore(small.snapshot())
    with pytest.raises(ConfigError):
        filled("reference").restore(small.snapshot())
    with pytest.raises(ConfigError):
        small.load_state_dict({"motion": []})


def test_denoiser_like_stack_equals_the_same_stack_without_a_cache():
    """Three layers of attention over [sink | motion | self], features flowing from layer to layer."""
    generator = torch.Generator().manual_seed(int(torch.randint(1 << 31, ())))
    print("seed", generator.initial_seed())
    layers, heads, tokens = 3, 2, 20
    weights = torch.randn(layers, 3, heads * 64, heads * 64, generator=generator) / (heads * 64) ** 0.5
    norm = ops.QkNorm(torch.rand(2, 64, generator=generator) + 0.5, torch.rand(2, 64, generator=generator) + 0.5, (0, 16, tokens))
    rope = ops.Rope(torch.rand(tokens, 3, generator=generator) * 8, FREQS, AXES)

    def project(x, layer):
        return ((x.flatten(1) @ weights[layer].to(x.dtype).transpose(-1, -2)).unflatten(-1, (heads, 64))).unbind(0)

    cache = ops.ContextCache(layers=layers, heads=heads, head_dim=64, capacity={"sink": tokens, "motion": tokens})
    context = {n: torch.randn(tokens, heads, 64, generator=generator) for n in ("sink", "motion")}
    truth_kv = {}
    for name, x in context.items():
        double = x.double()
        truth_kv[name] = []
        for layer in range(layers):
            q, k, v = project(x, layer)
            x = x + ops.attend(cache, layer, q, k, v, norm=norm, rope=rope, distances={}, segments=(), store=name)
            q, k, v = project(double, layer)
            ready = reference.normalize_rotate(k, norm.k_weight.double(), norm.bounds, rope)
            truth_kv[name].append((ready, v))
            double = double + reference.segment_attention(
                q, [ready], [v], weight=norm.q_weight.double(), bounds=norm.bounds, rope=rope, distances=[0.0])
        cache.commit(name)

    x = torch.randn(tokens, heads, 64, generator=generator)
    double = x.double()
    for layer in range(layers):
        q, k, v = project(x, layer)
        x = x + ops.attend(cache, layer, q, k, v, norm=norm, rope=rope, distances={"sink": 16.0, "motion": 8.0})
        q, k, v = project(double, layer)
        ready = reference.normalize_rotate(k, norm.k_weight.double(), norm.bounds, rope)
        keys, values = zip(*(truth_kv[n][layer] for n in ("sink", "motion")), (ready, v))
        double = double + reference.segment_attention(
            q, keys, values, weight=norm.q_weight.double(), bounds=norm.bounds, rope=rope, distances=[16.0, 8.0, 0.0])
    assert float((x - double).norm() / double.norm()) < 5e-6
