"""Words of a long stream as the recogniser hears them: what was dropped, what was said twice, when a word ended."""
from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tools.evaluate.wer import words_of

_LONGEST = 12.0  # seconds that are recognised at once
_SHORTEST = 6.0
_WINDOW = 0.16  # seconds whose loudness makes a place to cut


class HeardWord(NamedTuple):
    text: str
    begin: float  # seconds
    end: float


class Pair(NamedTuple):
    """One column of an alignment: indices of the text and of what was heard; None: a gap."""

    expected: int | None
    heard: int | None


# ------------------------------------------------------------------ listening
def listen(recogniser, samples: np.ndarray, rate: int = 16_000) -> list[HeardWord]:
    """All words of a stream of any length, with their times.

    It is cut into pieces of 6 to 12 s where the sound is quietest, so that no piece depends on what the product says
    of its own words.
    """
    found: list[HeardWord] = []
    for begin, end in pieces(samples, rate):
        at = begin / rate
        found += [HeardWord(w, at + b, at + e) for text, b, e in recogniser.words(samples[begin:end])
                  for w in words_of(text)]
    return found


def pieces(samples: np.ndarray, rate: int = 16_000) -> list[tuple[int, int]]:
    """[begin, end) of pieces that tile the samples, cut at the quietest place of each piece's second half."""
    if len(samples) <= _LONGEST * rate:
        return [(0, len(samples))] if len(samples) else []
    hop = rate // 100
    energy = np.square(np.asarray(samples[: len(samples) // hop * hop], np.float64).reshape(-1, hop)).sum(1)
    window = np.ones(round(_WINDOW * 100))
    quiet = np.convolve(energy, window, "same")
    cuts, begin = [], 0
    while len(samples) - begin > _LONGEST * rate:
        low, high = (begin + round(s * rate) for s in (_SHORTEST, _LONGEST))
        begin = (low // hop + int(np.argmin(quiet[low // hop: high // hop]))) * hop
        cuts.append(begin)
    return list(zip([0, *cuts], [*cuts, len(samples)]))


# ------------------------------------------------------------------ comparing
def align(expected: Sequence[str], heard: Sequence[str]) -> list[Pair]:
    """The cheapest alignment (substitution, insertion and deletion cost 1), in order."""
    n, m = len(expected), len(heard)
    names = {w: i for i, w in enumerate({*expected, *heard})}
    a, b = (np.array([names[w] for w in words], np.int64) for words in (expected, heard))
    cost = np.zeros((n + 1, m + 1), np.int32)
    cost[0] = along = np.arange(m + 1)
    for i in range(1, n + 1):
        row = cost[i - 1] + 1  # deleted
        row[1:] = np.minimum(row[1:], cost[i - 1, :-1] + (b != a[i - 1]))
        cost[i] = np.minimum.accumulate(row - along) + along  # inserted
    pairs, i, j = [], n, m
    while i or j:
        if i and j and cost[i, j] == cost[i - 1, j - 1] + (a[i - 1] != b[j - 1]):
            i, j = i - 1, j - 1
            pairs.append(Pair(i, j))
        elif i and cost[i, j] == cost[i - 1, j] + 1:
            i -= 1
            pairs.append(Pair(i, None))
        else:
            j -= 1
            pairs.append(Pair(None, j))
    return pairs[::-1]


def dropped(pairs: Sequence[Pair]) -> list[int]:
    """Indices of expected words that nothing was heard for."""
    return [p.expected for p in pairs if p.heard is None]


def repeated(pairs: Sequence[Pair], heard: Sequence[str]) -> list[int]:
    """Indices of heard words that the text has not, and that say again what stands right before or after them.

    "the old the old man" has two. A word that was only misheard as another, or made of noise, is not among them.
    """
    found: list[int] = []
    runs: list[list[int]] = []
    for p, before in zip(pairs, [Pair(0, None), *pairs]):
        if p.expected is None:
            runs[-1].append(p.heard) if before.expected is None and runs else runs.append([p.heard])
    for run in runs:
        begin, stop = run[0], run[-1] + 1
        while begin < stop:
            length = next((n for n in range(stop - begin, 0, -1) if _said_again(heard, begin, n)), 0)
            found += range(begin, begin + length)
            begin += max(1, length)
    return found


def _said_again(heard: Sequence[str], begin: int, length: int) -> bool:
    block = list(heard[begin: begin + length])
    before = heard[begin - length: begin] if begin >= length else ()
    return block == list(before) or block == list(heard[begin + length: begin + 2 * length])


def errors_of(pairs: Sequence[Pair], expected: Sequence[str], heard: Sequence[str]) -> np.ndarray:
    """Errors by expected word, int (n,); an insertion counts to the word before it, the first ones to the first."""
    out, last = np.zeros(len(expected), int), 0
    for p in pairs:
        if p.expected is not None:
            last = p.expected
        if p.expected is None or p.heard is None or expected[p.expected] != heard[p.heard]:
            if len(out):
                out[last] += 1
    return out


class EndTimes(NamedTuple):
    """How word ends that are told differ from where the recogniser hears them, over words that both agree on."""

    words: int
    median: float  # seconds; + is told late
    absolute_median: float
    within_100_ms: float  # share


def end_times(pairs: Sequence[Pair], expected: Sequence[str], told: Sequence[float],
              heard: Sequence[HeardWord]) -> EndTimes:
    """``told``: seconds at which each expected word ends, NaN where that is not known."""
    late = np.array([told[p.expected] - heard[p.heard].end for p in pairs
                     if p.expected is not None and p.heard is not None and expected[p.expected] == heard[p.heard].text])
    late = late[np.isfinite(late)]
    if not len(late):
        return EndTimes(0, float("nan"), float("nan"), float("nan"))
    size = np.abs(late)
    return EndTimes(len(late), float(np.median(late)), float(np.median(size)), float((size < 0.1).mean()))
