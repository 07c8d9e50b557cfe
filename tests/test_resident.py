"""Chunks that stay on one device, run on the CPU: against the way of the host, and with ``full``'s small relative."""
from __future__ import annotations

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from streamchar_rt import ConfigError, DeviceMemoryError, UnsupportedError, allocation, resident, scales
from streamchar_rt.bundle import MANIFEST, SHIPPED, open_bundle
from streamchar_rt.denoiser.context import MOTION, CachedDenoiser
from streamchar_rt.denoiser.dit import DiTConfig, JointDiT
from streamchar_rt.denoiser.dit import Style as StyleTensors
from streamchar_rt.denoiser.layout import Layout
from streamchar_rt.denoiser.resident import SEGMENTS, ResidentDenoiser
from streamchar_rt.graphs import Graphs
from streamchar_rt.nets import NARROW, build_nets
from streamchar_rt.orchestrator.alignment import elapsed_in, monotonic_path, monotonic_path_on_device
from streamchar_rt.orchestrator.units import FIRST_PHONE, NUM_UNITS
from streamchar_rt.pipeline import Models, StreamState, Style, encode_character, generate_chunk
from streamchar_rt.planner import Plan
from streamchar_rt.resident import Placement
from streamchar_rt.resync import JUMPED, STALLED

CPU = Placement("cpu", torch.float32)
PLENTY = 2**40


def phones(rng, count):
    """Units, stress and word starts, the last one an END."""
    draw = lambda low, high: int(rng.integers(low, high))
    return [*((draw(FIRST_PHONE, NUM_UNITS), draw(0, 3), i % 4 == 0) for i in range(count)), (1, 0, False)]


def stream(models, rng, seed, count=40):
    picture = rng.integers(0, 256, (models.height, models.width, 4), dtype=np.uint8)
    state = StreamState(models, encode_character(models, picture), seed)
    state.append_units(phones(rng, count))
    return state


# ---------------------------------------------------------------- alignment
@pytest.mark.parametrize("spread", [0.0, 1.0, 3.0, 40.0])
def test_the_path_without_a_loop_is_the_host_s(rng, spread):
    for _ in range(50):
        steps, first, elapsed = int(rng.integers(1, 80)), int(rng.integers(0, 9)), int(rng.integers(1, 17))
        # Where all are alike, as many as a power of two: their shares are exact in whatever order they are summed.
        usable = int(rng.integers(1, 60)) if spread else 1 << int(rng.integers(0, 6))
        width = first + usable + int(rng.integers(0, 5))
        logits = rng.normal(size=(steps, width)) * spread
        logits[:, :first] = logits[:, first + usable:] = -np.inf
        minimum = rng.integers(1, 4, width)
        path = monotonic_path(logits, first, minimum=minimum, elapsed=elapsed)
        got, since = monotonic_path_on_device(
            torch.from_numpy(logits), first, minimum=torch.from_numpy(minimum), elapsed=torch.tensor(elapsed))
        assert got.tolist() == path.tolist()
        assert since.tolist() == elapsed_in(path, elapsed, first).tolist()


def test_paths_of_a_batch_do_not_mix(rng):
    logits, minimum = torch.from_numpy(rng.normal(size=(3, 30, 12)) * 3), torch.from_numpy(rng.integers(1, 4, (3, 12)))
    elapsed = torch.from_numpy(rng.integers(1, 9, 3))
    together = monotonic_path_on_device(logits, 4, minimum=minimum, elapsed=elapsed)
    for i in range(3):
        alone = monotonic_path_on_device(logits[i], 4, minimum=minimum[i], elapsed=elapsed[i])
        assert all(torch.equal(a[i], b) for a, b in zip(together, alone))


# ---------------------------------------------------------------- denoiser
def small_dit(layout: Layout, depth: int = 2) -> JointDiT:
    heads = 2
    net = JointDiT(DiTConfig(width=heads * layout.head_dim, heads=heads, depth=depth, feed_forward=96,
                             audio_feed_forward=64, latent_channels=4, reference_channels=6, mel_bins=10,
                             layout=layout))
    for p in net.parameters():
        if not p.abs().any():
            torch.nn.init.normal_(p, std=0.05)
    return net.eval().requires_grad_(False)


LAYOUTS = {
    "square": Layout(frames=8, grid=4, audio_tokens=8),
    "wide, 33 frames": Layout(frames=33, grid=2, grid_columns=3, audio_tokens=33, head_dim=128, time_pairs=22,
                              space_pairs=21),
}


@pytest.mark.parametrize("kernels", ["reference", "native"])
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_a_resident_step_equals_the_cached_one(seeded, layout, kernels):
    """Segment by segment as they come to life, for two streams that take turns on the stage."""
    dit = small_dit(layout)
    config = dit.config
    own_way, cached = ResidentDenoiser(dit, kernels), CachedDenoiser(dit, "reference")
    chunk = lambda: (torch.randn(1, layout.video_tokens, config.video_features),
                     torch.randn(1, layout.audio_tokens, config.audio_features))
    style = StyleTensors(torch.tensor([1]), torch.tensor([2]), torch.tensor([0]))
    c_v, c_a = torch.randn(1, layout.latents, config.width), torch.randn(1, layout.audio_tokens, config.width)
    contexts = [(own_way.new_cache(), cached.new_cache()) for _ in range(2)]
    fork = None
    with torch.inference_mode():
        for segments in ((), *((segment,) for segment in SEGMENTS), (MOTION,)):
            for own, truth in contexts:
                for segment in segments:
                    if segment == SEGMENTS[0]:
                        features = torch.randn(1, 6, 2 * layout.grid, 2 * layout.columns)
                        own_way.write_reference(own, features)
                        cached.write_reference(truth, features)
                    else:
                        done = chunk()
                        own.put(segment, *own_way.chunk_rows(*done))
                        cached.write_chunks(segment, [truth], *([x] for x in done))
            for own, truth in contexts:
                now = chunk()
                (wanted,) = cached.velocities([truth], *([x] for x in (*now, style, c_v, c_a)), 0.4)
                got = own_way.velocity(own_way.stage(own), *now, style, c_v, c_a, torch.tensor([0.4]))
                for a, b in zip(got, wanted):
                    assert a.dtype is torch.float32 and (a - b).norm() <= 2e-5 * b.norm()
            own = contexts[0][0]
            fork = fork or own.fork()
        assert fork.get(SEGMENTS[0]) is None and own.nbytes > 0            # a fork goes its own way


def test_native_is_refused_where_nothing_serves(seeded):
    with pytest.raises(UnsupportedError, match="native"):
        ResidentDenoiser(small_dit(LAYOUTS["square"]).to(torch.bfloat16), "native")
    assert not ResidentDenoiser(small_dit(LAYOUTS["square"]).to(torch.bfloat16)).native


# ---------------------------------------------------------------- the whole chain
@pytest.fixture(scope="module")
def tiny():
    return allocation.random_models(scales.tiny(), CPU, seed=5, available=PLENTY, slots=0, tell=lambda text: None)


def test_the_relative_of_full_makes_chunks(tiny, rng):
    """33 frames at 24 fps, heads of 128, a wide picture, one of two voices: shapes, times and finite values."""
    state = stream(tiny, rng, seed=3)
    assert (tiny.fps, tiny.sample_rate, tiny.height, tiny.width) == (24, 24_000, 64, 96)
    before = None
    for index in range(2):
        chunk = generate_chunk(tiny, state, Style(1, 2, 2))
        assert chunk.audio.shape == (33 * 1000,) and chunk.audio.dtype == np.float32
        assert chunk.video.shape == (33, 64, 96, 4) and chunk.video.dtype == np.uint8
        assert chunk.places.shape == chunk.elapsed.shape == (66,)
        assert np.isfinite(chunk.audio).all() and 0 < np.abs(chunk.audio).max() <= 1
        assert 0 < chunk.confidence <= 1 and state.chunk_index == index + 1
        assert (np.diff(chunk.places) >= 0).all() and (np.diff(chunk.places) <= 1).all()
        assert state.pointer == chunk.places[-1] and (before is None or chunk.places[0] - before in (0, 1))
        assert set(chunk.timings) == {"orchestrator", "context", "denoise", "audio_decode", "video_decode", "total"}
        assert len(state.audio_rest) == 2 * 500 - (2048 - 500) // 2        # the lead that never changes
        before = chunk.places[-1]


def test_chunks_repeat_and_go_on_from_copies(tiny, rng):
    """The same bytes from a clone, from a stopped chunk's state, and from what an export holds, in company."""
    state, other = stream(tiny, rng, seed=4), stream(tiny, rng, seed=9)
    generate_chunk(tiny, state, Style(0, 0, 2))
    content, clone = state.export(), state.clone()
    assert all(x.device.type == "cpu" for x in (content["values"]["history"], content["vocoder"]["tail"]))
    step = lambda state, **options: generate_chunk(tiny, state, Style(0, 0, 2), steps=2, **options)
    truth = [step(state) for _ in range(2)]
    same = lambda a, b: (a.audio == b.audio).all() and (a.video == b.video).all() and (a.places == b.places).all()
    asked = []
    assert step(clone, should_stop=lambda: asked.append(1) or len(asked) == 2) is None
    assert len(asked) == 2 and clone.chunk_index == 1
    for again in (clone, StreamState.from_export(tiny, state.character, content)):
        for wanted in truth:
            generate_chunk(tiny, other, Style(1, 1, 0), steps=1)
            assert same(step(again), wanted)
    assert len(state.audio_ahead()) > 0
    state.reanchor()
    assert not same(step(state), step(clone))


def test_other_seeds_voices_and_texts_give_other_chunks(tiny, rng):
    picture = rng.integers(0, 256, (64, 96, 4), dtype=np.uint8)
    character, text = encode_character(tiny, picture), phones(rng, 30)

    def first(seed=1, voice=0, units=text):
        state = StreamState(tiny, character, seed)
        state.append_units(units)
        return generate_chunk(tiny, state, Style(voice, 0, 2), steps=1)

    plain = first()
    assert (first().audio == plain.audio).all()
    for changed in (first(seed=2), first(voice=1), first(units=text[3:])):
        assert (changed.audio != plain.audio).any()


@pytest.mark.skipif(not (SHIPPED / "mini" / MANIFEST).is_file(), reason="the mini model is not in this tree")
def test_mini_resident_is_mini_on_the_host():
    """The same weights both ways, float32: the same units at the same times, sound and pictures up to rounding."""
    bundle = open_bundle("mini")
    tensors, made = bundle.tensors(), []
    held = {2: 9, 5: 4}                                # places, and for how many half-frames
    for placement in (None, CPU):
        models = Models.from_parts(bundle.manifest, tensors, placement=placement)
        state = stream(models, np.random.default_rng(8), seed=3, count=30)
        state.holds = dict(held)
        made.append([generate_chunk(models, state, Style(0, 1, 2), steps=steps) for steps in (1, 2)])
    for place, half_frames in held.items():
        assert sum((chunk.places == place).sum() for chunk in made[0]) == half_frames
    for host, device in zip(*made):
        assert (host.places == device.places).all() and (host.elapsed == device.elapsed).all()
        assert abs(host.confidence - device.confidence) < 1e-3
        assert np.linalg.norm(host.audio - device.audio) < 0.02 * np.linalg.norm(host.audio)
        assert np.abs(host.video.astype(int) - device.video.astype(int)).mean() < 0.1


# ---------------------------------------------------------------- sizes and memory
@pytest.mark.parametrize("way", ["still", "leaping"])
def test_a_pointer_astray_is_brought_back_as_on_the_host(tiny, rng, monkeypatch, way):
    """With logits that stand still after a stall, or leap: the resident chain's alignment is the host's plan."""
    config = tiny.orchestrator.config
    place = config.window_before + (0 if way == "still" else 16)
    logits = torch.full((config.slots + config.lookahead, config.window), -50.0)
    logits[:, place] = 50.0
    monkeypatch.setattr(tiny.orchestrator, "align", lambda states, mel, t: (logits[None], None))
    state = stream(tiny, rng, seed=8)
    state.stalled = way == "still"
    plan = Plan(state.clone(), Style(0, 0, 2))
    models = SimpleNamespace(orchestrator=tiny.orchestrator, orchestration=SimpleNamespace(conditions=lambda *args: None))
    plan.state.models = models
    plan.follow(logits)
    chunk = generate_chunk(tiny, state, Style(0, 0, 2), steps=1)
    assert chunk.astray == plan.astray == (STALLED if way == "still" else JUMPED)
    assert chunk.places.tolist() == (plan.first + plan.path[: config.slots]).tolist()
    assert chunk.elapsed.tolist() == plan.elapsed[: config.slots].tolist()


def test_full_is_of_the_paper_s_scale():
    sizes = []
    for height, width in ((512, 512), (704, 1280)):
        manifest = scales.full(height, width)
        config = DiTConfig.from_dict(manifest["model"]["dit"])
        assert (config.width, config.depth, config.heads, config.layout.head_dim) == (3072, 30, 24, 128)
        assert config.layout.latents == 9 and config.layout.unseen == 3
        assert config.layout.video_tokens == 9 * height * width // 1024
        plan = allocation.memory_plan(manifest, Placement("cpu"), sessions=2)
        count = {name: size // (2 if name in NARROW else 4) for name, size in plan.weights.items()}
        assert 4.5e9 < count["dit"] < 6e9 and 2.7e9 < count["orchestrator"] < 3.3e9
        sizes.append(plan)
        # Keys and values of 30 layers in bfloat16: the reference, the sink and the motion.
        tokens = config.layout.reference_tokens + 2 * config.layout.chunk_tokens
        assert plan.session["context"] == 2 * 2 * 30 * 3072 * tokens
        assert plan.total == sum(plan.weights.values()) + 2 * sum(plan.session.values()) + sum(plan.shared.values())
    assert sizes[0].weights == sizes[1].weights and sizes[0].total < sizes[1].total < 139 * 2**30
    with pytest.raises(ConfigError, match="32"):
        scales.full(512, 500)


def test_what_does_not_fit_is_refused_before_it_is_allocated(monkeypatch):
    """In words with both numbers; and the plan has been told by then."""
    told = []
    monkeypatch.setattr(torch.nn.Module, "to_empty", lambda *_, **__: pytest.fail("allocated"))
    with pytest.raises(DeviceMemoryError) as error:
        allocation.random_models(scales.full(), CPU, available=10**9, tell=told.append)
    needed = allocation.memory_plan(scales.full(), CPU).total
    assert (error.value.required_bytes, error.value.available_bytes) == (needed, 10**9)
    assert str(needed) in str(error.value) and "1000000000" in str(error.value)
    assert "dit" in told[0] and "context" in told[0]


def test_nets_without_memory_get_all_tables_and_weights_back(tiny):
    """Every buffer as a net that was made in the ordinary way has it, and no weight left as memory was found."""
    ordinary = build_nets(scales.tiny()["model"])
    mine = {"orchestrator": tiny.orchestrator, "condition": tiny.condition, "dit": tiny.denoiser.dit,
            "vocoder": tiny.vocoder, "reference_encoder": tiny.reference_encoder, "video_decoder": tiny.video_decoder}
    assert mine.keys() == ordinary.keys()
    for name, net in ordinary.items():
        buffers = dict(mine[name].named_buffers())
        assert buffers.keys() == dict(net.named_buffers()).keys()
        for key, value in net.named_buffers():
            assert torch.equal(buffers[key], value), (name, key)
        for key, value in mine[name].named_parameters():
            assert value.isfinite().all() and value.abs().max() < 10, (name, key)
            assert value.dim() == 1 or value.std() > 0, (name, key)
    again = allocation.random_models(scales.tiny(), CPU, seed=5, available=PLENTY, tell=lambda text: None)
    assert torch.equal(again.denoiser.dit.modulation.weight, tiny.denoiser.dit.modulation.weight)


def test_a_narrow_model_runs_the_same_chain(rng):
    """bfloat16 as on a GPU: tables stay float32, a chunk is finite."""
    models = allocation.random_models(
        scales.tiny(32, 64), Placement("cpu"), seed=1, available=PLENTY, tell=lambda text: None)
    assert models.orchestrator.llm.rotary_emb.inv_freq.dtype is torch.float32
    assert models.denoiser.dit.video_in.weight.dtype is models.picture_dtype is torch.bfloat16
    chunk = generate_chunk(models, stream(models, rng, seed=2), Style(0, 0, 2), steps=2)
    assert chunk.video.shape == (33, 32, 64, 4) and np.isfinite(chunk.audio).all() and chunk.audio.any()


class Recorded(Graphs):
    """Graphs as they would be on a GPU: fixed inputs and outputs, which every replay overwrites."""

    def __init__(self, device):
        super().__init__(device)
        self.enabled = True

    def _record(self, function, own):
        outputs = [x.clone() for x in function(*own)]

        def replay():
            for output, now in zip(outputs, function(*own), strict=True):
                output.copy_(now)

        for output in outputs:        # what a capture alone gives is not what a replay will
            output.fill_(0)
        return replay, own, outputs


def test_nothing_of_a_chunk_stays_in_a_graph_s_memory(tiny, rng, monkeypatch):
    """Two streams in turns, one of them stopped on the way: the same bytes as by plain calls."""
    streams = [stream(tiny, rng, seed) for seed in (1, 2)]
    copies = [each.clone() for each in streams]
    step = lambda state, **options: generate_chunk(tiny, state, Style(1, 0, 2), steps=2, **options)
    plain = [step(state) for _ in range(2) for state in streams]
    graphs = Recorded(torch.device("cpu"))
    monkeypatch.setattr(tiny.chain, "graphs", graphs)
    monkeypatch.setattr(resident, "_to_host", torch.clone)             # from a GPU it is a copy
    asked, replayed = [], []
    for _ in range(2):
        for state in copies:
            replayed.append(step(state))
            assert step(state.clone(), should_stop=lambda: asked.append(1) or len(asked) % 3 == 0) is None
    for a, b in zip(plain, replayed):
        assert (a.audio == b.audio).all() and (a.video == b.video).all() and (a.places == b.places).all()
    for a, b in zip(streams, copies):
        assert torch.equal(a.history, b.history) and torch.equal(a.previous_latent, b.previous_latent)
        assert all(torch.equal(a.cache.get(s).keys, b.cache.get(s).keys) for s in SEGMENTS)
    # language, plan, context, a step with and without sink and motion, pictures with and without ones before
    assert len(graphs) == 7


def test_a_capture_ends_in_memory_of_its_own(monkeypatch):
    """With stand-ins for torch's CUDA: warmed up and captured on one stream for all, results copied out of the pool."""
    class Stream:
        def wait_stream(self, other):
            assert isinstance(other, Stream)

    class Captured:
        def replay(self):
            replayed.append(self)

    @contextlib.contextmanager
    def graph(captured, *, pool, stream, capture_error_mode):
        captures.append((pool, stream))
        yield

    made, replayed, captures, default = [], [], [], Stream()
    stand_ins = {"Stream": Stream, "current_stream": lambda: default, "graph_pool_handle": object,
                 "stream": lambda stream: contextlib.nullcontext(), "CUDAGraph": Captured, "graph": graph}
    for name, value in stand_ins.items():
        monkeypatch.setattr(torch.cuda, name, value)
    graphs = Graphs(torch.device("cuda"), tune=True)

    def function(x, y):
        made.append((x + y, (x * y)[1:], torch.backends.cudnn.benchmark))
        return made[-1][:2]

    for key in ("one", "two"):
        total, product = graphs.run(key, function, torch.ones(3), torch.full((3,), 2.0))
        assert total.tolist() == [3, 3, 3] and product.tolist() == [2, 2]
    assert len(graphs) == len(replayed) == 2 and captures[0] == captures[1] and len(made) == 6
    assert all(benchmark for *_, benchmark in made) and not torch.backends.cudnn.benchmark
    inside = {x.untyped_storage().data_ptr() for some in made for x in some[:2]}
    assert not {x.untyped_storage().data_ptr() for x in (total, product)} & inside


def test_graphs_are_plain_calls_on_a_cpu():
    graphs = Graphs(torch.device("cpu"))
    x = torch.ones(2)
    assert graphs.run("double", lambda y: y * 2, x).tolist() == [2, 2] and len(graphs) == 0
