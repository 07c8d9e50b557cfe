"""One launch of the sm_90a attention kernel under ncu: what it says in ``ncu.txt``, samples by instruction in
``ncu.csv``.

    python -m tools.gpu.profile_attention --out results [--case "4k x 8k"]
"""
from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import torch

from .bench import ATTENTION
from .children import side_by_side
from .problems import AttentionProblem

_SECTIONS = ("SpeedOfLight", "SchedulerStats", "WarpStateStats", "MemoryWorkloadAnalysis", "LaunchStats",
             "InstructionStats", "SourceCounters")
CASES = {name: shape for name, *shape in ATTENTION}


def launch(case: str) -> None:
    problem = AttentionProblem.random(*CASES[case])
    for _ in range(3):
        problem.attend("sm90")
    torch.cuda.synchronize()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--case", choices=CASES, default="4k x 8k")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--inner", action="store_true", help="launch, without ncu")
    options = parser.parse_args()
    if options.inner:
        launch(options.case)
        return 0
    options.out.mkdir(parents=True, exist_ok=True)
    found = options.out / "ncu.ncu-rep"
    command = ["ncu", "--clock-control", "none", "-f", "-o", str(found), "-k", "regex:segment_attention_kernel",
               "--launch-skip", "1", "--launch-count", "1", *(f"--section={s}" for s in _SECTIONS), sys.executable, "-m",
               "tools.gpu.profile_attention", "--inner", "--out", str(options.out), "--case", options.case]
    if code := side_by_side({"ncu": command}, options.seconds)["ncu"]:
        return code
    for page, suffix in (("details", "txt"), ("source", "csv")):
        with (options.out / f"ncu.{suffix}").open("w") as file:
            subprocess.run(["ncu", "--import", str(found), "--page", page, *(["--csv"] * (page == "source"))],
                           stdout=file, check=True)
    print((options.out / "ncu.txt").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
