"""The DiT's blocks for inference: whole, with packed weights, on a CPU; and with their own weights and fused layers."""
from __future__ import annotations

import torch
import torch.nn.functional as F

from .. import ops
from .dit import Attention, Block, JointDiT, Stream

_LAYERS = ("qkv", "out", "expand", "contract")


def packed_blocks(dit: JointDiT, storage: ops.Storage) -> ops.JointBlocks:
    """The blocks with weights in ``storage``. Takes the blocks' own layers away: they are not kept twice."""
    def half(stream: Stream) -> ops.JointHalf:
        layers = {name: ops.PackedLinear.pack(getattr(stream, name), storage) for name in _LAYERS}
        for name in _LAYERS:
            setattr(stream, name, None)
        return ops.JointHalf(**layers, table=stream.table, q_norm=stream.q_norm, k_norm=stream.k_norm)

    return ops.JointBlocks([(half(block.video), half(block.audio)) for block in dit.blocks], dit.config.heads)


def fused_block(block: Block, layer: int, tokens: tuple[torch.Tensor, torch.Tensor], modulation: torch.Tensor,
                attend: Attention) -> tuple[torch.Tensor, torch.Tensor]:
    """``Block.forward`` with the layers around the products fused, where native kernels serve them."""
    streams = [(stream, x, (modulation + stream.table).to(x.dtype).unbind(-2))
               for stream, x in zip((block.video, block.audio), tokens)]
    parts = [stream.qkv(ops.adaln_modulate(x, *p[:2])) for stream, x, p in streams if x.shape[1]]
    projected = (parts[0] if len(parts) == 1 else torch.cat(parts, 1)).unflatten(-1, (3, block.heads, -1))
    mixed = attend(layer, block, *projected.unbind(2)).flatten(2)
    result, pieces = [], mixed.split([x.shape[1] for x in tokens], 1)
    for (stream, x, (_, _, gate, shift, scale, gate_ff)), part in zip(streams, pieces):
        if x.shape[1]:
            x = ops.gated_residual(x, gate, stream.out(part))
            y = F.gelu(stream.expand(ops.adaln_modulate(x, shift, scale)), approximate="tanh")
            x = ops.gated_residual(x, gate_ff, stream.contract(y))
        result.append(x)
    return result[0], result[1]
