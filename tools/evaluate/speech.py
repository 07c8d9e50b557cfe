"""How well the product is understood, beside the true voice that it learnt from.

    python -m tools.evaluate.speech --bundle mini --voice rms --sentences 100

Both say the same sentences, which no training text holds, to the same recognisers: pocketsphinx (WER) and the judge
of phones (``phone_judge``), which counts against the phones that the true voice says.
"""
from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

import numpy as np

from streamchar_rt import Engine
from tools.evaluate.phone_judge import PhoneErrors, PhoneJudge, load_judge, phone_errors, phones_of, rate_of
from tools.evaluate.recognise import Recogniser
from tools.evaluate.sound_only import sound_only
from tools.evaluate.wer import evaluate
from tools.studio.sentences import evaluation_sentences
from tools.studio.speech import VOICE_NAMES, synthesize


def speak(engine: Engine, voice: str, text: str, *, seed: int = 0, steps: int | None = None) -> np.ndarray:
    """The product's speech for a text, float32 samples at 16 kHz: a fresh session says it as one turn."""
    character = engine.character(engine.characters()[0], voice=voice)
    with sound_only(), engine.session(character, seed=seed, steps=steps) as session:
        session.say(text)
        return np.concatenate([chunk.audio.copy() for chunk in session.turn()])


class Heard:
    """Speaks like ``speak``, while the judge of phones listens: text → samples, and ``counts`` grows."""

    def __init__(self, speak: Callable[[str], np.ndarray], judge: PhoneJudge, voice: str) -> None:
        self.speak, self.judge, self.voice = speak, judge, voice
        self.counts: list[PhoneErrors] = []

    def __call__(self, text: str) -> np.ndarray:
        samples = self.speak(text)
        expected = phones_of(synthesize(text, self.voice))
        self.counts.append(phone_errors(expected, [p.name for p in self.judge.hear(samples)]))
        return samples

    def result(self) -> dict[str, float]:
        rate, error = rate_of(self.counts)
        return {"per": rate, "per_standard_error": error}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="mini", help="a shipped model's name or a bundle's folder")
    parser.add_argument("--voice", default="rms", choices=VOICE_NAMES)
    parser.add_argument("--sentences", type=int, default=100)
    parser.add_argument("--steps", type=int, help="denoising steps; default the bundle's")
    parser.add_argument("--plans", type=int, help="steps that align the chunk anew; default the runtime's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    args = parser.parse_args()
    sentences = evaluation_sentences()[: args.sentences]
    recogniser, judge = Recogniser(), load_judge()

    def report(done: int, total: int, rate: float) -> None:
        print(f"\r{done}/{total} WER {rate:.1%} ", end="" if done < total else "\n", file=sys.stderr, flush=True)

    def judged(voice: Callable[[str], np.ndarray]) -> dict:
        heard = Heard(voice, judge, args.voice)
        return {**evaluate(heard, sentences, recogniser=recogniser, progress=report), **heard.result()}

    truth = judged(lambda s: synthesize(s, args.voice).samples)
    with Engine.load(args.bundle) as engine:
        engine.models.plans = args.plans or engine.models.plans
        product = judged(lambda s: speak(engine, args.voice, s, seed=args.seed, steps=args.steps))
    if args.json:
        print(json.dumps({"voice": args.voice, "truth": truth, "product": product}, default=str))
        return
    for name, result in (("true voice", truth), ("product", product)):
        print(f"{args.voice} {name}: WER {100 * result['wer']:.2f} % +- {100 * result['standard_error']:.2f}, phone "
              f"errors {100 * result['per']:.2f} % +- {100 * result['per_standard_error']:.2f} "
              f"({len(sentences)} sentences)")
    print(f"rise: WER {100 * (product['wer'] - truth['wer']):.2f} points, phone errors "
          f"{100 * (product['per'] - truth['per']):.2f} points")


if __name__ == "__main__":
    main()
