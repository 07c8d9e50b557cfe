"""istft_overlap_add against float64 and against torch.istft."""
from __future__ import annotations

import pytest
import torch

from streamchar_rt import ops
from streamchar_rt.errors import ConfigError
from streamchar_rt.ops import reference

from .native_support import fresh_generator, isa, native, relative_error  # noqa: F401

LIMIT = 1e-6


def problem(generator, batch, count, size, hop, layout="frames adjacent"):
    """Spectra in one of the memory layouts that programs produce, and the state of a stream under way."""
    bins = size // 2 + 1
    if layout == "bins adjacent":
        frames = torch.randn(batch, count, bins, dtype=torch.complex64, generator=generator).transpose(1, 2)
    elif layout == "slice":
        frames = torch.randn(batch + 1, bins + 2, count + 3, dtype=torch.complex64, generator=generator)
        frames = frames[1:, 1:-1, 2: 2 + count]
    else:
        frames = torch.randn(batch, bins, count, dtype=torch.complex64, generator=generator)
    window = torch.rand(size, generator=generator) + 0.1
    tail = torch.randn(batch, size - hop, generator=generator)
    weight = torch.rand(size - hop, generator=generator)
    return frames, window, hop, tail, weight


def in_double(frames, window, hop, tail, weight):
    return frames.to(torch.complex128), window.double(), hop, tail.double(), weight.double()


@pytest.mark.parametrize(
    "batch,count,size,hop",
    [(1, 32, 1024, 320), (2, 1, 1024, 320), (1, 17, 64, 16), (3, 5, 16, 16), (1, 40, 32, 1), (2, 3, 128, 127),
     (1, 2, 8192, 2048), (1, 0, 64, 16), (1, 3, 24, 7)],
)
@pytest.mark.parametrize("layout", ["frames adjacent", "bins adjacent", "slice"])
def test_equals_float64(isa, batch, count, size, hop, layout):
    arguments = problem(fresh_generator(), batch, count, size, hop, layout)
    got = ops.istft_overlap_add(*arguments)
    exact = in_double(*arguments)
    wanted = reference.istft_overlap_add(*exact)
    # A transform's error is as large as its frame makes it, also in a sample that cancels to almost nothing.
    typical = 0.0
    if count:
        typical = float((torch.fft.irfft(exact[0], size, dim=1) * exact[1][:, None]).square().mean().sqrt())
    for a, b in zip(got, wanted, strict=True):
        assert a.shape == b.shape
        assert float((a.double() - b).norm()) <= LIMIT * max(float(b.norm()), typical * b.numel() ** 0.5)


def test_definition_agrees_with_torch_istft():
    generator = fresh_generator()
    size, hop, count = 64, 16, 30
    signal = torch.randn(1, (count - 1) * hop + size, dtype=torch.float64, generator=generator)
    window = torch.hann_window(size, dtype=torch.float64)
    frames = torch.stft(signal, size, hop, window=window, center=False, return_complex=True)
    zeros = torch.zeros(1, size - hop, dtype=torch.float64)
    samples, _, _ = reference.istft_overlap_add(frames, window, hop, zeros, zeros[0])
    inner = slice(size, count * hop - size)                 # where windows overlap fully
    assert relative_error(samples[:, inner], signal[:, inner]) < 1e-12


def test_a_stream_cut_anywhere_gives_the_same_bytes(isa):
    generator = fresh_generator()
    frames, window, hop, tail, weight = problem(generator, 2, 37, 256, 80)
    whole = ops.istft_overlap_add(frames, window, hop, tail, weight)
    cuts = sorted(torch.randint(0, 38, (5,), generator=generator).tolist())
    pieces = []
    for a, b in zip([0, *cuts], [*cuts, 37]):
        samples, tail, weight = ops.istft_overlap_add(frames[..., a:b], window, hop, tail, weight)
        pieces.append(samples)
    assert torch.equal(torch.cat(pieces, 1), whole[0])
    assert torch.equal(tail, whole[1]) and torch.equal(weight, whole[2])


def test_bytes_do_not_depend_on_threads(isa):
    arguments = problem(fresh_generator(), 2, 32, 1024, 320)
    before = native.threads()
    try:
        results = []
        for threads in (1, 3):
            ops.set_num_threads(threads)
            results.append(ops.istft_overlap_add(*arguments))
    finally:
        ops.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*results))


def test_the_vocoder_decodes_with_it():
    from streamchar_rt.codecs.mel import HOP, N_FFT
    from streamchar_rt.codecs.vocoder import Vocoder, VocoderConfig

    generator = fresh_generator()
    vocoder = Vocoder(VocoderConfig(width=16, hidden=16, depth=1)).eval()
    frames = torch.randn(1, N_FFT // 2 + 1, 12, dtype=torch.complex64, generator=generator)
    start = vocoder.start()
    wanted, tail, _ = reference.istft_overlap_add(
        frames.cdouble(), vocoder.window.double(), HOP, start.tail.double(), start.weight.double())
    with torch.inference_mode():
        whole, end = vocoder.overlap_add(frames, start)
        first, state = vocoder.overlap_add(frames[..., :7], start)
        second, state = vocoder.overlap_add(frames[..., 7:], state)
    assert relative_error(whole, wanted) < LIMIT and relative_error(end.tail, tail) < LIMIT
    assert torch.equal(torch.cat([first, second], 1), whole) and torch.equal(state.tail, end.tail)


def test_bad_calls_are_typed_errors():
    frames, window, hop, tail, weight = problem(fresh_generator(), 1, 4, 64, 16)
    bad_calls = [
        lambda: ops.istft_overlap_add(frames, window, 0, tail, weight),
        lambda: ops.istft_overlap_add(frames, window, 65, tail, weight),
        lambda: ops.istft_overlap_add(frames[:, :-1], window, hop, tail, weight),
        lambda: ops.istft_overlap_add(frames[:0], window, hop, tail[:0], weight),
        lambda: ops.istft_overlap_add(frames.real, window, hop, tail, weight),
        lambda: ops.istft_overlap_add(frames, window, hop, tail[:, 1:], weight),
        lambda: ops.istft_overlap_add(frames, window.double(), hop, tail, weight),
        lambda: ops.istft_overlap_add(frames, window, hop, tail, weight, floor=0.0),
    ]
    for call in bad_calls:
        with pytest.raises(ConfigError) as caught:
            call()
        assert caught.value.hint


@pytest.mark.parametrize("count", [1, 6])
def test_operator_is_registered(count):
    arguments = problem(fresh_generator(), 2, count, 64, 16)
    torch.library.opcheck(torch.ops.streamchar.istft_overlap_add.default, arguments)
    for a, b in zip(torch.ops.streamchar.istft_overlap_add(*arguments), ops.istft_overlap_add(*arguments)):
        assert torch.equal(a, b)
