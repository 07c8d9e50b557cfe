"""The DiT with weights, context and workspace on one device: what runs on a GPU.

Equal to ``CachedDenoiser`` up to rounding. No call asks the device for a value, and a denoising step reads and writes
memory that stays where it is, so that it can be captured as a CUDA graph: before a stream's chunk its context is
copied into the stage, where it is not already (``stage``).

Attention runs natively over the stage's segments, each query rotated for each segment; or, where no native kernel
serves, as torch's scaled_dot_product_attention over one run of keys, turned when they are copied. Both have
been compared with the CPU's on a GPU.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import ops
from ..errors import UnsupportedError
from ..ops import reference
from .context import MOTION, REFERENCE, SINK
from .dit import Block, JointDiT, Style, patchify, run_blocks, unpatchify
from .packed import fused_block

#: In the order in which they come to life: a stream has the first one, two or three.
SEGMENTS = (REFERENCE, SINK, MOTION)


@dataclass(frozen=True)
class Rows:
    """Ready keys and plain values of one chunk in every layer, (L, T, H, D) each. Never written again."""
    chunk: int
    keys: Tensor
    values: Tensor


class ResidentContext:
    """Keys and values of one stream, on the device. Copies nothing when forked."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self._rows: dict[str, Rows] = {}

    def put(self, segment: str, keys: Tensor, values: Tensor) -> None:
        """Takes over tensors that nobody writes again."""
        before = self._rows.get(segment)
        self._rows[segment] = Rows(0 if before is None else before.chunk + 1, keys, values)

    def get(self, segment: str) -> Rows | None:
        return self._rows.get(segment)

    def clear(self, segment: str) -> None:
        self._rows.pop(segment, None)

    def fork(self) -> "ResidentContext":
        child = ResidentContext(self.device, self.dtype)
        child._rows = dict(self._rows)
        return child

    @property
    def nbytes(self) -> int:
        return sum(rows.keys.nbytes + rows.values.nbytes for rows in self._rows.values())

    def state_dict(self) -> dict[str, list[dict[str, Any]]]:
        """As ``ContextCache.state_dict``; float32 on the CPU."""
        host = lambda x: x.to("cpu", torch.float32)
        return {segment: [{"chunk": rows.chunk, "key": host(rows.keys), "value": host(rows.values)}
                          for rows in filter(None, [self.get(segment)])] for segment in SEGMENTS}

    def load_state_dict(self, state: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
        """Replaces the content; ValueError for other segments or more than one chunk of one."""
        if set(state) != set(SEGMENTS) or any(len(kept) > 1 for kept in state.values()):
            raise ValueError(f"a context of {sorted(state)}")
        put = lambda x: x.to(self.device, self.dtype)
        self._rows = {segment: Rows(int(item["chunk"]), put(item["key"]), put(item["value"]))
                      for segment, kept in state.items() for item in kept}


class ResidentDenoiser:
    """``JointDiT`` over resident contexts. One stage: streams take turns.

    Args:
        kernels: "native", "reference" (torch's attention), or "auto": native where it serves device and dtype.

    Raises:
        UnsupportedError: with ``kernels="native"`` where no native kernel serves.
    """

    def __init__(self, dit: JointDiT, kernels: str = "auto") -> None:
        self.dit, self.layout = dit, dit.config.layout
        self.device, self.dtype = dit.video_in.weight.device, dit.video_in.weight.dtype
        layout = self.layout
        why_not = ops.native_attention_serves(self.device, self.dtype, layout.head_dim)
        if kernels == "native" and why_not is not None:
            raise UnsupportedError(f"no native attention: {why_not}", hint='use kernels="auto" or "reference"')
        self.native = kernels != "reference" and why_not is None
        freqs, axes = ops.rope_frequencies(pairs=(layout.time_pairs, layout.space_pairs, layout.space_pairs),
                                           base=layout.rope_base)
        rope = lambda positions: ops.Rope(positions, freqs, axes).to(self.device)
        self._ropes = {layout.chunk_tokens: rope(layout.chunk_positions()),
                       layout.reference_tokens: rope(layout.video_positions(1))}
        self._norms = {count: [_norm(block, bounds) for block in dit.blocks] for count, bounds in (
            (layout.chunk_tokens, (0, layout.video_tokens, layout.chunk_tokens)),
            (layout.reference_tokens, (0, layout.reference_tokens)))}
        self._distances = {REFERENCE: layout.reference_distance, SINK: layout.sink_distance,
                           MOTION: layout.motion_distance}
        self._clean = dit.modulations(dit.vector(torch.ones(1, device=self.device), None))
        self._stage: tuple[Tensor, Tensor] | None = None
        self._staged: dict[str, Rows] = {}

    # ------------------------------------------------------------ context
    def new_cache(self) -> ResidentContext:
        return ResidentContext(self.device, self.dtype)

    def write_reference(self, context: ResidentContext, features: Tensor) -> None:
        """The codec's coarse reference features (1, C, h, w): keys and values once a session."""
        tokens = self.dit.embed_reference(patchify(features[:, None].to(self.dtype)))
        context.put(REFERENCE, *self._clean_rows(tokens))

    def chunk_rows(self, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (L, T, H, D) of a finished chunk's tokens (1, Tv, F) and (1, Ta, F), as later ones see it."""
        return self._clean_rows(self.dit.embed(video.to(self.dtype), audio.to(self.dtype)))

    def _clean_rows(self, tokens: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        config = self.dit.config
        shape = (config.depth, tokens[0].shape[1] + tokens[1].shape[1], config.heads, self.layout.head_dim)
        keys, values = (torch.empty(shape, dtype=self.dtype, device=self.device) for _ in range(2))

        def attend(layer: int, block: Block, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            key, value = self._ready(layer, k[0], v[0])
            keys[layer], values[layer] = key, value
            return self._attend(layer, q[0], [key], [value], [0.0])[None]

        self._run(tokens, self._clean, attend)
        return keys, values

    def stage(self, context: ResidentContext) -> tuple[str, ...]:
        """Makes the stage hold a stream's context, and says which segments that has. Copies what differs.

        Raises:
            ValueError: where a segment lacks though a later one is there.
        """
        rows = {segment: context.get(segment) for segment in SEGMENTS}
        live = tuple(segment for segment in SEGMENTS if rows[segment] is not None)
        if live != SEGMENTS[:len(live)]:
            raise ValueError(f"a context of {live} without what comes before")
        keys, values = self._stage or self._new_stage()
        for segment in live:
            have, part = rows[segment], self._parts[segment]
            if self._staged.get(segment) is not have:
                key = have.keys if self.native else self._turned(have.keys, self._distances[segment])
                keys[:, part].copy_(key)
                values[:, part].copy_(have.values)
                self._staged[segment] = have
        return live

    def _new_stage(self) -> tuple[Tensor, Tensor]:
        """Room for every segment, and in front of them for the current chunk where attention wants one run of keys."""
        config, layout = self.dit.config, self.layout
        self._parts, end = {}, 0 if self.native else layout.chunk_tokens
        for segment in SEGMENTS:
            count = layout.reference_tokens if segment == REFERENCE else layout.chunk_tokens
            self._parts[segment] = slice(end, end + count)
            end += count
        shape = (config.depth, end, config.heads, layout.head_dim)
        self._stage = tuple(torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(2))
        return self._stage

    def stage_bytes(self) -> int:
        return sum(x.nbytes for x in self._stage or self._new_stage())

    def _turned(self, keys: Tensor, distance: float) -> Tensor:
        """Keys as queries ``distance`` later see them without being rotated for them; layer by layer."""
        table = self._ropes[self.layout.chunk_tokens].shift(-distance, torch.float32, self.device)
        return torch.stack([reference.rotate(layer.float(), table).to(layer.dtype) for layer in keys])

    # ------------------------------------------------------------ a step
    def velocity(self, live: tuple[str, ...], video: Tensor, audio: Tensor, style: Style, condition_video: Tensor,
                 condition_audio: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Velocities, float32, of a noisy chunk (1, Tv, F) and (1, Ta, F) at flow time ``t`` (1,), which sees the
        stage's ``live`` segments."""
        vector = self.dit.vector(t, style)
        tokens = self.dit.embed(*(x.to(self.dtype) for x in (video, audio, condition_video, condition_audio)))

        def attend(layer: int, block: Block, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            key, value = self._ready(layer, k[0], v[0])
            keys, values = (x[layer] for x in self._stage)
            if self.native:
                parts = [self._parts[segment] for segment in live]
                distances = [*(self._distances[segment] for segment in live), 0.0]
                return self._attend(layer, q[0], [*(keys[p] for p in parts), key], [*(values[p] for p in parts), value],
                                    distances)[None]
            keys[: len(key)].copy_(key)
            values[: len(key)].copy_(value)
            end = self._parts[live[-1]].stop if live else len(key)
            return self._attend(layer, q[0], [keys[:end]], [values[:end]], [0.0])[None]

        tokens = self._run(tokens, self.dit.modulations(vector), attend)
        v, residual = self.dit.project(tokens, self.dit.final(vector))
        return v.float(), self.dit.audible_velocity(residual, audio, condition_audio.to(self.dtype), t)

    def _run(self, tokens: tuple[Tensor, Tensor], modulation: Tensor, attend: Any) -> tuple[Tensor, Tensor]:
        return run_blocks((partial(fused_block, block) for block in self.dit.blocks), tokens, modulation, attend)

    def _ready(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        return ops.ready_rows(k, v, self._norms[len(k)][layer], self._ropes[len(k)])

    def _attend(self, layer: int, q: Tensor, keys: list[Tensor], values: list[Tensor],
                distances: list[float]) -> Tensor:
        """(T, H, D) of raw queries over ready keys; without native attention those are one run, turned already."""
        norm, rope = self._norms[len(q)][layer], self._ropes[len(q)]
        if self.native:
            return ops.segment_attention(q, keys, values, weight=norm.q_weight, bounds=norm.bounds, rope=rope,
                                         distances=distances, eps=norm.eps)
        query = reference.normalize_rotate(q.float(), norm.q_weight, norm.bounds, rope, norm.eps).to(q.dtype)
        heads_first = (x.transpose(0, 1)[None] for x in (query, keys[0], values[0]))
        return F.scaled_dot_product_attention(*heads_first)[0].transpose(0, 1)

    def unpatchify(self, video: Tensor) -> Tensor:
        """Tokens (1, video_tokens, features) to latents (1, latents, C, h, w)."""
        return unpatchify(video, self.layout.grid, self.dit.config.patch, self.layout.columns)


def _norm(block: Block, bounds: tuple[int, ...]) -> ops.QkNorm:
    streams = (block.video, block.audio)[: len(bounds) - 1]
    stack = lambda name: torch.stack([getattr(s, name).detach().float() for s in streams]).contiguous()
    return ops.QkNorm(stack("q_norm"), stack("k_norm"), bounds=bounds)
