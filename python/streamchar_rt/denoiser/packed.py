"""The DiT's blocks for inference: whole, with packed weights; in torch; and in torch with fused layers between."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from .. import ops
from .dit import LOST, LOST_SPAN, Attention, Block, JointDiT, Stream

Pair = tuple[torch.Tensor, torch.Tensor]    # of video and audio

_LAYERS = ("qkv", "out", "expand", "contract")


class PackedTransformer:
    """The blocks in one native call, and the layers behind them. Packs the blocks' weights in ``storage`` and takes them
    away from ``dit``: they are not kept twice."""

    def __init__(self, dit: JointDiT, storage: ops.Storage):
        def half(stream: Stream) -> ops.JointHalf:
            layers = {name: ops.PackedLinear.pack(getattr(stream, name), storage) for name in _LAYERS}
            for name in _LAYERS:
                setattr(stream, name, None)
            return ops.JointHalf(**layers, table=stream.table, q_norm=stream.q_norm, k_norm=stream.k_norm)

        self._blocks = ops.JointBlocks([(half(b.video), half(b.audio)) for b in dit.blocks], dit.config.heads)
        pack = lambda *layers: [ops.PackedLinear.pack(layer, "fp32") for layer in layers]
        self._in, self._out = pack(dit.video_in, dit.audio_in), pack(dit.video_out, dit.audio_out)
        (self._mean,), self.config = pack(dit.audio_mean), dit.config
        self._plain_sum = torch.ones(1, 1, dit.config.width)

    def embed(self, video: torch.Tensor, audio: torch.Tensor, condition_video: torch.Tensor | None = None,
              condition_audio: torch.Tensor | None = None) -> Pair:
        """As ``JointDiT.embed``, float32."""
        given = (None, None) if condition_video is None else (
            condition_video.repeat_interleave(self.config.layout.places, 1), condition_audio.contiguous())
        v, a = (layer(x) if added is None else layer(x, gate=self._plain_sum, residual=added)
                for layer, x, added in zip(self._in, (video, audio), given))
        return v, a

    def run(self, tokens: Pair, modulation: torch.Tensor, caches: Sequence[ops.ContextCache], *, rope: ops.Rope,
            distances: Mapping[str, float], segments: Sequence[str] | None, store: str | None) -> Pair:
        """Tokens after the blocks, (B, Tv, d) and (B, Ta, d); the rest as for ``ops.JointBlocks``."""
        return self._blocks(*(x.contiguous() for x in tokens), modulation, caches, rope=rope, distances=distances,
                            segments=segments, store=store)

    def project(self, tokens: Pair, final: Pair) -> Pair:
        """What ``JointDiT.project`` gives, for its final shift and scale, (1, 1, d) each."""
        video, audio = (layer(x, modulate=final) for layer, x in zip(self._out, tokens))
        return video, audio

    def audible_velocity(self, residual: torch.Tensor, noisy: torch.Tensor, condition: torch.Tensor,
                         t: float) -> torch.Tensor:
        """As ``JointDiT.audible_velocity``, at one time for all."""
        config = self.config
        return ops.audible_velocity(residual, noisy.contiguous(), self._mean(condition), t, lost=LOST, span=LOST_SPAN,
                                    variance=config.audio_variance, frames=config.mel_frames_per_token)


class PlainTransformer:
    """The same in torch, with attention as the caches have it."""

    def __init__(self, dit: JointDiT):
        self.dit, layout = dit, dit.config.layout
        stack = lambda block, name, count: torch.stack(
            [getattr(s, name).detach().float() for s in (block.video, block.audio)][:count]).contiguous()
        both, one = (0, layout.video_tokens, layout.chunk_tokens), (0, layout.reference_tokens)
        self._norms = {rows: [ops.QkNorm(stack(b, "q_norm", kinds), stack(b, "k_norm", kinds), bounds=bounds)
                              for b in dit.blocks]
                       for rows, kinds, bounds in ((layout.chunk_tokens, 2, both), (layout.reference_tokens, 1, one))}

    def run(self, tokens: Pair, modulation: torch.Tensor, caches: Sequence[ops.ContextCache], *, rope: ops.Rope,
            **reads) -> Pair:
        def attend(layer: int, block: Block, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            out = torch.empty(q.shape)
            for i, cache in enumerate(caches):
                ops.attend(cache, layer, q[i].float(), k[i].float(), v[i].float(), norm=self._norms[rope.tokens][layer],
                           rope=rope, out=out[i], **reads)
            return out.to(q.dtype)

        return self.dit.run(tokens, modulation, attend)

    def embed(self, *given: torch.Tensor) -> Pair:
        return self.dit.embed(*(x.to(self.dit.video_in.weight.dtype) for x in given))

    def project(self, tokens: Pair, final: Pair) -> Pair:
        return self.dit.project(tokens, final)

    def audible_velocity(self, residual: torch.Tensor, noisy: torch.Tensor, condition: torch.Tensor,
                         t: float) -> torch.Tensor:
        return self.dit.audible_velocity(residual, noisy, condition.to(residual.dtype), torch.tensor([t]))


def fused_block(block: Block, layer: int, tokens: tuple[torch.Tensor, torch.Tensor], modulation: torch.Tensor,
                attend: Attention) -> tuple[torch.Tensor, torch.Tensor]:
    """``Block.forward`` with the layers around the products fused, where native kernels serve them."""
    streams = [(stream, x, (modulation + stream.table).to(x.dtype).unbind(-2))
               for stream, x in zip((block.video, block.audio), tokens)]
    parts = [_linear(stream.qkv, ops.adaln_modulate(x, *p[:2])) for stream, x, p in streams if x.shape[1]]
    projected = (parts[0] if len(parts) == 1 else torch.cat(parts, 1)).unflatten(-1, (3, block.heads, -1))
    mixed = attend(layer, block, *projected.unbind(2)).flatten(2)
    result, pieces = [], mixed.split([x.shape[1] for x in tokens], 1)
    for (stream, x, (_, _, gate, shift, scale, gate_ff)), part in zip(streams, pieces):
        if x.shape[1]:
            x = _linear(stream.out, part, gate=gate, residual=x)
            y = _linear(stream.expand, ops.adaln_modulate(x, shift, scale), activation="gelu_tanh")
            x = _linear(stream.contract, y, gate=gate_ff, residual=x)
        result.append(x)
    return result[0], result[1]


def _linear(layer: torch.nn.Linear, x: torch.Tensor, **around: Any) -> torch.Tensor:
    return ops.fused_linear(x, layer.weight, layer.bias, **around)
