"""Whole chunks through the runtime's own classes: ``mini`` with its weights, the paper's scale with random ones.

For each case and way of attention: the memory plan, said before anything is allocated; the time of every stage; the
real-time factor by the host's clock; memory used beside the plan; and of one chunk what should be nothing: host syncs,
as torch notices them, and pieces of memory asked from the driver. ``mini`` is also compared with what the CPU makes of
the same chunk. Cases run in the given order while there is time.

    python -m tools.gpu.chain --out DIR                                    # mini, full-512x512, full-704x1280
    python -m tools.gpu.chain --out DIR --device cpu --cases tiny          # the same without a GPU, in seconds
"""
from __future__ import annotations

import argparse
import gc
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamchar_rt import allocation, scales
from streamchar_rt.bundle import open_bundle
from streamchar_rt.denoiser.resident import ResidentDenoiser
from streamchar_rt.errors import StreamCharError
from streamchar_rt.orchestrator.units import END, FIRST_PHONE, NUM_UNITS
from streamchar_rt.pipeline import Models, RawChunk, StreamState, Style, encode_character, generate_chunk
from streamchar_rt.resident import Placement, ResidentChain

from . import report

CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "mini": lambda: dict(open_bundle("mini").manifest),
    "full-512x512": lambda: scales.full(512, 512),
    "full-704x1280": lambda: scales.full(704, 1280),
    "tiny": scales.tiny,
}
DEFAULT = "mini,full-512x512,full-704x1280"
WAYS = {"native": "auto", "torch": "reference"}     # to ``kernels``
_WARM_UPS = 3                                       # chunks: the first ones capture graphs, and have less context
_LONGEST = 6.0                                      # seconds of timed chunks, at least three of them
_STYLE = Style(voice=0, emotion=0, mode=2)


@dataclass(frozen=True)
class Timed:
    """Chunks of one stream."""

    stages: dict[str, float]        # median ms
    wall: list[float]               # seconds by the host's clock, the wait for the results included


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cases", default=DEFAULT, help=",".join(CASES))
    parser.add_argument("--chunks", type=int, default=12, help="timed chunks of every case and way, at most")
    parser.add_argument("--seconds", type=float, default=80.0, help="no further case or way begins after that")
    options = parser.parse_args(arguments)
    names = [name.strip() for name in options.cases.split(",")]
    unknown = sorted(set(names) - set(CASES))
    if unknown or options.chunks < 1:
        parser.error(f"unknown cases {unknown}" if unknown else "--chunks must be at least 1")
    end, device = time.monotonic() + options.seconds, torch.device(options.device)
    if device.type == "cuda":
        try_engine(options.out, str(device))
    for name in names:
        if time.monotonic() < end:
            run_case(options.out, name, device, options.chunks, end)
        else:
            absent(options.out, name, "no time left")
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()


def run_case(out: Path, name: str, device: torch.device, chunks: int, end: float) -> None:
    """All rows of a case; a row that says why where it cannot be run."""
    manifest = CASES[name]()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    placement = Placement(device, dtype, nvtx=True)
    if name == "mini":
        compare_with_host(out, manifest, device)
    try:
        models = load(out, name, manifest, placement)
    except StreamCharError as error:
        return absent(out, name, str(error))
    dit = models.denoiser.dit
    for way, kernels in WAYS.items():
        if time.monotonic() >= end:
            absent(out, name, "no time left", way)
            continue
        models.denoiser = ResidentDenoiser(dit, kernels)
        if way == "native" and not models.denoiser.native:
            absent(out, name, "no native attention here", way)
            continue
        for graphs in (True, False):
            models.chain = ResidentChain(models, Placement(device, dtype, graphs=graphs, nvtx=True))
            try:
                report.add(out, measure(models, name, way, chunks, manifest, kernels))
                break
            except (RuntimeError, StreamCharError) as error:    # what cannot be captured may run in plain calls
                absent(out, name, f"graphs={graphs}: {type(error).__name__}: {error}", way)
    del models


def load(out: Path, name: str, manifest: dict[str, Any], placement: Placement) -> Models:
    """The case's models, after its plan has been written down and checked."""
    plan = allocation.memory_plan(manifest, placement, slots=0)
    report.add(out, {"kind": "plan", "case": name, "weights": plan.weights, "session": plan.session,
                     "shared": plan.shared, "planned_bytes": plan.total})
    if name == "mini":
        print(plan.table(), flush=True)
        plan.check(allocation.available_bytes(torch.device(placement.device)))
        return Models.from_parts(manifest, open_bundle("mini").tensors(), placement=placement)
    return allocation.random_models(manifest, placement, slots=0, tell=lambda text: print(text, flush=True))


def new_stream(models: Models, seed: int = 1, units: int = 400) -> StreamState:
    """A stream with a character of noise and a long random text."""
    rng = np.random.default_rng(seed)
    picture = rng.integers(0, 256, (models.height, models.width, 4), dtype=np.uint8)
    with torch.inference_mode():
        state = StreamState(models, encode_character(models, picture), seed)
    phones = rng.integers(FIRST_PHONE, NUM_UNITS, units)
    state.append_units([(int(unit), 0, i % 4 == 0) for i, unit in enumerate(phones)] + [(END, 0, False)])
    return state


def measure(models: Models, name: str, way: str, chunks: int, manifest: dict[str, Any], kernels: str) -> dict[str, Any]:
    """The row of a case and way."""
    gpu = models.device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    before = time.perf_counter()
    state = new_stream(models)
    for _ in range(_WARM_UPS):
        generate_chunk(models, state, _STYLE)
    warm = time.perf_counter() - before
    timed = time_chunks(models, state, chunks)
    syncs, asked = count_waits(models, state)
    seconds = models.chunk_samples / models.sample_rate
    wall = statistics.median(timed.wall)
    planned = allocation.memory_plan(manifest, models.chain.placement, slots=0, kernels=kernels).total
    row = {"kind": "chain", "case": name, "way": way, "steps": models.default_steps, "chunks": len(timed.wall),
           "graphs": len(models.chain.graphs), "stages_ms": timed.stages, "wall_ms": wall * 1e3,
           "worst_ms": max(timed.wall) * 1e3, "chunk_ms": seconds * 1e3, "real_time_factor": wall / seconds,
           "first_chunks_s": warm, "host_syncs": syncs, "driver_allocations": asked, "planned_bytes": planned,
           "reserved_bytes": torch.cuda.max_memory_reserved() if gpu else None, "used_bytes": used_bytes(models.device)}
    print(line(row), flush=True)
    return row


def time_chunks(models: Models, state: StreamState, chunks: int) -> Timed:
    stages, wall = [], []
    while len(wall) < min(chunks, 3) or (len(wall) < chunks and sum(wall) < _LONGEST):
        begin = time.perf_counter()
        chunk = generate_chunk(models, state, _STYLE)
        wall.append(time.perf_counter() - begin)
        stages.append(chunk.timings)
    return Timed({stage: statistics.median(each[stage] for each in stages) for stage in stages[0]}, wall)


def count_waits(models: Models, state: StreamState) -> tuple[int | None, int | None]:
    """Of one chunk: synchronizing calls as torch notices them (the one wait at a chunk's end is on an event and is
    none), and segments of memory that its allocator asks the driver for. None without a GPU."""
    if models.device.type != "cuda":
        generate_chunk(models, state, _STYLE)
        return None, None
    segments = lambda: torch.cuda.memory_stats()["segment.all.allocated"]
    begin = segments()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            generate_chunk(models, state, _STYLE)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(w.message) for w in caught), segments() - begin


def used_bytes(device: torch.device) -> int | None:
    """Of a GPU, by whomever: what was planned with, libraries included."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def compare_with_host(out: Path, manifest: dict[str, Any], device: torch.device) -> None:
    """The first two chunks of ``mini`` on the device, by dtype and way, beside the CPU's in float32."""
    tensors = open_bundle("mini").tensors()

    def chunks(placement: Placement | None, kernels: str) -> list[RawChunk]:
        models = Models.from_parts(manifest, tensors, placement=placement, kernels=kernels)
        state = new_stream(models, units=60)
        return [generate_chunk(models, state, _STYLE) for _ in range(2)]

    truth = chunks(None, "auto")
    for dtype, kernels in ((torch.float32, "reference"), (torch.bfloat16, "auto"), (torch.bfloat16, "reference")):
        row = {"kind": "agreement", "case": "mini", "dtype": str(dtype).removeprefix("torch."), "kernels": kernels}
        try:
            made = chunks(Placement(device, dtype), kernels)
        except (RuntimeError, StreamCharError) as error:
            report.add(out, {**row, "failed": str(error)})
            continue
        report.add(out, {**row, **agreement(truth, made)})


def agreement(truth: list[RawChunk], made: list[RawChunk]) -> dict[str, float]:
    """Share of half-frames with the same unit; relative error of the sound; mean difference of a pixel's byte."""
    join = lambda some, name: np.concatenate([getattr(chunk, name) for chunk in some]).astype(float)
    error = np.linalg.norm(join(made, "audio") - join(truth, "audio")) / np.linalg.norm(join(truth, "audio"))
    return {"same_units": float((join(truth, "places") == join(made, "places")).mean()), "audio_error": float(error),
            "pixel_difference": float(np.abs(join(truth, "video") - join(made, "video")).mean())}


def try_engine(out: Path, device: str) -> None:
    """What applications do: text in, chunks out; or the refusal in its own words."""
    from streamchar_rt import Engine

    try:
        with Engine.load("mini", device=device) as engine, engine.session(engine.characters()[0], seed=1) as session:
            engine.warmup()
            session.say("This is a test of a session on a graphics processor.")
            factors = [chunk.timings.real_time_factor for chunk in session.turn()]
            row = {"supported": True, "chunks": len(factors), "real_time_factor": statistics.median(factors)}
    except (RuntimeError, StreamCharError) as error:
        row = {"supported": False, "detail": f"{type(error).__name__}: {error}"}
    report.add(out, {"kind": "engine", "device_asked": device, **row})
    print(f"engine on {device}: {row}", flush=True)


def absent(out: Path, case: str, why: str, way: str = "") -> None:
    report.add(out, {"kind": "absent", "op": "chain", "case": case, "way": way, "why": why})
    print(f"{case} {way}: {why}", flush=True)


def line(row: dict[str, Any]) -> str:
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in row["stages_ms"].items())
    times = f"{row['wall_ms']:.1f} ms, real-time factor {row['real_time_factor']:.3f}"
    return f"{row['case']} {row['way']}: {times} ({stages})"


if __name__ == "__main__":
    main()
