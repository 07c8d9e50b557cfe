"""Records what every op takes: time, arithmetic and memory traffic. For ``streamchar profile``."""
from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from torch.utils.flop_counter import flop_registry

from .ops import linear
from .ops._device_store import DeviceStore
from .ops._native import native
from .ops._native_store import NativeStore
from .ops.condition_encoder import ConditionEncoder
from .ops.condition_head import ConditionHead
from .ops.joint_blocks import JointBlocks
from .ops.language_model import LanguageModel
from .ops.packed_conv import PackedConv
from .ops.packed_linear import PackedLinear
from .ops.transcript_reader import TranscriptReader
from .ops.video_layers import LatentDrawing
from .ops.vocoder_layers import VocoderLayers

_PACKAGE = __package__ + "."
_ACROSS = ("ops", "op_recorder", "threads")  # modules that work for whoever calls them
_WITHOUT_WORK = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "detach"}
# Ops that read one row for each one that they write, however large the table is.
_GATHERING = {"embedding", "index", "index_select", "gather"}


@dataclass(frozen=True, slots=True)
class Call:
    """One op call. ``bytes``: every input read and every output written once; ``flops``: products and sums of
    products alone, a multiply-add is two; ``kind``: the numbers that are multiplied ("fp32", "bf16", "int8")."""

    part: str  # the module of this package that called
    op: str
    begin: float  # seconds, of time.perf_counter()
    seconds: float
    flops: int
    bytes: int
    kind: str = "fp32"


class Recorder(TorchDispatchMode):
    """While entered, ops of this thread are appended to ``calls``: torch's, and the native ones that torch cannot see.

    An op that another one calls belongs to it. Views and allocations are left out. Ops on a GPU are waited for, and
    stand in NVTX ranges named ``part:op``.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self._inside = False
        self._thread = threading.get_ident()
        self._patches = ExitStack()

    def __enter__(self) -> Recorder:
        for owner, name, cost in _native_ops():
            self._patches.enter_context(_patched(owner, name, self._recording(name, cost)))
        return super().__enter__()

    def __exit__(self, *failure: Any) -> None:
        super().__exit__(*failure)
        self._patches.close()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func._schema.name.split("::")[-1]
        if self._inside or name in _WITHOUT_WORK:
            return func(*args, **kwargs)
        begin, seconds, out = self._timed(name, _on_gpu((args, kwargs)), lambda: func(*args, **kwargs))
        if func.is_view and _shares_memory(out, args):  # .to() and .reshape() copy at times
            return out
        work = _flops(func, args, kwargs, out), *_traffic(name, args, kwargs, out)
        self.calls.append(Call(_part(), name, begin, seconds, *work))
        return out

    def _recording(self, name: str, cost: Callable[..., tuple[int, int, str]]):
        def wrap(function):
            def call(*args, **kwargs):
                if self._inside or threading.get_ident() != self._thread:
                    return function(*args, **kwargs)
                label = _LABELS.get(type(args[0]), name) if args else name
                self._inside = True
                try:
                    flops, traffic, kind = cost(*args, **kwargs)
                    begin, seconds, out = self._timed(label, _on_gpu(args), lambda: function(*args, **kwargs))
                finally:
                    self._inside = False
                self.calls.append(Call(_part(), label, begin, seconds, flops, traffic, kind))
                return out

            return call

        return wrap

    def _timed(self, name: str, on_gpu: bool, run: Callable[[], Any]) -> tuple[float, float, Any]:
        with torch.cuda.nvtx.range(f"{_part()}:{name}") if on_gpu else nullcontext():
            if on_gpu:
                torch.cuda.synchronize()
            begin = time.perf_counter()
            out = run()
            if on_gpu:
                torch.cuda.synchronize()
            return begin, time.perf_counter() - begin, out


@contextmanager
def _patched(owner: Any, name: str, wrap: Callable) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, wrap(before))
    try:
        yield
    finally:
        setattr(owner, name, before)


def _part() -> str:
    """The module of this package that asked for the op, without the package's name; "other" for callers outside."""
    frame = sys._getframe(1)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith(_PACKAGE):
            name = name.removeprefix(_PACKAGE)
            if name.split(".")[0] not in _ACROSS:
                return name
        frame = frame.f_back
    return "other"


# ---------------------------------------------------------------- torch's ops
def _tensors(values: Any) -> list[torch.Tensor]:
    return [x for x in tree_iter(values) if isinstance(x, torch.Tensor)]


def _on_gpu(values: Any) -> bool:
    return any(x.is_cuda for x in _tensors(values))


def _shares_memory(out: Any, args: Any) -> bool:
    own, given = ({x.untyped_storage().data_ptr() for x in _tensors(values)} for values in (out, args))
    return bool(own & given)


def _traffic(name: str, args: Any, kwargs: Any, out: Any) -> tuple[int, str]:
    """Bytes, and the kind of numbers."""
    read, written = _tensors((args, kwargs)), _tensors(out)
    size = lambda x: min(x.numel() * x.element_size(), x.untyped_storage().nbytes())  # what is expanded is read once
    total = sum(map(size, written))
    total += total if name in _GATHERING else sum(map(size, read))
    return total, "bf16" if any(x.dtype in (torch.bfloat16, torch.float16) for x in read) else "fp32"


def _flops(func: Any, args: Any, kwargs: Any, out: Any) -> int:
    composite = _COMPOSITE.get(func._schema.name)
    if composite is not None:
        return composite(out, *args[:2])
    counted = flop_registry.get(func._overloadpacket)
    return int(counted(*args, **kwargs, out_val=out)) if counted is not None else 0


def _of_linear(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> int:
    return 2 * out.numel() * weight.shape[-1]


def _of_convolution(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> int:
    return 2 * out.numel() * weight[0].numel()


def _of_transposed(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> int:
    return 2 * x.numel() * weight[0].numel()


def _of_einsum(out: torch.Tensor, equation: str, operands: list[torch.Tensor]) -> int:
    """Two operands, and an equation that names its result."""
    terms, _, result = equation.replace(" ", "").partition("->")
    summed: dict[str, int] = {}
    for term, x in zip(terms.split(","), operands):
        before, _, after = term.partition("...")
        sizes = [*zip(before, x.shape), *(zip(reversed(after), reversed(x.shape)))]
        summed.update((label, size) for label, size in sizes if label not in result)
    return 2 * out.numel() * prod(summed.values())


# Those that reach the recorder whole in inference mode; the others are torch's to count.
_COMPOSITE: dict[str, Callable[..., int]] = {
    "aten::linear": _of_linear,
    "aten::einsum": _of_einsum,
    "aten::matmul": lambda out, a, b: 2 * out.numel() * a.shape[-1],
    "aten::scaled_dot_product_attention": lambda out, q, k: 2 * q.numel() * k.shape[-2] + 2 * out.numel() * k.shape[-2],
    **{f"aten::conv{n}d": _of_convolution for n in (1, 2, 3)},
    **{f"aten::conv_transpose{n}d": _of_transposed for n in (1, 2, 3)},
}


# ---------------------------------------------------------------- native ops
# Of a place of 4 x 4 pixels.
_WARP_BYTES, _BLEND_BYTES = 4 * (64 + 64 + 10), 4 * (80 + 64) + 64
_LABELS = {PackedLinear: "packed_linear", PackedConv: "packed_conv", JointBlocks: "joint_blocks",
           LatentDrawing: "video_layers", LanguageModel: "language_model", TranscriptReader: "transcript_reader",
           ConditionHead: "condition_head", ConditionEncoder: "condition_encoder",
           VocoderLayers: "vocoder_layers"}    # of what is called


def _native_ops() -> Iterator[tuple[Any, str, Callable[..., tuple[int, int, str]]]]:
    """(owner, name, cost) of what goes past torch's dispatcher; cost gives flops, bytes and kind."""
    for store in (NativeStore, DeviceStore):
        yield store, "attend", _attend_cost
        yield store, "append", _append_cost
    yield PackedLinear, "__call__", _packed_cost
    yield PackedConv, "__call__", _conv_cost
    yield JointBlocks, "__call__", _blocks_cost
    yield LanguageModel, "__call__", lambda model, x, *rest, **more: _model_cost(model, *x.shape[:2])
    yield TranscriptReader, "__call__", _reader_cost
    yield ConditionHead, "__call__", _head_cost
    yield ConditionEncoder, "__call__", _encoder_cost
    yield VocoderLayers, "__call__", _vocoder_cost
    yield LatentDrawing, "begin", lambda drawing, *rest: _layers_cost(drawing, drawing.layers.common)
    yield LatentDrawing, "frame", _frame_cost
    yield linear, "cuda_fused_linear", _linear_cost
    if native is not None:
        rows = lambda reads: lambda batch, tokens, width, *rest: (0, 4 * (reads + 1) * batch * tokens * width, "fp32")
        yield native, "adaln_modulate", rows(1)
        yield native, "gated_residual", rows(2)
        yield native, "istft_overlap_add", _istft_cost
        yield native, "audible_velocity", lambda batch, frames, bins, *rest: (0, 16 * batch * frames * bins, "fp32")
        places = lambda each: lambda frames, height, width, *rest: (0, each * frames * height * width, "fp32")
        yield native, "picture_warp", places(_WARP_BYTES)
        yield native, "picture_blend", places(_BLEND_BYTES)


def _attend_cost(store, layer, q, k, v, norm, rope, reads, keep, out) -> tuple[int, int, str]:
    rows = sum(_rows_read(store, read) for read in reads)
    kind = "fp32"
    if store.spec.dtype is torch.bfloat16 and (q.is_cuda or native.amx()):
        kind = "bf16"
    if store.spec.dtype is torch.int8 and PackedLinear.pays("int8"):
        kind = "int8"
    return *_attention_work(store.spec, q.shape[0], rows, q.element_size()), kind


def _attention_work(spec, tokens: int, rows: int, size: int) -> tuple[int, int]:
    """Flops and bytes of a layer's attention of ``tokens`` to themselves and ``rows`` cached ones."""
    width = spec.heads * spec.head_dim
    moved = 4 * tokens * size + 2 * (tokens + rows) * spec.dtype.itemsize
    return 4 * tokens * (tokens + rows) * width, moved * width


def _blocks_cost(blocks, video, audio, modulation, caches, *, segments=None, **rest) -> tuple[int, int, str]:
    """Of linear layers and attention; the kind is the layers'."""
    flops = moved = 0
    for pair in blocks.blocks:
        for half, x in zip(pair, (video, audio)):
            for layer in (half.qkv, half.out, half.expand, half.contract):
                work = _packed_cost(layer, x)
                flops, moved = flops + work[0], moved + work[1]
    for cache in caches:
        rows = sum(cache.rows(name) for name in (cache.spec.names if segments is None else segments))
        work = _attention_work(cache.spec, video.shape[1] + audio.shape[1], rows, 4)
        flops, moved = flops + blocks.depth * work[0], moved + blocks.depth * work[1]
    layer = blocks.blocks[0][0].qkv
    return flops, moved, layer.storage if layer.pays(layer.storage) else "fp32"


def _chain_cost(layers, attention: int) -> tuple[int, int, str]:
    """Of (linear layer, rows) and attention's products; what passes between them stays in a cache."""
    flops = 2 * sum(rows * layer.in_features * layer.out_features for layer, rows in layers)
    return flops + 2 * attention, sum(layer.nbytes for layer, _ in layers), layers[0][0].storage


def _model_cost(model, batch: int, tokens: int) -> tuple[int, int, str]:
    """As if every token were there."""
    layers = [(linear, batch * tokens) for x in model.layers for linear in (x.qkv, x.out, x.gate_up, x.down)]
    flops, traffic, kind = _chain_cost(layers, model.depth * batch * tokens**2 * model.heads * model.head_dim)
    return flops, traffic + 8 * batch * tokens * model.width, kind


def _reader_cost(reader, units, history, voices) -> tuple[int, int, str]:
    batch, tokens = units.shape[0], 1 + reader.window + reader.history_tokens
    flops, traffic, kind = _model_cost(reader.model, batch, tokens)
    around = _chain_cost([(reader.history, batch * reader.history_tokens), (reader.key, batch * reader.window)], 0)
    moved = history.numel() + batch * reader.window * reader.model.width
    return flops + around[0], traffic + around[1] + 4 * moved, kind


def _head_cost(head, memory, keys, padding, noisy, base) -> tuple[int, int, str]:
    batch, tokens, places = *memory.shape[:2], base.shape[0]
    rows, slots = batch * places, batch * noisy.shape[1]
    layers = [(head.noisy, slots), (head.pointer, rows), (head.offset, rows)]
    for x in head.layers:
        layers += [(linear, rows) for linear in (x.qkv, x.self_out, x.query, x.cross_out, x.expand, x.contract)]
        layers.append((x.memory, batch * tokens))
    attention = rows * (2 * len(head.layers) * (places + tokens) + keys.shape[1]) * head.width
    flops, traffic, kind = _chain_cost(layers, attention)
    moved = memory.numel() + keys.numel() + noisy.numel() + base.numel() + rows * (keys.shape[1] + 1)
    return flops, traffic + 4 * moved, kind


def _encoder_cost(encoder, rows, voices) -> tuple[int, int, str]:
    batch, places = rows.shape[:2]
    layers = [(layer, batch * places) for layer in encoder.convolutions]
    ends = [(encoder.to_audio, batch * encoder.audio[1]), (encoder.to_video, batch * encoder.video[1])]
    flops, traffic, kind = _chain_cost(layers + ends, 0)
    moved = 8 * rows.numel() + 4 * sum(count * layer.out_features for layer, count in ends)
    return flops, traffic + moved, kind


def _vocoder_cost(vocoder, mel, inputs, memories) -> tuple[int, int, str]:
    (batch, frames, _), carried = mel.shape, vocoder.taps - 1
    rows = batch * (frames + inputs.shape[2] - carried)
    layers = [(vocoder.embed, rows), (vocoder.head, rows)]
    layers += [(linear, rows) for block in vocoder.blocks for linear in (block.expand, block.contract)]
    flops, traffic, kind = _chain_cost(layers, len(vocoder.blocks) * rows * vocoder.taps * vocoder.width)
    moved = 2 * (inputs.numel() + sum(x.numel() for x in memories)) + mel.numel() + rows * vocoder.outputs
    return flops, traffic + 4 * moved, kind


def _rows_read(store, read) -> int:
    if isinstance(store, NativeStore):
        segment, context = store.spec.names.index(read.segment), store._context
        return context.committed_rows(segment, context.committed(segment) - 1 - read.age)
    return store._live(read.segment)[-1 - read.age].keys[0].shape[0]


def _append_cost(store, layer, segment, k, v, norm, rope) -> tuple[int, int, str]:
    return 0, 2 * k.numel() * (k.element_size() + store.spec.dtype.itemsize), "fp32"


def _packed_cost(layer, x, *, residual=None, **rest) -> tuple[int, int, str]:
    rows = prod(x.shape[:-1])
    moved = rows * (layer.in_features + layer.out_features * (2 if residual is not None else 1))
    kind = layer.storage if layer.pays(layer.storage) else "fp32"
    return 2 * rows * layer.in_features * layer.out_features, layer.nbytes + 4 * moved, kind


def _linear_cost(x, weight, bias, activation, gate, residual, *rest) -> tuple[int, int, str]:
    rows, (outputs, inputs) = prod(x.shape[:-1]), weight.shape
    moved = rows * (inputs + outputs * (2 if residual is not None else 1))
    return 2 * rows * inputs * outputs, 2 * (moved + weight.numel()), "bf16"


def _conv_cost(layer, inputs, *, added=None, **rest) -> tuple[int, int, str]:
    return _convolution_cost(layer, prod((inputs if isinstance(inputs, torch.Tensor) else inputs[0]).shape[:3]),
                             added is not None)


def _convolution_cost(layer, places: int, adds: bool) -> tuple[int, int, str]:
    outputs = layer.channels * layer.frames * layer.shuffle**2
    moved = places * (layer.in_channels + outputs * (2 if adds else 1))
    kind = "int8" if PackedLinear.pays("int8") else "fp32"
    return 2 * places * layer.in_channels * layer.size**2 * outputs, layer.nbytes + 4 * moved, kind


def _layers_cost(drawing, convolutions) -> tuple[int, int, str]:
    places = drawing.height * drawing.width
    each = [_convolution_cost(layer, scale**2 * places, adds) for layer, scale, adds in convolutions]
    return sum(flops for flops, _, _ in each), sum(traffic for _, traffic, _ in each), each[0][2]


def _frame_cost(drawing, *rest) -> tuple[int, int, str]:
    flops, traffic, kind = _layers_cost(drawing, drawing.layers.of_frame)
    return flops, traffic + 16 * drawing.height * drawing.width * (_WARP_BYTES + _BLEND_BYTES), kind


def _istft_cost(batch, count, size, hop, *rest) -> tuple[int, int, str]:
    return 0, 4 * batch * (count * (size + 2 + hop) + 2 * (size - hop)), "fp32"
