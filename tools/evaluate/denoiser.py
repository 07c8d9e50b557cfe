"""What the denoiser alone costs: speech made with the studio's own phone times, heard by the recogniser.

    python -m tools.evaluate.denoiser --bundle mini --sentences 100
    python -m tools.evaluate.denoiser --checkpoint DIR --bundle mini --steps 2

The orchestrator is left out: the condition encoder gets the true alignment, and speech is generated chunk by
chunk from the denoiser's own past. What this loses against the true voice is the denoiser's (and vocoder's)
part of the product's word errors; the rest is timing. All sentences run as one batch, without picture.
"""
from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from streamchar_rt.codecs.mel import denormalize
from streamchar_rt.codecs.vocoder import Vocoder
from streamchar_rt.denoiser.dit import DiTConfig, JointDiT, Style, Window, windowed_velocity
from streamchar_rt.orchestrator.condition import ConditionEncoder, alignment_features

from tools.evaluate.recognise import Recogniser
from tools.evaluate.wer import evaluate
from tools.studio.sentences import evaluation_sentences
from tools.studio.speech import VOICE_NAMES, synthesize, to_tokens
from tools.train.batches import AHEAD, PAST
from tools.train.streams import CHUNK, HEAD, build_stream

NO_EMOTION, NO_MODE = 5, 3        # the style tables' entries for "not given"


@dataclass
class _Utterance:
    samples: np.ndarray
    unit: np.ndarray
    stress: np.ndarray
    word_start: np.ndarray
    begin: np.ndarray
    voice: int


def true_alignment(text: str, voice: str) -> np.ndarray:
    """Unit, stress, word start and time since the unit began, int64 (T, 4), of each half-frame of a sentence's stream,
    from its first chunk's past on."""
    speech = synthesize(text, voice)
    tokens, spans = to_tokens(speech)
    column = lambda name: np.array([getattr(t, name) for t in tokens])
    stream = build_stream([_Utterance(speech.samples, column("unit"), column("stress"), column("word_start"),
                                      np.array([s[0] for s in spans]), VOICE_NAMES.index(voice))],
                          np.random.default_rng(0))
    length = len(stream.samples) // 320
    place = np.searchsorted(stream.begin, np.arange(length), side="right") - 1
    elapsed = np.minimum(np.arange(length) - stream.begin[place], 255)
    return np.stack([stream.unit[place], stream.stress[place], stream.word_start[place], elapsed], 1)[HEAD - PAST:]


@torch.inference_mode()
def generate(dit: JointDiT, condition: ConditionEncoder, alignments: list[np.ndarray], voice: int, *, steps: int = 4,
             seed: int = 0) -> list[torch.Tensor]:
    """Normalised mels (T_i, 80) for sentences with the alignments (T_i, 4), all of one voice, in one batch."""
    chunks = [max(1, (len(a) - PAST - AHEAD) // CHUNK) for a in alignments]
    length = PAST + max(chunks) * CHUNK + AHEAD
    extend = lambda a: np.concatenate([a, np.repeat(a[-1:], max(0, length - len(a)), 0)])[:length]
    batch = torch.from_numpy(np.stack([extend(a) for a in alignments]).astype(np.int64))
    full = lambda value: torch.full((len(batch),), value)
    style, none = Style(full(voice), full(NO_EMOTION), full(NO_MODE)), torch.zeros(len(batch), 0, dit.config.video_features)
    generator = torch.Generator().manual_seed(seed)
    motion, out = None, []
    for k in range(max(chunks)):
        audio = torch.randn(len(batch), CHUNK // 2, dit.config.audio_features, generator=generator)
        c_v, c_a = condition(alignment_features(*batch[:, k * CHUNK: k * CHUNK + PAST + CHUNK + AHEAD].unbind(-1)), style.voice)
        for i in range(steps):
            window = Window(none, audio, None, None, motion)
            audio = audio + windowed_velocity(dit, window, full(i / steps), style, c_v, c_a)[1] / steps
        motion = (none, audio)
        out.append(audio.reshape(len(batch), CHUNK, -1))
    mels = torch.cat(out, 1)
    return [mel[: n * CHUNK] for mel, n in zip(mels, chunks)]


def load(bundle: str, checkpoint: Path | None) -> tuple[JointDiT, ConditionEncoder, Vocoder]:
    """The bundle's networks; with ``checkpoint``, a training's denoiser in place of the bundle's."""
    from streamchar_rt.bundle import open_bundle
    from streamchar_rt.pipeline import Models

    opened = open_bundle(bundle)
    models = Models.from_parts(opened.manifest, opened.tensors(), kernels="reference")
    dit, condition = models.denoiser.dit, models.condition
    if checkpoint:
        from tools.train.denoiser import Denoiser
        from tools.train.loop import load_weights

        denoiser = Denoiser(DiTConfig())
        denoiser.load_state_dict(load_weights(checkpoint), strict=False)
        dit, condition = denoiser.dit.eval(), denoiser.condition.eval()
    return dit, condition, models.vocoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="mini", help="a shipped model's name or a bundle's folder")
    parser.add_argument("--checkpoint", type=Path, help="folder of a denoiser in training, instead of the bundle's")
    parser.add_argument("--voice", default="rms", choices=VOICE_NAMES)
    parser.add_argument("--sentences", type=int, default=100)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    args = parser.parse_args()
    dit, condition, vocoder = load(args.bundle, args.checkpoint)
    sentences = evaluation_sentences()[: args.sentences]
    alignments = [true_alignment(s, args.voice) for s in sentences]
    mels = generate(dit, condition, alignments, VOICE_NAMES.index(args.voice), steps=args.steps, seed=args.seed)
    spoken = dict(zip(sentences, mels))

    @torch.inference_mode()
    def speak(sentence: str) -> np.ndarray:
        return vocoder(denormalize(spoken[sentence])[None])[0].clamp(-1, 1).numpy()

    def report(done: int, total: int, rate: float) -> None:
        print(f"\r{done}/{total} WER {rate:.1%} ", end="" if done < total else "\n", file=sys.stderr, flush=True)

    result = evaluate(speak, sentences, recogniser=Recogniser(), progress=report)
    if args.json:
        print(json.dumps(result, default=str))
        return
    print(f"{args.voice}, true phone times, {args.steps} steps: WER {100 * result['wer']:.2f} % +- "
          f"{100 * result['standard_error']:.2f} ({len(sentences)} sentences)")


if __name__ == "__main__":
    main()
