"""Where a chunk's time goes, op by op, beside what the machine could do: ``streamchar profile``.

``python -m streamchar_rt.profile`` is the same command.
"""
from __future__ import annotations

import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import machine
from .errors import ConfigError
from .threads import compute_threads

if TYPE_CHECKING:
    from .engine import Engine
    from .op_recorder import Call

STAGES = ("orchestrator_ms", "denoise_ms", "audio_decode_ms", "video_decode_ms", "context_ms")
EPILOG = """\
Columns: per chunk, number of calls, milliseconds, GFLOP (matrix products, convolutions and attention; the rest counts
as memory traffic), megabytes (every input and output once); then GFLOP/s, GB/s, and the share of the roof: the time
that the larger of both would take at this machine's measured ceilings, over the time it took. Above 100 %: from caches.
Ops are recorded on one core, and recording costs time between them, not within; the stages are timed on all cores
and without it.

--trace FILE writes every op call for https://ui.perfetto.dev or chrome://tracing.

On a machine with an NVIDIA GPU, Nsight Compute looks into one kernel of the op benchmark:
  ncu --set full -k regex:segment_attention --launch-skip 3 --launch-count 1 python -m tools.gpu.bench --out /tmp/rows
Ops that run on a GPU stand in NVTX ranges called part:op, for Nsight Systems.
"""


@dataclass(frozen=True)
class Ceilings:
    """What this machine does at best: products of large matrices in FLOP/s by kind of number, a copy in bytes/s."""

    flops: dict[str, float]
    bytes: float

    def seconds(self, call: Call) -> float:
        """The least time that a call's work takes."""
        return max(call.flops / self.flops[call.kind], call.bytes / self.bytes)


@dataclass(frozen=True)
class Profile:
    """A measured run; ``calls`` are of ``facts["chunks"]`` chunks."""

    facts: dict[str, Any]
    stages: dict[str, float]  # ms a chunk, without recording
    ceilings: Ceilings
    calls: list[Call]
    spans: list[tuple[float, float]]  # begin and end of every recorded chunk, seconds

    def rows(self) -> list[dict[str, Any]]:
        """One for each part and op, the most expensive first."""
        groups: dict[tuple[str, str], list[Call]] = defaultdict(list)
        for call in self.calls:
            groups[call.part, call.op].append(call)
        rows = [{"part": part, "op": op, **self._row(calls)} for (part, op), calls in groups.items()]
        return sorted(rows, key=lambda row: -row["ms"])

    def _row(self, calls: list[Call]) -> dict[str, float]:
        chunks = len(self.spans)
        seconds = sum(call.seconds for call in calls)
        flops, traffic = (sum(getattr(call, name) for call in calls) for name in ("flops", "bytes"))
        rate = lambda amount: amount / seconds / 1e9 if seconds else 0.0
        return {
            "calls": len(calls) / chunks, "ms": seconds / chunks * 1e3, "gflop": flops / chunks / 1e9,
            "mbytes": traffic / chunks / 1e6, "gflops": rate(flops), "gbps": rate(traffic),
            "share": sum(map(self.ceilings.seconds, calls)) / seconds if seconds else 0.0,
        }  # fmt: skip

    def table(self, top: int = 25) -> str:
        facts, rows, top = self.facts, self.rows(), max(0, top)
        peaks = ", ".join(f"{kind} {value / 1e9:.0f} GFLOP/s" for kind, value in self.ceilings.flops.items())
        lines = [
            f"{facts['model']} on {facts['cpu']}, {facts['threads']} threads, {facts['dtype']}, {facts['steps']} steps",
            f"ceilings: {peaks}, copy {self.ceilings.bytes / 1e9:.1f} GB/s",
            "", f"{'stage':<32}{'ms':>9}",
            *(f"{name.removesuffix('_ms').replace('_', ' '):<32}{value:>9.1f}" for name, value in self.stages.items()),
            "", "on one core:", f"{'part: op':<44}{'calls':>7}{'ms':>9}{'GFLOP':>8}{'MB':>8}{'GFLOP/s':>9}{'GB/s':>7}{'roof':>7}",
        ]  # fmt: skip
        lines += [_line(f"{row['part']}: {row['op']}", row) for row in rows[:top]]
        if rows[top:]:
            shown = {(row["part"], row["op"]) for row in rows[:top]}
            others = [call for call in self.calls if (call.part, call.op) not in shown]
            lines.append(_line(f"{len(rows) - top} more", self._row(others)))
        lines.append(_line("all ops", self._row(self.calls)))
        total = sum(end - begin for begin, end in self.spans) / len(self.spans) * 1e3
        lines.append(f"{'between ops, recording included':<44}{'':>7}{total - sum(row['ms'] for row in rows):>9.1f}")
        return "\n".join(lines)

    def trace(self) -> dict[str, Any]:
        """Chrome's trace format: one track for chunks, one for each part."""
        tracks = {"chunk": 0}
        zero = self.spans[0][0]
        events: list[dict[str, Any]] = []

        def add(track: str, name: str, begin: float, seconds: float, **args: Any) -> None:
            number = tracks.setdefault(track, len(tracks))
            events.append({"name": name, "cat": track, "ph": "X", "pid": 1, "tid": number, "ts": (begin - zero) * 1e6,
                           "dur": seconds * 1e6, "args": args})  # fmt: skip

        for index, (begin, end) in enumerate(self.spans):
            add("chunk", f"chunk {index}", begin, end - begin)
        for call in self.calls:
            add(call.part, call.op, call.begin, call.seconds, flops=call.flops, bytes=call.bytes, kind=call.kind)
        names = [{"name": "thread_name", "ph": "M", "pid": 1, "tid": number, "args": {"name": track}}
                 for track, number in tracks.items()]  # fmt: skip
        return {"traceEvents": names + events, "displayTimeUnit": "ms", "otherData": self.facts}

    def write_trace(self, path: Path) -> None:
        path.write_text(json.dumps(self.trace()), encoding="utf-8")


def _line(name: str, row: dict[str, float]) -> str:
    return (f"{name[:43]:<44}{row['calls']:>7.0f}{row['ms']:>9.2f}{row['gflop']:>8.2f}{row['mbytes']:>8.1f}"
            f"{row['gflops']:>9.1f}{row['gbps']:>7.1f}{row['share']:>6.0%} ")  # fmt: skip


def measure(
    engine: Engine, *, chunks: int = 4, steps: int | None = None, seed: int = 0,
    progress: Callable[[int], None] | None = None, ceilings: Ceilings | None = None,
) -> Profile:  # fmt: skip
    """Speaks ``chunks`` chunks for the stages' times, and as many again on one core with every op recorded.

    ``ceilings``: of one core; None measures them.

    Raises:
        ConfigError: for fewer than one chunk.
    """
    if chunks < 1:
        raise ConfigError(f"{chunks} chunks cannot be profiled", hint="--chunks 4")
    from .bench import TEXT, commit
    from .op_recorder import Recorder

    if ceilings is None:
        with compute_threads(1):
            ceilings = measure_ceilings()
    engine.warmup()
    recorder, spans, timings = Recorder(), [], []
    with engine.session(engine.characters()[0], seed=seed, steps=steps) as session:
        session.push_stream(TEXT for _ in range(2 * chunks + 1))
        session.step()  # the first one makes what later ones keep
        for done in range(chunks):
            timings.append(session.step().timings)
            if progress is not None:
                progress(done + 1)
        for done in range(chunks):
            begin = time.perf_counter()
            with _one_core(engine), recorder:  # a recorder sees the ops of its own thread
                session.step()
            spans.append((begin, time.perf_counter()))
            if progress is not None:
                progress(chunks + done + 1)
    stages = {name: sum(getattr(t, name) for t in timings) / chunks for name in (*STAGES, "total_ms")}
    facts = {
        "benchmark": "profile", "model": engine.bundle.name, "commit": commit(), "cpu": machine.cpu_name(),
        "threads": engine.threads, "dtype": engine.dtype, "steps": timings[-1].denoise_steps, "chunks": chunks,
    }  # fmt: skip
    return Profile(facts, stages, ceilings, recorder.calls, spans)


@contextmanager
def _one_core(engine: Engine) -> Iterator[None]:
    lanes = engine.models.lanes
    before = engine.threads, lanes.count
    engine.threads = lanes.count = 1
    try:
        yield
    finally:
        engine.threads, lanes.count = before


def measure_ceilings(size: int = 1024, copied: int = 128 << 20) -> Ceilings:
    """On the CPU, with the threads that are set: (size, size) products by torch (int8: by the packed kernel, torch has
    none for weights like ours), and a copy of ``copied`` bytes."""
    import torch

    from . import ops

    a, b = torch.randn(2, size, size)
    work = {"fp32": lambda: a @ b}
    low = (a.bfloat16(), b.bfloat16())
    work["bf16"] = lambda: low[0] @ low[1]
    if ops.kernels_in_use()["native"]:
        packed = ops.PackedLinear(b, storage="int8")
        work["int8"] = lambda: packed(a)
    flops = {kind: 2 * size**3 / _best(call) for kind, call in work.items()}
    source = torch.zeros(copied, dtype=torch.uint8)
    target = torch.empty_like(source)
    return Ceilings(flops, 2 * copied / _best(lambda: target.copy_(source)))


def _best(call: Callable[[], Any], seconds: float = 0.3) -> float:
    """Seconds of the fastest of some calls, at least three."""
    call()
    best, end, done = float("inf"), time.perf_counter() + seconds, 0
    while done < 3 or time.perf_counter() < end:
        begin = time.perf_counter()
        call()
        best, done = min(best, time.perf_counter() - begin), done + 1
    return best


if __name__ == "__main__":
    from .cli import main

    sys.exit(main(["profile", *sys.argv[1:]]))
