"""How well the product is understood, beside the true voice that it learnt from.

    python -m tools.evaluate.speech --bundle mini --voice rms --sentences 100

Both say the same sentences, which no training text holds, to the same recogniser.
"""
from __future__ import annotations

import argparse
import json
import sys

import numpy as np

from streamchar_rt import Engine
from tools.evaluate.recognise import Recogniser
from tools.evaluate.wer import evaluate
from tools.studio.sentences import evaluation_sentences
from tools.studio.speech import VOICE_NAMES, synthesize


def speak(engine: Engine, voice: str, text: str, *, seed: int = 0, steps: int | None = None) -> np.ndarray:
    """The product's speech for a text, float32 samples at 16 kHz: a fresh session says it as one turn."""
    character = engine.character(engine.characters()[0], voice=voice)
    with engine.session(character, seed=seed, steps=steps) as session:
        session.say(text)
        return np.concatenate([chunk.audio.copy() for chunk in session.turn()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", default="mini", help="a shipped model's name or a bundle's folder")
    parser.add_argument("--voice", default="rms", choices=VOICE_NAMES)
    parser.add_argument("--sentences", type=int, default=100)
    parser.add_argument("--steps", type=int, help="denoising steps; default the bundle's")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    args = parser.parse_args()
    sentences = evaluation_sentences()[: args.sentences]
    recogniser = Recogniser()

    def report(done: int, total: int, rate: float) -> None:
        print(f"\r{done}/{total} WER {rate:.1%} ", end="" if done < total else "\n", file=sys.stderr, flush=True)

    truth = evaluate(lambda s: synthesize(s, args.voice).samples, sentences, recogniser=recogniser, progress=report)
    with Engine.load(args.bundle) as engine:
        product = evaluate(lambda s: speak(engine, args.voice, s, seed=args.seed, steps=args.steps), sentences,
                           recogniser=recogniser, progress=report)
    if args.json:
        print(json.dumps({"voice": args.voice, "truth": truth, "product": product}, default=str))
        return
    for name, result in (("true voice", truth), ("product", product)):
        print(f"{args.voice} {name}: WER {100 * result['wer']:.2f} % +- {100 * result['standard_error']:.2f} "
              f"({len(sentences)} sentences)")
    print(f"rise: {100 * (product['wer'] - truth['wer']):.2f} points")


if __name__ == "__main__":
    main()
