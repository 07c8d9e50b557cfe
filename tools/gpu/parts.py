"""The parts of a GPU run: what each does, its command, and how long it may take."""
from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Part:
    name: str
    does: str
    seconds: int                              # at most
    command: Callable[[Path, Path], list[str]]   # from the folders of results and of the build
    needs_gpu: bool = True


def _module(name: str, seconds: int | None = None) -> Callable[[Path, Path], list[str]]:
    """``seconds``: what the module is to get along with; None: it takes no such option."""
    own = [] if seconds is None else ["--seconds", str(seconds)]
    return lambda out, build: [sys.executable, "-m", f"tools.gpu.{name}", "--out", str(out), *own]


def _build(out: Path, build: Path) -> list[str]:
    return [sys.executable, "-m", "tools.gpu.build", "--out", str(out), "--build", str(build)]


#: In running order. The limits add up to ten minutes at most.
PARTS: tuple[Part, ...] = (
    Part("build", "compile the native module with CUDA, check its machine code", 150, _build, needs_gpu=False),
    Part("correct", "tests of every op against float64", 60, _module("correct", 55)),
    Part("sanitize", "the ops on small shapes under compute-sanitizer", 45, _module("sanitize", 40)),
    Part("ceilings", "the machine's copy bandwidth and matrix rate", 20, _module("ceilings")),
    Part("bench", "every op against torch's ways to do the same", 90, _module("bench", 85)),
    Part("chain", "whole chunks of mini and full as CUDA graphs; what the engine does on cuda", 230, _module("chain", 215)),
)


def chosen(names: str | None) -> list[Part]:
    """Parts by comma-separated names, in running order; None is all.

    Raises:
        ValueError: for an unknown name.
    """
    if names is None:
        return list(PARTS)
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    unknown = wanted - {part.name for part in PARTS}
    if unknown or not wanted:
        raise ValueError(f"unknown parts {sorted(unknown)}; choose from {','.join(p.name for p in PARTS)}")
    return [part for part in PARTS if part.name in wanted]
