"""Word error rate of any voice, heard by an independent recogniser.

    python -m tools.evaluate.wer --voice rms --sentences 100

measures the true voice: what the recogniser itself gets wrong. :func:`evaluate` measures anything that
turns text into speech.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from streamchar_rt.orchestrator import numbers

from tools.evaluate.distance import Edits, edit_distance
from tools.evaluate.recognise import SAMPLE_RATE, Recogniser
from tools.studio.sentences import evaluation_sentences

_DIGITS = re.compile(r"\d+")


def words_of(text: str) -> list[str]:
    """Text as it is compared: lower case, digits spelled, hyphens split, marks and the recogniser's noises dropped."""
    text = re.sub(r"<[^>]*>|\[[^\]]*\]|\+\+\w+\+\+|\(\d+\)", " ", text.lower().replace("’", "'"))
    text = _DIGITS.sub(lambda match: f" {' '.join(numbers.cardinal(int(match.group())))} ", text)
    return [word.strip("'") for word in re.findall(r"[a-z']+", text) if word.strip("'")]


def score(reference: str, hypothesis: str) -> tuple[Edits, int]:
    """(edits, number of reference words)."""
    expected = words_of(reference)
    return edit_distance(expected, words_of(hypothesis)), len(expected)


def evaluate(
    synth: Callable[[str], np.ndarray],
    sentences: Sequence[str],
    *,
    recogniser: Recogniser | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> dict:
    """Speak each sentence with ``synth`` (text → (n,) float in [-1, 1] or int16 at 16 kHz) and compare what is heard.

    Returns ``wer``, ``substitutions``, ``deletions``, ``insertions``, ``words``, ``seconds`` of speech,
    ``standard_error`` of the WER (over sentences) and ``utterances``: reference, hypothesis and errors of each.
    ``progress(done, total, wer)`` is called after each sentence.
    """
    recogniser = recogniser or Recogniser()
    utterances, totals, words, seconds = [], Edits(0, 0, 0), 0, 0.0
    for sentence in sentences:
        samples = np.asarray(synth(sentence))
        heard = recogniser(samples)
        edits, count = score(sentence, heard)
        totals = Edits(*(a + b for a, b in zip(totals, edits)))
        words += count
        seconds += len(samples) / SAMPLE_RATE
        utterances.append({"reference": sentence, "hypothesis": heard, "errors": edits.errors, "words": count})
        if progress is not None:
            progress(len(utterances), len(sentences), totals.errors / max(words, 1))
    rate = totals.errors / max(words, 1)
    # Errors in a sentence come together, so the sentence is the unit of the ratio estimator's variance.
    residuals = [u["errors"] - rate * u["words"] for u in utterances]
    deviation = float(np.sqrt(np.sum(np.square(residuals)))) / max(words, 1)
    return {
        "wer": rate, "standard_error": deviation, **totals._asdict(), "words": words, "sentences": len(utterances),
        "seconds": round(seconds, 2), "utterances": utterances,
    }  # fmt: skip


def main() -> None:
    from tools.studio.speech import VOICE_NAMES, synthesize

    parser = argparse.ArgumentParser(
        prog="python -m tools.evaluate.wer", description="Word error rate of the true voice."
    )
    parser.add_argument("--voice", default="rms", choices=VOICE_NAMES)
    parser.add_argument("--sentences", type=int, default=100)
    parser.add_argument("--json", action="store_true", help="print the whole result as JSON")
    arguments = parser.parse_args()
    started = time.monotonic()

    def report(done: int, total: int, rate: float) -> None:
        left = (time.monotonic() - started) / done * (total - done)
        print(f"\r{done}/{total} WER {rate:.1%}, {left:.0f} s left ", end="", file=sys.stderr, flush=True)

    speak = partial(synthesize, voice=arguments.voice)
    result = evaluate(lambda text: speak(text).samples, evaluation_sentences()[: arguments.sentences], progress=report)
    print(file=sys.stderr)
    if arguments.json:
        print(json.dumps(result, indent=1))
        return
    counts = "{substitutions} substituted, {deletions} deleted, {insertions} inserted".format_map(result)
    print(
        f"{arguments.voice}: WER {result['wer']:.2%} ± {result['standard_error']:.2%} on "
        f"{result['sentences']} sentences, {result['words']} words ({counts}), {result['seconds']:.0f} s of speech"
    )


if __name__ == "__main__":
    main()
