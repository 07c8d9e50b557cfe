"""Result rows: who measured what, where and at which commit; and a table of them."""
from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

from .parts import ROOT

ROWS = "rows.jsonl"
TABLE = "table.md"
CHAIN_STAGES = ("orchestrator", "context", "denoise", "audio_decode", "video_decode")


def add(out: Path, row: dict[str, Any]) -> None:
    """Appends a row with the facts of the machine; a crash later loses nothing."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / ROWS).open("a") as file:
        file.write(json.dumps({**row, **facts(), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}) + "\n")


def rows(out: Path) -> list[dict[str, Any]]:
    path = out / ROWS
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def gpu_present() -> bool:
    return bool(_output(["nvidia-smi", "-L"]))


@functools.cache
def facts() -> dict[str, str]:
    """Device, driver, compiler, torch and commit; empty strings where unknown."""
    name, _, driver = _output(["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]).partition(",")
    version = _output(["nvcc", "--version"])
    return {
        "device": name.strip(),
        "driver": driver.split("\n")[0].strip(),
        "nvcc": version.split("release ")[1].split(",")[0] if "release " in version else "",
        "torch": _torch_version(),
        "commit": os.environ.get("STREAMCHAR_COMMIT")
        or _output(["git", "-C", str(ROOT), "describe", "--always", "--dirty"]),
    }


def _torch_version() -> str:
    from importlib import metadata

    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""


def _output(command: list[str]) -> str:
    if shutil.which(command[0]) is None:
        return ""
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20).stdout.strip()
    except (OSError, subprocess.TimeoutExpired):
        return ""


def write_table(out: Path) -> bool:
    """Writes the measurements of the last row's device and commit as Markdown; False where there are none."""
    found = rows(out)
    if not found:
        return False
    last = found[-1]
    found = [r for r in found if (r["device"], r["commit"]) == (last["device"], last["commit"])]
    timed = {(r["op"], r["case"], r["way"]): r for r in found if r["kind"] == "time"}
    chains = {(r["case"], r["way"]): r for r in found if r["kind"] == "chain"}
    if not timed and not chains:
        return False
    ceilings = {r["name"]: r["value"] for r in found if r["kind"] == "ceiling"}
    lines = [
        f"{last['device'] or 'no GPU'}, driver {last['driver']}, CUDA {last['nvcc']}, torch {last['torch']}, "
        f"commit {last['commit']}. Ceilings: "
        + ", ".join(f"{name} {value:.0f}" for name, value in ceilings.items()) + ".",
        "",
    ]
    if timed:
        lines += ["| op | case | way | µs | TFLOP/s | GB/s | share of ceiling | native is faster by |",
                  "|---|---|---|---|---|---|---|---|"]
    for (op, case, way), row in timed.items():
        native = timed.get((op, case, "native"))
        ratio = f"{row['us'] / native['us']:.2f}" if native and way != "native" else ""
        share = _share(row, ceilings)
        cells = [op, case, way, f"{row['us']:.1f}", f"{row.get('tflops', 0):.0f}", f"{row.get('gbps', 0):.0f}",
                 f"{share:.0%}" if share else "", ratio]
        lines.append(f"| {' | '.join(cells)} |")
    if chains:
        lines += ["", "Whole chunks; stages by the device's clock, the rest by the host's.", "",
                  "| case | way | " + " | ".join(f"{stage} ms" for stage in CHAIN_STAGES)
                  + " | chunk ms | real-time factor | GiB planned | GiB used | host syncs | driver allocations |",
                  "|---" * (len(CHAIN_STAGES) + 8) + "|"]
        lines += [_chain_line(row) for row in chains.values()]
    (out / TABLE).write_text("\n".join(lines) + "\n")
    return True


def _chain_line(row: dict[str, Any]) -> str:
    size = lambda name: "" if row.get(name) is None else f"{row[name] / 2**30:.1f}"
    count = lambda name: "" if row.get(name) is None else str(row[name])
    cells = [row["case"], row["way"], *(f"{row['stages_ms'][stage]:.1f}" for stage in CHAIN_STAGES),
             f"{row['wall_ms']:.1f}", f"{row['real_time_factor']:.3f}", size("planned_bytes"), size("used_bytes"),
             count("host_syncs"), count("driver_allocations")]
    return f"| {' | '.join(cells)} |"


def _share(row: dict[str, Any], ceilings: dict[str, float]) -> float | None:
    """Of the ceiling that binds the op sooner."""
    shares = [row[key] / ceilings[name] for key, name in (("tflops", "matmul TFLOP/s"), ("gbps", "copy GB/s"))
              if name in ceilings and row.get(key)]
    return max(shares, default=None)
