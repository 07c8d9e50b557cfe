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
@pytest.mark.parametrize("storage,limit", [("bf16", 4e-3), ("int8", 1.5e-2)], ids=["cpu-bf16", "cpu-int8"])
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
