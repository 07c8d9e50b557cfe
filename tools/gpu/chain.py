"""A whole denoising step on the GPU, as one CUDA graph, with random weights; and what the engine does on cuda.

The step: for each layer adaLN, projections, attention over [reference | sink | motion | current], gated residuals and
a GELU feed-forward, for all tokens in one stream (``mini`` and ``full`` have one per modality: the same work).
``native`` takes this package's ops, ``torch`` the plain ones; both multiply matrices with torch.
"""
from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from streamchar_rt import ops
from streamchar_rt.errors import StreamCharError
from streamchar_rt.ops import reference

from . import report, timing
from .problems import AttentionProblem, torch_ready


@dataclass(frozen=True)
class Scale:
    name: str
    width: int
    heads: int
    feed_forward: int
    layers: int
    tokens: int
    context: tuple[int, ...]

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def weight_bytes(self) -> int:
        return 2 * self.layers * (4 * self.width ** 2 + 2 * self.width * self.feed_forward)


#: The shipped model; and the paper's scale at 512x512: 9 latents of 16x16 tokens, and 34 audio tokens.
SCALES = [
    Scale("mini", 256, 4, 384, 8, 272, (64, 272, 272)),
    Scale("full", 3072, 24, 14336, 30, 2338, (256, 2338, 2338)),
]


class Step:
    """Random weights of a scale, and one denoising step over them."""

    def __init__(self, scale: Scale) -> None:
        d, f = scale.width, scale.feed_forward
        draw = lambda *shape: torch.randn(*shape, dtype=torch.bfloat16, device="cuda").mul_(shape[-1] ** -0.5)
        self.scale = scale
        self.layers = [(draw(3 * d, d), draw(d, d), draw(f, d), draw(d, f)) for _ in range(scale.layers)]
        self.modulation = torch.randn(6, 1, 1, d, dtype=torch.bfloat16, device="cuda").mul_(0.1)
        # The context's keys are the same for every layer here: what counts is that they are read.
        rows = [*scale.context, scale.tokens]
        self.problem = AttentionProblem.random(scale.tokens, rows, scale.heads, scale.head_dim)
        self.turned = self.problem.turned_keys()
        self.x = torch.randn(1, scale.tokens, d, dtype=torch.bfloat16, device="cuda")

    def run(self, modulate: Callable, gate: Callable, attend: Callable) -> Tensor:
        x = self.x
        shift, scale, gain, shift_ff, scale_ff, gain_ff = self.modulation
        for qkv, out, expand, contract in self.layers:
            parts = F.linear(modulate(x, shift, scale), qkv)[0].unflatten(-1, (3, self.scale.heads, -1))
            x = gate(x, gain, F.linear(attend(*parts.unbind(1)).flatten(1), out)[None])
            y = F.gelu(F.linear(modulate(x, shift_ff, scale_ff), expand), approximate="tanh")
            x = gate(x, gain_ff, F.linear(y, contract))
        return x

    def native(self) -> Tensor:
        return self.run(ops.adaln_modulate, ops.gated_residual, self._attend_native)

    def torch(self) -> Tensor:
        return self.run(reference.adaln_modulate, reference.gated_residual, self._attend_torch)

    def _attend_native(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        from streamchar_rt.ops._native import cuda_attention, cuda_kv_append

        p = self.problem
        key, value = cuda_kv_append(k, v, p.norm, p.rope)
        return cuda_attention(q, [*p.keys[:-1], key], [*p.values[:-1], value], p.norm.q_weight, p.norm.bounds, p.rope,
                              p.distances, p.norm.eps)[0]

    def _attend_torch(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        p = self.problem
        ready = lambda x, weight: torch_ready(x, weight, p.norm, p.rope)
        keys, values = torch.cat([*self.turned[:-1], ready(k, p.norm.k_weight)]), torch.cat([*p.values[:-1], v])
        heads_first = lambda x: x.transpose(0, 1)[None]
        out = F.scaled_dot_product_attention(*map(heads_first, (ready(q, p.norm.q_weight), keys, values)))
        return out[0].transpose(0, 1)

    @property
    def flops(self) -> float:
        s = self.scale
        return s.tokens * s.weight_bytes + s.layers * self.problem.flops   # a weight is two bytes and two operations


def bench_step(out: Path, scale: Scale) -> None:
    free, _ = torch.cuda.mem_get_info()
    print(f"{scale.name}: {scale.weight_bytes / 2**30:.1f} GiB of weights, {free / 2**30:.1f} GiB free", flush=True)
    if scale.weight_bytes * 1.2 > free:
        report.add(out, {"kind": "absent", "op": "denoising_step", "case": scale.name, "way": "native",
                         "why": "the weights do not fit the device"})
        return
    step = Step(scale)
    with torch.inference_mode():
        wanted = step.torch().float()
        for way in ("native", "torch"):
            call = getattr(step, way)
            error = float((call().float() - wanted).norm() / wanted.norm())
            us, worst = timing.microseconds(call, seconds=3.0)
            report.add(out, {"kind": "time", "op": "denoising_step", "case": scale.name, "way": way, "us": us,
                             "p99_us": worst, "error": error, "tflops": step.flops / us * 1e-6})


def try_engine(out: Path) -> None:
    """What the runtime itself does on cuda: a chunk, or its refusal in its own words."""
    from streamchar_rt import Engine

    try:
        with Engine.load("mini", device="cuda") as engine, engine.session(engine.characters()[0], seed=1) as session:
            session.push_text("This is a test.")
            session.end_turn()
            chunk = session.step()
            row = {"supported": True, "detail": f"one chunk of {len(chunk.audio)} samples"}
    except StreamCharError as error:
        row = {"supported": False, "detail": str(error)}
    report.add(out, {"kind": "engine", "device_asked": "cuda", **row})
    print(f"engine on cuda: {'generates' if row['supported'] else 'does not generate'}: {row['detail']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    try_engine(out)
    for scale in SCALES:
        bench_step(out, scale)


if __name__ == "__main__":
    main()
