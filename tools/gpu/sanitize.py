"""Runs every GPU op on small shapes under compute-sanitizer; fails if it finds an error or is not there."""
from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import torch

from . import report
from .children import side_by_side

TOOLS = ("memcheck", "synccheck", "racecheck")


def run_ops() -> None:
    """Odd sizes on purpose: the last tiles are the ones that read too far."""
    from streamchar_rt import ops
    from streamchar_rt.ops._native import AppendQueries, cuda_attention_streams, cuda_kv_append, native

    from .problems import AttentionProblem, LinearProblem, attend_together, kernel_paths, spectra

    for head_dim in (64, 128):
        problem = AttentionProblem.random(67, [5, 0, 130], heads=2, head_dim=head_dim)
        other = AttentionProblem.random(200, [257, 3], heads=1, head_dim=head_dim)
        for path in kernel_paths():
            few = native.layout.partial_bytes(8, head_dim, 2)      # thread blocks, which go from part to part
            for dtype in (torch.bfloat16, torch.float8_e4m3fn, torch.int8):
                together = [problem.stored(dtype), other.stored(dtype)]
                attend_together(together, path)
                cuda_attention_streams([p.stream() for p in together], path,
                                       torch.zeros(few, dtype=torch.uint8, device="cuda"))
        ready, moved = torch.empty(2, *problem.q.shape, dtype=torch.bfloat16, device="cuda")
        cuda_kv_append(problem.q, problem.q, problem.norm, problem.rope,
                       queries=AppendQueries(problem.q, ready, moved, 3.0))
        for dtype in (torch.float8_e4m3fn, torch.int8):
            rows = torch.empty(2, *problem.q.shape, dtype=dtype, device="cuda")
            cuda_kv_append(problem.q, problem.q, problem.norm, problem.rope, out=tuple(rows),
                           ranges=tuple(torch.empty(2, 2, device="cuda")))
    for dtype in (torch.float32, torch.bfloat16):
        x, update = torch.randn(2, 2, 5, 264, dtype=dtype, device="cuda")
        row = torch.randn(2, 1, 264, dtype=dtype, device="cuda")
        ops.gated_residual(ops.adaln_modulate(x, row, row), row, update)
    if ops.fused_linear_serves("cuda") is None:
        for finish in ("none", "gelu_tanh", "gated_residual"):
            for path in kernel_paths():
                for batch, tokens, inputs, outputs in ((2, 67, 40, 72), (1, 200, 264, 4232)):
                    LinearProblem.random(batch, tokens, inputs, outputs, finish).fused(path)
    ops.istft_overlap_add(*spectra(2, 3, 64, 20))
    torch.cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=65)
    parser.add_argument("--inner", action="store_true", help="run the ops, without the sanitizer")
    options = parser.parse_args()
    if options.inner:
        run_ops()
        return 0
    if shutil.which("compute-sanitizer") is None:
        print("compute-sanitizer is not on the PATH")
        return 1
    codes = side_by_side({
        tool: ["compute-sanitizer", f"--tool={tool}", "--error-exitcode=9", "--print-limit=20", sys.executable, "-m",
               "tools.gpu.sanitize", "--inner", "--out", str(options.out)] for tool in TOOLS
    }, options.seconds)
    for tool, code in codes.items():
        report.add(options.out, {"kind": "sanitizer", "tool": tool, "exit": code})
    return int(any(codes.values()))


if __name__ == "__main__":
    sys.exit(main())
