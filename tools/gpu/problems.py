"""Random inputs of the ops, shared by GPU tests, benchmarks, sanitizer runs and the chain."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from streamchar_rt import ops
from streamchar_rt.ops import reference

if TYPE_CHECKING:
    from streamchar_rt.ops._native import AttentionStream


@dataclass
class AttentionProblem:
    """Raw queries, ready keys and values per segment, and what the op needs beside them; bfloat16, or keys and values
    in narrow storage with their ranges."""

    q: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    norm: ops.QkNorm
    rope: ops.Rope
    distances: list[float]
    ranges: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def random(
        cls, tokens: int, rows: list[int], heads: int, head_dim: int, groups: int = 2, device: str = "cuda"
    ) -> AttentionProblem:
        third = head_dim // 6
        freqs, axes = ops.rope_frequencies((head_dim // 2 - 2 * third, third, third))
        weight = (torch.rand(2, groups, head_dim) + 0.5).to(device)
        cuts = [tokens * i // groups for i in range(groups)]
        draw = lambda n: torch.randn(n, heads, head_dim, dtype=torch.bfloat16, device=device)
        q, keys = draw(tokens), [draw(n) for n in rows]
        return cls(
            q, keys, [torch.randn_like(k) for k in keys], ops.QkNorm(weight[0], weight[1], (*cuts, tokens)),
            ops.Rope(torch.rand(tokens, 3) * 16, freqs, axes).to(device),
            [16.0 * i for i in reversed(range(len(rows)))],
        )

    def stored(self, dtype: torch.dtype) -> AttentionProblem:
        """The same with keys and values in narrow storage."""
        if dtype is torch.bfloat16:
            return self
        narrow = [[reference.to_storage(x, dtype) for x in tensors] for tensors in (self.keys, self.values)]
        keys, values = ([stored for stored, _ in tensors] for tensors in narrow)
        ranges = [(k, v) for (_, k), (_, v) in zip(*narrow)]
        return replace(self, keys=keys, values=values, ranges=ranges)

    def restored(self) -> AttentionProblem:
        """The same with what narrow storage holds, in bfloat16."""
        if not self.ranges:
            return self
        restore = lambda tensors, i: [reference.from_storage(x, r[i]).bfloat16() for x, r in zip(tensors, self.ranges)]
        return replace(self, keys=restore(self.keys, 0), values=restore(self.values, 1), ranges=[])

    def stream(self) -> AttentionStream:
        from streamchar_rt.ops._native import AttentionStream, KvSegment

        ranges = self.ranges or [None] * len(self.keys)
        segments = [KvSegment(*s) for s in zip(self.keys, self.values, self.distances, ranges)]
        return AttentionStream(self.q, segments, self.rope, self.norm.q_weight, self.norm.bounds, self.norm.eps)

    def plain_stream(self) -> AttentionStream:
        """What plain attention is given: ready queries, and all keys and values joined at their positions."""
        from streamchar_rt.ops._native import AttentionStream, KvSegment

        joined = KvSegment(torch.cat(self.turned_keys()), torch.cat(self.values), 0.0, None)
        return AttentionStream(self.ready_queries(), [joined], self.rope, None, self.norm.bounds)

    def attend(self, path: str = "auto") -> tuple[Tensor, Tensor]:
        return attend_together([self], path)[0]

    def ready_queries(self) -> Tensor:
        """Normalised and rotated as a torch program does it, in bfloat16."""
        return torch_ready(self.q, self.norm.q_weight, self.norm, self.rope)

    def turned_keys(self) -> list[Tensor]:
        """The keys at their positions relative to the queries, as plain attention wants them."""
        return [reference.rotate(k.float(), self.rope.shift(-d, torch.float32, k.device)).bfloat16()
                for k, d in zip(self.keys, self.distances)]

    def truth(self) -> tuple[Tensor, Tensor]:
        """In float64, from the same stored inputs."""
        keys, values = self.keys, self.values
        if self.ranges:
            keys = [reference.from_storage(k, r) for k, (r, _) in zip(keys, self.ranges)]
            values = [reference.from_storage(v, r) for v, (_, r) in zip(values, self.ranges)]
        return reference.segment_attention(
            self.q.double(), [k.double() for k in keys], [v.double() for v in values],
            weight=self.norm.q_weight.double(), bounds=self.norm.bounds, rope=self.rope, distances=self.distances,
            eps=self.norm.eps, return_lse=True,
        )

    @property
    def flops(self) -> float:
        return 4.0 * self.q.numel() * sum(len(k) for k in self.keys)

    @property
    def nbytes(self) -> int:
        return 2 * self.q.nbytes + 2 * sum(k.nbytes for k in self.keys)


@dataclass
class LinearProblem:
    """A linear layer and what follows it: "none", "gelu_tanh" or "gated_residual"; bfloat16."""

    x: Tensor
    weight: Tensor
    bias: Tensor
    finish: str
    gate: Tensor | None = None
    residual: Tensor | None = None

    @classmethod
    def random(
        cls, batch: int, tokens: int, inputs: int, outputs: int, finish: str, device: str = "cuda"
    ) -> LinearProblem:
        draw = lambda *shape: torch.randn(*shape, dtype=torch.bfloat16, device=device)
        gated = finish == "gated_residual"
        return cls(draw(batch, tokens, inputs), draw(outputs, inputs) / inputs ** 0.5, draw(outputs), finish,
                   draw(batch, 1, 6, outputs).unbind(-2)[2] if gated else None,
                   draw(batch, tokens, outputs) if gated else None)

    @property
    def activation(self) -> str | None:
        return "gelu_tanh" if self.finish == "gelu_tanh" else None

    def fused(self, path: str = "auto", out: Tensor | None = None) -> Tensor:
        from streamchar_rt.ops.linear import cuda_fused_linear

        return cuda_fused_linear(self.x, self.weight, self.bias, self.activation, self.gate, self.residual, out,
                                 (*self.x.shape[:2], len(self.weight)), path)

    def chain(self) -> Tensor:
        """As torch has it, step by step."""
        y = F.linear(self.x, self.weight, self.bias)
        if self.finish == "gelu_tanh":
            return F.gelu(y, approximate="tanh")
        return y if self.residual is None else self.residual + self.gate * y

    def truth(self) -> Tensor:
        """In float64, from the same inputs."""
        double = lambda x: None if x is None else x.double()
        return reference.fused_linear(*map(double, (self.x, self.weight, self.bias)), self.activation,
                                      double(self.gate), double(self.residual))

    @property
    def flops(self) -> float:
        return 2.0 * self.x.numel() * len(self.weight)

    @property
    def nbytes(self) -> int:
        """Read and written, each once."""
        result = 2 * self.x.shape[0] * self.x.shape[1] * len(self.weight)
        return self.x.nbytes + self.weight.nbytes + result * (1 if self.residual is None else 2)


def attend_together(problems: Sequence[AttentionProblem], path: str = "auto") -> list[tuple[Tensor, Tensor]]:
    """One launch for all."""
    from streamchar_rt.ops._native import cuda_attention_streams

    return cuda_attention_streams([p.stream() for p in problems], path)


def torch_ready(x: Tensor, weight: Tensor, norm: ops.QkNorm, rope: ops.Rope) -> Tensor:
    """RMSNorm per head and group, then rotation: (T, H, D) bfloat16."""
    y = F.rms_norm(x, x.shape[-1:], eps=norm.eps)
    y = torch.cat([y[a:b] * w for a, b, w in zip(norm.bounds, norm.bounds[1:], weight)])
    pairs = torch.view_as_complex(y.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.view_as_complex(rope.table)[:, None]).flatten(-2).bfloat16()


def kernel_paths() -> list[str]:
    """The kernels of segment_attention, and of fused_linear where it is built, that run on this GPU."""
    from streamchar_rt.ops._native import native

    hopper = native.cuda_has_sm90a and torch.cuda.get_device_capability() == (9, 0)
    return ["sm80", "sm90"] if hopper else ["sm80"]


def spectra(batch: int, count: int, size: int, hop: int) -> tuple:
    """Arguments of istft_overlap_add, under way."""
    frames = torch.randn(batch, size // 2 + 1, count, dtype=torch.complex64, device="cuda")
    window = torch.rand(size, device="cuda") + 0.1
    return frames, window, hop, torch.randn(batch, size - hop, device="cuda"), torch.rand(size - hop, device="cuda")
