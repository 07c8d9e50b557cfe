"""Does a denoiser of few steps draw from the distribution, or does it seek the mean?

    python -m tools.evaluate.detail --checkpoint DIR --streams DIR --steps 4
    python -m tools.evaluate.detail --checkpoint DIR --streams DIR --scenes DIR --chunks 64 --steps 2

Chunks with their true history, two noises each. For a sampler of the true distribution ``spread``, ``detail`` and
``energy`` are 1; one that answers with the mean has no spread and little detail, and about half the error.

error     mean square distance to the truth
spread    mean square distance between the two noises' chunks, over the error
detail    second differences along time and frequency, or the picture's axes, over the truth's
energy    about the mean mel that the condition gives, over the truth's (sound only)
"""
from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from streamchar_rt.denoiser.dit import unpatchify
from streamchar_rt.denoiser.sampler import Sampler

from tools.train.batches import StreamSampler
from tools.train.denoiser import Batches, Denoiser
from tools.train.distill import draw_noise, unpack
from tools.train.few_step import UNGUIDED, Given, Guidance, Pair, sample
from tools.train.loop import load_weights
from tools.train.scenes import Scenes
from tools.train.streams import Streams


def roughness(x: torch.Tensor, axes: tuple[int, ...]) -> float:
    """Mean square of the second differences along ``axes``."""
    return sum(float(x.diff(n=2, dim=axis).square().mean()) for axis in axes)


def shares(truth: torch.Tensor, first: torch.Tensor, second: torch.Tensor, axes: tuple[int, ...]) -> dict[str, float]:
    """Error, spread and detail of two noises' chunks, any shape alike."""
    error = float(((first - truth).square() + (second - truth).square()).mean()) / 2
    return {"error": error, "spread": float((first - second).square().mean()) / error,
            "detail": roughness(first, axes) / roughness(truth, axes)}


@torch.no_grad()
def measure(net: Denoiser, truth: Pair, given: Given, steps: int, guidance: Guidance = UNGUIDED,
            sampler: Sampler = Sampler()) -> dict[str, dict[str, float]]:
    """Figures of the sound and, where there is picture, of its latents."""
    drawn = [sample(net, given, draw_noise(truth), steps, guidance, sampler) for _ in range(2)]
    mel = lambda pair: pair[1].unflatten(-1, (2, -1)).flatten(1, 2)                        # (B, 32, 80)
    result = {"sound": shares(mel(truth), *map(mel, drawn), axes=(1, 2))}
    mean = net.dit.audio_mean(net.condition(given.features, given.style.voice)[1])
    energy = lambda x: float((x - mean).square().mean())
    result["sound"]["energy"] = energy(drawn[0][1]) / energy(truth[1])
    if truth[0].shape[1]:
        layout = net.dit.config.layout
        latents = lambda pair: unpatchify(pair[0], layout.grid, net.dit.config.patch)      # (B, 4, C, h, w)
        result["picture"] = shares(latents(truth), *map(latents, drawn), axes=(1, 3, 4))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--streams", type=Path, required=True)
    parser.add_argument("--scenes", type=Path)
    parser.add_argument("--chunks", type=int, default=256)
    parser.add_argument("--steps", type=int, nargs="+", default=[4])
    parser.add_argument("--guidance", type=float, nargs=2, default=UNGUIDED, metavar=("PICTURE", "SOUND"), help="1: none")
    parser.add_argument("--sampler", type=float, nargs=2, default=(0.0, 0.0), metavar=("PICTURE", "SOUND"),
                        help="as of tools.train.export")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    net = Denoiser()
    net.load_state_dict(load_weights(args.checkpoint), strict=False)
    net.eval()
    scenes = Scenes.load(args.scenes) if args.scenes else None
    sampler = StreamSampler(Streams.load(args.streams), test=True, seed=args.seed)
    batches = Batches(sampler, scenes, 1, torch.device("cpu"))
    batches.sink_share = 1.0
    torch.manual_seed(args.seed)
    truth, given = unpack(batches.sample(args.chunks, scenes is not None))
    for steps in args.steps:
        for name, values in measure(net, truth, given, steps, args.guidance, Sampler(*args.sampler)).items():
            row = {k: round(v, 4) for k, v in values.items()}
            print(json.dumps({"steps": steps, "guidance": args.guidance, "of": name, **row}), flush=True)


if __name__ == "__main__":
    main()
