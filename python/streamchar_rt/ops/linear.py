"""A linear layer with what follows it in a transformer's block: GELU, or a gated residual.

Native on a GPU for bfloat16 tensors that need no gradient, where the build has CUTLASS; else torch's linear layer and
the other ops. Also ``torch.ops.streamchar.fused_linear``, which ``torch.compile`` sees.
"""
from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ConfigError
from ._library import register
from ._native import cuda_linear_reason_against, native, needs_gradient
from .modulation import gated_residual

_GROUP = 8      # elements in 16 bytes
_MOST_BATCHES = 65535
_ACTIVATIONS = (None, "gelu_tanh")


def fused_linear_serves(device: torch.device | str) -> str | None:
    """None where fused linear layers are native on this device, in bfloat16; else why they are not."""
    if torch.device(device).type != "cuda":
        return f"fused linear layers are native on a GPU, not on {device}"
    return cuda_linear_reason_against()


def fused_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    activation: Literal["gelu_tanh"] | None = None,
    gate: Tensor | None = None,
    residual: Tensor | None = None,
    out: Tensor | None = None,
) -> Tensor:
    """``activation(x W^T + bias)``, or with gate and residual ``residual + gate * (x W^T + bias)``.

    Native results are rounded once; elsewhere each step rounds to x's dtype.

    Args:
        x: (B, T, K).
        weight, bias: (N, K) and (N,) as ``torch.nn.Linear`` has them, x's dtype.
        activation: "gelu_tanh" for ``gelu(y, approximate="tanh")``.
        gate, residual: (B or 1, 1, N) and (B, T, N), x's dtype; both or neither, and not with an activation.
        out: where to write, (B, T, N) contiguous; may be the residual itself, not x.

    Raises:
        ConfigError: on shapes, dtypes or devices that do not fit together.
    """
    shape = _check(x, weight, bias, activation, gate, residual, out)
    tensors = [t for t in (x, weight, bias, gate, residual) if t is not None]
    if not _served(x, weight, tensors, out):
        return _unfused(x, weight, bias, activation, gate, residual, out)
    return cuda_fused_linear(x, weight, bias, activation, gate, residual, out, shape)


def cuda_fused_linear(x, weight, bias, activation, gate, residual, out, shape, path: str = "auto") -> Tensor:
    """``fused_linear`` of tensors that fit together, to ``shape``; ``path``: auto, sm80 or sm90."""
    x, weight = _rows(x), _whole(weight)
    bias = None if bias is None else _whole(bias)
    finish = activation or "none"
    gating, kept = (0, 0), (0, 0, 0)
    if residual is not None:
        finish, residual, gate = "gated_residual", _rows(residual), _rows(gate)
        gating = gate.data_ptr(), gate.stride(0) if gate.shape[0] == shape[0] and shape[0] > 1 else 0
        kept = _view(residual)
    result = torch.empty(shape, dtype=x.dtype, device=x.device) if out is None else out
    with torch.cuda.device(x.device):
        native.cuda_fused_linear(
            shape[0], shape[1], shape[2], x.shape[2], finish, _view(x), weight.data_ptr(),
            0 if bias is None else bias.data_ptr(), gating, kept, (result.data_ptr(), shape[1] * shape[2], shape[2]),
            torch.cuda.current_stream().cuda_stream, path,
        )
    return result


def _check(x, weight, bias, activation, gate, residual, out) -> tuple[int, int, int]:
    """The result's shape; ConfigError for what does not fit."""
    if x.ndim != 3 or weight.ndim != 2 or weight.shape[1] != x.shape[2]:
        raise ConfigError(
            f"x is {tuple(x.shape)}, weight {tuple(weight.shape)}", hint="(batch, tokens, K) and (outputs, K)"
        )
    if activation not in _ACTIVATIONS:
        raise ConfigError(f"no activation {activation!r}", hint='"gelu_tanh" or None')
    if (gate is None) != (residual is None) or (gate is not None and activation is not None):
        raise ConfigError(
            "gate and residual go together, without an activation", hint="give both, or an activation, or neither"
        )
    shape = (x.shape[0], x.shape[1], weight.shape[0])
    wanted = {"weight": (weight, (weight.shape,)), "bias": (bias, (shape[2:],)), "out": (out, (shape,)),
              "gate": (gate, ((shape[0], 1, shape[2]), (1, 1, shape[2]))), "residual": (residual, (shape,))}
    for name, (tensor, shapes) in wanted.items():
        if tensor is None:
            continue
        if tuple(tensor.shape) not in [tuple(s) for s in shapes] or tensor.dtype is not x.dtype \
                or tensor.device != x.device:
            raise ConfigError(
                f"{name} is {tuple(tensor.shape)} {tensor.dtype} on {tensor.device}, x {x.dtype} on {x.device}",
                hint=f"{tuple(shapes[0])}, with x's dtype and device",
            )
    if out is not None and not out.is_contiguous():
        raise ConfigError("out must be contiguous", hint=f"torch.empty{shape}")
    return shape


def _served(x: Tensor, weight: Tensor, tensors: list[Tensor], out: Tensor | None) -> bool:
    if not x.is_cuda or x.dtype is not torch.bfloat16 or needs_gradient(*tensors):
        return False
    aligned = not any(size % _GROUP for size in weight.shape) and (out is None or out.data_ptr() % 16 == 0)
    return aligned and x.shape[0] <= _MOST_BATCHES and cuda_linear_reason_against() is None


def _unfused(x, weight, bias, activation, gate, residual, out) -> Tensor:
    y = F.linear(x, weight, bias)
    if residual is not None:
        return gated_residual(residual, gate, y, out=out)
    if activation is not None:
        y = F.gelu(y, approximate="tanh")
    return y if out is None else out.copy_(y)


def _rows(x: Tensor) -> Tensor:
    """x itself where bulk copies can read its rows: contiguous channels, address and strides in multiples of 16 bytes,
    no row before the end of the one before it."""
    batch, token, channel = x.stride()
    readable = channel == 1 and token >= x.shape[2] and batch % _GROUP == 0 and token % _GROUP == 0
    return x if readable and x.data_ptr() % 16 == 0 else x.clone(memory_format=torch.contiguous_format)


def _whole(x: Tensor) -> Tensor:
    return x if x.is_contiguous() and x.data_ptr() % 16 == 0 else x.clone(memory_format=torch.contiguous_format)


def _view(x: Tensor) -> tuple[int, int, int]:
    return x.data_ptr(), x.stride(0), x.stride(1)


register(
    "fused_linear(Tensor x, Tensor weight, Tensor? bias=None, str? activation=None, Tensor? gate=None, "
    "Tensor? residual=None) -> Tensor",
    lambda x, weight, bias=None, activation=None, gate=None, residual=None: fused_linear(
        x, weight, bias, activation=activation, gate=gate, residual=residual),
    lambda x, weight, *_: x.new_empty((*x.shape[:2], weight.shape[0])),
)
