"""The DiT's blocks for inference: with packed weights on a CPU, and with their own weights and fused layers."""
from __future__ import annotations

import torch
import torch.nn.functional as F

from .. import ops
from ..ops.packed_linear import PackedLinear, Storage
from .dit import Attention, Block

_LAYERS = ("qkv", "out", "expand", "contract")


class PackedBlock:
    """``Block`` with bfloat16 or int8 weights. Takes the block's own weights away: they are not kept twice.

    Layer norm, modulation, activation and the gated residual run inside the products, tokens stay float32.
    """

    def __init__(self, block: Block, storage: Storage):
        self.block = block
        self.packed = []
        for stream in (block.video, block.audio):
            self.packed.append({name: PackedLinear.pack(getattr(stream, name), storage) for name in _LAYERS})
            for name in _LAYERS:
                setattr(stream, name, None)

    def __call__(self, layer: int, tokens: tuple[torch.Tensor, torch.Tensor], modulation: torch.Tensor,
                 attend: Attention) -> tuple[torch.Tensor, torch.Tensor]:
        """As ``Block.forward``, float32: ``tokens`` (B, Tv, d) and (B, Ta, d), ``modulation`` (B or 1, 1, 6, d)."""
        streams = list(zip(tokens, self.packed, (self.block.video, self.block.audio)))
        parameters = [(modulation + stream.table).unbind(-2) for _, _, stream in streams]
        rows = [x.shape[1] for x in tokens]
        batch, _, width = tokens[0].shape
        if batch == 1:      # both streams' projections are rows of one matrix
            projected = torch.empty(1, sum(rows), 3 * width)
            for (x, packed, _), p, part in zip(streams, parameters, projected.split(rows, 1)):
                if x.shape[1]:
                    packed["qkv"](x, modulate=p[:2], out=part)
        else:
            parts = [packed["qkv"](x, modulate=p[:2]) for (x, packed, _), p in zip(streams, parameters) if x.shape[1]]
            projected = parts[0] if len(parts) == 1 else torch.cat(parts, 1)
        projected = projected.unflatten(-1, (3, self.block.heads, -1))
        mixed = attend(layer, self.block, *projected.unbind(2)).flatten(2)
        result = []
        pieces = mixed.split(rows, 1)
        for (x, packed, _), (_, _, gate, shift, scale, gate_ff), piece in zip(streams, parameters, pieces):
            if x.shape[1]:
                x = packed["out"](piece, gate=gate, residual=x.contiguous())
                y = packed["expand"](x, modulate=(shift, scale), activation="gelu_tanh")
                x = packed["contract"](y, gate=gate_ff, residual=x)
            result.append(x)
        return result[0], result[1]


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
