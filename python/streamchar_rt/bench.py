"""What ``streamchar bench`` measures: the whole chain, stepped by hand."""
from __future__ import annotations

import math
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import __version__, machine
from .chunk import StageTimings
from .engine import Engine
from .errors import ConfigError

STAGES = ("orchestrator_ms", "context_ms", "denoise_ms", "audio_decode_ms", "video_decode_ms", "total_ms")
FIRST_CHUNKS = 5  # how often the time to the first chunk is measured
TEXT = (
    "The quick brown fox jumps over the lazy dog, and nobody in the village was surprised. "
    "On Tuesday at half past nine, Doctor Miller paid twenty five dollars for a small blue teapot. "
    "Would you believe that the river was frozen in the middle of May? "
)


@dataclass(frozen=True)
class Result:
    """One row for machines, one table for people."""

    row: dict[str, Any]

    def table(self) -> str:
        row = self.row
        lines = [
            f"{row['model']} on {row['cpu']}, {row['threads']} threads, {row['kernels']} kernels, "
            f"{row['dtype']}, {row['steps']} steps",
            f"commit {row['commit'] or 'unknown'}, torch {row['torch']}, {row['chunks']} chunks of {row['chunk_ms']:.0f} ms",
            "",
            f"{'':<22}{'median':>9}{'p99':>9}",
            f"{'real-time factor':<22}{row['rtf_median']:>9.3f}{row['rtf_p99']:>9.3f}",
            f"{'first chunk, ms':<22}{row['first_chunk_ms_median']:>9.0f}{row['first_chunk_ms_max']:>9.0f}  (max)",
        ]
        for stage in STAGES:
            times = row["stages"][stage]
            name = stage.removesuffix("_ms").replace("_", " ") + ", ms"
            lines.append(f"{name:<22}{times['median']:>9.1f}{times['p99']:>9.1f}")
        lines.append(f"{'peak memory, MiB':<22}{row['peak_memory_bytes'] / 2**20:>9.0f}")
        return "\n".join(lines)


def measure(
    engine: Engine, *, chunks: int = 100, steps: int | None = None, seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Result:  # fmt: skip
    """Steady state over ``chunks`` spoken chunks, and the time from ``push_text`` to the first chunk.

    Raises:
        ConfigError: for fewer than one chunk.
    """
    if chunks < 1:
        raise ConfigError(f"{chunks} chunks cannot be measured", hint="--chunks 100")
    engine.warmup()
    character = engine.character(engine.characters()[0])
    first = [_first_chunk(engine, character, steps, seed + i) for i in range(FIRST_CHUNKS)]
    timings: list[StageTimings] = []
    with engine.session(character, seed=seed, steps=steps) as session:
        session.push_stream(TEXT for _ in range(chunks))  # drawn as it is spoken: never too short
        while len(timings) < chunks:
            timings.append(session.step().timings)
            if progress is not None:
                progress(len(timings))
    return Result(_row(engine, timings, first))


def _first_chunk(engine: Engine, character: Any, steps: int | None, seed: int) -> float:
    with engine.session(character, seed=seed, steps=steps) as session:
        begin = time.perf_counter()
        session.push_text(TEXT)
        session.step()
        return (time.perf_counter() - begin) * 1e3


def _row(engine: Engine, timings: list[StageTimings], first: list[float]) -> dict[str, Any]:
    import torch

    from . import ops

    factors = [entry.real_time_factor for entry in timings]
    kernels = ops.kernels_in_use()
    return {
        "benchmark": "session",
        "model": engine.bundle.name,
        "version": __version__,
        "commit": commit(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "device": "cpu",
        "cpu": machine.cpu_name(),
        "logical_cpus": machine.logical_cpus(),
        "threads": engine.threads,
        "dtype": engine.dtype,
        "kernels": kernels.get("isa", "reference") if engine.config.kernels != "reference" else "reference",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "steps": timings[0].denoise_steps,
        "chunks": len(timings),
        "chunk_ms": engine.info.chunk_seconds * 1e3,
        "rtf_median": statistics.median(factors),
        "rtf_p99": percentile(factors, 0.99),
        "first_chunk_ms_median": statistics.median(first),
        "first_chunk_ms_max": max(first),
        "stages": {
            stage: {
                "median": statistics.median(getattr(entry, stage) for entry in timings),
                "p99": percentile([getattr(entry, stage) for entry in timings], 0.99),
            }
            for stage in STAGES
        },
        "peak_memory_bytes": machine.peak_bytes(),
    }


def percentile(values: list[float], share: float) -> float:
    """The smallest value that at least ``share`` of the values do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def commit() -> str | None:
    """The commit of the source tree that this package, or the working folder, is part of."""
    for folder in (Path(__file__).parent, Path.cwd()):
        root = next((p for p in (folder, *folder.parents) if (p / "python" / "streamchar_rt").is_dir()), None)
        if root is None:
            continue
        try:
            found = subprocess.run(
                ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
                capture_output=True, text=True, timeout=10,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired):
            return None
        if found.returncode == 0:
            return found.stdout.strip()
    return None
