"""The native context cache and the naive model side by side, given the same calls."""
from __future__ import annotations

import functools
import random

import hypothesis.strategies as st
import torch
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from streamchar_rt import ops
from streamchar_rt.errors import ConfigError, StateError

LAYERS, HEADS, HEAD_DIM = 2, 1, 64
CAPACITY = {"sink": 5, "motion": 7}
FREQS, AXES = ops.rope_frequencies()
segment_names = st.sampled_from(list(CAPACITY))


@functools.cache
def norm_and_rope(rows: int) -> tuple[ops.QkNorm, ops.Rope]:
    norm = ops.QkNorm(torch.ones(1, HEAD_DIM), torch.ones(1, HEAD_DIM), (0, rows))
    return norm, ops.Rope(torch.arange(rows * 3.0).reshape(rows, 3), FREQS, AXES)


@functools.cache
def plain_tokens(rows: int, fill: float):
    """Tokens that tell chunks and layers apart, with their norm and rope."""
    norm, rope = norm_and_rope(rows)
    k = torch.linspace(-1, 1, rows * HEAD_DIM).reshape(rows, HEADS, HEAD_DIM) + fill
    return k, k * 2 + fill, norm, rope


class Pair:
    """The native cache and the naive model, given the same calls; both must raise, or neither."""

    refused = 0

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
        Pair.refused += bool(errors)
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
    def same_facts(self):
        for pair in getattr(self, "pairs", []):
            mine, model = pair.caches
            for name in CAPACITY:
                assert mine.chunks(name) == model.chunks(name)
                assert mine.rows(name) == model.rows(name)
                assert mine.staged(name) == model.staged(name)
                assert mine.generation(name) == model.generation(name)

    @invariant()
    def same_content(self):
        for pair in getattr(self, "pairs", []):
            mine, model = pair.caches
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


@torch.inference_mode()
def random_sequence(seed: str) -> list[str]:
    """A cache's life: up to 40 random calls, each of which leaves the same facts, and at the end the same content.

    Much cheaper than hypothesis, which in return shrinks what it finds. Returns the calls; a failure names them.
    """
    draw = random.Random(seed)
    machine, calls = CacheMachine(), []
    machine.start(chunks=draw.randint(1, 3), history=draw.randint(0, 3))
    pick, segment = lambda: draw.randint(0, 3), lambda: draw.choice(["sink", "motion", "motion", "motion"])
    gap = lambda: draw.choice([None, -1, 0, 1, 1, 2, 3])
    choices = {
        machine.append_and_commit: lambda: (pick(), segment(), draw.randint(1, 5), gap()),
        machine.append_one_layer: lambda: (pick(), segment(), draw.randint(0, LAYERS), draw.randint(1, 8)),
        machine.commit: lambda: (pick(), segment()),
        machine.drop: lambda: (pick(), segment()),
        machine.rewind: lambda: (pick(), draw.randint(-1, 6)),
        machine.clear: lambda: (pick(), draw.choice([None, *CAPACITY])),
        machine.fork: lambda: (pick(),) if len(machine.pairs) < 4 else None,
        machine.forget_fork: lambda: (pick(),) if len(machine.pairs) > 1 else None,
        machine.snapshot: lambda: (pick(),),
        machine.restore: lambda: (pick(), draw.randint(0, 9)) if machine.snapshots else None,
        machine.forget_snapshot: lambda: (draw.randint(0, 9),) if machine.snapshots else None,
        machine.save_and_load: lambda: (pick(),),
    }
    # Every sequence has habits of its own (swarm testing): without some calls, others reach farther.
    often = [10, *(draw.choice([0, 0, 1, 5]) for _ in range(len(choices) - 1))]
    try:
        for action in draw.choices(list(choices), often, k=draw.randint(1, 40)):
            given = choices[action]()
            if given is None:
                continue
            calls.append(f"{action.__name__}{given}")
            action(*given)
            machine.same_facts()
            machine.one_cache_stays_in_its_plan()
        machine.same_content()
    except BaseException as error:
        error.add_note(f"sequence {seed!r}: {calls}")
        raise
    return calls
