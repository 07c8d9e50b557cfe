"""Train the network that paints closed lids over a reference picture.

    python -m tools.train.lids --out DIR --minutes 30

The studio draws training characters at rest, with their eyes open and with lids down by some share; the network paints
one from the other. Pictures are moved, resized, mirrored and recoloured, so that it finds eyes by their look.
"""
from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from streamchar_rt.codecs.lids import LidConfig, LidNet
from tools.studio.character import Identity, Renderer
from tools.studio.pose import COLUMN, REST

from .loop import Loop, add_arguments
from .pictures import FIRST_TRAIN_IDENTITY, HELD_OUT, to_float

LEVELS = 3           # drawings of a character with lids down, one of them closed
POOL = 6000          # characters kept to learn from, 400 KB each
HELD = 48            # characters to judge by
MARGIN = 8           # pixels about the part that a network sees, for moving it
LEAST = 0.3          # a lid's way down


def drawings(identity: int, levels: np.ndarray, config: LidConfig = LidConfig()) -> np.ndarray:
    """The part about the eyes of a character at rest with lids down by ``levels``, uint8 (len(levels), h, w, 4)
    premultiplied, with a margin."""
    renderer, poses = Renderer(Identity.from_seed(identity)), []
    for level in levels:
        poses.append(np.array(REST, np.float32))
        poses[-1][[COLUMN["blink_l"], COLUMN["blink_r"]]] = level
    rows = slice(config.top - MARGIN, config.top + config.height + MARGIN)
    columns = slice(config.left - MARGIN, config.left + config.width + MARGIN)
    return np.stack([renderer.draw(pose, premultiplied=True)[rows, columns] for pose in poses])


def random_levels(rng: np.random.Generator) -> np.ndarray:
    """Open, closed, and between; float32 (1 + LEVELS,)."""
    return np.array([0, 1, *rng.uniform(LEAST, 1, LEVELS - 1)], np.float32)


class Characters(IterableDataset):
    """Endless random training characters: drawings and their levels."""

    def __init__(self, seed: int):
        self.seed = seed

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        info = get_worker_info()
        rng = np.random.default_rng((self.seed, info.id if info else 0, 29))
        while True:
            levels = random_levels(rng)
            yield drawings(int(rng.integers(FIRST_TRAIN_IDENTITY, 2 ** 31)), levels), levels


def varied(open_eyes: torch.Tensor, lids_down: torch.Tensor, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Pairs (B, 4, h + 2 m, w + 2 m) each moved, resized, mirrored and recoloured alike, to (B, 4, h, w)."""
    batch, _, height, width = open_eyes.shape
    uniform = lambda low, high: low + (high - low) * torch.rand(batch, generator=generator)
    side = torch.where(torch.rand(batch, generator=generator) < 0.5, -1.0, 1.0)
    scale, zero = uniform(0.9, 1.08), torch.zeros(batch)
    inner = (width - 2 * MARGIN) / width, (height - 2 * MARGIN) / height
    move = lambda size: 2 * uniform(-MARGIN, MARGIN) / size
    theta = torch.stack([torch.stack([side * scale * inner[0], zero, move(width)], 1),
                         torch.stack([zero, scale * inner[1], move(height)], 1)], 1)
    grid = F.affine_grid(theta, [batch, 1, height - 2 * MARGIN, width - 2 * MARGIN], align_corners=False)
    order = torch.stack([torch.randperm(3, generator=generator) if mixed else torch.arange(3)
                         for mixed in torch.rand(batch, generator=generator) < 0.4])
    order = torch.cat([order, torch.full((batch, 1), 3)], 1)[:, :, None, None]
    gain = torch.cat([0.75 + 0.25 * torch.rand(batch, 3, generator=generator), torch.ones(batch, 1)], 1)[:, :, None, None]
    change = lambda x: F.grid_sample(x, grid, padding_mode="border", align_corners=False).gather(
        1, order.expand(-1, -1, height - 2 * MARGIN, width - 2 * MARGIN)) * gain
    return change(open_eyes), change(lids_down)


def error(painted: torch.Tensor, truth: torch.Tensor, open_eyes: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of the pixels and of their slopes, four times as much where lids make a difference."""
    weight = 1 + 3 * ((truth - open_eyes).abs().amax(1, keepdim=True) > 0.02)
    difference = painted - truth
    slopes = sum((difference.diff(dim=axis).abs() * weight.narrow(axis, 1, weight.shape[axis] - 1)).mean() for axis in (2, 3))
    return (difference.abs() * weight).mean() + slopes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, minutes=30, lr=3e-3, batch=16)
    parser.add_argument("--drawn", type=int, default=8, help="new characters at once")
    parser.add_argument("--every", type=int, default=2, help="steps from new characters to the next")
    args = parser.parse_args()
    net = LidNet().to(memory_format=torch.channels_last)
    loop = Loop(net, args, decay=0.998, warmup=60)
    rng = np.random.default_rng((args.seed, loop.iteration, 6))
    generator = torch.Generator().manual_seed(args.seed + loop.iteration)
    judged = np.array([0, *net.config.levels], np.float32)
    held = to_float(torch.from_numpy(np.stack([drawings(HELD_OUT[i], judged) for i in range(HELD)])))
    held = held[..., MARGIN:-MARGIN, MARGIN:-MARGIN]                                            # (HELD, 1 + L, 4, h, w)
    data = iter(DataLoader(Characters(args.seed + loop.iteration), batch_size=args.drawn, num_workers=1, prefetch_factor=4,
                           multiprocessing_context="spawn"))
    pool: list[tuple[torch.Tensor, torch.Tensor]] = []

    def step(iteration: int) -> dict[str, torch.Tensor]:
        if iteration % args.every == 0 or len(pool) < args.batch:
            pool.extend(zip(*next(data)))
            del pool[: max(0, len(pool) - POOL)]
        chosen = [pool[int(i)] for i in rng.integers(0, len(pool), args.batch)]
        which = rng.integers(1, 1 + LEVELS, args.batch)
        open_eyes = to_float(torch.stack([pictures[0] for pictures, _ in chosen]))
        lids_down = to_float(torch.stack([pictures[i] for (pictures, _), i in zip(chosen, which)]))
        level = torch.stack([levels[i] for (_, levels), i in zip(chosen, which)])
        changed = varied(open_eyes, lids_down, generator)
        open_eyes, lids_down = (x.to(loop.device, memory_format=torch.channels_last) for x in changed)
        return {"loss": error(net.paint(open_eyes, level.to(loop.device)), lids_down, open_eyes)}

    def evaluate() -> dict[str, float]:
        open_eyes, truth = held[:, 0].to(loop.device), held[:, 1:].to(loop.device)
        changed = ((truth - open_eyes[:, None]).abs().amax(2, keepdim=True) > 0.02).expand_as(truth)
        painted = torch.stack([net.paint(open_eyes, torch.full((HELD,), level, device=loop.device))
                               for level in net.config.levels], 1)
        share = (painted - truth).abs()[changed].mean() / (open_eyes[:, None] - truth).abs()[changed].mean()
        save_sheet(args.out / "lids.png", open_eyes[:6], painted[:6], truth[:6])
        return {"error": float(error(painted[:, -1], truth[:, -1], open_eyes)), "share": float(share)}

    loop.run(step, evaluate, evaluate_seconds=60)


def save_sheet(path: Path, open_eyes: torch.Tensor, painted: torch.Tensor, truth: torch.Tensor) -> None:
    """A row a character: open eyes, then each level painted, and drawn below."""
    from PIL import Image

    over = lambda x: x[:3] + (1 - x[3:]) * 0.75
    rows = [torch.cat([over(x) for x in (first, *levels)], 2) for one in zip(open_eyes, painted, truth)
            for first, levels in ((one[0], one[1]), (one[0], one[2]))]
    Image.fromarray((torch.cat(rows, 1).clamp(0, 1) * 255 + 0.5).byte().movedim(0, -1).cpu().numpy()).save(path)


if __name__ == "__main__":
    main()
