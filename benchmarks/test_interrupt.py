"""How fast a character can be cut off, and what the session costs beside the model; on the shipped model.

``stop``: from the call until nothing more is computed. ``quiet``: how long old sound lasts behind the cut, measured
in the samples that are played. ``turnaround``: from the call, with the next text pushed at once, until its first
chunk is there. The moments of the interrupts are drawn evenly over a chunk's making. ``overhead``: what ``step()``
takes beyond the model's own time.

    pytest benchmarks/test_interrupt.py            one row each, quick
    python -m benchmarks.test_interrupt --count 500   a table, on an idle machine and with every core busy
"""
from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import time

import pytest

from streamchar_rt import Engine

from .in_turns import busy_cores

TEXT = "The quick brown fox jumps over the lazy dog, and nobody in the village was surprised. "
ANSWER = "Good morning, my friend."
LOUD = 1e-4  # samples beyond this are heard


def interrupts(engine: Engine, count: int, seed: int = 0) -> dict[str, list[float]]:
    """Milliseconds of each latency, and of a denoising step and a chunk, over ``count`` interrupts."""
    draw = random.Random(seed)
    found: dict[str, list[float]] = {name: [] for name in ("stop", "call", "quiet", "turnaround", "step", "chunk")}
    with engine.session(engine.characters()[0], threading="background", idle="stop", max_lead=60.0) as session:
        session.say(TEXT)
        making = session.step().timings.total_ms / 1e3
        for _ in range(count):
            session.interrupt()
            session.say(TEXT * 3)
            chunk = session.step()  # the worker goes on with the next ones
            time.sleep(draw.uniform(0.0, making))
            begin = time.perf_counter()
            receipt = session.interrupt()
            found["call"].append((time.perf_counter() - begin) * 1e3)
            session.say(ANSWER)
            answer = session.step()
            stats = session.stats()
            found["stop"].append(receipt.stop_latency_ms)
            found["turnaround"].append(stats["interrupt_turnaround_ms"])
            lead = engine.audio_lead * session.info.chunk_samples // (2 * session.info.chunk_frames)
            loud = [i for i, sample in enumerate(abs(answer.audio[:lead])) if sample > LOUD]
            found["quiet"].append((max(loud) + 1 if loud else 0) / session.info.sample_rate * 1e3)
            making = chunk.timings.total_ms / 1e3
            found["chunk"].append(chunk.timings.total_ms)
            found["step"].append(chunk.timings.denoise_ms / chunk.timings.denoise_steps)
    return found


def overhead(engine: Engine, chunks: int) -> list[float]:
    """Milliseconds of each ``step()`` beyond the model's own time, over spoken chunks."""
    model_ms = 0.0
    original = engine.generate

    def timed(*args, **kwargs):
        nonlocal model_ms
        begin = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            model_ms += (time.perf_counter() - begin) * 1e3

    engine.generate = timed
    try:
        with engine.session(engine.characters()[0]) as session:
            session.push_stream(TEXT for _ in range(chunks))
            found = []
            for _ in range(chunks):
                model_ms, begin = 0.0, time.perf_counter()
                session.step()
                found.append((time.perf_counter() - begin) * 1e3 - model_ms)
        return found
    finally:
        del engine.generate


def summary(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    p99 = ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]
    return {"p50": round(statistics.median(ordered), 3), "p99": round(p99, 3), "max": round(ordered[-1], 3)}


def measure(engine: Engine, count: int) -> dict[str, dict[str, dict[str, float]]]:
    rows = {}
    for name, cores in (("idle", 0), ("every core busy", os.cpu_count() or 1)):
        with busy_cores(cores):
            values = interrupts(engine, count)
            values["overhead"] = overhead(engine, count)
        rows[name] = {key: summary(entries) for key, entries in values.items()}
    return rows


@pytest.fixture(scope="module")
def engine():
    with Engine.load("mini", max_sessions=2) as engine:
        engine.warmup()
        yield engine


@pytest.mark.parametrize("cores", [0, os.cpu_count() or 1], ids=["idle", "busy"])
def test_interrupt(benchmark, engine, cores):
    with busy_cores(cores):
        values = benchmark.pedantic(interrupts, args=(engine, 5), rounds=1)
    benchmark.extra_info.update({f"{name}_ms": summary(entries) for name, entries in values.items()})
    assert max(values["quiet"]) <= 40.0


def test_overhead(benchmark, engine):
    values = benchmark.pedantic(overhead, args=(engine, 20), rounds=1)
    benchmark.extra_info["overhead_ms"] = summary(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200, help="interrupts, and chunks for the overhead")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with Engine.load("mini", max_sessions=2, threads=arguments.threads) as engine:
        engine.warmup()
        rows = measure(engine, arguments.count)
    if arguments.json:
        print(json.dumps(rows))
        return
    for name, values in rows.items():
        print(f"{name}\n{'':<14}{'p50':>10}{'p99':>10}{'max':>10}")
        for key, entry in values.items():
            print(f"{key + ', ms':<14}{entry['p50']:>10.1f}{entry['p99']:>10.1f}{entry['max']:>10.1f}")


if __name__ == "__main__":
    main()
