"""Context memory of a stream and the DiT that reads it: the run-time side of ``dit``."""
from __future__ import annotations

from collections.abc import Sequence

import torch

from .. import ops
from ..batching import together
from .dit import JointDiT, Style, patchify, unpatchify
from .packed import Pair, PackedTransformer, PlainTransformer

REFERENCE, SINK, MOTION = "reference", "sink", "motion"

VECTORS_KEPT = 64    # modulations, one for each time and style that has been met


class CachedDenoiser:
    """``JointDiT`` over context caches, one a stream. Immutable; shared by all sessions.

    Equal to ``dit.windowed_velocity`` up to rounding: cached keys stand at their chunk's own positions, and the
    kernel rotates the query once for each segment instead. Native kernels pack the blocks' weights, in ``storage``, and
    take them away from ``dit``; with "int8" keys and values are stored as int8 too, where that is faster.
    """

    def __init__(self, dit: JointDiT, kernels: str = "auto", storage: ops.Storage = "fp32"):
        self.dit, self.kernels = dit, kernels
        layout = dit.config.layout
        self.layout = layout
        self.dtype = dit.video_in.weight.dtype
        int8 = storage == "int8" and kernels != "reference" and ops.ContextCache.int8_pays()
        self._memory = torch.int8 if int8 else torch.float32     # what keys and values are stored in
        freqs, axes = ops.rope_frequencies(pairs=(layout.time_pairs, layout.space_pairs, layout.space_pairs),
                                           base=layout.rope_base)
        self._distances = {REFERENCE: layout.reference_distance, SINK: layout.sink_distance, MOTION: layout.motion_distance}
        self._capacity = {REFERENCE: layout.reference_tokens, SINK: layout.chunk_tokens, MOTION: layout.chunk_tokens}
        self._ropes = {layout.chunk_tokens: ops.Rope(layout.chunk_positions(), freqs, axes),
                       layout.reference_tokens: ops.Rope(layout.video_positions(1), freqs, axes)}
        self._clean = dit.modulations(dit.vector(torch.ones(1), None))
        self._vectors: dict[tuple[float, int, int, int], tuple[torch.Tensor, Pair]] = {}
        #: Whether native kernels run the blocks, and not torch.
        self.native = self.new_cache().kernels == "native" and self.dtype is torch.float32
        self._transformer = PackedTransformer(dit, storage) if self.native else PlainTransformer(dit)

    def new_cache(self) -> ops.ContextCache:
        config, layout = self.dit.config, self.layout
        return ops.ContextCache(
            layers=config.depth, heads=config.heads, head_dim=layout.head_dim,
            capacity=self._capacity,
            ring=MOTION, chunks=1, history=0, dtype=self._memory, device="cpu", kernels=self.kernels)

    def add_segment(self, name: str, distance: float) -> None:
        """Contexts made from now on have room for one more pinned chunk, ``distance`` latents away."""
        self._capacity, self._distances = self._capacity | {name: self.layout.chunk_tokens}, self._distances | {name: distance}

    def _run(self, tokens: Pair, modulation: torch.Tensor, caches: Sequence[ops.ContextCache],
             segments: Sequence[str] | None, store: str | None) -> Pair:
        rope = self._ropes[tokens[0].shape[1] + tokens[1].shape[1]]
        return self._transformer.run(tokens, modulation, caches, rope=rope, distances=self._distances,
                                     segments=segments, store=store)

    def _vector(self, t: float, style: Style) -> tuple[torch.Tensor, Pair]:
        """The blocks' modulation and the final one, made once for each time and style."""
        key = (t, int(style.voice), int(style.emotion), int(style.mode))
        found = self._vectors.get(key)
        if found is None:
            vector = self.dit.vector(torch.tensor([t]), style)
            if len(self._vectors) >= VECTORS_KEPT:
                self._vectors.clear()
            found = self._vectors[key] = self.dit.modulations(vector), self.dit.final(vector)
        return found

    def write_reference(self, cache: ops.ContextCache, features: torch.Tensor) -> None:
        """The codec's coarse reference features (1, C, h, w): keys and values once a session."""
        tokens = self.dit.embed_reference(patchify(features[:, None].to(self.dtype)))
        self._run(tokens, self._clean, [cache], (), REFERENCE)
        cache.commit(REFERENCE)

    def write_chunks(self, segment: str, caches: Sequence[ops.ContextCache], video: Sequence[torch.Tensor],
                     audio: Sequence[torch.Tensor]) -> None:
        """Finished chunks of several streams, tokens (1, 256, 48) and (1, 16, 160) each, as ``motion`` or ``sink``."""
        tokens = self._transformer.embed(together(video), together(audio))
        self._run(tokens, self._clean, caches, (), segment)
        for cache in caches:
            cache.commit(segment)

    def velocities(self, caches: Sequence[ops.ContextCache], video: Sequence[torch.Tensor],
                   audio: Sequence[torch.Tensor], styles: Sequence[Style], condition_video: Sequence[torch.Tensor],
                   condition_audio: Sequence[torch.Tensor], t: float) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Velocities, float32, of several streams' noisy chunks at flow time ``t``; each sees the whole of its context.

        Every sequence has an entry a stream, with a leading dimension of one.
        """
        joined = [together(x) for x in (video, audio, condition_video, condition_audio)]
        modulations, finals = zip(*(self._vector(t, style) for style in styles))
        tokens = self._run(self._transformer.embed(*joined), together(modulations), caches, None, None)
        v, residual = self._transformer.project(tokens, tuple(map(together, zip(*finals))))
        a = self._transformer.audible_velocity(residual, joined[1], joined[3], t)
        v = v if v.dtype is torch.float32 else v.float()
        return [(v, a)] if len(caches) == 1 else list(zip(v.split(1), a.split(1)))

    def unpatchify(self, video: torch.Tensor) -> torch.Tensor:
        """Tokens (1, video_tokens, features) to latents (1, latents, C, h, w)."""
        return unpatchify(video, self.layout.grid, self.dit.config.patch, self.layout.columns)
