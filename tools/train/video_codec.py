"""Train the RGBA video codec on drawings of studio characters.

    python -m tools.train.video_codec --out DIR --minutes 45
    python -m tools.train.video_codec --out DIR2 --init DIR --freeze-encoder --minutes 30   # decoder only
    python -m tools.train.video_codec --clips CLIPS --out DIR --minutes 5 --batch 48        # from clips drawn ahead, on a GPU

The studio says how every part of the drawing moved, which teaches the flow many times faster than pixels do.
Eyes and mouth weigh more (the studio says where they are). Latents get noise, so that the decoder forgives
the denoiser's errors, and a small penalty, so that they stay small. A linear reading of the pose from the latents
makes them carry movement from the start, when warping the reference alone explains most pixels.
"""
from __future__ import annotations

import argparse
import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from streamchar_rt.codecs.video import FRAMES

from tools.studio.pose import COLUMN

from .clips import ClipStore
from .codec_networks import VideoCodec
from .loop import Loop, add_arguments
from .pictures import (BLINK, EYES_WEIGHT, HELD_OUT, MOUTH_WEIGHT, clip, displaced, loader, performed_track, random_track,
                       to_float)

LATENTS = 2          # a training clip


@torch.compile(dynamic=False)
def losses(y: torch.Tensor, warped: torch.Tensor, x: torch.Tensor, weight: torch.Tensor,
           picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Weighted L1 and squared error on pixels, L1 on their differences; L1 on the warped reference; squared error of the
    change from frame to frame, which unlike L1 does not prefer stillness to movement that comes a little late.

    Pictures (B, T, 4, H, W), weight (B, T, 1, H, W), reference (B, 4, H, W). What is empty counts less, but not where
    the reference has something: there it must be erased. Compiled, because at full resolution the loss would otherwise
    cost more than the convolutions.
    """
    weight = weight * (0.4 + 1.6 * ((x[:, :, 3:] > 0.02) | (picture[:, None, 3:] > 0.02)))
    error = y - x
    pixel = ((error.abs() + 4 * error.square()) * weight).mean()
    pixel = pixel + 1.5 * ((error[..., 1:] - error[..., :-1]).abs() * weight[..., 1:]).mean()
    pixel = pixel + 1.5 * ((error[..., 1:, :] - error[..., :-1, :]).abs() * weight[..., 1:, :]).mean()
    change = ((error[:, 1:] - error[:, :-1]).square() * weight[:, 1:]).mean()
    return pixel, ((warped - x).abs() * weight).mean(), change


def psnr(y: torch.Tensor, x: torch.Tensor) -> float:
    """Peak signal-to-noise ratio over the character's pixels (alpha > 0.5), premultiplied colour, in dB."""
    inside = (x[..., 3:, :, :] > 0.5).float()
    error = ((y.clamp(0, 1) - x)[..., :3, :, :] ** 2 * inside).sum() / (inside.sum() * 3)
    return -10 * math.log10(float(error))


def alpha_iou(y: torch.Tensor, x: torch.Tensor) -> float:
    a, b = y[..., 3, :, :] > 0.5, x[..., 3, :, :] > 0.5
    return float((a & b).sum() / (a | b).sum())


def attention(weight: torch.Tensor, poses: torch.Tensor, face: float, active: float) -> torch.Tensor:
    """Loss weights (B, T, 1, H, W) from ``pictures.attention_map``'s (B, T, H, W) and the poses (B, T, P): the ``face``'s
    eyes and mouth count so many times more, and the more they are closed or open, the more again, by up to ``active``
    times: most frames have open eyes, and a decoder learns those."""
    closed = poses[..., BLINK].amax(-1)[..., None, None]
    opened = poses[..., COLUMN["mouth_open"]][..., None, None]
    weight = torch.where(weight == EYES_WEIGHT, face * weight * (1 + active * closed), weight)
    return torch.where(weight == MOUTH_WEIGHT, face * weight * (1 + active * opened), weight)[:, :, None]


def held_out_clips(count: int, frames: int = LATENTS * FRAMES, seed: int = 1) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(seed)
    tracks = [(random_track, performed_track)[i % 2](rng, frames) for i in range(count)]
    clips = [clip(HELD_OUT[i], track, displaced(rng, track)) for i, track in enumerate(tracks)]
    names = ("frames", "reference", "pose", "seen_frames", "seen_pose")
    return {k: torch.from_numpy(np.stack([c[k] for c in clips])) for k in names}


def save_samples(y: torch.Tensor, x: torch.Tensor, path) -> None:
    """Truth above, decoded below, over grey."""
    from PIL import Image
    rows = []
    for frames in (x, y):
        f = frames[:8, 5].clamp(0, 1)
        rows.append(torch.cat(list(f[:, :3] + (1 - f[:, 3:]) * 0.75), 2))
    Image.fromarray((torch.cat(rows, 1).movedim(0, -1) * 255).byte().numpy()).save(path)


def batches_of(args: argparse.Namespace, loop: Loop) -> Iterator[dict[str, torch.Tensor]]:
    """Endless batches of clips, drawn ahead or on the fly."""
    if args.clips:
        store = ClipStore(args.clips, loop.device)
        print(f"{len(store)} clips", flush=True)
        return (store.batch(args.batch, args.displaced > 0) for _ in itertools.count())
    return iter(loader(LATENTS * FRAMES, args.batch, args.seed + loop.iteration, args.performed, args.displaced, args.eyes))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, minutes=45, lr=1e-3, batch=4)
    parser.add_argument("--freeze-encoder", action="store_true", help="train the reference encoder and decoder only")
    parser.add_argument("--decoder-only", action="store_true",
                        help="leave the reference encoder as it is, too: for a denoiser that has learnt its features")
    parser.add_argument("--eyes", type=float, default=0.0, help="share of clips in which they blink and look about more")
    parser.add_argument("--face-weight", type=float, default=1.0, help="how many times more eyes and mouth count")
    parser.add_argument("--active-weight", type=float, default=0.0,
                        help="how many times more again closed eyes and an open mouth count")
    parser.add_argument("--performed", type=float, default=0.4, help="share of clips from performances, not random poses")
    parser.add_argument("--pose", type=float, default=0.5, help="weight of reading the pose from the latents")
    parser.add_argument("--flow", type=float, default=0.2, help="weight of the flow's mean error in pixels")
    parser.add_argument("--noise", type=float, default=0.2, help="most noise on a clip's latents")
    parser.add_argument("--displaced", type=float, default=0.0,
                        help="share of clips whose motion code moves otherwise than what the encoder sees, so that the "
                             "decoder takes movement from the code alone; for a frozen encoder")
    parser.add_argument("--change", type=float, default=0.0, help="weight of the change from frame to frame")
    parser.add_argument("--clips", type=Path, help="folder of tools.train.clips to draw batches from")
    args = parser.parse_args()
    codec = VideoCodec().to(memory_format=torch.channels_last)
    codec.encoder.requires_grad_(not (args.freeze_encoder or args.decoder_only))
    codec.reference.requires_grad_(not args.decoder_only)
    loop = Loop(codec, args, betas=(0.9, 0.95), decay=0.998, warmup=60)
    batches = batches_of(args, loop)
    if loop.device.type == "cuda":
        torch._dynamo.config.suppress_errors = True          # what cannot be compiled runs as it is
        codec.forward = torch.compile(codec.forward, dynamic=False)
    test = held_out_clips(12)

    def step(_: int) -> dict[str, torch.Tensor]:
        batch = next(batches)
        x, picture = to_float(batch["frames"]).to(loop.device), to_float(batch["reference"]).to(loop.device)
        poses = batch["pose"].to(loop.device)
        weight = attention(batch["weight"].float().to(loop.device), poses, args.face_weight, args.active_weight)
        seen, seen_poses = to_float(batch["seen_frames"]).to(loop.device), batch["seen_pose"].to(loop.device)
        with loop.autocast():
            y, warped, flow, z = codec(seen, seen_poses, picture, args.noise, moved=poses)
            read = codec.read_pose(z)
        pixel, warp, change = losses(y, warped, x, weight, picture)
        pose_loss = (read - poses).square().mean()
        size = z.square().mean()
        known = batch["known"].to(loop.device)[:, :, None].float()
        pixels = ((flow - batch["flow"].to(loop.device).float()).abs() * known).sum() / (2 * known.sum() + 1)
        return {"loss": pixel + args.change * change + 0.4 * warp + args.pose * pose_loss + args.flow * pixels + 1e-3 * size,
                "pixel": pixel, "change": change, "warp": warp, "flow": pixels, "pose": pose_loss, "z2": size}

    def evaluate() -> dict[str, float]:
        x, picture = to_float(test["frames"]).to(loop.device), to_float(test["reference"]).to(loop.device)
        with loop.autocast():
            y = codec(x, test["pose"].to(loop.device), picture)[0].float()
            seen = to_float(test["seen_frames"]).to(loop.device), test["seen_pose"].to(loop.device)
            moved = codec(*seen, picture, moved=test["pose"].to(loop.device))[0].float()
        save_samples(y.cpu(), x.cpu(), args.out / "samples.png")
        save_samples(moved.cpu(), x.cpu(), args.out / "displaced.png")
        return {"psnr": psnr(y, x), "alpha_iou": alpha_iou(y, x), "psnr_displaced": psnr(moved, x)}

    loop.run(step, evaluate, evaluate_seconds=180)


if __name__ == "__main__":
    main()
