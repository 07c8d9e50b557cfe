"""Clips drawn ahead, for a machine that trains faster than it draws.

    python -m tools.train.clips --out DIR --count 12000 --minutes 4 --workers 14
    python -m tools.train.video_codec --clips DIR --out DIR2 --minutes 5

What ``pictures.Clips`` draws, in shards; a run that was stopped goes on. A training keeps all of it on its device (3 MB
a clip) and draws its batches from there.
"""
from __future__ import annotations

import argparse
import multiprocessing
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch

from .pictures import Clips

FRAMES_A_CLIP = 8
SHARD = 25                       # clips
NAMES = "clips_??_?????.pt"
_WEIGHT_STEPS = 2.0              # weights are stored as bytes, in halves


class ClipStore:
    """All shards on one device; batches are chosen there."""

    def __init__(self, folder: Path, device: torch.device | str):
        paths = sorted(Path(folder).glob(NAMES))
        if not paths:
            raise FileNotFoundError(f"no clips in {folder}; draw some with python -m tools.train.clips")
        shards = [torch.load(path, mmap=True, weights_only=True) for path in paths]
        self.device, self.arrays = torch.device(device), {}
        seen = 0
        for shard in shards:
            shard["seen_at"] = torch.where(shard["seen_at"] < 0, -1, shard["seen_at"] + seen)
            seen += len(shard["seen_frames"])
        with ThreadPoolExecutor(8) as pool:                  # into their places: there is no room for two copies
            for name, first in shards[0].items():
                ends = np.cumsum([len(shard[name]) for shard in shards])
                whole = torch.empty(int(ends[-1]), *first.shape[1:], dtype=first.dtype, device=device)
                list(pool.map(lambda place, shard: whole[place - len(shard[name]): place].copy_(shard[name]), ends, shards))
                self.arrays[name] = whole

    def __len__(self) -> int:
        return len(self.arrays["pose"])

    def batch(self, count: int, displaced: bool = False) -> dict[str, torch.Tensor]:
        """Random clips as ``pictures.clip`` describes them, batch first. ``displaced``: those whose encoder sees another
        movement are among them; else all see what they show."""
        a = self.arrays
        at = torch.randint(len(self), (count,), device=self.device)
        batch = {name: a[name][at] for name in ("frames", "reference", "pose", "flow", "known")}
        batch["weight"] = a["weight"][at].float() / _WEIGHT_STEPS
        batch["seen_frames"], batch["seen_pose"] = batch["frames"], batch["pose"]
        if displaced and len(a["seen_frames"]):
            seen = a["seen_at"][at]
            other = (seen >= 0)[:, None, None]
            batch["seen_pose"] = torch.where(other, a["seen_pose"][seen.clamp(min=0)], batch["pose"])
            batch["seen_frames"] = torch.where(other[..., None, None], a["seen_frames"][seen.clamp(min=0)], batch["frames"])
        return batch


def shard_of(clips: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """Arrays of a shard: what all clips have, and ``seen_frames`` of those that have others, which ``seen_at`` counts."""
    stack = lambda name, some: np.stack([c[name] for c in some]) if some else \
        np.empty((0, *clips[0][name.removeprefix("seen_")].shape), clips[0][name.removeprefix("seen_")].dtype)
    others = [c for c in clips if c["seen_pose"] is not c["pose"]]
    shard = {name: stack(name, clips) for name in ("frames", "reference", "pose", "flow", "known")}
    shard["weight"] = np.round(_WEIGHT_STEPS * np.stack([c["weight"] for c in clips]).astype(np.float32)).astype(np.uint8)
    shard |= {name: stack(name, others) for name in ("seen_frames", "seen_pose")}
    place = {id(c): i for i, c in enumerate(others)}
    shard["seen_at"] = np.asarray([place.get(id(c), -1) for c in clips], np.int64)
    return shard


def draw(worker: int, args: argparse.Namespace, until: float, shards: int) -> None:
    """One worker's shards, numbered from 0; each depends on its number alone."""
    torch.set_num_threads(1)
    for number in range(shards):
        path = args.out / f"clips_{worker:02d}_{number:05d}.pt"
        if path.exists():
            continue
        if time.time() > until:
            return
        clips = iter(Clips(FRAMES_A_CLIP, args.seed + 1000 * worker + 100_000 * number, args.performed, args.displaced,
                           args.eyes, args.cast))
        part = path.with_suffix(".part")
        shard = shard_of([next(clips) for _ in range(SHARD)])
        torch.save({name: torch.from_numpy(value) for name, value in shard.items()}, part)
        part.rename(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2000, help="clips in all")
    parser.add_argument("--minutes", type=float, default=10.0, help="at most")
    parser.add_argument("--workers", type=int, default=1, help="processes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--performed", type=float, default=0.7, help="share of clips from performances, not random poses")
    parser.add_argument("--displaced", type=float, default=0.5, help="share of clips with another movement to be seen, too")
    parser.add_argument("--eyes", type=float, default=0.4, help="share of clips in which they blink and look about more")
    parser.add_argument("--cast", type=float, default=0.1, help="share of clips of the shipped characters")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    began = time.time()
    until = began + 60 * args.minutes
    shards = -(-args.count // (SHARD * args.workers))
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=draw, args=(i, args, until, shards)) for i in range(args.workers)]
    for worker in workers:
        worker.start()
    while any(w.is_alive() for w in workers):
        for worker in workers:
            worker.join(10 / len(workers))
        done = SHARD * len(list(args.out.glob(NAMES)))
        spent = time.time() - began
        left = min(until - time.time(), spent * (shards * SHARD * args.workers - done) / max(1, done))
        print(f"{done} clips, {done / spent:.0f} a second, {max(0.0, left):.0f} s left", flush=True)
    if failed := [w.exitcode for w in workers if w.exitcode]:
        raise SystemExit(f"{len(failed)} workers failed")


if __name__ == "__main__":
    main()
