"""Whole chunks through the runtime's own classes: ``mini`` with its weights, the paper's scale with random ones.

For each case and way (native kernels; torch alone; torch's attention among native layers): the memory plan, said
before anything is allocated; the time of every stage; the real-time factor by the host's clock; memory used beside the
plan; of one chunk what should be nothing, host syncs, as torch notices them, and pieces of memory asked from the
driver; and the kernels that take longest. ``mini`` is also compared with what the CPU makes of the same chunk, and
spoken to through the engine. Every part runs in a process of its own, in the order of ``chain_parts.chosen``, while
there is time; rows say what failed, with its traceback, and the log has everything.

    python -m tools.gpu.chain --out DIR --seconds 500                      # mini, full-512x512, full-704x1280
    python -m tools.gpu.chain --out DIR --part full-512x512/native         # one part, in this process
    python -m tools.gpu.chain --out DIR --device cpu --cases tiny          # without a GPU
"""
from __future__ import annotations

import argparse
import gc
import os
import statistics
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from streamchar_rt import allocation, scales
from streamchar_rt.bundle import open_bundle
from streamchar_rt.denoiser.resident import ResidentDenoiser
from streamchar_rt.errors import UnsupportedError
from streamchar_rt.orchestrator.units import END, FIRST_PHONE, NUM_UNITS
from streamchar_rt.pipeline import Models, RawChunk, StreamState, Style, encode_character, generate_chunk
from streamchar_rt.resident import Placement, ResidentChain

from . import chain_parts, kernel_times, report
from .chain_parts import ChainPart

CASES: dict[str, Callable[[], dict[str, Any]]] = {
    "mini": lambda: dict(open_bundle("mini").manifest),
    "full-512x512": lambda: scales.full(512, 512),
    "full-704x1280": lambda: scales.full(704, 1280),
    "tiny": scales.tiny,
}
DEFAULT = "mini,full-512x512,full-704x1280"
WAYS = {"native": "auto", "torch": "reference"}     # of ``run_case``, to ``kernels``
_WARM_UPS = 3                                       # chunks: the first ones capture graphs, and have less context
_LONGEST = 6.0                                      # seconds of timed chunks, at least three of them
_COMPARED = 3                                       # chunks: the third one replays every graph
_STYLE = Style(voice=0, emotion=0, mode=2)
_SYNC = "called a synchronizing"                    # in torch's warning
#: What chunks may differ by: (share of half-frames with the same unit, at least; error of the sound; of a byte). In
#: float32 as much as the CPU's two ways, by their test; they differ by (1, 2e-6, 1e-4). In bfloat16 a CPU differs from
#: float32 by (0.99, 0.24, 0.91), where one half-frame is another unit's, and torch's own ops on a GPU by (1, 0.04, 2.3).
_AGREES = {torch.float32: (1.0, 0.02, 0.1), torch.bfloat16: (0.95, 0.5, 3.0)}


@dataclass(frozen=True)
class Timed:
    """Chunks of one stream."""

    stages: dict[str, float]        # median ms
    wall: list[float]               # seconds by the host's clock, the wait for the results included


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--cases", default=DEFAULT, help=",".join(CASES))
    parser.add_argument("--chunks", type=int, default=12, help="timed chunks of every case and way, at most")
    parser.add_argument("--seconds", type=float, default=80.0, help="everything ends by then")
    parser.add_argument("--part", help="run this one in this process: a case's name, /way, /plain, /tuned")
    options = parser.parse_args(arguments)
    names = [name.strip() for name in options.cases.split(",")]
    unknown = sorted(set(names) - set(CASES))
    if unknown or options.chunks < 1:
        parser.error(f"unknown cases {unknown}" if unknown else "--chunks must be at least 1")
    out, device = options.out.resolve(), torch.device(options.device)
    if options.part:
        chain_parts.stacks_before_the_end(options.seconds)
        part = chain_parts.parse(options.part, int(options.seconds))
        return 0 if run_part(out, part, device, options.chunks) else chain_parts.FAILED
    end = time.monotonic() + options.seconds
    parts = chain_parts.chosen(names, device.type == "cuda")
    print("\n".join(f"{part.name:32s} at most {part.seconds} s" for part in parts), flush=True)
    chain_parts.run_all(parts, out, str(device), options.chunks, end,
                        lambda part, why: absent(out, part.case, why, _way(part)))
    if report.write_table(out):
        print((out / report.TABLE).read_text(), flush=True)
    print("\n".join(map(in_a_line, report.rows(out))), flush=True)
    return 0


def run_part(out: Path, part: ChainPart, device: torch.device, chunks: int) -> bool:
    """One part; a row that says why where it cannot be run, and False."""
    try:
        if part.case == "agreement":
            return compare_with_host(out, CASES["mini"](), device)
        if part.case == "engine":
            return try_engine(out, str(device))
        run_way(out, part, device, chunks)
    except Exception as error:    # whatever it is, the next part is to run
        absent(out, part.case, f"{type(error).__name__}: {error}", _way(part), traceback.format_exc())
        return False
    return True


def _way(part: ChainPart) -> str:
    return part.name.partition("/")[2]


def run_way(out: Path, part: ChainPart, device: torch.device, chunks: int) -> None:
    """The rows of a case and way."""
    manifest, kernels = CASES[part.case](), chain_parts.WAYS[part.way][0]
    dtype, gpu = torch.bfloat16 if device.type == "cuda" else torch.float32, device.type == "cuda"
    placement = Placement(device, dtype, graphs=part.graphs, nvtx=True, tune=part.tune)
    begin = time.perf_counter()
    models = load(out, part.case, manifest, placement)
    if gpu:
        torch.cuda.synchronize()
    print(f"{part.case}: ready after {time.perf_counter() - begin:.1f} s", flush=True)
    models.denoiser = ResidentDenoiser(models.denoiser.dit, kernels)
    if part.way == "native" and not models.denoiser.native:
        raise UnsupportedError("no native attention here", hint="a build with CUDA, and a GPU")
    models.chain = ResidentChain(models, placement)
    state = new_stream(models)
    report.add(out, measure(models, state, part.case, _way(part), chunks, manifest, kernels))
    try:
        found = kernel_times.kernel_times(lambda: generate_chunk(models, state, _STYLE), gpu)
        kernel_times.write(out, f"{part.case}, {_way(part)}: one chunk", found)
    except RuntimeError as error:    # a machine may forbid to profile
        found = {"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    report.add(out, {"kind": "kernels", "case": part.case, "way": _way(part), **found})


def run_case(out: Path, name: str, device: torch.device, chunks: int, end: float) -> None:
    """All ways of a case in this process, one after the other."""
    if name == "mini":
        run_part(out, ChainPart("agreement", 0), device, chunks)
    for way in WAYS:
        if time.monotonic() >= end:
            absent(out, name, "no time left", way)
        elif not run_part(out, ChainPart(name, 0, way), device, chunks):
            break
        gc.collect()


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


def measure(models: Models, state: StreamState, name: str, way: str, chunks: int, manifest: dict[str, Any],
            kernels: str) -> dict[str, Any]:
    """The row of a case and way."""
    gpu = models.device.type == "cuda"
    if gpu:
        torch.cuda.reset_peak_memory_stats()
    before = time.perf_counter()
    for index in range(_WARM_UPS):
        generate_chunk(models, state, _STYLE)
        print(f"{name} {way}: chunk {index} after {time.perf_counter() - before:.2f} s", flush=True)
    warm = time.perf_counter() - before
    timed = time_chunks(models, state, chunks)
    syncs, asked = count_waits(models, state)
    seconds = models.chunk_samples / models.sample_rate
    wall = statistics.median(timed.wall)
    planned = allocation.memory_plan(manifest, models.chain.placement, slots=0, kernels=kernels).total
    row = {"kind": "chain", "case": name, "way": way, "steps": models.default_steps, "chunks": len(timed.wall),
           "graphs": len(models.chain.graphs), "stages_ms": timed.stages, "wall_ms": wall * 1e3,
           "worst_ms": max(timed.wall) * 1e3, "chunk_ms": seconds * 1e3, "real_time_factor": wall / seconds,
           "first_chunks_s": warm, "host_syncs": syncs if syncs is None else sum(syncs.values()), "synced_at": syncs,
           "driver_allocations": asked, "planned_bytes": planned,
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


def count_waits(models: Models, state: StreamState) -> tuple[dict[str, int] | None, int | None]:
    """Of one chunk: synchronizing calls as torch notices them, by the line that made them (the one wait at a chunk's
    end is on an event and is none), and segments of memory that its allocator asks the driver for. None without a
    GPU."""
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
    # torch says of the mode itself, once, that it may miss some: that is none.
    lines = Counter(f"{Path(w.filename).name}:{w.lineno}" for w in caught if _SYNC in str(w.message))
    return dict(lines), segments() - begin


def used_bytes(device: torch.device) -> int | None:
    """Of a GPU, by whomever: what was planned with, libraries included."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return total - free


def compare_with_host(out: Path, manifest: dict[str, Any], device: torch.device) -> bool:
    """The first three chunks of ``mini`` on the device, by dtype and way, beside the CPU's in float32; False where one
    could not be made. Torch alone first: a native kernel may end the process. Without TensorFloat-32, which rounds
    factors to 11 binary digits."""
    tensors = open_bundle("mini").tensors()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False

    def chunks(placement: Placement | None, kernels: str) -> list[RawChunk]:
        models = Models.from_parts(manifest, tensors, placement=placement, kernels=kernels)
        state = new_stream(models, units=60)
        return [generate_chunk(models, state, _STYLE) for _ in range(_COMPARED)]

    truth, whole, plain = chunks(None, "auto"), True, {}
    for dtype, way, graphs in ((torch.float32, "torch", False), (torch.float32, "torch", True),
                               (torch.bfloat16, "torch", True), (torch.float32, "mixed", True),
                               (torch.bfloat16, "mixed", True), (torch.bfloat16, "native", False),
                               (torch.bfloat16, "native", True)):
        kernels, torch_alone = chain_parts.WAYS[way]
        row = {"kind": "agreement", "case": "mini", "dtype": str(dtype).removeprefix("torch."), "kernels": kernels,
               "way": way, "graphs": graphs, "tf32": False}
        os.environ.update({"STREAMCHAR_KERNELS": "reference"} if torch_alone else {})
        try:
            made = chunks(Placement(device, dtype, graphs=graphs), kernels)
            row |= agreement(truth, made)
            if not graphs:
                plain[dtype, way] = made
            elif (dtype, way) in plain:
                row["bytes_of_plain_calls"] = same_bytes(plain[dtype, way], made)
            units, sound, pixels = _AGREES[dtype]
            row["agrees"] = (row["same_units"] >= units and row["audio_error"] <= sound
                             and row["pixel_difference"] <= pixels)
        except Exception as error:    # the other rows are to come
            row |= {"failed": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
            whole = False
        os.environ.pop("STREAMCHAR_KERNELS", None)
        report.add(out, row)
        print(row.get("traceback", ""), row, flush=True)
    return whole


def same_bytes(some: list[Any], others: list[Any]) -> bool:
    return len(some) == len(others) and all(
        np.array_equal(a.audio, b.audio) and np.array_equal(a.video, b.video) for a, b in zip(some, others))


def agreement(truth: list[RawChunk], made: list[RawChunk]) -> dict[str, float]:
    """Share of half-frames with the same unit; relative error of the sound; mean difference of a pixel's byte."""
    join = lambda some, name: np.concatenate([getattr(chunk, name) for chunk in some]).astype(float)
    error = np.linalg.norm(join(made, "audio") - join(truth, "audio")) / np.linalg.norm(join(truth, "audio"))
    return {"same_units": float((join(truth, "places") == join(made, "places")).mean()), "audio_error": float(error),
            "pixel_difference": float(np.abs(join(truth, "video") - join(made, "video")).mean())}


def try_engine(out: Path, device: str) -> bool:
    """What applications do: text in, chunks out, twice the same; or the refusal in its own words. With graphs, and
    where that fails with plain calls."""
    return _engine(out, device, True) or _engine(out, device, False)


def _engine(out: Path, device: str, graphs: bool) -> bool:
    from streamchar_rt import Engine

    text = "This is a test of a session on a graphics processor."
    try:
        with Engine.load("mini", device=device, cuda_graphs=graphs) as engine:
            engine.warmup()
            turns = [_turn(engine, text) for _ in range(2)]
            factors = [chunk.timings.real_time_factor for turn in turns for chunk in turn]
            row = {"supported": True, "chunks": len(factors), "real_time_factor": statistics.median(factors),
                   "repeats": same_bytes(*turns)}
    except Exception as error:
        row = {"supported": False, "detail": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
    report.add(out, {"kind": "engine", "device_asked": device, "graphs": graphs, **row})
    print(row.get("traceback", ""), f"engine on {device}, graphs={graphs}: {row}", flush=True)
    return row["supported"]


def _turn(engine: Any, text: str) -> list[Any]:
    with engine.session(engine.characters()[0], seed=1) as session:
        session.say(text)
        return list(session.turn())


def absent(out: Path, case: str, why: str, way: str = "", trace: str = "") -> None:
    report.add(out, {"kind": "absent", "op": "chain", "case": case, "way": way, "why": why,
                     **({"traceback": trace} if trace else {})})
    print(f"{trace}{case} {way}: {why}", flush=True)


def line(row: dict[str, Any]) -> str:
    stages = ", ".join(f"{stage} {ms:.1f}" for stage, ms in row["stages_ms"].items())
    times = f"{row['wall_ms']:.1f} ms, real-time factor {row['real_time_factor']:.3f}"
    return f"{row['case']} {row['way']}: {times} ({stages})"


def in_a_line(row: dict[str, Any]) -> str:
    """A row without what other files have in full."""
    if row["kind"] == "chain":
        return line(row)
    if row["kind"] == "kernels":
        row = {**row, "kernels": [f"{each['ms']:.2f} {each['name'][:40]}" for each in row.get("kernels", ())[:4]]}
    left_out = {"traceback", "weights", "session", "shared", "time", *report.facts()}
    return ", ".join(f"{key} {str(value)[:300]}" for key, value in row.items() if key not in left_out)


if __name__ == "__main__":
    sys.exit(main())
