"""The vocoder with packed weights, for inference on a CPU."""
from __future__ import annotations

import torch

from .. import ops
from .vocoder import KERNEL, Vocoder, VocoderState


class PackedVocoder:
    """``Vocoder.stream`` with its layers as one native call, in float32. Takes the layers away from the vocoder: they
    are not kept twice. A stream's samples depend neither on the others in a call nor on the number of threads.
    """

    def __init__(self, vocoder: Vocoder):
        self.config, self._plain = vocoder.config, vocoder
        pack = lambda layer: ops.PackedLinear.pack(layer, "fp32")
        embed = ops.PackedLinear(vocoder.embed.weight.permute(0, 2, 1).flatten(1), vocoder.embed.bias, storage="fp32")
        vocoder.embed, blocks = None, []
        for block in vocoder.blocks:
            layers = pack(block.expand), pack(block.contract)
            blocks.append(ops.VocoderBlock(block.depthwise, block.norm, *layers, block.scale))
            block.expand = block.contract = None
        self.layers = ops.VocoderLayers(blocks, taps=KERNEL, embed=embed, embed_norm=vocoder.embed_norm,
                                        final_norm=vocoder.final_norm, head=pack(vocoder.head))
        vocoder.head = None

    def start(self, batch: int = 1, device: torch.device | str = "cpu") -> VocoderState:
        """State before the first frame of a stream that was silent until now."""
        return self._plain.start(batch, device)

    def stream(self, mel: torch.Tensor, state: VocoderState) -> tuple[torch.Tensor, VocoderState]:
        """As ``Vocoder.stream``."""
        if state.inputs.shape[2] + mel.shape[1] < KERNEL:
            return self._plain.stream(mel, state)            # too few frames for the first convolution
        out, inputs, blocks = self.layers(mel.float().contiguous(), state.inputs.contiguous(),
                                          [memory.contiguous() for memory in state.blocks])
        magnitude, phase = out.transpose(1, 2).chunk(2, 1)
        frames = torch.polar(magnitude.clamp(max=6.0).exp_(), phase)
        return self._plain.overlap_add(frames, VocoderState(inputs, blocks, state.tail, state.weight))

    def __call__(self, mel: torch.Tensor) -> torch.Tensor:
        """As ``Vocoder.forward``."""
        return Vocoder.forward(self, mel)
