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
    _check(x, {"shift": shift, "scale": scale}, out)
    if not _native(x, shift, scale):
        return _kept(reference.adaln_modulate(x, shift, scale, eps), out)
    rows = [_rows(t) for t in (x, shift, scale)]
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    views = [_view(t, x.shape) for t in rows]
    if x.device.type == "cpu":
        native.adaln_modulate(*x.shape, *views, eps, result.data_ptr())
    else:
        with torch.cuda.device(x.device):
            native.cuda_adaln_modulate(
                *x.shape, x.dtype is torch.bfloat16, *views, eps, result.data_ptr(),
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
    _check(x, {"gate": gate, "update": update}, out)
    if update.shape != x.shape:
        raise ConfigError(f"update is {tuple(update.shape)}, x {tuple(x.shape)}", hint="they have one shape")
    if not _native(x, gate, update):
        return _kept(reference.gated_residual(x, gate, update), out)
    rows = [_rows(t) for t in (x, gate, update)]
    result = torch.empty(x.shape, dtype=x.dtype, device=x.device) if out is None else out
    views = [_view(t, x.shape) for t in rows]
    if x.device.type == "cpu":
        native.gated_residual(*x.shape, *views, result.data_ptr())
    else:
        with torch.cuda.device(x.device):
            native.cuda_gated_residual(
                *x.shape, x.dtype is torch.bfloat16, *views, result.data_ptr(), torch.cuda.current_stream().cuda_stream
            )
    return result


def _check(x: Tensor, others: dict[str, Tensor], out: Tensor | None) -> None:
    if x.ndim != 3:
        raise ConfigError(f"x must be (batch, tokens, width), got {tuple(x.shape)}", hint="add the batch dimension")
    batch, tokens, width = x.shape
    for name, t in others.items():
        fits = t.ndim == 3 and t.shape[0] in (1, batch) and t.shape[1] in (1, tokens) and t.shape[2] == width
        if not fits or t.dtype != x.dtype or t.device != x.device:
            raise ConfigError(
                f"{name} is {tuple(t.shape)} {t.dtype} on {t.device}, x {tuple(x.shape)} {x.dtype} on {x.device}",
                hint="(batch or 1, tokens or 1, width), with x's dtype and device",
            )
    if out is not None and (out.shape != x.shape or out.dtype != x.dtype or not out.is_contiguous()
                            or out.device != x.device):
        raise ConfigError("out must be contiguous and like x", hint=f"torch.empty{tuple(x.shape)}")


def _native(x: Tensor, *others: Tensor) -> bool:
    if native is None or needs_gradient(x, *others):
        return False
    if x.device.type == "cpu":
        return x.dtype is torch.float32
    if x.device.type != "cuda" or not cuda_rows_served(x.dtype):
        return False
    group = _CUDA_ALIGNMENT // x.element_size()
    return x.shape[-1] % group == 0 and x.shape[-1] // group <= native.cuda_max_groups_per_row


def _rows(x: Tensor) -> Tensor:
    """x itself where the kernels can read it: contiguous channels, and on a GPU 16-byte aligned rows."""
    if x.device.type == "cpu":
        return x if x.stride(-1) == 1 else x.contiguous()
    group = _CUDA_ALIGNMENT // x.element_size()
    aligned = x.stride(0) % group == 0 and x.stride(1) % group == 0 and x.data_ptr() % _CUDA_ALIGNMENT == 0
    return x if aligned and x.stride(-1) == 1 else x.clone(memory_format=torch.contiguous_format)


def _view(x: Tensor, shape: torch.Size) -> tuple[int, int, int]:
    """(address, batch stride, token stride) of x broadcast to ``shape``."""
    return (
        x.data_ptr(),
        x.stride(0) if x.shape[0] == shape[0] else 0,
        x.stride(1) if x.shape[1] == shape[1] else 0,
    )


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
