"""The context cache: random call sequences against the naive model, and its stated invariants."""
from __future__ import annotations

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamchar_rt import ops
from streamchar_rt.errors import ConfigError, StateError
from streamchar_rt.ops import reference

from .native_support import native  # noqa: F401

LAYERS, HEADS, HEAD_DIM = 2, 1, 64
CAPACITY = {"sink": 5, "motion": 7}
FREQS, AXES = ops.rope_frequencies()
segment_names = st.sampled_from(list(CAPACITY))


def plain_tokens(rows: int, fill: float):
    """Tokens that tell chunks and layers apart, with their norm and rope."""
    norm = ops.QkNorm(torch.ones(1, HEAD_DIM), torch.ones(1, HEAD_DIM), (0, rows))
    rope = ops.Rope(torch.arange(rows * 3.0).reshape(rows, 3), FREQS, AXES)
    k = torch.linspace(-1, 1, rows * HEAD_DIM).reshape(rows, HEADS, HEAD_DIM) + fill
    return k, k * 2 + fill, norm, rope


class Pair:
    """The native cache and the naive model, given the same calls; both must raise, or neither."""

    def __init__(self, caches):
        self.caches = caches

    def call(self, action):
        results, errors = [], []
        for cache in self.caches:
            try:
                results.append(action(cache))
            except (StateError, ConfigError) as error:
                errors.append(type(error))
        assert len(errors) in (0, 2) and len(set(errors)) <= 1, errors
        return None if errors else results


class CacheMachine(RuleBasedStateMachine):
    @initialize(chunks=st.integers(1, 3), history=st.integers(0, 3))
    def start(self, chunks, history):
        options = dict(layers=LAYERS, heads=HEADS, head_dim=HEAD_DIM, capacity=CAPACITY, ring="motion")
        caches = [
            ops.ContextCache(**options, chunks=chunks, history=history, kernels=kind) for kind in ("native", "reference")
        ]
        self.pairs = [Pair(caches)]
        self.snapshots = []
        self.counter = 0
        self.plan = caches[0].memory_plan()["total"]

    def pair(self, pick):
        return self.pairs[pick % len(self.pairs)]

    def append(self, pair, segment, layer, rows):
        self.counter += 1
        k, v, norm, rope = plain_tokens(rows, float(self.counter))
        pair.call(lambda c: ops.append(c, layer, segment, k, v, norm=norm, rope=rope))

    @rule(pick=st.integers(0, 3), segment=segment_names, layer=st.integers(0, LAYERS), rows=st.integers(1, 8))
    def append_one_layer(self, pick, segment, layer, rows):
        self.append(self.pair(pick), segment, layer, rows)

    @rule(pick=st.integers(0, 3), segment=segment_names, rows=st.integers(1, 5), gap=st.integers(-1, 2) | st.none())
    def append_and_commit(self, pick, segment, rows, gap):
        pair = self.pair(pick)
        for layer in range(LAYERS):
            self.append(pair, segment, layer, rows)
        newest = max(pair.caches[1].chunks(segment), default=-1)
        pair.call(lambda c: c.commit(segment, None if gap is None else newest + gap))

    @rule(pick=st.integers(0, 3), segment=segment_names)
    def commit(self, pick, segment):
        self.pair(pick).call(lambda c: c.commit(segment))

    @rule(pick=st.integers(0, 3), segment=segment_names)
    def drop(self, pick, segment):
        self.pair(pick).call(lambda c: c.drop(segment))

    @rule(pick=st.integers(0, 3), back=st.integers(-1, 6))
    def rewind(self, pick, back):
        pair = self.pair(pick)
        newest = max(pair.caches[1].chunks("motion"), default=0)
        pair.call(lambda c: c.rewind(newest - back))

    @rule(pick=st.integers(0, 3), segment=segment_names | st.none())
    def clear(self, pick, segment):
        self.pair(pick).call(lambda c: c.clear(segment))

    @precondition(lambda self: len(self.pairs) < 4)
    @rule(pick=st.integers(0, 3))
    def fork(self, pick):
        self.pairs.append(Pair(self.pair(pick).call(lambda c: c.fork())))

    @precondition(lambda self: len(self.pairs) > 1)
    @rule(pick=st.integers(0, 3))
    def forget_fork(self, pick):
        self.pairs.pop(pick % len(self.pairs))

    @rule(pick=st.integers(0, 3))
    def snapshot(self, pick):
        self.snapshots.append(self.pair(pick).call(lambda c: c.snapshot()))

    @precondition(lambda self: self.snapshots)
    @rule(pick=st.integers(0, 3), which=st.integers(0, 9))
    def restore(self, pick, which):
        native_one, naive_one = self.snapshots[which % len(self.snapshots)]
        pair = self.pair(pick)
        pair.call(lambda c: c.restore(native_one if c.kernels == "native" else naive_one))

    @precondition(lambda self: self.snapshots)
    @rule(which=st.integers(0, 9))
    def forget_snapshot(self, which):
        self.snapshots.pop(which % len(self.snapshots))

    @rule(pick=st.integers(0, 3))
    def save_and_load(self, pick):
        pair = self.pair(pick)
        pair.call(lambda c: c.load_state_dict(c.state_dict()))

    @invariant()
    def same_content(self):
        for pair in getattr(self, "pairs", []):
            mine, model = pair.caches
            for name in CAPACITY:
                assert mine.chunks(name) == model.chunks(name)
                assert mine.rows(name) == model.rows(name)
                assert mine.staged(name) == model.staged(name)
                assert mine.generation(name) == model.generation(name)
            for name, chunks in model.state_dict().items():
                saved = mine.state_dict()[name]
                assert [c["chunk"] for c in saved] == [c["chunk"] for c in chunks]
                for got, wanted in zip(saved, chunks):
                    torch.testing.assert_close(got["key"], wanted["key"], rtol=0, atol=2e-6)
                    assert torch.equal(got["value"], wanted["value"])

    @invariant()
    def one_cache_stays_in_its_plan(self):
        if hasattr(self, "pairs") and not self.forked() and self.counter:
            extra = sum(self.pairs[0].caches[0]._store.slot_bytes(n) for n in CAPACITY)
            assert self.pairs[0].caches[0].nbytes <= self.plan + extra

    def forked(self):
        """Whether blocks that forks or snapshots once needed may still lie in the pool."""
        self.had_others = getattr(self, "had_others", False) or len(self.pairs) > 1 or bool(self.snapshots)
        return self.had_others


CacheMachine.TestCase.settings = settings(
    max_examples=120, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
TestCacheAgainstNaiveModel = CacheMachine.TestCase


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
