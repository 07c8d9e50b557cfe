"""Loads the native module, if this installation has one, and passes tensors to it as addresses."""
from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from ..errors import ConfigError

try:
    from .. import _native as _module
except ImportError as error:
    _module = None
    load_error: ImportError | None = error
else:
    load_error = None

native: ModuleType | None = _module

Strided = tuple[int, int, int]


def cpu_reason_against(dtype: torch.dtype, head_dim: int) -> str | None:
    """None where the CPU kernels serve this, else why they do not."""
    if native is None:
        return f"the native module is not installed ({load_error})"
    if dtype not in (torch.float32, torch.bfloat16):
        return f"no CPU storage in {dtype}"
    if not native.cpu_head_dim_supported(head_dim):
        return f"head_dim {head_dim} is not 64 or 128"
    return None


def float_rows(name: str, x: Tensor) -> Tensor:
    """(T, H, D) as float32 with contiguous channels; copies only where it must.

    Raises:
        ConfigError: if autograd would have to flow through.
    """
    if x.requires_grad and torch.is_grad_enabled():
        raise ConfigError(
            f"{name} needs a gradient, which native kernels do not give",
            hint='use torch.inference_mode(), or kernels="reference" to train',
        )
    x = x.detach()
    if x.dtype is not torch.float32:
        x = x.float()
    return x if x.stride(-1) == 1 else x.contiguous()


def weight_rows(weight: Tensor) -> Tensor:
    """(G, D) norm weights as contiguous float32."""
    return weight.detach().to(torch.float32).contiguous()


def strided(x: Tensor) -> Strided:
    """(address, token stride, head stride) of a (T, H, D) tensor with contiguous channels."""
    return x.data_ptr(), x.stride(0), x.stride(1)
