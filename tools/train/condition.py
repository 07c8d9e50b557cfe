"""Train the condition encoder to predict the mel by regression, before the denoiser learns to use it.

    python -m tools.train.condition --streams DIR --out DIR --minutes 10

Given the true phone times a studio voice is nearly deterministic, so the mean mel says most of what the denoiser
needs (as the prior of Grad-TTS, Popov et al. 2021), and learning it directly is a hundred times cheaper.
"""
from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import nn

from streamchar_rt.orchestrator.condition import ConditionEncoder

from .batches import StreamSampler
from .loop import Loop, add_arguments
from .streams import CHUNK, Streams


class ConditionRegression(nn.Module):
    """Named as in ``tools.train.denoiser.Denoiser``, which starts from these weights."""

    def __init__(self, audio_features: int = 160):
        super().__init__()
        self.condition = ConditionEncoder()
        self.dit = nn.ModuleDict({"audio_mean": nn.Linear(self.condition.config.output, audio_features)})

    def forward(self, features: torch.Tensor, voice: torch.Tensor) -> torch.Tensor:
        """Alignment features (B, 48, F) and voices (B,) to the mean mel tokens (B, 16, 160)."""
        return self.dit["audio_mean"](self.condition(features, voice)[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, minutes=10, lr=2e-3, batch=128)
    parser.add_argument("--streams", type=Path, required=True)
    args = parser.parse_args()
    loop = Loop(ConditionRegression(), args, decay=0.998)
    streams = Streams.load(args.streams)
    train = StreamSampler(streams, seed=args.seed + loop.iteration)
    test = StreamSampler(streams, test=True, seed=7)

    def batch(sampler: StreamSampler, count: int) -> tuple[torch.Tensor, ...]:
        rows = sampler.rows(count)
        parts = sampler.features(rows), torch.from_numpy(rows[:, 1].copy()), sampler.mel(rows, 0, CHUNK).reshape(count, CHUNK // 2, -1)
        return tuple(x.to(loop.device) for x in parts)

    fixed = batch(test, 512)

    def loss(features: torch.Tensor, voice: torch.Tensor, mel: torch.Tensor) -> torch.Tensor:
        with loop.autocast():
            mean = loop.model(features, voice)
        return (mean.float() - mel).square().mean()

    loop.run(lambda _: {"loss": loss(*batch(train, args.batch))}, lambda: {"loss": loss(*fixed)}, evaluate_seconds=60)


if __name__ == "__main__":
    main()
