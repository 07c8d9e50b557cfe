"""The vocoder's native call against its torch layers in float64."""
from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from streamchar_rt import ops
from streamchar_rt.codecs.packed_vocoder import PackedVocoder
from streamchar_rt.codecs.vocoder import KERNEL, LOOKAHEAD, Vocoder, VocoderConfig, VocoderState
from streamchar_rt.errors import ConfigError

from .native_support import fresh_generator, isa, native, relative_error  # noqa: F401

CONFIGS = [VocoderConfig(), VocoderConfig(width=13, hidden=29, depth=2, hop=5, n_fft=16, mel_bins=7),
           VocoderConfig(width=64, hidden=3, depth=0, hop=64, n_fft=64, mel_bins=1)]


def random_vocoder(config: VocoderConfig, generator: torch.Generator) -> Vocoder:
    """With norms, biases and scales that matter."""
    net = Vocoder(config).eval().requires_grad_(False)
    for name, weight in net.named_parameters():
        near = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        spread = 0.2 if weight.ndim == 1 else 1.0 / weight[0].numel() ** 0.5
        weight.copy_(near + spread * torch.randn(weight.shape, generator=generator))
    return net


def pair(config: VocoderConfig, generator: torch.Generator) -> tuple[PackedVocoder, Vocoder]:
    """The second in float64."""
    net = random_vocoder(config, generator)
    plain = copy.deepcopy(net).double()
    return PackedVocoder(net), plain


def spectrum_of(packed: PackedVocoder, mel: torch.Tensor, state: VocoderState):
    """What the head gives, and the state behind it."""
    out, inputs, blocks = packed.layers(mel, state.inputs.contiguous(), state.blocks)
    return out, VocoderState(inputs, blocks, state.tail, state.weight)


def exact_head(plain: Vocoder, mel: torch.Tensor, state: VocoderState):
    """The same in float64, before magnitude and phase are taken apart."""
    kept, seen = plain.head.forward, []
    plain.head.forward = lambda x: seen.append(kept(x)) or seen[-1]
    try:
        _, state = plain.spectrum(mel.double(), VocoderState(state.inputs.double(), [x.double() for x in state.blocks],
                                                             state.tail, state.weight))
    finally:
        plain.head.forward = kept
    return seen[0], state


@pytest.fixture
def threads():
    before = native.threads()
    yield ops.set_num_threads
    ops.set_num_threads(before)


@pytest.mark.parametrize("config", CONFIGS, ids=["mini", "odd sizes", "no block"])
@torch.inference_mode()
def test_equals_the_torch_layers(isa, threads, config):
    generator = fresh_generator()
    packed, plain = pair(config, generator)
    batch = int(torch.randint(1, 4, (), generator=generator))
    state = packed.start(batch)
    for count in (KERNEL - 1 - LOOKAHEAD + 5, 1, 32, 61):
        mel = 2 * torch.randn(batch, count, config.mel_bins, generator=generator) - 4
        wanted, after = exact_head(plain, mel, state)
        out, state_after = spectrum_of(packed, mel, state)
        assert out.shape == wanted.shape and relative_error(out, wanted) < 1e-5
        for got, want in zip((state_after.inputs, *state_after.blocks), (after.inputs, *after.blocks), strict=True):
            assert got.shape == want.shape and relative_error(got, want) < 1e-5
        for threads_used in (1, 2, 5):
            threads(threads_used)
            again, _ = spectrum_of(packed, mel, state)
            assert torch.equal(again, out)
        for i in range(batch):
            own = VocoderState(state.inputs[i:i + 1], [x[i:i + 1] for x in state.blocks], None, None)
            assert torch.equal(spectrum_of(packed, mel[i:i + 1], own)[0], out[i:i + 1])
        state = state_after


@torch.inference_mode()
def test_a_stream_in_pieces_has_the_same_bytes(rng):
    generator = fresh_generator()
    packed, _ = pair(CONFIGS[1], generator)
    mel = torch.randn(1, 90, 7, generator=generator)
    whole, end = packed.stream(mel, packed.start())
    state, pieces, at = packed.start(), [], 0
    while at < mel.shape[1]:
        step = int(rng.integers(1, 20)) if at else 1               # the first one is too short for a frame
        samples, state = packed.stream(mel[:, at: at + step], state)
        pieces.append(samples)
        at += step
    assert torch.equal(torch.cat(pieces, 1), whole)
    assert all(torch.equal(a, b) for a, b in zip((state.inputs, *state.blocks), (end.inputs, *end.blocks)))


@torch.inference_mode()
def test_samples_of_the_torch_vocoder(seeded):
    net = random_vocoder(VocoderConfig(), fresh_generator())
    plain, mel = copy.deepcopy(net), torch.randn(2, 50, 80)
    packed = PackedVocoder(net)
    wanted, got = plain(mel), packed(mel)
    assert got.shape == wanted.shape and relative_error(got, wanted) < 1e-3
    state = packed.start(2)
    held = [state.inputs, *state.blocks, state.tail, state.weight]
    before = [x.clone() for x in held]
    packed.stream(mel, state)
    assert all(torch.equal(a, b) for a, b in zip(held, before))       # streams may share a state
    assert not [m for m in net.modules() if isinstance(m, nn.Linear)] and net.embed is None


def test_parts_and_frames_that_do_not_fit_are_typed_errors():
    generator = fresh_generator()
    packed, _ = pair(CONFIGS[1], generator)
    layers, norm = packed.layers, nn.LayerNorm(13)
    (block, _), mel, inputs = layers.blocks, torch.zeros(2, 9, 7), torch.zeros(2, 7, 6)
    memories = [torch.zeros(2, 13, 6)] * 2
    other = lambda **parts: [ops.VocoderBlock(**{**vars(block), **parts})]
    make = lambda blocks=(block,), **parts: ops.VocoderLayers(
        list(blocks), **{**dict(taps=7, embed=layers.embed, embed_norm=norm, final_norm=norm, head=layers.head), **parts})
    make()
    for wrong in (
        lambda: make(taps=6), lambda: make(taps=1), lambda: make(embed=block.expand), lambda: make(head=block.contract),
        lambda: make(embed_norm=nn.LayerNorm(12)), lambda: make(final_norm=nn.LayerNorm(13, eps=1e-6)),
        lambda: make(other(depthwise=nn.Conv1d(13, 13, 7))), lambda: make(other(depthwise=nn.Conv1d(13, 13, 5, groups=13))),
        lambda: make(other(expand=block.contract)), lambda: make(other(contract=layers.embed)),
        lambda: make(other(scale=torch.ones(12))), lambda: layers(mel[0], inputs, memories),
        lambda: layers(mel, inputs, memories[:1]), lambda: layers(mel[:, :, :6], inputs, memories),
        lambda: layers(mel, torch.zeros(2, 7, 7), memories), lambda: layers(mel[:, :1], inputs[..., :5], memories),
        lambda: layers(mel.double(), inputs, memories), lambda: layers(mel, inputs[:1], memories),
        lambda: layers(mel, inputs, [memories[0][..., :5]] * 2),
    ):  # fmt: skip
        with pytest.raises(ConfigError):
            wrong()
