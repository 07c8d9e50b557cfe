"""Times the ways in which the sm_90a attention kernel can go about its work, beside cuDNN's plain attention, and names
the best ones; ``--profile`` lets ncu say where the time of one goes. See ``Way`` in
``csrc/kernels/cuda/hopper_attention.cuh``.

A way that reads where it must not, or hangs, takes the ways of its own process along and no others.
"""
from __future__ import annotations

import argparse
import math
import os
import subprocess
import sys
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from . import report, timing
from .attention_ways import ALL, SETTING, WAYS
from .children import side_by_side
from .problems import AttentionProblem

#: (name, queries, rows per segment, heads, head size)
CASES = [
    ("4k x 8k", 4096, [512, 3584, 4096], 24, 128),
    ("2.4k x 5k", 2432, [512, 2176, 2432], 24, 128),
    ("4k x 8k, one segment", 4096, [8192], 24, 128),
    ("full 880x5280", 880, [880, 880, 2640, 880], 24, 128),
    ("full 880x7920", 880, [880, 880, 5280, 880], 24, 128),
    ("4k x 8k, head 64", 4096, [512, 3584, 4096], 24, 64),
    ("mini 272x880", 272, [64, 272, 272, 272], 4, 64),
]
#: What decides which way is best, by head size.
_WEIGHED = {128: ("4k x 8k", "2.4k x 5k", "full 880x5280", "full 880x7920"), 64: ("4k x 8k, head 64", "mini 272x880")}
_LEAST_SECONDS = 9      # what is kept for each group that is still to come
_CUDNN = "sdpa cudnn"
_TUNED = "attention ways"
_SECTIONS = ("SpeedOfLight", "SchedulerStats", "WarpStateStats", "MemoryWorkloadAnalysis", "LaunchStats",
             "InstructionStats", "SourceCounters")


def attend(p: AttentionProblem, way: int) -> torch.Tensor:
    os.environ[SETTING] = str(way)
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

        calls = {f"way {way}": lambda way=way: attend(p, way) for way in ways} | {_CUDNN: plain}
        errors = {name: float((call().float() - wanted).norm() / wanted.norm()) for name, call in calls.items()}
        times = timing.in_turns(calls, rounds=30)
        for name, (us, worst) in times.items():
            report.add(out, {"kind": "time", "op": _TUNED, "case": case, "way": name, "us": us, "p99_us": worst,
                             "cudnn_us": times[_CUDNN][0], "error": errors[name], "tflops": p.flops / us * 1e-6})
            print(f"{case:22s} {name:11s} {us:8.1f} us {p.flops / us * 1e-6:6.0f} TFLOP/s  error {errors[name]:.1e}",
                  flush=True)


def best(rows: list[dict]) -> dict[int, int]:
    """The best way of each head size: by the geometric mean, over its cases, of its time as a share of cuDNN's in the
    same process. A way that is wrong or has no time in a case is none."""
    found = {}
    for head_dim, cases in _WEIGHED.items():
        scores = {}
        for way in (f"way {way}" for way in ALL):
            of_way = {row["case"]: row for row in rows if row["way"] == way and row["error"] < 2e-2}
            if all(case in of_way for case in cases):
                shares = [of_way[case]["us"] / of_way[case]["cudnn_us"] for case in cases]
                scores[way] = sum(map(math.log, shares)) / len(cases)
        if scores:
            way = min(scores, key=scores.__getitem__)
            found[head_dim] = int(way.split()[1])
            ranked = ", ".join(f"{way} {math.exp(scores[way]):.3f}" for way in sorted(scores, key=scores.__getitem__))
            print(f"head {head_dim}, of cuDNN's time: {ranked}")
    return found


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
    parser.add_argument("--seconds", type=float, default=44, help="for all ways")
    parser.add_argument("--profile", type=int, metavar="WAY", help="afterwards let ncu look at this one, 25 s at most")
    options = parser.parse_args()
    if options.launch is not None:
        launch(options.launch)
        return 0
    if options.ways:
        measure(options.out, tuple(int(way) for way in options.ways.split(",")))
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    before = len(report.rows(options.out))
    end = time.monotonic() + options.seconds
    worst = 0
    for i, ways in enumerate(WAYS):
        name = ",".join(map(str, ways))
        command = [sys.executable, "-m", "tools.gpu.tune", "--out", str(options.out), "--ways", name]
        seconds = max(1.0, end - time.monotonic() - _LEAST_SECONDS * (len(WAYS) - 1 - i))
        worst = max(worst, *side_by_side({f"ways {name}": command}, seconds).values())
    if options.profile is not None:
        profile(options.out, options.profile, 25)
    found = best([row for row in report.rows(options.out)[before:] if row.get("op") == _TUNED])
    if 64 in found:
        print(f"best way of head 64 {found[64]}")
    if 128 in found:
        print(f"best way {found[128]}")
    return int(worst != 0 or 128 not in found)


if __name__ == "__main__":
    sys.exit(main())
