"""The vocoder's layers as one native call, for inference on a CPU."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError, UnsupportedError
from ._native import load_error, native
from .language_model import check, vector
from .packed_linear import PackedLinear


@dataclass(frozen=True)
class VocoderBlock:
    """A ConvNeXt block's parts.

    Attributes:
        depthwise: a convolution of each of width channels over ``taps`` frames, with bias.
        norm: layer norm with weight and bias.
        expand, contract: width to hidden, and back.
        scale: (width,), what the result is multiplied with before it is added.
    """

    depthwise: torch.nn.Conv1d
    norm: torch.nn.LayerNorm
    expand: PackedLinear
    contract: PackedLinear
    scale: Tensor


class VocoderLayers:
    """``norm(embed(mel / 2.5 + 2))``, ``x += scale * contract(gelu(expand(norm(depthwise(x)))))`` of each block, and
    ``head(norm(x))``: causal, a stream of mel frames may be cut anywhere.

    A stream's result depends neither on the others in the call nor on the number of threads. Immutable; any number of
    threads may call it at once.

    Attributes:
        taps, bins, width, outputs: frames that a convolution sees, and channels.
        nbytes: memory of the packed weights.
    """

    def __init__(self, blocks: Sequence[VocoderBlock], *, taps: int, embed: PackedLinear, embed_norm: torch.nn.LayerNorm,
                 final_norm: torch.nn.LayerNorm, head: PackedLinear) -> None:
        """``embed``: ``taps`` frames, one after another, to width; ``head``: width to what comes out.

        Raises:
            ConfigError: on shapes that do not fit together.
            UnsupportedError: without the native module.
        """
        if native is None:
            raise UnsupportedError(f"no native module: {load_error}", hint="run the vocoder with torch")
        self.taps, self.width, self.outputs = taps, embed.out_features, head.out_features
        self.blocks, self.embed, self.head, self.bins = list(blocks), embed, head, embed.in_features // max(taps, 1)
        kept: list[Tensor] = []

        def address(name: str, x: Tensor, size: int, less: float = 0.0) -> int:
            kept.append(vector(name, x, size) - less)
            return kept[-1].data_ptr()

        def norm(layer: torch.nn.LayerNorm) -> tuple[int, int]:
            if layer.eps != 1e-5:
                raise ConfigError(f"eps is {layer.eps}", hint="1e-5")
            return address("bias", layer.bias, self.width), address("weight", layer.weight, self.width, 1.0)

        def parts(block: VocoderBlock):
            weight = block.depthwise.weight
            if weight.shape != (self.width, 1, taps) or block.depthwise.bias is None:
                raise ConfigError(f"{block.depthwise}", hint=f"one filter of {taps} frames a channel, with bias")
            return (address("depthwise", weight[:, 0].T.flatten(), taps * self.width),
                    address("bias", block.depthwise.bias, self.width), norm(block.norm), block.expand._packed,
                    block.contract._packed, address("scale", block.scale, self.width))

        try:
            self._native = native.VocoderLayers(taps, self.width, embed._packed, norm(embed_norm),
                                                [parts(x) for x in blocks], norm(final_norm), head._packed)
        except ValueError as error:
            raise ConfigError(str(error), hint="see VocoderBlock") from None
        self.nbytes = sum(x.nbytes for x in (embed, head, *(y for b in blocks for y in (b.expand, b.contract))))

    def __call__(self, mel: Tensor, inputs: Tensor, memories: Sequence[Tensor]) -> tuple[Tensor, Tensor, list[Tensor]]:
        """What comes out, float32 (B, T + P - taps + 1, outputs), and what the next call takes as inputs and memories.

        Args:
            mel: the new frames, float32 (B, T, bins).
            inputs: of the last P frames, at most taps - 1, what the convolution sees of them, float32 (B, bins, P).
            memories: of each block, what its convolution sees of them, float32 (B, width, taps - 1).
            All are contiguous and on the CPU.

        Raises:
            ConfigError: on shapes, dtypes or devices that do not fit, or too few frames.
        """
        if mel.ndim != 3 or inputs.ndim != 3 or len(memories) != len(self.blocks):
            raise ConfigError("mel and inputs have three dimensions, each block a memory", hint="see VocoderLayers")
        (batch, frames, _), past, carried = mel.shape, inputs.shape[2], self.taps - 1
        if past > carried or frames + past < self.taps:
            raise ConfigError(f"{frames} frames after {past}", hint=f"at most {carried} before, {self.taps} in all")
        check("mel", mel, (batch, frames, self.bins))
        check("inputs", inputs, (batch, self.bins, past))
        for memory in memories:
            check("memory", memory, (batch, self.width, carried))
        out = torch.empty(batch, frames + past - carried, self.outputs)
        next_inputs = torch.empty(batch, self.bins, carried)
        next_memories = [torch.empty(batch, self.width, carried) for _ in memories]
        self._native.run(batch, frames, past, mel.data_ptr(), inputs.data_ptr(), [x.data_ptr() for x in memories],
                         out.data_ptr(), next_inputs.data_ptr(), [x.data_ptr() for x in next_memories])
        return out, next_inputs, next_memories

    def __repr__(self) -> str:
        return f"VocoderLayers({len(self.blocks)} x {self.width}, {self.bins} -> {self.outputs})"
