"""PackedLinear against ``torch.nn.functional.linear`` in float32 and bfloat16, at the shapes of ``mini``.

``speedup_vs_torch`` is over float32, the way that ``mini`` runs in torch; ``torch_bf16_us`` is torch at its narrowest.
With GELU torch runs it after the product.
"""
from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from streamchar_rt import ops

from .in_turns import take_turns, threads_set

SHAPES = [(272, 256, 768), (272, 256, 256), (272, 256, 384), (272, 384, 256), (16, 256, 768), (64, 256, 768)]


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows,inputs,outputs", SHAPES, ids=lambda n: str(n))
@pytest.mark.parametrize("storage,limit", [("fp32", 1e-5), ("bf16", 4e-3), ("int8", 1.5e-2)], ids=["cpu-fp32", "cpu-bf16", "cpu-int8"])
def test_packed_linear(benchmark, storage, limit, rows, inputs, outputs, threads):
    torch.manual_seed(torch.seed())
    weight, bias = torch.randn(outputs, inputs) / inputs ** 0.5, torch.randn(outputs)
    x = torch.randn(rows, inputs)
    activation = "gelu_tanh" if outputs == 384 else None
    packed = ops.PackedLinear(weight, bias, storage=storage)
    half = [t.bfloat16() for t in (weight, bias)]

    def with_torch(x, weight, bias):
        y = F.linear(x, weight, bias)
        return F.gelu(y, approximate="tanh") if activation else y

    ways = {
        "native": lambda: packed(x, activation=activation),
        "torch": lambda: with_torch(x, weight, bias),
        "torch_bf16": lambda: with_torch(x.bfloat16(), *half).float(),
    }
    with threads_set(threads), torch.inference_mode():
        wanted = with_torch(x.double(), weight.double(), bias.double())
        assert float((ways["native"]() - wanted).norm() / wanted.norm()) < limit
        turns = take_turns(ways)
        benchmark(ways["native"])
    work = 2e-9 * rows * inputs * outputs
    benchmark.extra_info.update(turns.rows(), gflop_per_s=work / turns.median("native"), threads=threads)


class HalfBlock:
    """What surrounds one modality's attention in a layer of ``mini``: four linear layers, modulated and gated."""

    def __init__(self, rows: int, storage: str, width: int = 256, feed_forward: int = 384) -> None:
        make = lambda inputs, outputs: torch.nn.Linear(inputs, outputs).requires_grad_(False)
        self.layers = [make(width, 3 * width), make(width, width), make(width, feed_forward), make(feed_forward, width)]
        self.packed = [ops.PackedLinear.pack(layer, storage) for layer in self.layers]
        self.x, self.mixed = torch.randn(2, 1, rows, width)
        self.modulation = torch.randn(6, 1, 1, width) * 0.2

    def native(self) -> torch.Tensor:
        qkv, out, expand, contract = self.packed
        shift, scale, gate, shift_ff, scale_ff, gate_ff = self.modulation
        self.qkv = qkv(self.x, modulate=(shift, scale))
        x = out(self.mixed, gate=gate, residual=self.x)
        y = expand(x, modulate=(shift_ff, scale_ff), activation="gelu_tanh")
        return contract(y, gate=gate_ff, residual=x)

    def torch(self) -> torch.Tensor:
        qkv, out, expand, contract = self.layers
        shift, scale, gate, shift_ff, scale_ff, gate_ff = self.modulation
        norm = lambda x: F.layer_norm(x, x.shape[-1:])
        self.qkv = qkv(norm(self.x) * (1 + scale) + shift)
        x = self.x + gate * out(self.mixed)
        y = F.gelu(expand(norm(x) * (1 + scale_ff) + shift_ff), approximate="tanh")
        return x + gate_ff * contract(y)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("rows", [16, 256])
@pytest.mark.parametrize("storage,limit", [("fp32", 1e-5), ("bf16", 4e-3), ("int8", 1.5e-2)], ids=["cpu-fp32", "cpu-bf16", "cpu-int8"])
def test_linears_of_a_block(benchmark, storage, limit, rows, threads):
    torch.manual_seed(torch.seed())
    half = HalfBlock(rows, storage)
    with threads_set(threads), torch.inference_mode():
        wanted = half.torch()
        assert float((half.native() - wanted).norm() / wanted.norm()) < limit
        turns = take_turns({"native": half.native, "torch": half.torch})
        benchmark(half.native)
    benchmark.extra_info.update(turns.rows(), threads=threads)
