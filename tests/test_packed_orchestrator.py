"""The orchestrator's native calls against its torch definition in float64."""
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from streamchar_rt import ops
from streamchar_rt.bundle import MANIFEST, SHIPPED
from streamchar_rt.errors import ConfigError, UnsupportedError
from streamchar_rt.orchestrator.condition import LONGEST, ConditionConfig, ConditionEncoder
from streamchar_rt.orchestrator.model import Orchestrator, OrchestratorConfig, States
from streamchar_rt.orchestrator.packed import PackedOrchestrator, PlainOrchestrator, serves
from streamchar_rt.orchestrator.units import FIRST_PHONE, NUM_UNITS, PAD

from .native_support import fresh_generator, isa, native, relative_error  # noqa: F401

NETS = {
    "mini": (OrchestratorConfig(), ConditionConfig()),
    "grouped": (OrchestratorConfig(width=256, layers=2, heads=4, kv_heads=2, feed_forward=70, head_layers=1,
                                   head_feed_forward=90, voices=2, window=7, window_before=2, history_tokens=5, slots=66,
                                   lookahead=0, mel_bins=9),
                ConditionConfig(width=20, depth=2, output=30, voices=2, past=12, slots=66, audio_tokens=33, latents=9)),
    "wide heads": (OrchestratorConfig(width=128, layers=1, heads=1, head_layers=3, window=70, history_tokens=1, slots=3,
                                      lookahead=50, mel_bins=33),
                   ConditionConfig(width=7, depth=1, output=5, past=8, slots=4, audio_tokens=2, latents=1)),
}  # fmt: skip


def random_nets(name: str, generator: torch.Generator) -> tuple[Orchestrator, ConditionEncoder]:
    """With norms, biases and tables that matter."""
    nets = Orchestrator(NETS[name][0]).eval(), ConditionEncoder(NETS[name][1]).eval()
    for net in nets:
        for name, weight in net.requires_grad_(False).named_parameters():
            near = 1.0 if "norm" in name and name.endswith("weight") else 0.0
            spread = 0.2 if weight.ndim == 1 else 1.0 / weight[0].numel() ** 0.5
            weight.copy_(near + spread * torch.randn(weight.shape, generator=generator))
    return nets


def packed_and_plain(nets) -> tuple[PackedOrchestrator, PlainOrchestrator]:
    """The second in float64."""
    plain = PlainOrchestrator(*(copy.deepcopy(net).double() for net in nets))
    return PackedOrchestrator(*nets), plain


def random_windows(config: OrchestratorConfig, batch: int, generator: torch.Generator, present: float | None = None):
    """Units, of which any may be absent; history; voices."""
    draw = lambda high, *shape: torch.randint(0, high, shape, generator=generator)
    units = torch.stack([draw(n, batch, config.window) for n in (NUM_UNITS, 3, 2)], -1)
    share = torch.rand(batch, 1, generator=generator) if present is None else torch.full((batch, 1), present)
    there = torch.rand(batch, config.window, generator=generator) < share
    units[..., 0] = torch.where(there, units[..., 0].clamp(min=PAD + 1), PAD)
    history = torch.randn(batch, config.history_tokens, 2 * config.mel_bins, generator=generator)
    return units, history, draw(config.voices + 1, batch)


def random_rows(config: ConditionConfig, batch: int, generator: torch.Generator) -> torch.Tensor:
    places = config.past + config.slots + config.lookahead
    draw = lambda high: torch.randint(0, high, (batch, places), generator=generator)
    elapsed = torch.where(torch.rand(batch, places, generator=generator) < 0.2, 0, draw(2 * LONGEST))
    return torch.stack([draw(NUM_UNITS), draw(3), draw(2), elapsed], -1)


@pytest.fixture
def threads():
    before = native.threads()
    yield ops.set_num_threads
    ops.set_num_threads(before)


@pytest.mark.parametrize("present", [None, 0.0, 1.0], ids=["some", "no unit", "all units"])
@pytest.mark.parametrize("name", NETS)
@torch.inference_mode()
def test_equals_the_definition(isa, threads, name, present):
    generator = fresh_generator()
    nets = random_nets(name, generator)
    config, batch = nets[0].config, int(torch.randint(1, 4, (), generator=generator))
    packed, plain = packed_and_plain(nets)
    units, history, voices = random_windows(config, batch, generator, present)
    noisy = torch.randn(batch, config.slots, config.mel_bins, generator=generator)
    t = float(torch.rand((), generator=generator))
    wanted = plain.read(units, history.double(), voices)
    states = packed.read(units, history, voices)
    there = torch.ones(batch, wanted.memory.shape[1], dtype=torch.bool)
    there[:, 1: 1 + config.window] = ~wanted.padding
    assert torch.equal(states.padding, wanted.padding)
    for got, want, seen in ((states.memory, wanted.memory, there), (states.keys, wanted.keys, ~wanted.padding)):
        assert (got[seen] - want[seen]).abs().max() < 1e-4 if seen.any() else True
        assert not got[~seen].any()
    exact = plain.net.align(States(states.memory.double(), states.keys.double(), states.padding), noisy.double(), torch.tensor([t]))
    logits, offset = packed._head(states.memory, states.keys, states.padding, noisy, packed._base(t))
    assert torch.equal(packed.align(states, noisy, t), logits)
    assert torch.equal(logits.isinf(), exact[0].isinf()) and not logits.isnan().any()
    seen = logits.isfinite()
    assert (logits - exact[0])[seen].abs().max() < 1e-4 if seen.any() else True
    assert (offset - exact[1]).abs().max() < 1e-5
    for count in (1, 2, 5):
        threads(count)
        again = packed.read(units, history, voices)
        assert all(torch.equal(a, b) for a, b in zip(vars(again).values(), vars(states).values()))
        assert torch.equal(packed.align(again, noisy, t), logits)
    for i in range(batch):
        alone = packed.read(*(x[i:i + 1].clone() for x in (units, history, voices)))
        assert all(torch.equal(a, b[i:i + 1]) for a, b in zip(vars(alone).values(), vars(states).values()))
        assert torch.equal(packed.align(alone, noisy[i:i + 1], t), logits[i:i + 1])


@pytest.mark.parametrize("name", NETS)
@torch.inference_mode()
def test_conditions_equal_the_definition(isa, threads, name):
    generator = fresh_generator()
    nets = random_nets(name, generator)
    config, batch = nets[1].config, int(torch.randint(1, 4, (), generator=generator))
    packed, plain = packed_and_plain(nets)
    rows, voices = random_rows(config, batch, generator), torch.randint(0, config.voices, (batch,), generator=generator)
    features_in_float = PlainOrchestrator(plain.net, lambda features, voices: plain.condition(features.double(), voices))
    wanted, got = features_in_float.conditions(rows, voices), packed.conditions(rows, voices)
    for a, b in zip(got, wanted):
        assert a.shape == b.shape and relative_error(a, b) < 1e-5
    for count in (1, 2, 5):
        threads(count)
        assert all(torch.equal(a, b) for a, b in zip(packed.conditions(rows, voices), got))
    for i in range(batch):
        alone = packed.conditions(rows[i:i + 1].contiguous(), voices[i:i + 1])
        assert all(torch.equal(a, b[i:i + 1]) for a, b in zip(alone, got))


@torch.inference_mode()
def test_every_step_of_the_flow_has_its_own_time():
    generator = fresh_generator()
    packed, plain = packed_and_plain(random_nets("mini", generator))
    config = plain.net.config
    states = packed.read(*random_windows(config, 1, generator, 1.0))
    noisy = torch.randn(1, config.slots, config.mel_bins, generator=generator)
    for t in torch.rand(70, generator=generator).tolist() + [0.0, 1.0]:
        exact = plain.net.align(States(states.memory.double(), states.keys.double(), states.padding), noisy.double(), torch.tensor([t]))
        for _ in range(2):
            assert (packed.align(states, noisy, t) - exact[0]).abs().max() < 1e-4


@pytest.mark.skipif(not (SHIPPED / "mini" / MANIFEST).is_file(), reason="the mini model is not in this tree")
@torch.inference_mode()
def test_the_shipped_model_points_where_its_definition_does():
    """Over random windows of phones, in float32 both, the logits differ by rounding and the best unit is the same unless two
    are as good."""
    from streamchar_rt.bundle import open_bundle
    from streamchar_rt.pipeline import Models

    generator, opened = fresh_generator(), open_bundle("mini")
    plain, packed = (Models.from_parts(opened.manifest, opened.tensors(), kernels=kernels) for kernels in ("reference", "auto"))
    assert isinstance(plain.orchestration, PlainOrchestrator) and isinstance(packed.orchestration, PackedOrchestrator)
    config, agree, windows = plain.orchestrator.config, 0, 0
    for _ in range(40):
        units, history, voices = random_windows(config, 5, generator)
        units[:, config.window_before, 0] = FIRST_PHONE
        noisy = torch.randn(5, config.slots, config.mel_bins, generator=generator)
        want, got = (m.orchestration.align(m.orchestration.read(units, history, voices), noisy, 0.0) for m in (plain, packed))
        seen = want.isfinite()
        assert torch.equal(seen, got.isfinite()) and (want - got)[seen].abs().max() < 2e-4
        two = want.topk(2, -1).values
        same = want.argmax(-1) == got.argmax(-1)
        assert (same | (two[..., 0] - two[..., 1] < 4e-4)).all()
        agree, windows = agree + int(same.all(-1).sum()), windows + 5
    print(f"{agree} of {windows} windows agree in every half-frame")
    assert agree >= 0.99 * windows


def test_packing_takes_the_layers_away():
    nets = random_nets("mini", fresh_generator())
    PackedOrchestrator(*nets)
    kept = [m for net in nets for m in net.modules() if isinstance(m, (nn.Linear, nn.Conv1d))]
    assert len(kept) == 2 and all(m in list(nets[0].time.modules()) for m in kept)
    assert not serves(OrchestratorConfig(width=32, heads=2)) and serves(NETS["grouped"][0])


def test_numbers_that_are_in_no_table_are_typed_errors():
    generator = fresh_generator()
    nets = random_nets("mini", generator)
    units, history, voices = random_windows(nets[0].config, 2, generator)
    rows = random_rows(nets[1].config, 1, generator)
    packed = PackedOrchestrator(*nets)
    for column, number in ((0, NUM_UNITS), (0, -1), (1, 3), (2, 2)):
        wrong = units.clone()
        wrong[1, 5, column] = number
        with pytest.raises(IndexError):
            packed.read(wrong, history, voices)
    for column, number in ((0, NUM_UNITS), (1, -1)):
        wrong = rows.clone()
        wrong[0, 40, column] = number
        with pytest.raises(IndexError):
            packed.conditions(wrong, voices[:1].clamp(max=3))
    with pytest.raises(IndexError):
        packed.read(units, history, voices + 5)
    with pytest.raises(IndexError):
        packed.conditions(rows, torch.tensor([4]))


def test_parts_and_arguments_that_do_not_fit_are_typed_errors():
    generator = fresh_generator()
    nets = random_nets("mini", generator)
    config, embeddings = nets[0].config, copy.deepcopy(nets)
    packed = PackedOrchestrator(*nets)
    reader, head, encoder = packed._reader, packed._head, packed._encoder
    units, history, voices = random_windows(config, 2, generator)
    states, base = packed.read(units, history, voices), torch.zeros(40, 192)
    noisy = torch.randn(2, config.slots, config.mel_bins, generator=generator)
    rows = random_rows(nets[1].config, 2, generator)
    memory, keys, padding = vars(states).values()
    layer, other = head.layers[0], lambda **parts: ops.ConditionLayer(**{**vars(head.layers[0]), **parts})
    make_head = lambda layers=(layer,), **parts: ops.ConditionHead(
        layers, **{**dict(heads=3, noisy=head.noisy, final_norm=embeddings[0].final_norm, pointer=head.pointer,
                          offset=head.offset), **parts})
    rope, table = torch.zeros(65, 32, 2), torch.zeros(4, 192)
    make_reader = lambda rope=rope, **parts: ops.TranscriptReader(
        reader.model, rope, **{**dict(unit=table, stress=table, word_start=table, voice=table, place=table,
                                      history=reader.history, key=reader.key, absent=0), **parts})
    make_encoder = lambda **parts: ops.ConditionEncoder(
        **{**dict(unit=table, stress=table, times=table, voice=table, convolutions=encoder.convolutions, longest=15,
                  to_audio=encoder.to_audio, to_video=encoder.to_video, audio=(8, 16), video=(4, 4)), **parts})
    make_head(), make_reader(), make_encoder()
    for wrong in (
        lambda: reader(units.int(), history, voices), lambda: reader(units[:, :5], history, voices),
        lambda: reader(units, history[:, 1:], voices), lambda: reader(units, history, voices[:1]),
        lambda: make_reader(rope[:4]), lambda: make_reader(torch.zeros(65, 16, 2)), lambda: make_reader(key=head.offset),
        lambda: make_reader(history=head.offset), lambda: make_reader(unit=table[:, 1:]),
        lambda: head(memory[:, :32], keys, padding, noisy, base), lambda: head(memory, keys, padding, noisy, base[:31]),
        lambda: head(memory, keys, padding.int(), noisy, base), lambda: head(memory, keys, padding, noisy[:1], base),
        lambda: head(memory.double(), keys, padding, noisy, base), lambda: head(memory[0], keys, padding, noisy, base),
        lambda: make_head(heads=5), lambda: make_head(pointer=head.offset), lambda: make_head(offset=head.pointer),
        lambda: make_head([other(qkv=layer.query)]), lambda: make_head([other(contract=layer.expand)]),
        lambda: make_head([other(norms=layer.norms[:2])]), lambda: make_head(final_norm=nn.LayerNorm(192, eps=1e-6)),
        lambda: make_head(final_norm=nn.LayerNorm(190)),
        lambda: encoder(rows[:, :39], voices), lambda: encoder(rows.int(), voices), lambda: encoder(rows, voices[:1]),
        lambda: make_encoder(times=table[:3]), lambda: make_encoder(convolutions=[head.offset]),
        lambda: make_encoder(voice=table[:, :3]), lambda: make_encoder(to_audio=head.noisy),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            wrong()
    with pytest.raises(UnsupportedError):
        make_head(heads=6)
