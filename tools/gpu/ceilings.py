"""The two ceilings of the machine: a large copy and a large bf16 matrix product, both on random data."""
from __future__ import annotations

import argparse
from pathlib import Path

import torch

from . import report, timing


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    out = parser.parse_args().out
    source = torch.randint(-128, 127, (4 << 30,), dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    us, _ = timing.microseconds(lambda: target.copy_(source))
    report.add(out, {"kind": "ceiling", "name": "copy GB/s", "value": 2e-3 * source.nbytes / us})
    del source, target
    a, b = torch.randn(2, 8192, 8192, dtype=torch.bfloat16, device="cuda")
    us, _ = timing.microseconds(lambda: a @ b)
    report.add(out, {"kind": "ceiling", "name": "matmul TFLOP/s", "value": 2e-6 * 8192 ** 3 / us})


if __name__ == "__main__":
    main()
