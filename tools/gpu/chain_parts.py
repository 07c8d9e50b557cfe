"""The parts of a chain run, each in a process of its own: what one does to the GPU or to its process ends with it."""
from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .parts import ROOT

LOG = "chain.log"
#: Ways of attention and of the layers around it: to ``kernels``, and whether torch alone does everything.
WAYS = {"native": ("auto", False), "torch": ("reference", True), "mixed": ("reference", False)}
FAILED = 3              # exit status of a part that has added its failure's row
_STACKS = 5             # seconds before a part's end at which a part that hangs says where


@dataclass(frozen=True)
class ChainPart:
    """``case``: of ``chain.CASES``, "agreement" or "engine". The others are of a case that is timed."""

    case: str
    seconds: int                # at most
    way: str = ""
    graphs: bool = True
    tune: bool = False

    @property
    def name(self) -> str:
        return "/".join([self.case, *filter(None, [self.way]), *(["plain"] if not self.graphs else []),
                         *(["tuned"] if self.tune else [])])


def parse(name: str, seconds: int) -> ChainPart:
    """The part of that name."""
    case, *rest = name.split("/")
    way = next((word for word in rest if word in WAYS), "")
    return ChainPart(case, seconds, way, "plain" not in rest, "tuned" in rest)


def chosen(cases: Sequence[str], gpu: bool) -> list[ChainPart]:
    """In running order: what tells most first, and a case's other ways where it has been timed already."""
    parts = [ChainPart("agreement", 150)] if "mini" in cases else []
    for case in cases:
        parts += [ChainPart(case, 110, way) for way in (("native", "torch") if gpu else ("torch",))]
        if case == "mini" and gpu:
            parts.append(ChainPart("engine", 90))
    for case in cases:
        if case.startswith("full") and gpu:
            parts += [ChainPart(case, 110, "mixed"), ChainPart(case, 150, "native", tune=True)]
    # A second look at one size is enough, and the first size is the smallest.
    second = [part for part in parts if part.way == "mixed" or part.tune]
    return [part for part in parts if part not in second] + second[:2]


def command(part: ChainPart, out: Path, device: str, chunks: int) -> list[str]:
    return [sys.executable, "-X", "faulthandler", "-m", "tools.gpu.chain", "--out", str(out), "--device", device,
            "--chunks", str(chunks), "--part", part.name, "--seconds", str(part.seconds)]


def run_all(parts: Sequence[ChainPart], out: Path, device: str, chunks: int, end: float,
            absent: Callable[[ChainPart, str], None]) -> None:
    """Runs parts while there is time; one that fails with graphs is tried with plain calls. ``absent`` is told of
    those that could not say themselves why they gave no row."""
    waiting = list(parts)
    while waiting:
        part = waiting.pop(0)
        left = end - time.monotonic()
        if left < 5:
            absent(part, "no time left")
            continue
        part = replace(part, seconds=min(part.seconds, int(left)))
        status, why = run(part, out, device, chunks)
        if status != FAILED and why:
            absent(part, why)
        if why and part.way and part.graphs and not part.tune:
            waiting.insert(0, replace(part, graphs=False, seconds=110))


def run(part: ChainPart, out: Path, device: str, chunks: int) -> tuple[int | None, str]:
    """A part's exit status, None where it was ended, and why it failed, if it did. What it says goes to the log."""
    out.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(ROOT / "python"), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    if part.way and WAYS[part.way][1]:
        environment["STREAMCHAR_KERNELS"] = "reference"
    log, begin = out / LOG, time.monotonic()
    with log.open("a") as file:
        file.write(f"== {part.name}\n")
        file.flush()
        start = file.tell()
        process = subprocess.Popen(command(part, out, device, chunks), cwd=ROOT, env=environment,
                                   stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT)
        try:
            status: int | None = process.wait(part.seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            status = None
    said = log.read_bytes()[start:].decode(errors="replace")
    print(f"== {part.name}: {time.monotonic() - begin:.1f} s, "
          f"{'ended' if status is None else f'exit {status}'}", flush=True)
    print("\n".join(said.splitlines()[-6 if status == 0 else -40:]), flush=True)
    return status, "" if status == 0 else _reason(status, part.seconds, said)


def _reason(status: int | None, seconds: int, said: str) -> str:
    ended = f"more than {seconds} s" if status is None else (
        f"signal {signal.Signals(-status).name}" if status < 0 else f"exit {status}")
    return f"{ended}: " + said[-3000:]


def stacks_before_the_end(seconds: float) -> None:
    """Where every thread is, into the log, if the part is still at it shortly before its end."""
    import faulthandler

    faulthandler.dump_traceback_later(max(1.0, seconds - _STACKS), exit=False)
