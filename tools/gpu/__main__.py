"""Builds, checks and measures on a GPU machine.

    python -m tools.gpu                              # everything, within ten minutes
    python -m tools.gpu --parts build,correct        # some of it
    python -m tools.gpu --dry-run                    # what would run

Wants nvcc (CUDA 12.4 or later), cmake, ninja and a Python with torch, numpy, transformers, pybind11 and pytest; wheels
for what is missing go into a folder given by --wheels; one of nvidia-cutlass among them adds fused linear layers. A
part that fails or runs out of time is recorded, and the next one runs. Results: JSON rows added to ``rows.jsonl``, a
table of this commit's in ``table.md``, and a log of every part; STREAMCHAR_COMMIT names the commit where the checkout
has no git.
The exit status is 0 if every chosen part ran and succeeded.
"""
from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

from . import report
from .parts import ROOT, Part, chosen


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tools.gpu", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", help="comma-separated; default all")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gpu", help="folder for results")
    parser.add_argument("--build", type=Path, default=ROOT / "build/gpu", help="folder for the build")
    parser.add_argument("--wheels", type=Path, help="folder of wheels to install first, without network")
    parser.add_argument("--budget", type=int, default=580, help="seconds for everything")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and stop")
    options = parser.parse_args(arguments)
    try:
        parts = chosen(options.parts)
    except ValueError as error:
        parser.error(str(error))
    out, build = options.out.resolve(), options.build.resolve()
    if options.dry_run:
        print(_plan(parts, out, build))
        return 0
    out.mkdir(parents=True, exist_ok=True)
    environment = _environment(options.wheels, build)
    end = time.monotonic() + options.budget
    outcomes = {part.name: _run(part, out, build, environment, end) for part in parts}
    for name, outcome in outcomes.items():
        report.add(out, {"kind": "part", "part": name, **outcome})
    print((out / report.TABLE).read_text() if report.write_table(out) else "no rows")
    for name, outcome in outcomes.items():
        print(f"{name:9s} {outcome['state']:8s} {outcome['seconds']:6.1f} s  {outcome['detail']}")
    return 0 if all(o["state"] == "ok" for o in outcomes.values()) else 1


def _plan(parts: list[Part], out: Path, build: Path) -> str:
    lines = [f"{part.name:9s} at most {part.seconds:3d} s  {part.does}\n          {' '.join(part.command(out, build))}"
             for part in parts]
    return "\n".join([*lines, f"in all    at most {sum(p.seconds for p in parts)} s"])


def _environment(wheels: Path | None, build: Path) -> dict[str, str]:
    """The parts' environment: this checkout's package, and wheels beside the build."""
    paths = [str(ROOT / "python"), str(ROOT)]
    if wheels is not None:
        site = build / "site"
        files = sorted(str(f) for f in wheels.glob("*.whl"))
        subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile",
                        "--upgrade", "--target", str(site), *files], check=True)
        paths.append(str(site))
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}


def _run(part: Part, out: Path, build: Path, environment: dict[str, str], end: float) -> dict:
    """Runs one part; never raises for what the part does."""
    left = min(part.seconds, end - time.monotonic())
    if left < 5:
        return {"state": "skipped", "seconds": 0.0, "detail": "no time left"}
    if part.needs_gpu and not report.gpu_present():
        return {"state": "skipped", "seconds": 0.0, "detail": "no NVIDIA GPU here"}
    print(f"== {part.name}: {part.does}", flush=True)
    start = time.monotonic()
    log = out / f"{part.name}.log"
    with log.open("w") as file:
        try:
            done = subprocess.run(part.command(out, build), cwd=ROOT, env=environment, stdin=subprocess.DEVNULL,
                                  stdout=file, stderr=subprocess.STDOUT, timeout=left)
            code = done.returncode
            state, detail = ("ok", "") if code == 0 else ("failed", f"exit {code}, see {log.name}")
        except subprocess.TimeoutExpired:
            state, detail = "timeout", f"more than {left:.0f} s, see {log.name}"
        except OSError as error:
            state, detail = "failed", str(error)
    if state != "ok":
        print("\n".join(log.read_text(errors="replace").splitlines()[-25:]), flush=True)
    return {"state": state, "seconds": time.monotonic() - start, "detail": detail}


if __name__ == "__main__":
    sys.exit(main())
