"""Device time of one call: a CUDA graph of it, replayed with a cold second-level cache."""
from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping

import torch

_FLUSH_BYTES = 256 << 20     # several times the second-level cache


def graphed(call: Callable[[], object]) -> Callable[[], object]:
    """The call as a CUDA graph, so that launches cost what they cost in a captured step; the call itself where it
    cannot be captured."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            call()
    except RuntimeError as error:
        print(f"not captured: {error}")
        torch.cuda.synchronize()
        return call
    return graph.replay


def microseconds(call: Callable[[], object], seconds: float = 0.4) -> tuple[float, float]:
    """Median and 99th percentile of single calls, as many as fit into the given time but at least 20."""
    run = graphed(call)
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device="cuda")
    once = _timed(run, flush, 5)
    times = _timed(run, flush, max(20, min(400, int(seconds * 1e6 / max(1.0, statistics.median(once))))))
    return statistics.median(times), sorted(times)[int(0.99 * (len(times) - 1))]


def in_turns(calls: Mapping[str, Callable[[], object]], rounds: int = 60) -> dict[str, tuple[float, float]]:
    """The same of several calls, one after the other in every round, so that all meet the same clocks."""
    runs = {name: graphed(call) for name, call in calls.items()}
    flush = torch.empty(_FLUSH_BYTES, dtype=torch.int8, device="cuda")
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(3 + rounds):
        for name, run in runs.items():
            once = _timed(run, flush, 1)
            if turn >= 3:
                times[name] += once
    return {name: (statistics.median(t), sorted(t)[int(0.99 * (len(t) - 1))]) for name, t in times.items()}


def _timed(run: Callable[[], object], flush: torch.Tensor, count: int) -> list[float]:
    events = [(torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)) for _ in range(count)]
    for start, end in events:
        flush.zero_()
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) * 1e3 for start, end in events]
