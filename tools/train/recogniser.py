"""Train the judge of phones (``tools.evaluate.phone_judge``) on true speech of its own, apart from the generator.

    python -m tools.studio.speech --hours 1 --seed 71 --voices rms:1,slt:1,awb:1,kal16:1 --out SPEECH
    python -m tools.train.recogniser --speech SPEECH --out DIR --minutes 12

The speech has a seed that nothing generative was trained with. Every utterance is played faster or slower (which moves
its pitch as well), noise is added to the sound and to its spectrum, and now and then the spectrum is blurred: the judge
is to hear which phone it is, not whose voice or vocoder. Beside the CTC loss, a second head that is thrown away tells
the phone of every frame, whose time flite knows: CTC alone needs long to find out where phones are. Writes the weights
in use to tools/evaluate.
"""
from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from streamchar_rt.orchestrator.units import FIRST_PHONE
from tools.evaluate.phone_judge import (
    BLANK, HOP, PATH, RATE, STEP, PhoneJudge, centred, greedy, log_mel, phone_errors, rate_of, save_judge,
)
from tools.studio.corpus import Corpus, load_corpus
from tools.studio.speech import VOICE_NAMES

from .loop import Loop, add_arguments

SPEED = 0.12         # a sound is played up to so much faster or slower
HELD_OUT = 160       # utterances at the end of the corpus


def played(samples: np.ndarray, speed: float) -> np.ndarray:
    """float32 samples played ``speed`` times as fast, by linear interpolation."""
    at = np.arange(0, len(samples) - 1, speed, np.float64)
    return np.interp(at, np.arange(len(samples)), samples).astype(np.float32)


def disturbed(samples: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, float, float]:
    """float32 (n,) in [-1, 1]: at another speed, with silence around it and light noise. Also that speed, and the
    silence's seconds before the sound."""
    x, speed = samples.astype(np.float32) / 32768, 1.0
    if rng.random() < 0.7:
        speed = float(rng.uniform(1 - SPEED, 1 + SPEED))
        x = played(x, speed)
    before, after = (int(rng.integers(0, RATE // 4)) for _ in range(2))
    x = np.pad(x, (before, after))
    if rng.random() < 0.6:
        noise = rng.standard_normal(len(x)).astype(np.float32)
        if rng.random() < 0.5:                               # darker: a one-pole low pass of two taps
            noise[1:] += noise[:-1]
        power = np.sqrt(np.square(x).mean() + 1e-12)
        x = x + noise * power * 10 ** (-float(rng.uniform(15, 45)) / 20)
    return x, speed, before / RATE


class Drawn(NamedTuple):
    samples: np.ndarray      # float32 (n,)
    classes: np.ndarray      # int64, of the phones in order
    frames: np.ndarray       # int64, of every 20 ms; BLANK where none sounds


class Utterances:
    """Batches of utterances of about one length."""

    def __init__(self, corpus: Corpus, *, test: bool = False, seed: int = 0) -> None:
        self.corpus, self.rng = corpus, np.random.default_rng(seed)
        last = len(corpus) - min(HELD_OUT, len(corpus) // 4)
        keep = np.arange(last, len(corpus)) if test else np.arange(last)
        lengths = corpus.lengths[keep]
        fits = (lengths > RATE // 2) & (lengths < 12 * RATE)
        self.order = keep[fits][np.argsort(lengths[fits], kind="stable")]

    def classes(self, index: int) -> np.ndarray:
        unit = self.corpus[index].unit
        return unit[unit >= FIRST_PHONE].astype(np.int64) - FIRST_PHONE + 1

    def draw(self, count: int) -> list[Drawn]:
        near = self.rng.integers(len(self.order)) + self.rng.integers(-count, count + 1, count)
        drawn = []
        for i in self.order[np.clip(near, 0, len(self.order) - 1)]:
            utterance = self.corpus[i]
            samples, speed, before = disturbed(utterance.samples, self.rng)
            at = ((np.arange(len(samples) // HOP // 2) + 0.5) * STEP - before) * speed
            place = np.searchsorted(utterance.begin, at, side="right") - 1
            unit = utterance.unit[np.maximum(place, 0)].astype(np.int64)
            sounds = (place >= 0) & (at < utterance.end[np.maximum(place, 0)]) & (unit >= FIRST_PHONE)
            drawn.append(Drawn(samples, self.classes(i), np.where(sounds, unit - FIRST_PHONE + 1, BLANK)))
        return drawn


def spectra(sounds: list[np.ndarray]) -> tuple[torch.Tensor, torch.Tensor]:
    """Log-mels (B, T, 64) of sounds of different lengths, and how many frames each has."""
    lengths = torch.tensor([len(x) // HOP for x in sounds])
    # Whole steps of 20 ms, and few lengths: memory is used again.
    width = -(-int(lengths.max()) // 64) * 64 * HOP
    whole = np.stack([np.pad(x[:width], (0, max(0, width - len(x)))) for x in sounds])
    return log_mel(torch.from_numpy(whole)), lengths


def blurred(mel: torch.Tensor) -> torch.Tensor:
    """Noise of a random size on each utterance's log-mel, and for a third of them neighbouring bands mixed."""
    n = len(mel)
    soft = F.avg_pool1d(mel, 3, 1, 1, count_include_pad=False)
    mel = torch.lerp(mel, soft, torch.rand(n, 1, 1) * (torch.rand(n, 1, 1) < 0.35))
    return mel + 0.4 * torch.rand(n, 1, 1) * torch.randn_like(mel)


class Trained(nn.Module):
    """The judge with the head that tells the phone of every frame."""

    def __init__(self) -> None:
        super().__init__()
        self.judge = PhoneJudge()
        self.frames = nn.Conv1d(self.judge.out.in_channels, self.judge.out.out_channels, 1)

    def losses(self, drawn: list[Drawn], autocast) -> dict[str, torch.Tensor]:
        """CTC's a phone, and the cross-entropy of frames."""
        mel, lengths = spectra([d.samples for d in drawn])
        with autocast:
            hidden = self.judge.hidden(centred(blurred(mel), lengths))
            logits, frames = self.judge.out(hidden), self.frames(hidden)
        targets = torch.from_numpy(np.concatenate([d.classes for d in drawn]))
        counts = torch.tensor([len(d.classes) for d in drawn])
        scores = logits.float().log_softmax(1).permute(2, 0, 1)
        ctc = F.ctc_loss(scores, targets, lengths // 2, counts, blank=BLANK, reduction="mean", zero_infinity=True)
        width = frames.shape[2]
        labels = np.stack([np.pad(d.frames, (0, width - len(d.frames)), constant_values=-100) for d in drawn])
        cross_entropy = F.cross_entropy(frames.float(), torch.from_numpy(labels))
        return {"loss": ctc + cross_entropy, "ctc": ctc, "frames": cross_entropy}


def error_rates(judge: PhoneJudge, utterances: Utterances) -> dict[str, float]:
    """Phone error rate on held-out utterances as they are, of each voice and of all."""
    counts: dict[str, list] = {name: [] for name in VOICE_NAMES}
    for i in utterances.order:
        heard = [c for _, c in greedy(judge.scores(utterances.corpus[i].samples))]
        counts[VOICE_NAMES[utterances.corpus[i].voice]].append(phone_errors(utterances.classes(i).tolist(), heard))
    rates = {f"per_{voice}": rate_of(found)[0] for voice, found in counts.items() if found}
    return {**rates, "per": rate_of(sum(counts.values(), []))[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser, minutes=12, lr=3e-3, batch=16)
    parser.add_argument("--speech", type=Path, required=True, help="folder of tools.studio.speech")
    parser.add_argument("--weights", type=Path, default=PATH, help="file of the weights in use")
    parser.add_argument("--evaluate-seconds", type=float, default=240.0, help="between two looks at held-out speech")
    args = parser.parse_args()
    args.device = "cpu"                                      # the spectra are made there; the network is tiny
    model = Trained()
    judge = model.judge
    loop = Loop(model, args, decay=0.998, warmup=100)
    corpus = load_corpus(args.speech)
    train = Utterances(corpus, seed=args.seed + loop.iteration)
    test = Utterances(corpus, test=True)
    print(f"{sum(p.numel() for p in judge.parameters())} parameters, {corpus.hours:.1f} h of speech", flush=True)

    loop.run(lambda _: model.losses(train.draw(args.batch), loop.autocast()), lambda: error_rates(judge, test),
             evaluate_seconds=args.evaluate_seconds)
    model.load_state_dict({k: v.to(model.state_dict()[k].dtype) for k, v in loop.averaged().items()})
    save_judge(judge.eval(), args.weights)
    print(f"{args.weights}: {args.weights.stat().st_size / 1024:.0f} KiB")


if __name__ == "__main__":
    main()
