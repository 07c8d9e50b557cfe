"""PackedConv, and the video decoder made of it, against torch in float32, at the shapes of ``mini``.

SiLU of the input and what is added to the result count on both sides. torch has channels last, as its decoder does.
"""
from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F

from streamchar_rt import ops
from streamchar_rt.bundle import open_bundle
from streamchar_rt.codecs.packed_video import PackedVideoDecoder
from streamchar_rt.codecs.video import to_straight
from streamchar_rt.models import Models, encode_character
from streamchar_rt.picture import load_picture

from .in_turns import take_turns, threads_set

# Rows and columns, channels in and out, size, whether something is added: of the trunk, at 1/8, at 1/4 and the last.
SHAPES = [(16, 160, 160, 3, True), (16, 160, 1280, 1, False), (32, 80, 80, 3, True), (64, 40, 40, 3, True),
          (64, 64, 40, 1, True), (64, 40, 80, 3, False)]
LIMIT = 1.5e-2

on_threads = pytest.mark.parametrize("threads", [1, 2], ids=["cpu-1", "cpu-2"])


@on_threads
@pytest.mark.parametrize("side,inputs,outputs,size,adds", SHAPES, ids=lambda n: str(n))
def test_packed_conv(benchmark, side, inputs, outputs, size, adds, threads):
    torch.manual_seed(torch.seed())
    weight = (torch.randn(outputs, inputs, size, size) / inputs ** 0.5).contiguous(memory_format=torch.channels_last)
    bias, x, added = torch.randn(outputs), torch.randn(1, side, side, inputs), torch.randn(1, side, side, outputs)
    conv = ops.PackedConv(weight, bias)
    planes, more = x.permute(0, 3, 1, 2), added.permute(0, 3, 1, 2)      # views: channels last

    def with_torch() -> torch.Tensor:
        y = F.conv2d(F.silu(planes), weight, bias, padding=size // 2)
        return y + more if adds else y

    ways = {"native": lambda: conv(x, silu=True, added=added if adds else None), "torch": with_torch}
    with threads_set(threads), torch.inference_mode():
        got, wanted = ways["native"](), ways["torch"]().permute(0, 2, 3, 1)
        assert float((got - wanted).norm() / wanted.norm()) < LIMIT
        turns = take_turns(ways)
        benchmark(ways["native"])
    work = 2e-9 * side ** 2 * inputs * outputs * size ** 2
    benchmark.extra_info.update(turns.rows(), gflop_per_s=work / turns.median("native"), threads=threads)


@on_threads
def test_video_decoder(benchmark, threads):
    """One latent of ``mini``: four frames, from numbers to pixels."""
    bundle = open_bundle("mini")
    models = Models.from_parts(bundle.manifest, bundle.tensors())
    picture = load_picture(bundle.path(next(iter(bundle.characters.values())).file), models.width, models.height)
    character = encode_character(models, picture)
    packed = PackedVideoDecoder(copy.deepcopy(models.video_decoder))
    latents, previous = 0.5 * torch.randn(2, 1, models.video_decoder.config.latent_channels, 16, 16)
    around = latents, previous, character.picture, character.features
    ways = {
        "native": lambda: packed(*around),
        "torch": lambda: to_straight(models.video_decoder(*around).frames[0]),
    }
    with threads_set(threads), torch.inference_mode():
        got, wanted = (way().float() for way in ways.values())
        assert float((got - wanted).norm() / wanted.norm()) < LIMIT
        turns = take_turns(ways, turns=20)
        benchmark(ways["native"])
    benchmark.extra_info.update(turns.rows(), threads=threads)
