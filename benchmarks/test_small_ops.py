"""adaln_modulate, gated_residual, the vocoder and istft_overlap_add against the torch expressions they stand for."""
from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from streamchar_rt import ops
from streamchar_rt.codecs.mel import HOP, N_FFT
from streamchar_rt.codecs.packed_vocoder import PackedVocoder
from streamchar_rt.codecs.vocoder import Vocoder, VocoderConfig

from .in_turns import take_turns, threads_set

BATCH, TOKENS, WIDTH = 1, 272, 256     # one layer of `mini`
FRAMES = 32                            # of audio in one chunk of `mini`

on_threads = pytest.mark.parametrize("threads", [1, 2], ids=["cpu-1", "cpu-2"])


def compare(benchmark, ways, threads, traffic):
    with threads_set(threads), torch.inference_mode():
        got, wanted = ways["native"](), ways["torch"]()
        assert float((got - wanted).norm() / wanted.norm()) < 1e-5
        turns = take_turns(ways)
        benchmark(ways["native"])
    benchmark.extra_info.update(turns.rows(), gb_per_s=traffic * 1e-9 / turns.median("native"), threads=threads)


@on_threads
def test_adaln_modulate(benchmark, threads):
    x, (shift, scale) = torch.randn(BATCH, TOKENS, WIDTH), torch.randn(2, 1, 1, WIDTH)
    ways = {
        "native": lambda: ops.adaln_modulate(x, shift, scale),
        "torch": lambda: F.layer_norm(x, (WIDTH,)) * (1 + scale) + shift,
    }
    compare(benchmark, ways, threads, traffic=2 * x.nbytes)


@on_threads
def test_gated_residual(benchmark, threads):
    x, update = torch.randn(2, BATCH, TOKENS, WIDTH)
    gate = torch.randn(1, 1, WIDTH)
    ways = {"native": lambda: ops.gated_residual(x, gate, update), "torch": lambda: x + gate * update}
    compare(benchmark, ways, threads, traffic=3 * x.nbytes)


@on_threads
def test_vocoder_layers(benchmark, threads):
    """The vocoder of `mini` but for spectra and their inverse, a chunk's frames at once."""
    net = Vocoder().eval().requires_grad_(False)
    plain, mel, state = copy.deepcopy(net), torch.randn(BATCH, FRAMES, net.config.mel_bins), net.start()
    layers = PackedVocoder(net).layers
    ways = {
        "native": lambda: layers(mel, state.inputs, state.blocks)[0],
        "torch": lambda: head_of(plain, mel, state),
    }
    compare(benchmark, ways, threads, traffic=layers.nbytes)


def head_of(vocoder, mel, state):
    """What ``Vocoder.spectrum`` makes spectra of."""
    x = vocoder.embed(torch.cat([state.inputs, (mel / 2.5 + 2.0).transpose(1, 2)], 2))
    x = vocoder.embed_norm(x.transpose(1, 2)).transpose(1, 2)
    for block, memory in zip(vocoder.blocks, state.blocks):
        x, _ = block(x, memory)
    return vocoder.head(vocoder.final_norm(x.transpose(1, 2)))


@on_threads
def test_istft_overlap_add(benchmark, threads):
    """The vocoder's own torch code; frames as its network leaves them, with the bins adjacent."""
    vocoder = Vocoder(VocoderConfig(width=16, hidden=16, depth=1)).eval()
    state = vocoder.start()
    frames = torch.randn(BATCH, FRAMES, N_FFT // 2 + 1, dtype=torch.complex64).transpose(1, 2)
    ways = {
        "native": lambda: ops.istft_overlap_add(frames, vocoder.window, HOP, state.tail, state.weight)[0],
        "torch": lambda: vocoder.overlap_add(frames, state)[0],
    }
    compare(benchmark, ways, threads, traffic=frames.nbytes + 4 * FRAMES * HOP)
