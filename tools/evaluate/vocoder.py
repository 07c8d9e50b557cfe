"""What the vocoder costs: it speaks the true mel, and the recogniser hears it beside the true voice."""
from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from streamchar_rt.codecs.mel import log_mel
from streamchar_rt.codecs.vocoder import Vocoder

from .recognise import Recogniser
from .wer import evaluate


@torch.inference_mode()
def resynthesize(vocoder: Vocoder, samples: np.ndarray) -> tuple[np.ndarray, float]:
    """Speech (n,), int16 or float in [-1, 1], through mel and vocoder.

    Returns float32 (n - n % HOP,) and the mean absolute log-mel error of the result, silence included.
    """
    truth = torch.from_numpy(samples.astype(np.float32) / 32768.0 if samples.dtype == np.int16 else samples)[None]
    mel = log_mel(truth)
    spoken = vocoder(mel)
    return spoken[0].numpy(), float((log_mel(spoken) - mel).abs().mean())


def vocoder_quality(vocoder: Vocoder, voices: Sequence[str], sentences: Sequence[str],
                    progress: Callable[[str], None] = lambda text: None) -> dict[str, dict]:
    """By voice: WER of the true voice and of the vocoder on its mels, the rise with its standard error, and the mean
    log-mel error (natural logarithm)."""
    from tools.studio.speech import synthesize

    recogniser = Recogniser()
    result = {}
    for voice in voices:
        errors: list[float] = []

        def speak(text: str) -> np.ndarray:
            samples, error = resynthesize(vocoder, synthesize(text, voice=voice).samples)
            errors.append(error)
            return samples

        tell = lambda kind: lambda done, total, wer: progress(f"{voice} {kind} {done}/{total} WER {wer:.1%}")
        true = evaluate(lambda text: synthesize(text, voice=voice).samples, sentences, recogniser=recogniser,
                        progress=tell("true voice"))
        made = evaluate(speak, sentences, recogniser=recogniser, progress=tell("vocoder"))
        rises = [b["errors"] - a["errors"] for a, b in zip(true["utterances"], made["utterances"])]
        rise = sum(rises) / made["words"]
        # Same sentences, so the difference is what varies from one to the next.
        spread = float(np.sqrt(np.sum(np.square([r - rise * u["words"] for r, u in zip(rises, made["utterances"])]))))
        result[voice] = {"true_wer": true["wer"], "vocoder_wer": made["wer"], "rise": rise,
                         "rise_standard_error": spread / made["words"], "log_mel_error": float(np.mean(errors)),
                         "sentences": len(sentences), "words": made["words"]}
    return result
