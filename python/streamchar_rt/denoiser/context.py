"""Context memory of a stream and the DiT that reads it: the run-time side of ``dit``."""
from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch

from .. import ops
from .dit import Block, JointDiT, Style, patchify, run_blocks, unpatchify
from .packed import PackedBlock, fused_block

REFERENCE, SINK, MOTION = "reference", "sink", "motion"


class CachedDenoiser:
    """``JointDiT`` over context caches, one a stream. Immutable; shared by all sessions.

    Equal to ``dit.windowed_velocity`` up to rounding: cached keys stand at their chunk's own positions, and the
    kernel rotates the query once for each segment instead. With ``storage`` the blocks' weights are packed, and
    taken away from ``dit``; with "int8" keys and values are stored as int8 too, where that is faster.
    """

    def __init__(self, dit: JointDiT, kernels: str = "auto", storage: ops.Storage | None = None):
        self.dit, self.kernels = dit, kernels
        layout = dit.config.layout
        self.layout = layout
        self.dtype = dit.video_in.weight.dtype
        int8 = storage == "int8" and kernels != "reference" and ops.ContextCache.int8_pays()
        self._memory = torch.int8 if int8 else torch.float32     # what keys and values are stored in
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
        if storage:
            self._blocks = [PackedBlock(b, storage) for b in dit.blocks]
        else:
            self._blocks = list(dit.blocks) if kernels == "reference" else [partial(fused_block, b) for b in dit.blocks]
        self._clean = dit.modulations(dit.vector(torch.ones(1), None))

    def new_cache(self) -> ops.ContextCache:
        config, layout = self.dit.config, self.layout
        return ops.ContextCache(
            layers=config.depth, heads=config.heads, head_dim=layout.head_dim,
            capacity={REFERENCE: layout.reference_tokens, SINK: layout.chunk_tokens, MOTION: layout.chunk_tokens},
            ring=MOTION, chunks=1, history=0, dtype=self._memory, device="cpu", kernels=self.kernels)

    def _attend(self, caches: Sequence[ops.ContextCache], segments: Sequence[str] | None, store: str | None):
        def attend(layer: int, block: Block, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            tokens = q.shape[1]
            out = torch.empty(q.shape)
            for i, cache in enumerate(caches):
                ops.attend(cache, layer, q[i].float(), k[i].float(), v[i].float(), norm=self._norms[tokens][layer],
                           rope=self._ropes[tokens], distances=self._distances, segments=segments, store=store,
                           out=out[i])
            return out.to(q.dtype)
        return attend

    def write_reference(self, cache: ops.ContextCache, features: torch.Tensor) -> None:
        """The codec's coarse reference features (1, C, h, w): keys and values once a session."""
        tokens = self.dit.embed_reference(patchify(features[:, None].to(self.dtype)))
        run_blocks(self._blocks, tokens, self._clean, self._attend([cache], (), REFERENCE))
        cache.commit(REFERENCE)

    def write_chunks(self, segment: str, caches: Sequence[ops.ContextCache], video: Sequence[torch.Tensor],
                     audio: Sequence[torch.Tensor]) -> None:
        """Finished chunks of several streams, tokens (1, 256, 48) and (1, 16, 160) each, as ``motion`` or ``sink``."""
        tokens = self.dit.embed(torch.cat(video).to(self.dtype), torch.cat(audio).to(self.dtype))
        run_blocks(self._blocks, tokens, self._clean, self._attend(caches, (), segment))
        for cache in caches:
            cache.commit(segment)

    def velocities(self, caches: Sequence[ops.ContextCache], video: Sequence[torch.Tensor],
                   audio: Sequence[torch.Tensor], styles: Sequence[Style], condition_video: Sequence[torch.Tensor],
                   condition_audio: Sequence[torch.Tensor], t: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Velocities, float32, of several streams' noisy chunks at flow time ``t``; each sees the whole of its context.

        Every sequence has an entry a stream, with a leading dimension of one. Products of a single row are left
        single: they are cheap, and several rows together would round differently.
        """
        time = torch.tensor([t])
        joined = [torch.cat(list(x)) for x in (video, audio, condition_video, condition_audio)]
        vectors = [self.dit.vector(time, style) for style in styles]
        modulation = torch.cat([self.dit.modulations(vector) for vector in vectors])
        tokens = self.dit.embed(*(x.to(self.dtype) for x in joined))
        tokens = run_blocks(self._blocks, tokens, modulation, self._attend(caches, None, None))
        velocities = []
        for *part, vector, noisy, condition in zip(*(x.split(1) for x in tokens), vectors, audio, condition_audio):
            v, residual = self.dit.project(part, vector)
            velocities.append((v.float(), self.dit.audible_velocity(residual, noisy, condition.to(self.dtype), time)))
        return velocities

    def unpatchify(self, video: torch.Tensor) -> torch.Tensor:
        """Tokens (1, video_tokens, features) to latents (1, latents, C, h, w)."""
        return unpatchify(video, self.layout.grid, self.dit.config.patch, self.layout.columns)
