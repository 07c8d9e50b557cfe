"""One layer of the denoiser's attention, native against the chain a torch program would run.

The chain: RMSNorm and rotation of queries and keys, concatenation with the cached segments, one
``scaled_dot_product_attention``. It is given its cached keys at their final positions, so it has less to do
than the op, which also turns the queries for three segments.
"""
from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from streamchar_rt import ops
from streamchar_rt.ops import reference
from streamchar_rt.ops._native import strided

from .in_turns import busy_cores, take_turns, threads_set

HEADS, HEAD_DIM, TOKENS = 4, 64, 272
SEGMENTS = {"reference": (64, 48.0), "sink": (272, 32.0), "motion": (272, 16.0)}


class Layer:
    """One layer's attention at the shapes of ``mini``: 272 queries, 880 keys, 4 heads of 64."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.freqs, self.axes = ops.rope_frequencies()
        self.norm, self.rope = self.tokens_at(TOKENS)
        self.cache = ops.ContextCache(
            layers=1, heads=HEADS, head_dim=HEAD_DIM, capacity={n: rows for n, (rows, _) in SEGMENTS.items()},
            dtype=dtype, kernels="native",
        )
        self.distances = {n: distance for n, (_, distance) in SEGMENTS.items()}
        self.cached = []
        for name, (rows, distance) in SEGMENTS.items():
            norm, rope = self.tokens_at(rows)
            k, v = torch.randn(2, rows, HEADS, HEAD_DIM)
            ops.append(self.cache, 0, name, k, v, norm=norm, rope=rope)
            self.cache.commit(name)
            ready = reference.normalize_rotate(k, norm.k_weight, norm.bounds, rope)
            self.cached.append((reference.rotate(ready, rope.shift(-distance)), v))
        # As a fused projection leaves them: (tokens, 3, heads, head_dim).
        self.q, self.k, self.v = torch.randn(TOKENS, 3, HEADS, HEAD_DIM).unbind(1)

    def tokens_at(self, tokens: int) -> tuple[ops.QkNorm, ops.Rope]:
        weight = torch.rand(2, 2, HEAD_DIM) + 0.5
        norm = ops.QkNorm(weight[0], weight[1], (0, tokens - min(16, tokens // 2), tokens))
        return norm, ops.Rope(torch.rand(tokens, 3) * 16, self.freqs, self.axes)

    def native(self) -> torch.Tensor:
        return ops.attend(
            self.cache, 0, self.q, self.k, self.v, norm=self.norm, rope=self.rope, distances=self.distances
        )

    def plain(self) -> torch.Tensor:
        """The attention alone: ready queries over packed keys, without norm, rotation or appending."""
        context, out = self.cache._store._context, torch.empty(TOKENS, HEADS, HEAD_DIM)
        reads = [(i, 0, 0) for i in range(len(SEGMENTS))]
        none = (0, 0, 0)
        context.attend(0, TOKENS, strided(self.q), none, none, 0, 0, [0], 1e-6, 0, reads, None, out.data_ptr())
        return out

    def torch_chain(self) -> torch.Tensor:
        norm, table = self.norm, self.rope.table.unsqueeze(1)

        def ready(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            y = torch.nn.functional.rms_norm(x, (HEAD_DIM,), eps=norm.eps)
            y = torch.cat([y[a:b] * w for a, b, w in zip(norm.bounds, norm.bounds[1:], weight)])
            turned = torch.view_as_complex(y.unflatten(-1, (-1, 2))) * torch.view_as_complex(table)
            return torch.view_as_real(turned).flatten(-2)

        keys = torch.cat([k for k, _ in self.cached] + [ready(self.k, norm.k_weight)])
        values = torch.cat([v for _, v in self.cached] + [self.v])
        query = ready(self.q, norm.q_weight)
        out = torch.nn.functional.scaled_dot_product_attention(*(x.transpose(0, 1)[None] for x in (query, keys, values)))
        return out[0].transpose(0, 1)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize(
    "dtype,limit", [(torch.float32, 2e-6), (torch.bfloat16, 8e-3), (torch.int8, 1.8e-2)],
    ids=["cpu-fp32", "cpu-bf16", "cpu-int8"],
)
def test_segment_attention(benchmark, dtype, limit, threads):
    torch.manual_seed(torch.seed())
    layer = Layer(dtype)
    with threads_set(threads), torch.inference_mode():
        wanted = layer.torch_chain()
        assert float((layer.native() - wanted).norm() / wanted.norm()) < limit
        turns = take_turns({"native": layer.native, "torch": layer.torch_chain})
        benchmark(layer.native)
    keys = TOKENS + sum(rows for rows, _ in SEGMENTS.values())
    work = 4e-9 * HEADS * HEAD_DIM * TOKENS * keys
    benchmark.extra_info.update(turns.rows(), gflop_per_s=work / turns.median("native"), threads=threads)


def call_over_and_over(way: str, calls: int = 400) -> None:
    """Prints the median of the seconds of a call of "native" or "torch_chain" in fp32 that only its like surround."""
    call, seconds = getattr(Layer(torch.float32), way), []
    with threads_set(os.cpu_count() or 1), torch.inference_mode():
        for _ in range(calls + 50):
            begin = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - begin)
    print(statistics.median(seconds[50:]))


def test_at_the_best_setting_of_each(benchmark):
    """``speedup_vs_torch``: on all cores, in processes of their own and in turns, three each, so that nothing disturbs
    either: native over torch with OpenMP's threads asleep between calls, spinning for a while (no policy set), or always.
    Torch runs at one of two speeds, a process long; its fastest process counts, and of native the one in the middle."""
    settings = {"native": ("native", "passive"), "passive": ("torch_chain", "passive"), "default": ("torch_chain", ""),
                "active": ("torch_chain", "active")}
    found: dict[str, list[float]] = {name: [] for name in settings}
    for _ in range(3):
        for name, (way, policy) in settings.items():
            # torch first: this package would set the policy
            code = f"import torch; from benchmarks.test_segment_attention import call_over_and_over as f; f({way!r})"
            environment = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
            if policy:
                environment["OMP_WAIT_POLICY"] = policy
            done = subprocess.run([sys.executable, "-c", code], env=environment, text=True, capture_output=True, check=True,
                                  cwd=Path(__file__).parents[1])
            found[name].append(float(done.stdout))
    seconds = {name: statistics.median(values) if name == "native" else min(values) for name, values in found.items()}
    layer = Layer(torch.float32)
    with torch.inference_mode():
        benchmark(layer.native)
    benchmark.extra_info.update(
        {f"{name}_us": 1e6 * value for name, value in seconds.items()}, threads=os.cpu_count(),
        speedup_vs_torch=min(seconds[name] for name in seconds if name != "native") / seconds["native"])


def test_attention_alone(benchmark):
    """``share_of_sgemm``: the rate of the attention without anything around it, on one core, over that of torch's
    product of two large square matrices. In turns of about equal length, ten calls to one product, by CPU time."""
    torch.manual_seed(torch.seed())
    layer, size, calls = Layer(torch.float32), 1024, 10
    a, b = torch.randn(2, size, size)
    keys = sum(rows for rows, _ in SEGMENTS.values())
    work = {"native": 4e-9 * calls * HEADS * HEAD_DIM * TOKENS * keys, "sgemm": 2e-9 * size**3}

    def ten_calls() -> None:
        for _ in range(calls):
            layer.plain()

    with threads_set(1), torch.inference_mode():
        turns = take_turns({"native": ten_calls, "sgemm": lambda: a @ b})
        benchmark(layer.plain)
    rates = {way: work[way] / statistics.median(turns.cpu[way]) for way in work}
    best = {way: work[way] / min(turns.wall[way]) for way in work}
    benchmark.extra_info.update(
        share_of_sgemm=rates["native"] / rates["sgemm"], best_share_of_sgemm=best["native"] / best["sgemm"],
        gflop_per_s=rates["native"], sgemm_gflop_per_s=rates["sgemm"], isa=ops.kernels_in_use()["isa"],
    )


def test_beside_a_busy_process(benchmark):
    """``slow_down`` and ``slow_down_p99``: the median and the 99th percentile of a step beside one busy process, over the
    median without it, on all cores; ``torch_slow_down`` and ``_p99``: the same of torch's chain."""
    torch.manual_seed(torch.seed())
    layer, cores = Layer(torch.float32), os.cpu_count() or 1
    ways = {"native": layer.native, "torch": layer.torch_chain}
    with threads_set(cores), torch.inference_mode():
        alone = take_turns(ways, 300)
        with busy_cores(1):
            beside = take_turns(ways, 300)
        benchmark(layer.native)
    for way, prefix in (("native", ""), ("torch", "torch_")):
        usual, slow = alone.median(way), sorted(beside.wall[way])
        benchmark.extra_info.update({f"{prefix}slow_down": beside.median(way) / usual,
                                     f"{prefix}slow_down_p99": slow[len(slow) * 99 // 100] / usual})
    benchmark.extra_info["threads"] = cores
