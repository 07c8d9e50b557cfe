"""adaLN modulation and gated residuals of (B, T, d) tokens.

Native for tensors that need no gradient, in float32 on a CPU and in float32 or bfloat16 on a GPU; else plain torch.
Also ``torch.ops.streamchar.adaln_modulate`` and ``gated_residual``, which ``torch.compile`` sees.
"""
from __future__ import annotations

import torch
from torch import Tensor

from ..errors import ConfigError
from . import reference
from ._library import register
from ._native import cuda_rows_served, native, needs_gradient

_CUDA_ALIGNMENT = 16   # bytes


def adaln_modulate(x: Tensor, shift: Tensor, scale: Tensor, eps: float = 1e-5, *, out: Tensor | None = None) -> Tensor:
    """Layer norm without weights, then shift and scale: ``layer_norm(x) * (1 + scale) + shift``.

    Args:
        x: (B, T, d).
        shift, scale: (B or 1, T or 1, d), x's dtype.
        out: where to write, (B, T, d) contiguous; may be x itself.

    Raises:
        ConfigError: on shapes, dtypes or devices that do not fit together.
    """
    shape = _shape(x, out)
    _check_row("shift", shift, x, shape)
    _check_row("scale", scale, x, shape)
    if not _native(x, shift, scale):
        return _kept(reference.adaln_modulate(x, shift, scale, eps), out)
    rows = _rows(x), _rows(shift), _rows(scale)
    result = torch.empty(shape, dtype=x.dtype, device=x.device) if out is None else out
    views = [_view(t, shape) for t in rows]
    if x.is_cpu:
        native.adaln_modulate(*shape, *views, eps, result.data_ptr())
    else:
        with torch.cuda.device(x.device):
            native.cuda_adaln_modulate(
                *shape, x.dtype is torch.bfloat16, *views, eps, result.data_ptr(),
                torch.cuda.current_stream().cuda_stream,
            )
    return result


def gated_residual(x: Tensor, gate: Tensor, update: Tensor, *, out: Tensor | None = None) -> Tensor:
    """``x + gate * update``.

    Args:
        x, update: (B, T, d).
        gate: (B or 1, T or 1, d), x's dtype.
        out: where to write, (B, T, d) contiguous; may be x or update itself.

    Raises:
        ConfigError: on shapes, dtypes or devices that do not fit together.
    """
    shape = _shape(x, out)
    _check_row("gate", gate, x, shape)
    _check_row("update", update, x, shape)
    if update.shape != shape:
        raise ConfigError(f"update is {tuple(update.shape)}, x {tuple(shape)}", hint="they have one shape")
    if not _native(x, gate, update):
        return _kept(reference.gated_residual(x, gate, update), out)
    rows = _rows(x), _rows(gate), _rows(update)
    result = torch.empty(shape, dtype=x.dtype, device=x.device) if out is None else out
    views = [_view(t, shape) for t in rows]
    if x.is_cpu:
        native.gated_residual(*shape, *views, result.data_ptr())
    else:
        with torch.cuda.device(x.device):
            native.cuda_gated_residual(
                *shape, x.dtype is torch.bfloat16, *views, result.data_ptr(), torch.cuda.current_stream().cuda_stream
            )
    return result


# These run several times a layer and step: attributes of tensors are read as seldom as can be.

def _shape(x: Tensor, out: Tensor | None) -> torch.Size:
    shape = x.shape
    if len(shape) != 3:
        raise ConfigError(f"x must be (batch, tokens, width), got {tuple(shape)}", hint="add the batch dimension")
    if out is not None and (
        out.shape != shape or out.dtype is not x.dtype or not out.is_contiguous() or out.device != x.device
    ):
        raise ConfigError("out must be contiguous and like x", hint=f"torch.empty{tuple(shape)}")
    return shape


def _check_row(name: str, row: Tensor, x: Tensor, shape: torch.Size) -> None:
    own = row.shape
    fits = own == shape or (
        len(own) == 3 and own[2] == shape[2] and own[0] in (1, shape[0]) and own[1] in (1, shape[1])
    )
    if not fits or row.dtype is not x.dtype or not (row.is_cpu and x.is_cpu or row.device == x.device):
        raise ConfigError(
            f"{name} is {tuple(own)} {row.dtype} on {row.device}, x {tuple(shape)} {x.dtype} on {x.device}",
            hint="(batch or 1, tokens or 1, width), with x's dtype and device",
        )


def _native(x: Tensor, *others: Tensor) -> bool:
    if native is None or needs_gradient(x, *others):
        return False
    if x.is_cpu:
        return x.dtype is torch.float32
    if not x.is_cuda or not cuda_rows_served(x.dtype):
        return False
    group = _CUDA_ALIGNMENT // x.element_size()
    return x.shape[-1] % group == 0 and x.shape[-1] // group <= native.cuda_max_groups_per_row


def _rows(x: Tensor) -> Tensor:
    """x itself where the kernels can read it: contiguous channels, and on a GPU 16-byte aligned rows."""
    if x.is_cpu:
        return x if x.stride(2) == 1 else x.contiguous()
    group = _CUDA_ALIGNMENT // x.element_size()
    batch, token, channel = x.stride()
    aligned = batch % group == 0 and token % group == 0 and x.data_ptr() % _CUDA_ALIGNMENT == 0
    return x if aligned and channel == 1 else x.clone(memory_format=torch.contiguous_format)


def _view(x: Tensor, shape: torch.Size) -> tuple[int, int, int]:
    """(address, batch stride, token stride) of x broadcast to ``shape``."""
    batch, token, _ = x.stride()
    own = x.shape
    if own == shape:
        return x.data_ptr(), batch, token
    return x.data_ptr(), batch if own[0] == shape[0] else 0, token if own[1] == shape[1] else 0


def _kept(result: Tensor, out: Tensor | None) -> Tensor:
    return result if out is None else out.copy_(result)


register(
    "adaln_modulate(Tensor x, Tensor shift, Tensor scale, float eps=1e-5) -> Tensor",
    lambda x, shift, scale, eps=1e-5: adaln_modulate(x, shift, scale, eps).contiguous(),
    lambda x, *_: x.new_empty(x.shape),
)
register(
    "gated_residual(Tensor x, Tensor gate, Tensor update) -> Tensor",
    lambda x, gate, update: gated_residual(x, gate, update).contiguous(),
    lambda x, *_: x.new_empty(x.shape),
)
