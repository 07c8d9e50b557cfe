"""Several streams together give each the bytes that it gets alone."""
from __future__ import annotations

import numpy as np
import pytest
import torch

from streamchar_rt import Engine
from streamchar_rt.batching import Batching
from streamchar_rt.bundle import MANIFEST, SHIPPED
from streamchar_rt.denoiser.context import MOTION, SINK, CachedDenoiser
from streamchar_rt.denoiser.dit import DiTConfig, JointDiT, Style


def test_a_stage_runs_together_only_where_that_is_exact(rng):
    batching, sizes = Batching(), []

    def exact(arguments):
        sizes.append(len(arguments))
        return [(argument * 2, argument + 1) for argument in arguments]

    def inexact(arguments):
        sizes.append(len(arguments))
        return [argument + len(arguments) * 1e-6 for argument in arguments]

    arguments = [torch.rand(3) for _ in range(4)]
    for stage, together in ((exact, True), (inexact, False)):
        for count in (1, 4, 3):
            truth = [stage([argument])[0] for argument in arguments[:count]]
            for _ in range(3):  # the trial, and what was learned from it
                sizes.clear()
                got = batching.run(stage.__name__, stage, arguments[:count])
                assert all(torch.equal(torch.as_tensor(a[0]), torch.as_tensor(b[0])) for a, b in zip(got, truth))
            assert sizes == ([count] if together else [1] * count)
    assert batching.exact == {("exact", 4): True, ("exact", 3): True, ("inexact", 4): False, ("inexact", 3): False}


@pytest.mark.parametrize("kernels", ["native", "reference"])
def test_the_denoiser_gives_every_stream_its_own_context(seeded, kernels):
    dit = JointDiT(DiTConfig(depth=2))
    for p in dit.parameters():
        if not p.abs().any():
            torch.nn.init.normal_(p, std=0.05)
    runtime, count = CachedDenoiser(dit.eval().requires_grad_(False), kernels), 3
    caches = [runtime.new_cache() for _ in range(count)]
    chunk = lambda: (torch.randn(1, 256, 48), torch.randn(1, 16, 160))
    with torch.inference_mode():
        for cache in caches:
            for segment in (SINK, MOTION):
                video, audio = chunk()
                runtime.write_chunks(segment, [cache], [video], [audio])
        columns = [list(column) for column in zip(*(
            (cache, *chunk(), Style(*(torch.tensor([i]),) * 3), torch.randn(1, 4, 256), torch.randn(1, 16, 256))
            for i, cache in enumerate(caches)))]
        together = runtime.velocities(*columns, 0.3)
        for i in range(count):
            (alone,) = runtime.velocities(*([column[i]] for column in columns), 0.3)
            for a, b in zip(together[i], alone):
                assert (a - b).abs().max() <= 1e-5 * b.abs().max()
        last = [chunk() for _ in range(count)]
        forks = [cache.fork() for cache in caches]
        runtime.write_chunks(MOTION, caches, *zip(*last))
        for i, fork in enumerate(forks):
            runtime.write_chunks(MOTION, [fork], *([x] for x in last[i]))
            for a, b in zip(caches[i].state_dict()[MOTION], fork.state_dict()[MOTION], strict=True):
                assert (a["key"] - b["key"]).abs().max() <= 1e-4 and (a["value"] - b["value"]).abs().max() <= 1e-4


@pytest.mark.skipif(not (SHIPPED / "mini" / MANIFEST).is_file(), reason="the mini model is not in this tree")
def test_the_shipped_model_gives_the_same_bytes_alone_and_in_company(rng):
    with Engine.load("mini", max_sessions=8) as engine:
        from streamchar_rt.pipeline import StreamState, Style, generate_chunks

        features = [engine.character(str(name)).features for name in rng.choice(engine.characters(), 3)]
        units = [[(int(u), 0, bool(u % 3 == 0)) for u in rng.integers(4, 40, 30)] + [(1, 0, False)] for _ in features]
        styles = [Style(*map(int, rng.integers(0, 3, 3))) for _ in features]

        def states():
            made = [StreamState(engine.models, feature, seed) for seed, feature in enumerate(features)]
            for state, some in zip(made, units):
                state.append_units(some)
            return made

        def same(a, b):
            return all((getattr(a, n) == getattr(b, n)).all() for n in ("audio", "video", "places", "elapsed"))

        with engine.computing():
            alone = [[generate_chunks(engine.models, [s], [style], steps=2)[0] for _ in range(2)]
                     for s, style in zip(states(), styles)]
            company = states()
            for i in range(2):
                together = generate_chunks(engine.models, company, styles, steps=2)
                assert all(same(a[i], b) for a, b in zip(alone, together))
            again, calls = states(), iter([False, False])  # the second one is stopped in its second step
            stop = [None, lambda: next(calls, True), None]
            together = generate_chunks(engine.models, again, styles, steps=2, should_stop=stop)
            assert together[1] is None and same(together[0], alone[0][0]) and same(together[2], alone[2][0])
            assert same(generate_chunks(engine.models, [again[1]], [styles[1]], steps=2)[0], alone[1][0])
            assert not np.array_equal(together[0].video, together[2].video)
        print(engine.models.batching.exact)
