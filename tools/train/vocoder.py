"""Train the vocoder on the studio's speech.

    python -m tools.train.vocoder --speech DIR --out DIR --minutes 25
    python -m tools.train.vocoder --speech DIR --init DIR --out DIR --lr 1e-4         # go on from a trained one

A trained one wants a small rate: at 8e-4 the first hundreds of updates undo more than minutes of them regain, on any device.

Losses: multi-resolution STFT (log magnitude and spectral convergence; Yamamoto et al. 2020) and log-mel.
"""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from streamchar_rt.codecs.mel import HOP, log_mel
from streamchar_rt.codecs.vocoder import Vocoder
from tools.studio.corpus import Utterance, load_corpus

from .loop import Loop, add_arguments

CLIP = 48            # mel frames a training clip
CONTEXT = 24         # frames before it that only warm the causal network up


def stft_loss(estimate: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    total = torch.zeros((), device=truth.device)
    for size in (256, 512, 1024, 2048):
        window = torch.hann_window(size, device=truth.device)
        a, b = (torch.stft(x, size, size // 4, size, window, return_complex=True).abs() + 1e-4 for x in (estimate, truth))
        total = total + (a.log() - b.log()).abs().mean() + (a - b).norm() / b.norm().clamp(min=1e-2)
    return total / 4


def by_voice(corpus: Sequence[Utterance], utterances: range) -> list[np.ndarray]:
    """The utterances of each voice that has any."""
    voices = np.array([corpus[i].voice for i in utterances])
    return [utterances.start + np.flatnonzero(voices == voice) for voice in np.unique(voices)]


def clips(corpus: Sequence[Utterance], rng: np.random.Generator, count: int,
          groups: Sequence[Sequence[int]]) -> torch.Tensor:
    """Random waveforms (count, (CONTEXT + CLIP) * HOP) of utterances, from one group as often as from another; their
    edges are padded with silence."""
    length = (CONTEXT + CLIP) * HOP
    out = np.zeros((count, length), np.float32)
    for row in out:
        group = groups[int(rng.integers(len(groups)))]
        samples = corpus[int(group[int(rng.integers(len(group)))])].samples
        begin = int(rng.integers(-CONTEXT * HOP, max(1, len(samples) - CLIP * HOP // 2)))
        a, b = max(0, begin), min(len(samples), begin + length)
        row[a - begin: b - begin] = samples[a:b] / 32768.0
    return torch.from_numpy(out) * torch.empty(count, 1).uniform_(0.6, 1.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, minutes=25, lr=1e-3, batch=12)
    parser.add_argument("--speech", type=Path, required=True)
    parser.add_argument("--voices-alike", action="store_true", help="hear every voice as often, however much there is of it")
    args = parser.parse_args()
    loop = Loop(Vocoder(), args, betas=(0.8, 0.99))
    corpus = load_corpus(args.speech)
    held_out = min(200, len(corpus) // 20)
    every, first = len(corpus), len(corpus) - held_out
    train = by_voice(corpus, range(first)) if args.voices_alike else [range(first)]
    test = by_voice(corpus, range(first, every)) if args.voices_alike else [range(first, every)]
    rng = np.random.default_rng(args.seed + loop.iteration)

    def losses(samples: torch.Tensor) -> dict[str, torch.Tensor]:
        mel = log_mel(samples)
        with loop.autocast():
            estimate = loop.model(mel).float()
        keep = slice(CONTEXT * HOP, None)
        mel_loss = (log_mel(estimate)[:, CONTEXT:] - mel[:, CONTEXT:]).abs().mean()
        spectral = stft_loss(estimate[:, keep], samples[:, keep])
        return {"loss": spectral + 2.0 * mel_loss, "stft": spectral, "mel": mel_loss}

    def step(_: int) -> dict[str, torch.Tensor]:
        return losses(clips(corpus, rng, args.batch, train).to(loop.device))

    def evaluate() -> dict[str, float]:
        values = losses(clips(corpus, np.random.default_rng(1), 32, test).to(loop.device))
        return {k: float(v) for k, v in values.items()}

    loop.run(step, evaluate)


if __name__ == "__main__":
    main()
