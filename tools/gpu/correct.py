"""Every op against float64, by the tests of ``tests/test_gpu_ops.py``: groups of them side by side, each in a process of
its own, so that a kernel that reads where it must not, or hangs, leaves the others' results standing."""
from __future__ import annotations

import argparse
import sys
from pathlib import Path
from xml.etree import ElementTree

from . import report
from .children import side_by_side

#: name -> pytest's -k
GROUPS = {
    "attention_sm90": "sm90 and not linear",
    "attention_sm80": "sm80 and not linear",
    "linear": "linear",
    "others": "not sm90 and not sm80 and not linear",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--groups", default=",".join(GROUPS), help="of tests")
    parser.add_argument("--seconds", type=float, default=75)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results = {name: options.out / f"correct_{name}.xml" for name in options.groups.split(",")}
    for result in results.values():
        result.unlink(missing_ok=True)
    codes = side_by_side({
        name: [sys.executable, "-m", "pytest", "-q", "-rs", "--tb=short", "--maxfail=12", "-p", "no:cacheprovider",
               f"--junitxml={result}", "-k", GROUPS[name], "tests/test_gpu_ops.py"]
        for name, result in results.items()
    }, options.seconds)
    for name, code in codes.items():
        row = {"kind": "tests", "group": name, "exit": code, **_counts(results[name])}
        report.add(options.out, row)
        counts = ", ".join(f"{key} {value}" for key, value in row.items() if key not in ("kind", "group"))
        print(f"{name:14s} {counts}")
    return int(any(codes.values()))


def _counts(result: Path) -> dict[str, int]:
    """Of tests, where pytest came to its end."""
    if not result.is_file():
        return {}
    suite = ElementTree.parse(result).getroot().find("testsuite")
    return {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}


if __name__ == "__main__":
    sys.exit(main())
