"""A short run of each of the denoiser's trainings on made-up data: does it run here, how fast, with how much memory?

    python -m tools.train.smoke                                  # all of them, one after the other
    python -m tools.train.smoke --parts denoiser --seconds 10 --scene-batch 256 --draws 3

The data and the first weights are random, so the losses say nothing; shapes and sizes are the shipped model's. Each part
runs in a process of its own; compiling comes before its seconds begin.
"""
from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from streamchar_rt.orchestrator.model import Orchestrator
from streamchar_rt.orchestrator.units import END, FIRST_PHONE, NUM_UNITS

from .denoiser import Denoiser
from .scenes import CHUNK_FRAMES, SCENE_CHUNKS
from .streams import CHUNK, HEAD, TAIL, Streams

PARTS = ("denoiser", "guided", "distill", "rollout")
UNITS_AHEAD = 20     # of the transcript, visible before they are spoken


def random_streams(rng: np.random.Generator, streams: int, chunks: int) -> Streams:
    """``streams`` of ``chunks`` each, whose mel is noise and whose transcript is phones of random length."""
    parts: dict[str, list[np.ndarray]] = {k: [] for k in ("mel", "place", "elapsed", "fraction", "unit", "chunks")}
    frames = units = 0
    for number in range(streams):
        length = HEAD + chunks * CHUNK + TAIL
        lengths = np.concatenate([[HEAD], rng.integers(2, 9, length // 3)])
        starts = np.cumsum(lengths) - lengths
        unit = np.concatenate([[END], rng.integers(FIRST_PHONE, NUM_UNITS, len(lengths) - 1)])
        place = np.searchsorted(starts, np.arange(length), side="right") - 1
        begins = HEAD + CHUNK * np.arange(chunks)
        last = np.minimum(place[begins] + UNITS_AHEAD, len(unit) - 1)
        own = np.stack([frames + begins, np.full(chunks, number % 4), np.full(chunks, units), units + last,
                        np.full(chunks, number), np.arange(chunks)], 1)
        elapsed = np.arange(length) - starts[place]
        for name, value in (("mel", rng.standard_normal((length, 80)).astype(np.float16)),
                            ("place", (place + units).astype(np.int32)), ("elapsed", np.minimum(elapsed, 255).astype(np.uint8)),
                            ("fraction", np.zeros(length, np.float16)), ("unit", unit.astype(np.uint8)), ("chunks", own)):
            parts[name].append(value)
        frames, units = frames + length, units + len(unit)
    arrays = {k: np.concatenate(v) for k, v in parts.items()}
    none = np.zeros(units, np.uint8)
    return Streams(stress=none, word_start=none, **arrays)


def save_random_scenes(streams: Streams, folder: Path, rng: np.random.Generator) -> None:
    """One shard with every chunk of the streams."""
    config, rows = Denoiser().dit.config, streams.chunks
    count, side = len(rows), config.layout.grid * config.patch
    noise = lambda *shape: rng.standard_normal(shape, np.float32).astype(np.float16)
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "scene_00000.npz", rows=rows, scene=rows[:, 4] * 1000 + rows[:, 5] // SCENE_CHUNKS,
             video=noise(count, CHUNK_FRAMES // config.layout.temporal, config.latent_channels, side, side),
             reference=noise(count, 1, config.reference_channels, side, side),
             emotion=rng.integers(0, config.emotions, count), mode=rng.integers(0, config.modes, count))


def save_random_weights(net: torch.nn.Module, folder: Path) -> None:
    """A training's result; layers that begin as zeros are made to matter."""
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.02)
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({"model": net.state_dict(), "ema": net.state_dict()}, folder / "checkpoint.pt")


def make(folder: Path, streams: int, chunks: int) -> None:
    rng = np.random.default_rng(0)
    data = random_streams(rng, streams, chunks)
    data.save(folder / "streams")
    save_random_scenes(data, folder / "scenes", rng)
    save_random_weights(Denoiser(), folder / "teacher")
    save_random_weights(Orchestrator(), folder / "orchestrator")


def command(part: str, args: argparse.Namespace, folder: Path) -> list[str]:
    given = {"streams": folder / "streams", "scenes": folder / "scenes", "out": folder / part,
             "minutes": args.seconds / 60, "scene-batch": args.scene_batch, "batch": args.batch, "device": args.device}
    given["init" if part == "denoiser" else "teacher"] = folder / "teacher"
    if part in ("denoiser", "guided"):
        given["draws"] = args.draws
    else:
        given["critic-ratio"] = args.critic_ratio
    if part == "rollout":
        given["orchestrator"] = folder / "orchestrator"
    options = [text for name, value in given.items() for text in (f"--{name}", str(value))]
    flags = [f"--{name}" if getattr(args, name) else f"--no-{name}" for name in ("compile", "graphs")]
    return [sys.executable, "-m", f"tools.train.{part}", *options, *flags]


def report(part: str, folder: Path, code: int, seconds: float) -> str:
    if code:
        return f"{part}: FAILED ({code})"
    last = json.loads((folder / part / "history.jsonl").read_text().splitlines()[-1])
    finite = all(np.isfinite(v) for v in last.values())
    rate = last["iteration"] / (60 * last["minutes"])
    return (f"{part}: {last['iteration']} updates, {rate:.2f} a second; {seconds:.0f} s with imports and compiling"
            + ("" if finite else "; NOT FINITE"))


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seconds", type=float, default=6.0, help="of training of each part")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--scene-batch", type=int, default=128)
    parser.add_argument("--batch", type=int, default=512)
    parser.add_argument("--draws", type=int, default=4)
    parser.add_argument("--critic-ratio", type=int, default=3)
    parser.add_argument("--streams", type=int, default=120)
    parser.add_argument("--chunks", type=int, default=12, help="of a stream")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--graphs", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--together", action="store_true",
                        help="all parts at once: compiling takes most of the time, and the rates are then lower bounds")
    args = parser.parse_args(arguments)
    lines: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(folder, args.streams, args.chunks)
        began, running = time.monotonic(), {}
        for part in args.parts:
            began = began if args.together else time.monotonic()
            running[part] = subprocess.Popen(command(part, args, folder))
            if not args.together:
                running[part].wait()
                lines[part] = report(part, folder, running[part].returncode, time.monotonic() - began)
        for part, process in running.items():
            code = process.wait()
            lines.setdefault(part, report(part, folder, code, time.monotonic() - began))
    print("\n".join(["", *lines.values()]), flush=True)
    if any(process.returncode for process in running.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
