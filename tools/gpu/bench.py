"""Times every op against torch's ways to do the same: device time, inputs cold, each in a CUDA graph."""
from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from streamchar_rt import ops
from streamchar_rt.ops import reference
from streamchar_rt.ops._native import AppendQueries, cuda_attention_streams, cuda_kv_append

from . import report, timing
from .problems import AttentionProblem, LinearProblem, attend_together, kernel_paths, spectra, torch_ready

#: (name, queries, rows per segment with the queries' own last, heads, head size)
ATTENTION = [
    ("4k x 8k", 4096, [512, 3584, 4096], 24, 128),
    ("2.4k x 5k", 2432, [512, 2176, 2432], 24, 128),
    ("full 880x5280", 880, [880, 880, 2640, 880], 24, 128),
    ("full 880x7920", 880, [880, 880, 5280, 880], 24, 128),
    ("4k x 8k, head 64", 4096, [512, 3584, 4096], 24, 64),
    ("512 x 3584, head 64", 512, [512, 512, 2048, 512], 16, 64),
    ("mini 272x880", 272, [64, 272, 272, 272], 4, 64),
]
#: The cases that FlexAttention is compiled for: each takes it many seconds.
FLEX = {"full 880x5280", "4k x 8k"}
#: (name, [(queries, rows per segment) of each stream], heads, head size)
STREAMS = [
    ("full, video and audio", [(880, [880, 880, 2640, 880]), (34, [34, 34, 102, 34])], 24, 128),
    ("4 mini sessions", [(272, [64, 272, 272, 272])] * 4, 4, 64),
]
NARROW = [torch.float8_e4m3fn, torch.int8]
#: (name, tokens, inputs, outputs, finish): a block's layers
LINEAR = [
    ("mini qkv", 256, 256, 768, "none"),
    ("mini expand", 256, 256, 384, "gelu_tanh"),
    ("mini contract", 256, 384, 256, "gated_residual"),
    ("full 512x512 qkv", 2304, 3072, 9216, "none"),
    ("full 512x512 out", 2304, 3072, 3072, "gated_residual"),
    ("full 512x512 expand", 2304, 3072, 14336, "gelu_tanh"),
    ("full 512x512 contract", 2304, 14336, 3072, "gated_residual"),
    ("full 704x1280 expand", 7920, 3072, 14336, "gelu_tanh"),
    ("full 704x1280 contract", 7920, 14336, 3072, "gated_residual"),
    ("full audio expand", 33, 3072, 2048, "gelu_tanh"),
    ("full audio contract", 33, 2048, 3072, "gated_residual"),
]
#: The cases that torch.compile compiles its chain for: each takes it seconds.
COMPILED = {"mini contract", "full 512x512 expand", "full 512x512 contract"}
#: (name, tokens, width)
ROWS = [("full", 880, 3072), ("16k tokens", 16384, 3072), ("mini", 272, 256)]


def attention_ways(p: AttentionProblem) -> Iterator[tuple[str, Callable[[], Tensor]]]:
    """Ours; ours and torch's with no more to do than plain attention, given ready queries and joined keys; and the whole
    unfused chain."""
    yield "native", lambda: p.attend()[0]
    plain_stream = p.plain_stream()
    yield "native plain", lambda: cuda_attention_streams([plain_stream])[0][0]
    for path in kernel_paths():
        yield f"native {path}", lambda path=path: p.attend(path)[0]
    heads_first = lambda x: x.transpose(0, 1)[None].contiguous()
    keys, values = heads_first(torch.cat(p.turned_keys())), heads_first(torch.cat(p.values))
    query = heads_first(p.ready_queries())
    for name, backend in (("sdpa flash", SDPBackend.FLASH_ATTENTION), ("sdpa cudnn", SDPBackend.CUDNN_ATTENTION)):
        def plain(backend=backend) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(query, keys, values)[0].transpose(0, 1)
        yield name, plain

    tokens_first = [x.transpose(1, 2).contiguous() for x in (query, keys, values)]
    def fa3() -> Tensor:
        from flash_attn_interface import flash_attn_func   # where its wheel was carried along
        out = flash_attn_func(*tokens_first)
        return (out[0] if isinstance(out, tuple) else out)[0]
    yield "flash attention 3", fa3

    turned = p.turned_keys()
    def chain() -> Tensor:
        """Norm, rotation, concatenation, attention; the keys come at their final positions."""
        k, v = torch.cat(turned).transpose(0, 1)[None], torch.cat(p.values).transpose(0, 1)[None]
        with sdpa_kernel([SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION], set_priority=True):
            return F.scaled_dot_product_attention(p.ready_queries().transpose(0, 1)[None], k, v)[0].transpose(0, 1)
    yield "unfused chain", chain


def bench_attention(out: Path) -> None:
    for case, tokens, rows, heads, head_dim in ATTENTION:
        p = AttentionProblem.random(tokens, rows, heads, head_dim)
        wanted = p.attend("sm80")[0].float()
        for way, call in attention_ways(p):
            _measure(out, "segment_attention", case, way, call, wanted, flops=p.flops, nbytes=p.nbytes)
        for dtype in NARROW:      # against attention over what the storage holds: its own loss is not the kernel's
            stored = p.stored(dtype)
            _measure(out, "segment_attention", case, f"native {dtype}".replace("torch.", ""),
                     lambda stored=stored: stored.attend()[0], stored.restored().attend("sm80")[0].float(),
                     flops=p.flops, nbytes=p.nbytes)


def bench_flex(out: Path) -> None:
    """Plain attention again, by a kernel that torch compiles."""
    from torch.nn.attention.flex_attention import flex_attention

    for case, tokens, rows, heads, head_dim in (shape for shape in ATTENTION if shape[0] in FLEX):
        p = AttentionProblem.random(tokens, rows, heads, head_dim)
        joined = (p.ready_queries(), torch.cat(p.turned_keys()), torch.cat(p.values))
        heads_first = [x.transpose(0, 1)[None].contiguous() for x in joined]
        flex = torch.compile(flex_attention, dynamic=False)
        _measure(out, "segment_attention", case, "flex attention", lambda: flex(*heads_first)[0].transpose(0, 1),
                 p.attend("sm80")[0].float(), flops=p.flops, nbytes=p.nbytes)


def bench_streams(out: Path) -> None:
    """Several streams in one launch, against one launch each."""
    for case, shapes, heads, head_dim in STREAMS:
        problems = [AttentionProblem.random(tokens, rows, heads, head_dim) for tokens, rows in shapes]
        joined = lambda results: torch.cat([o for o, _ in results])
        wanted = joined([p.attend("sm80") for p in problems]).float()
        for way, call in (
            ("native", lambda: attend_together(problems)),
            ("native, one by one", lambda: [p.attend() for p in problems]),
        ):
            _measure(out, "segment_attention streams", case, way, lambda call=call: joined(call()), wanted,
                     flops=sum(p.flops for p in problems), nbytes=sum(p.nbytes for p in problems))


def bench_append(out: Path) -> None:
    for case, tokens, heads, head_dim in (("full", 880, 24, 128), ("mini", 272, 4, 64)):
        p = AttentionProblem.random(tokens, [tokens], heads, head_dim)
        q, k, v = torch.randn(tokens, 3, heads, head_dim, dtype=torch.bfloat16, device="cuda").unbind(1)
        ring, ready, moved = torch.empty(3, 2, tokens, heads, head_dim, dtype=torch.bfloat16, device="cuda")
        ranges = torch.empty(2, heads, device="cuda")

        def chain() -> Tensor:
            ring[0].copy_(torch_ready(k, p.norm.k_weight, p.norm, p.rope))
            ring[1].copy_(v)
            return ring[0]

        def chain_with_queries() -> Tensor:
            ready[0].copy_(torch_ready(q, p.norm.q_weight, p.norm, p.rope))
            moved[0].copy_(reference.rotate(ready[0].float(), p.rope.shift(16.0, torch.float32, q.device)))
            return chain()

        wanted = chain().float().clone()
        queries = AppendQueries(q, ready[0], moved[0], 16.0)
        append = lambda **more: cuda_kv_append(k, v, p.norm, p.rope, **more)[0]
        ways = [("native", lambda: append(out=tuple(ring)), 4), ("torch", chain, 4),
                ("native, two queries", lambda: append(out=tuple(ring), queries=queries), 7),
                ("torch, two queries", chain_with_queries, 7)]
        for way, call, tensors in ways:
            _measure(out, "kv_append", case, way, call, wanted, nbytes=tensors * ring[0].nbytes)
        for dtype in NARROW:
            rows = torch.empty_like(ring, dtype=dtype)
            back = reference.from_storage(append(out=tuple(rows), ranges=tuple(ranges)), ranges[0]).float()
            for way, measure in (("ranges given", False), ("ranges measured", True)):
                call = lambda rows=rows, measure=measure: append(out=tuple(rows), ranges=tuple(ranges), measure=measure)
                _measure(out, "kv_append", case, f"native {dtype}, {way}".replace("torch.", ""),
                         lambda call=call, back=back: (call(), back)[1], back, nbytes=3 * ring[0].nbytes)


def bench_rows(out: Path) -> None:
    for case, tokens, width in ROWS:
        x, update = torch.randn(2, 1, tokens, width, dtype=torch.bfloat16, device="cuda")
        shift, scale = torch.randn(2, 1, 1, width, dtype=torch.bfloat16, device="cuda")
        modulate = lambda x, shift, scale: F.layer_norm(x, (width,)) * (1 + scale) + shift
        gate = lambda x, scale, update: x + scale * update
        for op, arguments, native, plain, traffic in (
            ("adaln_modulate", (x, shift, scale), ops.adaln_modulate, modulate, 2 * x.nbytes),
            ("gated_residual", (x, scale, update), ops.gated_residual, gate, 3 * x.nbytes),
        ):
            fused = torch.compile(plain, dynamic=False)
            wanted = plain(*arguments).float()
            for way, call in (("native", native), ("torch", plain), ("torch compiled", fused)):
                _measure(out, op, case, way, lambda call=call: call(*arguments), wanted, nbytes=traffic)


def bench_linear(out: Path) -> None:
    """Fused, against torch's matrix product and what follows it: step by step, and compiled."""
    for case, tokens, inputs, outputs, finish in LINEAR:
        p = LinearProblem.random(1, tokens, inputs, outputs, finish)
        ways = {"native": p.fused} | {f"native {path}": partial(p.fused, path) for path in kernel_paths()}
        ways["torch"] = p.chain
        if case in COMPILED:
            ways["torch compiled"] = torch.compile(p.chain, dynamic=False)
        wanted = p.chain().float()
        work = {"flops": p.flops, "nbytes": p.nbytes}
        errors = {way: error for way, call in ways.items()
                  if (error := _agreement(out, "fused_linear", case, way, call, wanted)) is not None}
        with torch.inference_mode():
            times = timing.in_turns({way: ways[way] for way in errors})
        for way, (us, worst) in times.items():
            _report(out, "fused_linear", case, way, us, worst, errors[way], **work)


def bench_istft(out: Path) -> None:
    for case, batch, count in (("mini", 1, 32), ("64 streams", 64, 32)):
        arguments = spectra(batch, count, 1024, 320)
        wanted = reference.istft_overlap_add(*arguments)[0]
        for way, call in (("native", ops.istft_overlap_add), ("torch", reference.istft_overlap_add)):
            _measure(out, "istft_overlap_add", case, way, lambda call=call: call(*arguments)[0], wanted,
                     nbytes=arguments[0].nbytes + 4 * batch * count * 320)


def _measure(out: Path, op: str, case: str, way: str, call: Callable[[], Tensor], wanted: Tensor, flops: float = 0.0,
             nbytes: float = 0.0) -> None:
    """One row; a way that does not work here becomes a row that says why."""
    try:
        error = _difference(call, wanted)
        with torch.inference_mode():
            us, worst = timing.microseconds(call, seconds=0.2)
    except Exception as failure:   # a back end that is missing raises many types
        _absent(out, op, case, way, failure)
        return
    _report(out, op, case, way, us, worst, error, flops, nbytes)


def _agreement(out: Path, op: str, case: str, way: str, call: Callable[[], Tensor], wanted: Tensor) -> float | None:
    """How far a way is from what is wanted; None, and a row that says why, where it does not work here."""
    try:
        return _difference(call, wanted)
    except Exception as failure:
        _absent(out, op, case, way, failure)
        return None


def _difference(call: Callable[[], Tensor], wanted: Tensor) -> float:
    with torch.inference_mode():
        error = float((call().float() - wanted).norm() / wanted.norm())
    if not error < 2e-2:
        raise RuntimeError(f"differs by {error:.1e}: not the same work")
    return error


def _absent(out: Path, op: str, case: str, way: str, failure: Exception) -> None:
    text = str(failure).splitlines()
    report.add(out, {"kind": "absent", "op": op, "case": case, "way": way,
                     "why": text[0][:200] if text else type(failure).__name__})
    print(f"{op} {case} {way}: {failure}", flush=True)


def _report(out: Path, op: str, case: str, way: str, us: float, worst: float, error: float, flops: float,
            nbytes: float) -> None:
    report.add(out, {"kind": "time", "op": op, "case": case, "way": way, "us": us, "p99_us": worst, "error": error,
                     "tflops": flops / us * 1e-6, "gbps": nbytes / us * 1e-3})


#: In order of weight: the last ones are what is lost where time runs out.
BENCHES = (bench_attention, bench_streams, bench_append, bench_istft, bench_linear, bench_rows, bench_flex)
GROUP_SECONDS = 60


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=95, help="for everything")
    options = parser.parse_args()
    end = time.monotonic() + options.seconds
    failed = 0
    for bench in BENCHES:
        # Forked before anything touched the GPU: what one of them breaks is its own, and torch is imported once.
        process = multiprocessing.get_context("fork").Process(target=bench, args=(options.out,))
        process.start()
        process.join(max(1.0, min(GROUP_SECONDS, end - time.monotonic())))
        if process.is_alive():
            process.kill()
            process.join()
        print(f"-- {bench.__name__}: exit {process.exitcode}", flush=True)
        failed |= process.exitcode != 0
    return failed


if __name__ == "__main__":
    sys.exit(main())
