"""The second judge of speech: the project's own recogniser of phones, trained apart from everything that generates.

    python -m tools.evaluate.phone_judge --sentences 100          # what it gets wrong of the true voices

A small convolutional network on a log-mel of its own (10 ms, 64 bands, each band less its mean over the utterance, so
that neither gain nor a steady equaliser matters) with connectionist temporal classification (Graves et al. 2006). It
sees 0.3 s to either side of a phone and knows no words, so it cannot guess what was mumbled. Judged as the phone
error rate against the phones that flite says for the same text in the same voice. ``tools.train.recogniser`` trains it.
"""
from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from streamchar_rt.codecs.mel import mel_filterbank
from streamchar_rt.orchestrator.units import PHONES
from tools.evaluate.heard_words import align, errors_of, pieces

PATH = Path(__file__).with_name("phone_judge.safetensors")
RATE = 16_000
HOP, WINDOW, N_FFT, BANDS = 160, 400, 512, 64
STEP = 0.02          # seconds between two answers
BLANK = 0            # class 1 + i is PHONES[i]
_FLOOR = 1e-4
_DILATIONS = (1, 2, 4, 1, 2, 4)
_FILTERS = mel_filterbank(RATE, N_FFT, BANDS)
_WINDOW = torch.hann_window(WINDOW)


def log_mel(samples: torch.Tensor) -> torch.Tensor:
    """float32 (..., S) in [-1, 1] to (..., S // 160, 64), natural log; frame i is centred on sample 160 * (i + 0.5)."""
    lead = samples.shape[:-1]
    x = F.pad(samples.reshape(-1, samples.shape[-1]), ((N_FFT - HOP) // 2,) * 2)
    spectrum = torch.stft(x, N_FFT, HOP, WINDOW, _WINDOW, center=False, return_complex=True).abs()
    mel = (_FILTERS @ spectrum).clamp(min=_FLOOR).log()
    return mel.transpose(1, 2).reshape(*lead, -1, BANDS)


def centred(mel: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """Each band less its mean over the first ``lengths`` (B,) frames, halved; what is behind them becomes 0."""
    inside = (torch.arange(mel.shape[1]) < lengths[:, None])[..., None].float()
    mean = (mel * inside).sum(1, keepdim=True) / lengths.clamp(min=1)[:, None, None]
    return (mel - mean) * inside / 2


class _Block(nn.Module):
    def __init__(self, width: int, dilation: int) -> None:
        super().__init__()
        self.look = nn.Conv1d(width, width, 3, padding=dilation, dilation=dilation, bias=False)
        self.mix = nn.Conv1d(width, width, 1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm1d(width) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.norms[1](self.mix(F.relu(self.norms[0](self.look(x)))))


class HeardPhone(NamedTuple):
    name: str
    at: float  # seconds


class PhoneJudge(nn.Module):
    """Centred log-mel (B, T, 64) to logits (B, T / 2, 1 + phones)."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv1d(BANDS, width, 5, 2, 2, bias=False), nn.BatchNorm1d(width), nn.ReLU())
        self.blocks = nn.Sequential(*(_Block(width, d) for d in _DILATIONS))
        self.out = nn.Conv1d(width, 1 + len(PHONES), 1)

    def hidden(self, mel: torch.Tensor) -> torch.Tensor:
        """What ``out`` reads, (B, width, T / 2)."""
        return F.relu(self.blocks(self.stem(mel.transpose(1, 2))))

    def forward(self, mel: torch.Tensor) -> torch.Tensor:
        return self.out(self.hidden(mel)).transpose(1, 2)

    @torch.inference_mode()
    def scores(self, samples: np.ndarray) -> np.ndarray:
        """Log-probabilities float32 (T, 1 + phones), one row each 20 ms, of (n,) float in [-1, 1] or int16."""
        samples = np.asarray(samples)
        scale = 32768.0 if samples.dtype == np.int16 else 1.0
        mel = log_mel(torch.from_numpy(samples.astype(np.float32) / scale)[None])
        if not mel.shape[1]:
            return np.zeros((0, 1 + len(PHONES)), np.float32)
        self.eval()
        return self(centred(mel, torch.tensor([mel.shape[1]]))).log_softmax(-1)[0].numpy()

    def hear(self, samples: np.ndarray) -> list[HeardPhone]:
        """The phones of a stream of any length at 16 kHz: the best class of each step, repeats and blanks dropped.

        Long streams are cut where it is quiet, as for the recogniser of words.
        """
        samples = np.asarray(samples)
        found: list[HeardPhone] = []
        for begin, end in pieces(samples):
            if end - begin < N_FFT:
                continue
            found += [HeardPhone(PHONES[c - 1], begin / RATE + (i + 0.5) * STEP)
                      for i, c in greedy(self.scores(samples[begin:end]))]
        return found


def greedy(scores: np.ndarray) -> list[tuple[int, int]]:
    """(step, class) of every phone of the best path through scores (T, classes)."""
    best = scores.argmax(1) if len(scores) else np.zeros(0, int)
    starts = np.flatnonzero(np.diff(best, prepend=BLANK) != 0)
    return [(int(i), int(best[i])) for i in starts if best[i] != BLANK]


def load_judge(path: Path = PATH) -> PhoneJudge:
    """The trained judge, in evaluation mode. Raises FileNotFoundError where it has not been trained."""
    from safetensors.torch import load_file

    judge = PhoneJudge()
    judge.load_state_dict({k: v.float() for k, v in load_file(path).items()}, strict=False)
    return judge.eval()


def save_judge(judge: PhoneJudge, path: Path) -> None:
    """In float16, as small as it is."""
    from safetensors.torch import save

    path.write_bytes(save({k: v.half().contiguous() for k, v in judge.state_dict().items() if v.is_floating_point()}))


# ------------------------------------------------------------------ errors
class PhoneErrors(NamedTuple):
    errors: int
    phones: int  # of the text


def phones_of(speech: Any) -> list[str]:
    """What a ``tools.studio.speech.Speech`` says, pauses left out."""
    return [phone.name for phone in speech.phones if phone.name != "pau"]


def said_prefix(expected: Sequence[str], heard: Sequence[str]) -> int:
    """How much of ``expected`` was said by a stream that stopped somewhere: the prefix with the least edits."""
    names = {w: i for i, w in enumerate({*expected, *heard})}
    a, b = (np.array([names[w] for w in words], np.int64) for words in (expected, heard))
    along = np.arange(len(b) + 1)
    row, costs = along.copy(), [len(b)]
    for unit in a:
        above = row + 1
        above[1:] = np.minimum(above[1:], row[:-1] + (b != unit))
        row = np.minimum.accumulate(above - along) + along
        costs.append(int(row[-1]))
    return int(np.argmin(costs))


def phone_errors(expected: Sequence[str], heard: Sequence[str], *, cut_off: bool = False) -> PhoneErrors:
    """Edits between the phones of the text and those heard. ``cut_off``: only a beginning of the text was said."""
    if cut_off:
        expected = expected[: said_prefix(expected, heard)]
    return PhoneErrors(int(errors_of(align(expected, heard), expected, heard).sum()) if len(expected) else len(heard),
                       len(expected))


def errors_by_time(expected: Sequence[str], heard: Sequence[HeardPhone]) -> tuple[np.ndarray, np.ndarray]:
    """Of a stream that said a beginning of ``expected``: errors by phone, int (n,), and the second at which each is
    heard, or the one before it where nothing is."""
    names = [p.name for p in heard]
    expected = expected[: said_prefix(expected, names)]
    pairs = align(expected, names)
    at = np.zeros(len(expected))
    for pair in pairs:
        if pair.expected is not None and pair.heard is not None:
            at[pair.expected] = heard[pair.heard].at
    return errors_of(pairs, expected, names), np.maximum.accumulate(at) if len(at) else at


def rate_of(counts: Sequence[PhoneErrors]) -> tuple[float, float]:
    """Phone error rate over utterances, and its standard error: an utterance's errors come together."""
    errors, phones = (np.array(column, float) for column in zip(*counts))
    total = max(phones.sum(), 1.0)
    rate = errors.sum() / total
    return float(rate), float(math.sqrt(np.square(errors - rate * phones).sum()) / total)


def judge_sentences(judge: PhoneJudge, speak: Any, voice: str, sentences: Sequence[str]) -> list[PhoneErrors]:
    """``speak(sentence)`` → samples, against flite's phones of the sentence in the voice."""
    from tools.studio.speech import synthesize

    return [phone_errors(phones_of(synthesize(s, voice)), [p.name for p in judge.hear(speak(s))]) for s in sentences]


def main() -> None:
    from tools.studio.sentences import evaluation_sentences
    from tools.studio.speech import VOICE_NAMES, synthesize

    parser = argparse.ArgumentParser(prog="python -m tools.evaluate.phone_judge",
                                     description="What the judge of phones gets wrong of the true voices.")
    parser.add_argument("--weights", type=Path, default=PATH)
    parser.add_argument("--sentences", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    judge = load_judge(args.weights)
    print(f"{sum(p.numel() for p in judge.parameters())} parameters, {args.weights.stat().st_size / 1024:.0f} KiB")
    for voice in VOICE_NAMES:
        counts = judge_sentences(judge, lambda s: synthesize(s, voice).samples, voice,
                                 evaluation_sentences()[: args.sentences])
        rate, error = rate_of(counts)
        print(f"{voice}: phone error rate {rate:.2%} ± {error:.2%}, {sum(c.phones for c in counts)} phones of "
              f"{len(counts)} held-out sentences")


if __name__ == "__main__":
    main()
