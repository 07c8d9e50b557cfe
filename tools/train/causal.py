"""The baseline whose tokens see only what is not later inside a chunk: causal attention instead of bidirectional."""
from __future__ import annotations

import torch
import torch.nn.functional as F

from streamchar_rt.denoiser.dit import Attention, Block, JointDiT, SegmentAttention


class CausalAttention:
    """``SegmentAttention`` with a mask: a token attends to those of its chunk that end no later, and to all context."""

    def __init__(self, segment: SegmentAttention, ends: torch.Tensor):
        """``ends``: (T,), the time at which each token of the pass ends."""
        self.segment = segment
        self.allowed = ends[None, :] <= ends[:, None]            # (queries, keys)

    def __call__(self, layer: int, block: Block, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        s = self.segment
        rest = q.shape[1] - s.video_tokens
        weight = lambda name: torch.cat([getattr(block.video, name).expand(s.video_tokens, -1),
                                         getattr(block.audio, name).expand(rest, -1)])
        q = s.prepare(q, weight("q_norm"), s.cos, s.sin).transpose(1, 2)
        k = s.prepare(k, weight("k_norm"), s.cos, s.sin).transpose(1, 2)
        v = v.transpose(1, 2)
        s.keys.append(k)
        s.values.append(v)
        share = lambda x: x if len(x) == len(k) else x.repeat_interleave(len(k) // len(x), 0)
        keys = torch.cat([k] + [share(c.keys[layer]) for c in s.context], 2)
        values = torch.cat([v] + [share(c.values[layer]) for c in s.context], 2)
        allowed = F.pad(self.allowed, (0, keys.shape[2] - k.shape[2]), value=True)
        if q.device.type != "cpu" or not torch.is_grad_enabled():
            return F.scaled_dot_product_attention(q, keys, values, allowed).transpose(1, 2)
        logits = (q * q.shape[-1] ** -0.5) @ keys.transpose(-2, -1)      # faster backwards on a CPU, see ``dit``
        return (logits.masked_fill(~allowed, float("-inf")).softmax(-1) @ values).transpose(1, 2)


class CausalDiT(JointDiT):
    """The same weights under the same names as ``JointDiT``'s."""

    def ends(self, tokens: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Video frames at which tokens end, (T,): a latent's with its last frame, a sound's a frame after it began."""
        layout = self.config.layout
        time = self.positions(tokens)[:, 0]
        video = tokens[0].shape[1]
        return torch.cat([time[:video] + (layout.temporal + 1) / 2, time[video:] + 1])

    def run(self, tokens: tuple[torch.Tensor, torch.Tensor], modulation: torch.Tensor,
            attend: Attention) -> tuple[torch.Tensor, torch.Tensor]:
        ends = self.ends(tokens).to(tokens[1].device)
        return super().run(tokens, modulation, CausalAttention(attend, ends))
