"""Times the ways in which the sm_90a attention kernel can go about its work, beside cuDNN's plain attention, and lets
ncu say where the time of two of them goes. See ``Way`` in ``csrc/kernels/cuda/hopper_attention.cuh``.

A way that reads where it must not, or hangs, takes its own process along and no other.
"""
from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import report, timing
from .children import side_by_side
from .problems import AttentionProblem

#: (name, queries, rows per segment, heads, head size)
CASES = [
    ("4k x 8k", 4096, [512, 3584, 4096], 24, 128),
    ("2.4k x 5k", 2432, [512, 2176, 2432], 24, 128),
    ("4k x 8k, one segment", 4096, [8192], 24, 128),
    ("full 880x5280", 880, [880, 880, 2640, 880], 24, 128),
    ("4k x 8k, head 64", 4096, [512, 3584, 4096], 24, 64),
    ("mini 272x880", 272, [64, 272, 272, 272], 4, 64),
]
_SETTING = "STREAMCHAR_SM90_WAY"
_SINGLE, _PAIRS = (0, 1, 2, 3), (4, 5, 6, 7)      # blocks alone, and in clusters of two
_PROFILED = (3, 7)
_SECTIONS = ("SpeedOfLight", "SchedulerStats", "WarpStateStats", "MemoryWorkloadAnalysis", "LaunchStats",
             "InstructionStats", "SourceCounters")


def attend(p: AttentionProblem, way: int) -> torch.Tensor:
    os.environ[_SETTING] = str(way)
    return p.attend("sm90")[0]


def measure(out: Path, ways: tuple[int, ...]) -> None:
    for case, tokens, rows, heads, head_dim in CASES:
        p = AttentionProblem.random(tokens, rows, heads, head_dim)
        wanted = p.attend("sm80")[0].float()
        heads_first = lambda x: x.transpose(0, 1)[None].contiguous()
        query, keys = heads_first(p.ready_queries()), heads_first(torch.cat(p.turned_keys()))
        values = heads_first(torch.cat(p.values))

        def plain() -> torch.Tensor:
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION):
                return F.scaled_dot_product_attention(query, keys, values)[0].transpose(0, 1)

        calls = {f"way {way}": lambda way=way: attend(p, way) for way in ways} | {"sdpa cudnn": plain}
        errors = {name: float((call().float() - wanted).norm() / wanted.norm()) for name, call in calls.items()}
        for name, (us, worst) in timing.in_turns(calls, rounds=30).items():
            report.add(out, {"kind": "time", "op": "attention ways", "case": case, "way": name, "us": us,
                             "p99_us": worst, "error": errors[name], "tflops": p.flops / us * 1e-6})
            print(f"{case:22s} {name:11s} {us:8.1f} us {p.flops / us * 1e-6:6.0f} TFLOP/s  error {errors[name]:.1e}",
                  flush=True)


def profile(out: Path, way: int, seconds: float) -> None:
    """One launch of the first case under ncu: what it says in ``ncu_way<n>.txt``, samples by instruction in ``.csv``."""
    found = out / f"ncu_way{way}.ncu-rep"
    command = ["ncu", "--clock-control", "none", "-f", "-o", str(found), "-k", "regex:segment_attention_kernel",
               "--launch-skip", "1", "--launch-count", "1", *(f"--section={s}" for s in _SECTIONS)]
    command += [sys.executable, "-m", "tools.gpu.tune", "--out", str(out), "--launch", str(way)]
    if side_by_side({f"ncu of way {way}": command}, seconds)[f"ncu of way {way}"]:
        return
    try:
        for page, suffix in (("details", "txt"), ("source", "csv")):
            with (out / f"ncu_way{way}.{suffix}").open("w") as file:
                subprocess.run(["ncu", "--import", str(found), "--page", page, *(["--csv"] * (page == "source"))],
                               stdout=file, timeout=20, check=True)
        print((out / f"ncu_way{way}.txt").read_text()[:6000])
    except (subprocess.SubprocessError, OSError) as error:
        print(f"ncu: {error}")


def launch(way: int) -> None:
    _, tokens, rows, heads, head_dim = CASES[0]
    p = AttentionProblem.random(tokens, rows, heads, head_dim)
    for _ in range(3):
        attend(p, way)
    torch.cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--ways", help="measure these, in this process")
    parser.add_argument("--launch", type=int, help="launch one way three times, for a profiler")
    parser.add_argument("--seconds", type=float, default=105, help="for everything")
    options = parser.parse_args()
    if options.launch is not None:
        launch(options.launch)
        return 0
    if options.ways:
        measure(options.out, tuple(int(way) for way in options.ways.split(",")))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + options.seconds
    left = lambda most: max(1.0, min(most, end - time.monotonic()))
    worst = 0
    for ways in (_SINGLE, _PAIRS):
        name = ",".join(map(str, ways))
        command = [sys.executable, "-m", "tools.gpu.tune", "--out", str(options.out), "--ways", name]
        worst = max(worst, *side_by_side({f"ways {name}": command}, left(32)).values())
    if shutil.which("ncu"):
        for way in _PROFILED:
            profile(options.out, way, left(25))
    return int(worst != 0)


if __name__ == "__main__":
    sys.exit(main())
