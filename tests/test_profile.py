"""``streamchar profile``: what is counted for an op, the tables and the trace."""
from __future__ import annotations

import copy
import json
import threading

import pytest
import torch
import torch.nn.functional as F

from streamchar_rt import ops, profile
from streamchar_rt.codecs.packed_vocoder import PackedVocoder
from streamchar_rt.codecs.vocoder import Vocoder
from streamchar_rt.errors import ConfigError
from streamchar_rt.op_recorder import Call, Recorder
from streamchar_rt.orchestrator.condition import ConditionConfig, ConditionEncoder
from streamchar_rt.orchestrator.model import Orchestrator, OrchestratorConfig
from streamchar_rt.orchestrator.packed import PackedOrchestrator, PlainOrchestrator
from streamchar_rt.profile import Ceilings, Profile
from tests.stand_in import make_engine

from .native_support import fresh_generator, native, norm_for, rope_for
from .video_support import drawn, op_by_op, random_character, random_latents, random_parts

CEILINGS = Ceilings({"fp32": 1e9, "bf16": 4e9, "int8": 8e9}, 1e9)


def recorded(run) -> list[Call]:
    with torch.inference_mode(), Recorder() as recorder:
        run()
    return recorder.calls


def sizes(rng, count, low=1, high=20):
    return (int(n) for n in rng.integers(low, high, count))


def test_products_and_convolutions_are_counted_as_by_hand(rng):
    m, k, n, length, taps = sizes(rng, 5, 5)
    a, b, weight, bias = torch.randn(m, k), torch.randn(k, n), torch.randn(n, k), torch.randn(n)
    sound, filters = torch.randn(2, k, length + taps), torch.randn(n, k, taps)
    picture, kernel = torch.randn(1, k, 9, 8), torch.randn(k, n, 4, 4)
    q, key = torch.randn(1, 2, m, 16), torch.randn(1, 2, n, 16)
    heads_q, heads_k = torch.randn(1, m, 2, 16), torch.randn(1, n, 2, 16)
    for call, flops, traffic in [
        (lambda: a @ b, 2 * m * k * n, m * k + k * n + m * n),
        (lambda: F.linear(a, weight, bias), 2 * m * k * n, m * k + n * k + n + m * n),
        (lambda: torch.addmm(bias, a, b), 2 * m * k * n, m * k + n * k + n + m * n),
        (lambda: torch.bmm(a[None], b[None]), 2 * m * k * n, m * k + k * n + m * n),
        (lambda: F.conv1d(sound, filters), 2 * 2 * n * (length + 1) * k * taps,
         2 * k * (length + taps) + n * k * taps + 2 * n * (length + 1)),
        (lambda: F.conv_transpose2d(picture, kernel, stride=2), 2 * k * 9 * 8 * n * 16,
         k * 9 * 8 + k * n * 16 + n * 20 * 18),
        (lambda: torch.einsum("...thd,...shd->...hts", heads_q, heads_k), 2 * 2 * m * n * 16,
         2 * (16 * (m + n) + m * n)),
        (lambda: torch.einsum("ij, jk -> ik", a, b), 2 * m * k * n, m * k + k * n + m * n),
        (lambda: F.scaled_dot_product_attention(q, key, key), 4 * 2 * m * n * 16, 2 * 16 * (2 * m + 2 * n)),
    ]:
        (one,) = recorded(call)
        assert (one.flops, one.bytes, one.kind, one.part) == (flops, 4 * traffic, "fp32", "other")
        assert one.seconds > 0


def test_traffic_of_what_multiplies_nothing(rng):
    rows, width = sizes(rng, 2, 2)
    x, gate, table = torch.randn(rows, width), torch.randn(1, width).expand(rows, width), torch.randn(1000, width)
    places = torch.arange(rows)
    for call, traffic in [
        (lambda: x + x, 12 * rows * width),
        (lambda: x.add_(1.0), 8 * rows * width),
        (lambda: x * gate, 4 * (2 * rows * width + width)),            # an expanded row is one row
        (lambda: F.embedding(places, table), 8 * rows * width),        # not the whole table
        (lambda: x.bfloat16(), 6 * rows * width),
        (lambda: torch.cat([x, x]), 16 * rows * width),
        (lambda: x.T.reshape(-1), 8 * rows * width),                   # this one copies; those below do not
    ]:
        (one,) = recorded(call)
        assert (one.flops, one.bytes) == (0, traffic)
    assert recorded(lambda: (x.view(-1)[1:].unsqueeze(0), x.reshape(-1), x.float(), torch.empty(5))) == []
    (low,) = recorded(lambda: x.bfloat16() @ x.bfloat16().T)[-1:]
    assert low.kind == "bf16" and low.bytes == 2 * (2 * rows * width + rows * rows)


def test_native_ops_are_seen_with_what_they_read(seeded):
    """A DiT block's two native ops; the torch calls inside them are theirs."""
    heads, dim, tokens, past = 2, 64, 5, 11
    generator = torch.Generator().manual_seed(seeded)
    cache = ops.ContextCache(layers=1, heads=heads, head_dim=dim, capacity={"sink": 20, "motion": 20}, kernels="native")

    def given(count):
        k = torch.randn(count, heads, dim, generator=generator)
        return (k, k), dict(norm=norm_for(count, dim, generator), rope=rope_for(count, dim, generator))

    (k, v), how = given(past)
    (q, _), now = given(tokens)
    layer = ops.PackedLinear(torch.randn(24, 40), storage="int8")
    x = torch.randn(3, 4, 40)

    def run():
        ops.append(cache, 0, "motion", k, v, **how)
        cache.commit("motion")
        ops.attend(cache, 0, q, q, q, distances={"motion": 4.0}, **now)
        layer(x)

    append, attend, linear = recorded(run)
    width = heads * dim
    assert (append.op, append.flops, append.bytes) == ("append", 0, 4 * 4 * past * width)
    assert (attend.op, attend.flops) == ("attend", 4 * tokens * (past + tokens) * width)
    assert attend.bytes == 4 * (4 * tokens + 2 * (past + tokens)) * width
    assert (linear.op, linear.flops) == ("packed_linear", 2 * 12 * 40 * 24)
    assert linear.bytes == layer.nbytes + 4 * 12 * (40 + 24)
    assert linear.kind == ("int8" if ops.PackedLinear.pays("int8") else "fp32")


@torch.inference_mode()
def test_a_drawing_costs_what_its_ops_cost():
    generator = fresh_generator()
    given = random_parts(generator)
    character, latents = random_character(generator, given, 4, 6), random_latents(generator, given, 4, 6)
    one_by_one = [call for call in recorded(lambda: op_by_op(given, latents, character))
                  if call.op in ("packed_conv", "picture_warp", "picture_blend")]
    calls = [call for call in recorded(lambda: drawn(ops.VideoLayers(**given), latents, character))
             if call.op == "video_layers"]
    total = lambda calls, what: sum(getattr(call, what) for call in calls)
    assert len(calls) == 5 and len({call.flops for call in calls[1:]}) == 1
    assert total(calls, "flops") == total(one_by_one, "flops") > 0
    # Frame by frame, weights and what is known of the character are read each time.
    again = sum(conv.nbytes for conv, _, _ in ops.VideoLayers(**given).of_frame)
    assert total(calls, "bytes") == total(one_by_one, "bytes") + 3 * again
    assert {call.kind for call in calls} == {call.kind for call in one_by_one if call.op == "packed_conv"}


@torch.inference_mode()
def test_the_orchestrators_calls_cost_what_their_nets_cost(rng):
    """Products of the torch nets, whose attention has no cheaper causal half; nothing else is recorded inside."""
    config, condition_config = OrchestratorConfig(), ConditionConfig()
    nets = Orchestrator(config).eval(), ConditionEncoder(condition_config).eval()
    plain = PlainOrchestrator(*copy.deepcopy(nets))
    packed, batch = PackedOrchestrator(*nets), int(rng.integers(1, 4))
    units, voices = torch.ones(batch, config.window, 3, dtype=torch.int64), torch.zeros(batch, dtype=torch.int64)
    history, noisy = torch.randn(batch, config.history_tokens, 160), torch.randn(batch, config.slots, config.mel_bins)
    rows, states = torch.zeros(batch, 48, 4, dtype=torch.int64), plain.read(units, history, voices)
    packed.align(states, noisy, 0.5)                          # the time's own layers run once
    for op, run in (("transcript_reader", lambda net: net.read(units, history, voices)),
                    ("condition_head", lambda net: net.align(states, noisy, 0.5)),
                    ("condition_encoder", lambda net: net.conditions(rows, voices))):
        (call,) = [call for call in recorded(lambda: run(packed)) if call.flops]
        wanted = sum(call.flops for call in recorded(lambda: run(plain)))
        assert call.op == op and call.flops == pytest.approx(wanted, rel=0.04) and call.bytes > 0 and call.kind == "fp32"


@torch.inference_mode()
def test_the_vocoders_call_costs_what_its_layers_cost(rng):
    net = Vocoder().eval()
    plain, packed, mel = copy.deepcopy(net), PackedVocoder(net), torch.randn(2, int(rng.integers(7, 60)), 80)
    state = plain.start(2)
    (call,) = [call for call in recorded(lambda: packed.stream(mel, state)) if call.flops]
    wanted = sum(call.flops for call in recorded(lambda: plain.stream(mel, state)))
    assert call.op == "vocoder_layers" and call.flops == pytest.approx(wanted, rel=0.01) and call.kind == "fp32"


def test_only_the_own_thread_is_recorded_and_nothing_stays_behind():
    before = ops.PackedLinear.__call__, native.adaln_modulate
    layer, x, unfit = ops.PackedLinear(torch.randn(4, 4)), torch.randn(2, 4), torch.randn(2, 5)
    with pytest.raises(ZeroDivisionError), Recorder() as recorder:
        thread = threading.Thread(target=lambda: (layer(x), x + x))
        thread.start()
        thread.join()
        assert recorder.calls == []
        layer(x)
        1 / 0
    assert [call.op for call in recorder.calls] == ["packed_linear"]
    assert (ops.PackedLinear.__call__, native.adaln_modulate) == before
    layer(x), x + x
    assert len(recorder.calls) == 1
    with pytest.raises(ConfigError), recorder:
        layer(unfit)        # an op that fails is not counted, and recording goes on
    with recorder:
        layer(x)
    assert len(recorder.calls) == 2


# ---------------------------------------------------------------- tables
def example() -> Profile:
    calls = [
        Call("a.b", "mul", 1.0, 0.004, 0, 2_000_000),                   # 2 ms at the copy's 1 GB/s
        Call("a.b", "mul", 1.01, 0.004, 0, 2_000_000),
        Call("c", "mm", 1.02, 0.010, 8_000_000, 1000, "bf16"),          # 2 ms at 4 GFLOP/s
        Call("c", "mm", 2.02, 0.010, 8_000_000, 1000, "fp32"),          # 8 ms at 1 GFLOP/s
    ]
    stages = dict.fromkeys((*profile.STAGES, "total_ms"), 1.5)
    facts = {"model": "m", "cpu": "c", "threads": 1, "dtype": "fp32", "steps": 4, "chunks": 2}
    return Profile(facts, stages, CEILINGS, calls, [(1.0, 1.1), (2.0, 2.1)])


def test_rows_are_a_chunks_and_the_share_is_of_the_nearer_roof():
    matrix, rest = example().rows()
    assert (matrix["part"], matrix["op"], rest["part"], rest["op"]) == ("c", "mm", "a.b", "mul")
    assert matrix["calls"] == 1 and matrix["ms"] == pytest.approx(10) and matrix["gflop"] == pytest.approx(0.008)
    assert matrix["gflops"] == pytest.approx(0.8) and matrix["share"] == pytest.approx(0.5)
    assert rest["mbytes"] == pytest.approx(2) and rest["gbps"] == pytest.approx(0.5)
    assert rest["share"] == pytest.approx(0.5)


def test_the_table_sums_up_what_it_leaves_out():
    whole, short = example().table(), example().table(top=1)
    assert "a.b: mul" in whole and "a.b: mul" not in short and "1 more" in short
    total = lambda text: next(line.split() for line in text.splitlines() if line.startswith("all ops"))
    assert total(whole) == total(short) and total(whole)[3] == "14.00"
    between = whole.splitlines()[-1].split()
    assert float(between[-1]) == pytest.approx(86.0)     # of 100 ms a chunk


def test_the_trace_has_every_call_at_its_time_on_its_parts_track(tmp_path):
    example().write_trace(tmp_path / "trace.json")
    events = json.loads((tmp_path / "trace.json").read_text())["traceEvents"]
    tracks = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M"}
    spans = [(tracks[e["tid"]], e["name"], e["ts"], e["dur"]) for e in events if e["ph"] == "X"]
    assert sorted(tracks.values()) == ["a.b", "c", "chunk"]
    assert ("chunk", "chunk 1", pytest.approx(1e6), pytest.approx(1e5)) in spans
    assert ("c", "mm", pytest.approx(1.02e6), pytest.approx(1e4)) in spans and len(spans) == 6
    assert {e["args"]["flops"] for e in events if e["name"] == "mm"} == {8_000_000}


# ---------------------------------------------------------------- runs
def test_a_run_over_the_stand_in(tmp_path):
    engine = make_engine(tmp_path)
    seen = []
    result = profile.measure(engine, chunks=2, progress=seen.append, ceilings=CEILINGS)
    assert seen == [1, 2, 3, 4] and len(result.spans) == 2 and result.facts["model"] == "stand-in"
    assert result.stages["denoise_ms"] == 0.25 and "all ops" in result.table()
    assert result.calls == sorted(result.calls, key=lambda call: call.begin)
    with pytest.raises(ConfigError) as caught:
        profile.measure(engine, chunks=0, ceilings=CEILINGS)
    assert caught.value.hint


def test_ceilings_are_measured(seeded):
    found = profile.measure_ceilings(size=64, copied=1 << 16)
    assert set(found.flops) == {"fp32", "bf16", "int8"} and min(*found.flops.values(), found.bytes) > 0
