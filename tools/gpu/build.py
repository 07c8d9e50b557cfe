"""Builds the native module with CUDA into python/streamchar_rt, and checks its machine code. Fused linear layers are
built where this Python finds CUTLASS's headers: with a wheel of nvidia-cutlass among those carried along."""
from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from . import report, sass
from .parts import ROOT


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--build", type=Path, required=True)
    options = parser.parse_args()
    start = time.monotonic()
    subprocess.run(["cmake", "-G", "Ninja", "-S", str(ROOT), "-B", str(options.build), "-DSC_CUDA=ON",
                    "-DSC_IN_PLACE=ON", f"-DPython_EXECUTABLE={sys.executable}"], check=True)
    jobs = len(os.sched_getaffinity(0))
    subprocess.run(["cmake", "--build", str(options.build), "--parallel", str(jobs)], check=True)
    seconds = time.monotonic() - start
    module = max((ROOT / "python/streamchar_rt").glob("_native*.so"), key=lambda p: p.stat().st_mtime)
    kernels, found = _check(module)
    report.add(options.out, {"kind": "build", "seconds": seconds, "jobs": jobs, "module_bytes": module.stat().st_size,
                             "fused_linear_kernels": len(sass.fused_linear_kernels(kernels)), "machine_code": found})
    for line in found:
        print(line)
    return 0 if found in (["as designed"], ["not checked: no cuobjdump"]) else 1


def _check(module: Path) -> tuple[list[sass.Kernel], list[str]]:
    cuobjdump = sass.find_cuobjdump()
    if cuobjdump is None:
        return [], ["not checked: no cuobjdump"]
    kernels = sass.kernels_in(module, cuobjdump)
    return kernels, sass.problems(kernels) or ["as designed"]


if __name__ == "__main__":
    sys.exit(main())
