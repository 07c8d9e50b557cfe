"""An independent judge: reads how far a mouth is open from a picture.

    python -m tools.evaluate.mouth_reader --out tools/evaluate/mouth_reader.safetensors --minutes 3

A tiny convolutional network on a fixed square of the lower face that holds the mouth in every head pose. It is
trained on studio drawings only, never on what a model has generated, and prints how well it reads identities
that it has not seen. ``load_reader().read(frames)`` is the judge in use.
"""
from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

PATH = Path(__file__).with_name("mouth_reader.safetensors")
LEFT, TOP, SIDE = 80, 120, 96      # px of the 256 px picture; holds Renderer.boxes()["mouth"] of any pose
INPUT = SIDE // 2                  # the network sees it at half size
GREY = 0.5                         # what shows through transparent pixels
_MARGIN = 2                        # px at half size that training crops may shift by


class MouthReader(nn.Module):
    """(N, 3, 48, 48) in [0, 1] to the opening (N,), about 0..1."""

    def __init__(self) -> None:
        super().__init__()
        layer = lambda i, o, k: (nn.Conv2d(i, o, k, 2, k // 2, bias=False), nn.BatchNorm2d(o), nn.ReLU())
        self.net = nn.Sequential(*layer(3, 16, 5), *layer(16, 32, 3), *layer(32, 48, 3), nn.Flatten(),
                                 nn.Linear(48 * (INPUT // 8) ** 2, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        return self.net(crops * 2 - 1)[:, 0]

    @torch.inference_mode()
    def read(self, frames: np.ndarray, *, premultiplied: bool = False) -> np.ndarray:
        """Opening of each frame, float32 (T,) in [0, 1]; ``frames`` uint8 (T, 256, 256, 4)."""
        self.eval()
        crops = lower_face(frames, premultiplied=premultiplied)
        return torch.cat([self(part) for part in crops.split(64)]).clamp(0, 1).numpy()


def over_grey(pixels: np.ndarray, premultiplied: bool) -> torch.Tensor:
    """uint8 (T, H, W, 4) to float32 (T, 3, H, W) in [0, 1] over mid grey."""
    x = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255
    colour, alpha = x[:, :3], x[:, 3:]
    return (colour if premultiplied else colour * alpha) + (1 - alpha) * GREY


def lower_face(frames: np.ndarray, *, premultiplied: bool = False) -> torch.Tensor:
    """What the reader looks at: float32 (T, 3, 48, 48). Raises ValueError for pictures that are not 256 px RGBA."""
    if frames.ndim != 4 or frames.shape[1:] != (256, 256, 4):
        raise ValueError(f"frames must be (T, 256, 256, 4), not {frames.shape}")
    cut = frames[:, TOP: TOP + SIDE, LEFT: LEFT + SIDE]
    return F.avg_pool2d(over_grey(cut, premultiplied), 2)


def load_reader(path: Path = PATH) -> MouthReader:
    """The trained judge, in evaluation mode. Raises FileNotFoundError where it has not been trained."""
    from safetensors.torch import load_file

    reader = MouthReader()
    reader.load_state_dict({k: v.float() for k, v in load_file(path).items()}, strict=False)
    return reader.eval()


def save_reader(reader: MouthReader, path: Path) -> None:
    """In float16, as small as it is."""
    from safetensors.torch import save

    tensors = {k: v.half().contiguous() for k, v in reader.state_dict().items() if v.is_floating_point()}
    path.write_bytes(save(tensors))


# ------------------------------------------------------------------ training
def random_segments(rng: np.random.Generator, seconds: float) -> list[tuple[str, float, float, int]]:
    """Random phones of plausible lengths with pauses between, for the studio's ``perform``."""
    from streamchar_rt.orchestrator.units import PHONES

    segments, now = [], 0.0
    while now < seconds:
        phone = "pau" if rng.random() < 0.08 else PHONES[int(rng.integers(len(PHONES)))]
        end = now + float(rng.uniform(0.15, 0.5) if phone == "pau" else rng.gamma(6.0, 0.014) + 0.02)
        segments.append((phone, now, end, int(rng.random() < 0.4)))
        now = end
    return segments


def poses(rng: np.random.Generator, count: int) -> np.ndarray:
    """Poses to read (count, P): half of them from a performance, half from random tracks."""
    from tools.studio.behaviour import EMOTIONS, perform
    from tools.train.pictures import random_pose, random_track

    half, step = count // 2, 3
    emotion = EMOTIONS[int(rng.integers(len(EMOTIONS)))]
    segments = random_segments(rng, half * step / 25)
    spoken = perform(segments, half * step, emotion=emotion, seed=int(rng.integers(2 ** 31)))
    wild = [random_pose(rng) for _ in range((count - half) // 2)]
    return np.concatenate([spoken[::step], np.stack(wild), random_track(rng, count - half - len(wild))])


def drawings(rng: np.random.Generator, count: int) -> tuple[torch.Tensor, np.ndarray]:
    """One identity of training: crops uint8 (count, 3, 52, 52) with a margin for shifts, and openings (count,)."""
    from tools.studio.character import Identity, Renderer
    from tools.studio.pose import COLUMN
    from tools.train.pictures import FIRST_TRAIN_IDENTITY

    renderer = Renderer(Identity.from_seed(int(rng.integers(FIRST_TRAIN_IDENTITY, 2 ** 31))), 128)
    track = poses(rng, count)
    pixels = np.stack([renderer.draw(p, premultiplied=True) for p in track])
    top, left, side = TOP // 2 - _MARGIN, LEFT // 2 - _MARGIN, INPUT + 2 * _MARGIN
    crops = over_grey(pixels[:, top: top + side, left: left + side], premultiplied=True)
    return (crops * 255 + 0.5).to(torch.uint8), track[:, COLUMN["mouth_open"]]


def disturb(crops: torch.Tensor) -> torch.Tensor:
    """(N, 3, 52, 52) shifted, blurred, brightened and noisy, (N, 3, 48, 48): a codec's softness must not matter."""
    y, x = torch.randint(0, 2 * _MARGIN + 1, (2,)).tolist()
    crops = crops[:, :, y: y + INPUT, x: x + INPUT]
    n = len(crops)
    blur = F.avg_pool2d(crops, 3, 1, 1, count_include_pad=False)
    crops = torch.lerp(crops, blur, torch.rand(n, 1, 1, 1) * (torch.rand(n, 1, 1, 1) < 0.6))
    gain = 1 + 0.12 * (torch.rand(n, 3, 1, 1) * 2 - 1)
    return (crops * gain + 0.03 * torch.rand(n, 1, 1, 1) * torch.randn_like(crops)).clamp(0, 1)


def held_out_quality(reader: MouthReader, identities: int = 24, frames: int = 60, seed: int = 1) -> dict[str, float]:
    """How well it reads performances of held-out identities, drawn at full size."""
    from tools.studio.behaviour import EMOTIONS, perform
    from tools.studio.character import Identity, Renderer
    from tools.studio.pose import COLUMN
    from tools.train.pictures import HELD_OUT

    rng = np.random.default_rng(seed)
    truth, read = [], []
    for i in range(identities):
        renderer = Renderer(Identity.from_seed(HELD_OUT[i]))
        track = perform(random_segments(rng, frames / 25), frames, emotion=EMOTIONS[i % len(EMOTIONS)], seed=i)
        pixels = np.stack([renderer.draw(p, premultiplied=True) for p in track])
        truth.append(track[:, COLUMN["mouth_open"]])
        read.append(reader.read(pixels, premultiplied=True))
    each = [float(np.corrcoef(t, r)[0, 1]) for t, r in zip(truth, read)]
    a, b = np.concatenate(truth), np.concatenate(read)
    return {"correlation": float(np.corrcoef(a, b)[0, 1]), "correlation_of_a_clip_mean": float(np.mean(each)),
            "correlation_of_a_clip_min": min(each), "mean_absolute_error": float(np.abs(a - b).mean())}


def train(minutes: float, seed: int = 0, pool: int = 16_000, batch: int = 128) -> MouthReader:
    """Draws for at most half of the time, then learns from the pool of drawings."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    begin = time.monotonic()
    used = lambda: (time.monotonic() - begin) / (60 * minutes)
    parts = []
    while used() < 0.5 and sum(len(p[1]) for p in parts) < pool:
        parts.append(drawings(rng, 24))
    crops = torch.cat([p[0] for p in parts])
    truth = torch.from_numpy(np.concatenate([p[1] for p in parts]))
    print(f"{len(crops)} drawings of {len(parts)} identities in {used() * minutes:.1f} min", flush=True)

    reader = MouthReader().train()
    optimizer = torch.optim.AdamW(reader.parameters(), 3e-3, weight_decay=0.02)
    start, step, total, reported = used(), 0, 0.0, 0
    while (progress := (used() - start) / (1 - start)) < 1:
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 30) * (0.01 + 0.99 * (1 - progress))
        index = torch.randint(len(crops), (batch,))
        loss = F.mse_loss(reader(disturb(crops[index].float() / 255)), truth[index])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        step, total = step + 1, total + loss.item()
        if step % 100 == 0:
            left = minutes * (1 - used())
            error = (total / (step - reported)) ** 0.5
            print(f"step {step}  rms error {error:.4f}  |  {left:.1f} min left", flush=True)
            reported, total = step, 0.0
    return reader.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=PATH)
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--check", action="store_true", help="do not train: measure the reader that is there")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not args.check:
        save_reader(train(args.minutes, args.seed), args.out)
    reader = load_reader(args.out)
    print(f"{sum(p.numel() for p in reader.parameters())} parameters, {args.out.stat().st_size / 1024:.0f} KiB")
    for name, value in held_out_quality(reader).items():
        print(f"held-out {name.replace('_', ' ')}: {value:.4f}")


if __name__ == "__main__":
    main()
