"""Loads the native module, if this installation has one, and passes tensors to it as addresses."""
from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
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


#: What keys and values may be stored as on a CPU.
CPU_STORAGE = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.int8: "int8"}


def cpu_reason_against(dtype: torch.dtype, head_dim: int) -> str | None:
    """None where the CPU kernels serve this, else why they do not."""
    if native is None:
        return f"the native module is not installed ({load_error})"
    if dtype not in CPU_STORAGE:
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
    if x.requires_grad:
        x = x.detach()
    if x.dtype is not torch.float32:
        x = x.float()
    return x if x.stride(-1) == 1 else x.contiguous()


def weight_rows(weight: Tensor) -> Tensor:
    """(G, D) norm weights as contiguous float32."""
    if weight.dtype is torch.float32 and weight.is_contiguous() and not weight.requires_grad:
        return weight
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
    return None if _gpu_serves() else _NO_GPU


_NO_GPU = "no GPU of compute capability 8.0 or later, or STREAMCHAR_KERNELS=reference"


def _gpu_serves() -> bool:
    if os.environ.get("STREAMCHAR_KERNELS") == "reference":
        return False
    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)


def cuda_rows_served(dtype: torch.dtype) -> bool:
    """Whether the CUDA kernels of rows (adaln_modulate and its like) take this dtype here."""
    built = native is not None and bool(native.cuda_architectures)
    return built and dtype in (torch.float32, torch.bfloat16) and _gpu_serves()


def cuda_linear_reason_against() -> str | None:
    """None where fused_linear has a kernel for bfloat16 on this GPU, else why not."""
    if native is None:
        return f"the native module is not installed ({load_error})"
    if not native.cuda_architectures:
        return "the native module was built without CUDA"
    if not native.cutlass:
        return "the native module was built without CUTLASS"
    return None if _gpu_serves() else _NO_GPU


#: What keys and values may be stored as on a GPU.
CUDA_STORAGE = {torch.bfloat16: "bfloat16", torch.float8_e4m3fn: "float8", torch.int8: "int8"}


def _device_rows(x: Tensor) -> Tensor:
    """Rows that 16-byte copies can read: contiguous channels, strides and address in multiples of 16 bytes."""
    group = 16 // x.element_size()
    aligned = x.stride(-1) == 1 and x.stride(0) % group == 0 and x.stride(1) % group == 0 and x.data_ptr() % 16 == 0
    return x if aligned else x.contiguous()


def _device_table(x: Tensor | None) -> Tensor | None:
    """A contiguous table of float32 that 16-byte loads can read."""
    return x if x is None or x.data_ptr() % 16 == 0 else x.clone()


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


@dataclass(frozen=True)
class AppendQueries:
    """Queries for ``cuda_kv_append`` to make ready beside the keys.

    Attributes:
        q: (T, H, D) raw.  ready: (T, H, D) bfloat16, contiguous, written.
        moved: like ``ready``, written too: turned by ``distance`` more, for segments that lie further back.
    """

    q: Tensor
    ready: Tensor
    moved: Tensor | None = None
    distance: float = 0.0


def cuda_kv_append(
    k: Tensor, v: Tensor, norm: QkNorm, rope: Rope, *, out: tuple[Tensor, Tensor] | None = None,
    ranges: tuple[Tensor, Tensor] | None = None, measure: bool = True, distance: float = 0.0, all_heads: bool = False,
    queries: AppendQueries | None = None,
) -> tuple[Tensor, Tensor]:
    """Ready keys and plain values (T, H, D), on the current stream: contiguous, bfloat16 unless ``out`` is narrow.

    With ``out``, and weights already in float32, it allocates nothing.

    Args:
        out: where to write, (T, H, D) contiguous: ring rows. bfloat16, float8_e4m3fn or int8.
        ranges: of keys and of values, (H,) float32: for narrow storage, see ``reference.to_storage``.
        measure: set the ranges from these tokens; else they are taken as they are, and what exceeds them saturates.
        distance: turns keys and queries this much later in time than ``rope`` says: a frame offset.
        all_heads: RMSNorm over all heads of a token at once; norm weights are (groups, H * D).

    Raises:
        ConfigError: where out or ranges are not as above.
    """
    tokens, heads, head_dim = k.shape
    k, v = _device_rows(k), _device_rows(v)
    if out is None:
        out = torch.empty_like(k, memory_format=torch.contiguous_format), v.new_empty(v.shape)
    for x in out:
        if x.shape != k.shape or not x.is_contiguous() or x.dtype != out[0].dtype or x.dtype not in CUDA_STORAGE:
            raise ConfigError(f"cannot append to {tuple(x.shape)} {x.dtype}",
                              hint=f"two contiguous {tuple(k.shape)} of one of {list(CUDA_STORAGE)}")
    if out[0].dtype is torch.bfloat16:
        ranges = None
    elif ranges is None or any(r.shape != (heads,) or r.dtype is not torch.float32 for r in ranges):
        raise ConfigError("narrow storage needs ranges", hint=f"two float32 tensors of ({heads},)")
    key_range, value_range = ranges or (None, None)
    weight = weight_rows(norm.k_weight)
    if weight.shape[1] != (heads * head_dim if all_heads else head_dim) or heads > native.cuda_max_append_heads:
        raise ConfigError(f"norm weights are {tuple(weight.shape)} for {heads} heads of {head_dim}",
                          hint="(groups, H * D) with all_heads, else (groups, D); at most 64 heads")
    q = None if queries is None else _device_rows(queries.q)
    q_weight = None if queries is None else weight_rows(norm.q_weight)
    shift = rope.shift(distance, torch.float32, k.device) if distance else None
    moved = None if queries is None else queries.moved
    moved_shift = None if moved is None else rope.shift(queries.distance, torch.float32, k.device)
    with torch.cuda.device(k.device):
        native.cuda_kv_append(
            tokens, heads, head_dim, CUDA_STORAGE[out[0].dtype], all_heads, strided(k), strided(v), weight.data_ptr(),
            norm.bounds, norm.eps, rope.table.data_ptr(), _address(shift), out[0].data_ptr(), out[1].data_ptr(),
            _address(key_range), _address(value_range), measure, (0, 0, 0) if q is None else strided(q),
            _address(q_weight), _address(None if queries is None else queries.ready), _address(moved),
            _address(moved_shift), torch.cuda.current_stream().cuda_stream,
        )
    return out


@dataclass(frozen=True)
class KvSegment:
    """Keys and values as attention on a GPU reads them, in place.

    Attributes:
        key, value: (S, H, D), both bfloat16, float8_e4m3fn or int8; keys ready.
        distance: how much later than the segment the queries are.
        ranges: of keys and of values, (H,) float32, where they are narrow.
        moved: meets the stream's ``moved`` queries, if it has any, and ``distance`` is not used.
    """

    key: Tensor
    value: Tensor
    distance: float = 0.0
    ranges: tuple[Tensor, Tensor] | None = None
    moved: bool = False


@dataclass(frozen=True)
class AttentionStream:
    """Queries that attend to the same segments: the video or the audio of one session.

    Attributes:
        q: (T, H, D) bfloat16, raw; ready if ``weight`` is None.
        segments: at most ``cuda_max_segments``.
        rope: of the queries, on their device.  bounds, eps: see ``QkNorm``.
        weight: (groups, D), or None. With several segments of different distances, of magnitudes between 1e-5 and 5000.
        moved: (T, H, D) bfloat16, ready queries for the segments that are ``moved``.
        out, lse: where to write, (T, H, D) bfloat16 and (T, H) float32, contiguous; made if None.
    """

    q: Tensor
    segments: Sequence[KvSegment]
    rope: Rope
    weight: Tensor | None
    bounds: Sequence[int]
    eps: float = 1e-6
    moved: Tensor | None = None
    out: Tensor | None = None
    lse: Tensor | None = None


_workspaces: dict[tuple[int, int | None, int], Tensor] = {}


def cuda_attention_workspace(
    head_dim: int, dtype: torch.dtype = torch.bfloat16, path: str = "auto", device: torch.device | None = None
) -> Tensor:
    """Scratch memory for attention calls that follow one another on one stream: zeroed, and used up by none of them."""
    with torch.cuda.device(device):
        return torch.zeros(native.cuda_attention_workspace(head_dim, CUDA_STORAGE[dtype], path), dtype=torch.uint8,
                           device="cuda")


def _shared_workspace(head_dim: int, dtype: torch.dtype, path: str) -> Tensor:
    """One per size and stream of the current device, and one for all CUDA graphs, made by calls outside a capture.

    None is ever replaced: a captured graph goes on using its memory.
    """
    device, need = torch.cuda.current_device(), native.cuda_attention_workspace(head_dim, CUDA_STORAGE[dtype], path)
    graphs, capturing = (device, None, need), torch.cuda.is_current_stream_capturing()
    own = graphs if capturing else (device, torch.cuda.current_stream().cuda_stream, need)
    for key in (own, graphs):
        if key not in _workspaces:
            if capturing:
                raise ConfigError("attention is captured before it has run", hint="run it once, or give a workspace")
            _workspaces[key] = cuda_attention_workspace(head_dim, dtype, path)
    return _workspaces[own]


def cuda_attention_streams(
    streams: Sequence[AttentionStream], path: str = "auto", workspace: Tensor | None = None
) -> list[tuple[Tensor, Tensor]]:
    """Attention of several streams in one launch on the current stream: (out, log-sum-exp) of each.

    All have one head size, device and storage. With ``out``, ``lse``, ``workspace`` and float32 weights given it
    allocates nothing, and it can be captured in a CUDA graph. Graphs that were captured without a workspace share one:
    their replays must not overlap.

    Raises:
        ConfigError: for more streams, segments or token groups than the kernel takes, or mixed storage.
    """
    if not streams:
        return []
    segments = [segment for stream in streams for segment in stream.segments]
    dtypes = {x.dtype for s in segments for x in (s.key, s.value)} or {torch.bfloat16}
    most = max(len(stream.segments) for stream in streams)
    groups = max(len(stream.bounds) - 1 for stream in streams)
    if (
        len(streams) > native.cuda_max_streams or len(segments) > native.cuda_max_listed_segments
        or most > native.cuda_max_segments or groups > native.cuda_max_groups
    ):
        raise ConfigError(
            f"{len(streams)} streams with {len(segments)} segments and {groups} token groups are too many",
            hint=f"at most {native.cuda_max_streams}, {native.cuda_max_listed_segments} ({native.cuda_max_segments} a "
                 f"stream) and {native.cuda_max_groups} on a GPU",
        )
    if len(dtypes) > 1 or not dtypes <= CUDA_STORAGE.keys() or len({s.q.shape[-1] for s in streams}) > 1:
        raise ConfigError(f"keys and values in {dtypes}", hint=f"one head size, and one of {list(CUDA_STORAGE)}")
    (dtype,) = dtypes
    if dtype is not torch.bfloat16 and any(s.ranges is None for s in segments):
        raise ConfigError("narrow keys and values need ranges", hint="those of cuda_kv_append")
    device, head_dim = streams[0].q.device, streams[0].q.shape[-1]
    kept: list[object] = []     # what must outlive the call beside the arguments
    listed, calls, results = [], [], []
    for stream in streams:
        q, moved = _device_rows(stream.q), None if stream.moved is None else _device_rows(stream.moved)
        weight = None if stream.weight is None else _device_table(weight_rows(stream.weight))
        table = None if stream.weight is None else _device_table(stream.rope.table)
        out = torch.empty_like(q, memory_format=torch.contiguous_format) if stream.out is None else stream.out
        lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=device) if stream.lse is None else stream.lse
        kept += [q, moved, weight, table]
        calls.append((
            q.shape[0], q.shape[1], strided(q), (0, 0, 0) if moved is None else strided(moved), _address(weight),
            list(stream.bounds), stream.eps, _address(table),
            len(listed), len(stream.segments), out.data_ptr(), lse.data_ptr(),
        ))
        for s in stream.segments:
            key, value = _device_rows(s.key), _device_rows(s.value)
            still = not s.distance or (s.moved and moved is not None)
            shift = None if still else _device_table(stream.rope.shift(s.distance, torch.float32, device))
            ranges = s.ranges or (None, None)
            kept += [key, value, shift]
            listed.append((strided(key), strided(value), key.shape[0], s.moved, _address(shift),
                           *map(_address, ranges)))
        results.append((out, lse))
    with torch.cuda.device(device):
        scratch = _shared_workspace(head_dim, dtype, path) if workspace is None else workspace
        native.cuda_segment_attention(head_dim, CUDA_STORAGE[dtype], calls, listed, scratch.data_ptr(), scratch.numel(),
                                      torch.cuda.current_stream().cuda_stream, path)
    return results


def cuda_attention(
    q: Tensor, keys: Sequence[Tensor], values: Sequence[Tensor], weight: Tensor, bounds: Sequence[int], rope: Rope,
    distances: Sequence[float], eps: float, path: str = "auto", *,
    ranges: Sequence[tuple[Tensor, Tensor]] | None = None, out: Tensor | None = None, lse: Tensor | None = None,
    workspace: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """bfloat16 segment_attention of one stream, and its log-sum-exp, on the current stream; rope on q's device.

    ``path``: "sm80" or "sm90" (Hopper alone) force a kernel, for tests and benchmarks. The rest is as in
    ``cuda_attention_streams``.
    """
    of_segments = ranges or [None] * len(keys)
    segments = [KvSegment(*s) for s in zip(keys, values, distances, of_segments, strict=True)]
    stream = AttentionStream(q, segments, rope, weight, bounds, eps, None, out, lse)
    return cuda_attention_streams([stream], path, workspace)[0]
