"""Context memory of a stream and the DiT that reads it: the run-time side of ``dit``."""
from __future__ import annotations

import torch

from .. import ops
from .dit import Block, JointDiT, Style, patchify, unpatchify

REFERENCE, SINK, MOTION = "reference", "sink", "motion"


class CachedDenoiser:
    """``JointDiT`` over a context cache, one stream at a time. Immutable; shared by all sessions.

    Equal to ``dit.windowed_velocity`` up to rounding: cached keys stand at their chunk's own positions, and the
    kernel rotates the query once for each segment instead.
    """

    def __init__(self, dit: JointDiT, kernels: str = "auto"):
        self.dit, self.kernels = dit, kernels
        layout = dit.config.layout
        self.layout = layout
        self.dtype = dit.video_in.weight.dtype
        freqs, axes = ops.rope_frequencies(pairs=(layout.time_pairs, layout.space_pairs, layout.space_pairs),
                                           base=layout.rope_base)
        self._distances = {REFERENCE: layout.reference_distance, SINK: layout.sink_distance, MOTION: layout.motion_distance}
        self._ropes = {layout.chunk_tokens: ops.Rope(layout.chunk_positions(), freqs, axes),
                       layout.reference_tokens: ops.Rope(layout.video_positions(1), freqs, axes)}
        stack = lambda block, name, count: torch.stack(
            [getattr(s, name).detach().float() for s in (block.video, block.audio)][:count]).contiguous()
        both, one = (0, layout.video_tokens, layout.chunk_tokens), (0, layout.reference_tokens)
        self._norms = {
            layout.chunk_tokens: [ops.QkNorm(stack(b, "q_norm", 2), stack(b, "k_norm", 2), bounds=both) for b in dit.blocks],
            layout.reference_tokens: [ops.QkNorm(stack(b, "q_norm", 1), stack(b, "k_norm", 1), bounds=one) for b in dit.blocks]}
        self._clean = dit.modulations(dit.vector(torch.ones(1), None))

    def new_cache(self) -> ops.ContextCache:
        config, layout = self.dit.config, self.layout
        return ops.ContextCache(
            layers=config.depth, heads=config.heads, head_dim=layout.head_dim,
            capacity={REFERENCE: layout.reference_tokens, SINK: layout.chunk_tokens, MOTION: layout.chunk_tokens},
            ring=MOTION, chunks=1, history=0, dtype=torch.float32, device="cpu", kernels=self.kernels)

    def _attend(self, cache: ops.ContextCache, segments, store: str | None):
        def attend(layer: int, block: Block, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            tokens = q.shape[1]
            out = ops.attend(cache, layer, q[0].float(), k[0].float(), v[0].float(), norm=self._norms[tokens][layer],
                             rope=self._ropes[tokens], distances=self._distances, segments=segments, store=store)
            return out[None].to(q.dtype)
        return attend

    def write_reference(self, cache: ops.ContextCache, features: torch.Tensor) -> None:
        """The codec's coarse reference features (1, C, h, w): keys and values once a session."""
        tokens = self.dit.embed_reference(patchify(features[:, None].to(self.dtype)))
        self.dit.run(tokens, self._clean, self._attend(cache, (), REFERENCE))
        cache.commit(REFERENCE)

    def write_chunk(self, cache: ops.ContextCache, segment: str, video: torch.Tensor, audio: torch.Tensor) -> None:
        """A finished chunk, tokens (1, 256, 48) and (1, 16, 160), as ``motion`` or ``sink``."""
        tokens = self.dit.embed(video.to(self.dtype), audio.to(self.dtype))
        self.dit.run(tokens, self._clean, self._attend(cache, (), segment))
        cache.commit(segment)

    def velocity(self, cache: ops.ContextCache, video: torch.Tensor, audio: torch.Tensor, t: float, style: Style,
                 condition_video: torch.Tensor, condition_audio: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Velocities, float32, of the noisy chunk at flow time ``t``; the whole context in ``cache`` is seen."""
        vector = self.dit.vector(torch.tensor([t]), style)
        tokens = self.dit.embed(video.to(self.dtype), audio.to(self.dtype), condition_video.to(self.dtype),
                                condition_audio.to(self.dtype))
        tokens = self.dit.run(tokens, self.dit.modulations(vector), self._attend(cache, None, None))
        v, residual = self.dit.project(tokens, vector)
        return v.float(), self.dit.audio_velocity(residual, audio, condition_audio.to(self.dtype), torch.tensor([t]))

    def unpatchify(self, video: torch.Tensor) -> torch.Tensor:
        """Tokens (1, 256, 48) to latents (1, 4, C, h, w)."""
        return unpatchify(video, self.layout.grid, self.dit.config.patch)
