"""Aggregate throughput of several sessions: stepped as one batch, and one after another.

    python -m benchmarks.sessions --sessions 1 2 4 8 --chunks 20
    python -m benchmarks.sessions --background    sessions with threads of their own; ``mean_company``: streams a batch

Prints one JSON row for each number of sessions. ``seconds_per_second`` is the stream time that all sessions together
gain in a second; ``real_time_factor`` is its inverse for each session (below 1: all of them hold real time);
``gain_over_one`` compares with a single session, ``gain_by_batching`` with the same sessions stepped in turns. Both
ways of stepping alternate chunk by chunk, so a busy machine slows both; medians are given. ``cpu_gain_by_batching`` is
the ratio of the CPU times, which other processes disturb least. Sessions
are shared out among the cores; ``batched_language``, ``_alignment`` and ``_denoiser`` say which stages of a share give
the same bytes together on this machine, and so run together.
"""
from __future__ import annotations

import argparse
import json
import statistics
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

from streamchar_rt import Engine, machine
from streamchar_rt.bench import commit

TEXT = (
    "The quick brown fox jumps over the lazy dog, and nobody in the village was surprised. "
    "On Tuesday at half past nine, Doctor Miller paid twenty five dollars for a small blue teapot. "
)


def measure(engine: Engine, count: int, chunks: int, steps: int | None) -> dict[str, Any]:
    """Median seconds of one step of all sessions, together and in turns."""
    names = engine.characters()
    sessions = [engine.session(names[i % len(names)], seed=i, steps=steps) for i in range(count)]
    for session in sessions:
        session.push_stream(TEXT for _ in range(chunks + 8))
    times: dict[str, list[float]] = {"together": [], "in turns": []}
    cpu_times: dict[str, list[float]] = {"together": [], "in turns": []}
    for i in range(chunks + 2):  # the first ones find out what may run together, and are not counted
        for way in ("together", "in turns"):
            begin, cpu_begin = time.perf_counter(), time.process_time()
            if way == "together":
                stepped = len(engine.step())
            else:
                stepped = sum(session.step() is not None for session in sessions)
            if stepped != count:
                raise RuntimeError(f"{stepped} of {count} sessions were stepped")
            if i >= 2:
                times[way].append(time.perf_counter() - begin)
                cpu_times[way].append(time.process_time() - cpu_begin)
    for session in sessions:
        session.close()
    share = -(-count // engine.models.lanes.count)
    medians = {way: statistics.median(values) for way, values in times.items()}
    return {
        "sessions": count,
        "real_time_factor": medians["together"] / engine.info.chunk_seconds,
        "seconds_per_second": count * engine.info.chunk_seconds / medians["together"],
        "gain_by_batching": medians["in turns"] / medians["together"],
        "cpu_gain_by_batching": statistics.median(cpu_times["in turns"]) / statistics.median(cpu_times["together"]),
        **{f"batched_{name}": engine.models.batching.exact.get((name, share), share == 1)
           for name in ("language", "alignment", "denoiser")},
    }  # fmt: skip


def measure_background(engine: Engine, count: int, chunks: int, steps: int | None) -> dict[str, Any]:
    """Chunks that sessions with threads of their own make while all of them are at work, taken as they come."""
    names = engine.characters()
    options = {"steps": steps, "adaptive_steps": False, "threading": "background"}
    sessions = [engine.session(names[i % len(names)], seed=i, **options) for i in range(count)]
    times: list[list[float]] = [[] for _ in sessions]
    companies: list[int] = []
    alone, together = engine.generate, engine.generate_together
    engine.generate = lambda *args: companies.append(1) or alone(*args)
    engine.generate_together = lambda states, *args: companies.append(len(states)) or together(states, *args)

    def take(i: int) -> None:
        sessions[i].push_stream(TEXT for _ in range(chunks + 8))
        for _ in range(chunks + 2):  # the first ones find out what may run together, and are not counted
            sessions[i].step()
            times[i].append(time.perf_counter())

    threads = [threading.Thread(target=take, args=(i,)) for i in range(count)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for session in sessions:
            session.close()
        del engine.generate, engine.generate_together
    begin, end = max(own[1] for own in times), min(own[-1] for own in times)
    made = sum(begin < moment <= end for own in times for moment in own)
    throughput = made * engine.info.chunk_seconds / (end - begin)
    return {
        "sessions": count, "way": "background", "real_time_factor": count / throughput,
        "seconds_per_second": throughput, "mean_company": statistics.mean(companies),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--sessions", type=int, nargs="+", default=[1, 2, 4, 8], metavar="N")
    parser.add_argument("--chunks", type=int, default=20, metavar="N", help="measured for each number (default: 20)")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: physical cores)")
    parser.add_argument("--steps", type=int, metavar="N", help="denoising steps (default: the model's)")
    parser.add_argument("--background", action="store_true", help="sessions with threads of their own")
    options = parser.parse_args(arguments)
    with Engine.load(options.model, max_sessions=max(options.sessions), threads=options.threads) as engine:
        engine.warmup()
        facts = {"benchmark": "sessions", "model": engine.bundle.name, "cpu": machine.cpu_name(),
                 "threads": engine.threads, "commit": commit()}  # fmt: skip
        single = None
        for count in options.sessions:
            row = (measure_background if options.background else measure)(engine, count, options.chunks, options.steps)
            single = row["seconds_per_second"] if count == 1 else single
            row["gain_over_one"] = None if single is None else row["seconds_per_second"] / single
            print(json.dumps({**facts, **row}), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
