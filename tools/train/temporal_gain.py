"""Let a trained codec's four frames of a latent differ more from each other, without training.

    python -m tools.train.temporal_gain --init CODEC_DIR --out DIR --gain 0.4

Trained for a small error, the decoder draws what changes inside a latent smaller than it is, the faster the smaller, and
all that is lacking shows as a jump from one latent to the next. The frames' features come out of one layer
(``VideoDecoder.split``): what its four frames have in common is kept, and what tells them apart is written in orthogonal
polynomials of time and enlarged, the slope by half the gain, the curvature by all of it, the cubic by one and a half.
Since that layer is linear the gain goes into its weights, and drawing costs what it did. Judge the result with
``tools.evaluate.codec --codec DIR``: ``change_ratio`` beside ``true_change_ratio``, and what PSNR it cost.
"""
from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from streamchar_rt.codecs.video import FRAMES

from .loop import load_weights

LAYER = "decoder.split."


def frame_gains(gain: float) -> torch.Tensor:
    """float64 (4, 4): what turns a latent's frames into those whose differences are enlarged by ``gain``."""
    times = torch.linspace(-1, 1, FRAMES, dtype=torch.float64)
    basis = torch.linalg.qr(torch.stack([times ** k for k in range(FRAMES)], 1)).Q        # (frames, orders)
    return basis @ torch.diag(1 + gain * torch.arange(FRAMES, dtype=torch.float64) / 2) @ basis.T


def enlarge(weights: Mapping[str, torch.Tensor], gain: float) -> dict[str, torch.Tensor]:
    """A codec's weights with the gain in them; the others are the same tensors."""
    mixed = lambda x: (frame_gains(gain) @ x.double().reshape(FRAMES, -1)).reshape(x.shape).to(x.dtype)
    return {name: mixed(value) if name.startswith(LAYER) else value for name, value in weights.items()}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--init", type=Path, required=True, help="checkpoint folder of tools.train.video_codec")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--gain", type=float, default=0.4)
    args = parser.parse_args(arguments)
    if not -0.5 < args.gain < 4:
        parser.error("--gain: between -0.5 and 4; 0 changes nothing")
    weights = enlarge(load_weights(args.init), args.gain)
    args.out.mkdir(parents=True, exist_ok=True)
    torch.save({"model": weights, "ema": weights, "iteration": 0, "seconds": 0.0}, args.out / "checkpoint.pt")
    print(f"{args.out}: what tells a latent's frames apart is enlarged by {args.gain:g}")


if __name__ == "__main__":
    main()
