"""Loads the native module, if this installation has one, and passes tensors to it as addresses."""
from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType

import torch
from torch import Tensor

from ..errors import ConfigError
from .norm import QkNorm
from .rope import Rope

try:
    from .. import _native as _module
except ImportError as error:
    _module = None
    load_error: ImportError | None = error
else:
    load_error = None

native: ModuleType | None = _module

Strided = tuple[int, int, int]


def needs_gradient(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(x.requires_grad for x in tensors)


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


def cuda_reason_against(dtype: torch.dtype, head_dim: int) -> str | None:
    """None where the CUDA kernels serve this, else why they do not."""
    if native is None:
        return f"the native module is not installed ({load_error})"
    if not native.cuda_architectures:
        return "the native module was built without CUDA"
    if dtype is not torch.bfloat16:
        return f"CUDA kernels work in bfloat16, not {dtype}"
    if head_dim not in (64, 128):
        return f"head_dim {head_dim} is not 64 or 128"
    return None if _gpu_serves() else "no GPU of compute capability 8.0 or later"


def _gpu_serves() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def cuda_rows_served(dtype: torch.dtype) -> bool:
    """Whether the CUDA kernels of rows (adaln_modulate and its like) take this dtype here."""
    built = native is not None and bool(native.cuda_architectures)
    return built and dtype in (torch.float32, torch.bfloat16) and _gpu_serves()


def _device_rows(x: Tensor) -> Tensor:
    """Rows that 16-byte copies can read: contiguous channels, strides and address in multiples of 8 elements."""
    aligned = x.stride(-1) == 1 and x.stride(0) % 8 == 0 and x.stride(1) % 8 == 0 and x.data_ptr() % 16 == 0
    return x if aligned else x.contiguous()


def cuda_kv_append(k: Tensor, v: Tensor, norm: QkNorm, rope: Rope) -> tuple[Tensor, Tensor]:
    """Ready keys and plain values (T, H, D) bfloat16, contiguous; on the current stream."""
    k, v = _device_rows(k), _device_rows(v)
    weight = weight_rows(norm.k_weight)
    key, value = torch.empty_like(k, memory_format=torch.contiguous_format), v.new_empty(v.shape)
    with torch.cuda.device(k.device):
        native.cuda_kv_append(
            *k.shape, strided(k), strided(v), weight.data_ptr(), norm.bounds, norm.eps, rope.table.data_ptr(),
            key.data_ptr(), value.data_ptr(), torch.cuda.current_stream().cuda_stream,
        )
    return key, value


def cuda_attention(
    q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], weight: Tensor, bounds: Sequence[int], rope: Rope,
    distances: Sequence[float], eps: float, path: str = "auto",
) -> tuple[Tensor, Tensor]:
    """bfloat16 segment_attention and its log-sum-exp on the current stream; rope on q's device.

    ``path``: "sm80" or "sm90" (Hopper alone) force a kernel, for tests and benchmarks.

    Raises:
        ConfigError: for more segments or token groups than the kernel takes.
    """
    if len(keys) > native.cuda_max_segments or len(bounds) - 1 > native.cuda_max_groups:
        raise ConfigError(
            f"{len(keys)} segments and {len(bounds) - 1} token groups are too many",
            hint=f"at most {native.cuda_max_segments} and {native.cuda_max_groups} on a GPU",
        )
    q, weight = _device_rows(q), weight_rows(weight)
    rows = [(_device_rows(k), _device_rows(v)) for k, v in zip(keys, values, strict=True)]
    shifts = [rope.shift(d, torch.float32, q.device) if d else None for d in distances]
    out = torch.empty_like(q, memory_format=torch.contiguous_format)
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    with torch.cuda.device(q.device):
        native.cuda_segment_attention(
            *q.shape, strided(q), weight.data_ptr(), list(bounds), eps, rope.table.data_ptr(),
            [
                (strided(k), strided(v), k.shape[0], 0 if s is None else s.data_ptr())
                for (k, v), s in zip(rows, shifts)
            ],
            out.data_ptr(), lse.data_ptr(), torch.cuda.current_stream().cuda_stream, path,
        )
    return out, lse
