"""Train the network that draws blinks and glances into latents.

    python -m tools.train.eyes --codec DIR --out DIR --minutes 20

Drawings come in pairs that differ in what the eyes do: as they are told to, and as a denoiser that is told nothing leaves
them, nearly open, nearly ahead, and now and then one of them half closed. Both are encoded with the codec's encoder; the
network learns the way from one latent to the other. Latents get noise as the denoiser's have.
"""
from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from streamchar_rt.codecs.eyes import EyeNet
from streamchar_rt.codecs.video import FRAMES, MotionCode
from tools.studio.cast import CAST
from tools.studio.character import Identity, Renderer
from tools.studio.pose import REST

from .loop import Loop, add_arguments, load_weights
from .pictures import (EYES, FIRST_TRAIN_IDENTITY, HELD_OUT, busy_eyes, forgotten_eyes, performed_track, random_track,
                       to_float)
from .codec_networks import VideoCodec

POOL = 12_000        # pairs kept to learn from, 70 KB each
HELD = 96            # pairs to judge by
NOISE = 0.15         # most on a local latent, of about 1
CAST_SHARE = 0.2
RANDOM_SHARE = 0.15  # of pairs that are not performed


def pair(seed: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """``told`` and ``plain``: a latent's premultiplied frames, uint8 (FRAMES, H, W, 4), with their ``told_pose`` and
    ``plain_pose`` (FRAMES, P); the ``reference`` (H, W, 4) and the ``moves`` (FRAMES, 3)."""
    track = (random_track if rng.random() < RANDOM_SHARE else performed_track)(rng, FRAMES)
    told, plain = busy_eyes(rng, track), forgotten_eyes(rng, track)
    renderer = Renderer(Identity.from_seed(seed))
    draw = lambda poses: np.stack([renderer.draw(p, premultiplied=True) for p in poses])
    return {"told": draw(told), "plain": draw(plain), "told_pose": told, "plain_pose": plain,
            "reference": renderer.draw(REST, premultiplied=True), "moves": told[:, EYES]}


class Pairs(IterableDataset):
    """Endless random pairs of training identities."""

    def __init__(self, seed: int):
        self.seed = seed

    def __iter__(self):
        info = get_worker_info()
        rng = np.random.default_rng((self.seed, info.id if info else 0, 17))
        while True:
            known = rng.random() < CAST_SHARE
            identity = rng.choice(list(CAST.values())) if known else rng.integers(FIRST_TRAIN_IDENTITY, 2 ** 31)
            yield pair(int(identity), rng)


class Encoder:
    """Pairs to what the network learns from."""

    def __init__(self, codec: VideoCodec, device: torch.device):
        self.codec, self.device = codec.eval().requires_grad_(False).to(device, memory_format=torch.channels_last), device

    @torch.no_grad()
    def __call__(self, batch: dict[str, torch.Tensor]) -> list[torch.Tensor]:
        """``plain`` and ``told`` latents (B, C, h, w), the reference's coarse features, the moves."""
        picture = to_float(batch["reference"]).to(self.device)
        encode = lambda name: self.codec.encoder(
            to_float(batch[name]).to(self.device), batch[name + "_pose"].to(self.device), picture).float()
        return [encode("plain"), encode("told"), self.codec.reference(picture)[-1].float(), batch["moves"].to(self.device)]


def errors(net: EyeNet, plain: torch.Tensor, told: torch.Tensor, reference: torch.Tensor, moves: torch.Tensor,
           noise: torch.Tensor | float = 0.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean square of what is left between the drawn latents and the told ones, and of what there was."""
    drawn = net(plain + noise, reference, moves) - noise
    left, there = (x - told for x in (drawn, plain))
    return left.square().mean(), there.square().mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, minutes=20, lr=2e-3, batch=48)
    parser.add_argument("--codec", type=Path, required=True, help="checkpoint folder of tools.train.video_codec")
    parser.add_argument("--drawn", type=int, default=8, help="new pairs at once")
    parser.add_argument("--every", type=int, default=4, help="steps from new pairs to the next: encoding is what takes time")
    args = parser.parse_args()
    net = EyeNet()
    loop = Loop(net, args, decay=0.998, warmup=60)
    codec = VideoCodec()
    codec.load_state_dict(load_weights(args.codec), strict=False)      # the pose's head is training's alone
    encoder = Encoder(codec, loop.device)
    rng = np.random.default_rng((args.seed, 5))
    held = [pair(HELD_OUT[i], rng) for i in range(HELD)]
    held = encoder({k: torch.from_numpy(np.stack([p[k] for p in held])) for k in held[0]})
    data = iter(DataLoader(Pairs(args.seed + loop.iteration), batch_size=args.drawn, num_workers=1, prefetch_factor=4,
                           multiprocessing_context="spawn"))
    pool: list[list[torch.Tensor]] = []

    def step(iteration: int) -> dict[str, torch.Tensor]:
        if iteration % args.every == 0 or len(pool) < args.batch:
            fresh = encoder(next(data))
            pool.extend([x[i].half() for x in fresh] for i in range(args.drawn))
            del pool[: max(0, len(pool) - POOL)]
        chosen = [pool[int(i)] for i in rng.integers(0, len(pool), args.batch)]
        plain, told, reference, moves = (torch.stack(x).float() for x in zip(*chosen))
        noise = NOISE * torch.rand(len(plain), 1, 1, 1, device=plain.device) * torch.randn_like(plain)
        noise[:, : MotionCode.CHANNELS] *= 0.3
        left, there = errors(net, plain, told, reference, moves, noise)
        return {"loss": left, "share": left / there.detach()}

    def evaluate() -> dict[str, float]:
        left, there = errors(net, *held)
        return {"left": float(left), "share": float(left / there)}

    loop.run(step, evaluate, evaluate_seconds=60)


if __name__ == "__main__":
    main()
