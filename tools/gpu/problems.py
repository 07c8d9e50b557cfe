"""Random inputs of the ops, shared by GPU tests, benchmarks, sanitizer runs and the chain."""
from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from streamchar_rt import ops
from streamchar_rt.ops import reference


@dataclass
class AttentionProblem:
    """Raw queries, ready keys and values per segment, and what the op needs beside them; bfloat16."""

    q: Tensor
    keys: list[Tensor]
    values: list[Tensor]
    norm: ops.QkNorm
    rope: ops.Rope
    distances: list[float]

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

    def attend(self, path: str = "auto") -> tuple[Tensor, Tensor]:
        from streamchar_rt.ops._native import cuda_attention

        return cuda_attention(self.q, self.keys, self.values, self.norm.q_weight, self.norm.bounds, self.rope,
                              self.distances, self.norm.eps, path)

    def ready_queries(self) -> Tensor:
        """Normalised and rotated as a torch program does it, in bfloat16."""
        return torch_ready(self.q, self.norm.q_weight, self.norm, self.rope)

    def turned_keys(self) -> list[Tensor]:
        """The keys at their positions relative to the queries, as plain attention wants them."""
        return [reference.rotate(k.float(), self.rope.shift(-d, torch.float32, k.device)).bfloat16()
                for k, d in zip(self.keys, self.distances)]

    def truth(self) -> tuple[Tensor, Tensor]:
        """In float64, from the same bfloat16 inputs."""
        return reference.segment_attention(
            self.q.double(), [k.double() for k in self.keys], [v.double() for v in self.values],
            weight=self.norm.q_weight.double(), bounds=self.norm.bounds, rope=self.rope, distances=self.distances,
            eps=self.norm.eps, return_lse=True,
        )

    @property
    def flops(self) -> float:
        return 4.0 * self.q.numel() * sum(len(k) for k in self.keys)

    @property
    def nbytes(self) -> int:
        return 2 * self.q.nbytes + 2 * sum(k.nbytes for k in self.keys)


def torch_ready(x: Tensor, weight: Tensor, norm: ops.QkNorm, rope: ops.Rope) -> Tensor:
    """RMSNorm per head and group, then rotation: (T, H, D) bfloat16."""
    y = F.rms_norm(x, x.shape[-1:], eps=norm.eps)
    y = torch.cat([y[a:b] * w for a, b, w in zip(norm.bounds, norm.bounds[1:], weight)])
    pairs = torch.view_as_complex(y.float().unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.view_as_complex(rope.table)[:, None]).flatten(-2).bfloat16()


def attention_paths() -> list[str]:
    """The kernels of segment_attention that run on this GPU."""
    from streamchar_rt.ops._native import native

    hopper = native.cuda_has_sm90a and torch.cuda.get_device_capability() == (9, 0)
    return ["sm80", "sm90"] if hopper else ["sm80"]


def spectra(batch: int, count: int, size: int, hop: int) -> tuple:
    """Arguments of istft_overlap_add, under way."""
    frames = torch.randn(batch, size // 2 + 1, count, dtype=torch.complex64, device="cuda")
    window = torch.rand(size, device="cuda") + 0.1
    return frames, window, hop, torch.randn(batch, size - hop, device="cuda"), torch.rand(size - hop, device="cuda")
