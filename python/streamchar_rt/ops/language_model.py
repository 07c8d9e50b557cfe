"""A Qwen3 language model's layers as one native call, for inference on a CPU."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import ConfigError, UnsupportedError
from ._native import load_error, native
from .packed_linear import PackedLinear


@dataclass(frozen=True)
class DecoderLayer:
    """A layer's parts.

    Attributes:
        qkv: width to (heads + 2 kv_heads) head_dim: queries, keys and values, head after head.
        out: heads * head_dim to width.
        gate_up: width to 2 hidden: what goes through SiLU, and what it is multiplied with.
        down: hidden to width.
        input_norm, hidden_norm: (width,), RMSNorm weights before attention and before the feed-forward.
        q_norm, k_norm: (head_dim,), RMSNorm weights of each head.
    """

    qkv: PackedLinear
    out: PackedLinear
    gate_up: PackedLinear
    down: PackedLinear
    input_norm: Tensor
    hidden_norm: Tensor
    q_norm: Tensor
    k_norm: Tensor


class LanguageModel:
    """``x += out(attention(qkv(norm(x))))`` and ``x += down(silu(gate) * up)``, layer after layer, then a norm: the
    layers of transformers' ``Qwen3Model``. Attention is causal, with rotary embedding; key heads may be shared.

    A sequence's result depends neither on the others in the call nor on the number of threads. Immutable; any number of
    threads may call it at once.

    Attributes:
        depth, width, heads, kv_heads, head_dim: sizes.
        nbytes: memory of the packed weights.
    """

    def __init__(self, layers: Sequence[DecoderLayer], final_norm: Tensor, *, heads: int, kv_heads: int,
                 head_dim: int, eps: float = 1e-6) -> None:
        """``final_norm``: (width,); ``eps``: of every norm.

        Raises:
            ConfigError: on shapes that do not fit together.
            UnsupportedError: without the native module, or where attention has no kernel for the head size.
        """
        if native is None:
            raise UnsupportedError(f"no native module: {load_error}", hint="run the model with transformers")
        if not native.cpu_head_dim_supported(head_dim):
            raise UnsupportedError(f"head_dim {head_dim} is not 64 or 128", hint="run the model with transformers")
        self.layers, self.depth, self.width = list(layers), len(layers), final_norm.numel()
        self.heads, self.kv_heads, self.head_dim = heads, kv_heads, head_dim
        kept = [vector("final_norm", final_norm, self.width)]

        def parts(layer: DecoderLayer):
            sizes = {"input_norm": self.width, "hidden_norm": self.width, "q_norm": head_dim, "k_norm": head_dim}
            vectors = [vector(name, getattr(layer, name), size) for name, size in sizes.items()]
            kept.extend(vectors)
            linears = (layer.qkv, layer.out, layer.gate_up, layer.down)
            return *(linear._packed for linear in linears), *(x.data_ptr() for x in vectors)

        try:
            self._native = native.LanguageModel(heads, kv_heads, head_dim, self.width, eps, [parts(x) for x in layers],
                                                kept[0].data_ptr())
        except ValueError as error:
            raise ConfigError(str(error), hint="see DecoderLayer") from None
        self.nbytes = sum(linear.nbytes for x in layers for linear in (x.qkv, x.out, x.gate_up, x.down))

    def __call__(self, x: Tensor, rope: Tensor, present: Tensor | None = None, *, out: Tensor | None = None) -> Tensor:
        """States of the tokens, float32 (B, T, width); zero where there is none.

        Args:
            x: embeddings, float32 (B, T, width), contiguous, on the CPU.
            rope: float32 (T, head_dim / 2, 2), contiguous: cosine and sine by which channels i and i + head_dim / 2 of
                a token turn.
            present: bool (B, T), contiguous: False where there is no token, which none sees; None: all are there.
            out: where to write; may be x.

        Raises:
            ConfigError: on shapes, dtypes or devices that do not fit, or where a gradient is wanted.
        """
        if x.ndim != 3:
            raise ConfigError(f"x is {tuple(x.shape)}", hint=f"(batch, tokens, {self.width})")
        batch, tokens = x.shape[:2]
        check("x", x, (batch, tokens, self.width))
        check("rope", rope, (tokens, self.head_dim // 2, 2))
        if present is not None:
            check("present", present, (batch, tokens), torch.bool)
        if torch.is_grad_enabled() and x.requires_grad:
            raise ConfigError("a native model gives no gradient", hint="use torch.inference_mode()")
        if out is None:
            out = torch.empty(x.shape)
        else:
            check("out", out, tuple(x.shape))
        self._native.run(batch, tokens, x.data_ptr(), 0 if present is None else present.data_ptr(), rope.data_ptr(),
                         out.data_ptr())
        return out

    def __repr__(self) -> str:
        heads = self.heads if self.heads == self.kv_heads else f"{self.heads}/{self.kv_heads}"
        return f"LanguageModel({self.depth} x {heads} x {self.head_dim}, width {self.width})"


def vector(name: str, x: Tensor, size: int) -> Tensor:
    """A learned vector as contiguous float32 (size,) on the CPU."""
    if x.shape != (size,):
        raise ConfigError(f"{name} is {tuple(x.shape)}", hint=f"({size},)")
    return x.detach().to("cpu", torch.float32).contiguous()


def check(name: str, x: Tensor, shape: tuple[int, ...], dtype: torch.dtype = torch.float32) -> None:
    """Raises ConfigError unless x is contiguous, on the CPU and as said."""
    if x.shape != shape or x.dtype is not dtype or not x.is_cpu or not x.is_contiguous():
        raise ConfigError(f"{name} is {tuple(x.shape)} {x.dtype} on {x.device}",
                          hint=f"contiguous {str(dtype).removeprefix('torch.')} {shape} on the CPU")
