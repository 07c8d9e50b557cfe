"""The condition head and the pointer as one native call, for inference on a CPU."""
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
class ConditionLayer:
    """A layer's parts; norms are layer norms with weight and bias.

    Attributes:
        qkv, self_out: of attention to the other half-frames, width to 3 width and width to width.
        query, memory, cross_out: of attention to the language model's states, width to width, 2 width (keys and values)
            and width.
        expand, contract: width to hidden, and back.
        norms: before each of the three.
    """

    qkv: PackedLinear
    self_out: PackedLinear
    query: PackedLinear
    memory: PackedLinear
    cross_out: PackedLinear
    expand: PackedLinear
    contract: PackedLinear
    norms: Sequence[torch.nn.LayerNorm]


class ConditionHead:
    """Which unit of the transcript each half-frame of a chunk says: the pointer's logits, and how far it is through it.

    Equal to ``Orchestrator.align`` up to rounding. A stream's result depends neither on the others in the call nor on
    the number of threads. Immutable; any number of threads may call it at once.

    Attributes:
        width, heads, bins: sizes; ``bins`` of a half-frame's sound.
        layers: as they were given.
    """

    def __init__(self, layers: Sequence[ConditionLayer], *, heads: int, noisy: PackedLinear,
                 final_norm: torch.nn.LayerNorm, pointer: PackedLinear, offset: PackedLinear) -> None:
        """``noisy``: bins to width; ``pointer``: width to width; ``offset``: width to 1.

        Raises:
            ConfigError: on shapes that do not fit together.
            UnsupportedError: without the native module, or where attention has no kernel for the head size.
        """
        if native is None:
            raise UnsupportedError(f"no native module: {load_error}", hint="run the head with torch")
        self.width, self.heads, self.bins = noisy.out_features, heads, noisy.in_features
        head_dim = self.width // heads
        if self.width % heads:
            raise ConfigError(f"a width of {self.width} is not {heads} heads", hint="the width is heads * head_dim")
        if not native.cpu_head_dim_supported(head_dim):
            raise UnsupportedError(f"head_dim {head_dim} is not 64 or 128", hint="run the head with torch")
        self.layers, self.noisy, self.pointer, self.offset = list(layers), noisy, pointer, offset
        kept: list[Tensor] = []

        def norm(layer: torch.nn.LayerNorm) -> tuple[int, int]:
            if layer.eps != 1e-5:
                raise ConfigError(f"eps is {layer.eps}", hint="1e-5")
            shift, scale = vector("bias", layer.bias, self.width), vector("weight", layer.weight, self.width) - 1
            kept.extend((shift, scale))
            return shift.data_ptr(), scale.data_ptr()

        def parts(layer: ConditionLayer):
            if len(layer.norms) != 3:
                raise ConfigError(f"{len(layer.norms)} norms", hint="three a layer")
            return *(linear._packed for linear in _linears(layer)), *map(norm, layer.norms)

        try:
            self._native = native.ConditionHead(heads, head_dim, noisy._packed, [parts(x) for x in layers],
                                                norm(final_norm), pointer._packed, offset._packed)
        except ValueError as error:
            raise ConfigError(str(error), hint="see ConditionLayer") from None
        self.nbytes = sum(x.nbytes for layer in layers for x in _linears(layer)) \
            + sum(x.nbytes for x in (noisy, pointer, offset))

    def __call__(self, memory: Tensor, keys: Tensor, padding: Tensor, noisy: Tensor,
                 base: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, float32 (B, places, W), -inf where there is no unit, and offsets in [0, 1], (B, places).

        Args:
            memory: states of the style, the window's W units and the history, float32 (B, M, width), M > W.
            keys: what the pointer compares with, float32 (B, W, width).
            padding: bool (B, W), True where there is no unit: its state and key are not read.
            noisy: sound of the chunk's half-frames, float32 (B, slots, bins).
            base: of the chunk's half-frames and those beyond it, float32 (places, width), what is added to the sound.
            All are contiguous and on the CPU.

        Raises:
            ConfigError: on shapes, dtypes or devices that do not fit, or where a gradient is wanted.
        """
        if any(x.ndim != 3 for x in (memory, keys, noisy)) or base.ndim != 2:
            raise ConfigError("memory, keys and noisy have three dimensions, base has two", hint="see ConditionHead")
        batch, tokens, slots, (places, window) = *memory.shape[:2], noisy.shape[1], (base.shape[0], keys.shape[1])
        if tokens <= window or places < slots:
            raise ConfigError(f"{tokens} states of a window of {window}, {places} places of {slots} half-frames",
                              hint="a state for the style and each unit, a place for each half-frame")
        check("memory", memory, (batch, tokens, self.width))
        check("keys", keys, (batch, window, self.width))
        check("padding", padding, (batch, window), torch.bool)
        check("noisy", noisy, (batch, slots, self.bins))
        check("base", base, (places, self.width))
        if torch.is_grad_enabled() and any(x.requires_grad for x in (memory, keys, noisy, base)):
            raise ConfigError("a native head gives no gradient", hint="use torch.inference_mode()")
        logits, offset = torch.empty(batch, places, window), torch.empty(batch, places)
        self._native.run(batch, slots, places, window, tokens, noisy.data_ptr(), base.data_ptr(), memory.data_ptr(),
                         keys.data_ptr(), padding.data_ptr(), logits.data_ptr(), offset.data_ptr())
        return logits, offset

    def __repr__(self) -> str:
        return f"ConditionHead({len(self.layers)} x {self.heads} x {self.width // self.heads})"


def _linears(layer: ConditionLayer) -> tuple[PackedLinear, ...]:
    return (layer.qkv, layer.self_out, layer.query, layer.memory, layer.cross_out, layer.expand, layer.contract)
